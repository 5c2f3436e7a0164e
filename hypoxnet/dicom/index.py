"""A tree of DICOM files, in any order, as series and volumes; headers are read by all cores, pixels are not read."""

from __future__ import annotations

import hashlib
import os
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import MAGIC, PREAMBLE_BYTES, Header, NotDicomError, read_headers
from hypoxnet.dicom.places import Place, find_places
from hypoxnet.dicom.stacks import PARAMETERS, Stack, stacks_of

CHUNK = 64
# A part of an archive opens it anew, which reads its whole directory.
ARCHIVE_CHUNK = 1024
# Starting a process takes as long as reading some hundred headers.
FEW = 400
# Chunks that are read or wait for it, per process: what bounds the memory.
AHEAD = 4

Progress = Callable[[int, int], None]
T = TypeVar("T")


class Row(NamedTuple):
    """One line of the table of an index."""

    patient: str
    study: str
    series: str
    modality: str
    files: int
    stacks: int
    description: str


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """One series.

    Args:
        patient: Patient id, or the name where the id is empty.
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        frame_of_reference_uid: Of its first instance.
        modality: As DICOM names it: PT, CT, MR, RTSTRUCT, SEG, RTDOSE, ...
        description: Series description, or the protocol name where it is empty.
        stacks: Its volumes.
    """

    patient: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    stacks: tuple[Stack, ...]

    @property
    def first(self) -> Header:
        """The header of its first slice, for what the whole series shares."""
        return self.stacks[0].first

    @property
    def headers(self) -> tuple[Header, ...]:
        """All instances, volume by volume."""
        return tuple(header for stack in self.stacks for header in stack.headers)

    @property
    def files(self) -> int:
        """Number of instances."""
        return sum(len(stack) for stack in self.stacks)

    @property
    def volumes(self) -> int:
        """Number of volumes: its stacks, where a multi-frame object counts as many as its frames make."""
        return sum(stack.first.volumes for stack in self.stacks)

    @property
    def times(self) -> int:
        """Most volumes of the same parameters: 30 for a dynamic series of 30 frames, 1 for a multi-echo one."""
        return max(max(stack.moment + 1, stack.first.times) for stack in self.stacks)

    @property
    def slices(self) -> int:
        """Most slices of one volume."""
        return max(sum(header.frames for header in stack.headers) // stack.first.volumes for stack in self.stacks)

    def distinct(self, field: str) -> tuple[float, ...]:
        """The values of a list-valued field of the headers, for example `echo_times_ms`, each once, sorted."""
        return tuple(sorted({value for header in self.headers for value in getattr(header, field)}))

    @property
    def differs_in(self) -> tuple[str, ...]:
        """What tells its volumes apart, in words, for example `echo time` or `frame reference time`."""
        names = [name for name, get in PARAMETERS.items() if len({get(stack.first) for stack in self.stacks}) > 1]
        if len({stack.orientation for stack in self.stacks}) > 1:
            names.append("orientation")
        return (*names, *sorted({stack.split_by for stack in self.stacks} - {""}))

    @property
    def note(self) -> str:
        """What is odd about it: volumes of the same parameters with different numbers of slices; else empty."""
        by_moments = defaultdict(set)
        for stack in self.stacks:
            if stack.split_by:
                by_moments[stack.split_by, *(get(stack.first) for get in PARAMETERS.values())].add(len(stack))
        uneven = sorted({count for counts in by_moments.values() if len(counts) > 1 for count in counts})
        return f"its volumes have {uneven[0]} to {uneven[-1]} slices; some may be missing" if uneven else ""


@dataclass(frozen=True, slots=True)
class Index:
    """What lies in a tree.

    Args:
        folder: Its root.
        series: By patient, study, number and uid.
        faults: What is wrong, one sentence each, sorted.
        not_dicom: Files that are something else.
        duplicates: Identical copies of an instance, left out.
        files: Files and members of archives that were looked at.
    """

    folder: Path
    series: tuple[SeriesEntry, ...]
    faults: tuple[str, ...] = ()
    not_dicom: tuple[Place, ...] = ()
    duplicates: int = 0
    files: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd but usable, one sentence each."""
        return tuple(f"series {s.description or s.series_uid}: {s.note}" for s in self.series if s.note)

    def table(self, naming: Callable[[str], str] = str) -> list[Row]:
        """One row per series, for a dry run; studies are numbered by their date, uids are not shown.

        Args:
            naming: Makes the name of a patient from the id, for example a pseudonym.
        """
        rows = []
        for patient, entries in groupby(self.series, key=lambda s: s.patient):
            studies: dict[str, int] = {}
            for entry in entries:
                study = studies.setdefault(entry.study_uid, len(studies) + 1)
                number = entry.first.series_number
                rows.append(
                    Row(
                        naming(patient),
                        str(study),
                        "" if number is None else str(number),
                        entry.modality,
                        entry.files,
                        entry.volumes,
                        entry.description,
                    )
                )
        return rows


def index_folder(folder: Path, *, jobs: int = 0, progress: Progress | None = None) -> Index:
    """Look at every file below a folder, and into the zip archives there.

    Args:
        folder: Root of the tree, or one archive.
        jobs: Processes; 0 is one per core.
        progress: Called with the number of files done and of all files.

    Returns:
        The series, and everything that is wrong; a series or an instance with a fault is left out.

    Raises:
        DicomError: The folder does not exist.
    """
    found = find_places(folder)
    headers: list[Header] = []
    not_dicom: list[Place] = []
    faults = list(found.faults)
    done = 0
    for chunk, read in each_chunk(read_headers, list(_chunks(found.places)), jobs=jobs, total=len(found.places)):
        for place, header in zip(chunk, read, strict=True):
            if isinstance(header, Header):
                headers.append(header)
            elif isinstance(header, NotDicomError):
                not_dicom.append(place)
            else:
                faults.append(str(header))
        done += len(chunk)
        if progress is not None:
            progress(done, len(found.places))
    unique, duplicates, more = _without_copies(headers, jobs=jobs)
    series, mixed = _series(unique)
    every = tuple(sorted([*faults, *more, *mixed]))
    return Index(folder, series, every, tuple(sorted(not_dicom)), duplicates, len(found.places))


def _chunks(places: Sequence[Place]) -> Iterator[list[Place]]:
    """Files by the dozen, members of one archive by the thousand."""
    for archive, group in groupby(places, key=lambda place: place.path if place.member else ""):
        listed = list(group)
        size = ARCHIVE_CHUNK if archive else CHUNK
        for first in range(0, len(listed), size):
            yield listed[first : first + size]


def each_chunk(
    read: Callable[[Sequence[Place]], list[T]], chunks: Sequence[list[Place]], *, jobs: int, total: int
) -> Iterator[tuple[list[Place], list[T]]]:
    """Chunks with what `read` makes of them, in their order, read by processes of which few results wait.

    Raises:
        DicomError: A process died.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(chunks))
    if jobs <= 1 or total < FEW:
        yield from ((chunk, read(chunk)) for chunk in chunks)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    waiting: deque[tuple[list[Place], Future[list[T]]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(read, chunk)))
            if len(waiting) >= AHEAD * jobs:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        raise DicomError("a process that read headers was killed, most likely for memory; use fewer jobs") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _without_copies(headers: Iterable[Header], *, jobs: int) -> tuple[list[Header], int, list[str]]:
    """Each instance once; the number of identical copies; faults for copies that differ, of which none is kept."""
    by_uid: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        by_uid[header.sop_uid].append(header)
    repeated = sorted(h.place for same in by_uid.values() if len(same) > 1 for h in same)
    digests: dict[Place, str] = {}
    for chunk, read in each_chunk(content_digests, list(_chunks(repeated)), jobs=jobs, total=len(repeated)):
        digests.update(zip(chunk, read, strict=True))
    kept, duplicates, faults = [], 0, []
    for same in by_uid.values():
        first, *others = sorted(same, key=lambda h: h.place)
        differing = [h.place for h in others if digests[h.place] != digests[first.place]]
        if differing:
            faults.append(
                f"{first.place}: has the SOP Instance UID of {differing[0]} but other content; remove the wrong one"
            )
        else:
            kept.append(first)
            duplicates += len(others)
    return kept, duplicates, faults


def content_digests(places: Sequence[Place]) -> list[str]:
    """SHA-256 of each data set; the file meta information, which each archive system writes anew, does not count."""
    digests = []
    for place in places:
        content = place.read_bytes()
        digests.append(hashlib.sha256(memoryview(content)[_end_of_meta(content) :]).hexdigest())
    return digests


def _end_of_meta(content: bytes) -> int:
    """Where the data set begins, from the group length with which the file meta information begins; 0 without one."""
    begin = PREAMBLE_BYTES + len(MAGIC)
    element = content[begin : begin + 12]
    if content[PREAMBLE_BYTES:begin] != MAGIC or element[:8] != b"\x02\x00\x00\x00UL\x04\x00" or len(element) < 12:
        return 0
    (length,) = struct.unpack("<L", element[8:])
    return int(begin + 12 + length)


def _series(headers: Iterable[Header]) -> tuple[tuple[SeriesEntry, ...], list[str]]:
    """Series in order, and a fault for each that mixes patients."""
    by_uid: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        by_uid[header.study_uid, header.series_uid].append(header)
    entries, faults = [], []
    for (study, uid), members in by_uid.items():
        one_of = {h.patient: h.place for h in sorted(members, key=lambda h: h.place, reverse=True)}
        if len(one_of) > 1:
            places = sorted(one_of.values())
            faults.append(
                f"{places[0]}: its series {uid} holds {len(one_of)} patients, another one in {places[1]}; "
                "separate them, or correct Patient ID"
            )
            continue
        stacks = stacks_of(members)
        first = stacks[0].first
        description = first.series_description or first.protocol_name
        entry = SeriesEntry(
            first.patient, study, uid, first.frame_of_reference_uid, first.modality, description, stacks
        )
        entries.append(entry)
    return tuple(sorted(entries, key=_order)), faults


def _order(entry: SeriesEntry) -> tuple[str, str, str, int, str]:
    number = entry.first.series_number
    return (entry.patient, entry.first.study_date, entry.study_uid, -1 if number is None else number, entry.series_uid)
