"""What a run says of itself while it goes on: a line of JSON per case, and a summary that names failures first."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypoxnet.files import write_json
from hypoxnet.inference.one_case import STAGES

log = logging.getLogger(__name__)

# Seconds between two lines of the log that say how far a run is.
EVERY_S = 60.0
SUMMARY = "summary.json"
# Failures that are named in the log; all stand in the summary. Of cases of other manifests so many stand there.
NAMED = 20
# Cases that are named in a line of the log.
FEW = 5


def told_of_others(others: Sequence[str]) -> dict[str, Any]:
    """What the summary says of cases whose predictions lie there and which the cohort does not have; it is logged.

    Example:
        >>> told_of_others(["P1", "P2"])
        {'not_in_manifest': {'cases': 2, 'first': ['P1', 'P2']}}
    """
    named = f"{', '.join(others[:FEW])}{' ...' if len(others) > FEW else ''}"
    if len(others) == 1:
        log.info("there is a prediction of %s, which the manifest does not name: kept, and not in the table", named)
    elif others:
        what = "there are predictions of %d cases that the manifest does not name (%s): kept, and not in the table"
        log.info(what, len(others), named)
    return {"not_in_manifest": {"cases": len(others), "first": list(others[:NAMED])}}


@dataclass(slots=True)
class Journal:
    """Times and outcomes of the cases of a run.

    Args:
        path: File to which lines are appended.
        cases: Cases of the cohort.
        kept: Of these, finished before.
        seconds: Sum over cases by stage.
        failed: Key to reason.
        predicted: Cases predicted in this run.
    """

    path: Path
    cases: int
    kept: int
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    failed: dict[str, str] = field(default_factory=dict)
    predicted: int = 0
    _begin: float = field(default_factory=time.perf_counter)
    _next: float = field(default_factory=lambda: time.perf_counter() + EVERY_S)

    def begin(self, about: Mapping[str, Any]) -> None:
        """The first line of a run; a summary of an earlier one is no longer true."""
        self.path.with_name(SUMMARY).unlink(missing_ok=True)
        self._append({"event": "begin", "cases": self.cases, "kept": self.kept, **about})

    def case(self, key: str, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """One case was finished, or failed."""
        if row["status"] == "failed":
            self.failed[key] = str(row["reason"])
        else:
            self.predicted += 1
        for stage, spent in seconds.items():
            self.seconds[stage] += spent
        rounded = {stage: round(spent, 4) for stage, spent in seconds.items()}
        self._append(
            {"event": "case", "case": key, "status": row["status"], "reason": row["reason"], "seconds": rounded}
        )
        if time.perf_counter() >= self._next:
            self._next = time.perf_counter() + EVERY_S
            log.info("%s", self._progress())

    def end(
        self, path: Path, about: Mapping[str, Any], *, interrupted: bool, others: Sequence[str] | None = None
    ) -> None:
        """The last line of a run, the same with every reason in `path`, and in the log failures first.

        Args:
            path: Of the summary.
            about: What else it says.
            interrupted: Before every case had its turn.
            others: Cases whose predictions lie there, and which the cohort does not have; None when that is not known.
        """
        speed = self._speed()
        summary = {
            "failed": dict(self.failed),
            "cases": self.cases,
            "kept": self.kept,
            "predicted": self.predicted,
            "interrupted": interrupted,
            **(told_of_others(others) if others is not None else {}),
            **{name: round(value, 4) for name, value in speed.items()},
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()},
            **about,
        }
        for number, reason in enumerate(self.failed.values()):
            if number == NAMED:
                log.error("and %d more failed: %s", len(self.failed) - NAMED, path)
                break
            log.error("failed: %s", reason)
        words = f"; {self._in_words(speed)} of {speed['elapsed_s']:.0f} s" if self._told else ""
        log.info("%d failed, %d predicted, %d kept%s", len(self.failed), self.predicted, self.kept, words)
        write_json(path, summary)
        self._append({"event": "end", **summary, "failed": len(self.failed)})

    @property
    def _told(self) -> int:
        return self.predicted + len(self.failed)

    def _speed(self) -> dict[str, float]:
        """Throughput, and the share of the time in which a case was on the device."""
        elapsed_s = max(time.perf_counter() - self._begin, 1e-9)
        busy = min(1.0, self.seconds["predict"] / elapsed_s)
        return {"elapsed_s": elapsed_s, "cases_per_minute": 60.0 * self._told / elapsed_s, "device_busy": busy}

    def _in_words(self, speed: Mapping[str, float]) -> str:
        return f"{speed['cases_per_minute']:.1f} cases/min, device busy {speed['device_busy']:.0%}"

    def _progress(self) -> str:
        speed, done = self._speed(), self.kept + self._told
        left_min = (self.cases - done) / max(speed["cases_per_minute"], 1e-9)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{done} of {self.cases} cases{failed}; {self._in_words(speed)}, about {left_min:.0f} min to go"

    def _append(self, content: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **content}) + "\n")
