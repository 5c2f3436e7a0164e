"""Files and folders that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends without an error.

    What lay at `path` is removed only after the new folder stands there. A process that is killed leaves a hidden
    folder behind; the next one that writes to `path` clears it away, or puts it back if nothing stands at `path`.

    Raises:
        NotADirectoryError: `path` is a file.

    Example:
        >>> parent = Path(tempfile.mkdtemp())
        >>> with replacing_folder(parent / "a") as temporary:
        ...     write_text(temporary / "b.txt", "whole")
        >>> (parent / "a" / "b.txt").read_text()
        'whole'
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, a folder is to be written there; choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".part-{os.getpid()}-", suffix=f"-{path.name}"))
    before = temporary.with_name(temporary.name.replace(".part-", ".old-", 1))
    try:
        yield temporary
        temporary.chmod(0o777 & ~UMASK)  # mkdtemp makes folders that only their owner can enter
        if path.exists():
            path.rename(before)
        temporary.rename(path)
    finally:
        if before.exists() and not path.exists():
            before.rename(path)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(path: Path) -> None:
    """Clear what a killed `replacing_folder(path)` left; the former content goes back if nothing replaced it."""
    pattern = re.compile(rf"\.(old|part)-(\d+)-[^-]+-{re.escape(path.name)}")
    # Names alone: among ten thousand cases this is done ten thousand times.
    with os.scandir(path.parent) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith((".old-", ".part-")))
    for name in names:
        found, leftover = pattern.fullmatch(name), path.parent / name
        if found is None or psutil.pid_exists(int(found[2])):
            continue
        if found[1] == "old" and not path.exists():
            leftover.rename(path)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


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
