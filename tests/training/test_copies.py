"""Copies of a job on two machines, acted by two torchrun agents over gloo."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from hypoxnet.errors import ConfigError
from hypoxnet.training.config import TrainingConfig
from hypoxnet.training.copies import Copies, joined
from hypoxnet.training.run import refuse_machine

ROOT = Path(__file__).parents[2]


def test_one_process_alone_is_told_what_it_says(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined(TrainingConfig(), output="") as copies:
        assert copies == Copies(rank=0, count=1, group=None)
        assert copies.told([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    ("environment", "output", "devices", "sentence"),
    [
        ({}, "", "auto", "need one run folder: say output=FOLDER"),
        ({}, "run", "4", "devices is 4, torchrun has started 2 copies here; leave training.devices out"),
        ({"WORLD_SIZE": "5"}, "run", "auto", "2 copies here and 5 in all; give --nproc-per-node the same number"),
    ],
)
def test_copies_that_could_not_train_together_are_refused(monkeypatch, environment, output, devices, sentence):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "a",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": "0",
        **environment,
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence), joined(TrainingConfig(devices=devices), output=output):
        pass


def test_copies_of_another_launcher_are_told_of_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(ConfigError, match="for several machines start it with torchrun"):
        refuse_machine(TrainingConfig())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    refuse_machine(TrainingConfig())


class TwoMachines:
    """Two torchrun agents with a process each, which run the same command."""

    def __init__(self, folder, settings):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
        command += [str(ROOT / "train.py"), *settings, f"output={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.agents = [
            subprocess.Popen(command, cwd=folder.parent, env=environment, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]

    def end(self, timeout_s=600):
        said = [agent.communicate(timeout=timeout_s)[1] for agent in self.agents]
        return [agent.returncode for agent in self.agents], "\n".join(said)

    def kill_the_process_of(self, number):
        (worker,) = [
            child
            for child in psutil.Process(self.agents[number].pid).children()
            if any(word.endswith("train.py") for word in child.cmdline())
        ]
        os.kill(worker.pid, signal.SIGKILL)


@pytest.fixture
def settings(phantom_folder, tmp_path):
    return [
        "name=tiny",
        "bootstrap=20",
        f"data.manifest={phantom_folder}/manifest.csv",
        f"data.cache={tmp_path}/cache",
        "data.window=[16,16,16]",
        "data.spacing_mm=[4.0,4.0,4.0]",
        "split.test_fraction=0.34",
        "model.features=[8,12]",
        "model.blocks=[1,1]",
        "model.deep_supervision=1",
        "model.fold=2",
        "outcome.hidden=4",
        "training.epochs=6",
        "training.steps_per_epoch=4",
        "training.batch_size=1",
        "training.accelerator=cpu",
    ]


def epochs_done(folder):
    path = folder / "training" / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


@pytest.mark.slow
def test_a_training_on_two_machines_of_which_one_dies_is_resumed_to_the_same_weights(settings, tmp_path):
    status, said = TwoMachines(tmp_path / "whole", settings).end()
    assert status == [0, 0], said
    killed = tmp_path / "killed"
    machines = TwoMachines(killed, settings)
    deadline = time.monotonic() + 600
    while epochs_done(killed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    machines.kill_the_process_of(1)
    assert all(code != 0 for code in machines.end()[0])
    assert 2 <= epochs_done(killed) < 6
    assert not (killed / "bundle").exists()
    status, said = TwoMachines(killed, settings).end()
    assert status == [0, 0], said
    said = (killed / "run.log").read_text()
    assert "2 copies of this job train together" in said
    assert "going on from" in said
    one, other = (
        load_file(tmp_path / name / "bundle" / "models" / "model_0.safetensors") for name in ("whole", "killed")
    )
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert weight.equal(other[name]), name
