"""RT Structure Set: the regions that clinicians drew, as contours in patient space.

Coordinates are those of DICOM, LPS mm. Definitions: DICOM PS3.3 C.8.8.5 (structure set) and C.8.8.6 (ROI contour).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.reading import dicom_failures, read_dataset

Contour = NDArray[np.float64]

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
# Both enclose an area; the newer type says outright what readers of the older one do: parity decides (C.8.8.6.3).
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
GEOMETRIES = (*CLOSED, "POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
# A contour of less area than this encloses nothing that any scanner resolves, mm2.
NO_AREA_MM2 = 1e-6
# A patient is not 100 m away from the isocentre; such numbers are broken, and their squares overflow.
FARTHEST_MM = 1e5
_CONTOUR_DATA = 0x30060050


@dataclass(frozen=True, eq=False)
class Roi:
    """One region of interest.

    Args:
        number: ROI Number (3006,0022).
        name: ROI Name (3006,0026), as drawn, not mapped.
        contours: N x 3 each, LPS mm, in the order of the file.
        geometric_types: Contour Geometric Type of each contour.
        referenced_series_uid: Series that the contours were drawn on, empty where the file does not say which.
        frame_of_reference_uid: Coordinate system of the contours, empty where the file does not say.
        interpreted_type: RT ROI Interpreted Type (3006,00A4), for example `GTV`, or empty.
    """

    number: int
    name: str
    contours: tuple[Contour, ...]
    geometric_types: tuple[str, ...]
    referenced_series_uid: str
    frame_of_reference_uid: str
    interpreted_type: str

    @property
    def closed(self) -> tuple[Contour, ...]:
        """The contours that enclose an area by their type, flat ones included."""
        return tuple(c for c, kind in zip(self.contours, self.geometric_types, strict=True) if kind in CLOSED)

    def __repr__(self) -> str:
        points = sum(len(contour) for contour in self.contours)
        return f"Roi({self.number} {self.name!r}, {len(self.contours)} contours of {points} points)"


@dataclass(frozen=True)
class StructureSet:
    """What one RT Structure Set says.

    Args:
        label: Structure Set Label (3006,0002).
        rois: In the order of the file.
        study_uid: Study Instance UID of the structure set itself.
        for_uid: Frame of reference that all regions share, empty when they do not share one.
        referenced_series_uids: Every series that is referenced, in the order of the file.
    """

    label: str
    rois: tuple[Roi, ...]
    study_uid: str
    for_uid: str
    referenced_series_uids: tuple[str, ...]

    def roi(self, name: str) -> Roi:
        """The only region of that name.

        Raises:
            DicomError: None or several have it.
        """
        found = [roi for roi in self.rois if roi.name == name]
        if len(found) != 1:
            raise DicomError(
                f"{len(found) or 'no'} regions are called {name!r}; the structure set has "
                f"{', '.join(repr(roi.name) for roi in self.rois) or 'none'}"
            )
        return found[0]


def area_mm2(contour: Contour) -> float:
    """Area that a planar contour (N x 3) encloses by Newell's formula, mm2; 0 below three points."""
    return float(np.linalg.norm(area_vector(contour)))


def area_vector(contour: Contour) -> NDArray[np.float64]:
    """Normal of a contour (N x 3), as long as its area in mm2; a right-handed screw of its direction."""
    if len(contour) < 3:
        return np.zeros(3)
    # About the first point: far from the origin the terms would cancel badly.
    around = contour - contour[0]
    return np.asarray(0.5 * np.cross(around, np.roll(around, -1, axis=0)).sum(axis=0), dtype=np.float64)


def read_structures(path: str | os.PathLike[str]) -> StructureSet:
    """Read an RT Structure Set.

    Args:
        path: The file.

    Raises:
        DicomError: Not an RT Structure Set, no region in it, a region without number or defined twice, Contour Data
            whose length is not three times the number of points, coordinates that are no finite numbers or 100 m away,
            or a contour of unknown type.

    Source:
        DICOM PS3.3 C.8.8.5, C.8.8.6, C.8.8.8.
    """
    dataset = read_dataset(path, stop_before_pixels=True)
    with dicom_failures(path, "read its structures"):
        if dataset.get("SOPClassUID") != RT_STRUCTURE_SET:
            what = dataset.get("Modality") or "something without Modality"
            raise DicomError(f"{path}: is {what}, not an RT Structure Set; name the RTSTRUCT file")
        rois = tuple(_rois(dataset, Path(path)))
        if not rois:
            raise DicomError(f"{path}: defines no region (Structure Set ROI Sequence is empty); export the contours")
        frames = {roi.frame_of_reference_uid for roi in rois}
        return StructureSet(
            label=str(dataset.get("StructureSetLabel") or ""),
            rois=rois,
            study_uid=str(dataset.get("StudyInstanceUID") or ""),
            for_uid=frames.pop() if len(frames) == 1 else "",
            referenced_series_uids=tuple(dict.fromkeys(series.uid for series in _series(dataset))),
        )


@dataclass(frozen=True)
class _Series:
    """A referenced series: its frame of reference and the images it names."""

    uid: str
    frame_of_reference_uid: str
    images: frozenset[str]


def _series(dataset: Dataset) -> Iterator[_Series]:
    for frame in _items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in _items(frame, "RTReferencedStudySequence"):
            for series in _items(study, "RTReferencedSeriesSequence"):
                images = frozenset(_image_uids(series))
                yield _Series(_uid(series, "SeriesInstanceUID"), _uid(frame, "FrameOfReferenceUID"), images)


def _rois(dataset: Dataset, path: Path) -> Iterator[Roi]:
    drawn = _by_number(dataset, "ROIContourSequence", path)
    observed = {int(item.ReferencedROINumber): item for item in _items(dataset, "RTROIObservationsSequence")}
    series, seen = tuple(_series(dataset)), set[int]()
    for item in _items(dataset, "StructureSetROISequence"):
        if item.get("ROINumber") is None:
            raise DicomError(f"{path}: a region has no ROI Number (3006,0022); export the structure set again")
        number = int(item.ROINumber)
        if number in seen:
            raise DicomError(f"{path}: ROI Number {number} is defined twice; export the structure set again")
        seen.add(number)
        frame, name = _uid(item, "ReferencedFrameOfReferenceUID"), str(item.get("ROIName") or "")
        items = _items(drawn[number], "ContourSequence") if number in drawn else ()
        yield Roi(
            number=number,
            name=name,
            contours=tuple(
                _points(c, f"{path}: region {number} {name!r}, contour {n}") for n, c in enumerate(items, 1)
            ),
            geometric_types=tuple(_type(c, f"{path}: region {number} {name!r}") for c in items),
            referenced_series_uid=_series_of(items, frame, series),
            frame_of_reference_uid=frame,
            interpreted_type=str(observed[number].get("RTROIInterpretedType") or "") if number in observed else "",
        )
    if drawn.keys() - seen:
        lost = ", ".join(map(str, sorted(drawn.keys() - seen)))
        raise DicomError(f"{path}: contours belong to ROI Number {lost}, which is not defined; export it again")


def _by_number(dataset: Dataset, keyword: str, path: Path) -> dict[int, Dataset]:
    found: dict[int, Dataset] = {}
    for item in _items(dataset, keyword):
        number = int(item.ReferencedROINumber)
        if number in found:
            raise DicomError(f"{path}: ROI Number {number} has contours at two places; export it again")
        found[number] = item
    return found


def _points(item: Dataset, place: str) -> Contour:
    """Contour Data (3006,0050) as N x 3."""
    raw = item.get_item(_CONTOUR_DATA) if _CONTOUR_DATA in item else None
    value = raw.value if raw is not None else None
    try:
        if isinstance(value, bytes):
            # Straight from the bytes: a DS object for each number would cost a second per 100 000.
            text = value.decode("ascii").strip(" \0")
            numbers = np.array(text.split("\\") if text else [], dtype=np.float64)
        else:
            numbers = np.atleast_1d(np.array(value if value is not None else [], dtype=np.float64))
    except (ValueError, TypeError) as error:
        raise DicomError(f"{place}: Contour Data holds what is no number; export the structure set again") from error
    points = item.get("NumberOfContourPoints")
    expected = 3 * int(points) if points is not None else len(numbers) - len(numbers) % 3
    if len(numbers) != expected or not len(numbers):
        told = f"{points} points are announced" if points is not None else "the number of points is not said"
        raise DicomError(f"{place}: Contour Data holds {len(numbers)} numbers, {told}; three make a point")
    if not np.isfinite(numbers).all():
        bad = int(np.count_nonzero(~np.isfinite(numbers)))
        raise DicomError(f"{place}: {bad} of {len(numbers)} coordinates are not finite; export the structure set again")
    if np.abs(numbers).max() > FARTHEST_MM:
        raise DicomError(f"{place}: a coordinate is {np.abs(numbers).max():.3g} mm, at most {FARTHEST_MM:g} mm is read")
    return numbers.reshape(-1, 3)


def _type(item: Dataset, place: str) -> str:
    kind = str(item.get("ContourGeometricType") or "")
    if kind not in GEOMETRIES:
        raise DicomError(f"{place}: Contour Geometric Type is {kind!r}, known are {', '.join(GEOMETRIES)}")
    return kind


def _series_of(contours: Sequence[Dataset], frame: str, series: Sequence[_Series]) -> str:
    """The series whose images the contours name; else the only one on their frame of reference."""
    named = {uid for contour in contours for uid in _image_uids(contour)}
    found = {s.uid for s in series if named & s.images}
    if not found:
        found = {s.uid for s in series if s.frame_of_reference_uid == frame}
    return found.pop() if len(found) == 1 else ""


def _image_uids(item: Dataset) -> list[str]:
    return [_uid(image, "ReferencedSOPInstanceUID") for image in _items(item, "ContourImageSequence")]


def _uid(item: Dataset, keyword: str) -> str:
    return str(item.get(keyword) or "")


def _items(item: Dataset, keyword: str) -> Sequence[Dataset]:
    return tuple(item.get(keyword) or ())
