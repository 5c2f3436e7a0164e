"""How well a mask matches the truth, on the patient's own grid.

Axis legend: i j k voxels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray

from hypoxnet.geometry import Grid
from hypoxnet.hypoxia.volumes import hypoxic_fraction, volume_ml

Mask = NDArray[np.bool_]

TOLERANCE_MM = 2.0


@dataclass(frozen=True, slots=True)
class RegionScore:
    """One region of one case.

    Args:
        dice: Dice coefficient; 1 when both are empty.
        surface_dice_2mm: Share of both surfaces within 2 mm of the other; 1 when both are empty, 0 when one is.
        hd95_mm: 95th percentile of the distances between the surfaces, mm; None when one is empty, or both.
        predicted_ml: Volume of the predicted region.
        true_ml: Volume of the true region.
        predicted_fraction: Share of the tumour; None without a tumour contour.
        true_fraction: Likewise.
    """

    dice: float
    surface_dice_2mm: float
    hd95_mm: float | None
    predicted_ml: float
    true_ml: float
    predicted_fraction: float | None
    true_fraction: float | None


def dice(predicted: Mask, true: Mask) -> float:
    """Dice coefficient; 1 when both are empty: nothing was there, and nothing was said to be there.

    Source:
        Dice 1945, Ecology 26:297.

    Example:
        >>> dice(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
    """
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    return 2.0 * int(np.count_nonzero(predicted & true)) / total if total else 1.0


def surface_metrics(predicted: Mask, true: Mask, grid: Grid) -> tuple[float, float | None]:
    """Normalised surface Dice at 2 mm and HD95 in mm, by MONAI.

    Source:
        Nikolov et al. 2021, J Med Internet Res 23:e26151 (surface Dice). Huttenlocher et al. 1993, IEEE TPAMI 15:850.
    """
    if not predicted.any() or not true.any():
        same = predicted.any() == true.any()
        return (1.0 if same else 0.0), None
    box = _surroundings(predicted | true)
    one, other = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None].float() for mask in (predicted, true))
    spacing = list(grid.spacing_mm)
    with warnings.catch_warnings():
        # MONAI 1.6 calls itself by an argument that it is about to remove.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*", category=FutureWarning)
        surface = compute_surface_dice(one, other, [TOLERANCE_MM], include_background=True, spacing=spacing)
        distance = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
    return float(surface), float(distance)


def _surroundings(mask: Mask) -> tuple[slice, ...]:
    """The box of a mask with a voxel of background round it where there is one."""
    where = np.argwhere(mask)
    low, high = np.maximum(where.min(axis=0) - 1, 0), where.max(axis=0) + 2
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def score_region(predicted: Mask, true: Mask, grid: Grid, tumour: Mask | None) -> RegionScore:
    """Every figure of one region.

    Args:
        predicted: i j k.
        true: i j k.
        grid: Grid of both.
        tumour: i j k, for the fraction; None when there is no contour.
    """
    surface, distance = surface_metrics(predicted, true, grid)
    return RegionScore(
        dice=dice(predicted, true),
        surface_dice_2mm=surface,
        hd95_mm=distance,
        predicted_ml=volume_ml(predicted, grid),
        true_ml=volume_ml(true, grid),
        predicted_fraction=None if tumour is None else hypoxic_fraction(predicted, tumour),
        true_fraction=None if tumour is None else hypoxic_fraction(true, tumour),
    )
