"""Covariates alone, end to end: fit, bundle, predict from a table without images."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hypoxnet.bundle.checklists import read_checklist
from hypoxnet.bundle.read import read_bundle
from hypoxnet.data.config import DataConfig, SplitConfig
from hypoxnet.errors import ConfigError, ManifestError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.jobs.config import InferJobConfig, TrainJobConfig
from hypoxnet.jobs.infer import run_inference_job
from hypoxnet.jobs.train import run_training_job
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.report.page import CONTRIBUTIONS
from hypoxnet.survival.time_models.settings import KINDS

ROOT = Path(__file__).parents[2]
QUICK = ModelConfig(backbone="none", options={"strengths": [3.0, 30.0], "inner_folds": 2, "inner_repeats": 1})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Eighty patients as a clinic would write them."""
    path = tmp_path_factory.mktemp("cohort") / "cohort.csv"
    generator = np.random.default_rng(3)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "case_id",
                "site",
                "age",
                "sex",
                "hpv",
                "T",
                "volume_ml",
                "subsite",
                "lrc_months",
                "lrc_event",
                "trial_arm",
            ]
        )
        for number in range(80):
            volume = float(np.exp(generator.normal(3.0, 0.8)))
            failure = generator.exponential(1500.0 / volume)
            end, death = generator.uniform(12, 70), generator.exponential(120.0)
            months = min(failure, end, death)
            event = 0 if months == end else 1 if months == failure else 2
            hpv = generator.choice(["positive", "negative", ""])
            stage, subsite = f"T{generator.integers(1, 5)}", generator.choice(["oropharynx", "larynx"])
            row = [f"P{number:02d}", "ab"[number % 2], round(generator.normal(62, 9)), "mf"[number % 2], hpv, stage]
            arm = ("control", "experimental")[number // 2 % 2]
            writer.writerow([*row, round(volume, 2), subsite, round(months, 2), event, arm])
    return path


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    config = TrainJobConfig(output=str(folder), bootstrap=20, data=DataConfig(manifest=str(cohort)), model=QUICK)
    assert run_training_job(config) == 0
    return folder


def test_arms_are_no_input_and_what_cannot_be_asked_of_them_is_said(run):
    assert "arm" not in read_bundle(run / "bundle")[0].settings.covariates
    outcome = json.loads((run / "metrics.json").read_text())["outcome"]
    assert outcome["interaction"]["arm"] == "arm"
    assert outcome["interaction"]["reason"].startswith("fewer than six withheld patients have it and a hypoxic share")
    assert outcome["beyond_clinical"]["given"] == ["gtv_ml", "t_stage", "age"]
    assert "No interaction of arm and hypoxia" in (run / "report.html").read_text()


def test_baselines_tell_what_they_owe_to_their_own_patients(run):
    (part,) = json.loads((run / "metrics.json").read_text())["baselines"]
    assert set(part["on_training"]) == {"volume", "clinical"}
    clinical = part["on_training"]["clinical"]
    assert clinical["optimism"] > 0
    assert clinical["patients"] == 60


def infer(run, manifest, output):
    return run_inference_job(
        InferJobConfig(
            bundle=str(run / "bundle"), manifest=str(manifest), output=str(output), inference=InferenceConfig()
        )
    )


def test_a_run_leaves_what_every_run_leaves_but_images(run):
    for name in ("bundle", "metrics.json", "predictions.csv", "report.html", "config.yaml", "manifest.csv", "run.log"):
        assert (run / name).exists(), name
    assert list(run.rglob("*.nii.gz")) == []
    metrics = json.loads((run / "metrics.json").read_text())
    assert "segmentation" not in metrics
    assert 0.5 < metrics["outcome"]["c_index"]["value"] <= 1.0
    assert metrics["outcome"]["volume_c_index"]["value"] is not None
    report = (run / "report.html").read_text()
    assert "Dice" not in report
    assert "no threshold" not in report


def test_nothing_that_a_run_leaves_speaks_of_images_it_never_read(run):
    with (run / "predictions.csv").open() as stream:
        assert not [name for name in csv.DictReader(stream).fieldnames or [] if "dice" in name]
    about_images = r"window|voxel|contour|drew|scanner|tracer|annotat|epoch|software, and|knew the images|spacing"
    rows = [line.split(" | ") for line in (run / "checklists.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 90
    said = [(row[0], row[-1]) for row in rows if re.search(about_images, row[-1])]
    assert said == []
    report = re.sub(r"<style>.*?</style>|data:image[^\"]*", "", (run / "report.html").read_text(), flags=re.DOTALL)
    answers = re.findall(r"<td>([^<]*)</td><td>[^<]*</td><td>[^<]*</td><td>", report)
    assert len(answers) > 90
    for word in ("window", "voxel", "hypoxic volume", "spacing_mm", "maps.", "deep_supervision"):
        assert word not in report, word
    card = (run / "bundle" / "docs" / "README.md").read_text()
    assert read_checklist("claim").without_images().describe() in card


def test_a_model_of_time_says_what_a_contribution_is_a_part_of(cohort, tmp_path):
    assert set(CONTRIBUTIONS) == set(KINDS)
    config = TrainJobConfig(
        output=str(tmp_path / "run"),
        bootstrap=5,
        data=DataConfig(manifest=str(cohort), covariates=["age", "gtv_ml"]),
        model=replace(QUICK, options={"strengths": [10.0]}),
        outcome=OutcomeConfig(kind="deephit"),
    )
    assert run_training_job(config) == 0
    page = (tmp_path / "run/report.html").read_text()
    assert f"A contribution is what a covariate adds to {CONTRIBUTIONS['deephit']}, against a patient" in page
    log = (tmp_path / "run/run.log").read_text()
    assert "ridge 10 for locoregional failure, 10 for death without locoregional failure; " in log


def test_the_bundle_says_how_covariates_are_read(run):
    spec, (weights,) = read_bundle(run / "bundle")
    assert spec.settings.covariates == ("age", "sex", "hpv", "t_stage", "gtv_ml", "subsite")
    assert (spec.settings.channels, spec.settings.regions, spec.model.backbone.backbone) == ((), (), "none")
    assert sum(tensor.numel() for tensor in weights.values()) < 3000
    card = (run / "bundle" / "docs" / "README.md").read_text()
    assert "covariates alone, without images" in card
    metadata = json.loads((run / "bundle" / "configs" / "metadata.json").read_text())
    assert set(metadata["network_data_format"]["outputs"]) == {"incidence"}
    assert "gtv_ml: gross tumour volume" in str(metadata["network_data_format"]["inputs"]["covariates"]["channel_def"])


def test_predicting_from_the_table_repeats_the_figures_of_training(run, tmp_path):
    assert infer(run, run / "manifest.csv", tmp_path / "out") == 0
    with (run / "predictions.csv").open() as stream:
        trained = {row["key"]: float(row["risk"]) for row in csv.DictReader(stream)}
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        inferred = {row["case_id"]: float(row["risk"]) for row in csv.DictReader(stream)}
    assert set(trained) == set(inferred)
    assert [inferred[key] for key in trained] == pytest.approx(list(trained.values()), abs=2e-6)
    assert list((tmp_path / "out").rglob("*.nii.gz")) == []


def test_a_case_tells_what_adds_to_its_risk_and_what_was_missing(run, tmp_path):
    table = tmp_path / "new.csv"
    table.write_text("case_id,age,gtv_ml,hpv\nMEAN,,,\nLARGE,,160,\nOLD,99,,Negative\n")
    assert infer(run, table, tmp_path / "out") == 0
    said = {key: json.loads((tmp_path / "out" / key / f"{key}.json").read_text()) for key in ("MEAN", "LARGE", "OLD")}
    assert said["MEAN"]["covariates"]["missing"] == ["age", "sex", "hpv", "t_stage", "gtv_ml", "subsite"]
    failure = "locoregional failure"
    added = said["LARGE"]["risk"]["contributions"][failure]
    assert added["gtv_ml"] > 0.2
    # The others are drawn independently of the volume: little is to be expected of them from it.
    assert all(abs(value) < 0.15 for name, value in added.items() if name != "gtv_ml")
    assert all(abs(value) < 0.1 for value in said["MEAN"]["risk"]["contributions"][failure].values())
    low, high = said["LARGE"]["risk"]["interval"]["at_horizon"][failure]
    assert low < said["LARGE"]["risk"]["at_horizon"][failure] < high
    risks = {key: content["risk"]["at_horizon"][failure] for key, content in said.items()}
    assert risks["LARGE"] > risks["MEAN"]
    months, incidence = said["MEAN"]["risk"]["months"], said["MEAN"]["risk"]["incidence"][failure]
    assert incidence[months.index(24.0)] == pytest.approx(risks["MEAN"], abs=2e-6)
    assert any(note.startswith("age is 99 years, the training patients had") for note in said["OLD"]["notes"])
    assert any("hpv" not in note and note.startswith("not known") for note in said["OLD"]["notes"])


def test_finished_cases_are_kept_and_a_changed_one_is_predicted_again(run, tmp_path):
    table = tmp_path / "new.csv"
    table.write_text("case_id,age\nA,60\nB,70\n")
    assert infer(run, table, tmp_path / "out") == 0
    before = {key: (tmp_path / "out" / key / f"{key}.json").stat().st_mtime_ns for key in "AB"}
    table.write_text("case_id,age\nA,60\nB,71\n")
    assert infer(run, table, tmp_path / "out") == 0
    after = {key: (tmp_path / "out" / key / f"{key}.json").stat().st_mtime_ns for key in "AB"}
    assert (before["A"] == after["A"], before["B"] == after["B"]) == (True, False)


def test_a_column_that_is_not_known_is_refused(run, tmp_path):
    table = tmp_path / "new.csv"
    table.write_text("case_id,age,shoe_size\nA,60,43\n")
    with pytest.raises(ManifestError, match="shoe_size is not a known column"):
        infer(run, table, tmp_path / "out")


def test_cross_validation_withholds_everybody_and_averages_the_folds(cohort, tmp_path):
    config = TrainJobConfig(
        output=str(tmp_path / "run"),
        bootstrap=20,
        data=DataConfig(manifest=str(cohort)),
        split=SplitConfig(kind="crossval", folds=3),
        model=QUICK,
    )
    assert run_training_job(config) == 0
    spec, members = read_bundle(tmp_path / "run" / "bundle")
    assert (spec.members, len(members)) == (3, 3)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["counts"]["patients"] == 80
    assert run_training_job(config) == 0  # a finished run only writes its report again
    table = tmp_path / "new.csv"
    table.write_text("case_id,age\nA,60\n")
    assert infer(tmp_path / "run", table, tmp_path / "out") == 0


def test_the_volume_is_measured_where_only_the_contour_is_given(make_case, tmp_path):
    records = [make_case(f"P{i:02d}", seed=i) for i in range(16)]
    table = tmp_path / "cohort.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "GTVP", "age", "lrc_months", "lrc_event"])
        for i, record in enumerate(records):
            writer.writerow([record.case_id, record.masks["GTVP"] if i % 4 else "", 50 + i, 10 + i, i % 2])
    data = DataConfig(manifest=str(table), cache=str(tmp_path / "cache"), covariates=["age", "gtv_ml"])
    config = TrainJobConfig(output=str(tmp_path / "run"), bootstrap=5, data=data, model=QUICK)
    # Every contour is the same ball: the volume teaches nothing, which is said.
    assert run_training_job(config) == 0
    log = (tmp_path / "run" / "run.log").read_text()
    assert "gtv_ml was measured of images and contours in 12 of 16 cases" in log
    assert "gtv_ml is left out: it is" in log


def test_the_command_line_trains_on_covariates_alone(cohort, tmp_path):
    command = [sys.executable, "train.py", "model=covariates", f"data.manifest={cohort}", f"output={tmp_path / 'run'}"]
    command += ["bootstrap=5", "model.options.inner_folds=2", "model.options.inner_repeats=1"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "covariates: age, sex, hpv, t_stage, gtv_ml, subsite" in done.stdout


def test_a_network_still_asks_for_images(cohort, tmp_path):
    config = TrainJobConfig(output=str(tmp_path / "run"), data=DataConfig(manifest=str(cohort)))
    with pytest.raises(ValueError, match=r"no training case has a channel.*model=covariates"):
        run_training_job(replace(config))


@pytest.mark.parametrize(
    ("header", "cells", "sentence"),
    [
        ("", "", "none of the 30 rows for training has an outcome"),
        (",lrc_months,lrc_event", ",{month},0", "none of the 30 training patients with a known outcome failed"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_before_anything_is_written(header, cells, sentence, tmp_path):
    table = tmp_path / "cohort.csv"
    rows = [f"P{n},{40 + n}{cells.format(month=5 + n)}" for n in range(30)]
    table.write_text("\n".join([f"case_id,age{header}", *rows]) + "\n")
    config = TrainJobConfig(
        output=str(tmp_path / "run"),
        data=DataConfig(manifest=str(table)),
        model=QUICK,
        split=SplitConfig(kind="crossval", folds=3),
    )
    with pytest.raises(ConfigError, match=sentence):
        run_training_job(config)
    assert not (tmp_path / "run").exists()


def test_another_end_point_is_named_in_bundle_predictions_and_report(cohort, tmp_path):
    text = cohort.read_text().replace("lrc_months", "dm_months").replace("lrc_event", "dm_event")
    table = tmp_path / "cohort.csv"
    table.write_text(text)
    config = TrainJobConfig(
        output=str(tmp_path / "run"), bootstrap=20, data=DataConfig(manifest=str(table), endpoint="dm"), model=QUICK
    )
    assert run_training_job(config) == 0
    assert read_bundle(tmp_path / "run" / "bundle")[0].causes[0] == "distant metastasis"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["outcome"]["c_index"]["value"] > 0.5
    assert "hazard of distant metastasis" in (tmp_path / "run" / "report.html").read_text()
    new = tmp_path / "new.csv"
    new.write_text("case_id,age,gtv_ml\nA,60,20\n")
    assert infer(tmp_path / "run", new, tmp_path / "out") == 0
    risk = json.loads((tmp_path / "out" / "A" / "A.json").read_text())["risk"]
    assert list(risk["at_horizon"]) == ["distant metastasis", "death without distant metastasis"]
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        assert float(next(csv.DictReader(stream))["risk"]) > 0
