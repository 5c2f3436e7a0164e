"""A stack of parallel contour planes as one solid: inside each plane by parity, between planes by signed distance.

Axis legend: N points; u v lie in the planes, w is along their normal, all mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypoxnet.dicom.polygons import Edges, Mask, Points, distance, edges_of, inside

FloatArray = NDArray[np.float64]

# A gap of more than this many contour spacings separates two parts; a smaller one is bridged.
LARGEST_BRIDGED = 1.5


@dataclass(frozen=True, eq=False)
class PlaneStack:
    """Contour planes in rising order.

    Args:
        positions: w of each plane, mm.
        outlines: Edges of all polygons of each plane, see `polygons.edges_of`.
        spacing_mm: Usual distance of neighbouring planes; the end planes reach half of it further.
        tolerance_mm: A point as near as this to a plane lies in it.
    """

    positions: FloatArray
    outlines: tuple[Edges, ...]
    spacing_mm: float
    tolerance_mm: float

    @property
    def half_mm(self) -> float:
        """How far a part reaches beyond its last plane."""
        return self.spacing_mm / 2

    @property
    def bridged(self) -> Mask:
        """For each plane but the last, whether the shape goes on to the next."""
        return np.diff(self.positions) <= LARGEST_BRIDGED * self.spacing_mm

    def contains(self, points: Points, w: FloatArray) -> tuple[Mask, bool]:
        """Which points are inside, and whether any of them was decided by interpolation between two planes.

        Args:
            points: u and v, N x 2.
            w: N.
        """
        lower, upper, part = self._neighbours(w)
        found = np.zeros(len(w), dtype=np.bool_)
        pair = 2 * lower + (upper > lower)
        for code in np.unique(pair[lower >= 0]):
            here = np.flatnonzero(pair == code)
            first = int(code) // 2
            if code % 2:
                found[here] = self._between(first, points[here], part[here])
            else:
                found[here] = inside(points[here], self.outlines[first])
        return found, bool((upper > lower).any())

    def _neighbours(self, w: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
        """Planes that decide about each w, both the same where one does, -1 where none; and the way between them."""
        last = len(self.positions) - 1
        below = np.searchsorted(self.positions, w, side="right") - 1
        low, high = np.clip(below, 0, last), np.clip(below + 1, 0, last)
        to_low, to_high = w - self.positions[low], self.positions[high] - w
        # Ends are closed below and open above: parts that touch share no point.
        near_low = np.abs(to_low) <= self.tolerance_mm
        near_high = np.abs(to_high) <= self.tolerance_mm
        on_low = near_low | ((below >= 0) & (to_low < self.half_mm - self.tolerance_mm))
        on_high = near_high | ((below < last) & (to_high <= self.half_mm + self.tolerance_mm))
        bridged = np.append(self.bridged, False)[low] & (below >= 0) & ~near_low & ~near_high
        single = np.where(near_low | (on_low & ~near_high), low, np.where(on_high, high, -1))
        lower, upper = np.where(bridged, low, single), np.where(bridged, high, single)
        gap = np.where(high > low, self.positions[high] - self.positions[low], 1.0)
        return lower, upper, np.clip(to_low / gap, 0.0, 1.0)

    def _between(self, first: int, points: Points, part: FloatArray) -> Mask:
        """Shape-based interpolation: inside where the weighted signed distances of both outlines are negative.

        Source:
            Raya and Udupa 1990, IEEE Trans Med Imaging 9:32: shape-based interpolation of multidimensional objects.
        """
        outlines = self.outlines[first], self.outlines[first + 1]
        here, there = (inside(points, outline) for outline in outlines)
        found = here & there
        # Where both agree their distances have the same sign, and so does any mean: only the rest needs distances.
        rest = np.flatnonzero(here ^ there)
        if len(rest) and len(outlines[0]) and len(outlines[1]):
            apart = [distance(points[rest], outline) for outline in outlines]
            signed = [np.where(side[rest], -d, d) for side, d in zip((here, there), apart, strict=True)]
            found[rest] = (1 - part[rest]) * signed[0] + part[rest] * signed[1] < 0
        return found


def stack_planes(polygons: list[Points], w: FloatArray, *, thickness_mm: float, tolerance_mm: float) -> PlaneStack:
    """Group polygons by plane.

    Args:
        polygons: N x 2 each.
        w: Position of each polygon, at least one.
        thickness_mm: Contour spacing to assume where all polygons lie in one plane.
        tolerance_mm: Polygons whose positions differ by no more than this lie in one plane.
    """
    order = np.argsort(w, kind="stable")
    starts = np.flatnonzero(np.diff(w[order], prepend=-np.inf) > tolerance_mm)
    groups = np.split(order, starts[1:])
    positions = np.array([w[group].mean() for group in groups])
    return PlaneStack(
        positions=positions,
        outlines=tuple(edges_of([polygons[n] for n in group]) for group in groups),
        spacing_mm=float(np.median(np.diff(positions))) if len(positions) > 1 else thickness_mm,
        tolerance_mm=tolerance_mm,
    )
