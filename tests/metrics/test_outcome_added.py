"""Whether a risk adds to volume, stage and age, and what a clinical model owes to its own patients."""

from dataclasses import replace

import numpy as np
import pytest

from hypoxnet.cases import Outcome
from hypoxnet.metrics import outcome_added
from hypoxnet.metrics.discrimination import harrell_c
from hypoxnet.metrics.on_training import MOST_PATIENTS, figures_on_training
from hypoxnet.metrics.outcome_added import beyond_clinical, left_over
from hypoxnet.metrics.outcome_cohort import Cohort
from hypoxnet.metrics.reference_models import CLINICAL, fit_reference
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.transforms.covariates import encode_table, table_of


def patients(count=150, *, image=1.0, volume=0.7, seed=0, binary=False):
    """Failure depends on volume and, by `image`, on what the model's risk has seen besides volume."""
    generator = np.random.default_rng(seed)
    scores = []
    for number in range(count):
        log_volume, seen = generator.normal(3.0, 0.8), generator.normal()
        failure = generator.exponential(1 / (0.012 * np.exp(volume * (log_volume - 3) + image * seen)))
        death, end = generator.exponential(90.0), generator.uniform(6, 60)
        months = float(min(failure, death, end))
        event = {failure: 1, death: 2, end: 0}[months]
        risk = float(1 - np.exp(-0.25 * np.exp(0.7 * (log_volume - 3) + 0.7 * seen)))
        scores.append(
            CaseScore(
                key=f"P{number}",
                patient=f"P{number}",
                fold=number % 3,
                risk=risk,
                outcome=Outcome(int(event == 1), None) if binary else Outcome(event, months),
                covariates={"gtv_ml": float(np.exp(log_volume)), "age": float(generator.normal(60, 8))},
            )
        )
    return scores


def beyond(scores):
    return beyond_clinical(Cohort.of(scores))


@pytest.mark.parametrize("binary", [False, True])
def test_a_risk_that_sees_more_than_volume_is_found(binary):
    found = beyond(patients(binary=binary))
    assert found["p"] == 1 / 2000
    assert found["given"] == ["gtv_ml", "age"]
    assert found["patients"] == 150
    if binary:
        assert found["hazard_ratio"]["reason"] == "a yes/no end point has no hazard"
    else:
        assert found["hazard_ratio"]["low"] > 1


def test_a_risk_that_adds_nothing_to_volume_is_significant_as_rarely_as_it_should_be(monkeypatch):
    monkeypatch.setattr(outcome_added, "PERMUTATIONS", 99)
    p_values = np.array([beyond(patients(50, image=0.0, seed=seed))["p"] for seed in range(40)])
    assert np.mean(p_values) == pytest.approx(0.5, abs=4 * 0.289 / np.sqrt(40))
    assert np.mean(p_values <= 0.1) <= 0.1 + 3 * 0.3 / np.sqrt(40)


def test_a_risk_that_is_the_wrong_way_round_gets_no_small_p():
    mirrored = [replace(score, risk=1 - score.risk) for score in patients()]
    assert beyond(mirrored)["p"] > 0.99


def test_folds_whose_models_have_other_levels_change_nothing():
    scores = patients()
    shifted = [replace(score, risk=1 - (1 - score.risk) ** (1.0 + score.fold)) for score in scores]
    before, after = beyond(scores), beyond(shifted)
    assert after["p"] == before["p"]
    assert after["hazard_ratio"]["value"] == pytest.approx(before["hazard_ratio"]["value"], rel=1e-5)


def test_without_volume_or_failures_or_with_one_risk_for_all_nothing_is_tested():
    scores = patients(40)
    assert beyond([replace(score, covariates={"age": 60.0}) for score in scores]) == {}
    assert beyond([replace(score, outcome=Outcome(0, 20.0)) for score in scores]) == {}
    assert beyond([replace(score, risk=0.3) for score in scores]) == {}
    fewer = beyond([*(replace(score, covariates={}) for score in scores[:5]), *scores[5:]])
    assert fewer["patients"] == 35


def test_what_the_clinical_model_leaves_over_adds_up_to_nothing():
    cohort = Cohort.of(patients(80))
    covariates = [score.covariates for score in cohort.scores]
    model = fit_reference(covariates, [score.outcome for score in cohort.scores], CLINICAL)
    columns, _ = encode_table(table_of(covariates, ["gtv_ml", "age"]), model.terms, patients=80)
    left = left_over(model, columns, cohort)
    assert left.sum() == pytest.approx(0.0, abs=1e-9)
    assert left.max() <= 1.0


def cohort_of_noise(count=60):
    """Stage, age and volume without any part in the outcome."""
    generator = np.random.default_rng(4)
    covariates = [
        {
            "gtv_ml": float(generator.gamma(2, 10)),
            "t_stage": float(generator.integers(1, 5)),
            "n_stage": float(generator.integers(0, 4)),
            "age": float(generator.normal(60, 8)),
        }
        for _ in range(count)
    ]
    outcomes = [Outcome(int(generator.random() < 0.4), float(generator.uniform(2, 60))) for _ in range(count)]
    return covariates, outcomes


def test_a_clinical_model_of_noise_is_corrected_to_a_coin():
    covariates, outcomes = cohort_of_noise()
    model = fit_reference(covariates, outcomes, CLINICAL)
    found = figures_on_training({"clinical": model}, covariates, outcomes)["clinical"]
    assert found["apparent"] > 0.58
    assert found["c_index"]["value"] == pytest.approx(0.5, abs=0.06)
    assert found["c_index"]["low"] < found["c_index"]["value"] < found["c_index"]["high"]
    assert found["c_index"]["value"] == pytest.approx(found["apparent"] - found["optimism"], abs=2e-6)
    assert (found["patients"], found["failures"]) == (60, sum(outcome.event for outcome in outcomes))
    score = [model.predict(one, (24.0,)).score for one in covariates]
    own = harrell_c(np.array(score), np.array([o.months for o in outcomes]), np.array([o.event for o in outcomes]))
    # The ridge of the baseline itself is too weak to be seen.
    assert found["apparent"] == pytest.approx(own, abs=0.01)


def test_yes_no_end_points_and_large_cohorts_have_no_figures_on_training():
    covariates, outcomes = cohort_of_noise(30)
    binary = [Outcome(outcome.event, None) for outcome in outcomes]
    assert figures_on_training({"c": fit_reference(covariates, binary, CLINICAL)}, covariates, binary) == {}
    many = 34 * outcomes
    assert len(many) > MOST_PATIENTS
    assert figures_on_training({"c": fit_reference(covariates, outcomes, CLINICAL)}, 34 * covariates, many) == {}
    assert figures_on_training({}, [], []) == {}
