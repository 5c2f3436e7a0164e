"""Raw series named by a manifest become channels, once."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.data.config import DataConfig, SplitConfig
from hypoxnet.data.inspection import inspect_manifest
from hypoxnet.data.manifest import read_manifest
from hypoxnet.errors import CaseError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.jobs import derive
from hypoxnet.jobs.config import InferJobConfig, TrainJobConfig
from hypoxnet.jobs.derive import MapCache, complete_cohort
from hypoxnet.jobs.infer import run_inference_job
from hypoxnet.jobs.train import run_training_job
from hypoxnet.maps.config import DceSettings, MapsConfig, R2StarSettings
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.training.config import TrainingConfig
from hypoxnet.transforms.config import LabelConfig

ECHOES_S = [0.004, 0.008, 0.012, 0.018, 0.026, 0.036]


def write_echoes(r2star_path, path):
    """A multi-echo gradient echo of a phantom's R2*, with noise of 0.5 %."""
    image = nib.load(r2star_path)
    r2star = np.clip(np.asarray(image.dataobj, dtype=np.float32), 1.0, None)
    echoes = [1000 * np.exp(-te * r2star) for te in ECHOES_S]
    noise = np.random.default_rng(0).normal(0, 5, (*r2star.shape, len(echoes)))
    nib.save(nib.Nifti1Image((np.stack(echoes, -1) + noise).astype(np.float32), image.affine), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"EchoTime": ECHOES_S}))


@pytest.fixture
def raw_manifest(phantom_folder, tmp_path):
    """The phantoms with a raw series in the place of R2*."""
    rows = list(csv.DictReader((phantom_folder / "manifest.csv").read_text().splitlines()))
    for row in rows:
        for name in ("FMISO_SUV", "T1W", "KTRANS", "GTVP", "GTVN", "MUSCLE", "BLOOD", "HYPOXIA"):
            if row.get(name):
                row[name] = str(phantom_folder / row[name])
        series = tmp_path / f"{row['case_id']}_mge.nii.gz"
        row["RAW_R2STAR"] = ""
        if row["R2STAR"]:
            write_echoes(phantom_folder / row.pop("R2STAR"), series)
            row["RAW_R2STAR"] = series.name
        row.pop("R2STAR", None)
        row.pop("KTRANS", None)
    path = tmp_path / "raw.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def first_with_raw(raw_manifest):
    return next(record for record in read_manifest(raw_manifest, check_files=True) if record.raw)


def test_the_map_of_a_raw_series_is_the_map_it_was_made_from(first_with_raw, phantom_folder, tmp_path):
    completed = MapCache(tmp_path / "maps", MapsConfig()).complete(first_with_raw)
    assert completed.derived == ("FMISO_TMR", "R2STAR")
    made = nib.load(completed.channels["R2STAR"])
    original = next(r for r in read_manifest(phantom_folder / "manifest.csv") if r.key == completed.key)
    truth = nib.load(original.channels["R2STAR"])
    known = np.isfinite(made.get_fdata())
    assert known.mean() > 0.3
    assert np.allclose(made.affine, truth.affine, atol=1e-4)
    error = np.abs(made.get_fdata() - np.clip(truth.get_fdata(), 1.0, None))[known]
    assert np.median(error) < 1.0


def test_a_map_is_made_once_and_again_when_anything_changes(first_with_raw, tmp_path, monkeypatch):
    calls = []
    real = derive.make_maps
    monkeypatch.setattr(derive, "make_maps", lambda request: calls.append(request.name) or real(request))
    cache = MapCache(tmp_path / "maps", MapsConfig())
    first = cache.complete(first_with_raw).channels["R2STAR"]
    assert cache.complete(first_with_raw).channels["R2STAR"] == first
    assert len(calls) == 1
    other = MapCache(tmp_path / "maps", MapsConfig(r2star=R2StarSettings(method="nonlinear")))
    assert other.complete(first_with_raw).channels["R2STAR"] != first
    sidecar = Path(str(first_with_raw.raw["RAW_R2STAR"][0]).replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps({"EchoTime": [te * 1.1 for te in ECHOES_S]}))
    assert cache.complete(first_with_raw).channels["R2STAR"] != first
    assert len(calls) == 3


def test_a_channel_that_has_a_file_keeps_it(first_with_raw, tmp_path):
    channels = {**first_with_raw.channels, "R2STAR": tmp_path / "own.nii.gz"}
    record = derive.replace(first_with_raw, channels=channels)
    completed = MapCache(tmp_path / "maps", MapsConfig()).complete(record)
    assert completed.channels["R2STAR"] == tmp_path / "own.nii.gz"
    assert "R2STAR" not in completed.derived


def test_only_wanted_channels_are_made(first_with_raw, tmp_path):
    wanted = MapCache(tmp_path / "maps", MapsConfig(), ("FMISO_SUV", "T2STAR")).complete(first_with_raw)
    assert wanted.derived == ("T2STAR",)
    assert MapCache(tmp_path / "other", MapsConfig(), ("FMISO_SUV",)).complete(first_with_raw).derived == ()
    assert not (tmp_path / "other").exists()


def test_a_series_that_cannot_become_a_map_leaves_the_other_cases(raw_manifest, tmp_path, first_with_raw):
    sidecar = Path(str(first_with_raw.raw["RAW_R2STAR"][0]).replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps({"EchoTime": ECHOES_S[:-1]}))
    records = read_manifest(raw_manifest)
    completed, reasons = complete_cohort(records, MapCache(tmp_path / "maps", MapsConfig()))
    assert list(reasons) == [first_with_raw.key]
    assert reasons[first_with_raw.key].startswith(f"{first_with_raw.key}: RAW_R2STAR: the sidecar names 5 values")
    assert len(completed) == len(records) - 1


def test_no_case_left_is_an_error(first_with_raw, tmp_path):
    first_with_raw.raw["RAW_R2STAR"][0].unlink()
    with pytest.raises(CaseError, match="maps could be made for none of 1 cases"):
        complete_cohort([first_with_raw], MapCache(tmp_path / "maps", MapsConfig()))


def test_t1_from_flips_serves_perfusion_of_the_same_case(tmp_path):
    """RAW_DCE without a T1 map takes the one of RAW_VFA."""
    rng = np.random.default_rng(0)
    shape, tr, t1, m0 = (6, 5, 4), 0.005, 1.2, 5000.0
    flips = np.radians([2.0, 5.0, 12.0])
    e1 = np.exp(-tr / t1)
    signal = m0 * np.sin(flips) * (1 - e1) / (1 - e1 * np.cos(flips))
    save(tmp_path / "vfa.nii.gz", np.broadcast_to(signal, (*shape, 3)), {"FlipAngle": [2, 5, 12], "RepetitionTime": tr})
    times = np.arange(40) * 4.0
    concentration = np.where(times > 30, 1.5 * np.exp(-(times - 30) / 200), 0.0)
    concentration = np.broadcast_to(concentration, (*shape, 40)) * np.linspace(0.2, 1, 6)[:, None, None, None]
    e1 = np.exp(-tr * (1 / t1 + 4.5 * concentration))
    dynamic = m0 * np.sin(0.2) * (1 - e1) / (1 - e1 * np.cos(0.2)) + rng.normal(0, 0.2, concentration.shape)
    sidecar = {"FlipAngle": float(np.degrees(0.2)), "RepetitionTime": tr, "VolumeTiming": times.tolist()}
    save(tmp_path / "dce.nii.gz", dynamic, sidecar)
    table = tmp_path / "m.csv"
    table.write_text("case_id,RAW_VFA,RAW_DCE\nP1,vfa.nii.gz,dce.nii.gz\n")
    config = MapsConfig(dce=DceSettings(aif="parker", model="tofts"))
    record = MapCache(tmp_path / "maps", config, ("KTRANS",)).complete(read_manifest(table)[0])
    assert record.derived == ("KTRANS",)
    ktrans = nib.load(record.channels["KTRANS"]).get_fdata()
    assert np.nanmedian(ktrans[5]) > np.nanmedian(ktrans[0]) > 0


def save(path, array, sidecar):
    nib.save(nib.Nifti1Image(np.asarray(array, dtype=np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def test_check_names_a_raw_series_that_is_no_image(tmp_path):
    (tmp_path / "mge.nii.gz").write_text("nothing")
    table = tmp_path / "m.csv"
    table.write_text("case_id,RAW_R2STAR\nP1,mge.nii.gz|gone.nii.gz\n")
    faults = inspect_manifest(table, jobs=1).faults
    assert len(faults) == 2
    assert any("RAW_R2STAR" in fault and "cannot be read as an image" in fault for fault in faults)
    assert any("gone.nii.gz does not exist" in fault for fault in faults)


def test_a_network_trains_on_raw_series_and_predicts_from_them(raw_manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    config = TrainJobConfig(
        name="raw",
        output=str(tmp_path / "run"),
        bootstrap=20,
        data=DataConfig(
            manifest=str(raw_manifest),
            cache=str(tmp_path / "cache"),
            channels=["FMISO_SUV", "R2STAR"],
            window=[16, 16, 16],
            spacing_mm=[4.0, 4.0, 4.0],
        ),
        label=LabelConfig(),
        split=SplitConfig(test_fraction=0.34),
        model=ModelConfig(features=[8, 12], blocks=[1, 1], deep_supervision=0, fold=2),
        outcome=OutcomeConfig(hidden=4),
        training=TrainingConfig(epochs=1, steps_per_epoch=0, accelerator="cpu"),
        inference=InferenceConfig(device="cpu"),
    )
    assert run_training_job(config) == 0
    header = (tmp_path / "run" / "manifest.csv").read_text().splitlines()[0].split(",")
    assert "RAW_R2STAR" in header
    assert "R2STAR" not in header
    predicted = InferJobConfig(
        bundle=str(tmp_path / "run" / "bundle"),
        manifest=str(tmp_path / "run" / "manifest.csv"),
        output=str(tmp_path / "predictions"),
        inference=InferenceConfig(device="cpu"),
    )
    assert run_inference_job(predicted) == 0
    rows = list(csv.DictReader((tmp_path / "predictions" / "predictions.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == {"ok"}
