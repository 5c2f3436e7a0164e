"""Segmentation objects (SEG): binary, fractional and label maps as arrays on their grid.

Axis legend: i columns, j rows, k planes. Definitions: DICOM PS3.3 C.8.20 (segmentation), C.7.6.16 (multi-frame).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.lattice import OFF_LATTICE, directions, grid_of, numbers
from hypoxnet.dicom.reading import GIB, LARGEST_PIXELS_BYTES, dicom_failures, read_dataset
from hypoxnet.geometry import Grid

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
BINARY, FRACTIONAL, LABELMAP = "BINARY", "FRACTIONAL", "LABELMAP"


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment.

    Args:
        number: Segment Number (0062,0004).
        label: Segment Label (0062,0005).
        category: Segmented Property Category, None where the file has none.
        kind: Segmented Property Type, None where the file has none.
        array: i j k: bool of a binary or label map segment, float32 from 0 to 1 of a fractional one.
    """

    number: int
    label: str
    category: Code | None
    kind: Code | None
    array: NDArray[np.bool_] | NDArray[np.float32]

    def __repr__(self) -> str:
        return f"Segment({self.number} {self.label!r}, {np.count_nonzero(self.array)} voxels)"


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segments that share a grid.

    Args:
        segments: In the order of the file; the background of a label map (number 0) is none of them.
        grid: From the first plane that any frame lies in to the last; planes without frame are zero.
        frame_of_reference_uid: Coordinate system, empty where the file does not say.
        type: `BINARY`, `FRACTIONAL` or `LABELMAP`.
    """

    segments: tuple[Segment, ...]
    grid: Grid
    frame_of_reference_uid: str
    type: str

    def __repr__(self) -> str:
        return f"Segmentation({self.type}, {len(self.segments)} segments, {self.grid.describe()})"


def read_seg(path: str | os.PathLike[str], *, largest_pixels_bytes: int = LARGEST_PIXELS_BYTES) -> Segmentation:
    """Read a segmentation object in patient space.

    Args:
        path: The file.
        largest_pixels_bytes: Limit of the file's pixels (see `reading.read_dataset`), and of all arrays together.

    Raises:
        DicomError: Not a segmentation, no position in patient space, frames of several orientations or off an even
            lattice, two frames of one segment at one place, an unknown segment, or more voxels than allowed.

    Source:
        DICOM PS3.3 C.8.20.2 (segments, Segmentation Type, Maximum Fractional Value), C.7.6.16.2.3 and .4 (planes).
    """
    dataset = read_dataset(path, largest_pixels_bytes=largest_pixels_bytes)
    with dicom_failures(path, "read its segments"):
        if dataset.get("SOPClassUID") not in (SEGMENTATION, LABEL_MAP_SEGMENTATION):
            what = dataset.get("Modality") or "something without Modality"
            raise DicomError(f"{path}: is {what}, not a segmentation; name the SEG file")
        try:
            return _segmentation(dataset, largest_bytes=largest_pixels_bytes)
        except DicomError as error:
            raise DicomError(f"{path}: {error}") from error


def _segmentation(dataset: Dataset, *, largest_bytes: int) -> Segmentation:
    kind = str(dataset.get("SegmentationType") or "")
    if kind not in (BINARY, FRACTIONAL, LABELMAP):
        raise DicomError(
            f"Segmentation Type (0062,0001) is {kind or 'missing'}; BINARY, FRACTIONAL or LABELMAP is read"
        )
    frames = _frames(dataset)
    grid, places = _lattice(dataset, frames)
    described = _described(dataset, kind)
    size = len(described) * int(np.prod(grid.shape, dtype=np.int64)) * (4 if kind == FRACTIONAL else 1)
    if size > largest_bytes:
        raise DicomError(
            f"{len(described)} segments of {grid.describe()} are {size / GIB:.2f} GiB, at most "
            f"{largest_bytes / GIB:.2f} GiB are read; export fewer segments per file"
        )
    pixels = _pixels(dataset, len(frames), kind)
    if kind == LABELMAP:
        _check_places(places, places)
        arrays = {number: _placed(pixels == number, places, grid) for number in described}
    else:
        arrays = _separate(pixels, _segment_numbers(frames, dataset), places, grid, tuple(described))
    return Segmentation(
        segments=tuple(_segment(item, number, arrays[number]) for number, item in described.items()),
        grid=grid,
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
        type=kind,
    )


def _frames(dataset: Dataset) -> Sequence[Dataset]:
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(frames) != count or not frames:
        raise DicomError(f"{count} frames are announced, {len(frames)} are described; export the segmentation again")
    return tuple(frames)


def _described(dataset: Dataset, kind: str) -> dict[int, Dataset]:
    """Items of the Segment Sequence by number."""
    found: dict[int, Dataset] = {}
    for item in dataset.get("SegmentSequence") or ():
        number = int(item.SegmentNumber)
        if number in found:
            raise DicomError(f"Segment Number {number} is described twice; export the segmentation again")
        found[number] = item
    if kind == LABELMAP:
        found.pop(0, None)
    if not found:
        raise DicomError("no segment is described (Segment Sequence); export the segmentation again")
    return found


def _group(dataset: Dataset, frame: Dataset, sequence: str) -> Dataset | None:
    """A functional group: of the frame, else shared by all."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for holder in (frame, *shared):
        if holder.get(sequence):
            found: Dataset = holder[sequence].value[0]
            return found
    return None


def _value(dataset: Dataset, frame: Dataset, sequence: str, keyword: str) -> object:
    group = _group(dataset, frame, sequence)
    return group.get(keyword) if group is not None else None


def _lattice(dataset: Dataset, frames: Sequence[Dataset]) -> tuple[Grid, IntArray]:
    """The grid that holds every frame, and the plane k of each."""
    orientations = [_numbers(dataset, f, "PlaneOrientationSequence", "ImageOrientationPatient", 6) for f in frames]
    spacings = [_numbers(dataset, f, "PixelMeasuresSequence", "PixelSpacing", 2) for f in frames]
    positions = np.array([_numbers(dataset, f, "PlanePositionSequence", "ImagePositionPatient", 3) for f in frames])
    if np.ptp(orientations, axis=0).max() > 1e-4 or np.ptp(spacings, axis=0).max() > 1e-4:
        raise DicomError("its frames differ in orientation or pixel spacing; export one segmentation per orientation")
    axes, spacing = directions(orientations[0]), spacings[0]
    sideways = (positions - positions[0]) @ axes[:, :2]
    if np.abs(sideways).max() > OFF_LATTICE * spacing.min():
        raise DicomError(
            f"its frames are shifted in plane by up to {np.abs(sideways).max():.3f} mm against each other; export "
            "frames on one grid"
        )
    depths = positions @ axes[:, 2]
    step = _step(dataset, frames[0], depths)
    places = np.rint((depths - depths.min()) / step).astype(np.int64)
    off = np.abs(depths - depths.min() - places * step).max()
    if off > OFF_LATTICE * step:
        raise DicomError(f"its planes are off the lattice of {step:.3f} mm by up to {off:.3f} mm; export it again")
    shape = (int(dataset.Columns), int(dataset.Rows), int(places.max()) + 1)
    if min(shape) < 1:
        raise DicomError(f"Rows {dataset.Rows} and Columns {dataset.Columns} hold no voxel; export it again")
    first = positions[int(np.argmin(depths))]
    return grid_of(shape, axes=axes, spacing=spacing, first=first, step=step), places


def _numbers(dataset: Dataset, frame: Dataset, sequence: str, keyword: str, count: int) -> FloatArray:
    return numbers(_value(dataset, frame, sequence, keyword), count, f"{keyword} of a frame")


def _step(dataset: Dataset, frame: Dataset, depths: FloatArray) -> float:
    """Distance between planes, mm: as the frames lie, else as the file says.

    Frames without any voxel may be left out, so the smallest distance may be a multiple of what is said.
    """
    measured = np.diff(np.unique(np.round(depths, 4)))
    measured = measured[measured > 0.01]
    names = ("SpacingBetweenSlices", "SliceThickness")
    told = [_value(dataset, frame, "PixelMeasuresSequence", name) for name in names]
    for name, value in zip(names, told, strict=True):
        if value is None:
            continue
        step = float(numbers(value, 1, name)[0])
        whole = measured / step if step > 0.01 else np.array([])
        # Rounding adds up over many planes: each gap is judged for itself.
        if step > 0.01 and np.all(np.abs(whole - np.rint(whole)) <= OFF_LATTICE * np.maximum(1, whole)):
            return float(np.median(measured / np.rint(whole))) if len(measured) else step
    if not len(measured):
        raise DicomError("one plane, and neither Spacing Between Slices nor Slice Thickness; export it again")
    return float(measured.min())


def _pixels(dataset: Dataset, count: int, kind: str) -> NDArray[np.generic]:
    """Frames x rows x columns, as stored."""
    pixels = np.asarray(dataset.pixel_array)
    expected = (count, int(dataset.Rows), int(dataset.Columns))
    if pixels.size != int(np.prod(expected, dtype=np.int64)):
        raise DicomError(f"holds {pixels.size} pixels, {' x '.join(map(str, expected))} are announced; export it again")
    if kind == BINARY and int(pixels.max(initial=0)) > 1:
        raise DicomError(f"is BINARY and holds the value {pixels.max()}; export it again")
    if kind != FRACTIONAL:
        return pixels.reshape(expected)
    largest = float(numbers(dataset.get("MaximumFractionalValue"), 1, "Maximum Fractional Value (0062,000E)")[0])
    if largest <= 0 or float(pixels.max(initial=0)) > largest:
        raise DicomError(f"holds the value {pixels.max()}, Maximum Fractional Value is {largest:g}; export it again")
    return (pixels.reshape(expected) / np.float64(largest)).astype(np.float32)


def _segment_numbers(frames: Sequence[Dataset], dataset: Dataset) -> IntArray:
    found = [_value(dataset, f, "SegmentIdentificationSequence", "ReferencedSegmentNumber") for f in frames]
    if any(not isinstance(number, int) for number in found):
        raise DicomError("a frame does not say to which segment it belongs; export the segmentation again")
    return np.array(found, dtype=np.int64)


def _separate(
    pixels: NDArray[np.generic], owners: IntArray, places: IntArray, grid: Grid, known: Sequence[int]
) -> dict[int, NDArray[np.bool_] | NDArray[np.float32]]:
    """One array per segment of a binary or fractional segmentation."""
    unknown = sorted(set(owners.tolist()) - set(known))
    if unknown:
        raise DicomError(f"frames belong to segment {unknown[0]}, which is not described; export it again")
    _check_places(owners, places)
    values = pixels if pixels.dtype == np.float32 else pixels != 0
    return {number: _placed(values[owners == number], places[owners == number], grid) for number in known}


def _check_places(owners: IntArray, places: IntArray) -> None:
    if len(np.unique(np.stack([owners, places]), axis=1).T) < len(places):
        raise DicomError("two frames of one segment lie at one place; export one time point per file")


def _placed(frames: NDArray[np.generic], places: IntArray, grid: Grid) -> NDArray[np.bool_] | NDArray[np.float32]:
    fractional = frames.dtype == np.float32
    array: NDArray[Any] = np.zeros(grid.shape, dtype=np.float32 if fractional else np.bool_)
    array[:, :, places] = frames.transpose(2, 1, 0)
    return array


def _segment(item: Dataset, number: int, array: NDArray[np.bool_] | NDArray[np.float32]) -> Segment:
    return Segment(
        number=number,
        label=str(item.get("SegmentLabel") or ""),
        category=_code(item, "SegmentedPropertyCategoryCodeSequence"),
        kind=_code(item, "SegmentedPropertyTypeCodeSequence"),
        array=array,
    )


def _code(item: Dataset, sequence: str) -> Code | None:
    """The first code of a sequence; long and web codes live in attributes of their own."""
    for code in item.get(sequence) or ():
        value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
        return Code(str(value), str(code.get("CodingSchemeDesignator") or ""), str(code.get("CodeMeaning") or ""))
    return None
