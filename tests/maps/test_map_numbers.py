"""Maps through the command line give the numbers that went in, and what would spoil them is refused."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.cli import main
from hypoxnet.maps.compartments import Timing
from hypoxnet.maps.dce import Tofts
from hypoxnet.maps.input_functions import parker, vessel_curve
from hypoxnet.maps.kinds.pet import image_derived
from hypoxnet.maps.pet_kinetics import Frames

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def save(path, array):
    nib.save(nib.Nifti1Image(np.asarray(array), AFFINE), path)
    return str(path)


def contrast_series(folder, onset_s):
    """Tissue of two Ktrans and an artery, 4 s apart, Parker input; artery voxels come last."""
    times = torch.arange(75, dtype=torch.float64) * 4
    blood = parker((times - onset_s) / 60)
    truth = torch.tensor([[0.1] * 300 + [0.25] * 300 + [0.02] * 400, [0.3] * 1000], dtype=torch.float64)
    tissue = Tofts(Timing(times / 60, times / 60), blood / 0.58).evaluate(truth, truth)[0].numpy()
    concentration = np.concatenate([tissue, np.repeat(blood.numpy()[:, None], 40, 1)], 1)
    t1 = np.r_[np.full(1000, 1.2), np.full(40, 1.65)]
    decay = np.exp(-0.005 * (1 / t1 + 4.5 * concentration))
    sin, cos = np.sin(np.radians(20)), np.cos(np.radians(20))
    signal = 1000 * sin * (1 - decay) / (1 - decay * cos) + np.random.default_rng(0).normal(0, 0.3, decay.shape)
    artery = np.zeros(1040, np.uint8)
    artery[1000:] = 1
    series = save(folder / "dce.nii.gz", signal.T.reshape(26, 20, 2, 75).astype(np.float32))
    return series, save(folder / "artery.nii.gz", artery.reshape(26, 20, 2))


@pytest.mark.parametrize("onset_s", [22.0, 26.0])
@pytest.mark.parametrize("aif", ["mask", "auto", "parker"])
def test_ktrans_does_not_depend_on_where_the_bolus_falls_between_volumes(tmp_path, onset_s, aif):
    series, artery = contrast_series(tmp_path, onset_s)
    timing = ["--t10-s", "1.2", "--flip-deg", "20", "--tr-s", "0.005", "--spacing-s", "4"]
    chosen = ["--aif", aif, "--model", "tofts", "--output", str(tmp_path / "maps"), "--no-pictures"]
    chosen += ["--vessel", artery] if aif == "mask" else []
    assert main(["map", "dce", series, *timing, *chosen]) == 0
    ktrans = nib.load(tmp_path / "maps" / "Ktrans.nii.gz").get_fdata().reshape(-1)
    assert np.nanmedian(ktrans[:300]) == pytest.approx(0.1, rel=0.05)
    assert np.nanmedian(ktrans[300:600]) == pytest.approx(0.25, rel=0.05)


def test_a_sharp_bolus_of_a_tracer_is_an_input():
    starts = torch.tensor([0.0, 10, 20, 30, 40, 50, 60, 90, 120, 180, 300, 600]) / 60
    ends = torch.cat([starts[1:], torch.tensor([15.0])])
    artery = torch.tensor([1.0, 2, 1, 3686, 7470, 7805, 5000, 3000, 2200, 1800, 1500, 1000])
    series = torch.stack([artery, artery * 0.01], 1)
    curve = vessel_curve(series, torch.tensor([True, False]))
    assert float(image_derived(curve, Frames(starts, ends)).plasma.max()) == 7805


def refused(arguments, *words, capsys):
    assert main([str(a) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said, said


def test_t1_in_ms_is_refused_by_maps_that_need_it(tmp_path, capsys):
    series, _ = contrast_series(tmp_path, 24.0)
    t1 = save(tmp_path / "t1.nii.gz", np.full((26, 20, 2), 1200.0, np.float32))
    timing = ["--flip-deg", "20", "--tr-s", "0.005", "--spacing-s", "4", "--output", tmp_path / "maps"]
    refused(["map", "dce", series, "--t1", t1, *timing], "median of 1200 s", "divide ms by 1000", capsys=capsys)
    refused(["map", "dce", series, "--t10-s", "1400", *timing], "median of 1400 s", capsys=capsys)
    b1 = save(tmp_path / "b1.nii.gz", np.full((26, 20, 2), 100.0, np.float32))
    refused(["map", "dce", series, "--t10-s", "1.2", "--b1", b1, *timing], "divide % by 100", capsys=capsys)
    assert not (tmp_path / "maps").exists()


def test_suv_needs_the_time_of_its_voxels_and_a_known_unit_of_dose(tmp_path, capsys):
    pet = save(tmp_path / "pet.nii.gz", np.full((4, 4, 4), 8000.0, np.float32))
    arguments = ["map", "suv", pet, "--weight-kg", "75", "--output", tmp_path / "maps", "--no-pictures"]
    refused([*arguments, "--dose-bq", "370e6"], "give decay_s", capsys=capsys)
    sidecar = {"InjectedRadioactivity": 370, "InjectedRadioactivityUnits": "MBq", "InjectionStart": 0}
    (tmp_path / "pet.json").write_text(json.dumps(sidecar | {"ImageDecayCorrectionTime": 9000}))
    assert main([str(a) for a in arguments]) == 0
    suv = nib.load(tmp_path / "maps" / "FMISO_SUV.nii.gz").get_fdata()
    # 370 MBq, 150 minutes of fluorine-18, 75 kg.
    assert suv.max() == pytest.approx(4.18124, abs=5e-6)
    (tmp_path / "pet.json").write_text(json.dumps(sidecar | {"InjectedRadioactivityUnits": "furlong"}))
    refused([*arguments, "--decay-s", "9000"], "'furlong'", capsys=capsys)


def test_an_output_that_is_a_file_is_refused_before_anything_is_fitted(tmp_path, capsys):
    (tmp_path / "maps").write_text("mine")
    pet = save(tmp_path / "pet.nii.gz", np.full((4, 4, 4), 8000.0, np.float32))
    refused(["map", "suv", pet, "--output", tmp_path / "maps"], "is a file; give a folder", capsys=capsys)
    assert (tmp_path / "maps").read_text() == "mine"
