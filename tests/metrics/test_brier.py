import numpy as np
import pytest
from hypothesis import given, settings
from sksurv.datasets import load_gbsg2, load_whas500
from sksurv.metrics import brier_score
from sksurv.metrics import integrated_brier_score as sksurv_integrated
from sksurv.util import Surv
from tied_cohorts import ROWS, arrays, events_first

from hypoxnet.metrics.brier import brier_at, brier_without_model, integrated_brier, prediction_accuracy
from hypoxnet.metrics.ipcw import failed_by


@pytest.mark.parametrize("load", [load_gbsg2, load_whas500])
def test_brier_of_real_cohorts_is_that_of_scikit_survival(load):
    _, y = load()
    event, months = (y[field] for field in y.dtype.names)
    months, event = months / 30.4375, event.astype(int)
    at = np.quantile(months, [0.2, 0.4, 0.6, 0.7]) + 1e-3
    risk = np.random.default_rng(0).random((len(months), 1)) ** 2 * np.linspace(0.4, 0.9, 4)
    outcome = Surv.from_arrays(event > 0, events_first(months, event))
    _, expected = brier_score(outcome, outcome, 1.0 - risk, at)
    found = [brier_at(column, months, event, month=month) for column, month in zip(risk.T, at, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    expected = sksurv_integrated(outcome, outcome, 1.0 - risk, at)
    assert integrated_brier(risk, months, event, at=list(at)) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_weights_stand_for_the_whole_cohort_and_give_back_aalen_johansen(rows):
    """Weights add up to the number of patients; the weighted share of failures is the incidence, ties or not."""
    _, months, event = arrays(rows)
    status = failed_by(months, event, 4.0)
    if status is not None:
        failed, weight = status
        assert weight.sum() == pytest.approx(len(months))
        without = brier_without_model(months, event, month=4.0)
        share = (weight * failed).sum() / len(months)
        assert without == pytest.approx(share * (1 - share))


def test_competing_deaths_are_patients_who_never_fail():
    risk, months, event = np.array([0.2, 0.7, 0.4]), np.array([5.0, 9.0, 40.0]), np.array([2, 1, 0])
    assert brier_at(risk, months, event, month=24.0) == pytest.approx((0.2**2 + 0.3**2 + 0.4**2) / 3)


def test_a_yes_no_end_point_is_the_mean_squared_error():
    risk, event = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert brier_at(risk, None, event, month=24.0) == pytest.approx(np.mean((event - risk) ** 2))
    assert brier_without_model(None, event, month=24.0) == 0.25


def test_accuracy_is_one_for_what_happened_and_zero_for_the_incidence():
    months, event = np.array([5.0, 9.0, 40.0, 50.0]), np.array([1, 2, 0, 1])
    assert prediction_accuracy(np.array([1.0, 0.0, 0.0, 0.0]), months, event, month=24.0) == 1.0
    assert prediction_accuracy(np.full(4, 0.25), months, event, month=24.0) == pytest.approx(0.0)
    assert prediction_accuracy(np.full(4, 0.25), months, event, month=2.0) is None


def test_a_horizon_beyond_the_follow_up_has_no_score():
    risk, months, event = np.array([0.2, 0.4]), np.array([5.0, 9.0]), np.array([1, 0])
    assert brier_at(risk, months, event, month=9.0) is not None
    assert brier_at(risk, months, event, month=10.0) is None
    assert brier_without_model(months, event, month=10.0) is None
    assert integrated_brier(np.full((2, 2), 0.3), months, event, at=[6.0, 10.0]) is None
    assert integrated_brier(np.full((2, 1), 0.3), months, event, at=[6.0]) is None
    assert brier_at(risk, np.zeros(2), np.zeros(2, dtype=int), month=1.0) is None


def test_after_the_last_patient_failed_every_horizon_has_a_score():
    assert brier_at(np.array([0.5]), np.array([5.0]), np.array([1]), month=60.0) == 0.25
