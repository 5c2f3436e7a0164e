"""Whether the values of a channel or a mask can be what its name says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hypoxnet.quantities import Modality, quantity

# Noise and interpolation leave a range by this share of it at most.
MARGIN = 0.05
# A mask without a voxel says "nothing there"; for these that can be true.
MAY_BE_EMPTY = {"HYPOXIA", "GTVN"}


def implausible(values: NDArray[np.floating], name: str) -> str:
    """What is wrong with a channel, in words that follow the name of its file; empty when nothing is.

    Args:
        values: Voxels, in the quantity's unit.
        name: Quantity.

    Example:
        >>> implausible(np.array([0.0, 30000.0]), "FDG_SUV")
        'has a maximum of 30,000, in g/ml at most 100 is plausible; it may be in Bq/ml or counts, convert it to SUV'
    """
    what = quantity(name)
    low, high = float(values.min()), float(values.max())
    margin = MARGIN * (what.high - what.low)
    if low == high:
        return f"is {low:g} in every voxel; write the image again"
    if high > what.high + margin:
        cause = (
            "it may be in Bq/ml or counts, convert it to SUV" if name.endswith("_SUV") else "convert it to that unit"
        )
        return f"has a maximum of {high:,.6g}, in {what.unit} at most {what.high:g} is plausible; {cause}"
    if low < what.low - margin:
        return (
            f"has a minimum of {low:,.6g}, in {what.unit} at least {what.low:g} is plausible; convert it to that unit"
        )
    if what.modality is Modality.PET and high <= 0:
        return f"has no uptake (maximum {high:g} {what.unit}); write the image again"
    return ""


def empty(mask: NDArray[np.bool_]) -> str:
    """What is wrong with a mask without a voxel, in words that follow the name of its file; empty for any other.

    Example:
        >>> empty(np.zeros((2, 2, 2), dtype=bool))
        'is empty (0 voxels of 8); draw it, or leave the cell empty'
    """
    return "" if mask.any() else f"is empty (0 voxels of {mask.size}); draw it, or leave the cell empty"
