"""Every validation design through the training job, on a model of covariates, which takes no image."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hypoxnet.data.config import DataConfig, SplitConfig
from hypoxnet.data.manifest import read_manifest
from hypoxnet.errors import ConfigError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.jobs.config import TrainJobConfig
from hypoxnet.jobs.train import run_training_job
from hypoxnet.models.config import NO_BACKBONE, ModelConfig, OutcomeConfig
from hypoxnet.training.config import TrainingConfig
from hypoxnet.training.covariates import fit_covariates


def write_cohort(path, patients, *, seed=0, prefix="P", leak=None):
    """Covariates and outcomes of patients of three sites, treated 2010 to 2017."""
    generator = np.random.default_rng(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "site", "treated", "lrc_months", "lrc_event", "age", "hb_g_dl"])
        for number in range(patients):
            months, event = round(float(generator.exponential(30)) + 1, 1), int(generator.choice(3, p=[0.4, 0.4, 0.2]))
            drawn = {"age": float(generator.uniform(40, 80)), "hb_g_dl": float(generator.uniform(9, 16))}
            drawn |= {name: make(number, event) for name, make in (leak or {}).items()}
            site, year = ["north", "south", "coast"][number % 3], 2010 + number % 8
            writer.writerow([f"{prefix}{number}", site, year, months, event, *(f"{v:.1f}" for v in drawn.values())])
    return path


@pytest.fixture(scope="module")
def one_model():
    """What training returns, kept: who is withheld is looked at here, not what is learnt."""
    kept = []

    def train(split, settings, setup):
        kept.append(kept[0] if kept else fit_covariates(split, settings, setup))
        return kept[-1]

    return train


@pytest.fixture
def run(tmp_path, monkeypatch, one_model):
    monkeypatch.setattr("hypoxnet.jobs.part.fit_covariates", one_model)

    def make(split, manifest=None, **extra):
        manifest = manifest or write_cohort(tmp_path / "cohort.csv", 48, **extra)
        config = TrainJobConfig(
            name="design",
            output=str(tmp_path / "run"),
            bootstrap=10,
            data=DataConfig(manifest=str(manifest), cache=str(tmp_path / "cache")),
            split=split,
            model=ModelConfig(backbone=NO_BACKBONE),
            outcome=OutcomeConfig(hidden=4),
            training=TrainingConfig(epochs=2, steps_per_epoch=0, accelerator="cpu"),
            inference=InferenceConfig(device="cpu"),
        )
        assert run_training_job(config) == 0
        folder = Path(config.output)
        predicted = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
        return json.loads((folder / "metrics.json").read_text()), predicted, folder

    return make


def test_each_site_is_withheld_and_named(run):
    metrics, predicted, folder = run(SplitConfig(kind="leave_site_out"))
    assert [part["name"] for part in metrics["validation"]["parts"]] == ["site coast", "site north", "site south"]
    assert {row["site"]: row["fold"] for row in predicted} == {"coast": "0", "north": "1", "south": "2"}
    assert "site coast: 32 cases train, 16 are withheld" in (folder / "run.log").read_text()


def test_a_repeated_design_predicts_each_patient_once_and_shows_every_repeat(run):
    metrics, predicted, folder = run(SplitConfig(kind="repeated", folds=2, repeats=3))
    assert len(predicted) == 48 == metrics["counts"]["patients"] == metrics["counts"]["cases"]
    assert metrics["counts"]["trainings"] == 6
    assert len(metrics["validation"]["repeats"]["c_index"]) == 3
    assert len(read_manifest(folder / "manifest.csv")) == 48


def test_a_date_withholds_the_later_patients(run):
    metrics, predicted, _ = run(SplitConfig(kind="temporal", test_from="2016"))
    assert {row["key"] for row in predicted} == {f"P{n}" for n in range(48) if n % 8 >= 6}
    assert metrics["validation"]["kind"] == "temporal"


def test_another_cohort_is_predicted_by_a_model_of_all_of_this_one(run, tmp_path):
    other = write_cohort(tmp_path / "other.csv", 12, seed=1, prefix="Q")
    metrics, predicted, _ = run(SplitConfig(kind="external", test_manifest=str(other)))
    assert {row["key"] for row in predicted} == {f"Q{n}" for n in range(12)}
    assert metrics["counts"]["training_patients"] == 48


def test_a_leak_stops_the_run_before_its_folder_exists_and_is_noted_when_allowed(run, tmp_path):
    leak = {"age": lambda number, event: 40 + 20 * (event == 1) + number % 7}
    with pytest.raises(ConfigError, match=r"label_input: the covariate age tells .*area under the curve of 1\.000"):
        run(SplitConfig(), leak=leak)
    assert not (tmp_path / "run").exists()
    metrics, _, _ = run(SplitConfig(allow_leakage=["label_input"]), leak=leak)
    assert "covariate age" in metrics["validation"]["notes"][0]
    assert metrics["validation"]["allowed_leakage"] == ["label_input"]
