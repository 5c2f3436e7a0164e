import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.hypoxia.repeatability import (
    PER_SD,
    Scan,
    ScanPair,
    agreement_icc,
    image_repeatability,
    repeatability,
    voxel_correlation,
    within_sd,
)

# Shrout and Fleiss 1979, table 2: four judges rate six targets.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


def study(n: int, *, between: float, within: float, mean: float = 2.0, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return mean + between * draw.standard_normal((n, 1)) + within * draw.standard_normal((n, 2))


def test_icc_of_the_table_of_shrout_and_fleiss():
    found = agreement_icc(JUDGES)
    assert found.value == pytest.approx(0.2898, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((0.0188, 0.7611), abs=5e-5)


def test_icc_is_the_share_of_variance_between_patients():
    found = agreement_icc(study(4000, between=0.4, within=0.2))
    assert found.value == pytest.approx(0.16 / 0.20, abs=0.015)
    assert found.low < 0.8 < found.high
    assert found.high - found.low < 0.05


def test_a_shift_between_scans_lowers_agreement_but_no_correlation():
    scores = study(200, between=0.4, within=0.05)
    shifted = scores + np.array([0.0, 0.5])
    assert np.corrcoef(shifted.T)[0, 1] == pytest.approx(np.corrcoef(scores.T)[0, 1])
    assert agreement_icc(shifted).value < agreement_icc(scores).value - 0.2


def test_scans_that_agree_fully_have_an_icc_of_one_and_equal_patients_none():
    assert agreement_icc(np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])).low == 1.0
    assert math.isnan(agreement_icc(np.ones((5, 2))).value)


def test_within_sd_is_the_root_of_half_the_mean_square_of_the_differences():
    d = np.array([0.3, -0.1, 0.2, -0.4])
    assert within_sd(d).value == pytest.approx(math.sqrt((d**2).sum() / 8))


def test_coefficients_are_those_of_the_definition():
    scores = study(30, between=0.4, within=0.1)
    found = repeatability(*scores.T)
    assert found.rc.value == pytest.approx(2.7719 * found.wsd.value, rel=1e-4)
    assert found.relative_rc.value == pytest.approx(found.rc.value / scores.mean())
    assert found.bias.value == pytest.approx((scores[:, 1] - scores[:, 0]).mean())
    width = found.upper_limit.value - found.lower_limit.value
    assert width == pytest.approx(2 * 1.96 * (scores[:, 1] - scores[:, 0]).std(ddof=1))


def test_95_percent_of_differences_are_below_the_coefficient():
    first, second = study(20000, between=0.5, within=0.1).T
    rc = repeatability(first, second).rc.value
    assert rc == pytest.approx(PER_SD * 0.1, rel=0.02)
    assert np.mean(np.abs(second - first) < rc) == pytest.approx(0.95, abs=0.005)


def test_intervals_hold_the_truth_in_95_percent_of_studies():
    held = np.zeros(4)
    for seed in range(500):
        found = repeatability(*study(15, between=0.4, within=0.1, seed=seed).T)
        limit = 1.96 * math.sqrt(2.0) * 0.1
        pairs = ((found.wsd, 0.1), (found.icc, 0.16 / 0.17), (found.bias, 0.0), (found.upper_limit, limit))
        held += [estimate.low <= truth <= estimate.high for estimate, truth in pairs]
    # 500 studies tell 0.95 to within 0.02; the interval of a limit is that of a large sample.
    assert held / 500 == pytest.approx([0.95] * 4, abs=0.025)


@given(st.floats(0.5, 20.0), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_another_unit_changes_neither_relative_coefficient_nor_icc(factor, seed):
    scores = study(12, between=0.4, within=0.1, seed=seed)
    one, other = repeatability(*scores.T), repeatability(*(factor * scores).T)
    assert other.relative_rc.value == pytest.approx(one.relative_rc.value)
    assert other.icc.value == pytest.approx(one.icc.value)
    assert other.wsd.low == pytest.approx(factor * one.wsd.low)


def test_a_patient_without_second_scan_is_left_out():
    found = repeatability([1.0, 2.0, 3.0, 4.0], [1.1, math.nan, 3.2, 3.9])
    assert found.patients == 3
    assert found.mean == pytest.approx((1.0 + 1.1 + 3.0 + 3.2 + 4.0 + 3.9) / 6)


def test_a_relative_coefficient_needs_a_mean_above_zero():
    assert math.isnan(repeatability([-1.0, 0.0, 1.0], [-1.1, 0.1, 0.9]).relative_rc.value)


def test_impossible_studies_are_refused():
    with pytest.raises(CaseError, match="3 first scans and 2 second ones"):
        repeatability([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(CaseError, match="2 patients have both scans; three is the least"):
        repeatability([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(CaseError, match="confidence of 95 is not between 0 and 1"):
        repeatability([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], confidence=95)


# ---- images


def test_voxels_correlate_over_the_tumour_only():
    draw = np.random.default_rng(0)
    first = draw.normal(size=(8, 8, 8))
    second = 0.6 * first + 0.8 * draw.normal(size=(8, 8, 8))
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[2:6] = True
    expected = stats.pearsonr(first[mask], second[mask]).statistic
    second[0, 0, 0] = math.nan
    assert voxel_correlation(first, second, mask) == pytest.approx(expected)
    second[3, 3, 3] = math.nan
    assert math.isfinite(voxel_correlation(first, second, mask))


def test_correlation_needs_voxels_that_differ_and_grids_that_agree():
    one = np.ones((4, 4, 4))
    assert math.isnan(voxel_correlation(one, np.random.default_rng(0).normal(size=(4, 4, 4)), one > 0))
    assert math.isnan(voxel_correlation(one, one, one > 1))
    with pytest.raises(CaseError, match="resample them to one grid"):
        voxel_correlation(one, one[1:], one > 0)


def tumours(n: int, *, noise: float, radius_voxels: float = 4.0) -> list[ScanPair]:
    """Balls in a box of 16 voxels of 3 mm, hotter in the middle, measured twice."""
    grid = Grid.from_affine((16, 16, 16), np.diag([3.0, 3.0, 3.0, 1.0]))
    axis = np.arange(16) - 7.5
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    inside = square <= radius_voxels**2
    draw = np.random.default_rng(0)
    pairs = []
    for height in np.linspace(0.3, 1.2, n):
        truth = 1.0 + height * np.exp(-square / 18.0)
        one, two = (truth + noise * draw.normal(size=truth.shape) for _ in range(2))
        pairs.append(ScanPair(Scan(one, inside, grid), Scan(two, inside, grid), two))
    return pairs


def test_scans_without_noise_agree_in_everything():
    found = image_repeatability(tumours(6, noise=0.0), threshold=1.4)
    assert found.maximum.rc.value == 0.0
    assert found.peak is not None
    assert found.peak.icc.value == 1.0
    assert found.hypoxic_ml.wsd.value == 0.0
    assert found.voxel_r == pytest.approx(1.0)
    assert found.dice == 1.0


def test_noise_harms_the_maximum_more_than_peak_and_mean():
    found = image_repeatability(tumours(40, noise=0.1), threshold=1.4)
    assert found.peak is not None
    assert found.maximum.relative_rc.value > 2.0 * found.peak.relative_rc.value > 0.0
    assert found.peak.relative_rc.value > found.mean.relative_rc.value
    assert 0.3 < found.dice < 1.0
    assert 0.5 < found.voxel_r < 1.0


def test_voxel_correlation_is_the_share_of_variance_that_is_true():
    pairs = tumours(40, noise=0.1)
    truth = [np.var((pair.first.ratio + pair.second.ratio)[pair.first.tumour]) / 4 - 0.005 for pair in pairs]
    expected = np.mean([t / (t + 0.01) for t in truth])
    assert image_repeatability(pairs, threshold=1.4).voxel_r == pytest.approx(expected, abs=0.02)


def test_tumours_too_small_or_cold_give_no_peak_and_no_overlap():
    grid = Grid.from_affine((3, 3, 3), np.diag([3.0, 3.0, 3.0, 1.0]))
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        one, two = (1.0 + 0.01 * draw.normal(size=(3, 3, 3)) for _ in range(2))
        pairs.append(ScanPair(*(Scan(r, np.ones((3, 3, 3), dtype=bool), grid) for r in (one, two)), two))
    found = image_repeatability(pairs, threshold=1.4)
    assert found.peak is None
    assert math.isnan(found.dice)
    assert found.hypoxic_ml.mean == 0.0
