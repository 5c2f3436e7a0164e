"""Folders that are to be replaced, and files in them that somebody else has put there."""

from __future__ import annotations

import json
from pathlib import Path

from hypoxnet.bundle.schema import CHECKSUMS
from hypoxnet.errors import BundleError

# Left by whoever looks into a folder on a Mac or on Windows.
OF_THE_SYSTEM = {".DS_Store", "Thumbs.db"}


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace a bundle or an export that holds more than was written.

    Args:
        folder: What is to be replaced.

    Raises:
        BundleError: Names the first file that its checksums do not list.
    """
    listed = {CHECKSUMS, *_listed(folder)}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and name not in listed and path.name not in OF_THE_SYSTEM:
            raise BundleError(
                f"{folder} holds {name}, which {CHECKSUMS} does not list and which would be lost; move it elsewhere, "
                "or choose another folder"
            )


def _listed(folder: Path) -> set[str]:
    """Names of the files that were written; none where the list cannot be read."""
    try:
        return set(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
