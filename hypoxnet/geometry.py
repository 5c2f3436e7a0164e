"""Where voxels are: the grid of a volume, checks of its affine, and resampling between grids.

Axis legend: i j k are voxel axes in array order; affines map voxel indices to RAS+ millimetres (NIfTI).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypoxnet.errors import GeometryError

Affine = NDArray[np.float64]

# LPS, the coordinates of DICOM, to RAS+, those of NIfTI, and back: left becomes right, posterior becomes anterior.
LPS_TO_RAS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
# Scanners and converters write direction cosines with 6 to 7 digits: angles off by less than this are rounding.
ROUNDING_DEGREES = 0.1
# Corners of two grids that differ by less than this fraction of a voxel are the same grid.
SAME_GRID_VOXELS = 0.05


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular lattice of voxels in patient space.

    Args:
        shape: Number of voxels along i, j, k.
        affine: 4 x 4 in row-major order, voxel index to RAS+ mm.

    Raises:
        GeometryError: The affine is singular, not finite or sheared, or an axis is empty.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not _is_3d(self.shape):
            raise GeometryError(f"shape {self.shape} is not that of a 3D volume; give one volume per file")
        check_affine(self.matrix)

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: NDArray[np.floating]) -> Grid:
        """Build a grid from an array's shape and a 4 x 4 matrix."""
        rows = np.asarray(affine, dtype=np.float64)
        i, j, k = (int(n) for n in shape)
        return cls((i, j, k), tuple(tuple(float(x) for x in row) for row in rows))

    @property
    def matrix(self) -> Affine:
        """The affine as a 4 x 4 array."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j, k, mm."""
        x, y, z = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, mL.

        Example:
            >>> Grid.from_affine((8, 8, 8), np.diag([4.0, 4.0, 4.0, 1.0])).voxel_ml
            0.064
        """
        return round(abs(float(np.linalg.det(self.matrix[:3, :3]))) / 1000.0, 12)

    def corners_mm(self) -> NDArray[np.float64]:
        """The eight corner voxel centres in RAS+ mm, shape 8 x 3."""
        last = [n - 1 for n in self.shape]
        index = np.array([[i * last[0], j * last[1], k * last[2], 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        return np.asarray((index @ self.matrix.T)[:, :3], dtype=np.float64)

    def same_as(self, other: Grid) -> bool:
        """True when both have the same shape and their corners agree to a twentieth of a voxel."""
        if self.shape != other.shape:
            return False
        apart = np.abs(self.corners_mm() - other.corners_mm()).max()
        return bool(apart <= SAME_GRID_VOXELS * min(self.spacing_mm))

    def describe(self) -> str:
        """Shape and spacing for messages, for example `96 x 96 x 64 at 2.0 x 2.0 x 3.0 mm`."""
        spacing = self.spacing_mm
        if max(spacing) - min(spacing) < 5e-3:
            return f"{' x '.join(map(str, self.shape))} at {spacing[0]:.2f} mm"
        return f"{' x '.join(map(str, self.shape))} at {' x '.join(f'{s:.2f}' for s in spacing)} mm"

    def described_beside(self, other: Grid) -> tuple[str, str]:
        """Both in words that differ: with the place of the first voxel, or the largest distance, where sizes agree.

        Example:
            >>> one = Grid.from_affine((8, 8, 8), np.eye(4))
            >>> moved = np.eye(4)
            >>> moved[0, 3] = 7.0
            >>> one.described_beside(Grid.from_affine((8, 8, 8), moved))[1]
            '8 x 8 x 8 at 1.00 mm, first voxel at (7.0, 0.0, 0.0) mm, corners up to 7.00 mm away'
        """
        if self.describe() != other.describe():
            return self.describe(), other.describe()
        far = float(np.abs(self.corners_mm() - other.corners_mm()).max())
        places = [", ".join(f"{row[3]:.1f}" for row in grid.affine[:3]) for grid in (self, other)]
        one, two = (f"{self.describe()}, first voxel at ({place}) mm" for place in places)
        return one, f"{two}, corners up to {far:.2f} mm away"

    def __repr__(self) -> str:
        return f"Grid({self.describe()})"


def _is_3d(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and min(shape) >= 1


def shear_degrees(affine: NDArray[np.floating]) -> float:
    """Largest departure of two voxel axes from a right angle, degrees."""
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    unit = axes / np.linalg.norm(axes, axis=0)
    cosines = unit.T @ unit - np.eye(3)
    return math.degrees(math.asin(min(1.0, float(np.abs(cosines).max()))))


def check_affine(affine: NDArray[np.floating]) -> None:
    """Refuse an affine that no image can have.

    Raises:
        GeometryError: Not 4 x 4, not finite, singular, or sheared by more than rounding explains.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise GeometryError("the affine is not a finite 4 x 4 matrix; write the image again with a valid header")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if lengths.min() <= 0 or abs(np.linalg.det(matrix[:3, :3])) < 1e-6 * float(np.prod(lengths)):
        raise GeometryError("the affine is singular (a voxel axis has no length or two are parallel); mend the header")
    angle = shear_degrees(matrix)
    if angle > ROUNDING_DEGREES:
        raise GeometryError(
            f"the affine is sheared by {angle:.2f} degrees, at most {ROUNDING_DEGREES} is rounding; resample the image "
            "to a grid with right angles"
        )


def without_shear(affine: NDArray[np.floating]) -> tuple[Affine, float]:
    """Nearest affine with right angles (polar decomposition), and the angle that was taken out, degrees.

    Spacing and the position of the first voxel are kept.

    Raises:
        GeometryError: The affine is unusable, see `check_affine`.
    """
    check_affine(affine)
    matrix = np.asarray(affine, dtype=np.float64).copy()
    angle = shear_degrees(matrix)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / lengths)
    matrix[:3, :3] = (left @ right) * lengths
    return matrix, angle
