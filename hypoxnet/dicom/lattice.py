"""The grid of a multi-frame object from its plane positions.

DICOM coordinates are LPS, ours RAS. Axis legend: i columns, j rows, k planes along the normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.dicom.errors import DicomError
from hypoxnet.geometry import LPS_TO_RAS, Grid

FloatArray = NDArray[np.float64]

# Direction cosines are written with six digits and more; a larger departure is no rotation.
ORTHONORMAL = 1e-3
# Plane positions may lie off an even lattice by this share of their distance.
OFF_LATTICE = 0.05


def numbers(value: object, count: int, what: str) -> FloatArray:
    """A multi-valued decimal attribute as `count` finite numbers.

    Raises:
        DicomError: Missing, of another length, or not finite.
    """
    listed: Sequence[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        found = np.array([float(x) for x in listed], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DicomError(f"{what} is missing or holds what is no number") from error
    if found.shape != (count,) or not np.isfinite(found).all() or np.abs(found).max() > 1e6:
        raise DicomError(f"{what} is {found.tolist()}, {count} finite numbers are needed")
    return found


def directions(orientation: FloatArray) -> FloatArray:
    """Columns: direction of rising column index, of rising row index, and their normal, LPS (PS3.3 C.7.6.2.1.1).

    Args:
        orientation: Image Orientation (Patient), 6 numbers.

    Raises:
        DicomError: The two are not of unit length at a right angle.
    """
    row, column = orientation[:3], orientation[3:]
    off = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if off > ORTHONORMAL:
        raise DicomError(f"Image Orientation (Patient) is no rotation, it is off by {off:.3g}: {orientation.tolist()}")
    return np.column_stack([row, column, np.cross(row, column)])


def grid_of(
    shape: tuple[int, int, int], *, axes: FloatArray, spacing: FloatArray, first: FloatArray, step: float
) -> Grid:
    """Grid of an array i j k.

    Args:
        shape: Columns, rows, planes.
        axes: 3 x 3, see `directions`.
        spacing: Pixel Spacing: between rows, then between columns, mm.
        first: Image Position (Patient) of the first plane, LPS mm.
        step: From plane to plane along the normal, mm; negative where planes run against it.

    Raises:
        DicomError: A spacing is not positive, or a step is zero.
    """
    if spacing.min() <= 0 or step == 0:
        raise DicomError(f"Pixel Spacing {spacing.tolist()} mm and planes {step:g} mm apart are no grid")
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([spacing[1], spacing[0], step])
    affine[:3, 3] = first
    return Grid.from_affine(shape, LPS_TO_RAS @ affine)


def even_step(offsets: FloatArray, what: str) -> float:
    """The one distance between planes in their order, mm, negative when they descend.

    Args:
        offsets: Along the normal, mm, at least two.
        what: For the message.

    Raises:
        DicomError: They do not lie evenly, with both numbers.
    """
    steps = np.diff(offsets)
    usual = float((offsets[-1] - offsets[0]) / len(steps))
    worst = steps[int(np.argmax(np.abs(steps - usual)))]
    if usual == 0 or abs(worst - usual) > OFF_LATTICE * abs(usual):
        raise DicomError(
            f"{what} is unevenly spaced: a step of {worst:.3f} mm where {usual:.3f} mm is the mean; export evenly "
            "spaced planes"
        )
    return usual
