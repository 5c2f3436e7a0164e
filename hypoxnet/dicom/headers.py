"""One DICOM instance as plain values: what is needed to sort it into a series and a volume, and no pixels.

Units are in the names of the fields; times of day stay text, as `YYYYMMDDHHMMSS.ffffff`, which sorts as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.header_values import (
    TAGS,
    b_values_s_per_mm2,
    code_values,
    contrast_agent,
    distinct,
    frame_of_reference,
    frame_values,
    gate_percent,
    moment_text,
    number,
    numbers,
    plain_values,
    radiopharmaceutical,
    referenced_series,
    roi_names,
    text,
)
from hypoxnet.dicom.places import Opener, Place, each_stream
from hypoxnet.dicom.reading import dicom_failures

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
SUFFIXES = (".dcm", ".dicom", ".ima")
# Headers nearly always end before it, so that the pixels of an archive are not decompressed.
PREFIX_BYTES = 256 * 1024
DICOMDIR = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT = "1.2.840.10008.1.2"
UNDEFINED = 0xFFFFFFFF


class NotDicomError(DicomError):
    """The file is something else: a text, a picture, or the directory of a disc."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the index keeps of one instance. Absent text is empty, an absent number None, an absent list an empty tuple.

    The echo times, flip angles, b-values and inversion times of an enhanced multi-frame object are those of all its
    frames, each once, sorted; those of any other instance are one value. `volumes` and `times` count, for a multi-frame
    object, the combinations of these with the temporal position, and the temporal positions.

    Example:
        >>> Header(Place("1.dcm"), sop_class_uid="1.2", sop_uid="1.2.3", echo_times_ms=(4.6,)).echo_time_ms
        4.6
    """

    place: Place
    sop_class_uid: str
    sop_uid: str
    patient_id: str = ""
    patient_name: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference_uid: str = ""
    modality: str = ""
    series_description: str = ""
    protocol_name: str = ""
    sequence_name: str = ""
    scanning_sequence: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    acquisition_number: int | None = None
    instance_number: int | None = None
    manufacturer: str = ""
    echo_times_ms: tuple[float, ...] = ()
    flip_angles_deg: tuple[float, ...] = ()
    b_values_s_per_mm2: tuple[float, ...] = ()
    inversion_times_ms: tuple[float, ...] = ()
    repetition_time_ms: float | None = None
    temporal_position: int | None = None
    trigger_time_ms: float | None = None
    frame_reference_time_ms: float | None = None
    gate_percent: float | None = None
    acquisition_time: str = ""
    series_time: str = ""
    study_date: str = ""
    position_mm: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    rows: int = 0
    columns: int = 0
    pixel_spacing_mm: tuple[float, ...] = ()
    slice_thickness_mm: float | None = None
    frames: int = 1
    volumes: int = 1
    times: int = 1
    units: str = ""
    corrected_image: tuple[str, ...] = ()
    radiopharmaceutical: str = ""
    radiopharmaceutical_codes: tuple[tuple[str, str, str], ...] = ()
    contrast_agent: str = ""
    burned_in_annotation: str = ""
    referenced_series_uids: tuple[str, ...] = ()
    roi_names: tuple[str, ...] = ()

    @property
    def echo_time_ms(self) -> float | None:
        """Echo time, ms; the shortest of an enhanced object, None where there is none."""
        return self.echo_times_ms[0] if self.echo_times_ms else None

    @property
    def flip_angle_deg(self) -> float | None:
        """Flip angle, degrees; the smallest of an enhanced object, None where there is none."""
        return self.flip_angles_deg[0] if self.flip_angles_deg else None

    @property
    def b_value_s_per_mm2(self) -> float | None:
        """Diffusion weighting, s/mm2; the smallest of an enhanced object, None where there is none."""
        return self.b_values_s_per_mm2[0] if self.b_values_s_per_mm2 else None

    @property
    def inversion_time_ms(self) -> float | None:
        """Inversion time, ms; the shortest of an enhanced object, None where there is none."""
        return self.inversion_times_ms[0] if self.inversion_times_ms else None

    @property
    def patient(self) -> str:
        """What tells patients apart: the id, or the name where the id is empty."""
        return self.patient_id or self.patient_name


def read_header(path: Path | Place) -> Header:
    """Read the header of one file, or of one member of an archive.

    Raises:
        NotDicomError: It is no DICOM instance.
        DicomError: It is cut short, or its header cannot be read.
    """
    place = path if isinstance(path, Place) else Place(str(path))
    ((_, opener),) = each_stream([place])
    return read_header_from(opener, place)


def read_headers(places: Sequence[Place]) -> list[Header | DicomError]:
    """Read many headers; an archive is opened once for the places of it that follow each other.

    Returns:
        For each place its header, or why there is none.
    """
    read: list[Header | DicomError] = []
    for place, opener in each_stream(places):
        try:
            read.append(read_header_from(opener, place))
        except DicomError as error:
            read.append(error)
    return read


def read_header_from(opener: Opener, place: Place) -> Header:
    """Read the header of an instance that `each_stream` has opened.

    Raises:
        NotDicomError: It is no DICOM instance.
        DicomError: It is cut short, or its header cannot be read.
    """
    for most_bytes in (PREFIX_BYTES, None):
        stream, size = opener(most_bytes)
        with stream:
            held = stream.seek(0, SEEK_END)
            try:
                bare = _refuse_other_files(stream, size, place)
                dataset = _dataset(stream, place, bare=bare)
            except DicomError:
                if held < size:
                    continue
                raise
            if held < size and stream.tell() >= held:
                continue
            _refuse_cut_short(dataset, stream, place, size=size)
            with dicom_failures(str(place), "read its header"):
                return _header(dataset, place)
    raise AssertionError("the whole stream is either read or refused")


def _refuse_other_files(stream: BinaryIO, size: int, place: Place) -> bool:
    """Whether an instance comes without preamble, as before 1995.

    Raises:
        NotDicomError: It is no DICOM instance.
        DicomError: It is named as if it were one.
    """
    stream.seek(0)
    head = stream.read(PREAMBLE_BYTES + len(MAGIC))
    if head[PREAMBLE_BYTES:] == MAGIC:
        return False
    # A data set begins with group 0008, of which the first elements are below 0100.
    if len(head) > 8 and head[0] == 8 and head[1] == 0 and head[3] == 0:
        return True
    name = place.name.lower()
    # macOS writes a companion "._NAME" of each file on foreign discs.
    if not name.endswith(SUFFIXES) or name.startswith("._"):
        raise NotDicomError(f"{place}: no DICOM instance")
    found = f"{size} bytes" if size < len(head) or not any(head) else "something else"
    raise DicomError(f"{place}: is named as DICOM but holds {found}; copy it again, or remove it")


def _dataset(stream: BinaryIO, place: Place, *, bare: bool) -> Dataset:
    stream.seek(0)
    with dicom_failures(str(place), "read its header"):
        dataset = pydicom.dcmread(stream, force=bare, stop_before_pixels=True, specific_tags=list(TAGS))
        meta_class = str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        sop_class, sop = text(dataset, "SOPClassUID") or meta_class, text(dataset, "SOPInstanceUID")
    if sop_class == DICOMDIR:
        raise NotDicomError(f"{place}: the directory of a disc (DICOMDIR)")
    if bare and not (sop_class and sop):
        raise NotDicomError(f"{place}: no DICOM instance")
    missing = [
        name
        for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        if not text(dataset, name)
    ]
    if missing:
        raise DicomError(f"{place}: has no {', no '.join(missing)}; it was cut short or damaged, export it again")
    return dataset


def _refuse_cut_short(dataset: Dataset, stream: BinaryIO, place: Place, *, size: int) -> None:
    """Compare the length of the pixels, at whose begin the stream stands, with what is left of the file.

    Raises:
        DicomError: The file ends early.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", IMPLICIT))
    if syntax == DEFLATED:
        return
    begin = stream.tell()
    element = stream.read(12)
    if begin > size or (not element and "Rows" in dataset and text(dataset, "Modality") != "RTSTRUCT"):
        raise DicomError(f"{place}: ends at byte {size} before its pixels; it was cut short, copy it again")
    if len(element) < 8:
        return
    order = ">" if syntax == BIG_ENDIAN else "<"
    is_long = syntax != IMPLICIT and element[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    offset = 8 if is_long else 4
    (length,) = struct.unpack(f"{order}L", element[offset : offset + 4].ljust(4, b"\0"))
    held = size - begin - offset - 4
    if length not in (UNDEFINED, 0) and held < length:
        raise DicomError(f"{place}: holds {held} bytes of {length} of its pixels; it was cut short, copy it again")


def _header(dataset: Dataset, place: Place) -> Header:
    frames = frame_values(dataset)
    return Header(
        place=place,
        frames=max(1, int(number(dataset, "NumberOfFrames") or 1)),
        echo_times_ms=distinct(numbers(dataset, "EchoTime")[:1] or frames.echo_times_ms, 3),
        flip_angles_deg=distinct(numbers(dataset, "FlipAngle")[:1] or frames.flip_angles_deg, 2),
        b_values_s_per_mm2=distinct(b_values_s_per_mm2(dataset) or frames.b_values_s_per_mm2, 0),
        inversion_times_ms=distinct(numbers(dataset, "InversionTime")[:1] or frames.inversion_times_ms, 2),
        volumes=frames.volumes,
        times=frames.times,
        acquisition_time=moment_text(dataset, "Acquisition"),
        series_time=moment_text(dataset, "Series"),
        radiopharmaceutical=radiopharmaceutical(dataset),
        radiopharmaceutical_codes=code_values(dataset),
        contrast_agent=contrast_agent(dataset),
        gate_percent=gate_percent(dataset),
        frame_of_reference_uid=frame_of_reference(dataset),
        referenced_series_uids=referenced_series(dataset),
        roi_names=roi_names(dataset),
        **plain_values(dataset),
    )
