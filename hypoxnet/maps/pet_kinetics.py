"""Dynamic PET: graphical analysis and compartment models, for voxels and for regions.

Activities of tissue and input in the same unit, times in minutes.
Axis legend: F frames, N voxels (or any shape after F).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.compartments import CompartmentModel, Timing
from hypoxnet.maps.convolution import running_integral
from hypoxnet.maps.fitting import FitResult, Progress, fit
from hypoxnet.maps.input_functions import InputFunction, timing
from hypoxnet.maps.linear import line, map_lines
from hypoxnet.maps.pet_models import PET_MODELS


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a dynamic PET series, in minutes from the injection.

    Args:
        starts_min: F.
        ends_min: F; None for samples at single times.
    """

    starts_min: Tensor
    ends_min: Tensor | None = None

    @property
    def middles_min(self) -> Tensor:
        """Middles of the frames."""
        return self.starts_min if self.ends_min is None else 0.5 * (self.starts_min + self.ends_min)

    def timing(self, given: InputFunction) -> tuple[Timing, Tensor, Tensor]:
        """Internal grid, plasma and blood on it; steps of half a minute at most inside frames."""
        longest = None if self.ends_min is None else 0.5
        return timing(self.starts_min, self.ends_min, given, longest_step_min=longest)


def frame_weights(frames: Frames, curve: Tensor, *, half_life_min: float) -> Tensor:
    """Relative inverse variances of decay-corrected frames, mean 1.

    The counts of a frame grow with its duration and activity and fall with decay; decay correction scales their
    scatter up again.

    Args:
        frames: The frames.
        curve: F, decay-corrected activity of a region, or of the whole mask.
        half_life_min: Of the nuclide.

    Source:
        Mazoyer et al. 1986, J Cereb Blood Flow Metab 6:616; Thiele and Buchert 2008, Nucl Med Commun 29:179.
    """
    duration = torch.ones_like(curve) if frames.ends_min is None else frames.ends_min - frames.starts_min
    decay = torch.exp2(-frames.middles_min / half_life_min)
    # A frame before the tracer arrives has few counts but is not known without error.
    activity = curve.clamp(min=0.05 * float(curve.max()))
    weights = duration.to(curve) * decay.to(curve) / activity
    return weights / weights.mean()


def patlak(
    activity: Tensor,
    frames: Frames,
    given: InputFunction,
    *,
    from_min: float,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Influx Ki (slope) and V0 (intercept) of C/Cp against int Cp/Cp from a time on.

    Args:
        activity: F x voxels.
        frames: The frames; each counts by its duration.
        given: The input.
        from_min: Where the line begins (t*).
        mask: Voxels to fit.
        progress: Called with voxels done and all voxels.

    Returns:
        `ki` in ml/ml/min, `v0`.

    Raises:
        MapError: Fewer than three frames remain.

    Source:
        Patlak et al. 1983, J Cereb Blood Flow Metab 3:1.
    """
    late, plasma, integral = _late(frames, given, from_min)
    first = int(torch.nonzero(late)[0])  # frames come in order: a slice of them copies nothing
    x = integral / plasma
    shift = float(x.mean())
    weight = _durations(frames, late)
    centred = x - shift
    rows = torch.stack([weight / plasma, weight * centred / plasma])
    constant = torch.stack([weight.sum(), (weight * centred).sum(), (weight * centred**2).sum()])

    def work(samples: Tensor, part: slice) -> dict[str, Tensor]:
        used = samples[first:]
        wy, wxy = rows.to(used) @ used
        wyy = (weight / plasma**2).to(used)[None] @ (used * used)
        w, wx, wxx = (c.to(used).expand_as(wy) for c in constant)
        found = line(w, wx, wy, wxx, wxy, wyy[0], samples=len(weight))
        ki = torch.where(wyy[0] > 0, found.slope, float("nan"))
        return {"ki": ki, "v0": found.intercept - found.slope * shift, **found.scatter()}

    return map_lines(work, activity, mask=mask, names=("ki", "v0"), done=progress)


def logan(
    activity: Tensor,
    frames: Frames,
    given: InputFunction,
    *,
    from_min: float,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Distribution volume VT (slope) of int C/C against int Cp/C from a time on; arguments as for `patlak`.

    Noise makes VT too small (Slifstein and Laruelle 2000, J Nucl Med 41:2083).

    Source:
        Logan et al. 1990, J Cereb Blood Flow Metab 10:740.
    """
    late, _, integral = _late(frames, given, from_min)
    weight = _durations(frames, late)
    times = torch.cat([torch.zeros(1, dtype=torch.float64), frames.middles_min.double()])

    def work(samples: Tensor, part: slice) -> dict[str, Tensor]:
        whole = running_integral(times.to(samples), torch.cat([torch.zeros_like(samples[:1]), samples]))[1:]
        used = torch.where(samples[late] > 0, samples[late], float("nan"))
        x, y = integral.to(used)[:, None] / used, whole[late] / used
        w = weight.to(used)[:, None]
        sums = [(w * product).sum(0) for product in (torch.ones_like(x), x, y, x * x, x * y, y * y)]
        found = line(*sums, samples=len(weight))
        return {"vt": found.slope, "intercept": found.intercept, **found.scatter()}

    return map_lines(work, activity, mask=mask, names=("vt", "intercept"), done=progress)


def _late(frames: Frames, given: InputFunction, from_min: float) -> tuple[Tensor, Tensor, Tensor]:
    """Frames from a time on, with the plasma and its integral at their middles."""
    late = frames.middles_min >= from_min
    if int(late.sum()) < 3:
        raise MapError(
            f"{int(late.sum())} frames of {len(late)} lie after {from_min:g} min, a line needs three; begin it earlier "
            f"(the series ends at {float(frames.middles_min[-1]):g} min)"
        )
    grid, plasma, _ = frames.timing(given)
    at = torch.searchsorted(grid.grid, frames.middles_min.double()).clamp(max=len(grid.grid) - 1)
    if frames.ends_min is not None and not torch.allclose(grid.grid[at], frames.middles_min.double()):
        grid, plasma, _ = timing(frames.middles_min, None, given, longest_step_min=0.5)
        # Points of the grid are merged within 1e-7 of its length, as times in float32 are that inexact.
        slack = 1e-7 * max(1.0, float(grid.grid[-1]))
        at = torch.searchsorted(grid.grid, frames.middles_min.double() - slack).clamp(max=len(grid.grid) - 1)
    values, integral = plasma[at][late], running_integral(grid.grid, plasma)[at][late]
    if float(values.min()) <= 0:
        raise MapError(
            f"the input is {float(values.min()):.3g} at a frame after {from_min:g} min; it must be above 0 there"
        )
    return late, values, integral


def _durations(frames: Frames, late: Tensor) -> Tensor:
    if frames.ends_min is None:
        return torch.ones(int(late.sum()), dtype=torch.float64)
    return (frames.ends_min - frames.starts_min).double()[late]


def fit_kinetics(
    model: str,
    activity: Tensor,
    frames: Frames,
    given: InputFunction,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    rectangle: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Rate constants of a compartment model in every voxel, and Ki where the model traps.

    Args:
        model: Key of `PET_MODELS`.
        activity: F x voxels.
        frames: The frames.
        given: The input, delay and dispersion already in it.
        bounds: Parameter to other bounds; equal bounds fix it.
        mask: Voxels to fit.
        weights: F, from `frame_weights`; the durations when None.
        rectangle: Read curves that were made by discrete convolution, see `maps.convolution.Convolution`.
        progress: Called with voxels done and all voxels.

    Raises:
        MapError: No model or parameter of that name, or frames and input do not fit the series.
    """
    built = build_model(model, frames, given, bounds=bounds, rectangle=rectangle)
    if weights is None and frames.ends_min is not None:
        weights = frames.ends_min - frames.starts_min
    scaled = None if weights is None else (weights / weights.mean()).to(activity)
    found = fit(built, activity, mask=mask, weights=scaled, progress=progress)
    return replace(found, values=found.values | PET_MODELS[model].macro(found.values))


def build_model(
    model: str,
    frames: Frames,
    given: InputFunction,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    rectangle: bool = False,
) -> CompartmentModel:
    """The model of a name on the frames of a series; arguments as for `fit_kinetics`."""
    if model not in PET_MODELS:
        raise MapError(f"there is no PET model {model!r}; there are {', '.join(PET_MODELS)}")
    kind = PET_MODELS[model]
    changed = dict(bounds or {})
    unknown = set(changed) - {p.name for p in kind.unknowns}
    if unknown:
        raise MapError(
            f"{model} has no parameter {sorted(unknown)[0]}; it has {', '.join(p.name for p in kind.unknowns)}"
        )
    parameters = tuple(p.between(*changed[p.name]) if p.name in changed else p for p in kind.unknowns)
    grid, plasma, blood = frames.timing(given)
    return kind(grid, plasma, blood=blood, parameters=parameters, rectangle=rectangle)


@dataclass(frozen=True, slots=True)
class RegionalFit:
    """One model fitted to the curve of a region.

    Args:
        model: Key of `PET_MODELS`.
        values: Parameters.
        errors: Standard errors; nan at a bound.
        aic: Akaike's criterion with the correction for few samples.
        share: Akaike weight among the models compared, 0 to 1.
    """

    model: str
    values: Mapping[str, float]
    errors: Mapping[str, float]
    aic: float
    share: float


def choose_model(
    curve: Tensor,
    frames: Frames,
    given: InputFunction,
    *,
    models: Sequence[str] = ("1t", "2t-irreversible", "2t-reversible", "3t-irreversible"),
    weights: Tensor | None = None,
) -> tuple[RegionalFit, ...]:
    """Models fitted to one curve, the best first.

    Args:
        curve: F, activity of a region.
        frames: The frames.
        given: The input.
        models: Which.
        weights: F; the durations when None.

    Source:
        Akaike 1974, IEEE Trans Autom Control 19:716; Hurvich and Tsai 1989, Biometrika 76:297.
    """
    fits: list[tuple[str, FitResult, float]] = []
    for model in models:
        found = fit_kinetics(model, curve.double()[:, None], frames, given, weights=weights)
        count = sum(not p.is_fixed for p in PET_MODELS[model].unknowns)
        free = len(curve) - count
        squares = float(found.residual[0]) ** 2 * max(1, free)
        if not math.isfinite(squares) or free < 2:
            continue
        size = count + 1  # the variance is estimated too
        aic = len(curve) * math.log(max(squares, 1e-300) / len(curve)) + 2 * size
        aic += 2 * size * (size + 1) / max(1, len(curve) - size - 1)
        fits.append((model, found, aic))
    if not fits:
        raise MapError(f"none of {', '.join(models)} could be fitted to {len(curve)} frames; give more frames")
    best = min(aic for _, _, aic in fits)
    total = sum(math.exp(-0.5 * (aic - best)) for _, _, aic in fits)
    rows = [
        RegionalFit(
            model,
            {name: float(v[0]) for name, v in found.values.items()},
            {name: float(v[0]) for name, v in found.errors.items()},
            aic,
            math.exp(-0.5 * (aic - best)) / total,
        )
        for model, found, aic in fits
    ]
    return tuple(sorted(rows, key=lambda row: row.aic))


def fit_delay(curve: Tensor, frames: Frames, given: InputFunction, *, longest_min: float = 1.0) -> float:
    """How much later than at the place of the input the tracer arrives in a region, minutes.

    Args:
        curve: F, activity of the region.
        frames: The frames.
        given: The input; it is shifted by up to `longest_min` either way, and the two-tissue model fitted each time.
        longest_min: Largest delay that is tried.
    """

    def cost(delay: float) -> float:
        found = fit_kinetics("2t-irreversible", curve.double()[:, None], frames, given.delayed(delay))
        residual = float(found.residual[0])
        return residual if math.isfinite(residual) else math.inf

    tried = torch.linspace(-longest_min, longest_min, 9).tolist()
    begin = min(tried, key=cost)
    step = tried[1] - tried[0]
    low, high = max(-longest_min, begin - step), min(longest_min, begin + step)
    return float(minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-3}).x)
