"""What a worker of a cluster does: a bundle loaded once, one case at a time, its log sent along."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import torch

from hypoxnet import __version__
from hypoxnet.cases import CaseRecord
from hypoxnet.data.cache import default_cache_folder
from hypoxnet.data.measured import ReadOutCache, then
from hypoxnet.errors import BundleError, ConfigError
from hypoxnet.inference.cluster.dispatch import Done
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.index import fingerprint
from hypoxnet.inference.one_case import Complete, OneCase, keep_if_finished
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.jobs.derive import MapCache
from hypoxnet.maps.config import MapsConfig


def completion(predictor: Predictor) -> Complete:
    """What adds the channels and read-outs that a case's files give to its record."""
    spec, folder = predictor.spec, default_cache_folder() / "maps"
    measured = ReadOutCache(folder / "read_outs", spec.settings.covariates, spec.settings.tumour)
    if predictor.alone:
        return measured.complete
    maps = MapCache(folder, MapsConfig.from_json(spec.maps), spec.settings.channels)
    return then(maps.complete, measured.complete)


@dataclass(frozen=True, slots=True)
class BundleWork:
    """Predicts cases with one bundle; it is sent to each worker, which loads the bundle once.

    Args:
        bundle: Its folder, as workers see it.
        digest: Of the bundle that is meant.
        inference: How it is applied.
        output: Folder of the predictions, as workers see it.
        threads: Of each worker; None leaves them.
        folder: What relative paths of the cohort begin at; None when there are none.
        version: Of HypoxNet where the run was started.
        run: Name of the run: a bundle is loaded once for each.
    """

    bundle: Path
    digest: str
    inference: InferenceConfig
    output: Path
    threads: int | None = None
    folder: Path | None = None
    version: str = __version__
    run: str = field(default_factory=lambda: uuid4().hex)

    def begin(self) -> None:
        """Load the bundle.

        Raises:
            HypoxNetError: This worker has another HypoxNet, another bundle, or does not see the folders.
        """
        if self.version != __version__:
            raise ConfigError(
                f"the worker has HypoxNet {__version__}, the run {self.version}; install the same on both"
            )
        for name, path in (("bundle", self.bundle), ("output", self.output), ("folder of the run", self.folder)):
            if path is not None and not path.is_dir():
                raise ConfigError(f"the worker does not see the {name} {path}; put it on a disk that all workers share")
        if self.folder is not None:
            os.chdir(self.folder)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        found = self._predictor().spec.digest
        if found != self.digest:
            raise BundleError(f"{self.bundle} is another bundle on the worker ({found[:12]}, here {self.digest[:12]})")

    def agree(self) -> int | None:
        """Windows that go through the network at once: with another number results differ in their last digits."""
        predictor = self._predictor()
        return None if predictor.alone else predictor.sliding.windows_per_batch

    def run_case(self, record: CaseRecord, windows_per_batch: int | None) -> Done:
        """Keep or predict one case."""
        predictor = self._predictor()
        if predictor.windows_per_batch is None:
            predictor.windows_per_batch = windows_per_batch
        complete = completion(predictor)
        with _captured() as lines:
            if not self.inference.recompute:
                mark = fingerprint(predictor, record)
                row = keep_if_finished(predictor, record, self.output, complete)
                if row is not None:
                    return Done(row, kept=True, mark=mark)
            case = OneCase(predictor, record, self.output, complete)
            row = case.prepare().predict().write().tell()
            if row["status"] == "failed" and not self.inference.recompute:
                # Another run on the same folder can have moved its own, the same, in between.
                mark = fingerprint(predictor, record)
                other = keep_if_finished(predictor, record, self.output, complete)
                if other is not None:
                    return Done(other, kept=True, mark=mark)
        return Done(row, mark=case.mark, seconds=case.seconds, lines=tuple(lines))

    def _predictor(self) -> Predictor:
        if self.run not in _LOADED:
            _LOADED.clear()
            _LOADED[self.run] = load_predictor(self.bundle, self.inference)
        return _LOADED[self.run]


# Of this process: the last run's predictor.
_LOADED: dict[str, Predictor] = {}


@contextmanager
def _captured() -> Iterator[list[tuple[int, str]]]:
    """What the package logs in the block, in place of this worker's terminal."""
    lines: list[tuple[int, str]] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("hypoxnet")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
