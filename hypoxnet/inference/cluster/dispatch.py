"""Who has which case: one at a time per worker, taken back from workers that die or do not answer in time.

A case is given to one worker at a time, so that a worker that dies says which case it was at: schedulers that hold
several tasks for a worker suspect all of them. What a worker writes is whole or absent, and the same bytes whoever
writes it, so a case that was given away twice does no harm, however late the first answer comes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import ConfigError, HypoxNetError
from hypoxnet.files import DiskError

log = logging.getLogger(__name__)

POLL_S = 0.5
# To start Python, read a bundle from a shared disk and build its networks.
BEGIN_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker tells of one case.

    Args:
        row: Its line of the table.
        kept: It was finished before.
        mark: What it was made of, for the index of the folder; None for a case that failed.
        seconds: Time by stage.
        lines: What was logged: level and text.
    """

    row: dict[str, Any]
    kept: bool = False
    mark: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[tuple[int, str], ...] = ()


class Work(Protocol):
    """What workers do; it is sent to each of them, and runs there."""

    def begin(self) -> None:
        """Once on each worker, before its first case; what it raises says why this worker cannot be used."""

    def agree(self) -> Any:
        """Once, on the first worker that has begun: what all must do alike and only a worker can tell."""

    def run_case(self, record: CaseRecord, agreed: Any) -> Done:
        """One case; whatever is wrong with the case is a row, a `DiskError` ends the run."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task.

    Args:
        value: Its result.
        error: What it raised.
        lost: Its worker died.
    """

    value: Any = None
    error: Exception | None = None
    lost: bool = False


class Crew(Protocol):
    """The workers, whoever runs them."""

    def members(self) -> Collection[str]:
        """Those that are there now."""

    def start(self, member: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have one of them call a function; returns a handle."""

    def answer(self, task: Any) -> Answer | None:
        """What came of a task; None while it runs."""

    def forget(self, task: Any) -> None:
        """Nobody waits for this task any more."""

    def wait(self, seconds: float) -> None:
        """Until a task is done, or the time is over."""

    def let_go(self, member: str) -> None:
        """Stop a worker that does not answer, and start another in its place where that is possible; does not wait."""


@dataclass(slots=True)
class _Task:
    """What a worker is at: a case, or what comes before the first one.

    Args:
        handle: Of the crew.
        name: `begin`, `agree` or `run`.
        since: When it was given, s.
        record: The case.
    """

    handle: Any
    name: str
    since: float
    record: CaseRecord | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long is waited, and how often a case is tried.

    Args:
        case_s: For one case.
        wait_s: For a worker when there is none.
        attempts: Workers that a case may cost.
    """

    case_s: float
    wait_s: float
    attempts: int


class Dispatcher:
    """Gives cases to workers until each has a row.

    Args:
        crew: The workers; they may come and go.
        work: What they do.
        limits: When a case is taken back, and when it is given up.
    """

    def __init__(self, crew: Crew, work: Work, limits: Limits) -> None:
        self.crew, self.work, self.limits = crew, work, limits
        self.tasks: dict[str, _Task] = {}
        self.ready: set[str] = set()
        # Refused to begin, or did not answer: never used again under this name.
        self.unusable: dict[str, str] = {}
        self.agreed: tuple[Any] | None = None
        self.waiting: deque[CaseRecord] = deque()
        self.losses: Counter[str] = Counter()
        self.failed_starts = 0
        self.last_seen = time.monotonic()

    def __call__(self, records: Sequence[CaseRecord]) -> Iterator[tuple[CaseRecord, Done | str]]:
        """Each case with what a worker told of it, or with the reason why none could, as they come in.

        Raises:
            ConfigError: No worker can be used, or none is left.
            DiskError: The disk does not take a case.
        """
        self.waiting.extend(records)
        while self.waiting or any(task.record for task in self.tasks.values()):
            members = self.crew.members()
            for member in [m for m in self.tasks if m not in members]:
                yield from self._lost(member, "died")
            for member in list(self.tasks):
                yield from self._overdue(member)
            self._give(members)
            self.crew.wait(POLL_S)
            for member, task in list(self.tasks.items()):
                answer = self.crew.answer(task.handle)
                if answer is not None:
                    yield from self._answered(member, task, answer)

    def _give(self, members: Collection[str]) -> None:
        self.ready &= set(members)
        usable = [member for member in members if member not in self.unusable]
        if usable:
            self.last_seen = time.monotonic()
        elif time.monotonic() - self.last_seen > self.limits.wait_s:
            why = f": {next(iter(self.unusable.values()))}" if members else ""
            raise ConfigError(
                f"no worker could be used for {self.limits.wait_s:g} s{why}; finished cases are kept, the same command "
                "goes on"
            )
        for member in usable:
            if member in self.tasks:
                continue
            if member not in self.ready:
                self._start(member, "begin", self.work.begin)
            elif self.agreed is None:
                if not any(task.name == "agree" for task in self.tasks.values()):
                    self._start(member, "agree", self.work.agree)
            elif self.waiting:
                record = self.waiting.popleft()
                self._start(member, "run", self.work.run_case, record, self.agreed[0])

    def _start(self, member: str, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        handle = self.crew.start(member, function, *arguments)
        self.tasks[member] = _Task(handle, name, time.monotonic(), arguments[0] if arguments else None)

    def _answered(self, member: str, task: _Task, answer: Answer) -> Iterator[tuple[CaseRecord, Done | str]]:
        if answer.lost:
            yield from self._lost(member, "died")
        elif task.record is not None:
            if isinstance(answer.error, DiskError):
                raise answer.error
            if answer.error is not None:
                log.error("%s on %s", task.record.key, member, exc_info=answer.error)
                yield from self._lost(member, f"ended with {type(answer.error).__name__}: {answer.error}")
                return
            del self.tasks[member]
            yield task.record, answer.value
        else:
            del self.tasks[member]
            self._begun(member, task, answer)

    def _begun(self, member: str, task: _Task, answer: Answer) -> None:
        if answer.error is not None:
            if not isinstance(answer.error, HypoxNetError):
                log.error("%s cannot begin", member, exc_info=answer.error)
            log.warning("%s is not used: %s", member, answer.error)
            self.unusable[member] = str(answer.error)
            return
        self.failed_starts = 0
        self.ready.add(member)
        if task.name == "agree":
            self.agreed = (answer.value,)

    def _overdue(self, member: str) -> Iterator[tuple[CaseRecord, Done | str]]:
        task = self.tasks[member]
        limit = self.limits.case_s if task.record is not None else BEGIN_LIMIT_S
        if time.monotonic() - task.since > limit:
            self.unusable[member] = f"{member} did not answer within {limit:g} s"
            yield from self._lost(member, f"did not answer within {limit:g} s")
            self.crew.let_go(member)

    def _lost(self, member: str, how: str) -> Iterator[tuple[CaseRecord, Done | str]]:
        """Take back what a worker was at."""
        task = self.tasks.pop(member)
        self.crew.forget(task.handle)
        if task.record is None:
            self._failed_start(member, how)
            return
        key = task.record.key
        self.losses[key] += 1
        if self.losses[key] < self.limits.attempts:
            log.warning("%s: %s %s, the case goes to another worker", key, member, how)
            self.waiting.append(task.record)
            return
        count = self.losses[key]
        every = "its worker" if count == 1 else f"each of {count} workers in turn"
        yield (
            task.record,
            f"{every} was lost with this case, the last one {how}; try it alone, without cluster settings",
        )

    def _failed_start(self, member: str, how: str) -> None:
        log.warning("%s %s before its first case", member, how)
        self.failed_starts += 1
        if self.failed_starts >= self.limits.attempts * max(1, len(self.crew.members())):
            raise ConfigError(
                f"{self.failed_starts} workers in turn were lost before their first case, the last one {how}; look at "
                "their logs and memory, finished cases are kept"
            )
