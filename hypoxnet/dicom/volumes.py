"""Slices to a volume: position and orientation of each, what is missing or twice, tilt, rescaling.

DICOM coordinates are LPS, ours RAS. Axis legend: i columns, j rows, k slices along the normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import shift as moved

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.reading import dicom_failures, read_dataset
from hypoxnet.geometry import LPS_TO_RAS, Grid

FloatArray = NDArray[np.float64]

# Direction cosines that differ by less are one orientation, written with other digits.
SAME_ORIENTATION = 1e-3
# Slices may lie off an even lattice by this share of their distance: rounded positions, and the joins of bed positions.
OFF_LATTICE = 0.05
# Steps that are twice the median and more are a missing slice.
MISSING_STEP = 1.5
# A larger angle between the stack and the normal of its slices is gantry tilt, degrees.
TILT_DEGREES = 0.1

# Headers of the slices, in their order, to one factor each.
Factors = Callable[[Sequence[Dataset]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane of pixels.

    Args:
        position: Of the centre of the first pixel, LPS mm.
        orientation: 2 x 3: direction of increasing column index, and of increasing row index.
        spacing: Between rows and between columns, mm.
        pixels: Rows x columns, rescaled, float32.
        header: Its data set without pixels, or that of its file for a frame.
        name: For messages.
    """

    position: FloatArray
    orientation: FloatArray
    spacing: tuple[float, float]
    pixels: NDArray[np.float32]
    header: Dataset
    name: str


@dataclass(frozen=True, slots=True)
class Stack:
    """A volume with the headers of its slices.

    Args:
        array: i j k, float32, rescaled.
        grid: Where it lies, RAS+.
        headers: One per k.
        notes: What was repaired.
    """

    array: NDArray[np.float32]
    grid: Grid
    headers: tuple[Dataset, ...]
    notes: tuple[str, ...] = ()


def read_stack(paths: Sequence[Path], *, name: str, factors: Factors | None = None) -> Stack:
    """Read the slices of one volume.

    Args:
        paths: Files of one volume, in any order; one file when it holds several frames.
        name: Of the series, for messages.
        factors: Gives a factor per slice from their headers (SUV); none when None.

    Raises:
        DicomError: A file is unreadable, slices are missing, twice or unevenly spaced, or differ in size or
            orientation.
    """
    slices = [plane for path in paths for plane in slices_of(path)]
    return stack(slices, name=name, factors=factors)


def slices_of(path: Path) -> list[Slice]:
    """The planes of a file: one, or one per frame.

    Raises:
        DicomError: The file has no pixels, or no position in space.
    """
    dataset = read_dataset(path, thorough=False)
    with dicom_failures(path, "read its pixels"):
        if "PixelData" not in dataset and "FloatPixelData" not in dataset:
            raise DicomError(f"{path}: has no pixels ({dataset.get('Modality', 'no modality')}); it is not an image")
        if int(dataset.get("SamplesPerPixel", 1)) != 1:
            raise DicomError(f"{path}: has {dataset.SamplesPerPixel} samples per pixel; colour images are no quantity")
        pixels = np.asarray(dataset.pixel_array)
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _frames(dataset, pixels, path)
        if pixels.ndim != 2:
            raise DicomError(f"{path}: has {len(pixels)} frames without functional groups, their places are not known")
        return [_plane(dataset, pixels, path)]


def _plane(dataset: Dataset, pixels: NDArray[Any], path: Path) -> Slice:
    given = dataset.get("RescaleSlope")
    slope, intercept = float(1 if given is None else given), float(dataset.get("RescaleIntercept", 0) or 0)
    if slope == 0:
        raise DicomError(f"{path}: RescaleSlope (0028,1053) is 0, which makes every voxel the same; export it again")
    for keyword in ("PixelData", "FloatPixelData"):
        if keyword in dataset:
            delattr(dataset, keyword)
    return Slice(
        _vector(dataset.get("ImagePositionPatient"), 3, "ImagePositionPatient (0020,0032)", path),
        _vector(dataset.get("ImageOrientationPatient"), 6, "ImageOrientationPatient (0020,0037)", path).reshape(2, 3),
        _spacing(dataset.get("PixelSpacing"), path),
        _rescaled(pixels, slope, intercept),
        dataset,
        path.name,
    )


def _rescaled(pixels: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    if slope == 1 and intercept == 0:
        return pixels.astype(np.float32)
    # float64 first: a slope of 1e-5 times 16-bit integers keeps its digits.
    return (pixels * slope + intercept).astype(np.float32)


def _frames(dataset: Dataset, pixels: NDArray[Any], path: Path) -> list[Slice]:
    """Planes of an enhanced object, from its shared and per-frame functional groups."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if len(groups) != len(pixels):
        raise DicomError(f"{path}: has {len(pixels)} frames and {len(groups)} functional groups; export it again")
    out = []
    header = Dataset()
    header.update({e.tag: e for e in dataset if e.keyword not in {"PixelData", "PerFrameFunctionalGroupsSequence"}})
    for number, group in enumerate(groups):
        place = f"{path} frame {number + 1}"
        position = _macro(group, shared, "PlanePositionSequence").get("ImagePositionPatient")
        orientation = _macro(group, shared, "PlaneOrientationSequence").get("ImageOrientationPatient")
        measures = _macro(group, shared, "PixelMeasuresSequence")
        scale = _macro(group, shared, "PixelValueTransformationSequence")
        out.append(
            Slice(
                _vector(position, 3, "ImagePositionPatient", place),
                _vector(orientation, 6, "ImageOrientationPatient", place).reshape(2, 3),
                _spacing(measures.get("PixelSpacing"), place),
                _rescaled(pixels[number], float(scale.get("RescaleSlope", 1)), float(scale.get("RescaleIntercept", 0))),
                header,
                f"frame {number + 1}",
            )
        )
    return out


def _macro(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    items = group.get(keyword) or shared.get(keyword) or [Dataset()]
    first: Dataset = items[0]
    return first


def _vector(value: Any, length: int, what: str, place: Path | str) -> FloatArray:
    try:
        numbers = np.array([float(x) for x in value], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DicomError(f"{place}: {what} is missing or no number; the slice has no place in space") from error
    if numbers.shape != (length,) or not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e6:
        raise DicomError(f"{place}: {what} is {list(numbers)}, {length} finite numbers are needed")
    return numbers


def _spacing(value: Any, place: Path | str) -> tuple[float, float]:
    rows, columns = _vector(value, 2, "PixelSpacing (0028,0030)", place)
    if min(rows, columns) <= 0:
        raise DicomError(f"{place}: PixelSpacing is {rows:g} x {columns:g} mm, it must be positive")
    return float(rows), float(columns)


def stack(slices: Sequence[Slice], *, name: str, factors: Factors | None = None) -> Stack:
    """Put slices into a volume; arguments as for `read_stack`."""
    _check_alike(slices, name)
    orientation = _straightened(slices[0].orientation)
    normal = np.cross(orientation[0], orientation[1])
    depths = np.array([plane.position @ normal for plane in slices])
    order = np.argsort(depths, kind="stable")
    ordered = [slices[int(i)] for i in order]
    step = _step(depths[order], ordered, name)
    pixels = np.stack([plane.pixels for plane in ordered], axis=-1)
    headers = tuple(plane.header for plane in ordered)
    if factors is not None:
        scale = np.asarray(factors(headers), dtype=np.float64)
        pixels = (pixels * scale).astype(np.float32)
    pixels, notes = _without_tilt(pixels, ordered, (orientation, normal))
    affine = np.eye(4)
    rows, columns = ordered[0].spacing
    affine[:3, 0] = orientation[0] * columns
    affine[:3, 1] = orientation[1] * rows
    affine[:3, 2] = normal * step
    affine[:3, 3] = ordered[0].position
    array = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    return Stack(array, Grid.from_affine(array.shape, LPS_TO_RAS @ affine), headers, notes)


def _straightened(orientation: FloatArray) -> FloatArray:
    """Unit vectors at a right angle: rounded cosines would stretch the volume by the square of their error."""
    row = orientation[0] / np.linalg.norm(orientation[0])
    column = orientation[1] - (orientation[1] @ row) * row
    return np.stack([row, column / np.linalg.norm(column)])


def _check_alike(slices: Sequence[Slice], name: str) -> None:
    if not slices:
        raise DicomError(f"{name}: there is no slice")
    first = slices[0]
    lengths = np.linalg.norm(first.orientation, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(first.orientation[0] @ first.orientation[1]) > 0.01:
        raise DicomError(
            f"{name}: ImageOrientationPatient of {first.name} is no pair of unit vectors at a right angle "
            f"({np.round(first.orientation, 4).tolist()}); mend the header"
        )
    for plane in slices[1:]:
        if plane.pixels.shape != first.pixels.shape:
            raise DicomError(
                f"{name}: {first.name} has {first.pixels.shape[1]} x {first.pixels.shape[0]} pixels, {plane.name} "
                f"{plane.pixels.shape[1]} x {plane.pixels.shape[0]}; these are two series (a localiser among them?)"
            )
        if np.abs(plane.orientation - first.orientation).max() > SAME_ORIENTATION:
            raise DicomError(f"{name}: {first.name} and {plane.name} are oriented differently; these are two series")
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            raise DicomError(
                f"{name}: pixels of {first.name} are {first.spacing[1]:g} mm wide, those of {plane.name} "
                f"{plane.spacing[1]:g} mm; these are two series"
            )


def _step(depths: FloatArray, ordered: Sequence[Slice], name: str) -> float:
    """Distance between slices, mm; refuses what is twice, missing or uneven, with its numbers."""
    if len(depths) == 1:
        with dicom_failures(ordered[0].name, "read its thickness"):
            header = ordered[0].header
            thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
        return thickness if 0 < thickness < math.inf else 1.0
    steps = np.diff(depths)
    usual = float(np.median(steps))
    twice = np.flatnonzero(steps < 0.02 * max(usual, 1e-3))
    if usual <= 0 or len(twice):
        where = int(twice[0]) if len(twice) else 0
        raise DicomError(
            f"{name}: {len(twice) + 1 if len(twice) else len(depths)} slices share a place, {ordered[where].name} and "
            f"{ordered[where + 1].name} are both at {depths[where]:.3f} mm; remove the duplicates, or part the volumes"
        )
    missing = np.flatnonzero(steps > MISSING_STEP * usual)
    if len(missing):
        where = int(missing[0])
        count = sum(round(float(steps[i]) / usual) - 1 for i in missing)
        raise DicomError(
            f"{name}: {max(1, count)} of {len(depths) + max(1, count)} slices are missing, between "
            f"{depths[where]:.3f} mm ({ordered[where].name}) and {depths[where + 1]:.3f} mm "
            f"({ordered[where + 1].name}) at a spacing of {usual:.3f} mm; export the whole series"
        )
    # The mean over the whole stack: rounding of each position does not add up.
    even = float(depths[-1] - depths[0]) / (len(depths) - 1)
    off = np.abs(depths - depths[0] - even * np.arange(len(depths)))
    if float(off.max()) > OFF_LATTICE * even:
        where = int(np.abs(steps - usual).argmax())
        raise DicomError(
            f"{name}: slices are unevenly spaced, {steps[where]:.3f} mm between {ordered[where].name} and "
            f"{ordered[where + 1].name}, {usual:.3f} mm elsewhere; resample the series evenly"
        )
    return even


def _without_tilt(
    pixels: NDArray[np.float32], ordered: Sequence[Slice], axes: tuple[FloatArray, FloatArray]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Slices of a tilted gantry moved so that they lie above each other; rows x columns x slices."""
    if len(ordered) == 1:
        return pixels, ()
    orientation, normal = axes
    along = ordered[-1].position - ordered[0].position
    angle = math.degrees(math.acos(min(1.0, float(along @ normal) / float(np.linalg.norm(along)))))
    offset = along - (along @ normal) * normal
    rows, columns = ordered[0].spacing
    # Rounded positions of a thin stack make an angle without moving anything.
    if angle < TILT_DEGREES or np.linalg.norm(offset) < 0.1 * min(rows, columns):
        return pixels, ()
    out = np.empty_like(pixels)
    for k, plane in enumerate(ordered):
        away = plane.position - ordered[0].position
        by = (float(away @ orientation[1]) / rows, float(away @ orientation[0]) / columns)
        lowest = float(pixels[..., k].min())
        out[..., k] = moved(pixels[..., k], by, order=1, mode="constant", cval=lowest)
    return out, (f"the gantry was tilted by {angle:.2f} degrees: slices were moved in their plane to lie straight",)
