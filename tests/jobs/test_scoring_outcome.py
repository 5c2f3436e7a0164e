import math

import numpy as np
import pytest

from hypoxnet.cases import CAUSES, CaseRecord, Outcome
from hypoxnet.jobs.scoring import fit_baselines_alone
from hypoxnet.jobs.scoring_outcome import fit_references, reference_risks, risk_details

FAILURE, DEATH = CAUSES


def said(**more):
    risk = {
        "months": [12.0, 24.0],
        "incidence": {FAILURE: [0.1, 0.2], DEATH: [0.05, 0.1]},
        "at_horizon": {FAILURE: 0.2, DEATH: 0.1},
    }
    return {"risk": risk | more}


def test_the_curve_of_a_case_is_that_of_its_json():
    found = risk_details(said())
    assert (found["curve"].failure, found["curve"].death) == ((0.1, 0.2), (0.05, 0.1))
    assert found["contributions"] == {}
    assert "risk_interval" not in found


def test_a_yes_no_case_has_one_month_that_never_ends():
    found = risk_details({"risk": {"months": [None], "incidence": {FAILURE: [0.3]}}})
    assert found["curve"].months == (math.inf,)
    assert found["curve"].death == (0.0,)


def test_interval_and_contributions_are_those_of_failure():
    more = {
        "interval": {"confidence": 0.95, "at_horizon": {FAILURE: [0.1, 0.4], DEATH: [0.0, 0.2]}},
        "contributions": {FAILURE: {"age": 0.3}, DEATH: {"age": 0.9}},
    }
    found = risk_details(said(**more))
    assert found["risk_interval"] == (0.1, 0.4)
    assert found["contributions"] == {"age": 0.3}


def test_an_explained_network_gives_its_covariates_parts():
    found = risk_details({**said(), "explanation": {"covariates": {"age": -0.2}}})
    assert found["contributions"] == {"age": -0.2}
    assert risk_details({**said(), "explanation": None})["contributions"] == {}


def test_a_network_without_outcome_gives_nothing():
    assert risk_details({"risk": None}) == {}


def records(count=60, *, with_stage=True):
    generator = np.random.default_rng(0)
    made = []
    for number in range(count):
        covariates = {"gtv_ml": float(generator.gamma(2, 10))}
        if with_stage:
            covariates |= {"t_stage": float(generator.integers(1, 5)), "age": float(generator.normal(60, 8))}
        failed = generator.random() < 0.4
        made.append(
            CaseRecord(
                f"P{number}",
                covariates=covariates,
                outcome=Outcome(int(failed), float(generator.uniform(3, 60))),
            )
        )
    return made


def test_the_clinical_baseline_needs_more_than_volume():
    assert set(fit_baselines_alone(records()).references) == {"volume", "clinical"}
    assert set(fit_baselines_alone(records(with_stage=False)).references) == {"volume"}
    assert fit_references([], []) == {}


def test_a_patient_without_volume_has_no_baseline_risk():
    models = fit_baselines_alone(records()).references
    assert reference_risks(models, {"age": 60.0}, (24.0,)) == {}
    one = reference_risks(models, {"gtv_ml": 20.0}, (24.0,))
    assert set(one) == {"volume", "clinical"}
    assert 0 < one["clinical"].curve.failure[0] < 1


def test_visits_of_a_patient_count_once():
    once = records()
    twice = [*once, *once]
    models = [fit_baselines_alone(cohort).references["clinical"].failure.coefficients for cohort in (once, twice)]
    assert models[0] == pytest.approx(models[1])
