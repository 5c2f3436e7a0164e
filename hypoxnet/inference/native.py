"""Back to the patient's own grid: only the box that was predicted is resampled, on the device where it lies.

Axis legend: K regions, d h w voxels of the box, D H W voxels of the working grid, i j k voxels of the reference grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypoxnet.geometry import Affine, Grid
from hypoxnet.inference.windows import Box

# MONAI's: affines that differ by less are the same grid. The working image was made by this rule, so must the way back.
SAME_AFFINE = 1e-3
# Voxels that are sampled at once: their coordinates in float64 are many times what is sampled.
SLAB = 2**19


def onto_reference(inside: Tensor, box: Box, working: Grid, reference: Grid, *, only: Box | None = None) -> Tensor:
    """Volumes that are 0 outside a box of the working grid on the reference grid, linear.

    It is `to_grid` with `beyond="border"` of the whole working grid, to rounding: beyond the centres of the outer
    voxels the border is repeated, at the box's other sides values fall to 0 over one voxel.

    Args:
        inside: K d h w, values inside `box`.
        box: Where `inside` lies on the working grid.
        working: The working grid.
        reference: Grid to sample on.
        only: Voxels i j k that are wanted; the others are 0. None wants all.

    Returns:
        K i j k float32, on the device of `inside`, or on the CPU where that device has no float64.

    Example:
        >>> grid = Grid.from_affine((4, 4, 4), np.eye(4))
        >>> middle = (slice(1, 3), slice(1, 3), slice(1, 3))
        >>> float(onto_reference(torch.ones(1, 2, 2, 2), middle, grid, grid).sum())
        8.0
    """
    inside = inside if inside.device.type in {"cpu", "cuda"} else inside.cpu()
    native = torch.zeros((len(inside), *reference.shape), dtype=torch.float32, device=inside.device)
    if _same(working, reference):
        native[(slice(None), *box)] = inside.float()
        return native if only is None else _only(native, only)
    wanted = _meeting(_reached(box, working, reference), only)
    if all(side.start < side.stop for side in wanted):
        _sample(native, inside, box, working, reference, wanted)
    return native


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box that holds a mask; empty when the mask is."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        there = np.flatnonzero(mask.any(axis=others))
        sides.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return sides[0], sides[1], sides[2]


def _same(working: Grid, reference: Grid) -> bool:
    if working.shape != reference.shape:
        return False
    between = np.linalg.solve(working.matrix, reference.matrix)
    return np.allclose(working.matrix, reference.matrix, atol=SAME_AFFINE) or np.allclose(
        between, np.eye(4), atol=SAME_AFFINE
    )


def _only(native: Tensor, only: Box) -> Tensor:
    kept = torch.zeros_like(native)
    kept[(slice(None), *only)] = native[(slice(None), *only)]
    return kept


def _meeting(one: Box, other: Box | None) -> Box:
    if other is None:
        return one
    i, j, k = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return i, j, k


def _reached(box: Box, working: Grid, reference: Grid) -> Box:
    """Reference voxels at which a box can be seen: within a voxel of it, or beyond the image if it touches the edge."""
    into = np.linalg.solve(working.matrix, reference.matrix)
    corners = np.array(list(itertools.product(*((0.0, n - 1.0) for n in reference.shape))))
    extent = corners @ into[:3, :3].T + into[:3, 3]
    sides = [
        (
            min(extent[:, axis].min(), 0.0) - 1.0 if side.start == 0 else side.start - 1.0,
            max(extent[:, axis].max(), float(side.stop)) + 1.0 if side.stop == length else float(side.stop),
        )
        for axis, (side, length) in enumerate(zip(box, working.shape, strict=True))
    ]
    back = np.linalg.inv(into)
    places = np.array(list(itertools.product(*sides))) @ back[:3, :3].T + back[:3, 3]
    i, j, k = (
        slice(max(0, math.floor(low)), min(length, math.ceil(high) + 1))
        for low, high, length in zip(places.min(axis=0), places.max(axis=0), reference.shape, strict=True)
    )
    return i, j, k


def _sample(native: Tensor, inside: Tensor, box: Box, working: Grid, reference: Grid, wanted: Box) -> None:
    """Write the values at the wanted voxels into `native`, K i j k float32."""
    open_sides = [
        (int(side.start > 0), int(side.stop < length)) for side, length in zip(box, working.shape, strict=True)
    ]
    # float64, as MONAI: a coordinate of 200 in float32 is off by 1e-5 of a voxel.
    padded = nn.functional.pad(inside.double(), [n for sides in reversed(open_sides) for n in sides])
    first = [side.start - before for side, (before, _) in zip(box, open_sides, strict=True)]
    into = np.linalg.solve(working.matrix, reference.matrix)
    starts = np.array([side.start for side in wanted], dtype=np.float64)
    offset = into[:3, :3] @ starts + into[:3, 3] - np.array(first, dtype=np.float64)
    shape = [side.stop - side.start for side in wanted]
    theta = _theta(np.asarray(into[:3, :3]), np.asarray(offset), padded.shape[1:], shape).to(padded.device)
    thick = max(1, SLAB // (shape[1] * shape[2]))
    for begin in range(0, shape[0], thick):
        grid = _part_of_grid(theta, shape, slice(begin, min(begin + thick, shape[0])))
        sampled = nn.functional.grid_sample(
            padded[None], grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        at = wanted[0].start + begin
        native[:, at : at + sampled.shape[2], wanted[1], wanted[2]] = sampled[0]


def _part_of_grid(theta: Tensor, shape: Sequence[int], planes: slice) -> Tensor:
    """Planes of `affine_grid` without align_corners, to the bit: 1 i j k 3."""
    k, j, i = (torch.linspace(-1, 1, n, dtype=theta.dtype, device=theta.device) * (n - 1) / n for n in reversed(shape))
    base = theta.new_ones((planes.stop - planes.start, shape[1], shape[2], 4))
    base[..., 0], base[..., 1], base[..., 2] = k, j[:, None], i[planes, None, None]
    return torch.bmm(base.view(1, -1, 4), theta.transpose(1, 2)).view(1, *base.shape[:3], 3)


def _theta(axes: Affine, offset: Affine, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Voxel of the target to voxel of the source, `axes @ x + offset`, in the coordinates of `grid_sample`; 1 3 4."""
    voxel_of = np.diag([n / 2 for n in target]), np.array([(n - 1) / 2 for n in target])
    per_voxel, middle = np.diag([2 / n for n in source]), np.array([1 / n - 1 for n in source])
    matrix = per_voxel @ axes @ voxel_of[0]
    shift = per_voxel @ (axes @ voxel_of[1] + offset) + middle
    # grid_sample counts its axes from the last.
    theta = np.concatenate([matrix[::-1, ::-1], shift[::-1, None]], axis=1)
    return torch.from_numpy(np.ascontiguousarray(theta))[None]
