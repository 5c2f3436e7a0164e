"""Four real head-and-neck patients with their planned dose become anatomies, each side and each level in its place."""

import csv

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from hypoxnet.phantom.open_kbp import read_open_kbp
from hypoxnet.phantom.parameters.anatomy import Neck
from hypoxnet.phantom.words import Tissue

pytestmark = pytest.mark.reference
NAMES = ("pt_51", "pt_143", "pt_170", "pt_203")


def table(path):
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    return {int(row[0]): float(row[1] or 1.0) for row in rows}


def mean_index(path):
    return np.mean(np.unravel_index(list(table(path)), (128,) * 3), axis=1)


@pytest.fixture(scope="module", params=NAMES)
def patient(request, reference):
    folder = reference / "open_kbp" / request.param
    anatomy = read_open_kbp(folder, spacing_mm=3.0, neck=Neck(), generator=np.random.default_rng(0))
    return folder, anatomy


def points_mm(anatomy, mask):
    matrix = anatomy.grid.matrix
    return np.argwhere(mask.numpy()) @ matrix[:3, :3].T + matrix[:3, 3]


def test_axes_of_the_files_run_to_the_back_to_the_left_and_down(patient):
    folder, _ = patient
    cord, target = mean_index(folder / "SpinalCord.csv"), mean_index(folder / "PTV70.csv")
    assert cord[0] > target[0]
    if (folder / "LeftParotid.csv").is_file():
        left, right = (mean_index(folder / f"{side}Parotid.csv") for side in ("Left", "Right"))
        # Some 25 voxels of 3.9 mm apart, and on either side of the cord.
        assert left[1] > cord[1] > right[1]
        assert mean_index(folder / "Brainstem.csv")[2] < min(left[2], right[2]) < cord[2]
    step = [float(line) for line in (folder / "voxel_dimensions.csv").read_text().split()]
    assert step[0] == step[1] != step[2]


def test_the_cord_lies_behind_the_airway_and_the_anatomy_is_ras(patient):
    _, anatomy = patient
    assert np.array_equal(np.diag(anatomy.grid.matrix[:3, :3]), [3.0, 3.0, 3.0])
    cord, air, tumour = (points_mm(anatomy, anatomy.is_a(t)) for t in (Tissue.CORD, Tissue.AIRWAY, Tissue.TUMOUR))
    assert cord[:, 1].mean() < air[:, 1].mean()
    assert cord[:, 1].mean() < tumour[:, 1].mean()
    # Levels where there is an airway and a cord: the airway is always in front.
    for level in np.intersect1d(cord[:, 2], air[:, 2]):
        assert np.median(cord[cord[:, 2] == level, 1]) < np.median(air[air[:, 2] == level, 1]) + 10.0


def test_the_side_of_the_tumour_is_kept(patient):
    folder, anatomy = patient
    step = float((folder / "voxel_dimensions.csv").read_text().split()[0])
    to_the_left = (mean_index(folder / "PTV70.csv")[1] - mean_index(folder / "SpinalCord.csv")[1]) * step
    cord, tumour = (points_mm(anatomy, anatomy.is_a(t)) for t in (Tissue.CORD, Tissue.TUMOUR))
    # RAS+: the patient's left has negative x. Bone and air are taken out of the target, the brainstem joins the cord.
    assert cord[:, 0].mean() - tumour[:, 0].mean() == pytest.approx(to_the_left, abs=6.0)


def test_target_dose_and_volume_are_those_of_the_files(patient):
    folder, anatomy = patient
    step = [float(line) for line in (folder / "voxel_dimensions.csv").read_text().split()]
    target, dose = table(folder / "PTV70.csv"), table(folder / "dose.csv")
    target_ml = len(target) * float(np.prod(step)) / 1000
    tumour_ml = float(anatomy.tumour.sum()) * anatomy.grid.voxel_ml
    assert 0.65 * target_ml < tumour_ml < target_ml
    planned = float(np.mean([dose[index] for index in target if index in dose]))
    deep = anatomy.tumour & (anatomy.depth_mm > 3.0)
    assert float(anatomy.dose_gy[deep].mean()) == pytest.approx(planned, rel=0.05)
    assert float(anatomy.dose_gy.max()) <= max(dose.values()) + 1e-3
    assert int(anatomy.nodes.max()) == 0


def test_tissues_have_plausible_shares_and_references_keep_their_distance(patient):
    _, anatomy = patient
    body = float(anatomy.body.sum())
    share = {t: float((anatomy.tissue == t).sum()) / body for t in Tissue}
    assert 0.05 < share[Tissue.FAT] < 0.4
    assert 0.03 < share[Tissue.BONE] < 0.2
    assert 0.15 < share[Tissue.MUSCLE] + share[Tissue.TUMOUR] < 0.8
    assert 0.0 < share[Tissue.ARTERY] < share[Tissue.VEIN] < 0.05
    muscle, blood = anatomy.muscle_reference, anatomy.blood_reference
    assert 1.0 < float(muscle.sum()) * anatomy.grid.voxel_ml < 6.0
    assert float(blood.sum()) * anatomy.grid.voxel_ml > 1.0
    assert bool(torch.isin(anatomy.tissue[blood], torch.tensor([Tissue.ARTERY, Tissue.VEIN], dtype=torch.uint8)).all())
    assert cKDTree(points_mm(anatomy, anatomy.tumour)).query(points_mm(anatomy, muscle))[0].min() >= 10.0 - 1e-9
