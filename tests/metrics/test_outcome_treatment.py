"""Treatment and hypoxia, and hypoxia and immune infiltration, of withheld patients whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from hypoxnet.cases import Outcome
from hypoxnet.errors import ConfigError
from hypoxnet.metrics.config import EvaluationConfig
from hypoxnet.metrics.interaction import treatment_interaction
from hypoxnet.metrics.outcome import OutcomeEvaluator
from hypoxnet.metrics.outcome_cohort import Cohort
from hypoxnet.metrics.outcome_groups import immune_groups, split_by_hypoxia
from hypoxnet.metrics.outcome_treatment import interactions
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.metrics.segmentation import RegionScore

DRAWN = EvaluationConfig(arm_drawn=True)


def patients(count=400, *, folds=1, chosen=False, seed=0):
    """Treatment halves the hazard of the hypoxic alone; `chosen`: the old, who fail more, get it less often."""
    generator = np.random.default_rng(seed)
    scores = []
    for number in range(count):
        share, age = float(generator.random()), float(generator.normal(60, 8))
        z = (age - 60) / 8
        treated = generator.random() < (1 / (1 + np.exp(z)) if chosen else 0.5)
        hazard = 0.02 * (2.0 if share > 0.5 else 1.0) * (0.5 if treated and share > 0.5 else 1.0)
        failure = generator.exponential(1 / (hazard * np.exp(0.8 * z if chosen else 0.0)))
        months = min(failure, float(generator.uniform(10, 60)))
        scores.append(
            CaseScore(
                key=f"P{number}",
                patient=f"P{number}",
                fold=number % folds if folds > 1 else None,
                regions={"hsv": RegionScore(0.5, 0.5, None, 1.0, 1.0, share, 1.0 - share)},
                risk=share,
                outcome=Outcome(int(months == failure), months),
                covariates={
                    "arm": float(treated),
                    "age": age,
                    "til": float(generator.uniform(0, 60)),
                    "pd_l1_cps": float(generator.integers(0, 5)),
                },
            )
        )
    return scores


def of(scores, evaluation=DRAWN):
    return interactions(Cohort.of(scores), evaluation)


def with_covariates(scores, change):
    return [replace(score, covariates=change(score.covariates)) for score in scores]


def without(name):
    return lambda covariates: {key: value for key, value in covariates.items() if key != name}


def test_the_ratios_are_those_of_the_patients_above_and_below_the_median_share():
    scores = patients()
    found = of(scores)["predicted_hypoxia"]
    share = np.array([score.risk for score in scores])
    treated = np.array([score.covariates["arm"] == 1 for score in scores])
    months = np.array([score.outcome.months for score in scores])
    event = np.array([score.outcome.event for score in scores])
    expected = treatment_interaction(share > np.median(share), treated, months, event)
    assert found["interaction"] == expected.ratio.to_json()
    assert found["hazard_ratio_high"]["high"] < 1
    assert sum(found["patients"]) == 400
    assert found["arms"] == "randomised"
    assert found["least_ratio"] > 1


def test_contoured_hypoxia_divides_the_patients_by_itself():
    found = of(patients())
    mirrored = found["true_hypoxia"]
    # What was contoured is the mirror image of what was predicted: the groups change places.
    assert mirrored["hazard_ratio_low"]["value"] == pytest.approx(
        found["predicted_hypoxia"]["hazard_ratio_high"]["value"]
    )


def test_arms_that_were_not_drawn_are_weighted_by_what_they_were_chosen_by():
    scores = patients(1500, chosen=True)
    plain, weighted = of(scores)["predicted_hypoxia"], of(scores, EvaluationConfig())["predicted_hypoxia"]
    assert weighted["chosen_by"] == ["age"]
    assert weighted["arms"].startswith("observational")
    assert weighted["imbalance_before"] > 0.5
    assert weighted["imbalance_after"] < 0.1
    assert plain["hazard_ratio_low"]["high"] < 1
    assert weighted["hazard_ratio_low"]["low"] < 1 < weighted["hazard_ratio_low"]["high"]
    assert weighted["left_out"] == 0


def test_whose_age_is_unknown_is_left_out_of_the_weighted_and_counted():
    scores = patients(300)
    scores = [*with_covariates(scores[:50], without("age")), *scores[50:]]
    found = of(scores, EvaluationConfig())["predicted_hypoxia"]
    assert found["left_out"] == 50
    assert sum(found["patients"]) == 250
    assert sum(of(scores)["predicted_hypoxia"]["patients"]) == 300


def test_a_covariate_that_few_have_is_not_among_those_that_the_arm_was_chosen_by():
    scores = with_covariates(patients(100), without("age"))
    scores = [*with_covariates(scores[:40], lambda known: {**known, "hpv": 1.0}), *scores[40:]]
    found = of(scores, EvaluationConfig())["predicted_hypoxia"]
    assert found == {
        "cut": found["cut"],
        "reason": "nothing is known that the arm may have been chosen by (gtv_ml, t_stage, n_stage, age, hpv)",
    }


def test_arms_that_do_not_overlap_are_a_reason_and_end_no_run():
    scores = [replace(s, covariates={**s.covariates, "age": 60.0 + 9 * s.covariates["arm"]}) for s in patients(60)]
    scores[0] = replace(scores[0], covariates={**scores[0].covariates, "age": 69.0, "arm": 0.0})
    found = of(scores, EvaluationConfig())["predicted_hypoxia"]
    assert "of the weight of all 60" in found["reason"]


def test_a_cohort_without_arms_says_nothing_unless_it_was_asked():
    scores = with_covariates(patients(40), without("arm"))
    assert of(scores) == {}
    asked = of(scores, EvaluationConfig(arm="nimorazole"))
    assert asked == {"arm": "nimorazole", "reason": "no withheld patient with a known outcome has it"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: replace(s, outcome=Outcome(s.outcome.event, None)), "a yes/no end point has no hazards to compare"),
        (lambda s: replace(s, regions={}), "fewer than six withheld patients have it and a hypoxic share"),
        (lambda s: replace(s, covariates={"arm": 2.0}), "it is 2 in some patients, it must be 0 or 1"),
    ],
)
def test_why_there_is_no_interaction_is_said(change, reason):
    assert of([change(score) for score in patients(40)])["reason"].startswith(reason)


def test_all_patients_in_one_arm_are_told_without_a_ratio():
    one_arm = with_covariates(patients(40), lambda known: {**known, "arm": 1.0})
    for evaluation in (DRAWN, EvaluationConfig()):
        found = of(one_arm, evaluation)["predicted_hypoxia"]
        assert found["interaction"]["reason"] == "a group of one arm has no patient"
        assert (found["arms"] == "randomised") is evaluation.arm_drawn


def test_settings_of_the_arm_that_cannot_be_meant_are_refused():
    with pytest.raises(ConfigError, match="did you mean nimorazole"):
        EvaluationConfig(arm="nimorazol")
    with pytest.raises(ConfigError, match=r"dose_gy, which may be 0 to 120 Gy; an arm is 0 or 1"):
        EvaluationConfig(arm="dose_gy")
    with pytest.raises(ConfigError, match="which is the arm itself"):
        EvaluationConfig(arm="hpv")


@pytest.mark.parametrize("folds", [1, 3])
def test_the_immune_groups_are_divided_by_medians_of_others_in_folds(folds):
    scores = patients(90, folds=folds)
    cohort = Cohort.of(scores)
    found = immune_groups(scores, cohort.months, cohort.event, horizon=24.0, true=False)
    til = np.array([score.covariates["til"] for score in scores])
    cps = np.array([score.covariates["pd_l1_cps"] for score in scores])
    fold = np.array([score.fold or 0 for score in scores])
    cuts = [np.median(til[fold != f] if folds > 1 else til) for f in fold]
    high = split_by_hypoxia(scores, cohort.months, cohort.event, true=False).high
    worst = high & ~((til > cuts) & (cps >= 1))
    assert [group["name"] for group in found["groups"]][-1] == "hypoxic, immune low"
    assert found["groups"][-1]["patients"] == found["high"] + _without_volume(found) == worst.sum()
    assert found["compared"] == "hypoxic, immune low against the others"


def _without_volume(found):
    """The contrast is of patients with a tumour volume, of whom there is none here."""
    assert found["hazard_ratio"]["reason"] == "no patient has a tumour volume"
    return found["groups"][-1]["patients"]


def test_lymphocytes_without_a_pd_l1_score_are_a_sentence_and_no_groups():
    scores = with_covariates(patients(40), without("pd_l1_cps"))
    found = OutcomeEvaluator(scores, horizon_months=24.0, resamplings=1).metrics()
    assert found["immune"]["reason"].startswith("fewer than six withheld patients have til, pd_l1_cps")
    assert "predicted_immune" not in found
    neither = OutcomeEvaluator(with_covariates(scores, without("til")), horizon_months=24.0, resamplings=1).metrics()
    assert "immune" not in neither


def test_the_figures_of_a_run_hold_interaction_and_immune_groups():
    scores = patients(80, folds=4)
    found = OutcomeEvaluator(scores, horizon_months=24.0, resamplings=1, evaluation=DRAWN).metrics()
    assert set(found["interaction"]) == {"arm", "predicted_hypoxia", "true_hypoxia"}
    assert sum(group["patients"] for group in found["true_immune"]["groups"]) == 80
