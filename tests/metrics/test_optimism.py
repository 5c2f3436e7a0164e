import numpy as np
import pytest

from hypoxnet.metrics.bootstrap import bootstrap, resampled
from hypoxnet.metrics.discrimination import harrell_c
from hypoxnet.metrics.optimism import nested_gain, optimism_corrected, permutation_test
from hypoxnet.survival.fine_gray import fine_gray


def names(count):
    return [f"p{i}" for i in range(count)]


def outcome(hazard, seed=0):
    generator = np.random.default_rng(seed)
    failure = generator.exponential(1.0 / hazard)
    death, lost = generator.exponential(60.0, len(hazard)), generator.uniform(6.0, 60.0, len(hazard))
    months = np.minimum(np.minimum(failure, death), lost)
    return months, np.where(months == lost, 0, np.where(months == failure, 1, 2))


def test_a_model_of_noise_is_corrected_to_a_coin():
    """Ten columns of noise on 60 patients look like a model; the correction takes it back."""
    x = np.random.default_rng(0).normal(size=(60, 10))
    months, event = outcome(np.full(60, 0.04))

    def fit(index):
        return fine_gray(months[index], event[index], x[index])

    def score(model, index):
        return None if model is None else harrell_c(model.risk(x[index]), months[index], event[index])

    found = optimism_corrected(fit, score, names(60), resamplings=60)
    assert found.apparent > 0.62
    assert found.corrected == pytest.approx(0.5, abs=0.08)
    assert found.corrected == found.apparent - found.optimism


def test_optimism_of_a_mean_is_known():
    """Squared error about a fitted mean is too small by 2 variance / n in expectation; the sign is of a score."""
    y = np.random.default_rng(1).normal(size=40)
    found = optimism_corrected(
        lambda index: y[index].mean(),
        lambda mean, index: -float(((y[index] - mean) ** 2).mean()),
        names(40),
        resamplings=4000,
    )
    assert found.optimism == pytest.approx(2 * y.var() / 40, rel=0.15)


def test_what_was_not_fitted_has_no_optimism():
    risk = np.random.default_rng(0).random(50)
    months, event = outcome(0.05 * np.exp(risk))
    found = optimism_corrected(
        lambda index: None,
        lambda model, index: harrell_c(risk[index], months[index], event[index]),
        names(50),
        resamplings=400,
    )
    assert found.optimism == pytest.approx(0.0, abs=0.01)


def test_a_score_that_is_not_defined_gives_none():
    assert optimism_corrected(lambda index: 0, lambda model, index: None, names(5), resamplings=5) is None
    only_whole = optimism_corrected(
        lambda index: len(set(index)), lambda model, index: 1.0 if model == 5 else None, names(5), resamplings=50
    )
    assert only_whole is None


def test_resamples_hold_patients_with_all_their_cases():
    patients = ["a", "b", "a", "c"]
    for index in resampled(patients, resamplings=20, seed=3):
        counts = np.bincount(index, minlength=4)
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3
    drawn = [list(index) for index in resampled(patients, resamplings=5, seed=1)]
    seen = []
    bootstrap(lambda index: seen.append(list(index)) or 1.0, patients, resamplings=5, seed=1)
    assert seen[1:] == drawn


def imaging(effect, seed=0, n=90):
    """Volume, uptake that goes with it, and an outcome that depends on volume and, by `effect`, on uptake."""
    generator = np.random.default_rng(seed)
    volume = generator.normal(size=(n, 1))
    uptake = 0.8 * volume + 0.6 * generator.normal(size=(n, 1))
    months, event = outcome(0.03 * np.exp(0.6 * volume[:, 0] + effect * uptake[:, 0]), seed + 1)

    def fit_and_score(x):
        model = fine_gray(months, event, x)
        return None if model is None else model.log_likelihood

    return nested_gain(fit_and_score, volume, uptake)


def fitted_to(y):
    """Negative squared error of a linear regression."""

    def fit_and_score(x):
        columns = np.column_stack([np.ones(len(y)), x])
        return -float(((y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]) ** 2).sum())

    return fit_and_score


def test_imaging_that_matters_is_found_although_it_goes_with_volume():
    found = permutation_test(imaging(effect=1.0), 90, permutations=99)
    assert found.gain > 5
    assert found.p_value == 0.01
    assert found.permutations == 99


def test_imaging_that_adds_nothing_to_volume_is_significant_as_rarely_as_it_should_be():
    p_values = []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        volume, noise = generator.normal(size=(30, 1)), generator.normal(size=(30, 1))
        gain = nested_gain(fitted_to(volume[:, 0] + generator.normal(size=30)), volume, volume + 0.5 * noise)
        p_values.append(permutation_test(gain, 30, permutations=19).p_value)
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(p_values) == pytest.approx(0.525, abs=0.07)


def test_the_gain_by_residuals_is_that_of_the_columns_themselves():
    generator = np.random.default_rng(0)
    volume, uptake = generator.normal(size=(50, 1)), generator.normal(size=(50, 2))
    fit_and_score = fitted_to(generator.normal(size=50))
    gain = nested_gain(fit_and_score, volume, uptake + 3 * volume)(np.arange(50))
    assert gain == pytest.approx(fit_and_score(np.column_stack([volume, uptake])) - fit_and_score(volume))


def test_a_p_value_is_never_zero_and_counts_ties():
    assert permutation_test(lambda order: 1.0, 10, permutations=9).p_value == 1.0
    assert (
        permutation_test(lambda order: float(order[0] == 0) + float(order[1] == 1), 50, permutations=9).p_value == 0.1
    )
    assert permutation_test(lambda order: 1.0, 1, permutations=9).p_value == 1.0
    assert permutation_test(lambda order: None, 10, permutations=9) is None


def test_patients_change_places_within_their_own_stratum_only():
    strata = [0, 0, 0, 1, 1, 2]
    seen = []
    permutation_test(lambda order: seen.append(order) or 1.0, 6, permutations=60, strata=strata)
    for order in seen:
        assert [strata[place] for place in order] == strata
    assert len({tuple(order) for order in seen}) == 12


def test_the_interval_of_a_corrected_figure_is_that_of_refitted_models_shifted_by_the_optimism():
    y = np.random.default_rng(1).normal(size=40)
    found = optimism_corrected(
        lambda index: y[index].mean(),
        lambda mean, index: -float(((y[index] - mean) ** 2).mean()),
        names(40),
        resamplings=200,
    )
    own = [-y[index].var() for index in resampled(names(40), resamplings=200, seed=0)]
    assert (found.low, found.high) == pytest.approx(np.percentile(own, [2.5, 97.5]) - found.optimism)
