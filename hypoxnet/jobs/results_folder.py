"""Where a server writes what came of an item: a folder of its own, which no item of other content shares."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

from hypoxnet.files import HOST, UMASK, clear_leftovers, sha256_of, write_json
from hypoxnet.jobs.inbox import Item

# Says whose folder it is; no case can have this name.
ITEM = ".item.json"


def results_folder(output: Path, item: Item) -> Path:
    """The item's folder, made if it is the first of that content.

    Args:
        output: Folder of all results.
        item: What was taken out of the inbox.

    Returns:
        `output/NAME`; where an item of other content, or somebody else, has that, `output/NAME.2` and so on. The same
        content under the same name finds its folder again, and with it the cases that are finished.
    """
    digest = _digest_of(item.path)
    output.mkdir(parents=True, exist_ok=True)
    places = (output / (item.stem if number == 1 else f"{item.stem}.{number}") for number in count(1))
    return next(place for place in places if _made(place, item, digest) or _is_of(place, digest))


def _digest_of(path: Path) -> str:
    """Of a file its SHA-256, of a folder that of the names and contents of all files."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    content = [[file.relative_to(path).as_posix(), sha256_of(file)] for file in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_of(place: Path, digest: str) -> bool:
    try:
        return bool(json.loads((place / ITEM).read_text(encoding="utf-8"))["sha256"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _made(place: Path, item: Item, digest: str) -> bool:
    """Make a folder that says whose it is at once, so that of two servers one has it; False if it is there."""
    if place.exists():
        return False
    clear_leftovers(place)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".part-{HOST}.{os.getpid()}-", suffix=f"-{place.name}"))
    try:
        write_json(temporary / ITEM, {"name": item.name, "sha256": digest})
        temporary.chmod(0o777 & ~UMASK)
        temporary.rename(place)
    except OSError:
        if not place.exists():
            raise
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True
