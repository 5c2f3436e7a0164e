import warnings

import numpy as np
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter

from hypoxnet.survival.estimators import (
    aalen_johansen,
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
