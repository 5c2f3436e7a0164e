import csv
import io
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.data.inspection import inspect_manifest
from hypoxnet.data.phantom_cohort import phantom_manifest
from hypoxnet.errors import ConfigError
from hypoxnet.phantom.cohort import make_cohort, make_phantom
from hypoxnet.phantom.mri import oxygen_saturation
from hypoxnet.phantom.outcome import log_survival, oxygen_modification, surviving_clonogens
from hypoxnet.phantom.oxygen import anoxia_distance_um, balance_residual, mean_po2
from hypoxnet.phantom.presets import HYPOXIC_MMHG, Oxygen, Scanner, Tracer, Treatment, preset
from hypoxnet.phantom.scanner import pet_grid, pet_image
from hypoxnet.phantom.tracer import voxel_binding


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(preset("test"), 1)


def test_oxygen_balances_supply_and_consumption():
    radius = np.linspace(18.0, 200.0, 200)
    po2 = mean_po2(radius, Oxygen())
    assert np.abs(balance_residual(po2, radius, Oxygen())).max() < 1e-9
    assert (np.diff(po2) < 0).all()
    assert po2.min() > 0
    assert po2.max() < Oxygen().vessel_mmhg


def test_oxygen_runs_out_at_about_a_tenth_of_a_millimetre():
    """Thomlinson and Gray 1955: cords are viable to 100-180 um."""
    assert 90 < anoxia_distance_um(Oxygen()) < 180


def test_oxygen_modification_and_survival_have_their_worked_values():
    assert oxygen_modification(np.array([0.0, 3.0, 1e12]), Treatment()) == pytest.approx([1 / 3, 2 / 3, 1.0])
    # 35 x 2 Gy, alpha 0.3, alpha/beta 10: 35 (0.6 + 0.12) = 25.2.
    assert log_survival(np.array(1e12), 0.3, Treatment()) == pytest.approx(-25.2)


def test_a_single_hypoxic_millilitre_decides():
    treatment = Treatment()
    oxic = surviving_clonogens(np.full(20, 30.0), np.ones(20), alpha_per_gy=0.3, voxel_ml=1.0, treatment=treatment)
    one = np.full(20, 30.0)
    one[0] = 1.0
    hypoxic = surviving_clonogens(one, np.ones(20), alpha_per_gy=0.3, voxel_ml=1.0, treatment=treatment)
    assert hypoxic > 100 * oxic


def test_uptake_peaks_at_low_oxygen_and_falls_where_cells_are_dead():
    po2 = np.geomspace(0.05, 40.0, 100)
    binding = voxel_binding(po2, Tracer())
    peak = po2[binding.argmax()]
    assert 0.5 < peak < 8.0
    assert binding[0] < 0.6 * binding.max()
    assert binding[-1] < 0.3 * binding.max()


def test_saturation_is_severinghaus():
    """Severinghaus 1979, table: 26.9 mmHg 50 %, 40 mmHg 75 %, 100 mmHg 97.5 %."""
    assert oxygen_saturation(np.array([26.9, 40.0, 100.0])) == pytest.approx([0.50, 0.75, 0.975], abs=0.006)


def test_the_label_is_oxygen_and_no_threshold_of_a_channel(phantom):
    label, grid = phantom.masks["HYPOXIA"]
    tumour, _ = phantom.masks["GTVP"]
    assert not (label & ~tumour).any()
    uptake, _ = phantom.images["FMISO_SUV"]
    if label.any():
        inside, outside = uptake[label], uptake[tumour & ~label]
        assert inside.mean() > outside.mean()
        # Their ranges overlap widely: no threshold gives the label.
        assert np.percentile(inside, 25) < np.percentile(outside, 95)
    assert grid == pet_grid(preset("test"))
    assert (phantom.po2 < HYPOXIC_MMHG).any()


def test_a_patient_depends_on_seed_and_number_alone(phantom):
    again = make_phantom(preset("test"), 1)
    for name, (values, _) in phantom.images.items():
        assert np.array_equal(values, again.images[name][0])
    assert again.outcome == phantom.outcome
    other = make_phantom(replace(preset("test"), seed=1), 1)
    assert not np.array_equal(other.po2, phantom.po2)


def test_blur_spreads_a_point_to_its_width():
    """FWHM of a sampled point source, by its second moment."""
    chosen = replace(preset("test"), pet_mm=3.0, fine_mm=3.0)
    side = round(chosen.extent_mm / chosen.fine_mm)
    suv = np.zeros((side,) * 3)
    suv[side // 2, side // 2, side // 2] = 1000.0
    scanner = Scanner("s", psf_mm=9.0, pet_noise=1e-6, mr_noise=0.1, bias=0.1)
    image = pet_image(suv, chosen, scanner, np.random.default_rng(0))
    x = np.arange(side) * 3.0
    profile = image.sum(axis=(1, 2))
    mean = (x * profile).sum() / profile.sum()
    sigma = np.sqrt(((x - mean) ** 2 * profile).sum() / profile.sum())
    assert 2.355 * sigma == pytest.approx(9.0, rel=0.05)


def test_a_cohort_passes_its_own_check_and_has_a_datasheet(tmp_path):
    manifest = make_cohort("test", tmp_path / "cohort", cases=4)
    assert inspect_manifest(manifest, jobs=1).faults == ()
    assert (tmp_path / "cohort" / "datasheet.json").is_file()
    grids = {nib.load(path).shape for path in (tmp_path / "cohort" / "P0001").glob("*.nii.gz")}
    assert len(grids) > 1, "PET and MR lie on grids of their own"


def test_another_cohort_is_not_mixed_into_a_folder(tmp_path):
    make_cohort("test", tmp_path, cases=1)
    with pytest.raises(ConfigError, match=r"holds a cohort with parameters .* choose another folder"):
        make_cohort("test", tmp_path, cases=1, seed=5)
    with pytest.raises(ConfigError, match="phantom preset 'none' is not known; choose one of demo, test"):
        make_cohort("none", tmp_path)


@pytest.mark.parametrize(
    ("room", "values", "sentence"),
    [
        (Oxygen, {"diffusion_um2_per_s": 0.0}, "diffusion_um2_per_s=0.0 of the phantom must be positive"),
        (Oxygen, {"tissue_radius_um": 10.0}, "must exceed three times vessel_radius_um=5.0"),
        (Treatment, {"alpha_per_gy": -1.0}, "alpha_per_gy=-1.0 of the phantom must be positive"),
    ],
)
def test_impossible_physics_is_one_sentence(room, values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        room(**values)


def test_a_cohort_whose_making_was_killed_is_finished_the_same(tmp_path):
    whole = make_cohort("test", tmp_path / "whole", cases=6)
    folder = tmp_path / "killed"
    process = subprocess.Popen(["hypoxnet", "phantom", "test", str(folder), "--cases", "6"], stdout=subprocess.DEVNULL)
    while not (folder / "P0002" / "row.csv").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest.csv").exists()
    manifest = make_cohort("test", folder, cases=6)
    assert manifest.read_text() == whole.read_text()
    for path in sorted(whole.parent.rglob("*.nii.gz")):
        twin = folder / path.relative_to(whole.parent)
        assert np.array_equal(nib.load(path).get_fdata(), nib.load(twin).get_fdata()), path


def test_the_embedded_cohort_is_made_once_and_found_again(tmp_path):
    first = phantom_manifest("test", tmp_path)
    stamp = first.stat().st_mtime_ns
    assert phantom_manifest("test", tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    rows = list(csv.DictReader(io.StringIO(first.read_text())))
    assert len(rows) == 12
    assert {Path(row["FMISO_SUV"]).is_absolute() for row in rows} == {False}
