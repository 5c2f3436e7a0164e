"""The original series that written objects refer to: its headers in order of position, and its grid.

Axis legend: i runs along a row (column index), j down the rows, k along the slice normal. DICOM positions are LPS mm,
a `Grid` is RAS+ mm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.reading import dicom_failures, read_dataset
from hypoxnet.geometry import LPS_TO_RAS, Grid, without_shear

# Direction cosines and spacings of one series agree to their written digits.
SAME_DIRECTION = 1e-3
# A slice further from its even place than this fraction of the step is a missing or a tilted slice, not rounding.
EVEN_STEPS = 0.05
# Of patient and study: every image has these, if only empty (type 2); exports that lost some get them back empty.
_NEVER_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """Headers of one series of single-frame images and the grid they make.

    Args:
        datasets: Without pixels, one per slice; slice k of the grid is `datasets[k]`. What patient and study must say
            is there, if only empty.
        grid: Where the voxels are; k runs along the normal (row direction x column direction). Slices of a tilted
            gantry lie beside this grid; `plane_lps` says where.
    """

    datasets: tuple[Dataset, ...]
    grid: Grid

    @property
    def first(self) -> Dataset:
        """The header of slice 0, for what all slices share."""
        return self.datasets[0]

    @property
    def frame_of_reference(self) -> str:
        """UID of the patient coordinate system."""
        return str(self.first.FrameOfReferenceUID)

    def plane_lps(self, k: int) -> NDArray[np.float64]:
        """Maps i, j of slice k to LPS mm as its own header says, 4 x 3: columns step along i, along j, origin."""
        header = self.datasets[k]
        along = np.array(header.ImageOrientationPatient, dtype=np.float64)
        down_mm, across_mm = (float(s) for s in header.PixelSpacing)
        plane = np.zeros((4, 3))
        plane[:3, 0], plane[:3, 1] = along[:3] * across_mm, along[3:] * down_mm
        plane[:, 2] = [*(float(x) for x in header.ImagePositionPatient), 1.0]
        return plane


def read_source(paths: Iterable[Path]) -> SourceSeries:
    """Read the headers of the series that written objects will refer to.

    Args:
        paths: Its files, in any order.

    Raises:
        DicomError: No file, several series or frames of reference, a multi-frame image, an image without position or
            frame of reference, slices of different shape or direction, two at one place, or one missing.
        GeometryError: Row and column direction are not at a right angle.
    """
    read = [(Path(path), read_dataset(path, stop_before_pixels=True)) for path in paths]
    if not read:
        raise DicomError("the source series has no files; name the images that the outputs refer to")
    for path, header in read:
        _check_image(path, header)
        for keyword in _NEVER_ABSENT:
            if keyword not in header:
                setattr(header, keyword, "")
    headers = [header for _, header in read]
    place = str(read[0][0].parent)
    _check_one(headers, "SeriesInstanceUID", place, "series")
    _check_one(headers, "FrameOfReferenceUID", place, "frames of reference")
    _check_alike(headers, place)
    with dicom_failures(place, "order its slices"):
        normal = _normal(headers[0])
        depths = np.array([_position(header) @ normal for header in headers])
    order = np.argsort(depths, kind="stable")
    ordered = tuple(headers[index] for index in order)
    step_mm = _step_mm(depths[order], ordered[0], place)
    return SourceSeries(ordered, _grid(ordered, normal, step_mm))


def _check_image(path: Path, header: Dataset) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
        raise DicomError(f"{path}: is a multi-frame image; split it into single frames, which outputs can refer to")
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not header.get(keyword):
            raise DicomError(f"{path}: has no {keyword}; give the images as the scanner sent them")
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        value = header.get(keyword)
        if value is None or len(value) != count:
            raise DicomError(f"{path}: has no {keyword}, so its place in the patient is unknown; give axial images")
    if not header.get("Rows") or not header.get("Columns"):
        raise DicomError(f"{path}: has no Rows and Columns; give images, not other objects of the study")


def _check_one(headers: Sequence[Dataset], keyword: str, place: str, what: str) -> None:
    values = sorted({str(header.get(keyword)) for header in headers})
    if len(values) > 1:
        raise DicomError(
            f"{place}: {len(values)} {what} are mixed ({values[0]}, {values[1]}{', ...' if len(values) > 2 else ''}); "
            "give the files of one"
        )


def _check_alike(headers: Sequence[Dataset], place: str) -> None:
    first = headers[0]
    for header in headers[1:]:
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise DicomError(
                f"{place}: slices of {first.Columns} x {first.Rows} and of {header.Columns} x {header.Rows} pixels are "
                "mixed; give one stack"
            )
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            here, there = np.array(first[keyword].value, float), np.array(header[keyword].value, float)
            if np.abs(here - there).max() > SAME_DIRECTION:
                raise DicomError(
                    f"{place}: {keyword} is {here.tolist()} in one slice and {there.tolist()} in another; give one "
                    "stack"
                )


def _grid(ordered: Sequence[Dataset], normal: NDArray[np.float64], step_mm: float) -> Grid:
    first = ordered[0]
    along = np.array(first.ImageOrientationPatient, dtype=np.float64)
    down_mm, across_mm = (float(s) for s in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along[:3] * across_mm, along[3:] * down_mm
    affine[:3, 2], affine[:3, 3] = normal * step_mm, _position(first)
    # Cosines of few digits are not quite at a right angle.
    matrix, _ = without_shear(LPS_TO_RAS @ affine)
    return Grid.from_affine((int(first.Columns), int(first.Rows), len(ordered)), matrix)


def _step_mm(depths: NDArray[np.float64], header: Dataset, place: str) -> float:
    """From one slice to the next; a single slice is as thick as its header says, 1 mm if it does not."""
    if len(depths) == 1:
        thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0
        return abs(float(thickness))
    steps = np.diff(depths)
    if steps.min() < 1e-3:
        raise DicomError(
            f"{place}: two slices lie at {depths[int(steps.argmin())]:.3f} mm along the normal; give one time point or "
            "one contrast of the series"
        )
    even = np.linspace(depths[0], depths[-1], len(depths))
    if np.abs(depths - even).max() > EVEN_STEPS * steps.min():
        raise DicomError(
            f"{place}: slices are {steps.min():.3f} to {steps.max():.3f} mm apart, even steps are needed; add the "
            "missing slices"
        )
    return float(even[1] - even[0])


def _normal(header: Dataset) -> NDArray[np.float64]:
    along = np.array(header.ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(along[:3], along[3:])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def _position(header: Dataset) -> NDArray[np.float64]:
    return np.array(header.ImagePositionPatient, dtype=np.float64)
