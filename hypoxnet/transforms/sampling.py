"""Volumes from one grid onto another: MONAI's linear resampling, bit for bit, slab by slab.

MONAI makes the coordinates of all voxels at once, in float64 many times what is sampled; for a clinical image that is
most of the time and of the memory between its file and the network.

Axis legend: C channels, D H W voxels of the source, i j k voxels of the target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.networks.utils import to_norm_affine
from torch import Tensor, nn

from hypoxnet.geometry import Affine, Grid

# MONAI's: affines that differ by less are the same grid.
SAME_AFFINE = 1e-3
# Voxels that are sampled at once: their coordinates stay in the processor's cache.
SLAB = 2**15
# A GPU has no such cache, and every slab costs it a start.
SLAB_ON_GPU = 2**21


def same_grid(source: Grid, target: Grid) -> bool:
    """Whether MONAI would leave a volume as it is."""
    if source.shape != target.shape:
        return False
    between = between_voxels(source, target)
    return np.allclose(source.matrix, target.matrix, atol=SAME_AFFINE) or np.allclose(
        between, np.eye(4), atol=SAME_AFFINE
    )


def between_voxels(source: Grid, target: Grid) -> Affine:
    """Voxel of the target to voxel of the source, 4 4."""
    return np.asarray(np.linalg.solve(source.matrix, target.matrix))


def resampled(volume: Tensor, source: Grid, target: Grid, *, beyond: str, mode: str = "bilinear") -> Tensor:
    """Volumes on another grid.

    Args:
        volume: C D H W on `source`.
        source: Grid of `volume`.
        target: Grid to sample on.
        beyond: What lies beyond the centres of the outer voxels: `border` repeats them, `zeros` falls to 0.
        mode: `bilinear` (linear, whatever the number of axes), or `nearest`.

    Returns:
        C i j k float32, on the device of `volume`; `volume` itself where the grids are the same and it is float32.

    Example:
        >>> grid = Grid.from_affine((2, 2, 2), np.eye(4))
        >>> half = Grid.from_affine((3, 2, 2), np.diag([0.5, 1.0, 1.0, 1.0]))
        >>> step = torch.tensor([0.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
        >>> resampled(step, grid, half, beyond="zeros")[0, :, 0, 0]
        tensor([0., 2., 4.])
    """
    if same_grid(source, target):
        return volume.float()
    found = torch.empty((len(volume), *target.shape), dtype=torch.float32, device=volume.device)
    sample_into(found, volume, between_voxels(source, target), beyond=beyond, mode=mode)
    return found


def sample_into(found: Tensor, volume: Tensor, into: Affine, *, beyond: str, mode: str = "bilinear") -> None:
    """Write a volume's values at the voxels of `found`.

    Args:
        found: C i j k; may be part of a larger tensor.
        volume: C D H W.
        into: Voxel of `found` to voxel of `volume`, 4 4.
        beyond: As in `resampled`.
        mode: Likewise.
    """
    # float64, as MONAI: a coordinate of 200 in float32 is off by 1e-5 of a voxel.
    source, shape = volume.double()[None], found.shape[1:]
    theta = _theta(into, volume.shape[1:], shape).to(source.device)
    planes = _planes(shape, SLAB if source.device.type == "cpu" else SLAB_ON_GPU)
    base = _plane_coordinates(shape, planes, like=source)
    first = _axis(shape[0], like=source)
    for begin in range(0, shape[0], planes):
        here = first[begin : begin + planes]
        base[: len(here), ..., 2] = here[:, None, None]
        # Planes of `affine_grid` without align_corners, to the bit: 1 i j k 3.
        flat = base[: len(here)].view(1, -1, 4)
        grid = torch.bmm(flat, theta.transpose(1, 2)).view(1, len(here), *shape[1:], 3)
        found[:, begin : begin + planes] = nn.functional.grid_sample(
            source, grid, mode=mode, padding_mode=beyond, align_corners=False
        )[0]


def _planes(shape: Sequence[int], most: int) -> int:
    return min(shape[0], max(1, most // (shape[1] * shape[2])))


def _plane_coordinates(shape: Sequence[int], planes: int, *, like: Tensor) -> Tensor:
    """Homogeneous coordinates of some planes, i j k 4, without those along the first axis."""
    base = like.new_ones((planes, shape[1], shape[2], 4))
    base[..., 0], base[..., 1] = _axis(shape[2], like=like), _axis(shape[1], like=like)[:, None]
    return base


def _axis(n: int, *, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) * (n - 1) / n


def _theta(into: Affine, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """`into` in the coordinates of `grid_sample`, which counts axes from the last; 1 3 4."""
    theta: Tensor = to_norm_affine(torch.from_numpy(np.ascontiguousarray(into))[None], tuple(source), tuple(target))
    order = [2, 1, 0]
    theta[:, :3] = theta[:, order]
    theta[:, :, :3] = theta[:, :, order]
    return theta[:, :3]
