import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.open_kbp import read_open_kbp
from hypoxnet.phantom.parameters.anatomy import Neck
from hypoxnet.phantom.words import Tissue

SHAPE = (128, 128, 128)


def write_table(path, index, values=None):
    values = [""] * len(index) if values is None else values
    path.write_text(",data\n" + "".join(f"{i},{v}\n" for i, v in zip(index, values, strict=True)), encoding="utf-8")


@pytest.fixture
def open_kbp(tmp_path):
    """A made-up patient in the format of OpenKBP: a cylinder with airway, cord, jaw, two parotids and two targets."""
    i, j, k = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")

    def ball(ci, cj, ck, radius):
        return (i - ci) ** 2 + (j - cj) ** 2 + (k - ck) ** 2 < radius**2

    def rod(ci, cj, radius):
        return (i - ci) ** 2 + (j - cj) ** 2 < radius**2

    part = (k >= 44) & (k < 88)
    stored = np.where(rod(64, 64, 16) & part, 1050.0, 0.0)
    stored[rod(64, 64, 16) & ~rod(64, 64, 14) & part] = 900.0
    stored[rod(60, 64, 2) & part] = 20.0
    stored[ball(52, 64, 60, 3)] = 1900.0
    structures = {
        "PTV70": ball(63, 56, 64, 6) | ball(64, 74, 66, 3),
        "SpinalCord": rod(70, 64, 1.5) & (k >= 46) & part,
        "LeftParotid": ball(64, 77, 54, 3),
        "RightParotid": ball(64, 51, 54, 3),
    }
    dose = np.where(structures["PTV70"], 70.0, 20.0) * (stored > 0)
    for name, values in (("ct", stored), ("dose", dose)):
        write_table(tmp_path / f"{name}.csv", np.flatnonzero(values), values[values > 0])
    for name, mask in structures.items():
        write_table(tmp_path / f"{name}.csv", np.flatnonzero(mask))
    (tmp_path / "voxel_dimensions.csv").write_text("3.9\n3.9\n3.0\n", encoding="utf-8")
    return tmp_path


def ml(anatomy, mask):
    return float(mask.sum()) * anatomy.grid.voxel_ml


def points_mm(anatomy, mask):
    matrix = anatomy.grid.matrix
    return np.argwhere(mask.numpy()) @ matrix[:3, :3].T + matrix[:3, 3]


def kbp(folder, spacing_mm=3.0):
    return read_open_kbp(folder, spacing_mm=spacing_mm, neck=Neck(), generator=np.random.default_rng(0))


def test_open_kbp_is_turned_to_the_axes_of_the_patient(open_kbp):
    anatomy = kbp(open_kbp)
    assert np.array_equal(anatomy.grid.matrix[:3, :3], np.diag([3.0, 3.0, 3.0]))
    # The larger target has the smaller second index, so it is on the right: x above 0.
    primary, node = points_mm(anatomy, anatomy.primary), points_mm(anatomy, anatomy.nodes == 1)
    middle = (51 + 76) / 2
    assert primary[:, 0].mean() == pytest.approx((middle - 56) * 3.9, abs=2.0)
    assert node[:, 0].mean() == pytest.approx((middle - 74) * 3.9, abs=2.0)
    assert node[:, 2].mean() - primary[:, 2].mean() == pytest.approx(-6.0, abs=2.0)
    cord, bone = points_mm(anatomy, anatomy.is_a(Tissue.CORD)), anatomy.is_a(Tissue.BONE)
    assert cord[:, 1].mean() == pytest.approx(points_mm(anatomy, anatomy.tumour)[:, 1].mean() - 7 * 3.9, abs=3.0)
    assert points_mm(anatomy, bone)[:, 1].max() > cord[:, 1].max()


def test_open_kbp_keeps_volume_dose_and_tissue(open_kbp):
    anatomy = kbp(open_kbp)
    voxel = 3.9 * 3.9 * 3.0 / 1000
    ball = 4 / 3 * math.pi * 6**3 * voxel
    # Vessels of the synthetic neck and the airway take a part of it.
    assert 0.75 * ball < ml(anatomy, anatomy.primary) < 1.05 * ball
    assert int(anatomy.nodes.max()) == 1
    deep = anatomy.primary & (anatomy.depth_mm > 6.0)
    assert float(anatomy.dose_gy[deep].mean()) == pytest.approx(70.0, abs=0.5)
    assert float(anatomy.dose_gy.max()) <= 70.0 + 1e-3
    assert bool(anatomy.blood_reference.any())
    assert bool(anatomy.muscle_reference.any())
    away = cKDTree(points_mm(anatomy, anatomy.tumour)).query(points_mm(anatomy, anatomy.muscle_reference))[0]
    assert away.min() >= 10.0 - 1e-9
    assert anatomy.subsite == "unknown"


def test_open_kbp_needs_no_organs(open_kbp):
    for name in ("SpinalCord", "LeftParotid", "RightParotid"):
        (open_kbp / f"{name}.csv").unlink()
    anatomy = kbp(open_kbp)
    assert bool(anatomy.blood_reference.any())
    assert bool(anatomy.is_a(Tissue.AIRWAY).any())


@pytest.mark.parametrize("name", ["ct.csv", "dose.csv", "PTV70.csv", "voxel_dimensions.csv"])
def test_a_folder_that_lacks_a_file_is_refused_by_name(open_kbp, name):
    (open_kbp / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}.*folder of one patient"):
        kbp(open_kbp)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ct.csv", ",data\n5\n"),
        ("ct.csv", ",data\n5,bone\n"),
        ("dose.csv", ",data\n5,nan\n"),
        ("dose.csv", ",data\n2097152,1.0\n"),
        ("PTV70.csv", ",data\n-1,\n"),
        ("PTV70.csv", ",data\n"),
        ("PTV70.csv", ",data\n1.5,\n"),
        ("voxel_dimensions.csv", "3.9\n3.9\n"),
        ("voxel_dimensions.csv", "3.9\n3.9\n0\n"),
        ("voxel_dimensions.csv", "wide\n"),
    ],
)
def test_a_wrong_table_is_refused_by_name(open_kbp, name, text):
    (open_kbp / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=name):
        kbp(open_kbp)


def test_a_target_in_the_air_and_a_spacing_of_zero_are_refused(open_kbp):
    with pytest.raises(ConfigError, match="spacing_mm=0"):
        kbp(open_kbp, spacing_mm=0.0)
    write_table(open_kbp / "PTV70.csv", [5 * 128 * 128 + 5 * 128 + 5])
    with pytest.raises(ConfigError, match=r"PTV70\.csv.*no target in soft tissue"):
        kbp(open_kbp)
