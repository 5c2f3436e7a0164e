"""What an output folder is known to hold, so that a restart looks at the size and time of files and hashes none.

A line of JSON per case, appended when it is finished. The index decides nothing: a case that it does not know, or whose
files do not look as it says, is hashed. Without it a restart only takes longer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.files import replacing
from hypoxnet.inference.predictor import Predictor

log = logging.getLogger(__name__)

# Raise it when entries mean something else; older ones are then as good as none.
VERSION = 1
# Lines of cases that were predicted again; beyond so many for each case the file is written anew.
MOST_LINES_PER_CASE = 4


@dataclass(slots=True)
class Index:
    """Entries on disk; in memory only where each lies.

    Args:
        path: The file; made when the first entry is added.
        places: Key to the first byte and the length of its line.
    """

    path: Path
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Index:
        """Look through an index; lines that are damaged are passed over, and logged."""
        index = cls(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = damaged = 0
        for begin, line in _lines(path):
            entry = _entry(line)
            lines, damaged = lines + 1, damaged + (entry is None)
            if entry is not None:
                index.places[entry["key"]] = begin, len(line)
            if not line.endswith(b"\n"):
                with path.open("ab") as stream:  # cut off by a kill: the next line must begin on its own
                    stream.write(b"\n")
        if damaged:
            log.warning("%s: %d of %d lines are damaged; their cases are checked by content", path, damaged, lines)
        if lines > MOST_LINES_PER_CASE * (len(index.places) + 1):
            index._write_anew()
        return index

    def row(self, key: str) -> dict[str, Any] | None:
        """The row of a case; None when the index does not know it."""
        entry = self._read(key)
        return None if entry is None else dict(entry["row"])

    def kept_row(self, key: str, mark: str | None, folder: Path) -> dict[str, Any] | None:
        """The row of a case that was finished with this `fingerprint` and whose files look as they did."""
        entry = self._read(key)
        if entry is None or mark is None or entry.get("mark") != mark or entry.get("outputs") != _looks(folder):
            return None
        return dict(entry["row"])

    def add(self, key: str, row: Mapping[str, Any], mark: str | None = None, folder: Path | None = None) -> None:
        """Remember a row, and of a finished case what its files look like.

        Args:
            key: The case.
            row: Of the table.
            mark: `fingerprint` of what it was made of; None for a case that failed.
            folder: Where its prediction lies.
        """
        finished = {} if mark is None or folder is None else {"mark": mark, "outputs": _looks(folder)}
        line = json.dumps({"key": key, **finished, "row": row}).encode() + b"\n"
        # Unbuffered: where the line went is known only afterwards, should another run append at the same time.
        with self.path.open("ab", buffering=0) as stream:
            stream.write(line)
            self.places[key] = stream.tell() - len(line), len(line)

    def _read(self, key: str) -> Mapping[str, Any] | None:
        place = self.places.get(key)
        if place is None:
            return None
        try:
            with self.path.open("rb") as stream:
                stream.seek(place[0])
                entry = _entry(stream.read(place[1]))
        except OSError:
            return None
        return entry if entry is not None and entry["key"] == key else None

    def _write_anew(self) -> None:
        """Leave out the lines that later ones replaced."""
        places = {}
        with replacing(self.path) as temporary, self.path.open("rb") as old, temporary.open("wb") as new:
            for key, (begin, length) in self.places.items():
                old.seek(begin)
                places[key] = new.tell(), new.write(old.read(length))
        self.places = places


def fingerprint(predictor: Predictor, record: CaseRecord) -> str | None:
    """A name for everything that `Predictor.digest` depends on, with sizes and times in place of file contents.

    Returns:
        None when a file cannot be looked at.
    """
    try:
        files = {name: [[str(p), *_look(p)] for p in paths] for name, paths in sorted(_files(record).items())}
    except OSError:
        return None
    content = {
        "version": VERSION,
        # Raw series become channels by the code of this version.
        "package": _package(),
        "made_by": predictor.made_by(),
        "case": [record.case_id, record.visit, record.site],
        "files": files,
        "covariates": dict(sorted(record.covariates.items())),
        "measured": list(record.measured),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(record: CaseRecord) -> dict[str, tuple[Path, ...]]:
    """Every file that a case names, and the sidecars of its raw series."""
    files = {name: (path,) for name, path in {**record.channels, **record.masks}.items()}
    return files | {name: tuple(each for path in paths for each in _beside(path)) for name, paths in record.raw.items()}


def _beside(path: Path) -> Iterator[Path]:
    yield path
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    yield from (side for ending in (".json", ".bval") if (side := path.with_name(stem + ending)).is_file())


def _look(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _looks(folder: Path) -> dict[str, list[int]] | None:
    """Size and time of each file in a folder; None where there is none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: [entry.stat().st_size, entry.stat().st_mtime_ns] for entry in entries}
    except OSError:
        return None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with the place of its first byte."""
    begin = 0
    try:
        with path.open("rb") as stream:
            for line in stream:
                yield begin, line
                begin += len(line)
    except OSError:
        return


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("key"), str) and isinstance(entry.get("row"), dict)
    return entry if whole else None


@cache
def _package() -> str:
    return version("hypoxnet")
