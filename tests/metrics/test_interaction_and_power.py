"""Interaction of treatment and hypoxia on cohorts whose truth is known; sample sizes against published tables."""

import numpy as np
import pytest
from scipy.stats import norm

from hypoxnet.errors import ConfigError
from hypoxnet.metrics.hazard_ratio import FIRTH
from hypoxnet.metrics.interaction import propensity_weights, treatment_interaction
from hypoxnet.metrics.power import (
    events_needed,
    least_hazard_ratio,
    least_interaction,
    minimum_sample,
    power_sentence,
)
from hypoxnet.metrics.stratification import learn_cut


def draw(hazard, seed):
    generator = np.random.default_rng(seed)
    failure, followed = generator.exponential(1 / hazard), np.minimum(generator.uniform(10, 80, len(hazard)), 60)
    return np.minimum(failure, followed), (failure <= followed).astype(int)


def trial(seed, patients=500):
    """Treatment halves the hazard of the hypoxic, whose hazard is twice that of the others, and of nobody else."""
    generator = np.random.default_rng([seed, 7])
    high, treated = generator.random(patients) < 0.5, generator.random(patients) < 0.5
    months, event = draw(0.02 * np.where(high, 2.0, 1.0) * np.where(treated & high, 0.5, 1.0), seed)
    return high, treated, months, event


def errors_away(ratio, truth):
    """Standard errors between the logarithms of an estimate and the truth, the error taken from the interval."""
    error = np.log(ratio.high / ratio.low) / (2 * norm.ppf(0.975))
    assert error < 0.12
    return abs(np.log(ratio.value / truth)) / error


def test_a_randomised_trial_gives_the_ratio_of_each_group_and_of_the_two():
    found = treatment_interaction(*trial(0, patients=6000))
    for ratio, truth in ((found.low, 1.0), (found.high, 0.5), (found.ratio, 0.5)):
        assert errors_away(ratio, truth) < 3
    assert found.ratio.value == pytest.approx(found.high.value / found.low.value, rel=1e-6)
    assert sum(found.patients) == 6000
    assert found.weights is None
    assert found.to_json()["arms"] == "randomised"


def test_the_interval_of_the_interaction_covers_what_is_true():
    found = [treatment_interaction(*trial(seed, patients=200)).ratio for seed in range(12)]
    assert sum(ratio.low <= 0.5 <= ratio.high for ratio in found) >= 10


def observational(seed, patients=5000):
    """The fitter are treated and fail less; treatment does nothing for the low and halves the hazard of the high."""
    generator = np.random.default_rng([seed, 8])
    ill = generator.standard_normal(patients)
    high = generator.random(patients) < 0.5
    treated = generator.random(patients) < 1 / (1 + np.exp(0.8 * ill))
    months, event = draw(0.01 * np.exp(0.6 * ill) * np.where(treated & high, 0.5, 1.0), seed)
    return (high, treated, months, event), ill[:, None]


def test_weights_take_back_who_was_chosen_for_the_treatment():
    cohort, covariates = observational(0)
    naive, weighted = treatment_interaction(*cohort), treatment_interaction(*cohort, covariates=covariates)
    assert naive.low.high < 0.9
    assert errors_away(weighted.low, 1.0) < 3
    assert weighted.weights.imbalance_before > 0.6
    assert weighted.weights.imbalance_after < 0.1
    assert weighted.weights.effective_patients < 4500


def test_weights_of_a_drawn_arm_change_little():
    high, treated, months, event = trial(3)
    covariates = np.random.default_rng(0).standard_normal((500, 2))
    plain = treatment_interaction(high, treated, months, event)
    weighted = treatment_interaction(high, treated, months, event, covariates=covariates)
    assert weighted.ratio.value == pytest.approx(plain.ratio.value, rel=0.1)
    assert weighted.weights.weight.mean() == pytest.approx(1.0, abs=0.01)
    assert "robust" in weighted.ratio.method


def test_whose_covariate_is_unknown_is_left_out_and_counted():
    (high, treated, months, event), covariates = observational(1, patients=600)
    covariates[:100] = np.nan
    found = treatment_interaction(high, treated, months, event, covariates=covariates)
    rest = treatment_interaction(high[100:], treated[100:], months[100:], event[100:], covariates=covariates[100:])
    assert found.left_out == 100
    assert found.ratio == rest.ratio


def test_arms_that_do_not_overlap_are_one_sentence():
    generator = np.random.default_rng(0)
    ill = generator.standard_normal(200)
    treated = ill > 0
    treated[np.argmax(ill)] = False
    months, event = draw(np.full(200, 0.02), 0)
    with pytest.raises(ConfigError, match=r"one patient has \d+ % of the weight of all 200"):
        treatment_interaction(generator.random(200) < 0.5, treated, months, event, covariates=ill[:, None])


def test_a_group_of_an_arm_without_event_has_a_finite_ratio_unless_weighted():
    high, treated, months, event = trial(5, patients=120)
    event = np.where(treated & high, 0, event)
    found = treatment_interaction(high, treated, months, event)
    assert (found.ratio.method, found.high.method) == (FIRTH, FIRTH)
    assert found.high.high < 1.0
    assert found.high.low > 0
    weighted = treatment_interaction(high, treated, months, event, covariates=np.arange(120.0)[:, None])
    assert weighted.high.value is None
    assert "no event where treated, high is 1" in weighted.high.reason


def test_a_group_of_an_arm_without_patient_has_no_ratio():
    high, treated, months, event = trial(6, patients=60)
    found = treatment_interaction(high, treated & ~high, months, event)
    assert found.ratio.reason == "a group of one arm has no patient"
    assert found.patients[3] == 0


def test_a_covariate_that_never_varies_weighs_nothing():
    treated = np.arange(20) % 2 == 0
    found = propensity_weights(treated, np.ones((20, 1)))
    assert found.weight == pytest.approx(np.ones(20))
    assert found.effective_patients == pytest.approx(20)


def test_least_ratio_and_needed_events_are_each_others_inverse():
    for ratio in (1.5, 2.0, 3.0):
        events = events_needed(ratio, 0.3)
        assert least_hazard_ratio(events, 0.3) <= ratio < least_hazard_ratio(events - 1, 0.3)
    # Collett, Modelling Survival Data in Medical Research, chapter on sample size: a log ratio of 0.5621 takes 133
    # events at 90 % power.
    assert events_needed(np.exp(0.5621), 0.5, power=0.9) == 134


def test_the_least_ratio_is_found_with_the_power_that_was_asked_for():
    ratio, found, events = least_hazard_ratio(60, 0.5), [], []
    high = (np.arange(160) % 2).astype(float)
    for seed in range(300):
        months, event = draw(0.0085 * np.where(high, ratio, 1.0), seed)
        found.append(learn_cut(high, months, event, rule="log-rank").statistic > norm.ppf(0.975))
        events.append(event.sum())
    assert np.mean(events) == pytest.approx(60, abs=5)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_an_interaction_takes_four_times_the_events():
    assert least_interaction(240, 0.5, 0.5) == pytest.approx(least_hazard_ratio(60, 0.5))
    assert least_interaction(27, 0.4, 0.5) > least_hazard_ratio(27, 0.4) ** 1.9


def test_the_sentence_of_a_cohort_with_27_events():
    assert "with 27 events and 40 % of patients in the high group, a hazard ratio of 3.0 is the least" in (
        power_sentence(27, 0.4)
    )
    assert power_sentence(0, 0.4).endswith("no hazard ratio can be seen")
    assert power_sentence(27, 1.0).endswith("no hazard ratio can be seen")


@pytest.mark.parametrize(
    ("r2", "parameters", "rate", "years", "follow_up", "shrinkage", "optimism", "per_parameter"),
    [
        (0.051, 25, 0.065, 2, 2.07, 4286, 875, 23.07),
        (0.065, 25, 0.065, 2, 2.07, 3335, 868, 17.95),
        (0.06, 40, 0.08, 3, 5.0, 5798, 974, 57.98),
        (0.03, 10, 0.09, 3, 3.0, 2950, 273, 79.65),
        (0.3, 80, 0.03, 1, 5.0, 1974, 2279, 4.27),
    ],
)
def test_sample_sizes_are_those_of_pmsampsize(
    r2, parameters, rate, years, follow_up, shrinkage, optimism, per_parameter
):
    """Tests of the R package by Riley's group; it rounds the largest R2 to two digits, hence 1.2 %."""
    found = minimum_sample(
        parameters, events_per_month=rate / 12, horizon_months=12 * years, follow_up_months=12 * follow_up, r2=r2
    )
    assert found.shrinkage == shrinkage
    assert found.optimism == pytest.approx(optimism, rel=0.012)
    assert found.events_per_parameter == pytest.approx(per_parameter, rel=0.005)


def test_the_overall_risk_is_known_to_the_margin():
    found = minimum_sample(1, events_per_month=0.01, horizon_months=24, follow_up_months=20)
    rate, person_months = 0.01, found.overall_risk * 20
    spread = 1.959964 * np.sqrt(rate / person_months)
    far = np.exp(-(rate - spread) * 24) - np.exp(-rate * 24)
    assert far == pytest.approx(0.05, abs=2e-4)


def test_without_a_published_r2_a_share_of_the_largest_is_taken():
    expected = 0.15 * (1 - np.exp(2 * (0.24 * np.log(0.24) - 0.24)))
    found = minimum_sample(5, events_per_month=0.01, horizon_months=24, follow_up_months=24)
    assert found == minimum_sample(5, events_per_month=0.01, horizon_months=24, follow_up_months=24, r2=expected)


def test_impossible_questions_are_one_sentence():
    with pytest.raises(ConfigError, match="there must be an event"):
        least_hazard_ratio(0, 0.5)
    with pytest.raises(ConfigError, match="give one beside 1"):
        events_needed(1.0, 0.5)
    with pytest.raises(ConfigError, match="the largest that is possible here"):
        minimum_sample(5, events_per_month=0.01, horizon_months=24, follow_up_months=24, r2=0.9)
    with pytest.raises(ConfigError, match="must all be positive"):
        minimum_sample(0, events_per_month=0.01, horizon_months=24, follow_up_months=24)
