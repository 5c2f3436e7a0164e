"""Inference over a cohort by several workers; the table and folders are those of a single process, byte for byte."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.inference.cluster.config import ClusterConfig
from hypoxnet.inference.cluster.dask_crew import open_crew
from hypoxnet.inference.cluster.dispatch import Crew, Dispatcher, Done, Limits, Work
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.run import check_keys
from hypoxnet.inference.table import failed_row
from hypoxnet.inference.tally import InferenceRun, Tally

log = logging.getLogger(__name__)


def run_on_cluster(
    predictor: Predictor,
    records: Sequence[CaseRecord],
    output: Path,
    *,
    work: Work,
    config: ClusterConfig,
    recompute: bool = False,
) -> InferenceRun:
    """Have workers predict every case into `output/<key>/`, and tell of all of them in `output/predictions.csv`.

    An interrupted run loses nothing; run again, finished cases are kept. Two runs on one folder at once do each other
    no harm, and neither do workers that die or hang.

    Args:
        predictor: The bundle, which here only describes itself.
        records: The cohort, in the order of the table.
        output: Folder of the predictions, the same for all workers.
        work: What a worker does with a case.
        config: Which workers, and how long they are waited for.
        recompute: Predict finished cases again.

    Raises:
        CaseError: Two records have the same key, or a key cannot be the name of a folder.
        ConfigError: Dask is not installed, no worker can be used, or none is left; what is finished is in the table.
    """
    check_keys(records)
    tally = Tally(predictor, records, output, output)
    for record in records if not recompute else ():
        tally.keep_known(record)
    left = tally.left()
    about = {"bundle": predictor.spec.digest, "workers": config.workers, "scheduler": config.scheduler}
    with tally.running(lambda: about):
        if left:
            with open_crew(config) as crew:
                _dispatch(crew, work, left, tally, Limits(config.case_limit_s, config.wait_s, config.attempts))
    return tally.run()


def _dispatch(crew: Crew, work: Work, records: Sequence[CaseRecord], tally: Tally, limits: Limits) -> None:
    for record, told in Dispatcher(crew, work, limits)(records):
        if isinstance(told, Done):
            for level, text in told.lines:
                log.log(level, "%s", text)
            tally.add(record, told.row, mark=told.mark, seconds=told.seconds, kept=told.kept)
        else:
            row = failed_row(record, CaseError(told))
            log.error("%s", row["reason"])
            tally.add(record, row, mark=None, seconds={})
