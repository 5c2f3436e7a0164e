"""Files and folders that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# Asked for once: it can be read only by setting it, which threads that write at the same time would see.
UMASK = _umask()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which becomes `path` when the block ends without an error.

    The name keeps the suffixes of `path`, by which libraries choose a format.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix="-" + path.name)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~UMASK)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# Of the machine that writes: on a shared disk the number of a process means nothing elsewhere.
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
# After which what another machine left half written is taken for dead: no single write takes as long.
LEFT_BY_OTHERS_S = 24 * 3600.0


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends without an error.

    What lay at `path` is removed only after the new folder stands there. Of several that write to `path` at once, in
    threads, processes or on machines that share the disk, the last one wins, and each folder is whole. A process that
    is killed leaves a hidden folder behind; the next one that writes to `path` clears it away, or puts it back if
    nothing stands at `path`; another machine does so after a day.

    Raises:
        NotADirectoryError: `path` is a file.

    Example:
        >>> parent = Path(tempfile.mkdtemp())
        >>> with replacing_folder(parent / "a") as temporary:
        ...     write_text(temporary / "b.txt", "whole")
        >>> (parent / "a" / "b.txt").read_text()
        'whole'
    """
    if path.is_file():  # asked at once: between two questions another writer may take a folder away
        raise NotADirectoryError(f"{path} is a file, a folder is to be written there; choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    prefix = f".part-{HOST}.{os.getpid()}-"
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=f"-{path.name}"))
    before = temporary.with_name(temporary.name.replace(".part-", ".old-", 1))
    try:
        yield temporary
        temporary.chmod(0o777 & ~UMASK)  # mkdtemp makes folders that only their owner can enter
        _take_place(temporary, path, before)
    finally:
        if before.exists() and not path.exists():
            _moved(before, path)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, path: Path, before: Path) -> None:
    """Move a folder to `path`, and what lies there to `before`, however often others put theirs in between."""
    while not _moved(temporary, path):
        shutil.rmtree(before, ignore_errors=True)
        with suppress(FileNotFoundError):  # another writer has just taken it away
            _moved(path, before)


def _moved(source: Path, target: Path) -> bool:
    """Rename a folder; False when another stands at `target`."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:  # two names for a folder that is not empty
            return False
        raise
    return True


def remove_folder(path: Path) -> bool:
    """Remove a folder at once: it is renamed first, so that nobody sees half of it.

    Returns:
        False when there was none, or another process has just taken it away.

    Example:
        >>> parent = Path(tempfile.mkdtemp())
        >>> (parent / "a").mkdir()
        >>> remove_folder(parent / "a"), remove_folder(parent / "a"), list(parent.iterdir())
        (True, False, [])
    """
    # Named as what a killed process left half written: it is cleared away, and never put back.
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".part-{HOST}.{os.getpid()}-", suffix=f"-{path.name}"))
    try:
        path.rename(temporary / path.name)
    except FileNotFoundError:
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def clear_leftovers(path: Path) -> None:
    """Clear what a killed `replacing_folder(path)` left; the former content goes back if nothing replaced it."""
    pattern = re.compile(rf"\.(old|part)-(?:([0-9a-f]{{8}})\.)?(\d+)-[^-]+-{re.escape(path.name)}")
    # Names alone: among ten thousand cases this is done ten thousand times.
    with os.scandir(path.parent) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith((".old-", ".part-")))
    for name in names:
        found, leftover = pattern.fullmatch(name), path.parent / name
        if found is None or _in_use(leftover, found[2] or HOST, int(found[3])):
            continue
        with suppress(FileNotFoundError):  # another process clears the same
            if found[1] != "old" or path.exists() or not _moved(leftover, path):
                shutil.rmtree(leftover, ignore_errors=True)


def _in_use(leftover: Path, host: str, process: int) -> bool:
    """Whoever writes this folder may still be at it."""
    if host == HOST:
        return psutil.pid_exists(process)
    with suppress(FileNotFoundError):
        return time.time() - leftover.stat().st_mtime < LEFT_BY_OTHERS_S
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; nan and infinity, which JSON does not know, are refused by a `ValueError`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Plain values for JSON, which knows neither nan nor infinity: they become None.

    Example:
        >>> finite({"a": float("nan"), "b": [1.0, 2]})
        {'a': None, 'b': [1.0, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
