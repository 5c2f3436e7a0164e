"""A bundle that stays loaded, and predicts what is put into a folder."""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import ConfigError, HypoxNetError
from hypoxnet.files import disk_error, write_json
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.inbox import READY, Inbox, Item
from hypoxnet.jobs.infer import job_paths, listed_cohort, predict_cohort
from hypoxnet.jobs.results_folder import results_folder
from hypoxnet.jobs.run_folder import log_to

log = logging.getLogger(__name__)

BEAT_S = 5.0
# Reasons that are written beside a failed item; all stand in its predictions.csv.
NAMED = 100
# Names in a line of the log.
FEW = 10


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """What is served, and where.

    Args:
        config: Bundle, and how it is applied; `output` is the folder in which each item gets its own.
        inbox: Folder that is watched.
        status: File that tells what the server does.
        every_s: Seconds between two looks into the inbox.
        settle_s: Seconds for which a file must not change before it is taken for whole.
        once: Predict what lies there and end.
    """

    config: InferJobConfig
    inbox: Path
    status: Path
    every_s: float = 2.0
    settle_s: float = 2.0
    once: bool = False


@dataclass(slots=True)
class Status:
    """What a server says of itself, in a file; `heartbeat` is at most a few seconds old while it lives.

    Args:
        path: The file.
        state: `loading`, `waiting`, `predicting` or `ended`.
        item: What it is at.
        items_done: Manifests and studies without a failed case.
        items_failed: The others.
        cases_done: Cases that have a prediction.
        cases_failed: Cases that have none.
        last_error: The latest reason.
        seconds: Of loading, and of the latest item.
    """

    path: Path
    bundle: str
    state: str = "loading"
    item: str = ""
    items_done: int = 0
    items_failed: int = 0
    cases_done: int = 0
    cases_failed: int = 0
    last_error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

    def write(self) -> None:
        """Write the file anew."""
        content = asdict(self) | {"host": platform.node(), "pid": os.getpid(), "heartbeat": time.time()}
        del content["path"]
        write_json(self.path, content)


class _Stopped(KeyboardInterrupt):
    """The server was asked to end, and the case it was at is finished."""


def serve(request: ServeRequest) -> int:
    """Load the bundle once and predict each manifest or study that is put into the inbox, until asked to end.

    Results go to `output/NAME/`, as those of `infer.py`, or to `output/NAME.2/` and so on where a manifest or study of
    other content had that name; the same content finds its finished cases again. What is done moves to `inbox/done`;
    what cannot be used, or has a failed case, to `inbox/failed` with the reason beside it, and the server goes on.
    SIGINT and SIGTERM end it after the case it is at; the item goes back into the inbox, and its finished cases are
    kept the next time.

    Returns:
        Exit status: 0; with `once` 2 when an item failed.

    Raises:
        HypoxNetError: Bundle, inbox, output or status file cannot be used.
    """
    config = request.config
    output = Path(config.output).expanduser()
    _check(request, output)
    begin = time.perf_counter()
    status = Status(request.status, config.bundle)
    status.write()
    predictor = load_predictor(Path(config.bundle).expanduser(), config.inference)
    if not predictor.alone:
        _ = predictor.sliding  # measured now, not during the first case
    status.seconds["load"] = round(time.perf_counter() - begin, 3)
    server = _Server(request, predictor, Inbox(request.inbox, request.settle_s), status, output)
    log_to(output / "serve.log")
    log.info("%s is loaded (%.1f s) and watches %s", predictor.spec.name, status.seconds["load"], request.inbox)
    with server.signals(), server.beats():
        server.run()
    log.info("ended: %d items done, %d failed", status.items_done, status.items_failed)
    return 2 if request.once and status.items_failed else 0


def _check(request: ServeRequest, output: Path) -> None:
    bundle = Path(request.config.bundle).expanduser()
    if not bundle.is_dir():
        raise ConfigError(f"{bundle} is not a folder; give the folder that holds checksums.json")
    if not request.inbox.is_dir():
        raise ConfigError(f"--watch {request.inbox} is not a folder; make it first, so that a misspelt one is noticed")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; give a folder")
    inbox, place = request.inbox.resolve(), output.resolve()
    if inbox == place or inbox in place.parents or place in inbox.parents:
        raise ConfigError(f"--output {output} and --watch {request.inbox} lie in each other; give two separate folders")
    other = _living(request.status)
    if other:
        raise ConfigError(
            f"{request.status} is written by another server ({other}); give this one --status ANOTHER_FILE"
        )


def _living(path: Path) -> str:
    """Host and process of the server that writes a status file; empty when none does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        host, pid, heartbeat = content["host"], content["pid"], content["heartbeat"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    gone = host == platform.node() and (pid == os.getpid() or not psutil.pid_exists(pid))
    if content.get("state") == "ended" or gone or time.time() - heartbeat > 10 * BEAT_S:
        return ""
    return f"process {pid} on {host}"


def _tell_passed_over(names: Sequence[str]) -> None:
    if names:
        log.warning(
            "passed over in the inbox: %s%s (a manifest ends in .csv or .tsv, a folder of DICOM has a file %s in it)",
            ", ".join(names[:FEW]),
            f" and {len(names) - FEW} more" if len(names) > FEW else "",
            READY,
        )


@contextmanager
def _named_as_given(item: Item) -> Iterator[None]:
    """Whatever is logged in the block names the item as it was given, and not as it is called while it is taken."""
    before = logging.getLogRecordFactory()

    def make(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = before(*arguments, **named)
        record.msg, record.args = item.as_given(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


class _Server:
    """The loop, and how it is stopped."""

    def __init__(self, request: ServeRequest, predictor: Predictor, inbox: Inbox, status: Status, output: Path) -> None:
        self.request, self.predictor, self.inbox, self.status, self.output = request, predictor, inbox, status, output
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.current: Item | None = None

    def run(self) -> None:
        """Take and predict until stopped; with `once` until nothing is left."""
        while not self.stop.is_set():
            for name in self.inbox.recover():
                log.warning("%s had been taken by a server that is gone; it is taken again", name)
            _tell_passed_over(self.inbox.passed_over())
            item = self.inbox.take()
            if item is not None:
                self._handle(item)
            elif self.request.once and not self.inbox.waiting():
                break
            else:
                self._tell("waiting")
                self.stop.wait(self.request.every_s)
        self._tell("ended")

    def _handle(self, item: Item) -> None:
        self.current = item
        self._tell("predicting", item.name)
        begin = time.perf_counter()
        try:
            with _named_as_given(item):
                reason = self._predict(item)
        except _Stopped:
            place = self.inbox.give_back(item)
            log_to(self.output / "serve.log")
            log.info("%s: stopped after a case; it lies at %s again, finished cases are kept", item.name, place)
            return
        finally:
            self.current = None
        log_to(self.output / "serve.log")
        seconds = time.perf_counter() - begin
        place = self.inbox.finish(item, reason)
        self.status.seconds["last_item"] = round(seconds, 3)
        if reason:
            self.status.items_failed += 1
            self.status.last_error = reason.splitlines()[0]
            log.error("%s failed after %.1f s: %s", item.name, seconds, reason.splitlines()[0])
        else:
            self.status.items_done += 1
        log.info("%s: %.1f s, moved to %s", item.name, seconds, place)

    def _predict(self, item: Item) -> str:
        """Predict an item; returns what is wrong with it, empty when nothing is."""
        try:
            config = self._config(item)
            cohort = listed_cohort(config)  # a manifest with faults leaves no folder
            config = replace(config, output=str(results_folder(self.output, item)))
            log.info("%s: results go to %s", item.name, config.output)
            job_paths(config)
            outcome = predict_cohort(config, self.predictor, cohort, before_each=self._before_each)
        except (HypoxNetError, OSError) as error:
            return item.as_given(str(disk_error(error, self.output) or error))
        except Exception as error:
            log.exception("%s", item.name)
            told = f"{type(error).__name__}: {error}; this is a fault of the program, serve.log has its place"
            return item.as_given(told)
        self.status.cases_done += outcome.done
        self.status.cases_failed += len(outcome.failed)
        total = outcome.done + len(outcome.failed)
        first = f"{len(outcome.failed)} of {total} cases failed, the others are done: {config.output}"
        lines = [first, *outcome.failed.values()][: 1 + NAMED] if outcome.failed else []
        return item.as_given("\n".join(lines))

    def _config(self, item: Item) -> InferJobConfig:
        if item.is_dicom:
            return replace(self.request.config, input="dicom", folder=str(item.path))
        return replace(self.request.config, input="manifest", manifest=str(item.path), output_format=["nifti"])

    def _before_each(self, record: CaseRecord) -> CaseRecord:
        if self.stop.is_set():
            raise _Stopped
        return record

    def _tell(self, state: str, item: str = "") -> None:
        with self.lock:
            changed = (self.status.state, self.status.item) != (state, item)
            self.status.state, self.status.item = state, item
            if changed:
                self.status.write()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks to end, the second SIGINT interrupts."""

        def ask(number: int, _: FrameType | None) -> None:
            if self.stop.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop.set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def beats(self) -> Iterator[None]:
        """Signs of life in the status file and on what was taken, from a thread of their own."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_S):
                item = self.current
                with self.lock, suppress(OSError):  # a full disk is told of where results are written
                    self.status.write()
                    if item is not None:
                        os.utime(item.path)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.status.state = "ended"
            self.status.write()
