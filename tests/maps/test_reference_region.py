import math

import numpy as np
import pytest
from scipy import ndimage

from hypoxnet.errors import CaseError, MapError
from hypoxnet.geometry import Grid
from hypoxnet.maps.reference_region import find_body, find_muscle, ratio_map, reference_report, reference_value


class Neck:
    """An elliptic cylinder with a hot tumour on one side, an airway and a spine; noise of 5 %."""

    def __init__(self, spacing=(4.0, 4.0, 4.0), tumour_x=28.0, flip=False):
        shape = tuple(round(extent / s) for extent, s in zip((160.0, 140.0, 100.0), spacing, strict=True))
        matrix = np.diag([-spacing[0] if flip else spacing[0], spacing[1], spacing[2], 1.0])
        matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
        self.grid = Grid.from_affine(shape, matrix)
        index = np.stack([*np.indices(shape), np.ones(shape)])
        self.x, self.y, self.z = np.tensordot(self.grid.matrix[:3], index, axes=1)
        self.body = (self.x / 65) ** 2 + (self.y / 58) ** 2 < 1
        self.air = (self.x / 9) ** 2 + ((self.y - 25) / 8) ** 2 < 1
        self.bone = (self.x / 13) ** 2 + ((self.y + 32) / 11) ** 2 < 1
        self.tumour = (self.x - tumour_x) ** 2 + self.y**2 + self.z**2 < 15.0**2
        clean = np.where(self.body, 1.0, 0.0)
        clean[self.air] = 0.05
        clean[self.bone] = 0.6
        clean[self.tumour] = 3.0
        noise = 1.0 + 0.05 * np.random.default_rng(7).standard_normal(shape)
        self.suv = ndimage.gaussian_filter(clean, [2.5 / s for s in spacing]) * noise
        self.ct = np.where(self.body, 55.0, -1000.0)
        self.ct[self.air] = -1000.0
        self.ct[self.bone] = 600.0


@pytest.fixture(scope="module")
def neck() -> Neck:
    return Neck()


def test_reference_value_is_the_median_or_the_mean():
    suv = np.random.default_rng(0).gamma(3.0, 0.5, (5, 5, 5))
    region = suv > 1.0
    assert reference_value(suv, region) == np.median(suv[region])
    assert reference_value(suv, region, statistic="mean") == suv[region].mean()
    with pytest.raises(CaseError, match="statistic of a reference region is 'mode'"):
        reference_value(suv, region, statistic="mode")


def test_empty_and_cold_regions_are_refused():
    with pytest.raises(CaseError, match="empty"):
        reference_value(np.ones((2, 2, 2)), np.zeros((2, 2, 2), bool))
    with pytest.raises(CaseError, match="uptake of 0 g/ml"):
        reference_value(np.zeros((2, 2, 2)), np.ones((2, 2, 2), bool))


def test_report_of_an_even_region_far_away_has_no_warnings(neck):
    region = (np.abs(neck.x + 38) < 9) & (np.abs(neck.y) < 9) & (np.abs(neck.z) < 20)
    report = reference_report(neck.suv, region, neck.grid, tumour=neck.tumour)
    assert report.value == pytest.approx(1.0, rel=0.02)
    assert report.voxels == np.count_nonzero(region)
    assert report.volume_ml == pytest.approx(report.voxels * 0.064)
    assert report.coefficient_of_variation == pytest.approx(0.05, abs=0.015)
    assert report.warnings == ()


def test_report_warns_of_each_fault_on_its_own():
    grid = Grid.from_affine((20, 20, 20), np.diag([4.0, 4.0, 4.0, 1.0]))
    region = np.zeros(grid.shape, bool)
    region[2:5, 2:5, 2:5] = True
    uneven = np.ones(grid.shape)
    uneven[2] = 2.0
    (spread,) = reference_report(uneven, region, grid).warnings
    assert "varies by 35%, at most 20%" in spread
    small = np.zeros(grid.shape, bool)
    small[2, 2, :15] = True
    (size,) = reference_report(np.ones(grid.shape), small, grid).warnings
    assert "0.96 ml, at least 1 ml" in size
    tumour = np.zeros(grid.shape, bool)
    tumour[6, 3, 3] = True
    (near,) = reference_report(np.ones(grid.shape), region, grid, tumour=tumour).warnings
    assert "within 8.0 mm of the tumour, at least 10 mm" in near
    tumour[:] = False
    tumour[7, 3, 3] = True
    assert reference_report(np.ones(grid.shape), region, grid, tumour=tumour).warnings == ()


def test_report_takes_the_statistic_it_is_told():
    grid = Grid.from_affine((1, 1, 3), np.diag([10.0, 10.0, 10.0, 1.0]))
    suv, region = np.array([[[1.0, 2.0, 6.0]]]), np.ones((1, 1, 3), bool)
    assert reference_report(suv, region, grid).value == 2.0
    assert reference_report(suv, region, grid, statistic="mean").value == 3.0
    with pytest.raises(CaseError, match="'mode', it must be median or mean"):
        reference_report(suv, region, grid, statistic="mode")


def test_report_refuses_voxels_without_value_and_other_shapes():
    grid = Grid.from_affine((1, 1, 3), np.diag([10.0, 10.0, 10.0, 1.0]))
    with pytest.raises(MapError, match="1 of the 3 voxels"):
        reference_report(np.array([[[1.0, np.nan, 6.0]]]), np.ones((1, 1, 3), bool), grid)
    with pytest.raises(MapError, match=r"region is \(1, 1, 2\), the grid \(1, 1, 3\)"):
        reference_report(np.ones((1, 1, 3)), np.ones((1, 1, 2), bool), grid)


def test_ratio_of_the_reference_is_one_and_nan_stays():
    ratio = ratio_map(np.array([[[1.6, 3.2, np.nan]]], dtype=np.float32), 1.6)
    assert ratio.dtype == np.float64
    assert ratio[0, 0, :2] == pytest.approx([1.0, 2.0])
    assert math.isnan(ratio[0, 0, 2])


@pytest.mark.parametrize("reference", [0.0, -1.0, math.nan, math.inf])
def test_ratio_to_nothing_is_refused(reference):
    with pytest.raises(MapError, match="gives no ratio"):
        ratio_map(np.ones((1, 1, 1)), reference)


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (2.0, 2.0, 5.0)])
@pytest.mark.parametrize("with_ct", [False, True])
def test_proposed_muscle_is_three_spheres_deep_far_even_and_contralateral(spacing, with_ct):
    case = Neck(spacing)
    region = find_muscle(case.suv, grid=case.grid, tumour=case.tumour, ct_hu=case.ct if with_ct else None)
    report = reference_report(case.suv, region, case.grid, tumour=case.tumour)
    assert report.warnings == ()
    assert report.value == pytest.approx(1.0, rel=0.03)
    assert 3.0 < report.volume_ml < 5.5
    assert ndimage.distance_transform_edt(case.body, sampling=spacing)[region].min() >= 10.0 - max(spacing)
    assert case.x[region].mean() < -10
    assert not (region & (case.air | case.bone)).any()


def test_spheres_do_not_overlap(neck):
    region = find_muscle(neck.suv, grid=neck.grid, tumour=neck.tumour, body=neck.body)
    # 27 voxel centres of 4 mm lie within the radius of 1.5 ml.
    assert np.count_nonzero(region) == 3 * 27


def test_side_is_that_of_the_patient_not_of_the_array():
    plain, flipped = Neck(), Neck(flip=True)
    for case in (plain, flipped):
        region = find_muscle(case.suv, grid=case.grid, tumour=case.tumour, body=case.body)
        assert case.x[region].mean() < -10


def test_proposal_is_the_same_every_time_and_in_other_units(neck):
    first = find_muscle(neck.suv, grid=neck.grid, tumour=neck.tumour, body=neck.body)
    assert np.array_equal(first, find_muscle(neck.suv, grid=neck.grid, tumour=neck.tumour, body=neck.body))
    assert np.array_equal(first, find_muscle(3.0 * neck.suv, grid=neck.grid, tumour=neck.tumour, body=neck.body))


def test_noiseless_image_has_a_proposal_too(neck):
    flat = np.where(neck.body, 1.0, 0.0)
    region = find_muscle(flat, grid=neck.grid, tumour=neck.tumour)
    assert flat[region].min() == 1.0


def test_voxels_without_value_are_left_out(neck):
    suv = neck.suv.copy()
    suv[neck.x < -20] = np.nan
    region = find_muscle(suv, grid=neck.grid, tumour=neck.tumour, body=neck.body)
    assert np.isfinite(suv[region]).all()


def test_no_room_for_three_spheres_is_said(neck):
    with pytest.raises(MapError, match=r"0 of 3 spheres of 1\.5 ml.*draw the reference region by hand"):
        find_muscle(neck.suv, grid=neck.grid, tumour=neck.body)
    fat = np.full(neck.grid.shape, -90.0)
    with pytest.raises(MapError, match="0 of 3 spheres"):
        find_muscle(neck.suv, grid=neck.grid, tumour=neck.tumour, ct_hu=fat)
    with pytest.raises(MapError, match="0 of 3 spheres"):
        find_muscle(np.zeros(neck.grid.shape), grid=neck.grid, tumour=neck.tumour)


def test_body_is_found_up_to_the_blur_and_without_the_airway(neck):
    found = find_body(neck.suv, neck.grid)
    assert found[neck.body & ~ndimage.binary_dilation(neck.air, iterations=1)].all()
    outside = ndimage.distance_transform_edt(~neck.body, sampling=neck.grid.spacing_mm)
    assert outside[found].max() < 8.0
    assert not find_body(np.zeros(neck.grid.shape), neck.grid).any()


def test_only_the_largest_object_is_the_body_and_its_cavities_belong_to_it():
    grid = Grid.from_affine((30, 30, 30), np.diag([4.0, 4.0, 4.0, 1.0]))
    suv = np.zeros(grid.shape)
    suv[2:20, 2:20, 2:20] = 1.0
    suv[8:13, 8:13, 8:13] = 0.0
    suv[25:28, 25:28, 25:28] = 5.0
    found = find_body(suv, grid)
    assert found[10, 10, 10]
    assert not found[26, 26, 26]
