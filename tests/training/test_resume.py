"""An interrupted training ends with the same weights as one that was not, bit for bit on the CPU."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CODE = """
import pickle, sys
from pathlib import Path
from safetensors.torch import save_file
from hypoxnet.training.run import fit
split, settings, setup = pickle.loads(Path(sys.argv[1]).read_bytes())
fitted = fit(split, settings, setup, Path(sys.argv[2]), name="resume")
save_file(fitted.weights, Path(sys.argv[2]) / "weights.safetensors")
"""


@pytest.fixture
def plan(phantom_records, tiny_training, tmp_path):
    """What `fit` needs, pickled, so that it can run in a process that is killed."""
    import pickle

    from hypoxnet.data.plan import plan_settings
    from hypoxnet.data.splits import Split
    from hypoxnet.losses.config import LossConfig
    from hypoxnet.transforms.config import LabelConfig

    setup = tiny_training(epochs=6, cache=tmp_path / "cache")
    # The choices with most to remember: patients outside the batch, and learnt weights of the tasks.
    setup = replace(setup, outcome=replace(setup.outcome, kind="cox"), loss=LossConfig(balance="uncertainty"))
    split = Split(phantom_records[:5], phantom_records[5:6], ())
    settings = plan_settings(split.train, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    path = tmp_path / "plan"
    path.write_bytes(pickle.dumps((split, settings, setup)))
    return path


def start(plan, folder):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.Popen([sys.executable, "-c", CODE, str(plan), str(folder)], cwd=ROOT, env=environment)


def epochs_done(folder):
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_a_training_killed_twice_ends_with_the_same_weights_and_curve(plan, tmp_path):
    assert start(plan, tmp_path / "whole").wait(timeout=300) == 0
    killed = tmp_path / "killed"
    for epochs in (2, 4):
        process = start(plan, killed)
        deadline = time.monotonic() + 300
        while epochs_done(killed) < epochs and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert epochs_done(killed) >= epochs
        assert not (killed / "weights.safetensors").exists()
    assert start(plan, killed).wait(timeout=300) == 0
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert weight.equal(other[name]), name
    curves = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in csv.DictReader(io.StringIO((tmp_path / name / "metrics.csv").read_text()))
        ]
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
