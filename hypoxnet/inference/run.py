"""Inference over a cohort: every case that can be predicted is; a case that fails is a line with its reason."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.inference.one_case import Complete, as_it_is, keep_if_finished, predict_into
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.table import write_table

log = logging.getLogger(__name__)

TABLE = "predictions.csv"


@dataclass(frozen=True, slots=True)
class InferenceRun:
    """What became of a cohort.

    Args:
        predictions: The table, one line per case.
        predicted: Keys of the cases that were predicted now.
        kept: Keys of the cases that were finished before.
        failed: Key to the reason in one sentence.
    """

    predictions: Path
    predicted: tuple[str, ...]
    kept: tuple[str, ...]
    failed: Mapping[str, str]


def run_inference(
    predictor: Predictor,
    records: Sequence[CaseRecord],
    output: Path,
    *,
    recompute: bool = False,
    progress: bool = True,
    complete: Complete = as_it_is,
) -> InferenceRun:
    """Predict every case into `output/<key>/` and tell of all of them in `output/predictions.csv`.

    The table is rewritten as cases are finished, so an interrupted run loses nothing; run again, finished cases are
    kept, and cases whose files, bundle or choices have changed are predicted again.

    Args:
        predictor: The loaded bundle.
        records: The cohort, in the order of the table.
        output: Folder of the predictions.
        recompute: Predict finished cases again.
        progress: Show a bar when the standard error is a terminal.
        complete: Adds the channels that a case's raw series give; what it refuses is that case's reason.

    Raises:
        CaseError: Two records have the same key, or a key cannot be the name of a folder.
    """
    check_keys(records)
    cohort = _Cohort(predictor, output, complete)
    with _bar(shown=progress) as bar:
        task = bar.add_task("finished cases", total=len(records))
        for record in records if not recompute else ():
            cohort.keep(record)
            bar.advance(task)
        cohort.write(records)
        table = _Table(cohort)
        kept = tuple(cohort.rows)
        bar.reset(task, total=len(records), completed=len(kept))
        try:
            for record in [r for r in records if r.key not in kept]:
                bar.update(task, description=record.key)
                cohort.predict(record)
                table.write(records)
                bar.advance(task)
        finally:
            cohort.write(records)
    failed = {key: str(row["reason"]) for key, row in cohort.rows.items() if row["status"] == "failed"}
    predicted = tuple(key for key in cohort.rows if key not in kept and key not in failed)
    log.info("%d predicted, %d kept, %d failed: %s", len(predicted), len(kept), len(failed), output / TABLE)
    return InferenceRun(output / TABLE, predicted, kept, failed)


@dataclass(frozen=True, slots=True)
class _Cohort:
    """The rows of the table as they come in, by key."""

    predictor: Predictor
    output: Path
    complete: Complete
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keep(self, record: CaseRecord) -> None:
        """Take over a case that was finished before."""
        row = keep_if_finished(self.predictor, record, self.output, self.complete)
        if row is not None:
            self.rows[record.key] = row

    def predict(self, record: CaseRecord) -> None:
        """Predict and write one case; what is wrong with it becomes its row."""
        self.rows[record.key] = predict_into(self.predictor, record, self.output, self.complete)

    def write(self, records: Sequence[CaseRecord]) -> None:
        """The table, in the order of the manifest."""
        rows = [self.rows[record.key] for record in records if record.key in self.rows]
        write_table(rows, self.predictor.spec, self.output / TABLE)


# Share of the time that may go into rewriting the table: of a long cohort every case would be most of it.
TABLE_SHARE = 0.1


@dataclass(slots=True)
class _Table:
    """Rewrites the table after a case, as often as `TABLE_SHARE` allows."""

    cohort: _Cohort
    next_time: float = 0.0

    def write(self, records: Sequence[CaseRecord]) -> None:
        """Write when it is time."""
        begin = time.perf_counter()
        if begin >= self.next_time:
            self.cohort.write(records)
            end = time.perf_counter()
            self.next_time = end + (end - begin) / TABLE_SHARE


def check_keys(records: Sequence[CaseRecord]) -> None:
    """Refuse a cohort whose cases cannot each have a folder.

    Raises:
        CaseError: Two records have the same key, or a key has a path in it.
    """
    lines: dict[str, int] = {}
    for record in records:
        key = record.key
        if not key or key.startswith(".") or key == TABLE or any(c in key for c in "/\\\0:"):
            raise CaseError(
                f"line {record.line}: {key!r} cannot be the name of a folder; choose another case_id or visit"
            )
        if key in lines:
            raise CaseError(f"lines {lines[key]} and {record.line} are both {key}; give them different visits")
        lines[key] = record.line


def _bar(*, shown: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not (shown and sys.stderr.isatty())
    )
