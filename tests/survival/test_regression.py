"""Cox's regression where it has no solution; that its figures are those of R is in `test_r.py`."""

import numpy as np
import pytest

from hypoxnet.survival.regression import RUNS_AWAY, cause_specific_cox


def small_cohort(seed):
    generator = np.random.default_rng(seed)
    patients, columns = int(generator.integers(4, 13)), int(generator.integers(1, 4))
    x = generator.normal(size=(patients, columns)).round(1)
    months = np.clip(np.ceil(generator.exponential(20, patients) * np.exp(-3 * x[:, 0])), 1, 99)
    event = (generator.random(patients) < 0.5).astype(int)
    if seed % 2:
        x[:, 0] = x[:, 0] > 0
    return months, event, x, generator.uniform(0.3, 4.0, patients)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_small_cohort_has_a_finite_regression_or_none(weighted):
    found = []
    for seed in (*range(40), 592, 1177, 2608):
        months, event, x, weights = small_cohort(seed)
        fit = cause_specific_cox(months, event, x, weights=weights if weighted else None)
        found.append(fit is not None)
        if fit is not None:
            assert np.abs(fit.coefficients * x.std(axis=0)).max() <= RUNS_AWAY
            assert (fit.standard_errors * x.std(axis=0)).max() < 1e3
    assert 8 < sum(found) < len(found) - 8


def test_what_separates_who_failed_has_no_ratio_but_with_a_ridge():
    months, event = np.array([3.0, 6.0, 12.0, 24.0, 36.0]), np.array([1, 1, 0, 0, 0])
    x = np.array([[40.0], [30.0], [20.0], [10.0], [5.0]])
    assert cause_specific_cox(months, event, x) is None
    assert cause_specific_cox(months, event, x, weights=np.full(5, 2.0)) is None
    assert 0 < cause_specific_cox(months, event, x, ridge=0.01).coefficients[0] < 1


def test_weights_that_are_all_alike_say_nothing_by_their_size():
    _, _, x, _ = small_cohort(1000)
    months, event = np.arange(1.0, len(x) + 1), np.ones(len(x), dtype=int)
    one, three = (cause_specific_cox(months, event, x, weights=np.full(len(x), size)) for size in (1.0, 3.0))
    plain = cause_specific_cox(months, event, x)
    np.testing.assert_allclose(one.coefficients, plain.coefficients, rtol=1e-8)
    np.testing.assert_allclose(three.coefficients, plain.coefficients, rtol=1e-8)
    np.testing.assert_allclose(three.covariance, one.covariance, rtol=1e-6)
