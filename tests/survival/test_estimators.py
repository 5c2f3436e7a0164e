import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import AalenJohansenFitter, KaplanMeierFitter
from r_figures import cohorts
from sksurv.nonparametric import cumulative_incidence_competing_risks

from hypoxnet.survival.estimators import (
    aalen_johansen,
    incidence_curve,
    incidence_of_cohort,
    kaplan_meier,
    numbers_at_risk,
    still_followed,
)


@pytest.fixture
def cohort():
    generator = np.random.default_rng(1)
    return generator.uniform(0, 60, 200), generator.integers(0, 3, 200)


def test_incidence_is_that_of_lifelines_where_times_do_not_tie(cohort):
    months, event = cohort
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = AalenJohansenFitter(calculate_variance=False).fit(months, event, event_of_interest=2)
    for month in (6.0, 24.0, 48.0):
        expected = float(
            fitted.predict(month).iloc[0] if hasattr(fitted.predict(month), "iloc") else fitted.predict(month)
        )
        assert incidence_of_cohort(months, event, month, cause=2) == pytest.approx(expected, abs=1e-9)


def test_incidences_and_freedom_add_up_to_one_with_ties():
    months = np.array([3.0, 3, 3, 5, 5, 8, 8, 9])
    event = np.array([1, 2, 0, 1, 1, 2, 0, 0])
    free = KaplanMeierFitter().fit(months, event > 0)
    for month in (3.0, 5.0, 8.0):
        both = sum(incidence_of_cohort(months, event, month, cause=cause) for cause in (1, 2))
        assert both + float(free.predict(month)) == pytest.approx(1.0)


def test_without_competing_events_incidence_is_one_minus_kaplan_meier(cohort):
    months, event = cohort
    event = (event == 1).astype(np.int64)
    curve = kaplan_meier(months, event)
    times, incidence = aalen_johansen(months, event)
    np.testing.assert_allclose([1 - curve.at(t) for t in times], incidence, atol=1e-12)
    assert (curve.low <= curve.value).all()
    assert (curve.high >= curve.value).all()


def test_weights_are_kaplan_meier_of_the_censoring(cohort):
    months, event = cohort
    fitted = KaplanMeierFitter().fit(months, event == 0)
    at = np.array([5.0, 17.3, 40.0])
    np.testing.assert_allclose(still_followed(months, event, at), fitted.predict(at - 1e-9).to_numpy(), atol=1e-12)


def test_an_event_comes_before_a_censoring_of_the_same_month():
    followed = still_followed(np.array([5.0, 5.0, 9.0]), np.array([1, 0, 1]), np.array([5.0, 6.0]))
    assert followed.tolist() == [1.0, 0.5]


def test_numbers_at_risk_fall(cohort):
    counts = numbers_at_risk(cohort[0], [0, 12, 24, 60])
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 200


ROWS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), min_size=1, max_size=24)


def columns(rows):
    months, event = (np.array(column) for column in zip(*rows, strict=True))
    return months.astype(float), event


def naive(months, event, month):
    """Incidence of failure, freedom from any event, and G just before, by loops over the times."""
    incidence, free, followed = 0.0, 1.0, 1.0
    for time in np.unique(months[months <= month]):
        at_risk, here = (months >= time).sum(), months == time
        struck, any_event = (here & (event == 1)).sum(), (here & (event > 0)).sum()
        incidence += free * struck / at_risk
        free *= 1.0 - any_event / at_risk
        if time < month and at_risk > any_event:
            followed *= 1.0 - (here & (event == 0)).sum() / (at_risk - any_event)
    return incidence, free, followed


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([0.0, 3.0, 4.5, 9.0]))
def test_running_sums_are_the_loops_they_replace(rows, month):
    months, event = columns(rows)
    incidence, _, followed = naive(months, event, month)
    assert incidence_of_cohort(months, event, month) == pytest.approx(incidence, abs=1e-12)
    assert still_followed(months, event, np.array([month]))[0] == pytest.approx(followed, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_the_band_holds_the_incidence_and_stays_between_zero_and_one(rows):
    months, event = columns(rows)
    curve = incidence_curve(months, event)
    assert (curve.low >= 0).all()
    assert (curve.low <= curve.value + 1e-12).all()
    assert (curve.value <= curve.high + 1e-12).all()
    assert (curve.high <= 1).all()
    assert np.isfinite(curve.standard_error).all()


@settings(max_examples=15, deadline=None)
@given(ROWS)
def test_with_one_cause_value_and_error_are_those_of_kaplan_meier(rows):
    months, event = columns(rows)
    months, event = months + 1.0, np.minimum(event, 1)
    incidence, free = incidence_curve(months, event), kaplan_meier(months, event)
    at = np.searchsorted(free.months, incidence.months, side="right") - 1
    np.testing.assert_allclose(1 - free.value[at], incidence.value, atol=1e-12)
    np.testing.assert_allclose(free.standard_error[at], incidence.standard_error, atol=1e-7)


def test_where_rounding_leaves_the_incidence_just_below_one_the_band_is_a_point():
    months, event = np.array([1.0, 1, 1, 1, 2, 2, 2, 3, 4]), np.array([1, 1, 1, 1, 0, 1, 1, 1, 1])
    curve = incidence_curve(months, event)
    assert (curve.low[-1], curve.high[-1]) == (curve.value[-1], curve.value[-1])
    assert curve.value[-1] == pytest.approx(1.0)
    assert curve.standard_error[-1] == 0.0


def test_without_censoring_the_error_is_that_of_a_share():
    months, event = np.arange(1.0, 11.0), np.array([1, 2, 1, 1, 2, 2, 1, 2, 1, 2])
    curve = incidence_curve(months, event)
    share = np.concatenate([[0.0], np.cumsum(event == 1) / 10])
    np.testing.assert_allclose(curve.standard_error, np.sqrt(share * (1 - share) / 10), atol=1e-9)


@pytest.mark.parametrize(("kind", "at_risk", "within"), [("Dinse_Approx", 1, 1e-9), ("Aalen", 12, 0.006)])
@pytest.mark.parametrize("name", ["bmt", "cgvhd", "ties"])
def test_the_band_is_that_of_scikit_survival_and_near_that_of_aalens_variance(name, kind, at_risk, within):
    """The two variances part where few are left: Aalen's is compared while a dozen are at risk."""
    frame = cohorts()[name]
    months, event = frame["months"].to_numpy() + 0.1, frame["event"].to_numpy().astype(int)
    curve = incidence_curve(months, event)
    times, incidence, band = cumulative_incidence_competing_risks(event, months, conf_type="log-log", var_type=kind)
    at = np.searchsorted(curve.months, times, side="right") - 1
    np.testing.assert_allclose(curve.value[at], incidence[1], atol=1e-12)
    some = (incidence[1] > 0) & (np.array(numbers_at_risk(months, times)) >= at_risk)
    np.testing.assert_allclose(curve.low[at][some], band[1][0][some], atol=within)
    np.testing.assert_allclose(curve.high[at][some], band[1][1][some], atol=within)


@pytest.mark.parametrize("months", [[3.0], [3.0, 3.0], [0.0, 0.0]])
def test_without_an_event_curves_are_flat(months):
    months, event = np.array(months), np.zeros(len(months), dtype=int)
    assert aalen_johansen(months, event)[1].tolist() == [0.0]
    curve = incidence_curve(months, event)
    assert (curve.at(60.0), curve.low[0], curve.high[0], curve.standard_error[0]) == (0.0, 0.0, 0.0, 0.0)
    assert kaplan_meier(months, event).at(60.0) == 1.0
    assert incidence_curve(months, np.full(len(months), 2)).at(60.0) == 0.0


def test_when_all_are_struck_at_once_the_curve_is_one_step():
    curve = incidence_curve(np.full(3, 4.0), np.ones(3, dtype=int))
    assert curve.value.tolist() == [0.0, 1.0]
    assert (curve.low[1], curve.high[1], curve.standard_error[1]) == (1.0, 1.0, 0.0)
    assert incidence_curve(np.array([4.0]), np.array([1]), cause=7).value.tolist() == [0.0, 0.0]
    assert aalen_johansen(np.array([]), np.array([], dtype=int))[0].tolist() == [0.0]


def test_a_large_cohort_takes_no_table_of_patients_by_times():
    """A hundred thousand different times; a table of all against all would need 10 GB."""
    generator = np.random.default_rng(0)
    months, event = generator.exponential(20.0, 100_000), generator.integers(0, 3, 100_000)
    incidence = incidence_of_cohort(months, event, 1e9)
    assert incidence == pytest.approx(0.5, abs=0.01)
    assert incidence_curve(months, event).standard_error.max() < 0.05
