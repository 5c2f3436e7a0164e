"""A cohort cut into parts that know nothing of each other while they run, and the one table made of theirs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import ConfigError
from hypoxnet.files import write_json, write_text
from hypoxnet.inference.cluster.config import Shard
from hypoxnet.inference.journal import SUMMARY, told_of_others
from hypoxnet.inference.one_case import Complete, as_it_is
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.run import check_keys, predict_left
from hypoxnet.inference.tally import TABLE, InferenceRun, Tally
from hypoxnet.inference.writing import other_predictions

log = logging.getLogger(__name__)

# No case can have this name: keys do not begin with a point.
SHARDS = ".shards"
# Written when a part is finished, removed when it begins again.
PART = "part.json"
FORMAT = "hypoxnet-part"


def shard_folder(output: Path, shard: Shard) -> Path:
    """Where a part keeps its table, index, journal and log."""
    return output / SHARDS / shard.name


def run_shard(
    predictor: Predictor,
    records: Sequence[CaseRecord],
    output: Path,
    *,
    shard: Shard,
    recompute: bool = False,
    complete: Complete = as_it_is,
) -> InferenceRun:
    """Predict one part of a cohort; the part that is finished last writes `output/predictions.csv`.

    Args:
        predictor: The loaded bundle.
        records: The whole cohort, in the order of the table.
        output: Folder of the predictions, the same for all parts.
        shard: Which part.
        recompute: Predict finished cases again.
        complete: Adds the channels that a case's raw series give.

    Returns:
        What became of this part; its table is in `shard_folder`.

    Raises:
        CaseError: Two records have the same key, or a key cannot be the name of a folder.
        ConfigError: The folder has parts of another way to cut a cohort.
    """
    check_keys(records)
    place = shard_folder(output, shard)
    place.mkdir(parents=True, exist_ok=True)
    (place / PART).unlink(missing_ok=True)
    unfinished(output)  # parts of another cut are refused now, not when this one is done
    (output / SUMMARY).unlink(missing_ok=True)  # of an earlier run in one piece: no longer true
    tally = Tally(predictor, shard.part(records), output, place)
    for record in tally.records if not recompute else ():
        tally.keep(record, complete)
    run = predict_left(tally, complete, also={"shard": f"{shard.number}/{shard.of}"})
    keys = [record.key for record in records]
    write_json(place / PART, {"format": FORMAT, "cohort": _cohort(predictor, keys, shard), "keys": keys})
    if not unfinished(output):
        merge(output)
        log.info("every part is finished: %s", output / TABLE)
    return run


def _cohort(predictor: Predictor, keys: Sequence[str], shard: Shard) -> str:
    """A name for what the parts of one run have in common."""
    content = {"made_by": predictor.made_by(), "keys": list(keys), "of": shard.of}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def unfinished(output: Path) -> list[str]:
    """What is missing before the parts can be merged, a sentence each; parts of another cohort or bundle count, too.

    Raises:
        ConfigError: The folder has no parts, or parts of two ways to cut a cohort.
    """
    parts = {path.name: _read(path) for path in _parts(output)}
    counts = sorted({_shard_of(path).of for path in _parts(output)})
    if not counts:
        raise ConfigError(f"{output} holds no parts of a cohort; run infer.py with shard=1/2 and shard=2/2 first")
    if len(counts) > 1:
        raise ConfigError(
            f"{output} holds parts of a cohort cut into {' and into '.join(map(str, counts))}; remove "
            f"{output / SHARDS} and run the parts again, finished cases are kept"
        )
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    missing = [f"shard={shard.number}/{shard.of} has not finished" for shard in shards if not parts.get(shard.name)]
    cohorts = {part["cohort"] for part in parts.values() if part is not None}
    return missing + (["the parts are of different cohorts, bundles or settings"] if len(cohorts) > 1 else [])


def merge(output: Path) -> tuple[Path, Mapping[str, str]]:
    """Write `output/predictions.csv` of the tables of all parts, in the order of the manifest, and `summary.json`.

    Returns:
        The table, and the reason of each case that failed.

    Raises:
        ConfigError: A part has not finished, or the parts do not belong together.
    """
    missing = unfinished(output)
    if missing:
        raise ConfigError(f"{output}: {'; '.join(missing)}; run these parts again, finished cases are kept")
    parts = _parts(output)
    keys: list[str] = (_read(parts[0]) or {})["keys"]
    header: list[str] = []
    rows: dict[str, list[str]] = {}
    for path in parts:
        with (path / TABLE).open(newline="", encoding="utf-8") as stream:
            header, *lines = csv.reader(stream)
        rows |= dict(zip(_shard_of(path).part(keys), lines, strict=True))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *(rows[key] for key in keys)])
    write_text(output / TABLE, text.getvalue())
    status, reason = header.index("status"), header.index("reason")
    failed = {key: rows[key][reason] for key in keys if rows[key][status] == "failed"}
    others = told_of_others(other_predictions(output, set(keys)))
    write_json(output / SUMMARY, {"failed": failed, "cases": len(keys), "parts": len(parts), **others})
    return output / TABLE, failed


def _parts(output: Path) -> list[Path]:
    return sorted(path for path in (output / SHARDS).glob("*-of-*") if path.is_dir())


def _shard_of(path: Path) -> Shard:
    return Shard.parse(path.name.replace("-of-", "/"))


def _read(path: Path) -> dict[str, Any] | None:
    """What a part says when it is finished; None before."""
    try:
        content = json.loads((path / PART).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None
