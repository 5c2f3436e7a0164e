"""The whole path on six phantoms, and what interrupts it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest

from hypoxnet.cli import main
from hypoxnet.data.config import DataConfig, SplitConfig
from hypoxnet.data.manifest import read_manifest
from hypoxnet.errors import ConfigError, ManifestError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.jobs.config import InferJobConfig, TrainJobConfig
from hypoxnet.jobs.infer import run_inference_job
from hypoxnet.jobs.train import run_training_job
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.training.config import TrainingConfig
from hypoxnet.transforms.config import LabelConfig

ROOT = Path(__file__).parents[2]
LEFT = (
    "report.html",
    "metrics.json",
    "predictions.csv",
    "config.yaml",
    "provenance.json",
    "run.log",
    "manifest.csv",
    "training/metrics.csv",
    "bundle/checksums.json",
    "bundle/configs/hypoxnet.json",
    "bundle/models/model_0.safetensors",
)


@pytest.fixture
def config(phantom_folder, tmp_path):
    return TrainJobConfig(
        name="tiny",
        output=str(tmp_path / "run"),
        bootstrap=20,
        data=DataConfig(
            manifest=str(phantom_folder / "manifest.csv"),
            cache=str(tmp_path / "cache"),
            window=[16, 16, 16],
            spacing_mm=[4.0, 4.0, 4.0],
        ),
        label=LabelConfig(),
        split=SplitConfig(test_fraction=0.34),
        model=ModelConfig(features=[8, 12], blocks=[1, 1], deep_supervision=1, fold=2),
        outcome=OutcomeConfig(hidden=4),
        training=TrainingConfig(epochs=2, steps_per_epoch=0, accelerator="cpu"),
        inference=InferenceConfig(device="cpu"),
    )


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_what_users_hold_on_to_and_its_bundle_predicts(config, tmp_path):
    assert run_training_job(config) == 0
    run = Path(config.output)
    left = files(run)
    for name in LEFT:
        assert name in left, name
    assert "steps, the default is 4,500: too few to judge the model by its figures" in (run / "run.log").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["counts"]["cases"] == 2
    assert metrics["counts"]["training_patients"] == 4
    for room, figure in (("segmentation", "dice"), ("segmentation", "threshold_dice"), ("outcome", "c_index")):
        assert set(metrics[room][figure]) >= {"value", "low", "high"}
    withheld = {record.case_id for record in read_manifest(run / "manifest.csv", check_files=True)}
    with (run / "predictions.csv").open(newline="") as stream:
        assert {row["case_id"] for row in csv.DictReader(stream)} == withheld
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    infer = InferJobConfig(
        bundle=str(run / "bundle"),
        manifest=str(run / "manifest.csv"),
        output=str(tmp_path / "out"),
        inference=InferenceConfig(device="cpu"),
    )
    assert run_inference_job(infer) == 0
    for key in withheld:
        again = nib.load(tmp_path / "out" / key / f"{key}_hsv_mask.nii.gz")
        assert (again.get_fdata() == nib.load(run / "cases" / key / f"{key}_hsv_mask.nii.gz").get_fdata()).all()


def test_the_bundle_of_a_run_says_what_it_was_trained_on_and_reached(config):
    run_training_job(config)
    spec = load_predictor(Path(config.output) / "bundle", InferenceConfig(device="cpu")).spec
    metrics = json.loads((Path(config.output) / "metrics.json").read_text())
    assert spec.metrics["segmentation"]["dice"] == metrics["segmentation"]["dice"]
    assert spec.cohort["patients"] == 4
    # Every covariate that enough of the patients have and that varies among them, in the order of the table.
    assert spec.settings.covariates[:2] == ("age", "hpv")


def test_a_finished_run_only_writes_its_report_again(config):
    run_training_job(config)
    run = Path(config.output)
    before = {
        name: (run / name).stat().st_mtime_ns for name in files(run) - {"report.html", "checklists.md", "run.log"}
    }
    (run / "report.html").unlink()
    assert run_training_job(config) == 0
    assert (run / "report.html").is_file()
    assert {name: (run / name).stat().st_mtime_ns for name in before} == before


def test_cross_validation_withholds_every_patient_once_and_hands_on_an_ensemble(config):
    config.split = SplitConfig(kind="crossval", folds=3)
    config.training = replace(config.training, epochs=1)
    assert run_training_job(config) == 0
    run = Path(config.output)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["counts"]["cases"] == metrics["counts"]["patients"] == 6
    assert metrics["counts"]["trainings"] == len(metrics["baselines"]) == 3
    assert load_predictor(run / "bundle", InferenceConfig(device="cpu")).spec.members == 3
    keys = [{path.name for path in (run / f"fold_{fold}" / "cases").iterdir() if path.is_dir()} for fold in range(3)]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 6


def test_a_yes_no_outcome_and_a_tumour_label_run_to_the_end(config, phantom_folder, tmp_path):
    records = read_manifest(phantom_folder / "manifest.csv")
    lines = ["case_id,FMISO_SUV,T1W,GTVP,failed"]
    for record in records:
        t1w = record.channels.get("T1W", "")
        failed = int(record.outcome.event == 1)
        lines.append(f"{record.case_id},{record.channels['FMISO_SUV']},{t1w},{record.masks['GTVP']},{failed}")
    (tmp_path / "plain.csv").write_text("\n".join(lines))
    config.data = replace(config.data, manifest=str(tmp_path / "plain.csv"))
    config.label = LabelConfig(regions={"gtv": ["GTVP"]}, inside_tumour=False)
    config.outcome = OutcomeConfig(hidden=4, pool="prediction")
    assert run_training_job(config) == 0
    metrics = json.loads((Path(config.output) / "metrics.json").read_text())
    assert metrics["segmentation"]["suvmax41_dice"]["value"] is not None
    assert metrics["segmentation"]["hf_error"]["value"] is None
    assert metrics["outcome"]["horizon_months"] is None
    assert "uno_c" not in metrics["outcome"]


def test_a_cohort_without_outcome_trains_the_segmentation_alone(config, phantom_folder, tmp_path):
    records = read_manifest(phantom_folder / "manifest.csv")
    lines = ["case_id,FMISO_SUV,GTVP,HYPOXIA"]
    lines += [f"{r.case_id},{r.channels['FMISO_SUV']},{r.masks['GTVP']},{r.masks['HYPOXIA']}" for r in records]
    (tmp_path / "bare.csv").write_text("\n".join(lines))
    config.data = replace(config.data, manifest=str(tmp_path / "bare.csv"))
    assert run_training_job(config) == 0
    metrics = json.loads((Path(config.output) / "metrics.json").read_text())
    assert "outcome" not in metrics
    assert "baselines" in metrics


def test_a_damaged_case_is_left_out_named_and_the_others_are_done(config, phantom_folder, tmp_path):
    """One in training, one among the withheld."""
    import shutil

    folder = tmp_path / "cohort"
    shutil.copytree(phantom_folder, folder)
    config.data = replace(config.data, manifest=str(folder / "manifest.csv"))
    records = read_manifest(folder / "manifest.csv")
    from hypoxnet.data.splits import holdout_split

    split = holdout_split(records, config.split)
    spoilt = [split.train[0], split.test[0]]
    for record in spoilt:
        record.channels["FMISO_SUV"].write_bytes(f"damaged {record.key}".encode())
    assert run_training_job(config) == 0
    run = Path(config.output)
    log = (run / "run.log").read_text()
    assert f"left out: {spoilt[0].key}: FMISO_SUV: " in log
    with (run / "predictions.csv").open(newline="") as stream:
        rows = {row["key"]: row for row in csv.DictReader(stream)}
    assert rows[spoilt[1].key]["status"] == "failed"
    assert "cannot be read as an image" in rows[spoilt[1].key]["reason"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["counts"]["failed_cases"] == 1
    assert metrics["counts"]["training_patients"] == len(split.train) - 1
    assert list(metrics["left_out"]) == [spoilt[0].key]
    page = (run / "report.html").read_text()
    assert "Cases left out of training" in page
    assert all(record.key in page for record in spoilt)


def test_a_folder_of_another_run_is_refused(config, tmp_path, phantom_folder):
    run_training_job(config)
    other = replace(config, training=replace(config.training, learning_rate=0.5))
    with pytest.raises(ConfigError, match=r"holds a run with training\.learning_rate=0\.003, asked for now is 0\.5"):
        run_training_job(other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        run_training_job(replace(config, output=str(tmp_path / "full")))


def test_a_gpu_that_is_not_there_leaves_no_run_folder(config, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config.training = replace(config.training, accelerator="gpu")
    with pytest.raises(ConfigError, match=r"training\.accelerator is gpu, .* has no GPU; say auto or cpu"):
        run_training_job(config)
    assert not Path(config.output).exists()


def test_a_run_is_named_by_its_manifest_unless_told_otherwise(config):
    run_training_job(replace(config, name=""))
    assert "HypoxNet: manifest" in (Path(config.output) / "report.html").read_text()


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_several_copies_of_the_job_are_refused(config, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match=r"several copies of the whole job were started .* say training\.devices=N"):
        run_training_job(config)
    assert not Path(config.output).exists()


def test_a_faulty_manifest_leaves_no_run_folder(config, tmp_path):
    (tmp_path / "bad.csv").write_text("case_id,FMISO_SUV\nP1,gone.nii.gz\n")
    config.data = replace(config.data, manifest=str(tmp_path / "bad.csv"))
    with pytest.raises(ManifestError, match="line 2: P1: FMISO_SUV"):
        run_training_job(config)
    assert not Path(config.output).exists()


@pytest.mark.parametrize("absolute", [False, True])
def test_check_and_training_name_a_file_as_the_user_did(config, tmp_path, monkeypatch, capsys, absolute):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    folder = tmp_path / "study" if absolute else Path("study")
    manifest = folder / "cohort.csv"
    manifest.write_text("case_id,FMISO_SUV,GTVP,lrc_months,lrc_event\nP1,p1/pet.nii.gz,p1/gtv.nii.gz,12,1\n")
    assert main(["check", str(manifest)]) == 2
    said = capsys.readouterr().err
    with pytest.raises(ManifestError) as refused:
        run_training_job(replace(config, data=replace(config.data, manifest=str(manifest))))
    for fault in (f"FMISO_SUV: {folder}/p1/pet.nii.gz does not exist", f"GTVP: {folder}/p1/gtv.nii.gz does not exist"):
        assert f"line 2: P1: {fault}" in said
        assert f"line 2: P1: {fault}" in str(refused.value)
    assert str(refused.value).startswith(f"{manifest}: 2 faults")


def test_a_job_killed_at_any_stage_goes_on_to_the_same_end(phantom_folder, tmp_path):
    """Killed while it prepares, trains, predicts; what it ends with is what an uninterrupted job ends with."""
    overrides = [
        "experiment=smoke",
        f"data.manifest={phantom_folder / 'manifest.csv'}",
        "data.window=[16,16,16]",
        "model.features=[8,12]",
        "model.blocks=[1,1]",
        "training.epochs=3",
        "bootstrap=20",
        "split.test_fraction=0.5",
    ]

    def start(name):
        command = [
            sys.executable,
            "train.py",
            *overrides,
            f"data.cache={tmp_path}/{name}_cache",
            f"output={tmp_path / name}",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start("whole").wait(timeout=300) == 0
    run = tmp_path / "killed"
    stages = (
        lambda: any((tmp_path / "killed_cache").rglob("*.safetensors")),
        lambda: (run / "training" / "metrics.csv").exists(),
        lambda: any((run / "cases").glob("*/*.json")),
    )
    for reached in stages:
        process = start("killed")
        deadline = time.monotonic() + 300
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert reached()
        assert not (run / "report.html").exists()
    assert start("killed").wait(timeout=300) == 0
    whole = tmp_path / "whole"
    for name in ("metrics.json", "predictions.csv", "bundle/models/model_0.safetensors"):
        assert (whole / name).read_bytes() == (run / name).read_bytes(), name
