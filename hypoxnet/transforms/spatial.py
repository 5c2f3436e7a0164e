"""Onto the working grid and back.

Axis legend: C channels, i j k voxels of a file's own grid, D H W voxels of the working grid (RAS+).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from monai.utils.enums import LazyAttr
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.images import Volume
from hypoxnet.transforms.sampling import resampled, same_grid, sample_into

# 2 GB for each channel; a body of 2 m at 1 mm has fewer.
MOST_VOXELS = 2**29


class WorkingGrid:
    """The reference channel's extent, in RAS+ orientation at the working spacing.

    Args:
        reference: Volume whose grid is the patient's reference grid.
        spacing_mm: Spacing of the working grid.

    Attributes:
        reference: The reference grid.
        grid: The working grid.
        image: The reference channel on it, 1 D H W; beyond the centres of its outer voxels the border is repeated.

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
        self.reference = reference.grid
        upright = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
        image = upright(MetaTensor(_voxels(reference.array), affine=torch.from_numpy(reference.grid.matrix)))
        # Only asked where the working grid lies.
        laid = Spacing(tuple(spacing_mm), lazy=True)(image)
        own = Grid.from_affine(image.shape[1:], image.affine.numpy())
        grid = Grid.from_affine(laid.peek_pending_shape(), laid.peek_pending_affine().numpy())
        if same_grid(own, grid):
            self.grid, self.image = own, image.as_tensor()
            return
        self.grid, self.image = grid, torch.empty((1, *grid.shape))
        into = laid.pending_operations[-1][LazyAttr.AFFINE].numpy()
        sample_into(self.image, image.as_tensor(), into, beyond="border")

    def resample(self, array: NDArray[np.generic], grid: Grid) -> Tensor:
        """Another volume on the working grid, linear, 0 outside its own extent; 1 D H W float32."""
        return resampled(_voxels(array), grid, self.grid, beyond="zeros")

    def covers(self, grid: Grid) -> Tensor:
        """Where a volume on another grid has been measured, 1 D H W bool."""
        everywhere = torch.ones((), dtype=torch.float64).expand(1, *grid.shape)
        return resampled(everywhere, grid, self.grid, beyond="zeros", mode="nearest") > 0.5


def _voxels(array: NDArray[np.generic]) -> Tensor:
    """1 i j k."""
    return torch.from_numpy(np.ascontiguousarray(array))[None]


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
    return resampled(volume.detach().cpu().float(), source, target, beyond=beyond).numpy()


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
