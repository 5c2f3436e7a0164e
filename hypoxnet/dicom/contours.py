"""Closed polygons that enclose exactly the pixels of a mask, holes included.

Axis legend: i j are pixel axes in array order; pixel (i, j) covers the square from corner (i, j) to (i + 1, j + 1).

Polygons run along the edges of pixels. Any reader that asks whether the centre of a pixel is inside gets the mask back,
for single pixels and one-pixel lines too, and the enclosed area is the area of the pixels; a smoothed outline gives
neither.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from itertools import pairwise, takewhile

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Point = tuple[int, int]
Loop = list[Point]

# Quarter turns: +i, +j, -i, -j. The mask lies on the side of +j when walking along +i.
_STEPS: tuple[Point, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))


def trace(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """One closed polygon for each island of a mask, joined to its holes by keyholes.

    Islands are parts connected by edges; parts that touch at a corner are polygons of their own, and an island within
    a hole as well. No two polygons overlap, so readers that unite them and readers that combine them by exclusive or
    see the same.

    Args:
        mask: i j.

    Returns:
        Corners n x 2 of each polygon in order, the first not repeated; pixel centre (i, j) is corner (i + 0.5,
        j + 0.5). Nothing for an empty mask.

    Example:
        >>> trace(np.ones((2, 1), dtype=bool))[0].tolist()
        [[0, 0], [2, 0], [2, 1], [0, 1]]
    """
    labels, count = ndimage.label(mask)  # connected by edges
    loops: dict[int, list[Loop]] = defaultdict(list)
    for loop, label in _loops(np.asarray(labels)):
        loops[label].append(loop)
    polygons = (_keyholed(loops[label]) for label in range(1, count + 1))
    return [np.array(_corners_only(polygon), dtype=np.int64) for polygon in polygons]


def _loops(labels: NDArray[np.integer]) -> list[tuple[Loop, int]]:
    """All boundaries in unit steps with the label on their inner side, outer ones and holes."""
    edges = _edges(labels)
    loops = []
    walked: set[tuple[Point, int]] = set()
    for start, leaving in edges.items():
        for first, label in leaving.items():
            here, direction, loop = start, first, []
            while (here, direction) not in walked:
                walked.add((here, direction))
                loop.append(here)
                here = (here[0] + _STEPS[direction][0], here[1] + _STEPS[direction][1])
                # Towards the mask first: where two pixels touch at a corner the boundary stays with its own.
                turns = ((direction + quarter) % 4 for quarter in (1, 0, 3))
                direction = next(turn for turn in turns if turn in edges[here])
            if loop:
                loops.append((loop, label))
    return loops


def _edges(labels: NDArray[np.integer]) -> dict[Point, dict[int, int]]:
    """Unit edges by the corner they leave: direction, and the label they keep on their inner side."""
    padded = np.pad(labels, 1)
    edges: dict[Point, dict[int, int]] = {}
    # Of a pixel: where its neighbour lies, which corner the edge between them leaves, and in which direction.
    sides = (((0, -1), (0, 0), 0), ((1, 0), (1, 0), 1), ((0, 1), (1, 1), 2), ((-1, 0), (0, 1), 3))
    for (di, dj), (ci, cj), direction in sides:
        neighbour = np.roll(padded, (-di, -dj), axis=(0, 1))[1:-1, 1:-1]
        for i, j in np.argwhere((labels > 0) & (neighbour == 0)).tolist():
            edges.setdefault((i + ci, j + cj), {})[direction] = int(labels[i, j])
    return edges


def _keyholed(loops: list[Loop]) -> Loop:
    """The outer boundary with each hole attached by a channel of no width.

    The channel leaves the hole at its corner of least i and runs along the grid line towards smaller i, where all
    pixels belong to the island, to the nearest boundary; that is the outer one or a hole that begins at a smaller i,
    so holes in order of their least i find what they attach to.
    """
    outer, *holes = sorted(loops, key=min)
    chain = _Chain()
    start = chain.add(outer)
    for hole in holes:
        first = hole.index(min(hole))
        chain.attach(chain.add([*hole[first:], *hole[:first]]))
    return chain.walk(start)


class _Chain:
    """Closed loops as linked nodes; thousands of holes are attached without copying the polygon each time."""

    def __init__(self) -> None:
        self.corners: Loop = []
        self.after: list[int] = []
        self.before: list[int] = []
        self.lines: dict[int, list[tuple[int, int]]] = {}  # by j: i and node, in order

    def add(self, loop: Loop) -> int:
        """Link a loop of its own; its first node."""
        first = len(self.corners)
        for corner in loop:
            self._node(corner)
        self._link([*range(first, len(self.corners)), first])
        return first

    def attach(self, leaf: int) -> None:
        """Join the loop of `leaf` to the boundary that a channel from it towards smaller i meets."""
        at = self._reached(leaf)
        last, onward = self.before[leaf], self.after[at]
        self._link([at, leaf])
        self._link([last, self._node(self.corners[leaf]), self._node(self.corners[at]), onward])

    def walk(self, start: int) -> Loop:
        """The corners of the loop that `start` belongs to."""
        loop, here = [self.corners[start]], self.after[start]
        while here != start:
            loop.append(self.corners[here])
            here = self.after[here]
        return loop

    def _node(self, corner: Point) -> int:
        node = len(self.corners)
        self.corners.append(corner)
        self.after.append(node)
        self.before.append(node)
        insort(self.lines.setdefault(corner[1], []), (corner[0], node))
        return node

    def _link(self, nodes: list[int]) -> None:
        for here, there in pairwise(nodes):
            self.after[here], self.before[there] = there, here

    def _reached(self, leaf: int) -> int:
        """The node the channel reaches, in the passage of the boundary whose inner side it comes from."""
        i, j = self.corners[leaf]
        line = self.lines[j]
        place = bisect_left(line, (i, -1)) - 1
        reached = line[place][0]
        passages = [node for _, node in takewhile(lambda entry: entry[0] == reached, reversed(line[: place + 1]))]
        return next((node for node in passages if self._opens_towards_i(node)), passages[0])

    def _opens_towards_i(self, node: int) -> bool:
        corner = self.corners[node]
        ahead = _direction(corner, self.corners[self.after[node]])
        back = _direction(corner, self.corners[self.before[node]])
        return 0 < -ahead % 4 < ((back - ahead) % 4 or 4)


def _direction(here: Point, there: Point) -> int:
    return _STEPS.index((int(np.sign(there[0] - here[0])), int(np.sign(there[1] - here[1]))))


def _corners_only(polygon: Loop) -> Loop:
    """Without the points that lie on a straight line between their neighbours; turning back is kept."""
    steps = [_direction(here, there) for here, there in zip(polygon, [*polygon[1:], polygon[0]], strict=True)]
    before = [steps[-1], *steps[:-1]]
    return [corner for corner, was, will in zip(polygon, before, steps, strict=True) if was != will]
