"""The one door for DICOM files: every failure of pydicom becomes one sentence, and decompression bombs stay outside."""

from __future__ import annotations

import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hypoxnet.dicom.errors import DicomError

LOG = logging.getLogger(__name__)

GIB = 1024**3
# A whole-body dynamic PET in one enhanced file stays below it; what claims more is broken or hostile.
LARGEST_PIXELS_BYTES = 8 * GIB

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Contour Data stays bytes: a million numbers as DS objects would cost seconds; `structures` parses it at once.
_LEFT_RAW = frozenset({0x30060050})
_CUT_SHORT = "end of file"
_UNKNOWN_LENGTH = 0xFFFFFFFF
_MARK_AT = 128
_CHUNK = 1 << 20


@contextmanager
def dicom_failures(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn whatever the block raises into a `DicomError` that names the file, and log its warnings at debug level.

    pydicom converts values when they are first looked at, so reading attributes belongs inside such a block too.

    Args:
        path: The file, for the message.
        doing: What was tried, as it follows "cannot", for example `read its contours`.

    Raises:
        DicomError: The block failed, or pydicom warned of a file that ends too soon; a `DicomError` of the block
            passes unchanged.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except DicomError:
            raise
        except InvalidDicomError as error:
            raise DicomError(f"{path}: not a DICOM file (no DICM mark at byte 128); name a DICOM file") from error
        except MemoryError as error:
            raise DicomError(f"{path}: cannot {doing}: it needs more memory than there is") from error
        # pydicom and its decoders raise of every kind on broken input (struct.error, RecursionError, KeyError, ...).
        except Exception as error:
            raise DicomError(f"{path}: cannot {doing}: {_in_one_line(error)}; export the file again") from error
        finally:
            for warning in caught:
                LOG.debug("%s: %s", path, warning.message)
    if any(_CUT_SHORT in str(warning.message).lower() for warning in caught):
        raise _cut_short(path)


def read_dataset(
    path: str | os.PathLike[str],
    *,
    stop_before_pixels: bool = False,
    thorough: bool = True,
    largest_pixels_bytes: int = LARGEST_PIXELS_BYTES,
) -> FileDataset:
    """Read one DICOM file (PS3.10) completely, down to the last sequence item, or refuse it.

    Args:
        path: The file.
        thorough: Look at every element; a caller who looks at a few inside of `dicom_failures` need not.
        stop_before_pixels: Leave Pixel Data unread; its size is then not compared with the header.
        largest_pixels_bytes: Refuse when Rows x Columns x Number of Frames x samples x bytes exceeds it; a deflated
            file may not grow beyond it either.

    Raises:
        DicomError: No such file, not DICOM, cut short, a value that does not fit its representation, more pixels than
            allowed, or a header that promises other pixels than the file holds.

    Source:
        DICOM PS3.10 section 7.1 (preamble and `DICM`), PS3.5 sections 8.1 (pixels) and A.5 (deflated).
    """
    file = Path(path)
    if not file.is_file():
        raise DicomError(f"{file}: no such file; name one DICOM file")
    with dicom_failures(file, "read it as DICOM"):
        _check_deflated(file, largest_bytes=largest_pixels_bytes)
        dataset = pydicom.dcmread(file, force=False, stop_before_pixels=stop_before_pixels)
        if thorough:
            _look_at_all(dataset, file)
        check_pixels(dataset, file, largest_pixels_bytes=largest_pixels_bytes)
    return dataset


def promised_bytes(dataset: Dataset) -> int:
    """Bytes of the decompressed pixels that the header promises, 0 where it describes no image.

    Bit-packed pixels (Bits Allocated 1) count an eighth of a byte each; the sum is rounded up.
    """
    if dataset.get("Rows") is None or dataset.get("Columns") is None:
        return 0
    counts = [dataset.Rows, dataset.Columns, dataset.get("NumberOfFrames") or 1, dataset.get("SamplesPerPixel") or 1]
    bits = int(dataset.get("BitsAllocated") or 8)
    return (math.prod(int(n) for n in counts) * bits + 7) // 8


def check_pixels(dataset: Dataset, path: str | os.PathLike[str], *, largest_pixels_bytes: int) -> None:
    """Refuse pixels that are too many, or that are fewer than the header says.

    Raises:
        DicomError: With both numbers.
    """
    promised = promised_bytes(dataset)
    if promised < 0:
        raise DicomError(f"{path}: Number of Frames is {dataset.get('NumberOfFrames')}; export the file again")
    if promised > largest_pixels_bytes:
        raise DicomError(
            f"{path}: the header promises {promised / GIB:.2f} GiB of pixels, at most {largest_pixels_bytes / GIB:.2f} "
            "GiB are read; export fewer frames per file"
        )
    held = [len(dataset[name].value or b"") for name in _PIXELS if name in dataset]
    if not held or promised == 0 or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    # More bytes than promised are padding: to an even length by rule, to more by habit of some writers.
    if max(held) < promised:
        raise DicomError(
            f"{path}: holds {max(held)} bytes of pixels, the header promises {promised}; the file was cut short or its "
            "header is wrong, copy it again"
        )


def _look_at_all(dataset: Dataset, path: Path) -> None:
    """Convert every element once, so that a broken one is found here and not by whoever needs it."""
    for tag in list(dataset.keys()):
        raw: Any = dataset.get_item(tag)  # typed as an element in pydicom, it is raw until looked at
        if isinstance(raw, RawDataElement):
            if raw.length != _UNKNOWN_LENGTH and len(raw.value or b"") < raw.length:
                raise _cut_short(path)
            if tag in _LEFT_RAW:
                continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                _look_at_all(item, path)


def _check_deflated(path: Path, *, largest_bytes: int) -> None:
    """Refuse a deflated data set that grows beyond the limit, before it does."""
    with path.open("rb") as file:
        if file.read(_MARK_AT + 4)[_MARK_AT:] != b"DICM":
            return
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        # The group length counts from behind its own element: preamble, mark, and twelve bytes of that element.
        file.seek(_MARK_AT + 4 + 12 + int(meta.FileMetaInformationGroupLength))
        inflate, grown = zlib.decompressobj(-zlib.MAX_WBITS), 0
        waiting = file.read(_CHUNK)
        while waiting and not inflate.eof:
            grown += len(inflate.decompress(waiting, _CHUNK))
            if grown > largest_bytes:
                raise DicomError(
                    f"{path}: grows beyond {largest_bytes / GIB:.2f} GiB when inflated; export it undeflated"
                )
            waiting = inflate.unconsumed_tail or file.read(_CHUNK)


def _cut_short(path: str | os.PathLike[str]) -> DicomError:
    return DicomError(f"{path}: the file ends before its last element does; copy it again")


def _in_one_line(error: Exception) -> str:
    words = " ".join(str(error).split()).rstrip(".;") or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}..."
