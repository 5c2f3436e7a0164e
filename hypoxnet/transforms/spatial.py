"""Onto the working grid and back, by MONAI's resampling.

Axis legend: C channels, i j k voxels of a file's own grid, D H W voxels of the working grid (RAS+).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch, Spacing
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.images import Volume

# 2 GB for each channel; a body of 2 m at 1 mm has fewer.
MOST_VOXELS = 2**29


class WorkingGrid:
    """The reference channel's extent, in RAS+ orientation at the working spacing.

    Args:
        reference: Volume whose grid is the patient's reference grid.
        spacing_mm: Spacing of the working grid.

    Raises:
        CaseError: The working grid would have more than `MOST_VOXELS`.
    """

    def __init__(self, reference: Volume, *, spacing_mm: Sequence[float]) -> None:
        voxels = math.prod(reference.grid.shape) * reference.grid.voxel_ml * 1000.0 / math.prod(spacing_mm)
        if voxels > MOST_VOXELS:
            raise CaseError(
                f"{reference.grid.describe()} at the working spacing of {' x '.join(f'{s:g}' for s in spacing_mm)} mm "
                f"would have {voxels:.2g} voxels, at most {MOST_VOXELS} are made; crop the images, or train at a "
                "coarser data.spacing_mm"
            )
        self.reference = reference
        # Centres of the outer voxels are kept, values beyond them are those of the border.
        self._spacing = Spacing(tuple(spacing_mm), mode="bilinear", padding_mode="border")
        self._orientation = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
        self._match = ResampleToMatch(mode="bilinear", padding_mode="zeros", align_corners=False)

    @cached_property
    def image(self) -> MetaTensor:
        """The reference channel on the working grid, 1 D H W."""
        return self._spacing(self._orientation(with_affine(self.reference.array, self.reference.grid)))

    @cached_property
    def grid(self) -> Grid:
        """The working grid."""
        return Grid.from_affine(self.image.shape[1:], self.image.affine.numpy())

    def resample(self, array: NDArray[np.generic], grid: Grid) -> Tensor:
        """Another volume on the working grid, linear, 0 outside its own extent; 1 D H W float32."""
        resampled = self._match(with_affine(array, grid), self.image)
        plain: Tensor = resampled.as_tensor().float().contiguous()
        return plain

    def covers(self, grid: Grid) -> Tensor:
        """Where a volume on another grid has been measured, 1 D H W bool."""
        inside = self._match(with_affine(np.ones(grid.shape, np.float32), grid), self.image, mode="nearest")
        covered: Tensor = inside.as_tensor() > 0.5
        return covered


def with_affine(array: NDArray[np.generic], grid: Grid) -> MetaTensor:
    """An array as MONAI wants it: 1 i j k with its affine."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return MetaTensor(tensor[None], affine=torch.from_numpy(grid.matrix))


def to_grid(volume: Tensor, source: Grid, target: Grid, *, beyond: str = "border") -> NDArray[np.float32]:
    """Volumes from one grid onto another, linear; used to bring probabilities back to the patient's own grid.

    Args:
        volume: C D H W on `source`.
        source: Grid of `volume`.
        target: Grid to sample on.
        beyond: Value beyond the centres of the outer voxels: `border` repeats them, so that a region which reaches the
            edge of the image is not eaten by half a voxel; `zeros` is for masks.

    Returns:
        C i j k on `target`, float32.
    """
    moving = MetaTensor(volume.detach().cpu().float(), affine=torch.from_numpy(source.matrix))
    fixed = MetaTensor(torch.zeros(1, *target.shape), affine=torch.from_numpy(target.matrix))
    resampled = ResampleToMatch(mode="bilinear", padding_mode=beyond, align_corners=False)(moving, fixed)
    return np.asarray(resampled.as_tensor().numpy(), dtype=np.float32)


def refuse_no_overlap(channel: Grid, reference: Grid, *, case: str) -> None:
    """Two channels of one case must share some space.

    Raises:
        CaseError: Their boxes do not touch.
    """
    first, second = channel.corners_mm(), reference.corners_mm()
    apart = (first.min(axis=0) > second.max(axis=0)) | (second.min(axis=0) > first.max(axis=0))
    if apart.any():
        here, there = (", ".join(f"{x:.0f}" for x in box.mean(axis=0)) for box in (first, second))
        raise CaseError(
            f"{case} is centred at ({here}) mm and the reference channel at ({there}) mm, they do not overlap; "
            "bring both into one space (register them) or mend the affine"
        )
