"""Cohorts of phantoms: the same whatever made them, whole or absent, and refused by name where impossible."""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.cases import FAILURE
from hypoxnet.cli import main
from hypoxnet.data.inspection import inspect_manifest
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.phantom_cohort import phantom_manifest
from hypoxnet.errors import ConfigError
from hypoxnet.phantom.assemble import make_phantom, manifest_columns
from hypoxnet.phantom.cohort import make_cohort
from hypoxnet.phantom.parameters.cohort import IMAGES, Hospital, Preset, Visit
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.presets import PRESETS, preset
from hypoxnet.phantom.writing import read_truth

SMALL = replace(preset("test"), cases=3)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SMALL, 1)


def digests(folder: Path) -> dict[str, str]:
    """Content of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_label_lies_inside_the_tumour_and_is_no_threshold_of_the_pet(phantom):
    (visit,) = phantom.visits
    hypoxia, tumour = visit.masks["HYPOXIA"][0], visit.masks["GTVP"][0]
    if "GTVN" in visit.masks:
        tumour = tumour | visit.masks["GTVN"][0]
    assert not bool((hypoxia & ~tumour).any())
    uptake = visit.images["FMISO_SUV"][0]
    if bool(hypoxia.any()):
        inside, outside = uptake[hypoxia], uptake[tumour & ~hypoxia]
        assert inside.mean() > outside.mean()
        assert inside.quantile(0.25) < outside.quantile(0.95), "their ranges overlap: no threshold gives the label"


def test_a_patient_depends_on_seed_and_number_alone(phantom):
    again = make_phantom(replace(SMALL, cases=99), 1)
    for name, (values, _) in phantom.visits[0].images.items():
        assert bool((values == again.visits[0].images[name][0]).all()), name
    assert again.outcome == phantom.outcome
    other = make_phantom(replace(SMALL, seed=1), 1)
    assert not bool((other.truth_maps["po2"][0] == phantom.truth_maps["po2"][0]).all())


def test_another_scanner_leaves_the_patient_as_he_was(phantom):
    hospitals = tuple(replace(h, pet=replace(h.pet, noise_suv=2 * h.pet.noise_suv)) for h in SMALL.hospitals)
    noisier = make_phantom(replace(SMALL, hospitals=hospitals), 1)
    assert bool((noisier.truth_maps["po2"][0] == phantom.truth_maps["po2"][0]).all())
    assert noisier.outcome == phantom.outcome
    uptake, noisy = phantom.visits[0].images["FMISO_SUV"][0], noisier.visits[0].images["FMISO_SUV"][0]
    assert float((uptake - noisy).abs().max()) > 0


def test_a_retest_is_the_same_tumour_on_another_day():
    visits = (Visit("baseline"), Visit("retest", another_day=True))
    twice = make_phantom(replace(SMALL, visits=visits, images=("HYPOXIA_PET",)), 2)
    first, second = (visit.images["FMISO_SUV"][0] for visit in twice.visits)
    tumour = twice.visits[0].masks["GTVP"][0]
    assert 0.2 < float(np.corrcoef(first[tumour], second[tumour])[0, 1]) < 0.999


def test_treatment_brings_oxygen_back():
    visits = (Visit("baseline"), Visit("week2", week=2.0), Visit("week5", week=5.0))
    course = make_phantom(replace(SMALL, visits=visits, images=("HYPOXIA_PET",)), 3)
    median = [course.truth["visits"][visit.name]["median_po2_mmhg"] for visit in visits]
    assert median[0] < median[1] < median[2]


def test_more_dose_never_turns_control_into_failure():
    trial = replace(SMALL, randomised=True, images=("HYPOXIA_PET",))
    for number in range(1, 5):
        arms = make_phantom(trial, number).truth["arms"]
        assert arms["77"]["control"] >= arms["70"]["control"]
        assert arms["77"]["failure_months"] >= arms["70"]["failure_months"]


def test_the_outcome_is_that_of_the_arm_that_was_given():
    trial = replace(SMALL, randomised=True, images=("HYPOXIA_PET",))
    received = set()
    for number in range(1, 9):
        patient = make_phantom(trial, number)
        received.add(patient.covariates["dose_gy"])
        assert patient.covariates["arm"] == float(patient.covariates["dose_gy"] == 77.0)
        failed = patient.truth["arms"][f"{patient.covariates['dose_gy']:g}"]["failure_months"]
        if patient.outcome.event == FAILURE:
            assert patient.outcome.months == pytest.approx(failed, abs=0.06)
    assert received == {70.0, 77.0}
    assert manifest_columns(trial)[-2:] == ("dose_gy", "arm")
    assert "arm" not in manifest_columns(SMALL)


def test_the_number_of_workers_changes_no_byte(tmp_path):
    one = make_cohort(SMALL, tmp_path / "one", workers=1)
    two = make_cohort(SMALL, tmp_path / "two", workers=2)
    assert digests(one.parent) == digests(two.parent)


def test_a_cohort_passes_its_own_check_and_holds_truth_and_datasheet(tmp_path):
    manifest = make_cohort(SMALL, tmp_path / "cohort", workers=1)
    assert inspect_manifest(manifest, jobs=1).faults == ()
    sheet = json.loads((manifest.parent / "datasheet.json").read_text())
    assert len(sheet["parameters"]) > 200
    assert all(row["unit"] and row["meaning"] and row["source"] for row in sheet["parameters"])
    assert "| oxygen.diffusion_um2_per_s | 2000.0 | um2/s |" in (manifest.parent / "datasheet.md").read_text()
    grids = {nib.load(path).shape for path in (manifest.parent / "P0001").glob("*.nii.gz")}
    assert len(grids) > 1, "PET and MR lie on grids of their own"
    records = read_manifest(manifest)
    outcomes = list(csv.DictReader(io.StringIO((manifest.parent / "outcomes.csv").read_text())))
    assert [row["case_id"] for row in outcomes] == [record.case_id for record in records]
    for row, record in zip(outcomes, records, strict=True):
        assert record.outcome is not None
        assert int(row["lrc_event"]) == record.outcome.event
        assert 0 <= float(row["control_probability"]) <= 1
        assert read_truth(manifest.parent, record.case_id)["patient"]["age"] > 18


def test_every_image_that_a_phantom_can_have_is_plausible(tmp_path):
    chosen = replace(SMALL, cases=2, images=IMAGES, without_mr=0.0, without_map=0.0, without_fdg=0.0)
    manifest = make_cohort(chosen, tmp_path, workers=1)
    assert inspect_manifest(manifest, jobs=1).faults == ()
    record, _ = read_manifest(manifest)
    assert set(record.channels) == set(chosen.channels)


def test_no_channel_of_the_manifest_is_truth(tmp_path):
    manifest = make_cohort(replace(SMALL, cases=1, truth_maps=True), tmp_path / "cohort", workers=1)
    (record,) = read_manifest(manifest)
    assert not any("truth" in path.parts for path in record.channels.values())
    truth = {path.name for path in (manifest.parent / "P0001" / "truth").iterdir()}
    assert {"po2.nii.gz", "k3.nii.gz", "KTRANS.nii.gz", "log10_survivors.nii.gz"} <= truth


def test_raw_series_become_the_maps_again(tmp_path):
    chosen = replace(SMALL, cases=1, raw=True, without_mr=0.0, without_map=0.0)
    manifest = make_cohort(chosen, tmp_path / "cohort", workers=1)
    (record,) = read_manifest(manifest)
    assert {"RAW_R2STAR", "RAW_DCE"} <= set(record.raw)
    again = tmp_path / "again"
    assert main(["map", "r2star", str(record.raw["RAW_R2STAR"][0]), "--output", str(again)]) == 0
    path = again / "R2starmap.nii.gz"
    ours, theirs = nib.load(record.channels["R2STAR"]).get_fdata(), nib.load(path).get_fdata()
    inside = (ours > 0) & np.isfinite(theirs)
    assert np.median(np.abs(ours - theirs)[inside]) < 0.05 * np.median(ours[inside])


def test_another_cohort_is_not_mixed_into_a_folder(tmp_path):
    make_cohort(replace(SMALL, cases=1), tmp_path, workers=1)
    with pytest.raises(ConfigError, match=r"holds a cohort with parameters .* choose another folder"):
        make_cohort(replace(SMALL, cases=1, seed=5), tmp_path)
    with pytest.raises(ConfigError, match="phantom preset 'none' is not known; choose one of demo, standard"):
        preset("none")


def test_impossible_cohorts_are_refused_by_name():
    with pytest.raises(ConfigError, match="psf_mm=25 of hospital wide is wider than a quarter of extent_mm=72"):
        replace(SMALL, hospitals=(Hospital("wide", pet=PetScanner("wide", psf_mm=25.0, neighbourhood_mm=0.0)),))
    with pytest.raises(ConfigError, match="cases=0 must be at least 1"):
        replace(SMALL, cases=0)
    with pytest.raises(ConfigError, match="image FMISO is not made by the phantom"):
        replace(SMALL, images=("FMISO",))
    with pytest.raises(ConfigError, match="tracer 'FDG' of hospital x is no hypoxia tracer"):
        Hospital("x", tracer="FDG")
    with pytest.raises(ConfigError, match="needs a hospital and a first visit named baseline"):
        replace(SMALL, visits=())
    with pytest.raises(ConfigError, match=r"without_mr=1.5 of the phantom \(Preset, 1\) must be at most 1"):
        replace(SMALL, without_mr=1.5)
    with pytest.raises(
        ConfigError, match=r"consumption_mmhg_per_s=-3 of the phantom \(Oxygen, mmHg/s\) must be above 0"
    ):
        replace(SMALL, oxygen=replace(SMALL.oxygen, consumption_mmhg_per_s=-3.0))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_describes_all_of_its_parameters(name):
    chosen = preset(name)
    assert isinstance(chosen, Preset)
    assert chosen.channels
    assert chosen.digest() != replace(chosen, seed=chosen.seed + 1).digest()


def test_the_command_line_refuses_in_one_sentence(tmp_path, capsys):
    assert main(["phantom", "--preset", "nothing", "--output", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("phantom preset 'nothing' is not known")
    assert main(["phantom", "test", str(tmp_path / "x"), "--output", "y"]) == 2
    assert "name the output twice" in capsys.readouterr().err
    assert main(["phantom", "test", str(tmp_path / "x"), "--cases", "0"]) == 2
    assert "cases=0 must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    assert main(["phantom", "test", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


def test_a_cohort_whose_making_was_killed_is_finished_the_same(tmp_path):
    whole = make_cohort(SMALL, tmp_path / "whole", workers=1)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "hypoxnet.cli", "phantom", "test", str(folder), "--cases", "3", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (folder / "P0001" / "rows.csv").exists():
        assert process.poll() is None, "it ended before its first patient"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest.csv").exists()
    make_cohort(SMALL, folder, workers=1)
    left = {name: digest for name, digest in digests(folder).items() if not name.startswith(".part-")}
    assert left == digests(whole.parent)


def test_the_embedded_cohort_is_made_once_and_found_again(tmp_path):
    first = phantom_manifest("test", tmp_path)
    stamp = first.stat().st_mtime_ns
    assert phantom_manifest("test", tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    rows = list(csv.DictReader(io.StringIO(first.read_text())))
    assert len(rows) == 12
    assert {Path(row["FMISO_SUV"]).is_absolute() for row in rows} == {False}


def test_a_cohort_as_dicom_comes_back_as_it_was(tmp_path):
    folder = tmp_path / "cohort"
    assert main(["phantom", "test", str(folder), "--cases", "1", "--format", "dicom"]) == 0
    assert (
        main(["import", str(folder / "dicom"), "--output", str(tmp_path / "back"), "--key", str(tmp_path / "key")]) == 0
    )
    (before,) = read_manifest(folder / "manifest.csv")
    (after,) = read_manifest(tmp_path / "back" / "manifest.csv")
    assert {"FMISO_SUV", "T1W"} & set(before.channels) <= set(after.channels)
    first, second = (nib.load(one.channels["FMISO_SUV"]) for one in (before, after))
    ras = [np.asarray(nib.as_closest_canonical(image).get_fdata()) for image in (first, second)]
    assert np.abs(ras[0] - ras[1]).max() < 2e-4 * ras[0].max()
    tumours = [nib.as_closest_canonical(nib.load(one.masks["GTVP"])).get_fdata() > 0.5 for one in (before, after)]
    assert np.array_equal(*tumours)
