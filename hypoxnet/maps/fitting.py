"""One fitting engine: Levenberg-Marquardt with bounds for all voxels at once, each with its own damping.

Axis legend: P parameters, E known values per voxel (B1, T1 ...), T samples, N voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.blocks import cpu_workers, each_block, voxels_per_block
from hypoxnet.maps.small_matrices import diagonal, inverse_diagonal
from hypoxnet.maps.voxel_state import VoxelState, sums_of_products, without_held

# Fewer voxels are one block: two would pay twice for starting each operation.
SPLIT_FROM = 20_000

Progress = Callable[[int, int], None]


class Status(IntEnum):
    """What became of a voxel."""

    OUTSIDE = 0
    CONVERGED = 1
    AT_BOUND = 2
    NO_SIGNAL = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Parameter:
    """One unknown of a model.

    Args:
        name: As in the maps, for example `ktrans`.
        unit: Its unit.
        low: Lower bound.
        high: Upper bound; the parameter is fixed where both are equal.
        start: Where a fit begins when the linear start is unusable.
    """

    name: str
    unit: str
    low: float
    high: float
    start: float

    def __post_init__(self) -> None:
        if not self.low <= self.start <= self.high:
            raise MapError(f"{self.name} starts at {self.start:g}, its bounds are {self.low:g} to {self.high:g}")

    @property
    def is_fixed(self) -> bool:
        """True when the bounds leave it no room."""
        return self.low == self.high

    def fixed_at(self, value: float) -> Parameter:
        """The same parameter, known."""
        return Parameter(self.name, self.unit, value, value, value)

    def between(self, low: float, high: float) -> Parameter:
        """The same parameter with other bounds."""
        return Parameter(self.name, self.unit, low, high, min(max(self.start, low), high))


class SignalModel(Protocol):
    """What the engine needs to know of a model."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The unknowns, in order."""

    @property
    def samples(self) -> int:
        """Number of samples T."""

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal T x N and its Jacobian P x T x N at parameters P x N, known values E x N."""

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """Parameters P x N to begin with, from a linear fit; nan where it has none."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """When to stop.

    Args:
        iterations: At most so many.
        tolerance: Relative; of a step, of the fall of the residual, and of the cosine between residual and Jacobian.
            0 takes 1e-4 in float32 and 1e-8 in float64.
    """

    iterations: int = 60
    tolerance: float = 0.0

    def tolerance_for(self, dtype: torch.dtype) -> float:
        """The tolerance, with its default by precision."""
        return self.tolerance or (1e-4 if dtype == torch.float32 else 1e-8)


@dataclass(frozen=True, slots=True)
class FitResult:
    """Parameters of every voxel; nan wherever `status` is neither converged nor at a bound.

    Args:
        values: Name to map, in the parameter's unit.
        errors: Name to standard error from the curvature at the solution; nan for a parameter at its bound.
        residual: Root mean square residual with T - P degrees of freedom, in the unit of the signal.
        r2: Share of the signal's variance that the model explains.
        status: `Status` codes, uint8.
    """

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    residual: Tensor
    r2: Tensor
    status: Tensor

    def counts(self) -> dict[str, int]:
        """Voxels by status, those outside the mask left out.

        Example:
            >>> empty = torch.zeros(2)
            >>> FitResult({}, {}, empty, empty, torch.tensor([1, 4], dtype=torch.uint8)).counts()
            {'converged': 1, 'at_bound': 0, 'no_signal': 0, 'failed': 1}
        """
        return {s.name.lower(): int((self.status == s).sum()) for s in Status if s is not Status.OUTSIDE}


def fit(
    model: SignalModel,
    signal: Tensor,
    *,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    options: FitOptions | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Least-squares parameters of every voxel.

    Args:
        model: The model; its bounds hold.
        signal: T x voxels of any shape, float32 or float64; where it lies is where the fit runs.
        known: E x voxels, what the model takes as given.
        mask: Voxels to fit; all when None.
        weights: T, relative inverse variances; 1 when None.
        options: When to stop.
        progress: Called with voxels done and all voxels.

    Raises:
        MapError: The number of samples or the shape of `known` or `mask` does not fit.

    Source:
        Levenberg 1944 and Marquardt 1963 with the damping of Nielsen 1999 (IMM-REP-1999-05); bounds by projection
        with an active set (Kelley, Iterative Methods for Optimization, 1999, chapter 5).
    """
    shape = signal.shape[1:]
    _check(model, signal, known, mask, weights)
    flat = signal.reshape(len(signal), -1)
    given = known.flatten(1) if known is not None else flat.new_empty(0, flat.shape[1])
    out = _Output.empty(len(model.parameters), flat)
    usable, status = usable_voxels(flat, given, mask)
    out.status.copy_(status)
    chosen = torch.nonzero(usable)[:, 0]
    problem = _Problem(model, weights, options or FitOptions())

    def work(index: Tensor) -> None:
        whole = len(index) == flat.shape[1]
        solved = problem.solve(flat if whole else flat[:, index], given if whole else given[:, index])
        out.put(index, solved)

    size = voxels_per_block(_bytes_per_voxel(model, signal), signal.device, workers=cpu_workers())
    if signal.device.type == "cpu" and len(chosen) >= SPLIT_FROM:
        size = min(size, -(-len(chosen) // cpu_workers()))
    each_block(work, chosen, size=size, done=progress)
    names = [parameter.name for parameter in model.parameters]
    return FitResult(
        {name: out.values[i].reshape(shape) for i, name in enumerate(names)},
        {name: out.errors[i].reshape(shape) for i, name in enumerate(names)},
        out.residual.reshape(shape),
        out.r2.reshape(shape),
        out.status.reshape(shape),
    )


def usable_voxels(signal: Tensor, known: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which of the voxels T x N can be fitted, and the status of the others."""
    inside = torch.ones(signal.shape[1], dtype=torch.bool, device=signal.device)
    if mask is not None:
        inside = mask.reshape(-1).to(device=signal.device, dtype=torch.bool)
    total = signal.abs().sum(0)  # nan and infinity come through a sum: one sweep finds them all
    finite = torch.isfinite(total) & torch.isfinite(known).all(0)
    usable = inside & finite & (total > 0)
    status = torch.full_like(inside, int(Status.OUTSIDE), dtype=torch.uint8)
    status[inside & ~usable] = int(Status.NO_SIGNAL)
    status[usable] = int(Status.FAILED)
    return usable, status


def _check(
    model: SignalModel, signal: Tensor, known: Tensor | None, mask: Tensor | None, weights: Tensor | None
) -> None:
    if signal.ndim < 2 or len(signal) != model.samples:
        raise MapError(
            f"the series has {len(signal) if signal.ndim > 1 else 1} volumes, its timing names {model.samples} "
            "samples; give one volume per sample"
        )
    if not signal.is_floating_point():
        raise MapError(f"the series holds {signal.dtype}, a fit needs float32 or float64; convert it")
    for name, other in (("mask", mask), ("known map", known[0] if known is not None and len(known) else None)):
        if other is not None and other.shape != signal.shape[1:]:
            raise MapError(
                f"the {name} has {' x '.join(map(str, other.shape))} voxels, the series "
                f"{' x '.join(map(str, signal.shape[1:]))}; resample the {name} onto the series"
            )
    if weights is not None and weights.shape != signal.shape[:1]:
        raise MapError(f"there are {len(weights)} weights for {len(signal)} samples; give one per sample")


def _bytes_per_voxel(model: SignalModel, signal: Tensor) -> int:
    arrays = 4 + 3 * len(model.parameters)
    return arrays * max(model.samples, 8) * signal.element_size()


@dataclass(frozen=True, slots=True)
class _Output:
    """Results of all voxels; each block writes its own."""

    values: Tensor
    errors: Tensor
    residual: Tensor
    r2: Tensor
    status: Tensor

    @classmethod
    def empty(cls, parameters: int, signal: Tensor) -> _Output:
        count = signal.shape[1]
        nan = float("nan")
        return cls(
            signal.new_full((parameters, count), nan),
            signal.new_full((parameters, count), nan),
            signal.new_full((count,), nan),
            signal.new_full((count,), nan),
            torch.zeros(count, dtype=torch.uint8, device=signal.device),
        )

    def put(self, index: Tensor, solved: _Output) -> None:
        self.values[:, index] = solved.values
        self.errors[:, index] = solved.errors
        self.residual[index] = solved.residual
        self.r2[index] = solved.r2
        self.status[index] = solved.status


class _Problem:
    """A model with its weights: solves one block of voxels."""

    def __init__(self, model: SignalModel, weights: Tensor | None, options: FitOptions) -> None:
        self.model = model
        self.weights = weights
        self.options = options
        self.free = max(1, model.samples - sum(not p.is_fixed for p in model.parameters))

    def solve(self, signal: Tensor, known: Tensor) -> _Output:
        low, high = self._bounds(signal)
        start = self._start(signal, known, low, high)
        whole = self._evaluate(start, signal, known)
        energy = self._energy(signal)
        self._iterate(whole, signal, known, energy, low, high)
        return self._finish(whole, signal, low, high)

    def _bounds(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        low = signal.new_tensor([p.low for p in self.model.parameters])[:, None]
        return low, signal.new_tensor([p.high for p in self.model.parameters])[:, None]

    def _start(self, signal: Tensor, known: Tensor, low: Tensor, high: Tensor) -> Tensor:
        fallback = signal.new_tensor([p.start for p in self.model.parameters])[:, None]
        start = self.model.start(signal, known).to(signal.dtype)
        start = torch.where(torch.isfinite(start), start, fallback)
        # A start on a bound has lost its way in the noise: from a little inside the gradient can lead it on.
        inset = 1e-3 * torch.where(torch.isfinite(high - low), high - low, fallback.abs())
        return torch.minimum(torch.maximum(start, low + inset), high - inset)

    def _evaluate(self, values: Tensor, signal: Tensor, known: Tensor) -> VoxelState:
        predicted, jacobian = self.model.evaluate(values, known)
        residual = signal - predicted
        weighted = residual if self.weights is None else residual * self.weights[:, None]
        cost = (residual * weighted).sum(0)
        gradient = torch.stack([(row * weighted).sum(0) for row in jacobian])
        if self.weights is None:
            curvature = sums_of_products(jacobian, jacobian)
        else:
            curvature = sums_of_products(jacobian, jacobian * self.weights[:, None])
        ones = torch.ones_like(cost)
        return VoxelState(values, cost, gradient, curvature, 1e-3 * ones, 2 * ones)

    def _energy(self, signal: Tensor) -> Tensor:
        return (signal**2 if self.weights is None else signal**2 * self.weights[:, None]).sum(0)

    def _iterate(
        self, whole: VoxelState, signal: Tensor, known: Tensor, energy: Tensor, low: Tensor, high: Tensor
    ) -> None:
        """Iterate all voxels of a block; those that are finished are left out as soon as a quarter is."""
        index = torch.arange(signal.shape[1], device=signal.device)
        part = whole
        for _ in range(self.options.iterations):
            self._step(part, signal, known, energy, low, high)
            working = ~part.finished
            count = int(working.sum())
            if count == 0:
                break
            if count <= 0.75 * len(working):
                if part is not whole:
                    part.write_into(whole, index)
                kept = torch.nonzero(working)[:, 0]
                index, part = index[kept], part.select(kept)
                signal, known, energy = signal[:, kept], known[:, kept], energy[kept]
        if part is not whole:
            part.write_into(whole, index)

    def _step(
        self, state: VoxelState, signal: Tensor, known: Tensor, energy: Tensor, low: Tensor, high: Tensor
    ) -> None:
        tolerance = self.options.tolerance_for(signal.dtype)
        held = state.held(low, high)
        step = state.damped_step(held)
        trial_values = torch.minimum(torch.maximum(state.values + step, low), high)
        moved = trial_values - state.values
        trial = self._evaluate(trial_values, signal, known)
        fall = state.cost - trial.cost
        curved = (moved[:, None] * moved[None] * state.curvature).sum((0, 1))
        promised = 2 * (moved * state.gradient).sum(0) - curved
        gain = fall / promised.clamp(min=torch.finfo(signal.dtype).tiny)
        better = (trial.cost < state.cost) & torch.isfinite(trial.cost)

        scale = diagonal(state.curvature)
        small_step = (moved**2 * scale).sum(0) <= tolerance**2 * (state.values**2 * scale).sum(0)
        small_fall = (promised <= tolerance**2 * state.cost) & (fall.abs() <= tolerance * state.cost)
        exact = state.cost <= (8 * torch.finfo(signal.dtype).eps) ** 2 * energy
        stuck = state.damping > 1e8
        state.accept(trial, better, gain)
        state.finished |= (better & (small_step | small_fall)) | (small_step & small_fall) | exact | stuck

    def _finish(self, state: VoxelState, signal: Tensor, low: Tensor, high: Tensor) -> _Output:
        variance = state.cost / self.free
        held = (state.values <= low) | (state.values >= high)
        at_bound = held & (high > low)
        curvature = without_held(state.curvature, held)
        errors = torch.sqrt(inverse_diagonal(curvature) * variance)
        errors = torch.where(held, float("nan"), errors)
        spread = self._energy(signal - signal.mean(0))
        tiny = torch.finfo(signal.dtype).tiny
        good = state.finished & torch.isfinite(state.cost) & torch.isfinite(state.values).all(0)
        status = torch.where(at_bound.any(0), int(Status.AT_BOUND), int(Status.CONVERGED))
        status = torch.where(good, status, int(Status.FAILED)).to(torch.uint8)
        nan = signal.new_tensor(float("nan"))
        return _Output(
            torch.where(good, state.values, nan),
            torch.where(good, errors, nan),
            torch.where(good, variance.sqrt(), nan),
            torch.where(good, 1 - state.cost / spread.clamp(min=tiny), nan),
            status,
        )
