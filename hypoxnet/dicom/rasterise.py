"""Contours to voxels: a voxel belongs to a region when its centre is inside.

Axis legend: i j k voxel axes; x y z are LPS mm; u v w the frame of the contour planes, w along their normal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.planes import PlaneStack, stack_planes
from hypoxnet.dicom.structures import CLOSED, NO_AREA_MM2, Contour, Roi, area_mm2, area_vector
from hypoxnet.geometry import LPS_TO_RAS, Grid

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A contour whose points leave an image plane by less than this share of the slice spacing lies in it.
IN_PLANE = 0.1
# A contour that is bent by more than this share of the smallest voxel edge is not planar.
BENT = 0.25
# Contours as near as this lie in one plane; a tenth of a slice where slices are thinner than a millimetre.
SAME_PLANE_MM = 0.1
# Centres on an edge are moved by this share of a voxel: more than rounding of coordinates, less than anything drawn.
NUDGE = 1e-3
# Reaching out of the grid by less than this share of a voxel is rounding.
OVERHANG = 0.01


@dataclass(frozen=True, eq=False)
class RoiMask:
    """A region on a grid.

    Args:
        mask: i j k.
        notes: What the reader of the mask should know, one sentence each; empty when nothing was assumed.
    """

    mask: Mask
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Frame:
    """The contour planes in space.

    Args:
        rows: 3 x 3: u, v and w direction in LPS, of unit length.
        along: The voxel axis that is most parallel to w.
        aligned: Whether contours lie in image planes.
    """

    rows: FloatArray
    along: int
    aligned: bool


def mask_of(roi: Roi, grid: Grid, *, frame_of_reference_uid: str) -> RoiMask:
    """Voxels of `grid` whose centre lies inside the contours.

    Within a plane parity decides over all contours of the plane (even-odd), so holes come out right by nested contours
    of any direction and by keyholes. A centre on an edge counts as if it were moved a thousandth of a voxel towards
    rising patient coordinates (left, posterior, superior). Between planes the shape is interpolated by signed distance;
    the end planes reach half a contour spacing further, and a gap of more than 1.5 contour spacings is left empty.

    Args:
        roi: The region.
        grid: Where the mask is wanted.
        frame_of_reference_uid: That of the images on `grid`.

    Returns:
        The mask, all False when the region is so small that it holds no voxel centre; a note says so.

    Raises:
        DicomError: Another frame of reference, no contour that encloses an area, contours that are bent or not parallel
            to each other, or a region wholly outside of the grid.

    Source:
        DICOM PS3.3 C.8.8.6.3: representing inner and outer contours.
    """
    _check_frame(roi, frame_of_reference_uid)
    notes: list[str] = []
    contours = _closed(roi, notes)
    to_index = np.linalg.inv(LPS_TO_RAS @ grid.matrix)
    indices = [contour @ to_index[:3, :3].T + to_index[:3, 3] for contour in contours]
    _check_inside(roi, grid, indices, notes)
    frame = _frame(contours, indices, grid)
    stack = _stack(roi, contours, frame, grid)
    mask, interpolated = _fill(stack, frame, grid, np.concatenate(contours))
    if not mask.any():
        _explain_empty(roi, grid, indices, notes)
    _tell(stack, frame, grid, notes, interpolated=interpolated)
    return RoiMask(mask, tuple(notes))


def _check_frame(roi: Roi, uid: str) -> None:
    if not roi.frame_of_reference_uid or roi.frame_of_reference_uid != uid:
        raise DicomError(
            f"region {roi.name!r} lies in frame of reference {roi.frame_of_reference_uid or 'unknown'}, the image in "
            f"{uid or 'unknown'}; use the series it was drawn on, or register the two and transfer the contours"
        )


def _closed(roi: Roi, notes: list[str]) -> list[Contour]:
    """Contours that enclose an area, each once."""
    others = Counter(kind for kind in roi.geometric_types if kind not in CLOSED)
    notes.extend(f"{count} contour(s) of type {kind} left out" for kind, count in others.items())
    closed = roi.closed
    if not closed:
        held = ", ".join(f"{count} {kind}" for kind, count in others.items()) or "no contour"
        raise DicomError(f"region {roi.name!r} encloses nothing: it holds {held}; draw closed contours")
    solid = [contour for contour in closed if area_mm2(contour) > NO_AREA_MM2]
    if not solid:
        raise DicomError(f"region {roi.name!r}: all of its {len(closed)} closed contours have no area; draw it again")
    if len(solid) < len(closed):
        notes.append(f"{len(closed) - len(solid)} of {len(closed)} contours have no area and are left out")
    # Twice the same contour would cancel itself; which point it starts from and which way it runs does not matter.
    once = {np.unique(np.round(contour, 3) + 0.0, axis=0).tobytes(): contour for contour in reversed(solid)}
    if len(once) < len(solid):
        notes.append(f"{len(solid) - len(once)} contours repeat another one and are left out")
    return list(reversed(once.values()))


def _check_inside(roi: Roi, grid: Grid, indices: list[FloatArray], notes: list[str]) -> None:
    points = np.concatenate(indices)
    low, high = points.min(axis=0), points.max(axis=0)
    edge = np.array(grid.shape) - 0.5
    if (high < -0.5).any() or (low > edge).any():
        raise _outside(roi, grid, low, high)
    over = (low < -0.5 - OVERHANG) | (high > edge + OVERHANG)
    if over.any():
        axes = ", ".join(
            f"{'ijk'[a]} from {low[a]:.1f} to {high[a]:.1f} of {grid.shape[a]} voxels" for a in np.flatnonzero(over)
        )
        notes.append(f"reaches out of the image and is cut: {axes}")


def _outside(roi: Roi, grid: Grid, low: FloatArray, high: FloatArray) -> DicomError:
    spans = ", ".join(f"{'ijk'[a]} {low[a]:.1f} to {high[a]:.1f}" for a in range(3))
    return DicomError(
        f"region {roi.name!r} lies wholly outside of the image ({spans}; the image has {grid.describe()}); use the "
        "series it was drawn on"
    )


def _explain_empty(roi: Roi, grid: Grid, indices: list[FloatArray], notes: list[str]) -> None:
    points = np.concatenate(indices)
    if not ((points > -0.5) & (points < np.array(grid.shape) - 0.5)).all(axis=1).any():
        raise _outside(roi, grid, points.min(axis=0), points.max(axis=0))
    notes.append("holds no voxel centre: the mask is empty")


def _frame(contours: list[Contour], indices: list[FloatArray], grid: Grid) -> _Frame:
    """Directions of the contour planes: those of the image where contours lie in its planes."""
    bent = np.max([np.ptp(index, axis=0) for index in indices], axis=0)
    axes = (LPS_TO_RAS @ grid.matrix)[:3, :3]
    flat = int(np.argmin(bent))
    if bent[flat] <= IN_PLANE:
        first, second = (a for a in range(3) if a != flat)
        normal = np.cross(axes[:, first], axes[:, second])
        return _Frame(_directions(normal, axes[:, first]), flat, aligned=True)
    vectors = np.array([area_vector(contour) for contour in contours])
    largest = vectors[np.argmax(np.linalg.norm(vectors, axis=1))]
    normal = (vectors * np.where(vectors @ largest < 0, -1.0, 1.0)[:, None]).sum(axis=0)
    steepness = np.abs(normal @ (axes / np.linalg.norm(axes, axis=0)))
    along = int(np.argmax(steepness))
    return _Frame(_directions(normal, axes[:, int(np.argmin(steepness))]), along, aligned=False)


def _directions(normal: FloatArray, first: FloatArray) -> FloatArray:
    """Unit u, v, w as rows, w along `normal` and u near `first`, each towards rising patient coordinates."""
    w = normal / np.linalg.norm(normal)
    u = first - (first @ w) * w
    rows = np.array([u / np.linalg.norm(u), np.cross(w, u / np.linalg.norm(u)), w])
    largest = np.argmax(np.abs(rows), axis=1)
    # Mirrored frames are welcome: nothing below depends on handedness, but ties must not depend on storage order.
    return np.asarray(rows * np.sign(rows[np.arange(3), largest])[:, None], dtype=np.float64)


def _thickness(frame: _Frame, grid: Grid) -> float:
    """Extent of a voxel along the normal of the contour planes, mm."""
    return float(np.abs(frame.rows[2] @ (LPS_TO_RAS @ grid.matrix)[:3, :3]).sum())


def _stack(roi: Roi, contours: list[Contour], frame: _Frame, grid: Grid) -> PlaneStack:
    placed = [contour @ frame.rows.T for contour in contours]
    thickness = _thickness(frame, grid)
    bent = max(float(np.ptp(points[:, 2])) for points in placed)
    allowed = BENT * min(grid.spacing_mm)
    if bent > allowed and not frame.aligned:
        raise DicomError(
            f"region {roi.name!r}: a contour leaves the common plane direction by {bent:.2f} mm, at most {allowed:.2f} "
            "mm is rounding; contours must be planar and parallel, export them on one series"
        )
    w = np.array([points[:, 2].mean() for points in placed])
    tolerance = min(SAME_PLANE_MM, IN_PLANE * thickness)
    return stack_planes([points[:, :2] for points in placed], w, thickness_mm=thickness, tolerance_mm=tolerance)


def _fill(stack: PlaneStack, frame: _Frame, grid: Grid, points: FloatArray) -> tuple[Mask, bool]:
    """The mask, slice by slice along the axis that is most parallel to the normal, and whether it interpolates."""
    affine = LPS_TO_RAS @ grid.matrix
    reach = (stack.half_mm + stack.tolerance_mm) * frame.rows[2]
    corners = np.concatenate([points - reach, points + reach])
    index = (corners - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    low = np.clip(np.floor(index.min(axis=0)), 0, np.array(grid.shape) - 1).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + 1, 1, grid.shape).astype(int)
    mask, interpolated = np.zeros(grid.shape, dtype=np.bool_), False
    nudge = NUDGE * min(grid.spacing_mm)
    for at in range(low[frame.along], high[frame.along]):
        spans = [np.arange(low[a], high[a]) if a != frame.along else np.array([at]) for a in range(3)]
        centres = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)
        placed = (centres @ affine[:3, :3].T + affine[:3, 3]) @ frame.rows.T
        found, between = stack.contains(placed[:, :2] + nudge, placed[:, 2])
        mask[tuple(centres.T)] = found
        interpolated |= between
    return mask, interpolated


def _tell(stack: PlaneStack, frame: _Frame, grid: Grid, notes: list[str], *, interpolated: bool) -> None:
    if not frame.aligned:
        tilt = np.degrees(np.arccos(min(1.0, float(np.abs(frame.rows[2] @ _unit_axis(grid, frame.along))))))
        notes.append(f"contour planes are tilted by {tilt:.1f} degrees against the image's: resampled")
    if len(stack.positions) == 1:
        notes.append(f"drawn in one plane only: taken to be {stack.spacing_mm:.2f} mm thick")
    elif interpolated:
        notes.append(
            f"contour planes are {stack.spacing_mm:.2f} mm apart, the image's {_thickness(frame, grid):.2f} mm: the "
            "shape between planes is interpolated"
        )
    gaps = np.diff(stack.positions)[~stack.bridged]
    if len(gaps):
        notes.append(
            f"{len(gaps)} gap(s) of up to {gaps.max():.2f} mm between contour planes {stack.spacing_mm:.2f} mm apart: "
            "taken as separate parts, not bridged"
        )


def _unit_axis(grid: Grid, axis: int) -> FloatArray:
    column = (LPS_TO_RAS @ grid.matrix)[:3, axis]
    return np.asarray(column / np.linalg.norm(column), dtype=np.float64)
