"""Hypoxic volume and hypoxic fraction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hypoxnet.geometry import Grid


def volume_ml(mask: NDArray[np.bool_], grid: Grid) -> float:
    """Volume of a mask, mL.

    Args:
        mask: i j k.
        grid: Where it lies.

    Example:
        >>> volume_ml(np.ones((8, 8, 8), dtype=bool), Grid.from_affine((8, 8, 8), np.diag([4.0, 4.0, 4.0, 1.0])))
        32.768
    """
    return float(np.count_nonzero(mask)) * grid.voxel_ml


def hypoxic_fraction(hypoxic: NDArray[np.bool_], tumour: NDArray[np.bool_]) -> float | None:
    """Share of the tumour that is hypoxic, 0 to 1; None when the tumour has no voxel.

    Example:
        >>> hypoxic_fraction(np.array([True, False]), np.array([True, True]))
        0.5
    """
    whole = int(np.count_nonzero(tumour))
    return int(np.count_nonzero(hypoxic & tumour)) / whole if whole else None
