"""Cut-offs and ratios of hazards against published examples, lifelines and chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test
from pandas import DataFrame
from scipy.stats import norm

from hypoxnet.errors import ConfigError
from hypoxnet.metrics.hazard_ratio import COX, FIRTH, Firth, hazard_ratios
from hypoxnet.metrics.stratification import (
    GROUPS,
    contrast,
    corrected_p,
    hypoxia_immune_groups,
    learn_cut,
    standardised,
    stratify,
)

# Diffuse large B-cell lymphoma, Alizadeh et al. 2000, Nature 403:503: months, death, mean gene expression x 1000; as
# in the R package maxstat.
LYMPHOMA = np.fromstring(
    """77.4 0 247.973684 3.4 1 -6.894737 71.3 1 137.552632 69.6 0 371.289474 51.2 0 25.710526 3.2 1 98.131579
    8.3 1 -3.315789 102.4 0 214.973684 89.8 0 128.157895 88.1 0 220.394737 27.1 1 116.447368 4.1 1 -52.368421
    23.7 1 17.657895 59 0 -71.210526 56.6 0 162.684211 15.5 1 -61.973684 2.4 1 73.342105 2.9 1 186.052632
    80.4 0 87.842105 4.6 1 -158.921053 8.2 1 40.236842 129.9 0 28 32.5 1 -51.078947 11.8 1 138.263158
    5.1 1 -12.552632 90.2 0 -42.078947 83.8 0 263.394737 71.3 0 291.789474 12.3 1 -57.210526 69.1 0 169.368421
    68.8 0 9.973684 1.3 1 150.631579 12.67 1 64.631579 72.03 0 312.473684 91.33 0 96.289474 53.73 0 -40.578947
    31.47 1 -74.473684 39.60 1 15.631579 9.45 1 -46.868421 22.30 1 67.052632""",
    sep=" ",
).reshape(-1, 3)


def draw(hazard, seed=0, death=0.0):
    """Months to a tenth and events: exponential times, follow-up of 10 to 60 months."""
    generator = np.random.default_rng(seed)
    count = len(hazard)
    failure = generator.exponential(1 / hazard)
    died = generator.exponential(1 / death, count) if death else np.full(count, np.inf)
    followed = np.minimum(generator.uniform(10, 80, count), 60)
    months = np.minimum(np.minimum(failure, died), followed)
    event = np.where(months == failure, 1, np.where(months == died, 2, 0))
    return np.round(months, 1) + 0.1, event


def test_the_published_cut_of_lymphoma_is_found_with_its_corrected_p():
    """maxstat 0.7: M = 3.171, cut-off 0.186, Lausen and Schumacher's p 0.0361."""
    cut = learn_cut(LYMPHOMA[:, 2], LYMPHOMA[:, 0], LYMPHOMA[:, 1].astype(int), rule="log-rank")
    assert cut.value == pytest.approx(186.052632)
    assert cut.statistic == pytest.approx(3.171, abs=6e-4)
    assert cut.p == pytest.approx(0.0361, abs=1e-4)
    assert (cut.patients, cut.events) == (40, 22)


@pytest.mark.parametrize(
    ("share", "quantiles"),
    [(0.25, (2.539, 2.829, 3.088, 3.395)), (0.4, (2.263, 2.560, 2.828, 3.149)), (0.1, (2.784, 3.054, 3.297, 3.588))],
)
def test_corrected_p_gives_table_2_of_lausen_and_schumacher(share, quantiles):
    for statistic, p in zip(quantiles, (0.1, 0.05, 0.025, 0.01), strict=True):
        assert corrected_p(statistic, share) == pytest.approx(p, rel=3e-3)


@given(st.floats(0, 8), st.floats(0, 8))
def test_a_larger_statistic_never_has_a_larger_p(one, other):
    low, high = sorted((one, other))
    assert 0 <= corrected_p(high) <= corrected_p(low) <= 1


def test_looking_everywhere_finds_chance_and_the_correction_takes_it_back():
    naive, corrected, of_incidence = [], [], []
    for seed in range(300):
        months, event = draw(np.full(80, 0.02), seed, death=0.008)
        values = np.random.default_rng([seed, 1]).standard_normal(80)
        cut = learn_cut(values, months, event, rule="log-rank")
        naive.append(2 * norm.sf(cut.statistic) < 0.05)
        corrected.append(cut.p < 0.05)
        of_incidence.append(learn_cut(values, months, event, rule="gray").p < 0.05)
    assert np.mean(naive) > 0.3
    assert np.mean(corrected) < 0.05
    assert np.mean(of_incidence) < 0.05


def test_the_statistic_at_one_cut_is_the_log_rank_test():
    """lifelines takes the hypergeometric variance, the permutation one is close to it without ties."""
    months, event = draw(np.where(np.arange(200) % 2, 0.02, 0.04), 3)
    months += np.arange(200) * 1e-4
    high = np.arange(200) % 2 == 0
    lived = np.array([(event[months <= t][:, None] * 0).sum() for t in months], dtype=float)
    for number, time in enumerate(months):
        past = np.unique(months[(event == 1) & (months <= time)])
        lived[number] = sum(1 / (months >= t).sum() for t in past)
    _, statistics = standardised(high.astype(float), (event == 1) - lived, 0.1)
    theirs = logrank_test(months[high], months[~high], event[high] == 1, event[~high] == 1).test_statistic
    assert statistics[0] ** 2 == pytest.approx(theirs, rel=0.06)


def test_deaths_leave_the_risk_set_of_the_hazard_and_stay_in_that_of_the_incidence():
    """High patients die early and so never fail: their hazard is that of the others, their incidence is lower."""
    count = 2000
    high = np.arange(count) % 2 == 0
    generator = np.random.default_rng(0)
    failure, died = generator.exponential(40, count), np.where(high, generator.exponential(12, count), np.inf)
    months = np.minimum(np.minimum(failure, died), 60)
    event = np.where(months == failure, 1, np.where(months == died, 2, 0))
    hazard, incidence = (
        learn_cut(high.astype(float), months, event, rule=rule).statistic for rule in ("log-rank", "gray")
    )
    assert hazard < 2.0
    assert incidence > 5.0


def test_without_competing_events_incidence_and_hazard_have_one_cut():
    months, event = draw(np.full(60, 0.03), 4)
    values = np.random.default_rng(4).standard_normal(60)
    one, other = (learn_cut(values, months, event, rule=rule) for rule in ("log-rank", "gray"))
    assert one.value == other.value
    assert one.statistic == pytest.approx(other.statistic)


def test_a_true_threshold_is_found():
    values = np.random.default_rng(5).uniform(0, 10, 400)
    months, event = draw(np.where(values > 6.0, 0.06, 0.015), 5)
    cut = learn_cut(values, months, event, rule="log-rank")
    assert cut.value == pytest.approx(6.0, abs=0.6)
    assert cut.p < 1e-6


def test_the_median_looks_at_no_outcome_and_takes_over_where_nothing_can_be_looked_for():
    values = np.arange(12.0)
    months, event = np.full(12, 30.0), np.arange(12) % 2
    assert learn_cut(values, months, event, rule="median").value == 5.5
    assert learn_cut(values, months, 0 * event, rule="log-rank").rule == "median"
    assert learn_cut(np.ones(12), months, event, rule="log-rank").rule == "median"
    with pytest.raises(ConfigError, match="must be one of median"):
        learn_cut(values, months, event, rule="best")
    with pytest.raises(ConfigError, match="of no patient"):
        learn_cut(values[:0], months[:0], event[:0], rule="median")


def test_a_patient_is_divided_by_a_cut_that_does_not_depend_on_the_patient():
    values = np.random.default_rng(6).uniform(0, 10, 60)
    months, event = draw(np.where(values > 5, 0.05, 0.02), 6)
    fold = np.arange(60) % 3
    strata = stratify(values, months, event, fold, rule="log-rank")
    own = fold == 1
    other = stratify(
        np.where(own, 99.0, values), np.where(own, 1.0, months), np.where(own, 1, event), fold, rule="log-rank"
    )
    assert other.cuts[1] == strata.cuts[1]
    assert other.high[own].all()
    assert (strata.high[own] == strata.cuts[1].high(values[own])).all()
    with pytest.raises(ConfigError, match="all are in one fold"):
        stratify(values, months, event, [0] * 60, rule="median")


def test_ratios_are_those_of_lifelines():
    generator = np.random.default_rng(7)
    high, volume = (generator.random(150) < 0.4).astype(float), generator.normal(3, 1, 150)
    months, event = draw(0.02 * np.exp(0.7 * high + 0.3 * volume - 1), 7, death=0.005)
    found = hazard_ratios({"high": high, "volume": volume}, months, event)
    frame = DataFrame({"months": months, "failed": event == 1, "high": high, "volume": volume})
    theirs = CoxPHFitter().fit(frame, "months", "failed").summary
    assert found["high"].value == pytest.approx(theirs.loc["high", "exp(coef)"])
    assert found["volume"].high == pytest.approx(theirs.loc["volume", "exp(coef) upper 95%"])
    assert found["high"].method == COX


def test_without_its_penalty_firths_likelihood_is_lifelines():
    generator = np.random.default_rng(8)
    x = generator.normal(0, 2, 50)
    months, event = draw(0.03 * np.exp(0.3 * x), 8)
    months += np.arange(50) * 1e-4
    fit = CoxPHFitter().fit(DataFrame({"m": months, "e": event == 1, "x": x}), "m", "e")
    firth = Firth({"x": x}, months, event == 1)
    at = np.array([fit.params_["x"] * x.std()])
    assert firth.log_likelihood(at, penalised=False) == pytest.approx(fit.log_likelihood_, rel=1e-9)


def test_firth_agrees_with_cox_where_there_are_many_events():
    high = (np.arange(1500) % 2).astype(float)
    months, event = draw(np.where(high, 0.04, 0.02), 9)
    months += np.arange(1500) * 1e-5
    cox = hazard_ratios({"high": high}, months, event)["high"]
    firth = hazard_ratios({"high": high}, months, event, separated=True)["high"]
    assert (cox.method, firth.method) == (COX, FIRTH)
    for name in ("value", "low", "high"):
        assert getattr(firth, name) == pytest.approx(getattr(cox, name), rel=2e-3)


def test_a_group_without_event_has_a_finite_ratio_and_says_how():
    high = np.arange(30) < 10
    months, event = np.arange(1.0, 31.0), np.where(high, 1, 0)
    event[~high] = 0
    found = hazard_ratios({"high": high.astype(float)}, months, event)["high"]
    assert found.method == FIRTH
    assert 1 < found.low < found.value < found.high < np.inf
    assert found.p < 0.001


def test_firths_interval_covers_what_is_true():
    high = (np.arange(40) % 2).astype(float)
    covered = []
    for seed in range(120):
        months, event = draw(np.where(high, 0.02, 0.003), seed)
        ratio = Firth({"high": high}, months, event == 1).ratios()["high"]
        covered.append(ratio.low <= 0.02 / 0.003 <= ratio.high)
    assert 0.89 <= np.mean(covered) <= 1.0


@pytest.mark.parametrize(
    ("columns", "event", "reason"),
    [
        ({"high": [0, 1, 0, 1]}, [1, 0, 0, 0], "1 events, at least 2"),
        ({"high": [1, 1, 1, 1]}, [1, 1, 0, 0], "high is the same in all 4 patients"),
        ({"high": [0, 1, 0, 1], "same": [1, 3, 1, 3]}, [1, 1, 0, 0], "high and same cannot be told apart"),
    ],
)
def test_what_has_no_ratio_says_why(columns, event, reason):
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items()}
    found = hazard_ratios(arrays, np.arange(1.0, 5.0), np.array(event))["high"]
    assert found.value is None
    assert reason in found.reason
    assert reason in found.to_json()["reason"]


def test_a_ratio_that_is_volume_alone_vanishes_given_the_volume():
    generator = np.random.default_rng(10)
    log_volume = generator.normal(3, 1, 800)
    high = log_volume + generator.normal(0, 0.5, 800) > 3
    months, event = draw(0.01 * np.exp(0.8 * (log_volume - 3)), 10)
    found = contrast(high, months, event, np.exp(log_volume))
    assert found.raw.low > 2.0
    assert found.adjusted.low < 1.0 < found.adjusted.high


def test_both_ratios_are_of_the_patients_whose_volume_is_known():
    months, event = draw(np.full(60, 0.03), 11)
    high = np.arange(60) % 2 == 0
    volume = np.where(np.arange(60) < 10, np.nan, 20.0 + np.arange(60))
    found = contrast(high, months, event, volume)
    assert found.patients == 50
    assert found.raw == contrast(high[10:], months[10:], event[10:], volume[10:]).raw
    assert contrast(high, months, event, np.full(60, np.nan)).raw.reason == "no patient has a tumour volume"


def test_any_end_point_will_do():
    high = np.arange(200) % 2 == 0
    months, event = draw(np.where(high, 0.04, 0.02), 12, death=0.01)
    died = (event == 2).astype(int)
    volume = np.random.default_rng(12).uniform(5, 50, 200)
    assert contrast(high, months, event, volume, cause=2).raw == contrast(high, months, died, volume).raw


def test_the_four_groups_of_hypoxia_and_immunity():
    high = np.array([False, False, True, True, True])
    til, cps = np.array([30.0, 5, 30, 30, np.nan]), np.array([5.0, 5, 5, 0, 5])
    assert hypoxia_immune_groups(high, til, cps, til_cut=10.0) == [*GROUPS, ""]
    assert hypoxia_immune_groups(high, np.full(5, np.nan), cps, til_cut=10.0) is None
