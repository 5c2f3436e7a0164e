from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import multivariate_normal

from hypoxnet.errors import BundleError
from hypoxnet.transforms.covariates import CovariateTerm
from hypoxnet.transforms.imputation import JointNormal, fit_joint_normal
from hypoxnet.transforms.prepare import covariate_inputs
from hypoxnet.transforms.settings import PrepareSettings

HPV = CovariateTerm("hpv", "linear", (0.5,), (0.5,), 0.0, 1.0)

TRUE = np.array([[1.0, 0.6, -0.3], [0.6, 1.0, 0.0], [-0.3, 0.0, 1.0]])


def some_missing(patients: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    values = generator.multivariate_normal([0.0, 0.0, 0.0], TRUE, size=patients)
    known = generator.random((patients, 3)) > [0.5, 0.1, 0.2]
    return np.where(known, values, 99.0), known


def test_correlations_are_recovered_where_half_is_missing() -> None:
    fitted = fit_joint_normal(*some_missing())
    assert np.array(fitted.covariance) == pytest.approx(TRUE, abs=0.06)
    assert np.array(fitted.mean) == pytest.approx(np.zeros(3), abs=0.06)


def test_em_stops_at_a_maximum_of_the_likelihood_of_what_is_known() -> None:
    values, known = some_missing(300)
    fitted = fit_joint_normal(values, known)
    mean, covariance = np.array(fitted.mean), np.array(fitted.covariance)

    def log_likelihood(mean: np.ndarray) -> float:
        return sum(
            multivariate_normal.logpdf(row[there], mean[there], covariance[np.ix_(there, there)])
            for row, there in zip(values, known, strict=True)
            if there.any()
        )

    best = log_likelihood(mean)
    for column in range(3):
        for step in (-0.02, 0.02):
            moved = mean.copy()
            moved[column] += step
            assert log_likelihood(moved) < best


def test_missing_values_get_the_regression_on_the_known_ones() -> None:
    completed = JointNormal((0.5, 0.0, 0.0), tuple(map(tuple, TRUE))).complete(
        np.array([[7.0, 1.0, 2.0]]), np.array([[False, True, True]])
    )
    assert completed == pytest.approx(np.array([[0.5 + 0.6 * 1.0 - 0.3 * 2.0, 1.0, 2.0]]))


@given(arrays(float, (6, 3), elements=st.floats(-3, 3)), arrays(bool, (6, 3)))
def test_known_values_stay_and_everything_is_finite(values: np.ndarray, known: np.ndarray) -> None:
    completed = fit_joint_normal(values, known).complete(values, known)
    assert np.isfinite(completed).all()
    assert (completed[known] == values[known]).all()


def test_columns_never_known_together_stay_uncorrelated() -> None:
    known = np.array([[True, False], [False, True]] * 20)
    fitted = fit_joint_normal(np.random.default_rng(1).normal(size=(40, 2)), known)
    assert fitted.covariance[0][1] == pytest.approx(0.0, abs=1e-6)


def test_a_patient_of_whom_nothing_is_known_is_an_average_one() -> None:
    fitted = fit_joint_normal(*some_missing(300))
    completed = fitted.complete(np.full((1, 3), np.nan), np.zeros((1, 3), bool))
    assert completed[0] == pytest.approx(np.array(fitted.mean))


@pytest.mark.parametrize(
    "covariance", [((1.0,),), ((1.0, 2.0), (2.0, 1.0)), ((1.0, 0.5), (0.1, 1.0)), ((1.0,), (1.0,))]
)
def test_what_is_no_covariance_of_two_columns_is_seen(covariance: tuple[tuple[float, ...], ...]) -> None:
    assert JointNormal((0.0, 0.0), ((1.0, 0.5), (0.5, 1.0))).is_of(2)
    assert not JointNormal((0.0, 0.0), covariance).is_of(2)


def test_a_cohort_of_which_something_is_missing_is_completed_alike_alone_and_together(tiny_settings: object) -> None:
    terms = (CovariateTerm("age", "linear", (60.0,), (8.0,), 40.0, 80.0), HPV)
    joint = JointNormal((0.0, 0.0), ((1.0, -0.4), (-0.4, 1.0)))
    settings = replace(tiny_settings, terms=terms, missing="conditional", joint=joint)
    patients = [{"age": 68.0}, {"hpv": 1.0}, {}]
    values, flags = covariate_inputs(patients, settings)
    assert values[0].tolist() == pytest.approx([1.0, -0.4])
    assert (flags == 1.0).all()
    for row, patient in enumerate(patients):
        assert covariate_inputs([patient], settings)[0][0].tolist() == values[row].tolist()
    assert PrepareSettings.from_json(settings.to_json()) == settings
    with pytest.raises(BundleError, match="complete 1 columns of covariates and have 2"):
        PrepareSettings.from_json(replace(settings, joint=JointNormal((0.0,), ((1.0,),))).to_json())
