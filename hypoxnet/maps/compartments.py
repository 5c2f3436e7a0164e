"""Linear compartment models: sums of exponentials convolved with an input, plus a share of blood.

PET kinetics and contrast-enhanced MRI differ in the names of their constants only; both rooms build on this one.

Axis legend: P parameters, R exponentials, M internal times, F frames or sampling times, N voxels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.convolution import Convolution, Readout, running_integral
from hypoxnet.maps.derivatives import forward_jacobian
from hypoxnet.maps.fitting import Parameter
from hypoxnet.maps.small_matrices import solve


class CompartmentModel(ABC):
    """A linear compartment model fitted to one input.

    Args:
        timing: When the tissue was measured.
        plasma: Input to the tissue at `timing.grid`.
        blood: What the vessels in a voxel add, at `timing.grid`; the plasma curve when None.
        parameters: The unknowns with their bounds; the model's own when None.
        delay: Fit the arrival time too, as the last parameter; takes sampling times, not frames.
        rectangle: See `Convolution`.
    """

    unknowns: tuple[Parameter, ...]
    exponentials: int

    def __init__(
        self,
        timing: Timing,
        plasma: Tensor,
        *,
        blood: Tensor | None = None,
        parameters: tuple[Parameter, ...] | None = None,
        delay: Parameter | None = None,
        rectangle: bool = False,
    ) -> None:
        if len(plasma) != len(timing.grid):
            raise MapError(
                f"the input has {len(plasma)} values, its time grid {len(timing.grid)}; give one value per time"
            )
        self.timing = timing
        self.plasma = plasma
        self.blood = plasma if blood is None else blood
        self.model_parameters = parameters or self.unknowns
        self.delay = delay
        if delay is not None and timing.ends is not None:
            raise MapError("a delay per voxel needs sampling times, frames were given; shift the input instead")
        self.convolution = Convolution(timing.grid, plasma, rectangle=rectangle)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The unknowns, the delay last."""
        return self.model_parameters if self.delay is None else (*self.model_parameters, self.delay)

    @property
    def samples(self) -> int:
        """Number of sampling times or frames."""
        return len(self.timing.starts)

    @abstractmethod
    def kinetics(self, values: Tensor) -> Tensor:
        """Amplitudes, rates and share of blood, stacked as (2R + 1) x N, from parameters P x N."""

    def kinetics_jacobian(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """`kinetics` and its Jacobian P x (2R + 1) x N; by forward mode unless a model knows better."""
        return forward_jacobian(self.kinetics, values)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal F x N and Jacobian P x F x N."""
        own = len(self.model_parameters)
        stacked, chain = self.kinetics_jacobian(values[:own])
        curves = [self._read(rate) for rate in stacked[self.exponentials : -1]]
        blood = self.blood if self.delay is not None else self.timing.read_input(self.blood)
        signal, jacobian = _assemble(curves, blood.to(stacked)[:, None], stacked, chain)
        if self.delay is None:
            return signal, torch.stack(jacobian)
        # The response to a later input is the later response: every curve is read at t - delay.
        starts = self.timing.starts.to(stacked)[:, None]
        place = _Place.at(self.timing.grid.to(stacked), starts - values[own])
        return place.read(signal), torch.stack([*map(place.read, jacobian), -place.slope(signal)])

    def _read(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """The response to one exponential and its derivative by the rate, as the scanner reads them."""
        response, slope = self.convolution(rate)
        if self.delay is not None:
            return response, slope
        if self.timing.ends is None:
            return self.timing.readout(response, response), self.timing.readout(slope, slope)
        plasma = self.plasma.to(rate)[:, None]
        read = self.timing.readout(response, plasma - rate * response)
        return read, self.timing.readout(slope, -response - rate * slope)

    @abstractmethod
    def linear_start(self, columns: LinearColumns) -> Tensor:
        """Parameters P x N from sums of integrals."""

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """Linear fit; with a delay, at the best of a few shifts of the input."""
        if self.delay is None:
            return self.linear_start(LinearColumns(self.timing, self.plasma, signal))
        best = signal.new_full((len(self.parameters), signal.shape[1]), float("nan"))
        lowest = signal.new_full((signal.shape[1],), float("inf"))
        for shift in torch.linspace(self.delay.low, self.delay.high, DELAY_STARTS).tolist():
            columns = LinearColumns(self.timing, shifted(self.timing.grid, self.plasma, shift), signal)
            values = self.linear_start(columns)
            fallback = signal.new_tensor([p.start for p in self.model_parameters])[:, None]
            low = signal.new_tensor([p.low for p in self.model_parameters])[:, None]
            high = signal.new_tensor([p.high for p in self.model_parameters])[:, None]
            values = torch.where(torch.isfinite(values), values, fallback).clamp(low, high).to(signal.dtype)
            values = torch.cat([values, torch.full_like(values[:1], shift)])
            cost = ((self.evaluate(values, known)[0] - signal) ** 2).sum(0)
            better = cost < lowest
            best, lowest = torch.where(better, values, best), torch.where(better, cost, lowest)
        return best


def _assemble(
    curves: list[tuple[Tensor, Tensor]], blood: Tensor, stacked: Tensor, chain: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Signal, and its rows of the Jacobian, from responses, amplitudes and the chain to the model's parameters."""
    count = len(curves)
    signal = stacked[-1] * blood
    jacobian = [row[-1] * blood for row in chain]
    for r, (response, slope) in enumerate(curves):
        signal = torch.addcmul(signal, stacked[r], response)
        for p, row in enumerate(chain):
            jacobian[p] = torch.addcmul(jacobian[p], row[r], response)
            jacobian[p] = torch.addcmul(jacobian[p], row[count + r] * stacked[r], slope)
    return signal, jacobian


# Shifts of the input at which a linear fit is tried, before the delay is fitted from the best of them.
DELAY_STARTS = 7


@dataclass(frozen=True, slots=True)
class _Place:
    """Where values are read between the points of a grid, linearly; zero before its first point."""

    index: Tensor
    share: Tensor
    width: Tensor
    inside: Tensor

    @classmethod
    def at(cls, grid: Tensor, times: Tensor) -> _Place:
        index = torch.searchsorted(grid, times.contiguous(), right=True).clamp(1, len(grid) - 1) - 1
        width = (grid[1:] - grid[:-1])[index]
        share = (times - grid[index]) / width
        return cls(index, share.clamp(0, 1), width, (times >= grid[0]).to(times.dtype))

    def read(self, curve: Tensor) -> Tensor:
        before, after = torch.gather(curve, 0, self.index), torch.gather(curve, 0, self.index + 1)
        return torch.lerp(before, after, self.share) * self.inside

    def slope(self, curve: Tensor) -> Tensor:
        before, after = torch.gather(curve, 0, self.index), torch.gather(curve, 0, self.index + 1)
        return (after - before) / self.width * self.inside


def shifted(grid: Tensor, curve: Tensor, delay: float) -> Tensor:
    """A curve that arrives `delay` later (earlier when negative), linear between its points; 0 before its begin.

    Example:
        >>> shifted(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 4.0, 2.0]), 0.5).tolist()
        [0.0, 2.0, 3.0]
    """
    return _Place.at(grid, (grid - delay)[:, None]).read(curve[:, None])[:, 0]


class Timing:
    """When the input and the tissue were measured, on one internal grid.

    Args:
        grid: M, increasing: the internal grid, where the input is given.
        starts: F, sampling times, or begins of frames; each on the grid.
        ends: F, ends of frames; None for samples.
    """

    def __init__(self, grid: Tensor, starts: Tensor, ends: Tensor | None = None) -> None:
        self.grid = grid
        self.starts = starts
        self.ends = ends
        self.readout = Readout(grid, starts, ends)

    @property
    def middles(self) -> Tensor:
        """Sampling times, or middles of the frames."""
        return self.starts if self.ends is None else 0.5 * (self.starts + self.ends)

    def read_input(self, curve: Tensor) -> Tensor:
        """A curve on the grid as the scanner reads it: linear between the points, so without end correction."""
        return self.readout(curve[:, None], torch.zeros_like(curve[:, None]))[:, 0]


class LinearColumns:
    """Integrals of input and tissue from which constants of a compartment model follow by linear least squares.

    Args:
        timing: When the tissue was measured.
        plasma: Input on the internal grid.
        signal: F x N.

    Source:
        Murase 2004, Magn Reson Med 51:858 (Tofts models); Flouri et al. 2016, Magn Reson Med 76:998 (exchange models).
    """

    def __init__(self, timing: Timing, plasma: Tensor, signal: Tensor) -> None:
        times = timing.middles.double().to(signal.device)
        grid = timing.grid.double().to(signal.device)
        once = running_integral(grid, plasma.double().to(signal.device))
        twice = running_integral(grid, once)
        self.signal = signal.double()
        self.input = _at(times, grid, plasma.double().to(signal.device))
        self.input_once = _at(times, grid, once)
        self.input_twice = _at(times, grid, twice)
        lead = times[:1] - grid[:1]
        padded = torch.cat([times[:1] - lead.clamp(min=0), times])
        whole = torch.cat([torch.zeros_like(self.signal[:1]), self.signal])
        self.signal_once = running_integral(padded, whole)[1:]
        self.signal_twice = running_integral(padded, torch.cat([torch.zeros_like(self.signal[:1]), self.signal_once]))[
            1:
        ]

    def solve(self, *columns: Tensor) -> Tensor:
        """Coefficients, number of columns x N, of the columns (F or F x N) that add up to the signal."""
        wide = [c if c.ndim > 1 else c[:, None].expand_as(self.signal) for c in columns]
        size = len(wide)
        matrix = self.signal.new_empty(size, size, self.signal.shape[1])
        right = torch.stack([(column * self.signal).sum(0) for column in wide])
        for row in range(size):
            for column in range(row + 1):
                matrix[row, column] = matrix[column, row] = (wide[row] * wide[column]).sum(0)
        return solve(matrix, right)


def _at(times: Tensor, grid: Tensor, curve: Tensor) -> Tensor:
    return _Place.at(grid, times[:, None]).read(curve[:, None])[:, 0]
