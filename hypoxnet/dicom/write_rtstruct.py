"""DICOM RT Structure Set of regions: closed contours on the planes of the source series.

A hole is written by the keyhole technique: the outer and the inner contour are one, joined by a channel of no width.
The standard knows two ways (PS3.3 section C.8.8.6.3); the other, contours of type CLOSEDPLANAR_XOR, is younger than
most installed planning systems, and two plain CLOSED_PLANAR contours within each other mean nothing certain: readers
that unite contours (plastimatch by default) fill the hole, readers that combine them by exclusive or keep it. Keyholes
give the same voxels in both.

Contours run along pixel edges (`hypoxnet.dicom.contours`), so they look like stairs when magnified and enclose exactly
the volume that was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from hypoxnet.dicom.contours import trace
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import LABEL, MANUFACTURER, RESEARCH_ONLY, SHORT, OutputSeries, check_regions
from hypoxnet.dicom.regions import label_of, meaning_of
from hypoxnet.dicom.source import SourceSeries
from hypoxnet.files import replacing
from hypoxnet.geometry import LPS_TO_RAS, Grid

# A study is referred to by this class, retired but still the one that PS3.3 section C.8.8.5 names.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_OF_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
# 0.1 micrometres; a decimal string has 16 characters.
_DECIMALS = 4


def write_rtstruct(
    path: Path,
    regions: Mapping[str, NDArray[np.bool_]],
    *,
    grid: Grid,
    source: SourceSeries,
    series: OutputSeries,
    label: str = LABEL,
) -> None:
    """Write one ROI per region, in the given order, named as the region is.

    Args:
        path: File to write, whole or not at all. Implicit VR, whose contours may exceed the 64 KiB of explicit VR.
        regions: By name: bool i j k.
        grid: Where the masks lie. On other grids than the source's each pixel of the source takes the nearest voxel;
            what is thinner than the source's pixels and slices can be lost.
        source: The series on whose planes the contours are drawn.
        series: Algorithm, series number, UIDs and time.
        label: Structure Set Label, at most 16 characters.

    Raises:
        DicomError: No region, a mask that does not lie on the grid or is not bool, or one that reaches no slice of the
            source, or a label that is too long.

    Source:
        DICOM PS3.3 sections A.19 (RT Structure Set IOD), C.8.8.5, C.8.8.6, C.8.8.8.
    """
    check_regions(regions, grid)
    if not 1 <= len(label) <= SHORT:
        raise DicomError(f"the label {label!r} has {len(label)} characters, DICOM takes 1 to {SHORT}; shorten it")
    rois = {name: _contours(name, mask, grid, source) for name, mask in regions.items()}
    structures = _shell(source, series, label)
    structures.ReferencedFrameOfReferenceSequence = [_references(source)]
    structures.StructureSetROISequence = [
        _roi(number, name, source, series) for number, name in enumerate(rois, start=1)
    ]
    structures.ROIContourSequence = [
        _roi_contour(number, name, rois[name]) for number, name in enumerate(rois, start=1)
    ]
    structures.RTROIObservationsSequence = [_observation(number, name) for number, name in enumerate(rois, start=1)]
    with replacing(path) as temporary:
        structures.save_as(temporary, enforce_file_format=True)


def _contours(name: str, mask: NDArray[np.bool_], grid: Grid, source: SourceSeries) -> list[Dataset]:
    if mask.dtype != np.bool_:
        raise DicomError(f"{name} holds {mask.dtype}, a mask holds bool; threshold it first")
    if not mask.any():
        raise DicomError(f"{name} has no voxel, so there is nothing to draw; leave the region out")
    contours: list[Dataset] = []
    for k, plane in _on_planes(mask, grid, source):
        lps = source.plane_lps(k)
        for corners in trace(plane):
            # Corner (0, 0) lies half a pixel before the centre of pixel (0, 0), which Image Position tells.
            points = np.column_stack([corners - 0.5, np.ones(len(corners))]) @ lps[:3].T
            contours.append(_contour(_clearly_open(points), source.datasets[k], number=len(contours) + 1))
    if not contours:
        raise DicomError(
            f"{name} has {int(mask.sum())} voxels, none of which is nearest to a pixel of the source series "
            f"({source.grid.describe()}); name a source that covers it, or one with finer slices"
        )
    return contours


def _clearly_open(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same polygon, begun where its last and first point are far apart in x and y.

    plastimatch compares these two coordinates only, takes the last point of many sagittal and coronal contours for the
    first repeated, and drops it.
    """
    closing = np.linalg.norm(points[:, :2] - np.roll(points[:, :2], 1, axis=0), axis=1)
    return np.roll(points, -int(closing.argmax()), axis=0)


def _on_planes(mask: NDArray[np.bool_], grid: Grid, source: SourceSeries) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Slices of the source that the mask reaches: k and the mask on their pixels, i j."""
    columns, rows, _ = source.grid.shape
    to_index = np.linalg.inv(grid.matrix) @ LPS_TO_RAS
    i, j = np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij")
    pixels = np.stack([i, j, np.ones_like(i)], axis=-1).astype(np.float64)
    for k in _reached(mask, grid, source):
        to_voxel = to_index @ source.plane_lps(k)
        nearest = np.floor(pixels @ to_voxel[:3].T + 0.5).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < grid.shape)).all(axis=-1)
        plane = np.zeros((columns, rows), dtype=np.bool_)
        plane[inside] = mask[tuple(nearest[inside].T)]
        if plane.any():
            yield k, plane


def _reached(mask: NDArray[np.bool_], grid: Grid, source: SourceSeries) -> range:
    """Slices of the source between the outermost voxels of the mask; the others need not be looked at."""
    voxels = np.argwhere(mask)
    low, high = voxels.min(axis=0) - 0.5, voxels.max(axis=0) + 0.5
    corners = np.array(
        [[i, j, k, 1.0] for i in (low[0], high[0]) for j in (low[1], high[1]) for k in (low[2], high[2])]
    )
    depths = (np.linalg.inv(source.grid.matrix) @ grid.matrix @ corners.T)[2]
    return range(max(0, int(np.floor(depths.min()))), min(len(source.datasets), int(np.ceil(depths.max())) + 1))


def _shell(source: SourceSeries, series: OutputSeries, label: str) -> Dataset:
    """The object without its ROIs."""
    structures = Dataset()
    structures.file_meta = FileMetaDataset()
    structures.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    structures.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _OF_PATIENT_AND_STUDY:
        if keyword in source.first:
            setattr(structures, keyword, source.first[keyword].value)
    structures.SOPClassUID = RTStructureSetStorage
    structures.SeriesInstanceUID, structures.SOPInstanceUID = series.uids(), series.uids()
    structures.Modality, structures.SeriesNumber, structures.InstanceNumber = "RTSTRUCT", series.number, 1
    structures.SeriesDescription, structures.OperatorsName = f"{RESEARCH_ONLY} contours", ""
    structures.Manufacturer, structures.ManufacturerModelName = MANUFACTURER, series.algorithm.name
    structures.SoftwareVersions = series.algorithm.version
    structures.FrameOfReferenceUID = source.frame_of_reference
    structures.PositionReferenceIndicator = source.first.get("PositionReferenceIndicator") or ""
    structures.StructureSetLabel, structures.StructureSetName = label, f"{RESEARCH_ONLY} {label}"
    structures.StructureSetDescription = f"{RESEARCH_ONLY}, not for clinical use; {series.algorithm.name}"
    structures.ApprovalStatus = "UNAPPROVED"
    series.stamp(structures)
    for keyword in ("ContentDate", "ContentTime"):
        del structures[keyword]  # this object has times of its own
    structures.StructureSetDate, structures.StructureSetTime = structures.SeriesDate, structures.SeriesTime
    return structures


def _references(source: SourceSeries) -> Dataset:
    """Frame of reference, study and series with every instance."""
    of_series = Dataset()
    of_series.SeriesInstanceUID = source.first.SeriesInstanceUID
    of_series.ContourImageSequence = [_instance(header) for header in source.datasets]
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, source.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [of_series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    return frame


def _instance(header: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return reference


def _roi(number: int, name: str, source: SourceSeries, series: OutputSeries) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ROIName = number, name
    roi.ReferencedFrameOfReferenceUID = source.frame_of_reference
    roi.ROIDescription = f"{RESEARCH_ONLY}: {label_of(name)}"
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = f"{series.algorithm.name} {series.algorithm.version}"[:64]
    return roi


def _roi_contour(number: int, name: str, contours: list[Dataset]) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(meaning_of(name).colour)
    item.ContourSequence = Sequence(contours)
    return item


def _contour(points: NDArray[np.float64], header: Dataset, *, number: int) -> Dataset:
    contour = Dataset()
    contour.ContourNumber = number
    contour.ContourImageSequence = [_instance(header)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    # Adding zero turns -0.0 into 0.0.
    contour.ContourData = [f"{x:.{_DECIMALS}f}" for x in (points.round(_DECIMALS) + 0.0).ravel()]
    return contour


def _observation(number: int, name: str) -> Dataset:
    meaning = meaning_of(name)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = meaning.kind.value, meaning.kind.scheme_designator
    code.CodeMeaning = meaning.kind.meaning
    observation = Dataset()
    observation.ObservationNumber, observation.ReferencedROINumber = number, number
    observation.ROIObservationLabel = name[:SHORT]
    observation.RTROIIdentificationCodeSequence = [code]
    observation.RTROIInterpretedType, observation.ROIInterpreter = meaning.interpreted, ""
    return observation
