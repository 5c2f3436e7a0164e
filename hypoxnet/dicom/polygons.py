"""Closed polygons in a plane: which points lie inside, and how far points are from the outline.

Axis legend: N points or edges; u v are coordinates in the plane, mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Edges = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Points times edges of one block of distances: 32 MiB per intermediate array.
_BLOCK = 1 << 22
# Vertices that agree to a tenth of a micrometre are one, mm.
_DIGITS = 4


def edges_of(polygons: Sequence[Points]) -> Edges:
    """All edges of closed polygons, N x 4: u and v of the start, u and v of the end.

    An edge that is run along an even number of times bounds nothing and is left out: the two sides of a keyhole's
    channel, and the border that two polygons share.

    Args:
        polygons: Vertices, each N x 2; the last is joined to the first.

    Example:
        >>> edges_of([np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])]).shape
        (3, 4)
    """
    joined = [np.concatenate([polygon, np.roll(polygon, -1, axis=0)], axis=1) for polygon in polygons]
    # Rounded first, so that a vertex has one value however often it is drawn: parity stays exact.
    edges = np.round(np.concatenate(joined), _DIGITS) if joined else np.empty((0, 4))
    backwards = (edges[:, 0] > edges[:, 2]) | ((edges[:, 0] == edges[:, 2]) & (edges[:, 1] > edges[:, 3]))
    edges[backwards] = edges[backwards][:, [2, 3, 0, 1]]
    # The directions are gone: parity does not need them.
    _, where, times = np.unique(edges + 0.0, axis=0, return_index=True, return_counts=True)
    kept = edges[np.sort(where[times % 2 == 1])]
    return np.asarray(kept[(kept[:, :2] != kept[:, 2:]).any(axis=1)], dtype=np.float64)


def inside(points: Points, edges: Edges) -> Mask:
    """Even-odd rule: a point is inside when a ray from it towards +u crosses the edges an odd number of times.

    Holes come out right however they are drawn, as a nested polygon of either direction or by a keyhole. A point on
    an edge counts as if it were moved a little towards +u and +v, so that two polygons that share an edge share no
    point.

    Args:
        points: N x 2.
        edges: N x 4, see `edges_of`.
    """
    order = np.argsort(points[:, 1], kind="stable")
    u, v = points[order, 0], points[order, 1]
    low, high = np.minimum(edges[:, 1], edges[:, 3]), np.maximum(edges[:, 1], edges[:, 3])
    # An edge reaches the points of low <= v < high: a vertex between two edges is counted once.
    first, last = np.searchsorted(v, low, side="left"), np.searchsorted(v, high, side="left")
    odd = np.zeros(len(points), dtype=np.bool_)
    for edge, start, stop in zip(edges, first, last, strict=True):
        if start < stop:
            u0, v0, u1, v1 = edge
            odd[start:stop] ^= u[start:stop] < u0 + (v[start:stop] - v0) * ((u1 - u0) / (v1 - v0))
    found = np.empty_like(odd)
    found[order] = odd
    return found


def distance(points: Points, edges: Edges) -> NDArray[np.float64]:
    """Distance of each point to the nearest edge, mm, at least 0.

    Args:
        points: N x 2.
        edges: N x 4, at least one.
    """
    nearest = np.empty(len(points))
    rows = max(1, _BLOCK // max(1, len(edges)))
    start, along = edges[:, :2], edges[:, 2:] - edges[:, :2]
    squared = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)
    for row in range(0, len(points), rows):
        block = points[row : row + rows]
        away_u, away_v = block[:, :1] - start[:, 0], block[:, 1:] - start[:, 1]
        part = np.clip((away_u * along[:, 0] + away_v * along[:, 1]) / squared, 0.0, 1.0)
        gaps = (away_u - part * along[:, 0]) ** 2 + (away_v - part * along[:, 1]) ** 2
        nearest[row : row + rows] = np.sqrt(gaps.min(axis=1))
    return nearest
