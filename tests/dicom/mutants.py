"""Broken DICOM files, as discs, networks and hostile hands make them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

Mutation = Callable[[bytes, np.random.Generator], bytes]
FIRST_BYTE = 132


def _pixels_begin(content: bytes) -> int:
    at = content.rfind(b"\xe0\x7f\x10\x00")
    return at if at > FIRST_BYTE else len(content)


def flip_header(content: bytes, generator: np.random.Generator) -> bytes:
    out = bytearray(content)
    for at in generator.integers(FIRST_BYTE, max(FIRST_BYTE + 1, _pixels_begin(content)), generator.integers(1, 9)):
        if at < len(out):
            out[at] ^= 1 << int(generator.integers(8))
    return bytes(out)


def flip_pixels(content: bytes, generator: np.random.Generator) -> bytes:
    out = bytearray(content)
    begin = min(_pixels_begin(content), len(out) - 1)
    for at in generator.integers(begin, len(out), 20):
        out[at] ^= int(generator.integers(1, 256))
    return bytes(out)


def truncate(content: bytes, generator: np.random.Generator) -> bytes:
    return content[: int(generator.integers(0, len(content)))]


def duplicate_elements(content: bytes, generator: np.random.Generator) -> bytes:
    """A stretch of the header twice."""
    begin = int(generator.integers(FIRST_BYTE, max(FIRST_BYTE + 1, _pixels_begin(content))))
    stretch = content[begin : begin + int(generator.integers(8, 400))]
    return content[:begin] + stretch + content[begin:]


def scribble(content: bytes, generator: np.random.Generator) -> bytes:
    """Random bytes over a stretch."""
    out = bytearray(content)
    begin = int(generator.integers(FIRST_BYTE, len(out)))
    noise = generator.integers(0, 256, min(int(generator.integers(1, 60)), len(out) - begin), dtype=np.uint8)
    out[begin : begin + len(noise)] = noise.tobytes()
    return bytes(out)


ABSURD = {
    "Rows": (0, 1, 65535),
    "Columns": (0, 1, 65535),
    "NumberOfFrames": ("0", "-1", "2", "2000000000"),
    "BitsAllocated": (0, 1, 7, 32, 64, 65535),
    "BitsStored": (0, 17, 65535),
    "SamplesPerPixel": (0, 2, 3, 65535),
    "PixelRepresentation": (1, 2),
    "PhotometricInterpretation": ("PALETTE COLOR", "X", ""),
    "PixelSpacing": ([0, 0], [1e-12, 1e12], [-1, 2], []),
    "ImagePositionPatient": ([0, 0, 0], [1e30, 0, 0], [1, 2], []),
    "ImageOrientationPatient": ([0] * 6, [1, 0, 0, 1, 0, 0], [1e6] * 6, []),
    "SliceThickness": (0, -1, 1e30),
    "RescaleSlope": (0, 1e30, -1e300, 1e-300),
    "RescaleIntercept": (1e300, -1e30),
    "StudyDate": ("00000000", "99999999", "", "20240230"),
    "SeriesTime": ("999999", "", "00"),
    "AcquisitionTime": ("", "235959.999999"),
    "PatientWeight": (0, -5, 1e30, None),
    "PatientID": ("", "../../x", "a" * 60, "A\\B"),
    "Units": ("", "CNTS", "GML", "PROPCPS"),
    "FrameReferenceTime": (1e300, -1e20, 0),
    "ActualFrameDuration": (0, -1, 2**31 - 1),
    "InstanceNumber": (0, -(2**31), 2**31 - 1),
    "SeriesInstanceUID": ("", "1"),
    "Modality": ("", "SEG", "RTSTRUCT", "PT", "MR"),
    "ImageType": ("", ["A"] * 50),
}


def absurd_value(content: bytes, generator: np.random.Generator) -> bytes:
    def change(dataset: Dataset) -> None:
        for keyword in generator.choice(list(ABSURD), int(generator.integers(1, 4)), replace=False):
            values = ABSURD[keyword]
            setattr(dataset, keyword, values[int(generator.integers(len(values)))])

    return _edited(content, change)


def nest(content: bytes, generator: np.random.Generator) -> bytes:
    """Sequences within sequences, to a depth of hundreds."""
    keywords = ("SharedFunctionalGroupsSequence", "RadiopharmaceuticalInformationSequence", "ReferencedSeriesSequence")
    keyword = keywords[int(generator.integers(len(keywords)))]

    def change(dataset: Dataset) -> None:
        item = Dataset()
        for _ in range(int(generator.integers(1, 150))):
            outer = Dataset()
            setattr(outer, keyword, [item])
            item = outer
        setattr(dataset, keyword, [item])

    return _edited(content, change)


def frames(content: bytes, generator: np.random.Generator) -> bytes:
    """Functional groups that do not fit the pixels."""

    def change(dataset: Dataset) -> None:
        dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(int(generator.integers(0, 4)))]
        dataset.NumberOfFrames = int(generator.integers(1, 4))

    return _edited(content, change)


def compressed_lie(content: bytes, generator: np.random.Generator) -> bytes:
    """Pixels of a few bytes that claim to be compressed."""

    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = RLELossless
        noise = generator.integers(0, 256, int(generator.integers(0, 200)), dtype=np.uint8).tobytes()
        dataset.PixelData = pydicom.encaps.encapsulate([noise + bytes(len(noise) % 2)])
        dataset["PixelData"].is_undefined_length = True

    return _edited(content, change)


def _edited(content: bytes, change: Callable[[Dataset], None]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    change(dataset)
    out = io.BytesIO()
    try:
        dataset.save_as(out, enforce_file_format=True)
    # What pydicom refuses to write is no test of reading.
    except Exception:  # noqa: BLE001
        return content
    return out.getvalue()


MUTATIONS: tuple[Mutation, ...] = (
    flip_header,
    flip_pixels,
    truncate,
    duplicate_elements,
    scribble,
    absurd_value,
    nest,
    frames,
    compressed_lie,
)


def real_files() -> list[Path]:
    """Small files that come with pydicom, of many transfer syntaxes and kinds."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in folder.rglob("*.dcm") if path.stat().st_size < 150_000)


def plain(content: bytes) -> bool:
    """Whether pydicom can read and write the file, so that elements of it can be changed."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        return bool(dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian)
    # Test files of pydicom are broken in many ways.
    except Exception:  # noqa: BLE001
        return False
