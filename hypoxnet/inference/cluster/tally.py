"""The rows of a cohort that others predict, as they come in: table, index and journal of an output folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.inference.index import Index, fingerprint
from hypoxnet.inference.journal import SUMMARY, Journal
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.run import INDEX, JOURNAL, TABLE, InferenceRun
from hypoxnet.inference.table import write_table

# Seconds between two writings of the table while cases come in.
TABLE_EVERY_S = 10.0


class Tally:
    """What is known of each case.

    Args:
        predictor: The bundle, for columns and for what a case depends on; it predicts nothing here.
        records: The cohort, in the order of the table.
        output: Folder of the cases.
        place: Folder of the table; `output` itself, or one inside it.
    """

    def __init__(self, predictor: Predictor, records: Sequence[CaseRecord], output: Path, place: Path) -> None:
        self.predictor, self.records, self.output, self.place = predictor, records, output, place
        self.index = Index.open(place / INDEX)
        self.journal = Journal(place / JOURNAL, len(records), 0)
        self.kept: dict[str, None] = {}
        self.predicted: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        self._next_s = 0.0

    def keep_known(self) -> list[CaseRecord]:
        """Take over the cases whose files look as the index says; returns the others."""
        others = []
        for record in self.records:
            mark = self.mark_of(record)
            if self.index.kept_row(record.key, mark, self.output / record.key) is None:
                others.append(record)
            else:
                self.kept[record.key] = None
        self.journal.kept = len(self.kept)
        return others

    def mark_of(self, record: CaseRecord) -> str | None:
        """What a case is made of, by size and time of its files."""
        return fingerprint(self.predictor, record)

    def add(
        self, record: CaseRecord, row: Mapping[str, Any], *, kept: bool, mark: str | None, seconds: Mapping[str, float]
    ) -> None:
        """Take up the row of a case."""
        failed = row["status"] == "failed"
        if failed:
            self.failed[record.key] = str(row["reason"])
            self.index.add(record.key, row)
        else:
            (self.kept if kept else self.predicted)[record.key] = None
            self.index.add(record.key, row, mark, self.output / record.key)
        if kept and not failed:
            self.journal.kept += 1
        else:
            self.journal.case(record.key, row, seconds)
        if time.monotonic() >= self._next_s:
            self.write()
            self._next_s = time.monotonic() + TABLE_EVERY_S

    def write(self) -> None:
        """The table of the cases that have a row, in the order of the cohort."""
        told = self.kept.keys() | self.predicted.keys() | self.failed.keys()
        rows = (self.index.row(record.key) for record in self.records if record.key in told)
        write_table((row for row in rows if row is not None), self.predictor.spec, self.place / TABLE)

    def end(self, about: Mapping[str, Any], *, whole: bool) -> InferenceRun:
        """Write what is known at the end, be it the end or an interrupt."""
        self.write()
        self.journal.end(self.place / SUMMARY, about, interrupted=not whole)
        return InferenceRun(self.place / TABLE, tuple(self.predicted), tuple(self.kept), dict(self.failed))
