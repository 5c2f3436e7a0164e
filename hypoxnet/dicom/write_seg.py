"""DICOM Segmentation of regions: masks as BINARY, probabilities as FRACTIONAL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import (
    DESCRIPTION,
    LABEL,
    MANUFACTURER,
    RESEARCH_ONLY,
    SERIAL,
    OutputSeries,
    as_volume,
    check_regions,
    made_from,
    with_uids,
)
from hypoxnet.dicom.regions import label_of, meaning_of
from hypoxnet.dicom.source import SourceSeries
from hypoxnet.files import replacing
from hypoxnet.geometry import Grid

# Probabilities are stored in steps of 1/255, a byte each.
FRACTIONS = 255


def write_seg(
    path: Path,
    regions: Mapping[str, NDArray[Any]],
    *,
    grid: Grid,
    source: SourceSeries,
    series: OutputSeries,
    fractional: bool = False,
) -> None:
    """Write one segment per region, in the given order.

    The segmentation has the geometry of `grid`, which need not be that of the source; both are in its frame of
    reference, and the source's instances are referenced. Planes without any region are left out, as readers expect.
    A region without voxels is refused: it would be a segment that no frame refers to, which dciodvfy lets pass but
    dcmqi reads as a segment with no image; that nothing was found is said by leaving the region out.

    Args:
        path: File to write, whole or not at all.
        regions: By name: bool i j k, or with `fractional` probabilities i j k from 0 to 1.
        grid: Where the arrays lie.
        source: The series that was segmented.
        series: Algorithm, series number, UIDs and time.
        fractional: Write probabilities, in steps of 1/255, instead of masks.

    Raises:
        DicomError: No region, an array that does not lie on the grid, has other values, or no voxel to write.

    Source:
        DICOM PS3.3 section A.51 (Segmentation IOD); codes in `hypoxnet.dicom.regions`.
    """
    check_regions(regions, grid)
    check = _check_fractions if fractional else _check_mask
    for name, array in regions.items():
        check(name, array)
    with made_from(source, "the segmentation"):
        segmentation = _segmentation(regions, grid, source, series, fractional=fractional)
    segmentation.ContentCreatorName = ""
    series.stamp(segmentation)
    with_uids(segmentation, series.uids)
    with replacing(path) as temporary:
        segmentation.save_as(temporary)


def _segmentation(
    regions: Mapping[str, NDArray[Any]], grid: Grid, source: SourceSeries, series: OutputSeries, *, fractional: bool
) -> highdicom.seg.Segmentation:
    algorithm, kinds = series.algorithm, SegmentationTypeValues
    voxels = np.stack([array.astype(np.float32 if fractional else np.uint8) for array in regions.values()], axis=-1)
    return highdicom.seg.Segmentation(
        source_images=list(source.datasets),
        pixel_array=as_volume(voxels, grid, frame_of_reference=source.frame_of_reference),
        segmentation_type=kinds.FRACTIONAL if fractional else kinds.BINARY,
        segment_descriptions=[_described(number, name, series) for number, name in enumerate(regions, start=1)],
        series_instance_uid=series.uids(),
        series_number=series.number,
        sop_instance_uid=series.uids(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=SERIAL,
        max_fractional_value=FRACTIONS,
        content_description=DESCRIPTION,
        content_label=LABEL,
        series_description=f"{RESEARCH_ONLY} {'probabilities' if fractional else 'segmentation'}",
    )


def _described(number: int, name: str, series: OutputSeries) -> SegmentDescription:
    meaning = meaning_of(name)
    algorithm = series.algorithm
    return SegmentDescription(
        segment_number=number,
        segment_label=label_of(name),
        segmented_property_category=meaning.category,
        segmented_property_type=meaning.kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm.name, family=algorithm.family, version=algorithm.version
        ),
        tracking_uid=series.uids(),
        tracking_id=name,
        display_color=highdicom.color.CIELabColor.from_rgb(*meaning.colour),
    )


def _check_mask(name: str, array: NDArray[Any]) -> None:
    if array.dtype != np.bool_:
        raise DicomError(f"{name} holds {array.dtype}, a mask holds bool; pass fractional=True for probabilities")
    if not array.any():
        raise DicomError(f"{name} has no voxel, which DICOM cannot say; leave the region out")


def _check_fractions(name: str, array: NDArray[Any]) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        raise DicomError(
            f"{name} holds {array.dtype}, probabilities are floating-point; pass fractional=False for masks"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):
        raise DicomError(f"{name} runs from {low:g} to {high:g}, a probability from 0 to 1; rescale it")
    if high * FRACTIONS < 0.5:
        raise DicomError(f"{name} is {high:g} at most, which is stored as 0 everywhere; leave the region out")
