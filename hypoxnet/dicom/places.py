"""Where DICOM files lie: a tree of files in any order, and zip archives in it, read without being unpacked."""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hypoxnet.dicom.errors import DicomError

GIB = 1024**3
# A cohort of a hundred patients with dynamic PET fits; what declares more is to be unpacked by hand.
LARGEST_ARCHIVE_BYTES = 256 * GIB
LARGEST_RATIO = 200
# Blank slices and binary segmentations compress a thousandfold; a member this small fills no memory.
SMALL_MEMBER_BYTES = 16 * 1024**2
ENCRYPTED = 0x1
DRIVE = re.compile(r"[A-Za-z]:")

Opener = Callable[[int | None], tuple[BinaryIO, int]]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A file, or a member of a zip archive.

    Args:
        path: The file or the archive.
        member: Name inside of the archive, empty for a file.

    Example:
        >>> str(Place("cohort/a.zip", "series/1.dcm"))
        'cohort/a.zip!series/1.dcm'
    """

    path: str
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else self.path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.member).name if self.member else Path(self.path).name

    def read_bytes(self) -> bytes:
        """The whole content.

        Raises:
            DicomError: It cannot be read.
        """
        if not self.member:
            with _failures(self):
                return Path(self.path).read_bytes()
        with opened_archive(self.path) as archive, _failures(self):
            return archive.read(self.member)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a tree.

    Args:
        places: Files and members, sorted.
        faults: One sentence for each archive that is refused.
    """

    places: tuple[Place, ...]
    faults: tuple[str, ...]


def find_places(folder: Path) -> Found:
    """Every file below a folder, and every member of the zip archives in it; links to folders are not followed.

    Args:
        folder: A folder, one zip archive, or one file.

    Raises:
        DicomError: Nothing is there.
    """
    if not folder.exists():
        raise DicomError(f"{folder}: no such folder; name the one that holds the DICOM files")
    files = [str(folder)] if folder.is_file() else list(_files(folder))
    places: list[Place] = []
    faults: list[str] = []
    for file in files:
        if not file.lower().endswith(".zip"):
            places.append(Place(file))
            continue
        try:
            places += list_archive(file)
        except DicomError as error:
            faults.append(str(error))
    return Found(tuple(sorted(places)), tuple(sorted(faults)))


def _files(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (f"{root}{os.sep}{name}" for name in names)


def list_archive(path: str) -> list[Place]:
    """The members of an archive that are files.

    Raises:
        DicomError: It is cut short or encrypted, a member would leave it, or its sizes are those of a bomb.
    """
    with opened_archive(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir() and not _is_link(info)]
    for info in members:
        refuse_member(info, path)
    declared = sum(info.file_size for info in members)
    if declared > LARGEST_ARCHIVE_BYTES:
        raise DicomError(
            f"{path}: declares {declared / GIB:.1f} GiB of content, at most {LARGEST_ARCHIVE_BYTES / GIB:.0f} GiB are "
            "read; unpack it, or split it"
        )
    return [Place(path, info.filename) for info in members]


def refuse_member(info: zipfile.ZipInfo, path: str) -> None:
    """Refuse what no export of images contains.

    Raises:
        DicomError: The member leaves the archive, is encrypted, or expands beyond measure.
    """
    name = info.orig_filename.replace("\\", "/")
    if name.startswith("/") or DRIVE.match(name) or ".." in name.split("/"):
        raise DicomError(f"{path}: the member {info.orig_filename!r} leaves the archive; get it from a trusted source")
    if info.flag_bits & ENCRYPTED:
        raise DicomError(f"{path}: the member {name!r} is encrypted; unpack the archive with its password first")
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > SMALL_MEMBER_BYTES and ratio > LARGEST_RATIO:
        raise DicomError(
            f"{path}: the member {name!r} expands {ratio:.0f} times to {info.file_size / GIB:.2f} GiB, at most "
            f"{LARGEST_RATIO} times is read; if the archive can be trusted, unpack it"
        )


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


@contextmanager
def opened_archive(path: str) -> Iterator[zipfile.ZipFile]:
    """An archive, open for reading.

    Raises:
        DicomError: It is no zip archive, or cut short.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DicomError(f"{path}: cannot open the archive: {error}; it may be cut short, copy it again") from error
    with archive:
        yield archive


@contextmanager
def _failures(place: Place) -> Iterator[None]:
    try:
        yield
    # zlib.error and NotImplementedError (an unknown compression) are neither of the two first.
    except Exception as error:
        raise DicomError(f"{place}: cannot read it: {error}; copy it again") from error


def each_stream(places: Sequence[Place]) -> Iterator[tuple[Place, Opener]]:
    """Places with what opens them, one archive after the other being open.

    Yields:
        The place, and a function that gives its stream and its size in bytes; called with a number, it may
        decompress so many bytes only (the size is still that of the whole).
    """
    archive: zipfile.ZipFile | None = None
    try:
        for place in places:
            if not place.member:
                yield place, _FileOpener(place)
                continue
            if archive is None or archive.filename != place.path:
                if archive is not None:
                    archive.close()
                archive = zipfile.ZipFile(place.path)
            yield place, _MemberOpener(place, archive)
    finally:
        if archive is not None:
            archive.close()


@dataclass(frozen=True, slots=True)
class _FileOpener:
    place: Place

    def __call__(self, most_bytes: int | None) -> tuple[BinaryIO, int]:
        with _failures(self.place):
            stream = Path(self.place.path).open("rb")  # noqa: SIM115 - the caller closes it
            return stream, os.fstat(stream.fileno()).st_size


@dataclass(frozen=True, slots=True)
class _MemberOpener:
    place: Place
    archive: zipfile.ZipFile

    def __call__(self, most_bytes: int | None) -> tuple[BinaryIO, int]:
        with _failures(self.place):
            info = self.archive.getinfo(self.place.member)
            with self.archive.open(info) as stream:
                return io.BytesIO(stream.read(-1 if most_bytes is None else most_bytes)), info.file_size
