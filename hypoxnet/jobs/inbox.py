"""A folder in which others put work: what lies there whole is taken by one server, and leaves it done or failed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import psutil

from hypoxnet.files import HOST, write_text

DONE, FAILED = "done", "failed"
# An empty file in a folder of DICOM that says that nothing more is coming.
READY = ".ready"
TABLES = {".csv", ".tsv"}
# Beyond which a server that was not heard of has lost what it had taken: it shows a sign every few seconds.
SILENT_S = 900.0

_TAKEN = re.compile(r"\.taken-([0-9a-f]{8})\.(\d+)-(.+)")


@dataclass(frozen=True, slots=True)
class Item:
    """What was taken out of an inbox.

    Args:
        name: As it was put there.
        path: Where it lies while it is worked on: beside its former place, so that paths in a manifest still hold.
    """

    name: str
    path: Path

    @property
    def is_dicom(self) -> bool:
        """A folder of DICOM; otherwise a manifest."""
        return self.path.is_dir()

    @property
    def stem(self) -> str:
        """Name of its folder of results."""
        return self.name if self.is_dicom else Path(self.name).stem

    def as_given(self, text: str) -> str:
        """A text that names it, or a file in it, as whoever put it there knows it: by its path from the inbox."""
        return text.replace(str(self.path), self.name).replace(self.path.name, self.name)


@dataclass(slots=True)
class Inbox:
    """The folder. Several servers may watch it: to take something is to rename it, which only one of them can.

    Args:
        folder: Where work is put.
        settle_s: A file that kept size and time for so long, in s, is whole.
    """

    folder: Path
    settle_s: float
    _seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)
    _passed_over: set[str] = field(default_factory=set)

    def waiting(self) -> list[Path]:
        """What lies there, whole or not, by name."""
        return [path for path in self._visible() if self._is_work(path)]

    def passed_over(self) -> list[str]:
        """Names of what lies there and is no work; each is told once."""
        others = [path for path in self._visible() if path.name not in (DONE, FAILED) and not self._is_work(path)]
        # Another server may have taken it meanwhile.
        names = [path.name for path in others if path.exists()]
        new = [name for name in names if name not in self._passed_over]
        self._passed_over = set(names)
        return new

    def _visible(self) -> list[Path]:
        with os.scandir(self.folder) as entries:
            return [self.folder / name for name in sorted(e.name for e in entries if not e.name.startswith("."))]

    @staticmethod
    def _is_work(path: Path) -> bool:
        return (path.suffix.lower() in TABLES and path.is_file()) or (path / READY).is_file()

    def take(self) -> Item | None:
        """The first that is whole and that no other server takes; None when there is none."""
        waiting = self.waiting()
        self._seen = {path.name: self._seen[path.name] for path in waiting if path.name in self._seen}
        for path in waiting:
            if self._is_whole(path):
                taken = self.folder / f".taken-{HOST}.{os.getpid()}-{path.name}"
                with suppress(FileNotFoundError):
                    path.rename(taken)
                    if taken.is_dir():
                        (taken / READY).unlink()
                    os.utime(taken)
                    return Item(path.name, taken)
        return None

    def _is_whole(self, path: Path) -> bool:
        if path.is_dir():
            return True
        with suppress(FileNotFoundError):
            status = path.stat()
            look = status.st_size, status.st_mtime_ns
            before = self._seen.get(path.name)
            if before is None or before[0] != look:
                self._seen[path.name] = look, time.monotonic()
                return self.settle_s == 0
            return time.monotonic() - before[1] >= self.settle_s
        return False

    def finish(self, item: Item, reason: str = "") -> Path:
        """Move what was taken to `done`, or to `failed` with the reason in a file beside it; returns where it lies."""
        target = _free(self.folder / (FAILED if reason else DONE), item.name)
        target.parent.mkdir(exist_ok=True)
        if reason:
            write_text(target.with_name(f"{target.name}.reason.txt"), reason + "\n")
        item.path.rename(target)
        return target

    def give_back(self, item: Item) -> Path:
        """Put back what was taken, for another time or another server; what came under its name meanwhile stays."""
        if item.is_dicom:
            (item.path / READY).touch()
        return item.path.rename(_free(self.folder, item.name))

    def recover(self) -> Iterator[str]:
        """Put back what servers had taken that are gone; yields the names."""
        with os.scandir(self.folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            found = _TAKEN.fullmatch(name)
            if found is None or _alive(self.folder / name, found[1], int(found[2])):
                continue
            with suppress(FileNotFoundError):
                yield self.give_back(Item(found[3], self.folder / name)).name


def _alive(taken: Path, host: str, process: int) -> bool:
    """Whether the server that has taken this is still at it: its process here, and its sign of life from anywhere.

    It is never this process, which looks only when it has nothing in hand: in a container that is started again the
    number of the process is the same.
    """
    if host == HOST and (process == os.getpid() or not psutil.pid_exists(process)):
        return False
    with suppress(FileNotFoundError):
        return time.time() - taken.stat().st_mtime < SILENT_S
    return True


def _free(folder: Path, name: str) -> Path:
    """A name that nothing has yet: what came under it earlier stays."""
    path = Path(name)
    numbered = (folder / f"{path.stem}.{number}{path.suffix}" for number in range(2, 1_000_000))
    return next(place for place in chain([folder / name], numbered) if not place.exists())
