"""Reference regions: uptake of muscle or blood, how far to trust it, and a region where nobody drew one."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from hypoxnet.errors import CaseError, MapError
from hypoxnet.geometry import Grid

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

# Ending of a ratio's name to the mask that it needs, and the statistic of the uptake there.
RATIO_REGIONS = {"TMR": ("MUSCLE", "median"), "TBR": ("BLOOD", "mean")}

LARGEST_VARIATION = 0.20
SMALLEST_VOLUME_ML = 1.0
# Two widths of a PET scanner's blur: nearer, the tumour's uptake spills into the region.
SMALLEST_DISTANCE_MM = 10.0

SPHERES = 3
SPHERE_ML = 1.5
# Air, fat, bone and contrast-filled vessels are outside.
SOFT_TISSUE_HU = (10.0, 90.0)
# CT noise takes single voxels out of the range; a sphere with more than a tenth outside holds something else.
SOFT_TISSUE_SHARE = 0.9
# g/ml; the mean over the body is 1 and air is 0, so a fifth tells them apart.
BODY_SUV = 0.2
BODY_SMOOTHING_MM = 3.0
# A tumour nearer to the middle has no other side.
MIDLINE_MM = 10.0


def ratio_made_of(name: str) -> tuple[str, str] | None:
    """The channel and the mask that a ratio of uptake is made of; None for what is no such ratio.

    Example:
        >>> ratio_made_of("FMISO_TMR"), ratio_made_of("FMISO_TBR"), ratio_made_of("T1W")
        (('FMISO_SUV', 'MUSCLE'), ('FMISO_SUV', 'BLOOD'), None)
    """
    tracer, _, ending = name.rpartition("_")
    return (f"{tracer}_SUV", RATIO_REGIONS[ending][0]) if tracer and ending in RATIO_REGIONS else None


def ratio_files(channels: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Further channels and masks that ratios among some channels are made of, where they have no file of their own.

    Example:
        >>> ratio_files(("FMISO_TMR", "T1W")), ratio_files(("FMISO_SUV", "FMISO_TBR"))
        ((('FMISO_SUV',), ('MUSCLE',)), ((), ('BLOOD',)))
    """
    made_of = [parts for name in channels if (parts := ratio_made_of(name))]
    uptakes = dict.fromkeys(uptake for uptake, _ in made_of if uptake not in channels)
    return tuple(uptakes), tuple(dict.fromkeys(mask for _, mask in made_of))


def lacking_for_ratio(name: str, channels: Container[str], masks: Container[str]) -> list[str]:
    """Of the channel and the mask that a ratio is made of those that are not there; empty for what is no ratio.

    Example:
        >>> lacking_for_ratio("FMISO_TMR", ["FAZA_SUV"], ["MUSCLE"])
        ['FMISO_SUV']
    """
    parts = ratio_made_of(name)
    if parts is None:
        return []
    suv, mask = parts
    return [*([suv] if suv not in channels else []), *([mask] if mask not in masks else [])]


def ratio_hint(name: str, channels: Container[str], masks: Container[str]) -> str:
    """What a ratio that is not there lacks, to end a message with; empty for what is no ratio.

    Args:
        name: Channel.
        channels: Those that are there.
        masks: Likewise.

    Example:
        >>> ratio_hint("FMISO_TMR", ["FMISO_SUV"], [])
        '; FMISO_TMR is made of FMISO_SUV where the mask MUSCLE is given: contour it'
        >>> ratio_hint("FMISO_TMR", ["FAZA_SUV"], ["MUSCLE"])
        '; FMISO_TMR is made of FMISO_SUV where the mask MUSCLE is given, and there is no FMISO_SUV'
    """
    parts = ratio_made_of(name)
    if parts is None:
        return ""
    lacking = lacking_for_ratio(name, channels, masks)
    begin = f"; {name} is made of {parts[0]} where the mask {parts[1]} is given"
    if lacking == [parts[1]]:
        return f"{begin}: contour it"
    return f"{begin}, and there is no {' and no '.join(lacking)}" if lacking else f"{begin} in the same case"


def reference_value(suv: NDArray[np.floating], region: NDArray[np.bool_], *, statistic: str = "median") -> float:
    """Uptake of a reference region.

    Args:
        suv: i j k, g/ml.
        region: i j k, muscle or blood.
        statistic: `median` (FAZA to muscle) or `mean` (FMISO to blood).

    Returns:
        Reference uptake, g/ml.

    Raises:
        CaseError: The region is empty, its uptake is not positive, or there is no such statistic.

    Source:
        Median of muscle: Mortensen et al. 2012, Radiother Oncol. Mean of blood: Muzi et al. 2015, J Nucl Med.

    Example:
        >>> reference_value(np.array([[[1.0, 2.0, 4.0]]]), np.array([[[True, True, True]]]))
        2.0
    """
    if not region.any():
        raise CaseError("the reference region is empty; draw it again or leave the ratio out")
    if statistic not in {"median", "mean"}:
        raise CaseError(f"the statistic of a reference region is {statistic!r}, it must be median or mean")
    value = float(np.median(suv[region]) if statistic == "median" else suv[region].mean())
    if not value > 0:
        raise CaseError(f"the reference region has an uptake of {value:.3g} g/ml; draw it in muscle or blood")
    return value


@dataclass(frozen=True, slots=True)
class ReferenceRegion:
    """Uptake of a reference region and how far to trust it.

    Args:
        value: Reference uptake, g/ml.
        statistic: `median` or `mean`.
        voxels: Number of voxels.
        volume_ml: Volume.
        coefficient_of_variation: Standard deviation over mean of its voxels, noise included.
        warnings: One sentence for each thing a reader should look at; empty when there is none.
    """

    value: float
    statistic: str
    voxels: int
    volume_ml: float
    coefficient_of_variation: float
    warnings: tuple[str, ...] = ()


def reference_report(
    suv: NDArray[np.floating],
    region: NDArray[np.bool_],
    grid: Grid,
    *,
    statistic: str = "median",
    tumour: NDArray[np.bool_] | None = None,
) -> ReferenceRegion:
    """Uptake of a reference region with its size, its spread and warnings.

    It warns of a coefficient of variation above 20 %, a volume below 1 ml, and a region closer than 10 mm to the
    tumour (between voxel centres).

    Args:
        suv: i j k, g/ml.
        region: i j k, muscle or blood.
        grid: Where they lie.
        statistic: `median` (FAZA to muscle) or `mean` (FMISO to blood).
        tumour: i j k; None leaves the distance out.

    Raises:
        CaseError: The region is empty, its uptake is not positive, or there is no such statistic.
        MapError: The shapes differ, or the region holds voxels without a finite value.

    Source:
        Mortensen et al. 2012, Radiother Oncol 105:14; Muzi et al. 2015, J Nucl Med 56:1240.

    Example:
        >>> grid = Grid.from_affine((8, 8, 8), np.diag([4.0, 4.0, 4.0, 1.0]))
        >>> report = reference_report(np.full((8, 8, 8), 1.5), np.ones((8, 8, 8), dtype=bool), grid)
        >>> report.value, report.volume_ml, report.warnings
        (1.5, 32.768, ())
    """
    _same_shape(grid, suv=suv, region=region, tumour=tumour)
    values = np.asarray(suv[region], dtype=np.float64)
    unknown = values.size - int(np.count_nonzero(np.isfinite(values)))
    if unknown:
        raise MapError(
            f"{unknown} of the {values.size} voxels of the reference region have no finite uptake; draw it where the "
            "image has values"
        )
    value = reference_value(suv, region, statistic=statistic)
    mean = float(values.mean())
    variation = float(values.std()) / mean if mean > 0 else math.inf
    volume = values.size * grid.voxel_ml
    warnings = _warnings(variation, volume, _distance_mm(region, tumour, grid))
    return ReferenceRegion(value, statistic, values.size, volume, variation, warnings)


def _warnings(variation: float, volume_ml: float, distance_mm: float) -> tuple[str, ...]:
    found = []
    if variation > LARGEST_VARIATION:
        found.append(
            f"the uptake of the reference region varies by {variation:.0%}, at most {LARGEST_VARIATION:.0%} is "
            "expected; look for vessels, bone or fat in it"
        )
    if volume_ml < SMALLEST_VOLUME_ML:
        found.append(
            f"the reference region has {volume_ml:.2f} ml, at least {SMALLEST_VOLUME_ML:g} ml is expected; draw more "
            "of it"
        )
    if distance_mm < SMALLEST_DISTANCE_MM:
        found.append(
            f"the reference region comes within {distance_mm:.1f} mm of the tumour, at least "
            f"{SMALLEST_DISTANCE_MM:g} mm is expected; its uptake spills over, move it away"
        )
    return tuple(found)


def _distance_mm(region: BoolArray, tumour: BoolArray | None, grid: Grid) -> float:
    """Shortest distance between a voxel of each, mm; inf without a tumour."""
    if tumour is None or not tumour.any():
        return math.inf
    return float(ndimage.distance_transform_edt(~tumour, sampling=grid.spacing_mm)[region].min())


def ratio_map(suv: NDArray[np.floating], reference: float) -> FloatArray:
    """Uptake over that of the reference: TMR or TBR.

    Args:
        suv: i j k, g/ml.
        reference: Uptake of the reference region, g/ml.

    Returns:
        i j k, dimensionless; nan stays nan.

    Raises:
        MapError: The reference is not positive and finite.

    Example:
        >>> ratio_map(np.array([[[1.5, 3.0]]]), 1.5)
        array([[[1., 2.]]])
    """
    if not (math.isfinite(reference) and reference > 0):
        raise MapError(f"a reference uptake of {reference:g} g/ml gives no ratio; draw the region in muscle or blood")
    return np.asarray(suv, dtype=np.float64) / reference


def find_muscle(
    suv: NDArray[np.floating],
    *,
    grid: Grid,
    tumour: NDArray[np.bool_],
    body: NDArray[np.bool_] | None = None,
    ct_hu: NDArray[np.floating] | None = None,
) -> BoolArray:
    """Propose a reference region: the three most even spheres of 1.5 ml in soft tissue.

    A sphere lies with all its voxels at least 10 mm below the skin and 10 mm from the tumour; it is soft tissue by CT
    (10 to 90 HU), or without CT by a mean uptake between the quartiles of these voxels. Its coefficient of variation is
    at most 20 %. Of all that qualify, spheres on the other side of the body from the tumour go first, then the most
    even; they do not overlap. Nothing is drawn at random. Evenness tells muscle neither from the brain nor from a large
    gland: look at the region before using it.

    Args:
        suv: i j k, g/ml; voxels that are not finite belong to no sphere.
        grid: Where all of them lie.
        tumour: i j k.
        body: i j k; None takes the largest object with an uptake above 0.2 g/ml, see `find_body`.
        ct_hu: i j k, CT on the same grid, HU.

    Returns:
        i j k, the union of three spheres.

    Raises:
        MapError: The shapes differ, or fewer than three spheres qualify.
    """
    _same_shape(grid, suv=suv, tumour=tumour, body=body, ct_hu=ct_hu)
    inside = find_body(suv, grid) if body is None else np.asarray(body, dtype=bool)
    sphere = _ball(grid, SPHERE_ML)
    allowed = _allowed(suv, grid, tumour=tumour, body=inside)
    variation = _variation(np.asarray(suv, dtype=np.float64), allowed, sphere, ct_hu=ct_hu)
    order = np.lexsort((variation.ravel(), ~_contralateral(grid, tumour, inside).ravel()))
    order = order[np.isfinite(variation.ravel()[order])]
    region = np.zeros(grid.shape, dtype=bool)
    found = 0
    for flat in order:
        ball = _around(np.unravel_index(int(flat), grid.shape), sphere)
        if found < SPHERES and not region[ball][sphere].any():
            region[ball] |= sphere
            found += 1
        if found == SPHERES:
            return region
    raise MapError(
        f"{found} of {SPHERES} spheres of {SPHERE_ML:g} ml fit into even soft tissue {SMALLEST_DISTANCE_MM:g} mm from "
        "skin and tumour; draw the reference region by hand"
    )


def find_body(suv: NDArray[np.floating], grid: Grid) -> BoolArray:
    """The patient: the largest object with a smoothed uptake above 0.2 g/ml, closed holes filled.

    Blur takes its surface a few mm beyond the skin; an airway that leaves the image stays outside.

    Args:
        suv: i j k, g/ml; voxels that are not finite count as air.
        grid: Where it lies.

    Returns:
        i j k; empty when nothing takes up so much.
    """
    known = np.where(np.isfinite(suv), suv, 0.0).astype(np.float64)
    smooth = ndimage.gaussian_filter(known, [BODY_SMOOTHING_MM / s for s in grid.spacing_mm])
    labels, count = ndimage.label(smooth > BODY_SUV)
    if not count:
        return np.zeros(grid.shape, dtype=bool)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(labels == largest), dtype=bool)


def _allowed(suv: NDArray[np.floating], grid: Grid, *, tumour: BoolArray, body: BoolArray) -> BoolArray:
    """Voxels a sphere may cover: deep enough, away from the tumour, with a value."""
    # The end of the image is not the skin: the transform measures to voxels outside the body only.
    depth = ndimage.distance_transform_edt(body, sampling=grid.spacing_mm) if not body.all() else np.inf
    away = ndimage.distance_transform_edt(~tumour, sampling=grid.spacing_mm) if tumour.any() else np.inf
    deep = body & (depth >= SMALLEST_DISTANCE_MM) & (away >= SMALLEST_DISTANCE_MM)
    return np.asarray(deep & np.isfinite(suv), dtype=bool)


def _variation(
    suv: FloatArray, allowed: BoolArray, sphere: BoolArray, *, ct_hu: NDArray[np.floating] | None
) -> FloatArray:
    """Coefficient of variation in the sphere round each voxel; inf where a sphere does not qualify."""
    kernel = sphere.astype(np.float64) / np.count_nonzero(sphere)
    known = np.where(allowed, suv, 0.0)
    mean = _smooth(known, kernel)
    spread = np.sqrt(np.maximum(_smooth(known**2, kernel) - mean**2, 0.0))
    fits = (_smooth(allowed.astype(np.float64), kernel) > 1.0 - 0.5 * kernel.max()) & (mean > 0)
    if ct_hu is not None:
        low, high = SOFT_TISSUE_HU
        soft = (np.asarray(ct_hu) >= low) & (np.asarray(ct_hu) <= high)
        fits &= _smooth(soft.astype(np.float64), kernel) >= SOFT_TISSUE_SHARE - 1e-6
    elif allowed.any():
        first, third = np.percentile(suv[allowed], [25.0, 75.0])
        # A thousandth on either side: in an even body all means equal both quartiles, but for rounding.
        fits &= (mean >= 0.999 * first) & (mean <= 1.001 * third)
    # Rounded: the last digits of the transform must not choose between equals.
    variation = np.round(np.divide(spread, mean, out=np.full(mean.shape, np.inf), where=fits), 4)
    return np.where(variation <= LARGEST_VARIATION, variation, np.inf)


def _smooth(values: FloatArray, kernel: FloatArray) -> FloatArray:
    """Mean over a symmetric kernel round each voxel; beyond the image lies nothing."""
    return np.asarray(signal.fftconvolve(values, kernel, mode="same"), dtype=np.float64)


def _contralateral(grid: Grid, tumour: BoolArray, body: BoolArray) -> BoolArray:
    """Voxels on the other side of the body's middle than the tumour; all where it has no side."""
    everywhere = np.ones(grid.shape, dtype=bool)
    if not (tumour.any() and body.any()):
        return everywhere
    axes = (np.arange(n, dtype=np.float64) for n in grid.shape)
    steps = np.meshgrid(*axes, indexing="ij", sparse=True)
    x: FloatArray = sum((a * s for a, s in zip(grid.matrix[0, :3], steps, strict=True)), start=np.zeros(grid.shape))
    middle = float(x[body].mean())
    side = float(x[tumour].mean()) - middle
    return (x - middle) * side < 0 if abs(side) >= MIDLINE_MM else everywhere


def _ball(grid: Grid, volume_ml: float) -> BoolArray:
    """Voxels whose centre lies in a sphere round the middle one."""
    radius = math.cbrt(volume_ml * 1000.0 * 3.0 / (4.0 * math.pi))
    reach = [int(radius / s) for s in grid.spacing_mm]
    squares = [((np.arange(-r, r + 1)) * s) ** 2 for r, s in zip(reach, grid.spacing_mm, strict=True)]
    return np.asarray(squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius**2, dtype=bool)


def _around(index: tuple[np.intp, ...], sphere: BoolArray) -> tuple[slice, ...]:
    return tuple(slice(int(i) - n // 2, int(i) + n // 2 + 1) for i, n in zip(index, sphere.shape, strict=True))


def _same_shape(grid: Grid, **arrays: NDArray[np.generic] | None) -> None:
    for name, array in arrays.items():
        if array is not None and array.shape != grid.shape:
            raise MapError(f"{name} is {array.shape}, the grid {grid.shape}; resample it to the grid")
