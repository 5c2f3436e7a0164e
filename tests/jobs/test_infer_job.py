import csv
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.errors import ConfigError, ManifestError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.infer import run_inference_job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_spec, make_bundle, make_case, tmp_path):
    """A bundle, a manifest of two cases with columns the model does not know, and an output that does not exist."""
    lines = ["case_id,site,FMISO_SUV,T1W,GTVP,age,hpv,x_note"]
    for seed in range(2):
        record = make_case(f"P{seed:03d}", seed=seed)
        lines.append(
            f"{record.case_id},north,{record.channels['FMISO_SUV']},{record.channels['T1W']},{record.masks['GTVP']},61,1,3"
        )
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return InferJobConfig(
        bundle=str(make_bundle(tiny_spec)),
        manifest=str(manifest),
        output=str(tmp_path / "predictions"),
        inference=InferenceConfig(device="cpu"),
    )


def test_the_job_predicts_a_cohort_without_outcomes_and_logs(config):
    assert run_inference_job(config) == 0
    output = Path(config.output)
    rows = list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))
    assert [(row["case_id"], row["site"], row["status"]) for row in rows] == [
        ("P000", "north", "ok"),
        ("P001", "north", "ok"),
    ]
    assert "tiny" in (output / "run.log").read_text()


def test_a_failed_case_ends_the_job_with_2_after_the_others(config, tmp_path):
    (tmp_path / "images" / "P000" / "fmiso.nii.gz").write_bytes(b"damaged")
    assert run_inference_job(config) == 2
    assert (Path(config.output) / "P001" / "P001.json").is_file()
    assert "1 of 2 cases failed" in (Path(config.output) / "run.log").read_text()


def test_an_empty_contour_fails_its_case_and_the_others_are_done(config, tmp_path):
    contour = tmp_path / "images" / "P000" / "gtvp.nii.gz"
    image = nib.load(contour)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), contour)
    assert run_inference_job(config) == 2
    empty, other = csv.DictReader((Path(config.output) / "predictions.csv").read_text().splitlines())
    assert empty["reason"] == f"P000: GTVP: {contour} is empty (0 voxels of 13824); draw it, or leave the cell empty"
    assert empty["risk"] == ""
    assert other["status"] == "ok"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("bundle", "", "bundle is missing; python infer.py"),
        ("manifest", "", "manifest is missing"),
        ("output", "", "output is missing"),
        ("bundle", "/no/such/bundle", "bundle=/no/such/bundle is not a folder"),
        ("manifest", "/no/such.csv", r"manifest=/no/such\.csv does not exist"),
    ],
)
def test_a_bad_path_is_one_sentence(config, key, value, sentence):
    setattr(config, key, value)
    with pytest.raises(ConfigError, match=sentence):
        run_inference_job(config)


def test_predictions_inside_the_bundle_are_refused(config):
    config.output = f"{config.bundle}/models/predictions"
    with pytest.raises(ConfigError, match="lies inside the bundle"):
        run_inference_job(config)


@pytest.mark.parametrize("place", ["", "cases", "fold_1/cases"])
def test_the_folder_of_a_training_run_is_refused_and_left_as_it_is(config, tmp_path, place):
    run = tmp_path / "run"
    for name in ("config.yaml", "provenance.json", f"{place}/predictions.csv"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("of the run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config.output = str(run / place)
    with pytest.raises(ConfigError, match=f"belongs to the training run {run}, whose predictions and logs would be"):
        run_inference_job(config)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    config.output = str(run / "applied")
    assert run_inference_job(config) == 0


def test_a_faulty_manifest_leaves_no_output(config):
    Path(config.manifest).write_text("case_id,FMSIO_SUV\nP1,a.nii\n")
    with pytest.raises(ManifestError, match="did you mean FMISO_SUV"):
        run_inference_job(config)
    assert not Path(config.output).exists()


def test_the_script_says_what_is_wrong_and_ends_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "infer.py", f"bundle={tmp_path}", f"manifest={tmp_path}/none.csv", f"output={tmp_path}/out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "none.csv does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_something_else_is_refused(config, tmp_path):
    config.output = str(tmp_path / "images" / "P000")
    with pytest.raises(ConfigError, match=r"is not empty and holds no predictions \(no predictions\.csv\)"):
        run_inference_job(config)
