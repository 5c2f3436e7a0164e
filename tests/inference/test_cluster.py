"""Real workers that are killed and that hang: table and folders are those of one process, byte for byte."""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hypoxnet.errors import ConfigError
from hypoxnet.inference.cluster import dask_crew
from hypoxnet.inference.cluster.config import ClusterConfig
from hypoxnet.inference.cluster.run import run_on_cluster
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.jobs.infer_worker import BundleWork

CPU = InferenceConfig(device="cpu", windows_per_batch=2)
# What tells of times, and so differs from run to run.
OF_THE_RUN = {".index.jsonl", "run.jsonl", "summary.json"}


@dataclass(frozen=True)
class Sabotaged:
    """The true work, in a worker that comes to harm at cases that were drawn.

    Args:
        work: The true work.
        marks: Folder in which attempts are counted.
        killed: Key to the seconds after which its first worker is killed.
        hangs: Key whose first worker hangs.
        deadly: Key that kills every worker.
    """

    work: BundleWork
    marks: Path
    killed: dict[str, float]
    hangs: str = ""
    deadly: str = ""

    def begin(self):
        self.work.begin()

    def agree(self):
        return self.work.agree()

    def run_case(self, record, agreed):
        mark = self.marks / record.key
        first = not mark.exists()
        mark.touch()
        if record.key == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if first and record.key in self.killed:
            threading.Thread(target=self._kill, args=(self.killed[record.key],), daemon=True).start()
        if first and record.key == self.hangs:
            time.sleep(3600)
        done = self.work.run_case(record, agreed)
        if first and record.key in self.killed:
            time.sleep(60)  # a case that was quicker than its killer: killed before it could tell
        return done

    @staticmethod
    def _kill(seconds):
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_THE_RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def bundle(tiny_spec, make_bundle):
    return make_bundle(tiny_spec)


@pytest.fixture
def cohort(make_case):
    """Six cases, of which one cannot be read."""
    records = [make_case(f"P{seed:03d}", seed=seed) for seed in range(6)]
    records[3].channels["FMISO_SUV"].write_bytes(b"damaged")
    return records


def work_of(predictor, bundle, output):
    return BundleWork(bundle, predictor.spec.digest, CPU, output, threads=torch.get_num_threads())


def test_killed_and_hanging_workers_change_no_byte(bundle, cohort, tmp_path):
    predictor = load_predictor(bundle, CPU)
    alone = run_inference(predictor, cohort, tmp_path / "alone")
    output, marks = tmp_path / "cluster", tmp_path / "marks"
    for folder in (output, marks):
        folder.mkdir()
    draw = np.random.default_rng(7)
    killed, hangs = draw.choice(["P000", "P001", "P002", "P004", "P005"], 2, replace=False).tolist()
    work = Sabotaged(work_of(predictor, bundle, output), marks, {killed: draw.uniform(0.0, 0.2)}, hangs)
    config = ClusterConfig(workers=2, threads=torch.get_num_threads(), case_limit_s=3.0, attempts=5)
    run = run_on_cluster(predictor, cohort, output, work=work, config=config)
    assert contents(output) == contents(tmp_path / "alone")
    # A case whose worker was killed when it had written it is kept.
    assert sorted((*run.predicted, *run.kept)) == sorted(alone.predicted)
    assert run.failed == alone.failed
    assert set(run.failed) == {"P003"}
    # What a cluster finished, one process keeps, and the other way round, without a worker.
    assert run_inference(predictor, cohort, output).kept == alone.predicted
    good = [record for record in cohort if record.key != "P003"]
    none = replace(config, workers=0, scheduler="tcp://127.0.0.1:1")
    assert run_on_cluster(predictor, good, output, work=work, config=none).kept == alone.predicted


@pytest.mark.slow
def test_workers_of_a_scheduler_and_a_case_that_kills_every_one(bundle, cohort, tmp_path):
    from distributed import LocalCluster

    predictor = load_predictor(bundle, CPU)
    run_inference(predictor, cohort, tmp_path / "alone")
    output, marks = tmp_path / "cluster", tmp_path / "marks"
    for folder in (output, marks):
        folder.mkdir()
    draw = np.random.default_rng(11)
    killed = {key: draw.uniform(0.0, 0.3) for key in ("P000", "P001", "P005")}
    work = Sabotaged(work_of(predictor, bundle, output), marks, killed, deadly="P004")
    with LocalCluster(n_workers=3, threads_per_worker=1, memory_limit=0, dashboard_address=":0") as cluster:
        config = ClusterConfig(scheduler=cluster.scheduler_address, attempts=2, threads=torch.get_num_threads())
        run = run_on_cluster(predictor, cohort, output, work=work, config=config)
    assert set(run.failed) == {"P003", "P004"}
    assert run.failed["P004"].startswith("P004: each of 2 workers in turn was lost with this case, the last one died")
    there, here = contents(tmp_path / "alone"), contents(output)
    same = [name for name in there if not name.startswith(("P004", "predictions.csv"))]
    assert {name: here[name] for name in same} == {name: there[name] for name in same}
    for one, other in zip(here["predictions.csv"].splitlines(), there["predictions.csv"].splitlines(), strict=True):
        assert one == other or one.startswith(b"P004,")


def test_two_runs_at_once_on_one_folder_do_each_other_no_harm(bundle, cohort, tmp_path):
    run_inference(load_predictor(bundle, CPU), cohort, tmp_path / "alone")
    runs = {}

    def one(name):
        runs[name] = run_inference(load_predictor(bundle, CPU), cohort, tmp_path / "both", recompute=True)

    for _ in range(3):
        threads = [threading.Thread(target=one, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [set(runs[name].failed) for name in "ab"] == [{"P003"}, {"P003"}]
        assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_a_scheduler_that_does_not_answer_is_named(bundle, cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_crew, "CONNECT_S", 0.3)
    predictor = load_predictor(bundle, CPU)
    config = ClusterConfig(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at cluster\.scheduler=tcp://127\.0\.0\.1:9"):
        run_on_cluster(predictor, cohort, tmp_path / "out", work=work_of(predictor, bundle, tmp_path), config=config)


def test_a_worker_with_another_bundle_or_version_or_disk_is_refused(bundle, tmp_path):
    predictor = load_predictor(bundle, CPU)
    work = work_of(predictor, bundle, tmp_path)
    for other, sentence in (
        (replace(work, digest="0" * 64), "is another bundle on the worker"),
        (replace(work, version="0.0.1"), r"the worker has HypoxNet .*, the run 0\.0\.1"),
        (replace(work, output=tmp_path / "none"), "the worker does not see the output"),
    ):
        with pytest.raises(ValueError, match=sentence):
            other.begin()
