"""Uptake of a tumour in one number: SUVmax, SUVmean and SUVpeak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid

# Samples along the radius of the sphere: its sampled volume is within a few thousandths of the true one.
SAMPLES_PER_RADIUS = 24


@dataclass(frozen=True, slots=True)
class Peak:
    """The hottest sphere of a tumour.

    Args:
        value: Mean uptake in the sphere, in the unit of the image; nan when no sphere fits.
        centre_mm: Its centre, RAS+ mm; nan when no sphere fits.
    """

    value: float
    centre_mm: tuple[float, float, float]


def suv_max(suv: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Highest uptake of a region; nan when the region holds no finite value.

    Args:
        suv: i j k, g/ml; voxels that are not finite are left out.
        mask: i j k.

    Raises:
        CaseError: The shapes differ.

    Example:
        >>> suv_max(np.array([[[1.0, 3.0, np.nan]]]), np.array([[[True, True, True]]]))
        3.0
    """
    values = _finite(suv, mask)
    return float(values.max()) if values.size else math.nan


def suv_mean(suv: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Mean uptake of a region; nan when the region holds no finite value.

    Args:
        suv: i j k, g/ml; voxels that are not finite are left out.
        mask: i j k.

    Raises:
        CaseError: The shapes differ.

    Example:
        >>> suv_mean(np.array([[[1.0, 3.0, 9.0]]]), np.array([[[True, True, False]]]))
        2.0
    """
    values = _finite(suv, mask)
    return float(values.mean()) if values.size else math.nan


def suv_peak(suv: NDArray[np.floating], mask: NDArray[np.bool_], grid: Grid, *, sphere_ml: float = 1.0) -> Peak:
    """Highest mean uptake in a sphere whose centre is a voxel of the region.

    The sphere may reach beyond the region, but neither beyond the image nor over a voxel that is not finite. Voxels on
    its surface count by the part that lies within, so the spacing hardly matters.

    Args:
        suv: i j k, g/ml.
        mask: i j k, the tumour.
        grid: Where both lie.
        sphere_ml: Volume of the sphere, mL.

    Returns:
        Value and place; nan when the region is empty or no sphere fits. The first voxel in array order wins a tie.

    Raises:
        CaseError: The shapes differ, or the sphere has no volume.

    Source:
        Wahl et al. 2009, J Nucl Med 50:122S (1 cm3 sphere); Lodge et al. 2012, J Nucl Med 53:1041 (placed for the
        highest mean).

    Example:
        >>> grid = Grid.from_affine((8, 8, 8), np.diag([4.0, 4.0, 4.0, 1.0]))
        >>> round(suv_peak(np.full((8, 8, 8), 2.5), np.ones((8, 8, 8), dtype=bool), grid).value, 6)
        2.5
    """
    _same_shape(suv, mask, grid)
    weights = sphere_weights(grid.spacing_mm, volume_ml=sphere_ml)
    reach = [n // 2 for n in weights.shape]
    candidates = _centres(mask, reach)
    if not candidates.any():
        return _NO_PEAK
    where = np.nonzero(candidates)
    low = [int(axis.min()) for axis in where]
    high = [int(axis.max()) + 1 for axis in where]
    window = np.asarray(
        suv[tuple(slice(a - r, b + r) for a, b, r in zip(low, high, reach, strict=True))], dtype=np.float64
    )
    usable = candidates[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    means = np.where(usable, _sphere_means(window, weights), np.nan)
    if np.isnan(means).all():
        return _NO_PEAK
    # Rounding of the transform must not choose between equals.
    best = np.unravel_index(int(np.argmax(means >= np.nanmax(means) - 1e-9 * np.nanmax(np.abs(means)))), means.shape)
    x, y, z = (float(v) for v in (grid.matrix @ [*np.add(low, best), 1.0])[:3])
    return Peak(float(means[best]), (x, y, z))


def _sphere_means(window: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean round every voxel that has the whole kernel in the window; nan next to values not finite."""
    finite = np.isfinite(window)
    # The kernel is symmetric, so convolution and correlation are one.
    means = signal.fftconvolve(np.where(finite, window, 0.0), weights / weights.sum(), mode="valid")
    if not finite.all():
        touched = signal.fftconvolve((~finite).astype(np.float64), (weights > 0).astype(np.float64), mode="valid")
        means[touched > 0.5] = np.nan
    return np.asarray(means, dtype=np.float64)


_NO_PEAK = Peak(math.nan, (math.nan, math.nan, math.nan))


def sphere_weights(spacing_mm: Sequence[float], *, volume_ml: float) -> NDArray[np.float64]:
    """Share of each voxel that lies in a sphere round the middle voxel.

    Args:
        spacing_mm: Distance between voxels along i, j, k, mm.
        volume_ml: Volume of the sphere, mL.

    Returns:
        i j k with odd lengths, 0 to 1; times the volume of a voxel it sums to the volume of the sphere within 1 %.

    Raises:
        CaseError: The sphere has no volume.

    Example:
        >>> sphere_weights((4.0, 4.0, 4.0), volume_ml=1.0).shape
        (5, 5, 5)
    """
    if not volume_ml > 0:
        raise CaseError(f"a sphere of {volume_ml:g} ml has no volume; 1 ml is usual")
    radius = math.cbrt(volume_ml * 1000.0 * 3.0 / (4.0 * math.pi))
    squares, shape = [], []
    for spacing in spacing_mm:
        reach = max(0, math.ceil(radius / spacing - 0.5))
        samples = max(1, math.ceil(SAMPLES_PER_RADIUS * spacing / radius))
        count = (2 * reach + 1) * samples
        squares.append(((np.arange(count) - (count - 1) / 2) * (spacing / samples)) ** 2)
        shape += [2 * reach + 1, samples]
    inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius**2
    return np.asarray(inside.reshape(shape).mean(axis=(1, 3, 5)), dtype=np.float64)


def _centres(mask: NDArray[np.bool_], reach: Sequence[int]) -> NDArray[np.bool_]:
    """Voxels of the mask round which the sphere stays in the image."""
    fits = np.zeros(mask.shape, dtype=bool)
    fits[tuple(slice(r, n - r) for r, n in zip(reach, mask.shape, strict=True))] = True
    return np.asarray(mask, dtype=bool) & fits


def _finite(suv: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    if suv.shape != mask.shape:
        raise CaseError(f"the image is {suv.shape}, the mask {mask.shape}; resample one to the other's grid")
    values = np.asarray(suv[np.asarray(mask, dtype=bool)], dtype=np.float64)
    return values[np.isfinite(values)]


def _same_shape(suv: NDArray[np.floating], mask: NDArray[np.bool_], grid: Grid) -> None:
    if not suv.shape == mask.shape == grid.shape:
        raise CaseError(
            f"the image is {suv.shape}, the mask {mask.shape} and the grid {grid.shape}; resample them to one grid"
        )
