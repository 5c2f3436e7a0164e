"""Diffusion: apparent diffusion coefficient, and intravoxel incoherent motion.

b-values in s/mm2, diffusion coefficients in 1e-3 mm2/s. Axis legend: T b-values, N voxels (or any shape after T).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import FitResult, Parameter, Progress, fit
from hypoxnet.maps.linear import Line, log_line, map_lines

# 1e-3 mm2/s times s/mm2.
MILLI = 1e-3
# From here on the signal of flowing blood is gone.
PERFUSION_FREE_B = 200.0
HIGHEST_ADC = 10.0


def check_b_values(signal: Tensor, b_values: Tensor, *, least: int) -> None:
    """Refuse b-values that are too few, negative, or not one per volume.

    Raises:
        MapError: As named.
    """
    if len(signal) != len(b_values):
        raise MapError(f"there are {len(signal)} volumes and {len(b_values)} b-values; give one b-value per volume")
    if len(torch.unique(b_values)) < least:
        raise MapError(f"there are {len(torch.unique(b_values))} different b-values, {least} are needed")
    # Written so that nan is refused too.
    if not (float(b_values.min()) >= 0 and float(b_values.max()) >= 10):
        raise MapError(
            f"b-values of {float(b_values.min()):g} to {float(b_values.max()):g}; none is negative, and they are in "
            "s/mm2 (50 to 3000)"
        )


def adc_two_point(low: Tensor, high: Tensor, *, b_low: float, b_high: float) -> Tensor:
    """ADC from two b-values, 1e-3 mm2/s; nan where a signal is not positive or does not fall.

    Example:
        >>> round(adc_two_point(torch.tensor(1.0), torch.tensor(0.37437), b_low=0, b_high=1000).item(), 5)
        0.98251
    """
    if b_high <= b_low:
        raise MapError(f"the b-values are {b_low:g} and {b_high:g}, the second must be larger; exchange the volumes")
    adc = torch.log(low / high) / ((b_high - b_low) * MILLI)
    return torch.where((low > 0) & (high > 0) & (adc >= 0) & (adc <= HIGHEST_ADC), adc, float("nan"))


def adc_log_linear(
    signal: Tensor,
    b_values: Tensor,
    *,
    weighted: bool = True,
    noise_sd: float = 0.0,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """ADC by a line through the logarithm of the signal.

    Args:
        signal: T x voxels.
        b_values: T, s/mm2.
        weighted: By the squared signal, which the noise of the logarithm asks for.
        noise_sd: Samples below three times this are left out.
        mask: Voxels to fit.
        progress: Called with voxels done and all voxels.

    Returns:
        `adc` in 1e-3 mm2/s and `s0`.

    Raises:
        MapError: b-values are unusable.

    Source:
        Le Bihan et al. 1986, Radiology 161:401; weights: Salvador et al. 2005, Hum Brain Mapp 24:144.
    """
    check_b_values(signal, b_values, least=2)
    scaled = b_values.double() * MILLI

    def work(samples: Tensor, part: slice) -> dict[str, Tensor]:
        found = log_line(samples, scaled.to(samples.device), weighted=weighted, floor=3.0 * noise_sd)
        return _as_adc(found)

    return map_lines(work, signal, mask=mask, names=("adc", "s0"), done=progress)


def _as_adc(found: Line) -> dict[str, Tensor]:
    adc = -found.slope
    return {
        "adc": torch.where((adc >= 0) & (adc <= HIGHEST_ADC), adc, float("nan")),
        "s0": torch.exp(found.intercept),
        **found.scatter(),
    }


class MonoExponential:
    """S = S0 exp(-b ADC).

    Args:
        b_values: T, s/mm2.
    """

    parameters = (Parameter("adc", "1e-3 mm2/s", 0.0, HIGHEST_ADC, 1.0), Parameter("s0", "a.u.", 0.0, math.inf, 1.0))

    def __init__(self, b_values: Tensor) -> None:
        self.b = b_values.double() * MILLI

    @property
    def samples(self) -> int:
        """Number of b-values."""
        return len(self.b)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal, and its derivatives by ADC and S0."""
        adc, s0 = values
        b = self.b.to(values)[:, None]
        unit = torch.exp(-b * adc)
        return s0 * unit, torch.stack([-s0 * b * unit, unit])

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The weighted log-linear fit."""
        found = log_line(signal, self.b.to(signal.device), weighted=True)
        return torch.stack([-found.slope, torch.exp(found.intercept)])


def adc_nonlinear(
    signal: Tensor, b_values: Tensor, *, mask: Tensor | None = None, progress: Progress | None = None
) -> FitResult:
    """ADC (1e-3 mm2/s) and S0 by least squares on the signal itself."""
    check_b_values(signal, b_values, least=2)
    return fit(MonoExponential(b_values), signal, mask=mask, progress=progress)


class IntravoxelIncoherentMotion:
    """S = S0 (f exp(-b D*) + (1 - f) exp(-b D)); D* is at least 3, so that the two hardly change places.

    Args:
        b_values: T, s/mm2.

    Source:
        Le Bihan et al. 1988, Radiology 168:497.
    """

    parameters = (
        Parameter("d", "1e-3 mm2/s", 0.0, 5.0, 1.0),
        Parameter("f", "1", 0.0, 0.7, 0.1),
        Parameter("d_star", "1e-3 mm2/s", 3.0, 150.0, 20.0),
        Parameter("s0", "a.u.", 0.0, math.inf, 1.0),
    )

    def __init__(self, b_values: Tensor) -> None:
        self.b = b_values.double() * MILLI

    @property
    def samples(self) -> int:
        """Number of b-values."""
        return len(self.b)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal, and its derivatives by D, f, D* and S0."""
        d, f, d_star, s0 = values
        b = self.b.to(values)[:, None]
        slow, fast = torch.exp(-b * d), torch.exp(-b * d_star)
        unit = f * fast + (1 - f) * slow
        rows = [-s0 * (1 - f) * b * slow, s0 * (fast - slow), -s0 * f * b * fast, unit]
        return s0 * unit, torch.stack(rows)

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The segmented fit, with the best of three D*."""
        d, f, s0 = _segments(signal, self.b)
        best = torch.stack([d, f, torch.full_like(d, 20.0), s0])
        lowest = torch.full_like(d, math.inf)
        for d_star in (8.0, 20.0, 60.0):
            tried = torch.stack([d, f, torch.full_like(d, d_star), s0])
            cost = ((self.evaluate(tried, known)[0] - signal) ** 2).sum(0)
            best = torch.where(cost < lowest, tried, best)
            lowest = torch.minimum(cost, lowest)
        return best


def _segments(signal: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D and f from the line through b >= 200 and the signal at the smallest b."""
    far = b >= PERFUSION_FREE_B * MILLI - 1e-9
    found = log_line(signal[far], b[far].to(signal.device), weighted=True)
    s0 = signal[int(torch.argmin(b))]
    f = 1 - torch.exp(found.intercept) / s0
    return (-found.slope).clamp(0, 5), f.clamp(0, 0.7), s0


class PseudoDiffusion:
    """D* alone, with D, f and S0 known: the last step of the segmented fit."""

    parameters = (IntravoxelIncoherentMotion.parameters[2],)

    def __init__(self, b_values: Tensor) -> None:
        self.whole = IntravoxelIncoherentMotion(b_values)

    @property
    def samples(self) -> int:
        """Number of b-values."""
        return self.whole.samples

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal, and its derivative by D*."""
        d, f, s0 = known
        signal, rows = self.whole.evaluate(torch.stack([d, f, values[0], s0]), known)
        return signal, rows[2:3]

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The best of three."""
        costs = []
        tried = (8.0, 20.0, 60.0)
        for d_star in tried:
            fitted = self.evaluate(torch.full_like(signal[:1], d_star), known)[0]
            costs.append(((fitted - signal) ** 2).sum(0))
        return signal.new_tensor(tried)[torch.stack(costs).argmin(0)][None]


def ivim(
    signal: Tensor,
    b_values: Tensor,
    *,
    segmented: bool = True,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Diffusion D, perfusion fraction f and pseudo-diffusion D*.

    Args:
        signal: T x voxels.
        b_values: T, s/mm2; segmented fits need b = 0 or so, two between, and two from 200 on.
        segmented: D from b >= 200, f from its intercept, D* last with both fixed; else all at once. D* repeats poorly
            either way.
        mask: Voxels to fit.
        progress: Called with voxels done and all voxels.

    Returns:
        `d` and `d_star` in 1e-3 mm2/s, `f`, `s0`.

    Raises:
        MapError: Too few b-values below or above 200 s/mm2.
    """
    check_b_values(signal, b_values, least=4)
    far = int((torch.unique(b_values) >= PERFUSION_FREE_B).sum())
    near = len(torch.unique(b_values)) - far
    if far < 2 or near < 2 or float(b_values.min()) > 20:
        raise MapError(
            f"IVIM needs b = 0, one more below and two from {PERFUSION_FREE_B:g} s/mm2 on; there are {near} below and "
            f"{far} above, the smallest {float(b_values.min()):g}; choose an ADC instead"
        )
    if not segmented:
        return fit(IntravoxelIncoherentMotion(b_values), signal, mask=mask, progress=progress)
    first = map_lines(
        lambda samples, _: dict(zip(("d", "f", "s0"), _segments(samples, b_values.double() * MILLI), strict=True)),
        signal,
        mask=mask,
        names=("d", "f", "s0"),
    )
    known = torch.stack([first.values[name] for name in ("d", "f", "s0")])
    last = fit(PseudoDiffusion(b_values), signal, known=known, mask=mask, progress=progress)
    fitted = torch.isfinite(last.values["d_star"])
    d, f, s0 = torch.where(fitted, known, math.nan)
    values = {"d": d, "f": f, **last.values, "s0": s0}
    nothing = {name: torch.full_like(last.residual, math.nan) for name in ("d", "f")}
    return FitResult(values, {**nothing, **last.errors}, last.residual, last.r2, last.status)
