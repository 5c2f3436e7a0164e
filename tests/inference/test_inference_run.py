import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.errors import CaseError
from hypoxnet.inference import one_case
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.read_outs import not_read
from hypoxnet.inference.run import run_inference
from hypoxnet.inference.writing import write_prediction
from hypoxnet.transforms.covariates import CovariateTerm

CPU = InferenceConfig(device="cpu")


@pytest.fixture
def predictor(tiny_spec, make_bundle):
    return load_predictor(make_bundle(tiny_spec), CPU)


@pytest.fixture
def cohort(make_case):
    return [make_case(f"P{seed:03d}", seed=seed) for seed in range(3)]


def table(run):
    with run.predictions.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# What a run says of itself: times, not results.
ABOUT = {"run.jsonl", "summary.json", ".index.jsonl"}


def results(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in ABOUT]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in results(folder)}


def written(folder: Path) -> dict[str, int]:
    """When each file was written; a file that is written again has another inode or time."""
    return {p.as_posix(): p.stat().st_mtime_ns for p in results(folder) if p.name != "predictions.csv"}


def lines(folder: Path, event: str) -> list[dict]:
    said = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    return [line for line in said if line["event"] == event]


def test_a_case_is_a_folder_of_maps_on_its_own_grid_and_a_json(predictor, cohort, tmp_path):
    run_inference(predictor, cohort[:1], tmp_path / "out")
    folder = tmp_path / "out" / "P000"
    assert {p.name for p in folder.iterdir()} == {"P000_hsv_probseg.nii.gz", "P000_hsv_mask.nii.gz", "P000.json"}
    reference = nib.load(cohort[0].channels["FMISO_SUV"])
    for name, kind in (("probseg", np.float32), ("mask", np.uint8)):
        image = nib.load(folder / f"P000_hsv_{name}.nii.gz")
        assert image.shape == reference.shape
        assert image.get_data_dtype() == kind
        np.testing.assert_allclose(image.affine, reference.affine, atol=1e-6)
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    content = json.loads((folder / "P000.json").read_text())
    assert "research use only" in content["intended_use"]
    assert content["bundle"] == {"name": "tiny", "version": "1.0.0", "digest": predictor.spec.digest, "members": 1}
    assert content["repairs"] == [r for r in content["repairs"] if isinstance(r, str)]
    assert any("T1W" in repair and "resampled" in repair for repair in content["repairs"])


def test_a_channel_that_the_bundle_does_not_read_is_named_and_seen_to_come(predictor, cohort, tmp_path):
    record = cohort[0]
    (kept,) = table(run_inference(predictor, [record], tmp_path / "out"))
    assert "not read" not in kept["notes"]
    more = {**record.channels, "FAZA_SUV": record.channels["FMISO_SUV"], "CT_HU": record.channels["T1W"]}
    run = run_inference(predictor, [replace(record, channels=more)], tmp_path / "out")
    assert table(run)[0]["notes"].endswith("; FAZA_SUV is given and not read by this bundle")
    assert run.predicted == ("P000",)


def test_what_channels_and_covariates_are_made_of_counts_as_read(tiny_settings, cohort):
    terms = (CovariateTerm("FDG_SUVMAX", "linear", (5.0,), (2.0,), low=1.0, high=9.0),)
    settings = replace(tiny_settings, channels=("FMISO_TMR", "KTRANS"), terms=terms)
    images = ("FMISO_SUV", "FDG_SUV", "T1", "ADC", "T1W")
    record = replace(cohort[0], channels=dict.fromkeys(images, Path("a.nii")), raw={"RAW_DCE": (Path("b.nii"),)})
    assert not_read(record, settings) == ["ADC", "T1W"]


def test_the_table_has_one_line_per_case_in_the_order_of_the_manifest(predictor, cohort, tmp_path):
    shuffled = [cohort[2], cohort[0], cohort[1]]
    rows = table(run_inference(predictor, shuffled, tmp_path / "out"))
    assert [row["case_id"] for row in rows] == ["P002", "P000", "P001"]
    for row in rows:
        said = json.loads((tmp_path / "out" / row["case_id"] / f"{row['case_id']}.json").read_text())
        assert row["status"] == "ok"
        assert float(row["hsv_volume_ml"]) == said["regions"]["hsv"]["volume_ml"]
        assert float(row["tumour_ml"]) == said["tumour_ml"]
        assert float(row["risk"]) == said["risk"]["at_horizon"]["locoregional failure"]
        assert [float(row[f"death_{m}m"]) for m in (12, 24, 36)] == said["risk"]["incidence"][
            "death without locoregional failure"
        ]


def test_a_case_that_fails_is_a_line_with_its_reason_and_the_others_are_done(predictor, cohort, make_case, tmp_path):
    truncated = cohort[0].channels["T1W"]
    truncated.write_bytes(truncated.read_bytes()[:3000])
    cohort[1].channels["FMISO_SUV"].unlink()
    foreign = make_case("P009", seed=9)
    foreign = replace(foreign, channels={"ADC": foreign.channels["T1W"]})
    run = run_inference(predictor, [*cohort, foreign], tmp_path / "out")
    rows = {row["case_id"]: row for row in table(run)}
    assert set(run.failed) == {"P000", "P001", "P009"}
    assert rows["P002"]["status"] == "ok"
    assert "P000: T1W" in rows["P000"]["reason"]
    assert "does not exist" in rows["P001"]["reason"]
    assert "the network reads FMISO_SUV, T1W, the manifest (line 11) has ADC" in rows["P009"]["reason"]
    assert all(row["hsv_volume_ml"] == "" for key, row in rows.items() if key in run.failed)
    assert all("\n" not in row["reason"] for row in rows.values())
    assert {p.name for p in (tmp_path / "out").iterdir()} - ABOUT == {"P002", "predictions.csv"}


def test_a_second_run_keeps_what_is_finished_and_says_the_same(predictor, cohort, tmp_path):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    times, first = written(out), contents(out)
    run = run_inference(predictor, cohort, out)
    assert run.kept == ("P000", "P001", "P002")
    assert run.predicted == ()
    assert (written(out), contents(out)) == (times, first)


def test_recomputing_writes_the_same_bytes(predictor, cohort, tmp_path):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    first = contents(out)
    run = run_inference(predictor, cohort, out, recompute=True)
    assert run.predicted == ("P000", "P001", "P002")
    assert contents(out) == first


@pytest.mark.parametrize("change", ["input", "bundle", "choice", "output removed", "output changed"])
def test_what_changed_is_predicted_again(tiny_spec, make_bundle, predictor, cohort, tmp_path, change):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    mask = out / "P001" / "P001_hsv_mask.nii.gz"
    expected = {"P001"}
    if change == "input":
        nib.save(nib.load(cohort[0].channels["T1W"]), cohort[1].channels["T1W"])
    elif change == "bundle":
        predictor, expected = load_predictor(make_bundle(tiny_spec, seeds=(8,)), CPU), {"P000", "P001", "P002"}
    elif change == "choice":
        predictor = load_predictor(tmp_path / "bundle", replace(CPU, threshold=0.3))
        expected = {"P000", "P001", "P002"}
    elif change == "output removed":
        mask.unlink()
    else:
        mask.write_bytes(gzip.compress(b"half"))
    run = run_inference(predictor, cohort, out)
    assert set(run.predicted) == expected
    assert nib.load(mask).shape == (24, 24, 24)


def test_a_map_of_other_files_does_not_stay_beside_a_failure(predictor, cohort, tmp_path):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    cohort[1].channels["FMISO_SUV"].write_bytes(b"not an image")
    run = run_inference(predictor, cohort, out)
    assert set(run.failed) == {"P001"}
    assert not (out / "P001").exists()


def test_a_prediction_that_is_removed_is_told_of_in_the_log_and_beside_the_failure(
    predictor, tiny_spec, make_bundle, cohort, tmp_path, caplog
):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    cohort[1].channels["FMISO_SUV"].write_bytes(b"not an image")
    said = "P001: its earlier prediction was made of other files or with other choices and is removed"
    with caplog.at_level("INFO", logger="hypoxnet"):
        run = run_inference(predictor, cohort, out)
        assert caplog.messages.count(said) == 1
        assert run.failed["P001"].endswith(said.removeprefix("P001: "))
        summary = json.loads((out / "summary.json").read_text())
        assert summary["failed"]["P001"] == run.failed["P001"] == table(run)[1]["reason"]
        run_inference(load_predictor(make_bundle(tiny_spec, seeds=(2,), name="other"), CPU), cohort[:1], out)
    assert "P000: its earlier prediction was made by another bundle and is removed" in caplog.messages


def test_a_folder_that_another_run_takes_away_meanwhile_is_no_failure(predictor, cohort, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_inference(predictor, cohort[:1], out)
    read, image = one_case.read_prediction, cohort[0].channels["FMISO_SUV"]
    nib.save(nib.load(cohort[1].channels["FMISO_SUV"]), image)

    def read_and_lose(folder, key):
        content = read(folder, key)
        shutil.rmtree(folder, ignore_errors=True)
        return content

    monkeypatch.setattr(one_case, "read_prediction", read_and_lose)
    assert run_inference(predictor, cohort[:1], out).predicted == ("P000",)
    assert [path.name for path in out.glob(".part-*")] == []


def test_cases_that_left_the_manifest_are_named_and_kept(predictor, cohort, tmp_path, caplog):
    out = tmp_path / "out"
    run_inference(predictor, cohort, out)
    (out / "dicom").mkdir()
    with caplog.at_level("INFO", logger="hypoxnet"):
        run_inference(predictor, cohort[:1], out)
    said = "there are predictions of 2 cases that the manifest does not name (P001, P002): kept, and not in the table"
    assert caplog.messages.count(said) == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["not_in_manifest"] == {"cases": 2, "first": ["P001", "P002"]}
    assert (out / "P001" / "P001_hsv_mask.nii.gz").is_file()
    run_inference(predictor, cohort, out)
    assert json.loads((out / "summary.json").read_text())["not_in_manifest"] == {"cases": 0, "first": []}


def test_a_folder_that_inference_did_not_write_is_left_alone(predictor, cohort, tmp_path):
    images = tmp_path / "out" / "P001"
    images.mkdir(parents=True)
    (images / "P001_gtv_mask.nii.gz").write_text("drawn by hand")
    run = run_inference(predictor, cohort, tmp_path / "out")
    assert "P001_gtv_mask.nii.gz, which inference did not write" in run.failed["P001"]
    assert (images / "P001_gtv_mask.nii.gz").read_text() == "drawn by hand"
    assert run.predicted == ("P000", "P002")


@pytest.mark.parametrize("case_id", ["../P001", "a/b", "", ".hidden", "predictions.csv"])
def test_a_name_that_leaves_the_output_is_refused(predictor, cohort, tmp_path, case_id):
    with pytest.raises(CaseError, match="cannot be the name of a folder"):
        run_inference(predictor, [replace(cohort[0], case_id=case_id)], tmp_path / "out")


def test_two_cases_with_one_name_are_refused_with_both_lines(predictor, cohort, tmp_path):
    twins = [replace(cohort[0], case_id="A_week2", line=4), replace(cohort[1], case_id="A", visit="week2", line=9)]
    with pytest.raises(CaseError, match="lines 4 and 9 are both A_week2"):
        run_inference(predictor, twins, tmp_path / "out")


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_an_interrupt_loses_no_finished_case(predictor, cohort, tmp_path, monkeypatch, ahead):
    predict = predictor.predict_ready

    def interrupted(ready):
        if ready.record.case_id == "P002":
            raise KeyboardInterrupt
        return predict(ready)

    monkeypatch.setattr(predictor, "predict_ready", interrupted)
    monkeypatch.setattr(predictor, "cases_ahead", ahead)
    with pytest.raises(KeyboardInterrupt):
        run_inference(predictor, cohort, tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        assert [row["case_id"] for row in csv.DictReader(stream)] == ["P000", "P001"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["interrupted"], summary["predicted"]) == (True, 2)
    monkeypatch.undo()
    assert run_inference(predictor, cohort, tmp_path / "out").kept == ("P000", "P001")


def test_a_failed_write_leaves_the_earlier_prediction(predictor, cohort, tmp_path, monkeypatch):
    prediction = predictor.predict(cohort[0])
    write_prediction(prediction, tmp_path / "P000", digest="a")
    before = contents(tmp_path / "P000")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hypoxnet.inference.writing.write_json", full_disk)
    with pytest.raises(OSError, match="the disk is full"):
        write_prediction(prediction, tmp_path / "P000", digest="b")
    assert contents(tmp_path / "P000") == before


KILLED = """
import sys, time
from pathlib import Path
import torch
import hypoxnet.inference.writing as writing
from hypoxnet.cases import CaseRecord
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.read_outs import not_read
from hypoxnet.inference.run import run_inference

bundle, images, output, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
write_image, count = writing.write_image, 0

def slow_in_the_second_case(path, array, grid):
    global count
    count += 1
    write_image(path, array, grid)
    if count == 3:
        print("half written", flush=True)
        time.sleep(600)

writing.write_image = slow_in_the_second_case
records = [
    CaseRecord(p.name, channels={"FMISO_SUV": p / "fmiso.nii.gz", "T1W": p / "t1w.nii.gz"},
               masks={"GTVP": p / "gtvp.nii.gz"}, covariates={"age": 61.0}, line=2 + i)
    for i, p in enumerate(sorted(Path(images).iterdir()))
]
run_inference(load_predictor(Path(bundle), InferenceConfig(device="cpu")), records, Path(output))
"""


def test_a_run_that_was_killed_leaves_nothing_half_written_and_goes_on_to_the_same_end(predictor, cohort, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, tmp_path / "bundle", tmp_path / "images", out, torch.get_num_threads()]
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half written\n"
        os.kill(process.pid, signal.SIGKILL)
    visible = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert visible - ABOUT == {"P000", "predictions.csv"}
    assert len([p for p in out.iterdir() if p.name.startswith(".part-")]) == 1
    again = run_inference(predictor, cohort, out)
    assert (again.kept, again.predicted) == (("P000",), ("P001", "P002"))
    run_inference(predictor, cohort, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
