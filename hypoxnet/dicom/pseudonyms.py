"""Names and dates that leave the hospital: keyed pseudonyms, intervals instead of dates, and a list of what may stay.

What may stay beside an image is listed, not what must go: an attribute that nobody thought of stays at home. The
pseudonym of a patient is the same in every cohort made with one key, and nobody without the key can check a guess.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import Header

KEY_BYTES = 32
PREFIX = "HN"
LETTERS = 10
# Attributes of the physics of an image; none tells a person, a place, a moment or one device.
MAY_STAY = frozenset(
    (
        *("Modality", "Manufacturer", "ManufacturerModelName", "ImageType", "SOPClassUID", "BodyPartExamined"),
        *("MagneticFieldStrength", "ImagingFrequency", "ScanningSequence", "SequenceVariant", "ScanOptions"),
        *("MRAcquisitionType", "SequenceName", "EchoTime", "EchoNumbers", "EchoTrainLength", "RepetitionTime"),
        *("InversionTime", "FlipAngle", "NumberOfAverages", "PixelBandwidth", "DiffusionBValue", "TriggerTime"),
        *("InPlanePhaseEncodingDirection", "TemporalPositionIdentifier", "NumberOfTemporalPositions"),
        *("TemporalResolution", "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "Rows", "Columns"),
        *("NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient", "PatientPosition"),
        *("RescaleSlope", "RescaleIntercept", "RescaleType", "Units", "SUVType", "DecayCorrection", "DecayFactor"),
        *("CorrectedImage", "AttenuationCorrectionMethod", "ScatterCorrectionMethod", "RandomsCorrectionMethod"),
        *("ReconstructionMethod", "FrameReferenceTime", "ActualFrameDuration", "RadionuclideHalfLife"),
        *("RadionuclidePositronFraction", "RadionuclideTotalDose", "KVP", "ConvolutionKernel"),
    )
)
# Free text: people write names, dates and diagnoses into it.
DESCRIPTIONS = frozenset(
    (
        *("SeriesDescription", "ProtocolName", "StudyDescription", "Radiopharmaceutical", "ContrastBolusAgent"),
        *("ROIName", "SegmentLabel"),
    )
)
UIDS = frozenset(
    (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
        *("ReferencedSOPInstanceUID", "ReferencedSeriesInstanceUID", "ReferencedFrameOfReferenceUID"),
    )
)


def default_key_path() -> Path:
    """Where the key lies unless told otherwise: `~/.config/hypoxnet/pseudonyms.key`, or below `$XDG_CONFIG_HOME`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hypoxnet" / "pseudonyms.key"


def read_or_make_key(path: Path, *, cohort: Path | None = None) -> bytes:
    """The key of the pseudonyms, made at its first use, readable by its owner only.

    Args:
        path: The file; keep it, without it no further visit of a patient gets the same name.
        cohort: Folder that will be handed on; the key must lie outside of it.

    Raises:
        DicomError: The file lies in the cohort, others can read it, or it holds no key.
    """
    if cohort is not None and path.resolve().is_relative_to(cohort.resolve()):
        raise DicomError(
            f"{path}: the key lies inside of {cohort} and would be handed on with it; choose another place"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        if path.is_file():
            return _read_key(path)
        raise DicomError(f"{path}: the key cannot be kept there ({error.strerror}); name another file") from error
    key = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(key.hex() + "\n")
    return key


def _read_key(path: Path) -> bytes:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise DicomError(f"{path}: has mode {mode:o}, others can read the key; make it 600 (chmod 600)")
    try:
        key = binascii.unhexlify(path.read_text(encoding="ascii").strip())
    except (binascii.Error, UnicodeDecodeError) as error:
        raise DicomError(f"{path}: holds no key ({error}); name another file, or restore this one") from error
    if len(key) < KEY_BYTES:
        raise DicomError(f"{path}: holds {len(key)} bytes, a key has {KEY_BYTES}; name another file, or restore it")
    return key


def pseudonym(patient_id: str, key: bytes) -> str:
    """The name of a patient outside of the hospital: HMAC-SHA256 of the id, its first 50 bits in base 32.

    Among 100,000 patients two share a name with a probability of 4e-6.

    Raises:
        DicomError: The id is empty, so that all such patients would become one.

    Example:
        >>> pseudonym("0042", bytes(32))
        'HNMY4GF3F62D'
    """
    plain = patient_id.strip()
    if not plain:
        raise DicomError("the patient id is empty; enter one in Patient ID before the cohort is made")
    return PREFIX + base64.b32encode(_digest("patient", plain, key)).decode("ascii")[:LETTERS]


def keyed_uid(uid: str, key: bytes) -> str:
    """A UID that stands for another one, equal for equal ones, in the form that PS3.5 B.2 gives to random numbers.

    Example:
        >>> keyed_uid("1.2.3", bytes(32)) == keyed_uid("1.2.3 ", bytes(32))
        True
    """
    return f"2.25.{int.from_bytes(_digest('uid', uid.strip(), key)[:16], 'big')}"


def _digest(kind: str, plain: str, key: bytes) -> bytes:
    return hmac.new(key, f"{kind}\0{plain}".encode(), hashlib.sha256).digest()


def days_from(first_study_date: str, study_date: str) -> int:
    """Days from the first study of a patient to another date; both as DICOM writes them, `YYYYMMDD`.

    Raises:
        DicomError: One of them is no date.

    Example:
        >>> days_from("20200228", "20200301")
        2
    """
    return (_date(study_date) - _date(first_study_date)).days


def _date(text: str) -> date:
    digits = text.strip().replace(".", "")
    try:
        if len(digits) != 8 or not digits.isascii() or not digits.isdigit():
            raise ValueError
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError as error:
        raise DicomError(f"a study date is {text!r}, YYYYMMDD is expected; correct Study Date") from error


def scrub(header_values: Mapping[str, Any], *, key: bytes, keep_descriptions: bool = False) -> dict[str, Any]:
    """What of a sidecar may be handed on.

    Names, ids, dates, times of day, institutions, physicians, serial numbers, body measures, private and unknown
    attributes go; UIDs become keyed ones.

    Args:
        header_values: Keyword of DICOM to plain value.
        key: For the UIDs.
        keep_descriptions: Keep free text, too; look through it before it is handed on.

    Source:
        DICOM PS3.15 table E.1-1, the basic application level confidentiality profile: what it removes or replaces is
        not on the list; `keep_descriptions` weakens it.

    Example:
        >>> scrub({"EchoTime": 4.6, "PatientName": "Doe", "SeriesDescription": "T1 Doe"}, key=bytes(32))
        {'EchoTime': 4.6}
    """
    kept: dict[str, Any] = {}
    for name, value in header_values.items():
        if name in MAY_STAY or (keep_descriptions and name in DESCRIPTIONS):
            kept[name] = value
        elif name in UIDS:
            kept[name] = keyed_uid(value, key) if isinstance(value, str) else [keyed_uid(str(v), key) for v in value]
    return kept


def refuse_burned_in(header: Header, *, allowed: bool = False) -> None:
    """Refuse an image with writing in its pixels, which may be the name of the patient.

    Raises:
        DicomError: Burned In Annotation is YES and `allowed` is not set.
    """
    if header.burned_in_annotation.upper() == "YES" and not allowed:
        raise DicomError(
            f"{header.place}: Burned In Annotation is YES, its pixels may show a name; leave the series out, or allow "
            "it after looking"
        )
