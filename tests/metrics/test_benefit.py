import numpy as np
import pytest
from hypothesis import given, settings
from tied_cohorts import ROWS, arrays

from hypoxnet.metrics.benefit import decision_curve, discrimination_improvement, reclassification
from hypoxnet.metrics.discrimination import discrimination_slope
from hypoxnet.survival.estimators import incidence_of_cohort

COHORT = np.array([6.0, 9.0, 12.0, 15.0, 30.0, 40.0]), np.array([1, 0, 2, 1, 0, 1])


def test_net_benefit_by_hand():
    """Of ten, four are treated, three rightly: 3/10 - 1/10 times the odds of the threshold."""
    risk = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1])
    event = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
    curve = decision_curve(risk, None, event, month=24.0, thresholds=[0.25, 0.5])
    np.testing.assert_allclose(curve.model, [0.3 - 0.1 / 3, 0.3 - 0.1])
    np.testing.assert_allclose(curve.treat_all, [0.4 - 0.6 / 3, 0.4 - 0.6])


def test_under_censoring_and_death_those_treated_are_a_cohort_of_their_own():
    months, event = COHORT
    risk = np.array([0.8, 0.7, 0.6, 0.3, 0.2, 0.1])
    treated = slice(0, 3)
    failed = incidence_of_cohort(months[treated], event[treated], 24.0)
    found = decision_curve(risk, months, event, month=24.0, thresholds=[0.4]).model[0]
    assert found == pytest.approx(0.5 * failed - 0.5 * (1 - failed) * 0.4 / 0.6)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_at_threshold_zero_everybody_is_treated_and_at_the_top_nobody(rows):
    risk, months, event = arrays(rows)
    curve = decision_curve(risk, months, event, month=4.0, thresholds=[0.0, 0.95])
    assert curve.model[0] == pytest.approx(curve.treat_all[0])
    assert curve.treat_all[0] == pytest.approx(incidence_of_cohort(months, event, 4.0))
    assert curve.model[1] == 0.0
    assert (curve.model <= incidence_of_cohort(months, event, 4.0) + 1e-12).all()


def test_reclassification_without_censoring_counts_who_moved():
    """Three fail: two up, one down. Four do not: one up, two down, one stays (by hand)."""
    event = np.array([1, 1, 1, 0, 0, 0, 0])
    old = np.full(7, 0.4)
    new = np.array([0.5, 0.6, 0.3, 0.5, 0.3, 0.2, 0.4])
    for months in (None, np.where(event == 1, 5.0, 60.0)):
        found = reclassification(new, old, months, event, month=24.0)
        assert found.of_failures == pytest.approx(1 / 3)
        assert found.of_others == pytest.approx(1 / 4)
        assert found.total == pytest.approx(7 / 12)


def test_a_move_inside_a_category_is_none():
    event = np.array([1, 1, 0, 0])
    old, new = np.array([0.15, 0.25, 0.15, 0.35]), np.array([0.19, 0.35, 0.11, 0.25])
    found = reclassification(new, old, None, event, month=24.0, categories=[0.2, 0.3])
    assert (found.of_failures, found.of_others) == (0.5, 0.5)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_improvements_change_sign_when_the_models_change_places(rows):
    risk, months, event = arrays(rows)
    other = np.roll(risk, 1)
    for figure in (
        lambda a, b: reclassification(a, b, months, event, month=4.0),
        lambda a, b: reclassification(a, b, months, event, month=4.0, categories=[0.3, 0.6]),
        lambda a, b: discrimination_improvement(a, b, months, event, month=4.0),
    ):
        there, back = figure(risk, other), figure(other, risk)
        assert (there is None) == (back is None)
        if there is not None:
            values = [getattr(x, "total", x) for x in (there, back)]
            assert values[0] == pytest.approx(-values[1], abs=1e-12)


def test_the_discrimination_slope_without_censoring_is_a_difference_of_means():
    risk, event = np.array([0.9, 0.5, 0.4, 0.2]), np.array([1, 1, 0, 2])
    months = np.array([5.0, 9.0, 60.0, 8.0])
    assert discrimination_slope(risk, months, event, month=24.0) == pytest.approx(0.4)
    assert discrimination_improvement(risk, np.full(4, 0.4), months, event, month=24.0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("months", "event"), [([5.0, 9.0], [0, 2]), ([5.0, 5.0], [1, 1]), ([5.0], [1]), ([0.0, 0.0], [0, 0])]
)
def test_when_nobody_or_everybody_failed_there_is_no_improvement(months, event):
    months, event = np.array(months), np.array(event)
    risk = np.linspace(0.3, 0.6, len(months))
    assert reclassification(risk, risk / 2, months, event, month=6.0) is None
    assert discrimination_improvement(risk, risk / 2, months, event, month=6.0) is None


def test_an_empty_list_of_thresholds_is_an_empty_curve():
    months, event = COHORT
    assert len(decision_curve(np.full(6, 0.3), months, event, month=24.0, thresholds=[]).model) == 0
