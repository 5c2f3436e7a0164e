import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_waltons
from sksurv.compare import compare_survival
from sksurv.util import Surv

from hypoxnet.survival.comparison import gray_test, logrank_test

COHORTS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.integers(0, 2)), min_size=6, max_size=40)


def test_logrank_of_real_groups_is_that_of_scikit_survival():
    waltons = load_waltons()
    months, event = waltons["T"].to_numpy(float), waltons["E"].to_numpy()
    group = waltons["group"].to_numpy()
    expected, p_value = compare_survival(Surv.from_arrays(event, months), group)
    found = logrank_test(months, event, group)
    assert found.statistic == pytest.approx(expected, abs=1e-6)
    assert found.p_value == pytest.approx(p_value, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(COHORTS)
def test_gray_does_not_depend_on_which_group_comes_first(rows):
    months, event, group = (np.array(column) for column in zip(*rows, strict=True))
    found = gray_test(months.astype(float), event, group)
    turned = gray_test(months.astype(float), event, 2 - group)
    if found is None or turned is None:
        assert found is turned
    else:
        assert turned.statistic == pytest.approx(found.statistic, rel=1e-6, abs=1e-9)
        assert found.statistic >= -1e-12


def test_where_the_pooled_incidence_is_one_before_the_last_failure_gray_is_none():
    months, event = np.array([0.0, 1, 0, 5, 2, 1, 2, 3]), np.ones(8, dtype=int)
    assert gray_test(months, event, [2, 0, 2, 1, 2, 2, 0, 0]) is None


def test_gray_sees_a_difference_that_the_hazard_of_failure_does_not_have():
    """Group b dies sooner of other causes: it fails at the same rate while at risk, but less often in the end."""
    generator = np.random.default_rng(2)
    group = np.repeat([0, 1], 1500)
    failure, death = generator.exponential(30.0, 3000), generator.exponential(np.where(group, 6.0, 60.0))
    months, event = np.minimum(failure, death), np.where(failure < death, 1, 2)
    assert gray_test(months, event, group).p_value < 1e-6
    assert logrank_test(months, event, group).p_value > 0.05


def test_under_equal_groups_gray_rejects_as_often_as_it_says():
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        event, group = generator.integers(0, 3, 90), np.repeat([0, 1, 2], 30)
        p_values.append(gray_test(generator.exponential(10.0, 90).round(), event, group).p_value)
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("test", [gray_test, logrank_test])
def test_what_cannot_be_compared_gives_none(test):
    months, event = np.array([3.0, 5.0, 7.0, 9.0]), np.array([1, 2, 1, 0])
    assert test(months, event, [0, 0, 0, 0]) is None
    assert test(months, np.zeros(4, dtype=int), [0, 0, 1, 1]) is None
    assert test(months, event, [0, 0, 1, 1], cause=3) is None
    assert test(np.array([5.0]), np.array([1]), [0]) is None
    # The second group has left before the first failure.
    assert test(np.array([1.0, 1.0, 7.0, 9.0]), np.array([0, 0, 1, 0]), [1, 1, 0, 0]) is None
    # All fail in the same month: no variance is left.
    assert test(np.full(4, 3.0), np.ones(4, dtype=int), [0, 0, 1, 1]) is None


def test_gray_says_nothing_where_ties_leave_no_positive_variance():
    """R's cmprsk gives a statistic of -3.92 for these six patients."""
    months, event = np.array([1.0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    assert gray_test(months, event, np.array([0, 0, 1, 0, 0, 1])) is None
