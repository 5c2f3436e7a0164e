"""Inference over a cohort: every case that can be predicted is; a case that fails is a line with its reason."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.inference.index import Index
from hypoxnet.inference.journal import SUMMARY, Journal
from hypoxnet.inference.one_case import Complete, OneCase, as_it_is, keep_if_known
from hypoxnet.inference.pipeline import run_cases
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.table import failed_row, finished_row, write_table
from hypoxnet.inference.writing import read_prediction

TABLE = "predictions.csv"
JOURNAL = "run.jsonl"
INDEX = ".index.jsonl"
# Files beside the folders of the cases, which no case may be called.
RESERVED = {TABLE, JOURNAL, SUMMARY, "run.log"}


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
    kept, and cases whose files, bundle or choices have changed are predicted again. While one case is on the device the
    next are prepared and the last written. `output/run.jsonl` has a line of times per case, `output/summary.json` what
    became of the run.

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
    cohort = _Cohort(predictor, output, complete, Index.open(output / INDEX))
    with _bar(shown=progress) as bar:
        task = bar.add_task("finished cases", total=len(records))
        for record in records if not recompute else ():
            cohort.keep(record)
            bar.advance(task)
        kept = tuple(cohort.told)
        bar.reset(task, total=len(records), completed=len(kept))
        cohort.predict(records, lambda key: bar.update(task, description=key, advance=1))
    failed = cohort.failed
    predicted = tuple(key for key in cohort.told if key not in failed)[len(kept) :]
    return InferenceRun(output / TABLE, predicted, kept, failed)


@dataclass(slots=True)
class _Cohort:
    """The cases of a run as they come in; their rows lie in the index, in memory only who has one.

    Args:
        told: Keys of the cases that are kept, predicted or failed, in this order of time.
        failed: Key to reason.
    """

    predictor: Predictor
    output: Path
    complete: Complete
    index: Index
    told: dict[str, None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def keep(self, record: CaseRecord) -> None:
        """Take over a case that was finished before."""
        if keep_if_known(self.predictor, record, self.output, self.index, self.complete) is not None:
            self.told[record.key] = None

    def predict(self, records: Sequence[CaseRecord], advance: Callable[[str], object]) -> None:
        """Predict the cases that are not kept; whatever ends this, what is finished stands in the table."""
        journal = Journal(self.output / JOURNAL, len(records), len(self.told))
        table = _Table(self)
        self.write(records)
        journal.begin(self._about())
        # Made when its turn comes: ten thousand cases are not begun at once.
        cases = (
            OneCase(self.predictor, record, self.output, self.complete)
            for record in records
            if record.key not in self.told
        )

        def tell(case: OneCase) -> None:
            self._tell(case, journal)
            table.write(records)
            advance(case.record.key)

        whole = False
        try:
            run_cases(cases, tell, ahead=self.predictor.cases_ahead)
            whole = True
        finally:
            self.write(records)
            journal.end(self.output / SUMMARY, self._about(), interrupted=not whole)

    def _tell(self, case: OneCase, journal: Journal) -> None:
        row, key = case.tell(), case.record.key
        if row["status"] == "failed":
            self.failed[key] = str(row["reason"])
            self.index.add(key, row)
        else:
            self.index.add(key, row, case.mark, case.folder)
        self.told[key] = None
        journal.case(key, row, case.seconds)

    def _about(self) -> dict[str, Any]:
        return {
            "bundle": self.predictor.spec.digest,
            "device": str(self.predictor.device),
            "windows_per_batch": self.predictor.windows_per_batch,
            "cases_ahead": self.predictor.cases_ahead,
        }

    def write(self, records: Sequence[CaseRecord]) -> None:
        """The table, in the order of the manifest."""
        rows = (self._row(record) for record in records if record.key in self.told)
        write_table((row for row in rows if row is not None), self.predictor.spec, self.output / TABLE)

    def _row(self, record: CaseRecord) -> dict[str, Any] | None:
        """From the index; if that was taken away meanwhile, from the case's own JSON."""
        row = self.index.row(record.key)
        if row is not None:
            return row
        if record.key in self.failed:
            return failed_row(record, CaseError(self.failed[record.key]))
        content = read_prediction(self.output / record.key, record.key)
        return None if content is None else finished_row(record, content)


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
        if not key or key.startswith(".") or key in RESERVED or any(c in key for c in "/\\\0:"):
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
