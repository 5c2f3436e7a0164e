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


class DiskError(OSError):
    """A disk does not take what is written, in one sentence for the user; no case is to blame for it."""


# No case and no file is at fault: whatever is written next fails as well.
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your quota of the disk is used up"}
DENIED = {errno.EACCES, errno.EPERM}
# Libraries that do not say why they could not write have stopped at a disk with less than this, in bytes.
LEAST_FREE = 2**16


def disk_error(error: BaseException, place: Path | None = None) -> DiskError | None:
    """What a disk refused, as a sentence that names the folder and the remedy.

    Args:
        error: Of the system, or of a library that met one.
        place: What was being written, where the error names no file.

    Returns:
        None when the disk is not to blame.

    Example:
        >>> print(disk_error(OSError(errno.ENOSPC, "No space left on device"), Path("/tmp/predictions.csv")))
        /tmp: the disk is full; what is finished stays, make space and the same command goes on
    """
    if isinstance(error, DiskError):
        return error
    if isinstance(error, NotADirectoryError) and error.errno is None:
        return DiskError(str(error))
    code, named = _refusal(error)
    path = Path(named) if isinstance(named, str | os.PathLike) else place
    if code is None or path is None:
        return None
    path = _known_name(path)
    # Asked of os.path, which says no where Path raises for want of permission.
    folder = next(parent for parent in (path, *path.parents) if os.path.isdir(parent))  # noqa: PTH112
    if code in FULL:
        return DiskError(f"{folder}: {FULL[code]}; what is finished stays, make space and the same command goes on")
    if code == errno.EROFS:
        return DiskError(f"{folder}: this disk can only be read; give another folder to write to")
    if code in DENIED:
        there = path if os.path.lexists(path) else folder
        return DiskError(f"{there}: permission denied; ask its owner for the right, or give another place")
    lying = next((parent for parent in (path, *path.parents) if os.path.isfile(parent)), None)  # noqa: PTH113
    if code in {errno.ENOTDIR, errno.EEXIST} and lying is not None:
        return DiskError(f"{lying} is a file, a folder is to be written there; choose another place")
    return None


def _refusal(error: BaseException) -> tuple[int | None, object]:
    """Number and file of an error of the system; behind an error of a library only those that no reading meets."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.filename2 or error.filename
    behind: BaseException | None = error
    while behind is not None:
        in_rust = re.search(r"\(os error (\d+)\)", str(behind))
        found = behind.errno if isinstance(behind, OSError) else int(in_rust[1]) if in_rust else None
        if found in {*FULL, errno.EROFS}:
            return found, getattr(behind, "filename", None)
        behind = behind.__cause__
    return None, None


def _known_name(path: Path) -> Path:
    """Where a temporary file or folder of ours was to stand."""
    ours = [each for each in (path, *path.parents) if each.name.startswith((".part-", ".old-"))]
    return ours[-1].parent if ours else path


@contextmanager
def _refused_in_a_sentence(path: Path) -> Iterator[None]:
    """What the disk refuses while `path` is written, by whichever library, is a `DiskError`."""
    try:
        yield
    except Exception as error:
        found = disk_error(error, path)
        of_a_library = isinstance(error, RuntimeError) or isinstance(error.__cause__, RuntimeError)
        if found is None and of_a_library and shutil.disk_usage(path.parent).free < LEAST_FREE:
            found = disk_error(OSError(errno.ENOSPC, ""), path)
        if found is None or found is error:
            raise
        raise found from error


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

    Raises:
        DiskError: The disk does not take it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    with _refused_in_a_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix="-" + path.name)
        os.close(handle)
    temporary = Path(name)
    try:
        with _refused_in_a_sentence(path):
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
        DiskError: The disk does not take it.

    Example:
        >>> parent = Path(tempfile.mkdtemp())
        >>> with replacing_folder(parent / "a") as temporary:
        ...     write_text(temporary / "b.txt", "whole")
        >>> (parent / "a" / "b.txt").read_text()
        'whole'
    """
    if path.is_file():  # asked at once: between two questions another writer may take a folder away
        raise NotADirectoryError(f"{path} is a file, a folder is to be written there; choose another place")
    with _refused_in_a_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path)
    temporary = _temporary_folder(path)
    before = temporary.with_name(temporary.name.replace(".part-", ".old-", 1))
    try:
        with _refused_in_a_sentence(path):
            yield temporary
            temporary.chmod(0o777 & ~UMASK)  # mkdtemp makes folders that only their owner can enter
            _take_place(temporary, path, before)
    finally:
        if before.exists() and not path.exists():
            _moved(before, path)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_folder(path: Path) -> Path:
    """A folder beside `path`, by its name half written: what a killed process leaves of it is cleared away."""
    prefix = f".part-{HOST}.{os.getpid()}-"
    with _refused_in_a_sentence(path):
        return Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=f"-{path.name}"))


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
    temporary = _temporary_folder(path)
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
