import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_waltons
from lifelines.utils import restricted_mean_survival_time

from hypoxnet.survival.restricted_mean import restricted_mean_free, time_lost

COHORTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=1, max_size=20)


@pytest.mark.parametrize("until", [20.0, 40.5, 75.0])
def test_time_free_is_that_of_lifelines(until):
    waltons = load_waltons()
    fitted = KaplanMeierFitter().fit(waltons["T"], waltons["E"])
    found = restricted_mean_free(waltons["T"].to_numpy(float), waltons["E"].to_numpy(), until=until)
    assert found.months == pytest.approx(restricted_mean_survival_time(fitted, t=until), abs=1e-6)


@settings(max_examples=40)
@given(COHORTS, st.sampled_from([3.0, 5.5, 8.0]))
def test_months_lost_to_all_causes_and_months_free_of_any_add_up(rows, until):
    months, event = (np.array(column) for column in zip(*rows, strict=True))
    lost = [time_lost(months.astype(float), event, until=until, cause=cause) for cause in (1, 2)]
    free = restricted_mean_free(months.astype(float), (event > 0).astype(int), until=until)
    if free is None:
        assert lost == [None, None]
    else:
        assert lost[0].months + lost[1].months + free.months == pytest.approx(until)


def test_without_censoring_the_error_is_that_of_a_plain_mean():
    months = np.array([2.0, 4.0, 4.0, 7.0, 9.0, 30.0])
    event = np.array([1, 2, 1, 1, 2, 1])
    lost = np.where(event == 1, np.maximum(12.0 - months, 0.0), 0.0)
    found = time_lost(months, event, until=12.0)
    assert found.months == pytest.approx(lost.mean())
    assert found.standard_error == pytest.approx(lost.std() / np.sqrt(len(lost)))


def test_follow_up_that_ends_before_the_horizon_gives_none():
    months, event = np.array([5.0, 9.0]), np.array([1, 0])
    assert time_lost(months, event, until=12.0) is None
    assert restricted_mean_free(months, event, until=12.0) is None
    assert time_lost(np.array([]), np.array([], dtype=int), until=12.0) is None


def test_after_the_last_patient_was_struck_the_horizon_may_be_later():
    found = time_lost(np.array([5.0]), np.array([1]), until=12.0)
    assert (found.months, found.standard_error) == (7.0, 0.0)


def test_no_event_loses_nothing():
    found = time_lost(np.array([12.0, 15.0]), np.array([0, 0]), until=12.0)
    assert (found.months, found.standard_error) == (0.0, 0.0)
