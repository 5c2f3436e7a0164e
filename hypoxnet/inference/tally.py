"""What is known of each case of a cohort, whoever predicts it: table, index, journal and summary of a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.inference.index import Index, fingerprint
from hypoxnet.inference.journal import SUMMARY, Journal
from hypoxnet.inference.one_case import Complete, keep_if_known
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.table import failed_row, finished_row, write_table
from hypoxnet.inference.writing import other_predictions, read_prediction

TABLE = "predictions.csv"
JOURNAL = "run.jsonl"
INDEX = ".index.jsonl"
# Share of the time that may go into rewriting the table: of a long cohort every case would be most of it.
TABLE_SHARE = 0.1


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


class Tally:
    """The cases of a run as they come in; their rows lie in the index, in memory only who has one.

    Args:
        predictor: The bundle, for columns and for what a case depends on; it predicts nothing here.
        records: The cohort, in the order of the table.
        output: Folder of the cases.
        place: Folder of the table; `output` itself, or one inside it.
    """

    def __init__(self, predictor: Predictor, records: Sequence[CaseRecord], output: Path, place: Path) -> None:
        self.predictor, self.records, self.output, self.place = predictor, records, output, place
        self.index = Index.open(place / INDEX)
        # In the order of time.
        self.kept: dict[str, None] = {}
        self.predicted: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        self._journal: Journal | None = None
        self._next_s = 0.0

    def keep(self, record: CaseRecord, complete: Complete) -> None:
        """Take over a case that was finished before; one that the index does not know is hashed."""
        if keep_if_known(self.predictor, record, self.output, self.index, complete) is not None:
            self.kept[record.key] = None

    def keep_known(self, record: CaseRecord) -> None:
        """Take over a case whose files look as the index says; nothing is hashed."""
        mark = fingerprint(self.predictor, record)
        if self.index.kept_row(record.key, mark, self.output / record.key) is not None:
            self.kept[record.key] = None

    def left(self) -> list[CaseRecord]:
        """The cases of which nothing is known."""
        return [record for record in self.records if not self._has(record.key)]

    @contextmanager
    def running(self, about: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """While cases come in; whatever ends it, what is known stands in the table and in the summary.

        Args:
            about: What the first line of the journal says of the run, and at the end the summary.
        """
        self._journal = Journal(self.place / JOURNAL, len(self.records), len(self.kept))
        self.write()
        self._journal.begin(about())
        whole = False
        try:
            yield
            whole = True
        finally:
            # A disk that takes no more may have ended the run: what it does not take now was said by that.
            with nullcontext() if whole else suppress(OSError):
                self.write()
            with nullcontext() if whole else suppress(OSError):
                self._journal.end(self.place / SUMMARY, about(), interrupted=not whole, others=self._others())

    def add(
        self,
        record: CaseRecord,
        row: Mapping[str, Any],
        *,
        mark: str | None,
        seconds: Mapping[str, float],
        kept: bool = False,
    ) -> None:
        """Take up a case that has come in, within `running`.

        Args:
            record: The case.
            row: Of the table.
            mark: `fingerprint` of what it was made of.
            seconds: Time by stage.
            kept: Whoever had the case found it finished.
        """
        assert self._journal is not None
        key = record.key
        # Counted first: the index may be what a full disk does not take, the case lies there whole.
        if kept:
            self._journal.kept += 1
        else:
            self._journal.case(key, row, seconds)
        if row["status"] == "failed":
            self.failed[key] = str(row["reason"])
            self.index.add(key, row)
        else:
            (self.kept if kept else self.predicted)[key] = None
            self.index.add(key, row, mark, self.output / key)
        self._write_when_due()

    def write(self) -> None:
        """The table of the cases that have a row, in the order of the cohort."""
        rows = (self._row(record) for record in self.records if self._has(record.key))
        write_table((row for row in rows if row is not None), self.predictor.spec, self.place / TABLE)

    def run(self) -> InferenceRun:
        """What became of the cohort so far."""
        return InferenceRun(self.place / TABLE, tuple(self.predicted), tuple(self.kept), dict(self.failed))

    def _others(self) -> list[str] | None:
        """Cases whose predictions lie here, and which the cohort does not have; a part of one does not know."""
        return other_predictions(self.output, {r.key for r in self.records}) if self.place == self.output else None

    def _has(self, key: str) -> bool:
        return key in self.kept or key in self.predicted or key in self.failed

    def _row(self, record: CaseRecord) -> dict[str, Any] | None:
        """From the index; if that was taken away meanwhile, from the case's own JSON."""
        row = self.index.row(record.key)
        if row is not None:
            return row
        if record.key in self.failed:
            return failed_row(record, CaseError(self.failed[record.key]))
        content = read_prediction(self.output / record.key, record.key)
        return None if content is None else finished_row(record, content)

    def _write_when_due(self) -> None:
        """The table, as often as `TABLE_SHARE` allows."""
        begin = time.perf_counter()
        if begin >= self._next_s:
            self.write()
            end = time.perf_counter()
            self._next_s = end + (end - begin) / TABLE_SHARE
