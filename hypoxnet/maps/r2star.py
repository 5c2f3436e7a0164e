"""R2*: the decay of a multi-echo gradient echo, its change under oxygen, and where air makes it meaningless.

Axis legend: T echoes, N voxels (or any shape after T).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import FitResult, Parameter, Progress, fit
from hypoxnet.maps.linear import log_line, map_lines

# A sample below three standard deviations of the noise is noise.
FLOOR_SDS = 3.0
HIGHEST_PER_S = 2000.0
# Echo spacings that differ by less than this share are equal.
EQUIDISTANT = 0.01


def check_echo_times(echo_times_s: Tensor, *, least: int) -> None:
    """Refuse echo times that are too few, do not increase, or are in ms.

    Raises:
        MapError: As named.
    """
    if len(echo_times_s) < least:
        raise MapError(f"there are {len(echo_times_s)} echoes, {least} are needed; give the whole echo train")
    if not bool((torch.diff(echo_times_s) > 0).all()):
        shown = ", ".join(f"{float(t):g}" for t in echo_times_s)
        raise MapError(f"echo times must increase, they are {shown} s; put the echoes in order")
    if not 0 < float(echo_times_s[-1]) < 1 or float(echo_times_s[0]) < 0:
        raise MapError(f"the last echo is at {float(echo_times_s[-1]):g} s; give seconds, not ms")


def r2star_log_linear(
    signal: Tensor,
    echo_times_s: Tensor,
    *,
    noise_sd: float = 0.0,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """R2* by a line through the logarithm, each echo weighted by its squared signal.

    Args:
        signal: T x voxels, magnitude.
        echo_times_s: T.
        noise_sd: Echoes below three times this are left out; 0 keeps all.
        mask: Voxels to fit.
        progress: Called with voxels done and all voxels.

    Returns:
        `r2star` in 1/s and `s0`; nan where the signal does not decay or fewer than two echoes remain.

    Raises:
        MapError: Echo times are unusable.

    Source:
        Bonny et al. 1996, Magn Reson Med 36:287 (weights).
    """
    _check(signal, echo_times_s, least=2)
    floor = FLOOR_SDS * noise_sd

    def work(samples: Tensor, part: slice) -> dict[str, Tensor]:
        found = log_line(samples, echo_times_s.to(samples.device), weighted=True, floor=floor)
        r2star = -found.slope
        r2star = torch.where((r2star >= 0) & (r2star <= HIGHEST_PER_S), r2star, float("nan"))
        return {"r2star": r2star, "s0": torch.exp(found.intercept), **found.scatter()}

    return map_lines(work, signal, mask=mask, names=("r2star", "s0"), done=progress)


def r2star_arlo(
    signal: Tensor, echo_times_s: Tensor, *, mask: Tensor | None = None, progress: Progress | None = None
) -> FitResult:
    """R2* by auto-regression on linear operations, for equidistant echoes.

    Args:
        signal: T x voxels, magnitude, three echoes or more.
        echo_times_s: T, equidistant.
        mask: Voxels to fit.
        progress: Called with voxels done and all voxels.

    Raises:
        MapError: Echoes are not equidistant.

    Source:
        Pei et al. 2015, Magn Reson Med 73:843. Simpson's rule makes it 2e-5 too small at R2* x spacing = 0.25.
    """
    _check(signal, echo_times_s, least=3)
    steps = torch.diff(echo_times_s.double())
    step = float(steps.mean())
    if float((steps - step).abs().max()) > EQUIDISTANT * step:
        raise MapError(
            f"ARLO needs equidistant echoes, the spacings are {float(steps.min()):g} to {float(steps.max()):g} s; "
            "choose the log-linear or the non-linear fit"
        )

    def work(samples: Tensor, part: slice) -> dict[str, Tensor]:
        first, middle, last = samples[:-2], samples[1:-1], samples[2:]
        integral = step / 3 * (first + 4 * middle + last)
        change = first - last
        crossed = (integral * change).sum(0)
        t2star = ((integral * integral).sum(0) + step / 3 * crossed) / (step / 3 * (change * change).sum(0) + crossed)
        r2star = 1 / t2star
        good = (r2star >= 0) & (r2star <= HIGHEST_PER_S)
        return {"r2star": torch.where(good, r2star, float("nan"))}

    return map_lines(work, signal, mask=mask, names=("r2star",), done=progress)


class DecayWithFloor:
    """S = sqrt((S0 exp(-R2* TE))^2 + floor^2): magnitude of a decay in noise.

    Args:
        echo_times_s: T.

    Source:
        Gudbjartsson and Patz 1995, Magn Reson Med 34:910: the mean square of a Rician magnitude is the squared signal
        plus twice the variance of the noise in each channel.
    """

    parameters = (
        Parameter("r2star", "1/s", 0.0, HIGHEST_PER_S, 40.0),
        Parameter("s0", "a.u.", 0.0, math.inf, 1.0),
        Parameter("floor", "a.u.", 0.0, math.inf, 1e-3),
    )

    def __init__(self, echo_times_s: Tensor) -> None:
        self.times = echo_times_s.double()

    @property
    def samples(self) -> int:
        """Number of echoes."""
        return len(self.times)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal, and its derivatives by R2*, S0 and the floor."""
        r2star, s0, floor = values
        times = self.times.to(values)[:, None]
        unit = torch.exp(-r2star * times)
        clean = s0 * unit
        signal = torch.sqrt(clean**2 + floor**2).clamp(min=torch.finfo(values.dtype).tiny)
        ratio = clean / signal
        return signal, torch.stack([-ratio * clean * times, ratio * unit, floor / signal])

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The weighted log-linear fit, and half the last echo for the floor."""
        found = log_line(signal, self.times.to(signal.device), weighted=True)
        return torch.stack([-found.slope, torch.exp(found.intercept), 0.5 * signal[-1].abs()])


def r2star_nonlinear(
    signal: Tensor, echo_times_s: Tensor, *, mask: Tensor | None = None, progress: Progress | None = None
) -> FitResult:
    """R2* (1/s), S0 and noise floor by least squares on the magnitude; see `DecayWithFloor`."""
    _check(signal, echo_times_s, least=4)
    return fit(DecayWithFloor(echo_times_s), signal, mask=mask, progress=progress)


def _check(signal: Tensor, echo_times_s: Tensor, *, least: int) -> None:
    if len(signal) != len(echo_times_s):
        raise MapError(
            f"there are {len(signal)} echoes and {len(echo_times_s)} echo times; give one echo time per volume"
        )
    check_echo_times(echo_times_s, least=least)


def delta_r2star(r2star_air: Tensor, r2star_oxygen: Tensor) -> Tensor:
    """R2* under oxygen minus R2* under air, 1/s: below 0 where deoxyhaemoglobin falls."""
    return r2star_oxygen - r2star_air


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Voxels of a region whose R2* says nothing about oxygen.

    Args:
        excluded: i j k, bool.
        share: Of the region that is excluded, 0 to 1; nan when the region is empty.
        reason: What excluded them.
    """

    excluded: NDArray[np.bool_]
    share: float
    reason: str


def near_air(
    air: NDArray[np.bool_], region: NDArray[np.bool_], *, spacing_mm: tuple[float, float, float], within_mm: float = 5.0
) -> Exclusion:
    """Voxels of a region that lie closer than `within_mm` to air.

    Args:
        air: i j k, from a threshold on CT or on the first echo.
        region: i j k, the tumour.
        spacing_mm: Of the voxels.
        within_mm: The field of an air cavity falls with the cube of the distance; 5 mm is the default.

    Example:
        >>> air = np.zeros((5, 1, 1), dtype=bool)
        >>> air[0] = True
        >>> near_air(air, ~air, spacing_mm=(2.0, 2.0, 2.0)).share
        0.5
    """
    distance = distance_transform_edt(~air, sampling=spacing_mm) if air.any() else np.full(air.shape, np.inf)
    return _exclusion((distance < within_mm) & region, region, f"closer than {within_mm:g} mm to air")


def steep_field(
    field_hz: NDArray[np.floating],
    region: NDArray[np.bool_],
    *,
    spacing_mm: tuple[float, float, float],
    limit_hz_per_mm: float,
) -> Exclusion:
    """Voxels of a region in which the static field changes too fast.

    Across a slice of d mm, a gradient of g Hz/mm adds a decay with the first zero at 1 / (g d) s.

    Args:
        field_hz: i j k, from the phase of two echoes.
        region: i j k.
        spacing_mm: Of the voxels.
        limit_hz_per_mm: Largest tolerated gradient.
    """
    gradient = np.sqrt(sum(g**2 for g in np.gradient(field_hz, *spacing_mm)))
    steep = binary_dilation(gradient > limit_hz_per_mm)
    return _exclusion(steep & region, region, f"field gradient above {limit_hz_per_mm:g} Hz/mm")


def _exclusion(excluded: NDArray[np.bool_], region: NDArray[np.bool_], reason: str) -> Exclusion:
    whole = int(region.sum())
    return Exclusion(excluded, float(excluded.sum()) / whole if whole else math.nan, reason)
