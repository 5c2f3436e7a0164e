"""One case into a folder: from its record to its files and its line of the table, whatever goes wrong with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord, Prediction
from hypoxnet.errors import HypoxNetError
from hypoxnet.files import DiskError, remove_folder
from hypoxnet.inference.index import Index, fingerprint
from hypoxnet.inference.predictor import Predictor, Ready
from hypoxnet.inference.table import failed_row, finished_row
from hypoxnet.inference.writing import finished, read_prediction, refuse_foreign, write_prediction

log = logging.getLogger(__name__)

# read: channels completed and every file hashed; prepare: decoded and brought onto the working grid; predict: the
# device, until maps lie on the reference grid; write: compressed and moved into place.
STAGES = ("read", "prepare", "predict", "write")

Complete = Callable[[CaseRecord], CaseRecord]


def as_it_is(record: CaseRecord) -> CaseRecord:
    """The record, of which nothing is completed."""
    return record


def keep_if_finished(
    predictor: Predictor, record: CaseRecord, output: Path, complete: Complete = as_it_is
) -> dict[str, Any] | None:
    """The row of a case that was finished before and that this bundle would predict alike; None otherwise.

    Every file of the case and of its prediction is hashed; `keep_if_known` is a thousand times faster. What is wrong
    with a case is not said here: `predict_into` says it.

    Args:
        predictor: The loaded bundle.
        record: The case.
        output: Folder of the predictions; the case's is `output/<key>`.
        complete: Adds the channels that the case's raw series give.
    """
    try:
        digest = predictor.digest(complete(record))
        content = finished(output / record.key, record.key, digest=digest)
    except (HypoxNetError, OSError):
        return None
    return None if content is None else finished_row(record, content)


def keep_if_known(
    predictor: Predictor, record: CaseRecord, output: Path, index: Index, complete: Complete = as_it_is
) -> dict[str, Any] | None:
    """As `keep_if_finished`; files whose size and time are those that the index knows are not hashed again.

    What had to be hashed is known to the index afterwards.
    """
    mark = fingerprint(predictor, record)
    known = index.kept_row(record.key, mark, output / record.key)
    if known is not None:
        return known
    row = keep_if_finished(predictor, record, output, complete)
    if row is not None:
        index.add(record.key, row, mark, output / record.key)
    return row


def predict_into(
    predictor: Predictor, record: CaseRecord, output: Path, complete: Complete = as_it_is
) -> dict[str, Any]:
    """Predict one case into `output/<key>`, which appears at once or not at all.

    Args:
        predictor: The loaded bundle.
        record: The case.
        output: Folder of the predictions.
        complete: Adds the channels that the case's raw series give; what it refuses is the case's reason.

    Returns:
        The case's row of the table. Whatever is wrong with the case or its files is a row with `status` failed and the
        reason; nothing is raised for it.

    Raises:
        DiskError: The disk does not take the prediction, nor would it take the next one.

    Example:
        row = predict_into(load_predictor(Path("RUN/bundle"), InferenceConfig()), record, Path("predictions"))
        row["status"], row["reason"]
    """
    case = OneCase(predictor, record, output, complete)
    for stage in (case.prepare, case.predict, case.write):
        stage()
    return case.tell()


class OneCase:
    """A case on its way through the stages, which may run in different threads, one after another.

    A stage after one that failed does nothing.

    Args:
        predictor: The loaded bundle.
        record: The case.
        output: Folder of the predictions.
        complete: As for `predict_into`.
    """

    def __init__(self, predictor: Predictor, record: CaseRecord, output: Path, complete: Complete = as_it_is) -> None:
        self.record = record
        self.folder = output / record.key
        self.seconds: dict[str, float] = {}
        self.mark: str | None = None
        self._predictor = predictor
        self._complete = complete
        self._row: dict[str, Any] | None = None
        self._digest = ""
        self._removed = ""
        self._ready: Ready | None = None
        self._prediction: Prediction | None = None

    def prepare(self) -> OneCase:
        """Read and prepare; needs no device."""
        with self._stage("read"):
            # Before anything is read: a file that changes from now on is seen to have changed.
            self.mark = fingerprint(self._predictor, self.record)
            refuse_foreign(self.folder, self.record.key)
            completed = self._complete(self.record)
            self._digest = self._digest_of(completed)
            self._clear_outdated()
        if self._row is None:
            with self._stage("prepare"):
                self._ready = self._predictor.prepare(completed)
                for name, reason in completed.not_made.items():
                    log.warning("%s; the case goes on without %s", reason, name)
        return self

    def predict(self) -> OneCase:
        """Predict on the device."""
        ready, self._ready = self._ready, None
        if ready is not None:
            with self._stage("predict"):
                self._prediction = self._predictor.predict_ready(ready)
        return self

    def write(self) -> OneCase:
        """Write the case's folder."""
        prediction, self._prediction = self._prediction, None
        if prediction is not None:
            with self._stage("write"):
                write_prediction(prediction, self.folder, digest=self._digest)
                self._row = finished_row(self.record, prediction.read_outs)
        return self

    def tell(self) -> dict[str, Any]:
        """The row of the table; what became of the case is logged."""
        assert self._row is not None, "a case is told of when it has been written"
        if self._row["status"] == "failed":
            log.error("%s", self._row["reason"])
        else:
            stages = ", ".join(f"{name} {self.seconds[name]:.2f}" for name in STAGES)
            log.info("%s: predicted in %.1f s (%s)", self.record.key, sum(self.seconds.values()), stages)
        return self._row

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        except DiskError:
            raise
        except (HypoxNetError, OSError) as error:
            self._row = failed_row(self.record, error)
            if self._removed:
                self._row["reason"] += f"; {self._removed}"
        finally:
            self.seconds[name] = time.perf_counter() - begin

    def _digest_of(self, completed: CaseRecord) -> str:
        try:
            return self._predictor.digest(completed)
        except OSError:
            return ""  # a file is missing: preparation says which

    def _clear_outdated(self) -> None:
        """If the case fails now, a map made from other files must not stay beside that reason."""
        earlier = read_prediction(self.folder, self.record.key)
        if earlier is None or not self._digest or earlier.get("digest") == self._digest:
            return
        bundle = earlier.get("bundle")
        same = isinstance(bundle, dict) and bundle.get("digest") == self._predictor.spec.digest
        made = "of other files or with other choices" if same else "by another bundle"
        if remove_folder(self.folder):  # otherwise another run has just taken it away
            self._removed = f"its earlier prediction was made {made} and is removed"
            log.info("%s: %s", self.record.key, self._removed)
