"""Grids and resampling as arithmetic of ONNX: what `transforms.spatial` does by MONAI, in float64 as there.

Axis legend: i j k voxels of a file's own grid, D H W voxels of the grid that is sampled on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypoxnet.bundle.export.onnx_tape import Tape, Value
from hypoxnet.geometry import SAME_GRID_VOXELS

# MONAI's: affines that differ by less are the same grid.
SAME_AFFINE = (1e-3, 1e-5)
# Newton's steps to the nearest rotation; each squares what angles are off, 2e-3 at most.
TO_ROTATION = 4
CORNERS = np.array(list(itertools.product((0.0, 1.0), repeat=3))).T


@dataclass(frozen=True, slots=True)
class TapeGrid:
    """A grid inside a graph.

    Args:
        axes: 3 3, mm from a voxel to the next along i, j, k; at right angles.
        origin: 3 1, first voxel, mm.
        shape: 3, int64.
    """

    axes: Value
    origin: Value
    shape: Value

    @classmethod
    def of_affine(cls, tape: Tape, affine: Value, shape: Value) -> TapeGrid:
        """Of a header, which rounds: axes are made orthogonal as `geometry.without_shear` does."""
        axes = affine.part([0, 0], [3, 3], (0, 1))
        lengths = tape.Sqrt(tape.total(axes * axes, (0,), keep=True))
        unit = axes / lengths
        for _ in range(TO_ROTATION):
            unit = unit * 1.5 - unit @ (unit.turned @ unit) * 0.5
        return cls(unit * lengths, affine.part([0, 3], [3, 4], (0, 1)), shape)

    @classmethod
    def chosen(cls, tape: Tape, grids: Sequence[TapeGrid], place: Value) -> TapeGrid:
        """One of several, by its place."""
        axes, origins, shapes = ([getattr(grid, part) for grid in grids] for part in ("axes", "origin", "shape"))
        return cls(*(tape.Gather(tape.stacked(parts), place, axis=0) for parts in (axes, origins, shapes)))

    @property
    def affine(self) -> Value:
        """4 4."""
        tape = self.axes.tape
        return tape.Concat(tape.Concat(self.axes, self.origin, axis=1), [[0.0, 0.0, 0.0, 1.0]], axis=0)

    @property
    def spacing_mm(self) -> Value:
        """3."""
        tape = self.axes.tape
        return tape.Sqrt(tape.total(self.axes * self.axes, (0,)))

    @property
    def corners_mm(self) -> Value:
        """3 8."""
        last = (self.shape - 1).cast("float64").reshaped(3, 1)
        return self.axes @ (last * CORNERS) + self.origin

    def into(self, other: TapeGrid) -> Value:
        """4 4, from a voxel here to the voxel of another grid, which has right angles."""
        squared = self.axes.tape.total(other.axes * other.axes, (0,)).reshaped(3, 1)
        back = other.axes.turned / squared
        return TapeGrid(back @ self.axes, back @ (self.origin - other.origin), self.shape).affine

    def same_voxels(self, other: TapeGrid) -> Value:
        """Whether MONAI takes both for one grid, and leaves voxels as they are."""
        tape = self.axes.tape
        identity = np.eye(4)
        close = _close(self.affine, other.affine) | _close(self.into(other), tape.Identity(identity))
        return close & _all(tape, tape.Equal(self.shape, other.shape))

    def same_as(self, other: TapeGrid) -> Value:
        """As `geometry.Grid.same_as`: corners agree to a twentieth of a voxel."""
        tape = self.axes.tape
        apart = tape.ReduceMax(tape.Abs(self.corners_mm - other.corners_mm), keepdims=0)
        near = tape.LessOrEqual(apart, tape.ReduceMin(self.spacing_mm, keepdims=0) * SAME_GRID_VOXELS)
        return near & _all(tape, tape.Equal(self.shape, other.shape))


def working_grid(reference: TapeGrid, spacing_mm: Sequence[float]) -> TapeGrid:
    """`transforms.spatial.WorkingGrid`: the extent of a grid, RAS+, at a spacing; centres of outer voxels are kept."""
    tape = reference.axes.tape
    signed = _closest_axes(reference)
    # Where an axis runs backwards, the first voxel is the last of the file.
    last = (reference.shape - 1).cast("float64")
    first = tape.Max(tape.ReduceMin(signed, [0], keepdims=0) * -1.0, 0.0) * last
    axes = reference.axes @ signed.turned
    origin = reference.axes @ first.reshaped(3, 1) + reference.origin
    old_mm = tape.Sqrt(tape.total(axes * axes, (0,)))
    wanted_mm = [float(side) for side in spacing_mm]
    # MONAI keeps a spacing that is the wanted one but for rounding.
    kept = tape.LessOrEqual(tape.Abs(old_mm - wanted_mm), SAME_AFFINE[0])
    steps = (tape.Abs(signed) @ last.reshaped(3, 1)).reshaped(3)
    # As MONAI rounds: whether n + 1/2 voxels become n or n + 1 hangs on the last bit, and so on where the grid lies.
    reciprocal = tape.Where(kept, 1.0 / old_mm, [1.0 / side for side in wanted_mm])
    begin = ((axes / _one_row(old_mm)).turned @ origin).reshaped(3) * reciprocal
    times = tape.Where(kept, 1.0, old_mm * [1.0 / side for side in wanted_mm])
    shape = tape.Round((steps * times + begin) - begin + 1.0).cast("int64")
    return TapeGrid(axes * _one_row(tape.Where(kept, old_mm, wanted_mm) / old_mm), origin, shape)


def _one_row(values: Value) -> Value:
    return values.reshaped(1, 3)


def _closest_axes(grid: TapeGrid) -> Value:
    """3 3 of -1, 0, 1: along which axis of the body each axis of the file runs, the least oblique choosing first."""
    tape = grid.axes.tape
    places = [0, 1, 2]
    left = grid.axes / _one_row(grid.spacing_mm)
    strength, signed = tape.ReduceMax(left * left, [0], keepdims=0), tape.Identity(np.zeros((3, 3)))
    for _ in places:
        strongest = tape.ArgMax(strength, axis=0, keepdims=0)
        own = tape.Equal(strongest, places)
        column = tape.Gather(left, strongest, axis=1)
        chosen = tape.Equal(tape.ArgMax(tape.Abs(column), axis=0, keepdims=0), places).cast("float64")
        direction = chosen * tape.Sign(tape.total(chosen * column, (0,)))
        signed = signed + direction.reshaped(3, 1) * _one_row(own.cast("float64"))
        strength, left = tape.Where(own, -1.0, strength), left * (1.0 - chosen).reshaped(3, 1)
    return signed


def onto(voxels: Value, step: Value, shape: Value, *, same: Value, unless: Value | None = None) -> Value:
    """As `sampled`, linear; where the grids are the same, the voxels as they are.

    Args:
        voxels: As for `sampled`.
        step: Likewise.
        shape: Likewise.
        same: Whether the grids are the same.
        unless: Likewise; not together with `same`.
    """
    tape = voxels.tape
    kept = voxels.part([0, 0, 0], tape.Where(same, shape, 0), (1, 2, 3))
    moved = sampled(voxels, step, shape, unless=same if unless is None else same | unless)
    return moved + filled(kept, shape)


def sampled(
    voxels: Value,
    step: Value,
    shape: Value,
    *,
    repeat_edge: Value | None = None,
    nearest: bool = False,
    unless: Value | None = None,
) -> Value:
    """Volumes on another grid: linear, or by the nearest voxel, and 0 beyond the source.

    Args:
        voxels: C i j k, float64.
        step: 4 4, from a voxel of the target to a voxel of the source.
        shape: D H W of the target, int64.
        repeat_edge: Whether values of the outer voxels are repeated beyond their centres; None never does.
        nearest: By the nearest voxel.
        unless: Where it holds, nothing is sampled and every voxel is 0: the graph has no branches to go round it.

    Returns:
        C D H W, float64.
    """
    tape = voxels.tape
    wanted = shape if unless is None else tape.Where(unless, 0, shape)
    sides = tape.Shape(voxels, start=1).cast("float64")
    # GridSample has -1 and 1 at the outer sides of the outer voxels, and its axes in the order k j i.
    scale, edge = 2.0 / sides, 1.0 - 1.0 / sides
    step = step.part([0], [3], (0,))
    parts = [
        (step.at(axis, axis=1) * scale).at(2, 1, 0).reshaped(1, 3)
        * tape.Range(0, wanted.at(axis), 1).cast("float64").reshaped(-1, 1)
        for axis in range(3)
    ]
    shift = (step.at(3, axis=1) * scale - edge).at(2, 1, 0).reshaped(1, 3)
    d, h, w = (
        part.reshaped(*sides, 3) for part, sides in zip(parts, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )
    places = d + (h + (w + shift))
    if repeat_edge is not None:
        most = tape.Where(repeat_edge, edge, [np.inf] * 3).at(2, 1, 0)
        places = tape.Max(tape.Min(places, most), most * -1.0)
    found = tape.GridSample(
        tape.Unsqueeze(voxels, [0]),
        tape.Unsqueeze(places, [0]),
        mode="nearest" if nearest else "linear",
        padding_mode="zeros",
        align_corners=0,
    ).at(0)
    return found if unless is None else filled(found, shape)


def bounds(mask: Value) -> tuple[Value, Value]:
    """First voxel of what is above 0 of i j k, and the one after its last; everything where nothing is."""
    tape, axes = mask.tape, (0, 1, 2)
    rows = [tape.ReduceMax(mask, [other for other in axes if other != axis], keepdims=0) for axis in axes]
    first = tape.stacked([tape.ArgMax(row, axis=0, keepdims=0) for row in rows])
    last = tape.stacked([tape.ArgMax(row, axis=0, keepdims=0, select_last_index=1) for row in rows])
    return first, last + 1


def filled(part: Value, shape: Value) -> Value:
    """All of a shape or nothing of it, C D H W: nothing is filled with 0."""
    tape = part.tape
    missing = shape - tape.Shape(part, start=1)
    return tape.Pad(part, tape.Concat([0] * 5, missing, axis=0))


def _close(one: Value, other: Value) -> Value:
    tape = one.tape
    absolute, relative = SAME_AFFINE
    return _all(tape, tape.LessOrEqual(tape.Abs(one - other), tape.Abs(other) * relative + absolute))


def _all(tape: Tape, conditions: Value) -> Value:
    return tape.ReduceMin(conditions.cast("int64"), keepdims=0).cast("bool")
