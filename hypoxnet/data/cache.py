"""Prepared cases on disk, keyed by the content of the files and the settings that made them.

An entry is a safetensors file whose last bytes are a SHA-256 of the rest; it is written beside its place and moved into
it, so a killed writer leaves nothing that could be read, and two writers of one entry write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from hypoxnet.cases import CaseRecord, Sample
from hypoxnet.files import replacing, sha256_of
from hypoxnet.geometry import Grid
from hypoxnet.transforms.prepare import PreparedCase, files_of, prepare
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)

TENSORS = tuple(f.name for f in fields(Sample) if f.name not in {"key", "grid", "repairs"})
DIGEST_BYTES = 32


def default_cache_folder() -> Path:
    """The user's cache folder: `$XDG_CACHE_HOME/hypoxnet`, by default `~/.cache/hypoxnet`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypoxnet"


class PreparedCache:
    """Gives prepared cases, making those that are not there.

    Args:
        folder: Where entries lie; made when it does not exist.
        settings: How cases are prepared.
    """

    def __init__(self, folder: Path, settings: PrepareSettings) -> None:
        self.folder = folder
        self.settings = settings
        self._digests: dict[tuple[str, int, int], str] = {}

    def get(self, record: CaseRecord) -> PreparedCase:
        """The prepared case: from the cache where it is there and whole, else made and kept.

        Raises:
            CaseError, GeometryError: As `prepare`.
        """
        path = self.folder / f"{self.key(record)}.safetensors"
        if path.exists():
            entry = _read(path)
            if entry is not None:
                return entry
            log.warning("%s: the cache entry %s is damaged and is made again", record.key, path.name)
        prepared = prepare(record, self.settings)
        with replacing(path) as temporary:
            _write(temporary, prepared)
        return prepared

    def key(self, record: CaseRecord) -> str:
        """Name of an entry: changes with any byte of the case's files, its row in the manifest, or the settings."""
        paths = files_of(record, self.settings)
        row = {
            "settings": self.settings.digest(),
            "key": record.key,
            "files": {name: self._digest(path) for name, path in sorted(paths.items())},
            "names": {name: path.name for name, path in sorted(paths.items())},
            "outcome": None if record.outcome is None else [record.outcome.event, record.outcome.months],
            "covariates": {name: record.covariates.get(name) for name in self.settings.covariates},
        }
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:32]

    def _digest(self, path: Path) -> str:
        """Digest of a file's content, remembered while its size and time of change stay the same."""
        if not path.exists():
            return "absent"
        status = path.stat()
        identity = (str(path), status.st_size, status.st_mtime_ns)
        if identity not in self._digests:
            self._digests[identity] = sha256_of(path)
        return self._digests[identity]


def _write(path: Path, prepared: PreparedCase) -> None:
    sample = prepared.sample
    about = {
        "key": sample.key,
        "repairs": list(sample.repairs),
        "grid": [sample.grid.shape, sample.grid.affine],
        "reference": [prepared.reference.shape, prepared.reference.affine],
    }
    content = save({name: getattr(sample, name) for name in TENSORS}, metadata={"about": json.dumps(about)})
    with path.open("wb") as stream:
        stream.write(content)
        stream.write(hashlib.sha256(content).digest())


def _read(path: Path) -> PreparedCase | None:
    """The entry, or None when its bytes are not those that were written."""
    stored = path.read_bytes()
    content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
    tensors = load(content)
    sample = Sample(
        key=about["key"], grid=_grid(about["grid"]), repairs=tuple(about["repairs"]), **{n: tensors[n] for n in TENSORS}
    )
    return PreparedCase(sample, _grid(about["reference"]))


def _grid(stored: Any) -> Grid:
    shape, affine = stored
    return Grid(tuple(shape), tuple(tuple(row) for row in affine))
