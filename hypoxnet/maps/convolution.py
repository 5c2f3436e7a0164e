"""An input curve convolved with decaying exponentials, exactly for an input that is linear between its points.

Every linear compartment model of PET and of contrast-enhanced MRI is a sum of such convolutions. The recursion over
time gives the response and its derivative with respect to the rate in one sweep, at any spacing of the times.

Axis legend: R rates, M points of the internal time grid, F frames or sampling times, N voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this rate x step, the quotients of the recursion are taken from their series: they lose digits to cancellation.
SERIES_BELOW = 0.3
SERIES_TERMS = 9


class Convolution:
    """Convolves one input curve with exp(-k t), k given per voxel.

    Args:
        times: M, increasing, in the unit of 1/k; the input is 0 before the first.
        input_curve: M, the input at these times.
        rectangle: Sum the samples as weights instead of integrating between them: how programs convolve that multiply
            a discrete convolution with the sampling interval. Only to read what these have made.
    """

    def __init__(self, times: Tensor, input_curve: Tensor, *, rectangle: bool = False) -> None:
        self.times = times
        self.input_curve = input_curve
        self.rectangle = rectangle
        steps = [float(step) for step in torch.diff(times.double())]
        # Equal steps share their exponentials, up to the rounding of the times.
        resolution = max(steps) * 1e-6 if steps else 1.0
        self.kind = [round(step / resolution) for step in steps]
        self.steps = dict(zip(self.kind, steps, strict=True))
        self.samples = [float(value) for value in input_curve.double()]

    def __call__(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Response M x N and its derivative with respect to the rates, for rates N."""
        count = len(self.samples)
        response = rates.new_zeros(count, len(rates))
        slope = rates.new_zeros(count, len(rates))
        if self.rectangle:
            self._sum(rates, response, slope)
            return response, slope
        weights = {kind: _step_weights(rates, step) for kind, step in self.steps.items()}
        rows, slopes = response.unbind(0), slope.unbind(0)
        for i, kind in enumerate(self.kind):
            decay, decay_slope, before, before_slope, after, after_slope = weights[kind]
            c0, c1 = self.samples[i], self.samples[i + 1]
            torch.mul(decay, rows[i], out=rows[i + 1])
            torch.mul(decay, slopes[i], out=slopes[i + 1])
            slopes[i + 1].addcmul_(decay_slope, rows[i])
            if c0:
                rows[i + 1].add_(before, alpha=c0)
                slopes[i + 1].add_(before_slope, alpha=c0)
            if c1:
                rows[i + 1].add_(after, alpha=c1)
                slopes[i + 1].add_(after_slope, alpha=c1)
        return response, slope

    def _sum(self, rates: Tensor, response: Tensor, slope: Tensor) -> None:
        step = next(iter(self.steps.values()))
        decay = torch.exp(-rates * step)
        response[0] = self.samples[0] * step
        for i, sample in enumerate(self.samples[1:]):
            torch.mul(decay, response[i], out=response[i + 1])
            torch.mul(decay, slope[i] - step * response[i], out=slope[i + 1])
            response[i + 1] += sample * step


def _step_weights(rates: Tensor, step: float) -> tuple[Tensor, ...]:
    """Of one step h: exp(-kh), and the weights of the input at its begin and end, each with its derivative by k.

    With x = kh: phi1 = (1 - exp(-x)) / x, phi2 = (1 - phi1) / x; the input at the begin weighs h (phi1 - phi2), at the
    end h phi2.
    """
    x = rates * step
    decay = torch.exp(-x)
    small = x < SERIES_BELOW
    safe = torch.where(small, torch.ones_like(x), x)
    phi1, phi2, d1, d2 = _series(torch.where(small, x, torch.zeros_like(x)))
    exact1 = (1 - decay) / safe
    exact2 = (1 - exact1) / safe
    exact_d1 = (decay - exact1) / safe
    exact_d2 = (-exact_d1 - exact2) / safe
    phi1, phi2 = torch.where(small, phi1, exact1), torch.where(small, phi2, exact2)
    d1, d2 = torch.where(small, d1, exact_d1), torch.where(small, d2, exact_d2)
    return (
        decay,
        -step * decay,
        step * (phi1 - phi2),
        step**2 * (d1 - d2),
        step * phi2,
        step**2 * d2,
    )


def _series(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """phi1, phi2 and their derivatives from phi_n(x) = sum (-x)^j / (j + n)!."""
    phi1, phi2, d1, d2 = (torch.zeros_like(x) for _ in range(4))
    power, factorial = torch.ones_like(x), 1.0
    previous = torch.zeros_like(x)
    for j in range(SERIES_TERMS):
        factorial *= j + 1
        phi1 += power / factorial
        phi2 += power / (factorial * (j + 2))
        if j:
            d1 -= j * previous / factorial
            d2 -= j * previous / (factorial * (j + 2))
        previous, power = power, -power * x
    return phi1, phi2, d1, d2


def running_integral(times: Tensor, curve: Tensor) -> Tensor:
    """Trapezoid integral of a curve (M or M x N) from its first time on.

    Example:
        >>> running_integral(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 2.0, 2.0])).tolist()
        [0.0, 1.0, 5.0]
    """
    steps = torch.diff(times)
    if curve.ndim > 1:
        steps = steps[:, None]
    pieces = 0.5 * (curve[1:] + curve[:-1]) * steps
    return torch.cat([torch.zeros_like(curve[:1]), torch.cumsum(pieces, 0)])


class Readout:
    """What a scanner makes of a response on the internal grid: values at times, or means over frames.

    Args:
        grid: M times of the internal grid; begin and end of each frame must be among them.
        starts: F, begins of the frames; or the sampling times when `ends` is None.
        ends: F, ends of the frames.
    """

    def __init__(self, grid: Tensor, starts: Tensor, ends: Tensor | None = None) -> None:
        self.first = torch.searchsorted(grid, starts - 1e-9 * grid[-1].abs())
        self.is_identity = ends is None and len(starts) == len(grid)
        self.mean: Tensor | None = None
        if ends is not None:
            last = torch.searchsorted(grid, ends - 1e-9 * grid[-1].abs())
            self.mean, self.bend = _mean_weights(grid, self.first, last)

    def __call__(self, response: Tensor, derivative: Tensor) -> Tensor:
        """F x N from M x N values and their derivatives by time (used for means only)."""
        if self.is_identity:
            return response
        if self.mean is None:
            return response[self.first]
        return self.mean.to(response) @ response + self.bend.to(response) @ derivative


def _mean_weights(grid: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Weights, F x M, of values and of derivatives by time: the trapezoid rule with its end correction."""
    steps = torch.diff(grid.double())
    mean = torch.zeros(len(first), len(grid), dtype=torch.float64)
    bend = torch.zeros_like(mean)
    for frame, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        duration = float(grid[b] - grid[a])
        for i in range(a, b):
            h = float(steps[i])
            mean[frame, i] += h / (2 * duration)
            mean[frame, i + 1] += h / (2 * duration)
            bend[frame, i] += h**2 / (12 * duration)
            bend[frame, i + 1] -= h**2 / (12 * duration)
    return mean, bend
