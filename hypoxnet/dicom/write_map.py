"""DICOM Parametric Map of one quantity, 32-bit floating point, with its unit."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.map_codes import PRIVATE_SCHEME, private_scheme, quantity_code, unit_code
from hypoxnet.dicom.output import (
    DESCRIPTION,
    LABEL,
    MANUFACTURER,
    RESEARCH_ONLY,
    SERIAL,
    OutputSeries,
    as_volume,
    check_on_grid,
    made_from,
    with_uids,
)
from hypoxnet.dicom.source import SourceSeries
from hypoxnet.files import replacing
from hypoxnet.geometry import Grid
from hypoxnet.quantities import Quantity

# Stands for voxels without a value. Far below every quantity, and exact in 32 bits.
PADDING = -(2.0**100)
# Where the source does not say it; a parametric map must.
_BODY_PART = "HEADNECK"
# PS3.16 Annex L: body parts without a side. For others Laterality must be there, if only empty; for these it must not.
_WITHOUT_SIDE = {
    *("BRAIN", "CSPINE", "FACE", "HEAD", "HEADNECK", "JAW", "LARYNX", "MAXILLA", "MOUTH", "NECK", "NOSE", "PHARYNX"),
    *("SKULL", "THYROID", "TONGUE", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "WHOLEBODY"),
    *("CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "ABDOMEN", "ABDOMENPELVIS", "PELVIS", "TLSPINE"),
    *("BLADDER", "CERVIX", "HEART", "LIVER", "PANCREAS", "PROSTATE", "RECTUM"),
}


def write_parametric_map(
    path: Path,
    array: NDArray[np.floating],
    *,
    quantity: Quantity,
    grid: Grid,
    source: SourceSeries,
    series: OutputSeries,
) -> None:
    """Write one map.

    Voxels that are nan have no value; they are stored as -2^100, declared as Float Pixel Padding Value and outside the
    range of the Real World Value Mapping, since readers differ in what they make of nan.

    Args:
        path: File to write, whole or not at all.
        array: i j k, in the unit of the quantity.
        quantity: What the voxels mean.
        grid: Where they lie; need not be the source's grid, but is in its frame of reference.
        source: The series the map was made from.
        series: Algorithm, series number, UIDs and time.

    Raises:
        DicomError: The array does not lie on the grid, holds infinity, does not fit 32 bits, or has no value at all.

    Source:
        DICOM PS3.3 sections A.75 (Parametric Map IOD), C.7.6.16.2.11 (Real World Value Mapping).
    """
    check_on_grid(quantity.name, array, grid)
    voxels, (low, high) = _stored(array, quantity)
    with made_from(source, f"the map of {quantity.name}"):
        volume = as_volume(voxels, grid, frame_of_reference=source.frame_of_reference)
        parametric = _parametric_map(volume, quantity, source, series, value_range=(low, high))
    parametric.ContentCreatorName = ""
    parametric.BodyPartExamined = source.first.get("BodyPartExamined") or _BODY_PART
    if parametric.BodyPartExamined not in _WITHOUT_SIDE:
        parametric.Laterality = source.first.get("Laterality") or ""
    if (voxels == np.float32(PADDING)).any():
        parametric.FloatPixelPaddingValue = parametric.FloatPixelPaddingRangeLimit = PADDING
    series.stamp(parametric)
    with_uids(parametric, series.uids)
    with replacing(path) as temporary:
        parametric.save_as(temporary)


def _parametric_map(
    volume: highdicom.Volume,
    quantity: Quantity,
    source: SourceSeries,
    series: OutputSeries,
    *,
    value_range: tuple[float, float],
) -> ParametricMap:
    private = quantity_code(quantity).scheme_designator == PRIVATE_SCHEME
    return ParametricMap(
        source_images=list(source.datasets),
        pixel_array=volume,
        series_instance_uid=series.uids(),
        series_number=series.number,
        sop_instance_uid=series.uids(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=series.algorithm.name,
        software_versions=series.algorithm.version,
        device_serial_number=SERIAL,
        contains_recognizable_visual_features=True,  # a map of the head shows the face
        real_world_value_mappings=[_mapping(quantity, *value_range)],
        voi_lut_transformations=[_window(*value_range)],
        content_description=DESCRIPTION,
        content_label=LABEL,
        series_description=f"{RESEARCH_ONLY} {quantity.name}",
        coding_schemes=[private_scheme()] if private else None,
    )


def _stored(array: NDArray[np.floating], quantity: Quantity) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Voxels as they are stored, with the smallest and the largest value."""
    values = np.asarray(array, dtype=np.float64)
    known = values[~np.isnan(values)]
    if not known.size:
        raise DicomError(f"{quantity.name}: all {values.size} voxels are nan; there is no map to write")
    low, high = float(known.min()), float(known.max())
    if max(abs(low), abs(high)) >= -PADDING:
        raise DicomError(
            f"{quantity.name} runs from {low:g} to {high:g} {quantity.unit}; voxels without a value must be nan, and "
            "infinity is none"
        )
    voxels = np.where(np.isnan(values), PADDING, values).astype(np.float32)
    # What is stored is rounded: the range is that of the rounded values.
    return voxels, (float(np.float32(low)), float(np.float32(high)))


def _window(low: float, high: float) -> highdicom.VOILUTTransformation:
    """All values on the screen; a map of one value still needs a window with a width."""
    width = max(high - low, abs(high) * 1e-6, 1e-6)
    return highdicom.VOILUTTransformation(
        window_center=float(f"{(low + high) / 2:.8g}"),
        window_width=float(f"{width:.8g}"),
        voi_lut_function="LINEAR_EXACT",  # LINEAR knows no width below 1
    )


def _mapping(quantity: Quantity, low: float, high: float) -> RealWorldValueMapping:
    return RealWorldValueMapping(
        lut_label=quantity.name[:16],
        lut_explanation=quantity.meaning[:64],
        unit=unit_code(quantity),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity_code(quantity),
    )
