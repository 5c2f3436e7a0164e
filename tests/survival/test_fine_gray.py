import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_rossi
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from hypoxnet.survival.estimators import incidence_of_cohort, still_followed
from hypoxnet.survival.fine_gray import fine_gray
from hypoxnet.survival.regression import cause_specific_cox

COHORTS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 2), st.integers(-2, 2), st.integers(0, 1)), min_size=12, max_size=40
)


def columns(rows):
    months, event, *x = (np.array(column) for column in zip(*rows, strict=True))
    return months.astype(float), event, np.stack(x, axis=1).astype(float)


def naive_score(months, event, x, coefficients):
    """Score and information by a loop over times and patients."""
    score, information = np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2)
    followed = still_followed(months, event, months)
    for i in np.flatnonzero(event == 1):
        then = still_followed(months, event, months[i : i + 1])[0]
        weight = np.where(months >= months[i], 1.0, np.where(event == 2, then / followed, 0.0))
        weight = weight * np.exp(x @ coefficients)
        mean = weight @ x / weight.sum()
        score += x[i] - mean
        information += (x - mean).T @ ((x - mean) * weight[:, None]) / weight.sum()
    return score, information


@settings(max_examples=25, deadline=None)
@given(COHORTS)
def test_the_score_of_a_plain_loop_is_zero_at_the_solution(rows):
    months, event, x = columns(rows)
    fit = fine_gray(months, event, x)
    if fit is not None:
        score, information = naive_score(months, event, x, fit.coefficients)
        assert np.abs(np.linalg.solve(information, score)).max() < 1e-6


def test_without_competing_events_it_is_cox_with_breslow_ties():
    rossi = load_rossi()
    months, event = rossi["week"].to_numpy(float), rossi["arrest"].to_numpy()
    x = rossi[["fin", "age", "prio"]].to_numpy(float)
    peer = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14).fit(x, Surv.from_arrays(event, months))
    fit = fine_gray(months, event, x)
    np.testing.assert_allclose(fit.coefficients, peer.coef_, atol=1e-6)
    expected = [1.0 - curve(26.0) for curve in peer.predict_survival_function(x[:4])]
    np.testing.assert_allclose(fit.incidence(x[:4], 26.0), expected, atol=1e-6)


def test_units_of_a_covariate_do_not_matter():
    generator = np.random.default_rng(0)
    months, event = generator.exponential(20.0, 200).round(), generator.integers(0, 3, 200)
    x = generator.normal(size=(200, 2))
    fit, scaled = fine_gray(months, event, x), fine_gray(months, event, x * [1000.0, 0.01] + [500.0, -3.0])
    np.testing.assert_allclose(scaled.coefficients * [1000.0, 0.01], fit.coefficients, atol=1e-8)
    np.testing.assert_allclose(scaled.p_values, fit.p_values, atol=1e-8)
    np.testing.assert_allclose(
        scaled.incidence(x * [1000.0, 0.01] + [500.0, -3.0], 12.0), fit.incidence(x, 12.0), atol=1e-8
    )


def test_the_mean_prediction_is_the_incidence_of_the_cohort():
    generator = np.random.default_rng(4)
    x = generator.normal(size=(3000, 1))
    hazard = 0.03 * np.exp(0.7 * x[:, 0])
    failure, death = generator.exponential(1 / hazard), generator.exponential(50.0, 3000)
    lost = generator.uniform(5.0, 60.0, 3000)
    months = np.minimum(np.minimum(failure, death), lost)
    event = np.where(months == lost, 0, np.where(months == failure, 1, 2))
    fit = fine_gray(months, event, x)
    assert fit.incidence(x, 24.0).mean() == pytest.approx(incidence_of_cohort(months, event, 24.0), abs=0.01)
    assert (fit.incidence(x, 0.0) == 0).all()


def test_robust_errors_are_the_spread_of_refits():
    generator = np.random.default_rng(1)
    fits = []
    for _ in range(120):
        x = generator.normal(size=(150, 1))
        failure = generator.exponential(20.0 * np.exp(-0.6 * x[:, 0]))
        death, lost = generator.exponential(30.0, 150), generator.uniform(5.0, 50.0, 150)
        months = np.minimum(np.minimum(failure, death), lost)
        fits.append(fine_gray(months, np.where(months == lost, 0, np.where(months == failure, 1, 2)), x))
    spread = np.std([fit.coefficients[0] for fit in fits])
    assert np.mean([fit.standard_errors[0] for fit in fits]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("regression", [fine_gray, cause_specific_cox])
def test_a_regression_without_a_solution_is_none(regression):
    months, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.array([1, 1, 2, 1, 0, 0])
    x = np.array([[1.0], [0.0], [1.0], [1.0], [0.0], [0.5]])
    assert regression(months, event, x) is not None
    assert regression(months, np.zeros(6, dtype=int), x) is None
    assert regression(months, event, x, cause=3) is None
    assert regression(months, event, np.ones((6, 1))) is None
    assert regression(months, event, np.hstack([x, 2 * x])) is None
    assert regression(months[:1], event[:1], x[:1]) is None
    # Who fails next always has the largest value.
    assert regression(months, np.array([1, 1, 1, 1, 0, 0]), -months[:, None]) is None
    # All fail at once.
    assert regression(np.full(6, 4.0), np.ones(6, dtype=int), x) is None


def test_intervals_of_hazard_ratios_hold_their_estimate():
    months, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.array([1, 1, 2, 1, 0, 0])
    fit = cause_specific_cox(months, event, np.array([[1.0], [0.0], [1.0], [1.0], [0.0], [0.5]]))
    (low, high), ratio = fit.intervals()[0], np.exp(fit.coefficients[0])
    assert low < ratio < high
    assert low * high == pytest.approx(ratio**2)
