"""One case into a folder: from its record to its files and its line of the table, whatever goes wrong with it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import HypoxNetError
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.table import failed_row, finished_row
from hypoxnet.inference.writing import finished, read_prediction, refuse_foreign, write_prediction

log = logging.getLogger(__name__)

Complete = Callable[[CaseRecord], CaseRecord]


def as_it_is(record: CaseRecord) -> CaseRecord:
    """The record, of which nothing is completed."""
    return record


def keep_if_finished(
    predictor: Predictor, record: CaseRecord, output: Path, complete: Complete = as_it_is
) -> dict[str, Any] | None:
    """The row of a case that was finished before and that this bundle would predict alike; None otherwise.

    What is wrong with a case is not said here: `predict_into` says it.

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

    Example:
        row = predict_into(load_predictor(Path("RUN/bundle"), InferenceConfig()), record, Path("predictions"))
        row["status"], row["reason"]
    """
    begin = time.perf_counter()
    try:
        refuse_foreign(output / record.key, record.key)
        read_outs = _predict(predictor, complete(record), output / record.key)
    except (HypoxNetError, OSError) as error:
        row = failed_row(record, error)
        log.error("%s", row["reason"])
        return row
    log.info("%s: predicted in %.1f s", record.key, time.perf_counter() - begin)
    return finished_row(record, read_outs)


def _predict(predictor: Predictor, record: CaseRecord, folder: Path) -> Mapping[str, Any]:
    try:
        digest = predictor.digest(record)
    except OSError:
        digest = ""  # a file is missing: predict says which
    earlier = read_prediction(folder, record.key)
    if earlier is not None and digest and earlier.get("digest") != digest:
        # If the case fails now, a map made from other files must not stay beside that reason.
        shutil.rmtree(folder)
    prediction = predictor.predict(record)
    write_prediction(prediction, folder, digest=digest)
    return prediction.read_outs
