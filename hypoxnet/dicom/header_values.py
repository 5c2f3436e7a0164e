"""Values of a header, read so that one that breaks its rules is absent instead of an end to everything."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

# Field of `Header` to keyword of DICOM.
TEXTS = {
    "sop_class_uid": "SOPClassUID",
    "sop_uid": "SOPInstanceUID",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "modality": "Modality",
    "series_description": "SeriesDescription",
    "protocol_name": "ProtocolName",
    "sequence_name": "SequenceName",
    "manufacturer": "Manufacturer",
    "study_date": "StudyDate",
    "units": "Units",
    "burned_in_annotation": "BurnedInAnnotation",
}
LISTS = {
    "image_type": "ImageType",
    "scanning_sequence": "ScanningSequence",
    "scan_options": "ScanOptions",
    "corrected_image": "CorrectedImage",
}
NUMBERS = {
    "repetition_time_ms": "RepetitionTime",
    "trigger_time_ms": "TriggerTime",
    "frame_reference_time_ms": "FrameReferenceTime",
    "slice_thickness_mm": "SliceThickness",
}
WHOLES = {
    "series_number": "SeriesNumber",
    "acquisition_number": "AcquisitionNumber",
    "instance_number": "InstanceNumber",
    "temporal_position": "TemporalPositionIdentifier",
}
SIZES = {"rows": "Rows", "columns": "Columns"}
VECTORS = {
    "position_mm": "ImagePositionPatient",
    "orientation": "ImageOrientationPatient",
    "pixel_spacing_mm": "PixelSpacing",
}
OTHERS = (
    *("NumberOfFrames", "EchoTime", "FlipAngle", "DiffusionBValue", "InversionTime", "FrameOfReferenceUID"),
    *("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence", "RadiopharmaceuticalInformationSequence"),
    *("NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence", "StructureSetROISequence", "SegmentSequence"),
)
# Where scanners keep the b-value apart from (0018,9087), after the manufacturer that uses it.
B_VALUE_PRIVATE = {"SIEMENS": 0x0019100C, "GE": 0x00431039, "PHILIPS": 0x20011003}
PRIVATE_CREATORS = (0x00190010, 0x00430010, 0x20010010)
# GE adds it to the b-value of some series, in its private element only.
GE_BIAS = 1_000_000_000
# Representations whose values are text with a backslash between them.
TEXTUAL = frozenset(("CS", "LO", "SH", "UI", "DA", "TM", "DT", "DS", "IS", "PN"))
# Begins a change of the character set.
ESCAPE = b"\x1b"


@lru_cache
def _tag(keyword: str) -> BaseTag:
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return BaseTag(found)


TAG_OF = {
    keyword: _tag(keyword)
    for keyword in (
        *TEXTS.values(),
        *LISTS.values(),
        *NUMBERS.values(),
        *WHOLES.values(),
        *SIZES.values(),
        *VECTORS.values(),
        *OTHERS,
    )
}
TAGS = (*TAG_OF.values(), *B_VALUE_PRIVATE.values(), *PRIVATE_CREATORS)


def value(dataset: Dataset, keyword: str) -> Any:
    """The value of an element; None when it is absent, empty or breaks the rules of its representation.

    Plain text stays text, several values as a list of texts: pydicom's own conversion takes three times as long, which
    is a minute per 20,000 files.
    """
    tag = TAG_OF.get(keyword) or _tag(keyword)
    if tag not in dataset.keys():  # noqa: SIM118 - the test of the dataset itself parses the tag, tenfold slower
        return None
    try:
        element: Any = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            plain = _plain(element, tag)
            return dataset[tag].value if plain is None else plain
        return element.value if isinstance(element, DataElement) else None
    # pydicom converts here; a value that no rule covers raises of many kinds, and one optional value is not the file.
    except Exception:  # noqa: BLE001
        return None


def _plain(element: RawDataElement, tag: int) -> Any:
    """A value that needs neither character set nor private dictionary; None when it does."""
    content = element.value
    if not isinstance(content, bytes):
        return None
    representation = element.VR or dictionary_VR(tag)
    if representation in TEXTUAL and content.isascii() and ESCAPE not in content:
        return content.decode("ascii").split("\\")
    if representation == "US" and len(content) == 2:
        return int.from_bytes(content, "little" if element.is_little_endian else "big")
    return None


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The texts of an element, stripped; equal ones share their memory, and the memory of a message between processes.

    Example:
        >>> dataset = Dataset()
        >>> dataset.ImageType = ["ORIGINAL", "PRIMARY "]
        >>> texts(dataset, "ImageType")
        ('ORIGINAL', 'PRIMARY')
    """
    found = value(dataset, keyword)
    if found is None or found == "":
        return ()
    parts = [_clean(part) for part in (found if isinstance(found, MultiValue | list) else [found])]
    return tuple(sys.intern(part) for part in parts) if any(parts) else ()


def _clean(part: Any) -> str:
    return str(part).replace("\0", "").strip()


def text(dataset: Dataset, keyword: str) -> str:
    r"""The text of an element, several values joined by a backslash; empty when it is absent."""
    parts = texts(dataset, keyword)
    return parts[0] if len(parts) == 1 else sys.intern("\\".join(parts))


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element; none when one of them is not a number or not finite.

    Example:
        >>> dataset = Dataset()
        >>> dataset.PixelSpacing = [2, 2.5]
        >>> numbers(dataset, "PixelSpacing")
        (2.0, 2.5)
    """
    found = value(dataset, keyword)
    if found is None or found == "":
        return ()
    try:
        parts = tuple(float(part) for part in (found if isinstance(found, MultiValue | list) else [found]))
    except (TypeError, ValueError):
        return ()
    return parts if all(map(math.isfinite, parts)) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first number of an element, None when there is none."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def whole(dataset: Dataset, keyword: str) -> int | None:
    """The first number of an element as an integer, None when there is none."""
    found = number(dataset, keyword)
    return None if found is None or abs(found) > 2**62 else int(found)


def plain_values(dataset: Dataset) -> dict[str, Any]:
    """The fields of a `Header` that are one element each."""
    return {
        **{field: text(dataset, keyword) for field, keyword in TEXTS.items()},
        **{field: texts(dataset, keyword) for field, keyword in LISTS.items()},
        **{field: number(dataset, keyword) for field, keyword in NUMBERS.items()},
        **{field: whole(dataset, keyword) for field, keyword in WHOLES.items()},
        **{field: whole(dataset, keyword) or 0 for field, keyword in SIZES.items()},
        **{field: numbers(dataset, keyword) for field, keyword in VECTORS.items()},
    }


def distinct(values: Iterable[float], digits: int) -> tuple[float, ...]:
    """Values that differ when rounded, sorted; scanners write one echo time with several last digits.

    Example:
        >>> distinct([4.60001, 2.3, 4.6], 3)
        (2.3, 4.6)
    """
    return tuple(sorted({round(v, digits) for v in values}))


def items(dataset: Dataset, *keywords: str) -> Iterator[Dataset]:
    """The items of a sequence, of the sequences in these, and so on."""
    found = value(dataset, keywords[0])
    for item in found if isinstance(found, Iterable) and not isinstance(found, str | bytes) else ():
        if not isinstance(item, Dataset):
            continue
        if len(keywords) == 1:
            yield item
        else:
            yield from items(item, *keywords[1:])


def moment_text(dataset: Dataset, which: str) -> str:
    """Date and time of the acquisition or the series, as text that sorts: `YYYYMMDDHHMMSS.ffffff`; empty when absent.

    Example:
        >>> dataset = Dataset()
        >>> dataset.SeriesDate, dataset.SeriesTime = "20201217", "1048"
        >>> moment_text(dataset, "Series")
        '20201217104800.000000'
    """
    joined = text(dataset, f"{which}DateTime") if f"{which}DateTime" in TAG_OF else ""
    date = joined[:8] or text(dataset, f"{which}Date").replace(".", "")
    time = joined[8:].partition("+")[0].partition("-")[0] or text(dataset, f"{which}Time").replace(":", "")
    if not time:
        return date
    seconds, _, fraction = time.partition(".")
    return sys.intern(f"{date:0>8}{seconds:0<6}.{fraction:0<6}")


def b_values_s_per_mm2(dataset: Dataset) -> tuple[float, ...]:
    """The b-value of a classic instance, s/mm2: the standard element, else the private one of its manufacturer.

    Source:
        PS3.3 C.8.13.5.9; for GE, whose element adds 1e9 to some values, a known report to dcm2niix.
    """
    standard = numbers(dataset, "DiffusionBValue")
    if standard:
        return standard[:1]
    manufacturer = text(dataset, "Manufacturer").upper()
    for maker, tag in B_VALUE_PRIVATE.items():
        if manufacturer.startswith(maker) and tag in dataset:
            found = _private_number(dataset, tag)
            return () if found is None else (found % GE_BIAS if maker == "GE" else found,)
    return ()


def _private_number(dataset: Dataset, tag: int) -> float | None:
    """The first number of a private element, which may come without its type: digits, or four bytes of a float."""
    try:
        found = dataset[tag].value
        if isinstance(found, MultiValue | list):
            found = found[0]
        if isinstance(found, bytes):
            digits = found.split(b"\\")[0].strip(b" \0")
            is_text = digits != b"" and all(byte in b"+-.0123456789eE" for byte in digits)
            found = float(digits) if is_text else struct.unpack("<f", found[:4])[0]
        return float(found)
    # As for `value`: what cannot be converted is absent.
    except Exception:  # noqa: BLE001
        return None


def gate_percent(dataset: Dataset) -> float | None:
    """Phase of the cardiac or respiratory cycle, %."""
    cardiac = number(dataset, "NominalPercentageOfCardiacPhase")
    return cardiac if cardiac is not None else number(dataset, "NominalPercentageOfRespiratoryPhase")


def radiopharmaceutical(dataset: Dataset) -> str:
    """The tracer in the words of the scanner."""
    found = (text(item, "Radiopharmaceutical") for item in items(dataset, "RadiopharmaceuticalInformationSequence"))
    return next(found, "")


def code_values(dataset: Dataset) -> tuple[tuple[str, str, str], ...]:
    """Codes of the radiopharmaceutical: value, scheme, meaning."""
    names = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    sequence = ("RadiopharmaceuticalInformationSequence", "RadiopharmaceuticalCodeSequence")
    codes = [tuple(text(item, name) for name in names) for item in items(dataset, *sequence)]
    return tuple((code, scheme, meaning) for code, scheme, meaning in codes)


def contrast_agent(dataset: Dataset) -> str:
    """The contrast agent in the words of the scanner; empty when none was given."""
    coded = (text(item, "CodeMeaning") for item in items(dataset, "ContrastBolusAgentSequence"))
    return text(dataset, "ContrastBolusAgent") or next(coded, "")


def frame_of_reference(dataset: Dataset) -> str:
    """The frame of reference; that of the contours for a structure set."""
    there = text(dataset, "FrameOfReferenceUID")
    referenced = (text(item, "FrameOfReferenceUID") for item in items(dataset, "ReferencedFrameOfReferenceSequence"))
    return there or next((uid for uid in referenced if uid), "")


def referenced_series(dataset: Dataset) -> tuple[str, ...]:
    """Series that a structure set or a segmentation was drawn on, sorted.

    A dose names no series, its plan and structure set only; it lies in their study.
    """
    contoured = ("ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", "RTReferencedSeriesSequence")
    found = [*items(dataset, *contoured), *items(dataset, "ReferencedSeriesSequence")]
    return tuple(sorted({uid for uid in (text(item, "SeriesInstanceUID") for item in found) if uid}))


def roi_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the regions of a structure set or of the segments of a segmentation, in their order."""
    regions = [text(item, "ROIName") for item in items(dataset, "StructureSetROISequence")]
    return tuple(regions + [text(item, "SegmentLabel") for item in items(dataset, "SegmentSequence")])


@dataclass(frozen=True, slots=True)
class FrameValues:
    """What the frames of an enhanced multi-frame object differ in.

    Args:
        echo_times_ms: Of all frames, as for the other lists.
        volumes: Combinations of the four with the temporal position.
        times: Temporal positions.
    """

    echo_times_ms: tuple[float, ...] = ()
    flip_angles_deg: tuple[float, ...] = ()
    b_values_s_per_mm2: tuple[float, ...] = ()
    inversion_times_ms: tuple[float, ...] = ()
    volumes: int = 1
    times: int = 1


# Functional group and element of: echo time, flip angle, b-value, inversion time, temporal position.
_GROUPS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRModifierSequence", "InversionTimes"),
    ("FrameContentSequence", "TemporalPositionIndex"),
)


def frame_values(dataset: Dataset) -> FrameValues:
    """What the frames differ in, from the functional groups that they share and those of each.

    Source:
        PS3.3 C.7.6.16 (multi-frame functional groups) and C.8.13.5 (those of MR).
    """
    shared = next((_group_values(item) for item in items(dataset, "SharedFunctionalGroupsSequence")), (None,) * 5)
    own = [_group_values(item) for item in items(dataset, "PerFrameFunctionalGroupsSequence")]
    if not own:
        return FrameValues()
    frames = {tuple(a if a is not None else b for a, b in zip(frame, shared, strict=True)) for frame in own}
    echo, flip, b, inversion, times = (
        tuple(sorted({v for v in column if v is not None})) for column in zip(*frames, strict=True)
    )
    return FrameValues(echo, flip, b, inversion, volumes=len(frames), times=max(1, len(times)))


def _group_values(groups: Dataset) -> tuple[float | None, ...]:
    return tuple(
        next((number(item, keyword) for item in items(groups, sequence)), None) for sequence, keyword in _GROUPS
    )
