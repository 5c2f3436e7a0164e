"""Back to the patient's own grid: only the box that was predicted is resampled, on the device where it lies.

Axis legend: K regions, d h w voxels of the box, D H W voxels of the working grid, i j k voxels of the reference grid.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypoxnet.geometry import Grid
from hypoxnet.inference.windows import Box
from hypoxnet.transforms.sampling import between_voxels, same_grid, sample_into


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
    if same_grid(working, reference):
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
    padded = nn.functional.pad(inside, [n for sides in reversed(open_sides) for n in sides])
    into = between_voxels(working, reference)
    into[:3, 3] += into[:3, :3] @ [side.start for side in wanted]
    into[:3, 3] -= [side.start - before for side, (before, _) in zip(box, open_sides, strict=True)]
    sample_into(native[(slice(None), *wanted)], padded, into, beyond="border")
