import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from tied_cohorts import ROWS, arrays

from hypoxnet.metrics.calibration import (
    calibration_error,
    calibration_intercept,
    calibration_slope,
    distribution_calibration,
    observed_incidence,
    observed_over_expected,
    risk_groups,
    smooth_observed,
)
from hypoxnet.metrics.pseudo_values import pseudo_values
from hypoxnet.survival.estimators import incidence_of_cohort

HORIZON = 24.0


def drawn(n, *, slope=1.0, seed=0):
    """Predicted incidence by 24 months of patients whose true one has another slope on the log(-log) scale."""
    generator = np.random.default_rng(seed)
    scale = generator.normal(-1.2, 0.7, n)
    failure = HORIZON * generator.exponential(1.0, n) / np.exp(-1.2 + slope * (scale + 1.2))
    # Half of those who would fail after 24 months die instead, so that the incidence by 24 months is the truth.
    lost = generator.uniform(6.0, 60.0, n)
    death = np.where(failure > HORIZON, generator.uniform(1.0, 90.0, n), np.inf)
    months = np.minimum(np.minimum(failure, death), lost)
    event = np.where(months == lost, 0, np.where(months == failure, 1, 2))
    return -np.expm1(-np.exp(scale)), months, event


@settings(max_examples=50, deadline=None)
@given(ROWS.filter(lambda rows: len(rows) > 1), st.sampled_from([3.0, 4.5, 9.0]))
def test_pseudo_values_are_those_of_leaving_out_one_by_one(rows, month):
    _, months, event = arrays(rows)
    n = len(months)
    whole = incidence_of_cohort(months, event, month)
    left_out = [incidence_of_cohort(np.delete(months, i), np.delete(event, i), month) for i in range(n)]
    expected = n * whole - (n - 1) * np.array(left_out)
    np.testing.assert_allclose(pseudo_values(months, event, month=month), expected, atol=1e-10)


def test_without_censoring_pseudo_values_are_what_happened():
    months, event = np.array([3.0, 5.0, 8.0, 30.0]), np.array([1, 2, 1, 1])
    np.testing.assert_allclose(pseudo_values(months, event, month=24.0), [1, 0, 1, 0], atol=1e-12)
    assert pseudo_values(None, event, month=24.0).tolist() == [1, 0, 1, 1]
    assert pseudo_values(np.array([3.0]), np.array([1]), month=24.0).tolist() == [1.0]


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.6])
def test_the_slope_that_was_drawn_is_found(slope):
    risk, months, event = drawn(12_000, slope=slope)
    assert calibration_slope(risk, months, event, month=HORIZON) == pytest.approx(slope, abs=0.08)


def test_risk_predicted_too_low_has_a_positive_intercept():
    risk, months, event = drawn(12_000)
    assert calibration_intercept(risk, months, event, month=HORIZON) == pytest.approx(0.0, abs=0.06)
    low = -np.expm1(np.log1p(-risk) / 2)  # half the cumulative hazard
    assert calibration_intercept(low, months, event, month=HORIZON) == pytest.approx(np.log(2), abs=0.06)


def test_a_calibrated_model_has_a_small_error_and_an_extreme_one_a_larger():
    risk, months, event = drawn(6000)
    right = calibration_error(risk, months, event, month=HORIZON)
    assert right.mean < 0.02
    assert right.median <= right.ninety_percent <= right.largest
    risk, months, event = drawn(6000, slope=0.3)
    assert calibration_error(risk, months, event, month=HORIZON).mean > 0.08


def test_the_smooth_curve_rises_to_what_groups_observe():
    risk, months, event = drawn(6000, slope=0.5)
    smooth = smooth_observed(risk, months, event, month=HORIZON)
    for group in risk_groups(risk, 5):
        observed = observed_incidence(months[group], event[group], month=HORIZON)
        assert smooth[group].mean() == pytest.approx(observed, abs=0.035)


def test_where_there_is_no_scale_or_no_failure_there_is_no_slope():
    risk, months, event = np.array([0.2, 0.4, 0.5]), np.array([5.0, 9.0, 30.0]), np.array([1, 2, 0])
    nobody, everybody = np.zeros(3, dtype=int), np.ones(3, dtype=int)
    for figure in (calibration_slope, calibration_intercept):
        assert figure(risk, months, nobody, month=HORIZON) is None
        assert figure(risk, np.full(3, 5.0), everybody, month=HORIZON) is None
        assert figure(np.array([0.0, 0.4, 0.5]), months, event, month=HORIZON) is None
        assert figure(risk[:1], months[:1], event[:1], month=HORIZON) is None
    assert calibration_slope(np.full(3, 0.4), months, event, month=HORIZON) is None
    assert calibration_intercept(np.full(3, 0.4), months, event, month=HORIZON) is not None
    # The risk separates who failed.
    assert calibration_slope(np.array([0.1, 0.2, 0.3, 0.4]), None, np.array([0, 0, 1, 1]), month=HORIZON) is None
    assert calibration_error(risk, months, nobody, month=HORIZON) is None
    assert calibration_error(np.full(3, 0.4), months, event, month=HORIZON) is None


def test_a_calibrated_model_has_ratio_one_and_half_the_risk_has_two():
    generator = np.random.default_rng(0)
    risk = np.full(4000, 0.4)
    failed = generator.random(4000) < 0.4
    months = np.where(failed, 10.0, 60.0)
    event = failed.astype(np.int64)
    assert observed_over_expected(risk, months, event, month=24.0) == pytest.approx(1.0, abs=0.06)
    assert observed_over_expected(risk / 2, months, event, month=24.0) == pytest.approx(2.0, abs=0.12)
    assert observed_over_expected(np.zeros(4000), months, event, month=24.0) is None


def test_groups_hold_everyone_once_in_order_of_risk():
    risk = np.random.default_rng(0).random(23)
    groups = risk_groups(risk, 4)
    assert sorted(np.concatenate(groups)) == list(range(23))
    assert all(risk[a].max() <= risk[b].min() for a, b in itertools.pairwise(groups))


def test_a_censored_patient_is_spread_over_what_may_come():
    """Censored at a probability of 0.45: 0.05/0.45 in its own fifth, 0.2/0.45 in each below (by hand)."""
    found = distribution_calibration(np.array([0.45, 0.45]), np.array([0, 1]), bins=5)
    np.testing.assert_allclose(found.counts, [0.2 / 0.45, 0.2 / 0.45, 0.05 / 0.45 + 1.0, 0, 0])
    at_the_ends = distribution_calibration(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 1, 0, 1]), bins=5)
    np.testing.assert_allclose(at_the_ends.counts, [2.2, 0.2, 0.2, 0.2, 1.2])
    assert distribution_calibration(np.array([]), np.array([], dtype=int)) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 2)), min_size=1, max_size=30), st.integers(2, 12))
def test_every_patient_is_counted_once(rows, bins):
    free, event = (np.array(column) for column in zip(*rows, strict=True))
    found = distribution_calibration(free, event, bins=bins)
    assert found.counts.sum() == pytest.approx(len(rows))
    assert (found.counts >= 0).all()
    assert 0 <= found.p_value <= 1


def test_the_true_distribution_passes_as_often_as_it_should_and_a_wrong_one_fails():
    generator = np.random.default_rng(0)
    p_values, wrong = [], []
    for _ in range(200):
        rate = np.exp(generator.normal(-3.0, 0.5, 300))
        time = generator.exponential(1.0 / rate)
        event = generator.random(300) < 0.9
        free = np.exp(-rate * time)
        # Censoring before the event: the probability at it is uniform above that of the event.
        free = np.where(event, free, free + (1.0 - free) * generator.random(300))
        p_values.append(distribution_calibration(free, event.astype(int)).p_value)
        wrong.append(distribution_calibration(free**1.6, event.astype(int)).p_value)
    assert np.mean(np.array(p_values) < 0.05) < 0.1
    assert kstest(p_values, "uniform", alternative="greater").pvalue > 1e-3
    assert np.mean(np.array(wrong) < 0.05) > 0.95
