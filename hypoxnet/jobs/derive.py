"""Channels that a cohort's files allow but its manifest does not name: maps of raw series, and ratios of uptake.

Each is made once and cached by the content of its files and the settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError, HypoxNetError
from hypoxnet.files import replacing_folder, sha256_of
from hypoxnet.jobs.completing import complete_each
from hypoxnet.jobs.maps import MapRequest, make_maps, write_maps
from hypoxnet.maps.config import MapsConfig
from hypoxnet.maps.kinds.base import MapKind
from hypoxnet.maps.registry import KINDS
from hypoxnet.transforms.ratios import make_ratio, ratios_of

log = logging.getLogger(__name__)

# Raise it when the same files and settings would give other maps: they are then made again.
VERSION = 1
# T1 first: the others may need it.
ORDER = ("vfa", "inversion", "oe", "r2star", "dce", "adc", "ivim", "pet")
T1 = "T1"


@dataclass(frozen=True, slots=True)
class MapCache:
    """Makes the maps and ratios that a case lacks.

    Args:
        folder: Where they lie, maps in one folder per series and settings.
        config: How maps are made.
        wanted: Channels to make; when empty, the first of each series, and a ratio of each hypoxia tracer.
    """

    folder: Path
    config: MapsConfig
    wanted: tuple[str, ...] = ()

    def complete(self, record: CaseRecord) -> CaseRecord:
        """The record with the channels that its files give; a channel that has a file of its own keeps it.

        A ratio that its files do not give is left out, with the reason in `not_made`: a damaged image is refused where
        it is read, a reference region that nobody can use costs this channel only.

        Raises:
            MapError, CaseError, GeometryError: A series cannot become a map; the message begins with the case.
        """
        channels = dict(record.channels)
        not_made = self._add_ratios(record, channels)
        for name in ORDER:
            kind = KINDS[name]
            if kind.raw_column not in record.raw:
                continue
            settings = getattr(self.config, name)
            made = [q for q in self._asked(kind, settings, record) if q not in channels]
            if made:
                folder = self._made(kind, settings, record, channels)
                index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
                channels |= {quantity: folder / index[quantity] for quantity in made}
        extra = tuple(name for name in channels if name not in record.channels)
        kept = [name for name in extra if not self.wanted or name in self.wanted]
        kept_channels = {name: path for name, path in channels.items() if name in record.channels or name in kept}
        return replace(record, channels=kept_channels, derived=tuple(kept), not_made=not_made)

    def _add_ratios(self, record: CaseRecord, channels: dict[str, Path]) -> dict[str, str]:
        """Add the ratios that can be made; returns the reasons of the others."""
        reasons = {}
        for ratio in ratios_of(record, self.wanted):
            try:
                channels[ratio.name] = make_ratio(record, ratio, self.folder / "ratios")
            except HypoxNetError as error:
                reasons[ratio.name] = str(error)
        return reasons

    def _asked(self, kind: MapKind, settings: Any, record: CaseRecord) -> tuple[str, ...]:
        quantities = kind.quantities(settings)
        asked = tuple(q for q in quantities if q in self.wanted) if self.wanted else quantities[:1]
        needs_t1 = any(
            extra.column == T1 and other.raw_column in record.raw
            for other in KINDS.values()
            for extra in other.extras
            if other is not kind
        )
        return (*asked, T1) if T1 in quantities and needs_t1 and T1 not in asked else asked

    def _made(self, kind: MapKind, settings: Any, record: CaseRecord, channels: Mapping[str, Path]) -> Path:
        files = record.raw[kind.raw_column]
        name = f"{record.key}: {kind.raw_column}"
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise CaseError(f"{name}: {missing[0]} does not exist; mend the path in the manifest")
        extras = dict(_extras(kind, record, channels))
        folder = self.folder / _key(kind, settings, files, extras)
        if (folder / INDEX).is_file():
            return folder
        log.info("%s: making %s", record.key, ", ".join(kind.quantities(settings)))
        made = make_maps(MapRequest(kind, settings, files, extras, name=name))
        made = replace(made, maps=tuple(each.plausible() for each in made.maps))
        for each in made.maps:
            for note in each.notes:
                log.info("%s: %s: %s", record.key, each.quantity.name, note)
        with replacing_folder(folder) as temporary:
            written = write_maps(made, temporary, "", pictures=False)
            index = {each.quantity.name: path.name for each, path in zip(made.maps, written, strict=True)}
            (temporary / INDEX).write_text(json.dumps(index), encoding="utf-8")
        return folder


INDEX = "maps.json"


def _extras(kind: MapKind, record: CaseRecord, channels: Mapping[str, Path]) -> Mapping[str, Path]:
    """Files of the case that a kind can use: maps, masks and further series by their columns.

    Not the tumour: it changes what is reported of a map, not the map, and new patients may lack it.
    """
    out: dict[str, Path] = {}
    for extra in kind.extras:
        if extra.name == "tumour":
            continue
        if extra.column in channels:
            out[extra.name] = channels[extra.column]
        elif extra.column in record.masks:
            out[extra.name] = record.masks[extra.column]
        elif extra.column in record.raw:
            out[extra.name] = record.raw[extra.column][0]
    return out


def _key(kind: MapKind, settings: Any, files: Sequence[Path], extras: Mapping[str, Path]) -> str:
    """Name of a folder of maps: changes with any byte of files or sidecars, and with any setting."""
    content = {
        "version": VERSION,
        "kind": kind.name,
        "settings": asdict(settings),
        "files": [_digests(path) for path in files],
        "extras": {name: _digests(path) for name, path in sorted(extras.items())},
        "inputs": [sha256_of(Path(v)) for k, v in asdict(settings).items() if k.endswith("_file") and v],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _digests(path: Path) -> list[str]:
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    beside = [path.with_name(stem + ending) for ending in (".json", ".bval")]
    return [sha256_of(file) for file in (path, *beside) if file.is_file()]


def complete_cohort(records: Sequence[CaseRecord], cache: MapCache) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """Make the maps and ratios of a cohort; an interrupt loses nothing that was finished.

    Args:
        records: The cohort.
        cache: Where maps go.

    Returns and raises what `complete_each` does.
    """
    needing = [record for record in records if record.raw or any(ratios_of(record, cache.wanted))]
    if not needing:
        return tuple(records), {}
    return complete_each(records, cache.complete, doing="making maps", failure="maps could be made for none")
