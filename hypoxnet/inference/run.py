"""Inference over a cohort: every case that can be predicted is; a case that fails is a line with its reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.inference.journal import SUMMARY
from hypoxnet.inference.one_case import Complete, OneCase, as_it_is
from hypoxnet.inference.pipeline import run_cases
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.tally import INDEX, JOURNAL, TABLE, InferenceRun, Tally

# Files beside the folders of the cases, which no case may be called.
RESERVED = {TABLE, JOURNAL, INDEX, SUMMARY, "run.log"}


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
    tally = Tally(predictor, records, output, output)
    with _bar(shown=progress) as bar:
        task = bar.add_task("finished cases", total=len(records))
        for record in records if not recompute else ():
            tally.keep(record, complete)
            bar.advance(task)
        bar.reset(task, total=len(records), completed=len(tally.kept))
        return predict_left(tally, complete, advance=lambda key: bar.update(task, description=key, advance=1))


def predict_left(
    tally: Tally,
    complete: Complete,
    *,
    also: Mapping[str, Any] | None = None,
    advance: Callable[[str], object] = lambda key: None,
) -> InferenceRun:
    """Predict in this process every case of which nothing is known.

    Args:
        tally: Of the cohort.
        complete: Adds the channels that a case's raw series give.
        also: What the summary says besides of the run.
        advance: Called with the key of each case that is finished or failed.
    """
    predictor = tally.predictor

    def about() -> dict[str, Any]:
        return {
            "bundle": predictor.spec.digest,
            "device": str(predictor.device),
            "windows_per_batch": predictor.windows_per_batch,
            "cases_ahead": predictor.cases_ahead,
            **(also or {}),
        }

    def tell(case: OneCase) -> None:
        tally.add(case.record, case.tell(), mark=case.mark, seconds=case.seconds)
        advance(case.record.key)

    # Made when its turn comes: ten thousand cases are not begun at once.
    cases = (OneCase(predictor, record, tally.output, complete) for record in tally.left())
    with tally.running(about):
        run_cases(cases, tell, ahead=predictor.cases_ahead)
    return tally.run()


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
