import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hypoxnet.data.config import DataConfig
from hypoxnet.data.plan import plan_settings
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.training.config import TrackingConfig, TrainingConfig
from hypoxnet.training.module import learning_rate_share
from hypoxnet.training.run import _precision, fit, model_spec
from hypoxnet.transforms.config import LabelConfig


def test_training_lowers_the_loss_and_its_weights_fit_the_spec(phantom_records, tiny_training, tmp_path):
    setup = tiny_training(epochs=8, cache=tmp_path)
    split = Split(phantom_records, (), ())
    settings = plan_settings(split.train, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    fitted = fit(split, settings, setup, tmp_path / "run", name="t")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    losses = [float(dict(zip(lines[0].split(","), line.split(","), strict=True))["train/total"]) for line in lines[1:]]
    assert len(losses) == 8
    assert min(losses[-3:]) < losses[0]
    build_model(fitted.spec).load_state_dict(fitted.weights)
    assert fitted.steps == 8 * (len(phantom_records) // 2)


def test_patients_with_half_of_the_truth_train_the_other_half(phantom_records, tiny_training, tmp_path):
    """No contour for some, no outcome for others, a channel missing here and there."""
    records = [
        replace(r, outcome=None) if n % 2 else replace(r, masks={k: m for k, m in r.masks.items() if k == "GTVP"})
        for n, r in enumerate(phantom_records)
    ]
    records[0] = replace(records[0], channels={"FMISO_SUV": records[0].channels["FMISO_SUV"]})
    setup = tiny_training(epochs=1, cache=tmp_path)
    settings = plan_settings(records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    fitted = fit(Split(tuple(records), (), ()), settings, setup, tmp_path / "run", name="t")
    assert all(torch.isfinite(weight).all() for weight in fitted.weights.values())


def test_the_clock_ends_a_run_that_is_bounded_by_it(phantom_records, tiny_training, tmp_path):
    setup = tiny_training(epochs=100_000, cache=tmp_path)
    setup = replace(setup, training=replace(setup.training, max_minutes=0.05))
    settings = plan_settings(phantom_records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    fitted = fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
    assert fitted.seconds < 60
    assert fitted.steps > 0


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_the_learning_rate_rises_then_falls_to_its_floor(schedule):
    shares = [learning_rate_share(p / 100, schedule=schedule, warmup=0.1) for p in range(101)]
    peak = shares.index(max(shares))
    assert 9 <= peak <= 11
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert shares[-1] == 0.01


def test_bf16_is_chosen_on_cuda_and_nowhere_else(monkeypatch):
    assert _precision(TrainingConfig(accelerator="cpu")) == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _precision(TrainingConfig()) == "bf16-mixed"
    assert _precision(TrainingConfig(accelerator="cpu")) == "32-true"
    assert _precision(TrainingConfig(precision="32-true")) == "32-true"


def test_the_path_of_a_gpu_runs_in_bf16_on_the_cpu(phantom_records, tiny_training, tmp_path):
    """Autocast, augmentation outside of it, losses in float32: the same code, on this device."""
    setup = tiny_training(epochs=1, cache=tmp_path)
    setup = replace(setup, training=replace(setup.training, precision="bf16-mixed", channels_last=True))
    settings = plan_settings(phantom_records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    fitted = fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
    assert {weight.dtype for weight in fitted.weights.values() if weight.is_floating_point()} == {torch.float32}
    assert all(torch.isfinite(weight).all() for weight in fitted.weights.values())


def test_the_spec_follows_the_settings(phantom_records, tiny_training, tmp_path):
    setup = tiny_training(epochs=1, cache=tmp_path)
    settings = plan_settings(phantom_records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    spec = model_spec(settings, setup)
    assert (spec.channels, spec.regions, spec.covariates) == (4, 1, len(settings.covariate_columns))


def test_planning_names_what_the_cohort_lacks(phantom_records):
    plan = {"edges_months": [12.0]}
    with pytest.raises(ConfigError, match=r"data\.channels names ADC, no training case has it \(they have FMISO_SUV"):
        plan_settings(phantom_records, DataConfig(channels=["ADC"]), LabelConfig(), **plan)
    with pytest.raises(ConfigError, match=r"label\.regions\.n needs the mask AIR, the training cases have"):
        plan_settings(phantom_records, DataConfig(), LabelConfig(regions={"n": ["AIR"]}), **plan)
    label = LabelConfig(kind="threshold", channel="FMISO_SUV", reference_mask="MUSCLE")
    with pytest.raises(ConfigError, match="the label is a threshold of FMISO_SUV, and FMISO_SUV is an input"):
        plan_settings(phantom_records, DataConfig(), label, **plan)
    with pytest.raises(ConfigError, match="names overall_time_days, no training case has it"):
        plan_settings(phantom_records, DataConfig(covariates=["overall_time_days"]), LabelConfig(), **plan)


def test_wandb_online_without_a_key_is_refused_instead_of_asking(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from hypoxnet.training.tracking import build_logger

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(ConfigError, match="needs a key in WANDB_API_KEY"):
        build_logger(TrackingConfig(kind="wandb", offline=False), tmp_path, name="t", settings={})


def test_wandb_offline_asks_nothing_and_knows_no_patient(phantom_records, tmp_path):
    """In a process without a terminal, an account or a network."""
    pytest.importorskip("wandb")
    code = (
        "import sys, pathlib; from hypoxnet.config.launch import launch;"
        "sys.argv = ['train.py', *sys.argv[1:]];"
        "import runpy; runpy.run_path('train.py', run_name='__main__')"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    overrides = ["experiment=smoke", "tracking=wandb", "training.epochs=1", "bootstrap=10", f"data.cache={tmp_path}/c"]
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides, f"output={tmp_path}/run"],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = list((tmp_path / "run" / "training" / "tracking").rglob("*.wandb"))
    assert written
    names = [record.case_id.encode() for record in phantom_records]
    for path in (tmp_path / "run" / "training" / "tracking").rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert not [name for name in names if name in content], path
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["counts"]["cases"] == 3


def test_two_processes_train_together(phantom_records, tiny_training, tmp_path):
    """DDP on two CPU processes: the path that several GPUs take."""
    setup = tiny_training(epochs=2, cache=tmp_path)
    setup = replace(setup, training=replace(setup.training, devices="2", batch_size=1))
    settings = plan_settings(phantom_records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    fitted = fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
    assert fitted.steps > 0
    assert all(torch.isfinite(weight).all() for weight in fitted.weights.values())
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
