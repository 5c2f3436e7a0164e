import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_rossi
from lifelines.utils import concordance_index
from sksurv.datasets import load_gbsg2, load_whas500
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.util import Surv
from tied_cohorts import ROWS, arrays, events_first
from torchsurv.metrics.cindex import ConcordanceIndex

from hypoxnet.metrics.discrimination import (
    auc_at,
    auc_over_time,
    discrimination_slope,
    harrell_c,
    harrell_c_within,
    uno_c,
)
from hypoxnet.metrics.pairs import Side, by_halves, by_table
from hypoxnet.survival.estimators import still_followed


def real(name):
    """Risk, months, event of three cohorts without competing events; the risk ties."""
    if name == "rossi":
        rossi = load_rossi()
        return rossi["prio"].to_numpy(float), rossi["week"].to_numpy(float), rossi["arrest"].to_numpy()
    x, y = {"gbsg2": load_gbsg2, "whas500": load_whas500}[name]()
    event, time = (y[field] for field in y.dtype.names)
    risk = x["pnodes"] if name == "gbsg2" else x["age"].astype(float).round(-1)
    return np.asarray(risk, dtype=float), time / 30.4375, event.astype(int)


def naive_c(risk, months, event, *, until, weighted):
    """Pairs one by one."""
    followed = still_followed(months, event, months) if weighted else np.ones(len(months))
    right = total = 0.0
    for i in np.flatnonzero((event == 1) & (months <= until)):
        for j in range(len(months)):
            later = months[j] > months[i] or (months[j] == months[i] and event[j] == 0)
            died = event[j] == 2 and months[j] <= months[i]
            weight = 1 / followed[i] ** 2 if later else 1 / (followed[i] * followed[j]) if died else 0.0
            total += weight
            right += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return right / total if total else None


@settings(max_examples=80, deadline=None)
@given(ROWS, st.sampled_from([4.0, np.inf]))
def test_concordances_are_those_of_all_pairs_one_by_one(rows, until):
    risk, months, event = arrays(rows)
    expected = naive_c(risk, months, event, until=until, weighted=True)
    assert uno_c(risk, months, event, until=until) == (expected and pytest.approx(expected))
    expected = naive_c(risk, months, event, until=np.inf, weighted=False)
    assert harrell_c(risk, months, event) == (expected and pytest.approx(expected))


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS)
def test_halves_count_the_pairs_of_a_table(asking, others):
    sides = [Side(*(np.array(column, dtype=float) for column in zip(*rows, strict=True))) for rows in (asking, others)]
    np.testing.assert_allclose(by_halves(*sides), by_table(*sides))


def test_halves_count_the_pairs_of_a_table_in_a_large_cohort():
    generator = np.random.default_rng(0)
    sides = [Side(generator.integers(0, 60, n), generator.integers(0, 90, n), generator.random(n)) for n in (900, 1100)]
    np.testing.assert_allclose(by_halves(*sides), by_table(*sides))


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_reversed_risk_gives_one_minus_every_concordance(rows):
    risk, months, event = arrays(rows)
    for figure in (
        lambda r: harrell_c(r, months, event),
        lambda r: uno_c(r, months, event, until=5.0),
        lambda r: auc_at(r, months, event, month=4.0),
        lambda r: harrell_c(r, None, event),
    ):
        if figure(risk) is None:
            assert figure(-risk) is None
        else:
            assert figure(risk) + figure(-risk) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["rossi", "gbsg2", "whas500"])
def test_harrell_of_real_cohorts_is_that_of_lifelines_scikit_survival_and_torchsurv(name):
    risk, months, event = real(name)
    found = harrell_c(risk, months, event)
    assert found == pytest.approx(concordance_index(months, -risk, event), abs=1e-9)
    assert found == pytest.approx(concordance_index_censored(event > 0, months, risk)[0], abs=1e-9)
    as_torch = torch.tensor(risk), torch.tensor(event > 0), torch.tensor(months)
    assert found == pytest.approx(float(ConcordanceIndex()(*as_torch)), abs=1e-6)


@pytest.mark.parametrize("name", ["rossi", "gbsg2", "whas500"])
def test_uno_and_auc_of_real_cohorts_are_those_of_scikit_survival(name):
    risk, months, event = real(name)
    outcome = Surv.from_arrays(event > 0, events_first(months, event))
    until = float(np.quantile(months, 0.7))
    expected = concordance_index_ipcw(outcome, outcome, risk, tau=until)[0]
    assert uno_c(risk, months, event, until=until) == pytest.approx(expected, abs=1e-6)
    at = [share * months.max() + 1e-3 for share in (0.2, 0.4, 0.6)]
    expected, _ = cumulative_dynamic_auc(outcome, outcome, risk, at)
    np.testing.assert_allclose(auc_over_time(risk, months, event, at=at), expected, atol=1e-6)


def test_auc_with_competing_events_is_that_of_all_pairs():
    generator = np.random.default_rng(3)
    risk = generator.random(80).round(1)
    months, event = generator.exponential(20.0, 80).round(), generator.integers(0, 3, 80)
    followed, then = still_followed(months, event, months), still_followed(months, event, np.array([15.0]))[0]
    right = total = 0.0
    for i in np.flatnonzero((event == 1) & (months <= 15)):
        for j in range(80):
            died, free = event[j] == 2 and months[j] <= 15, months[j] > 15 or (months[j] == 15 and event[j] == 0)
            weight = (1 / then if free else 1 / followed[j] if died else 0.0) / followed[i]
            total += weight
            right += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    assert auc_at(risk, months, event, month=15.0) == pytest.approx(right / total)


def test_who_is_censored_at_the_horizon_itself_was_free_of_failure_at_it():
    """Follow-up that was closed at 24 months for everybody leaves a figure at 24 months."""
    risk, months, event = np.array([0.9, 0.8, 0.3]), np.array([5.0, 24.0, 24.0]), np.array([1, 1, 0])
    assert auc_at(risk, months, event, month=24.0) == 1.0


def test_who_died_without_failure_never_fails():
    risk, months, event = np.array([0.9, 0.5]), np.array([20.0, 5.0]), np.array([1, 2])
    assert harrell_c(risk, months, event) == 1.0
    # Taken as censored at 5 months the two could not be compared at all.
    assert harrell_c(risk, months, np.array([1, 0])) is None
    assert uno_c(risk, months, event, until=60.0) == 1.0


def test_uno_does_not_depend_on_how_many_are_lost_where_harrell_does():
    """One true concordance, and risk that matters early only: more censoring shows Harrell more of the early part."""
    generator = np.random.default_rng(0)
    n = 20_000
    risk = generator.integers(0, 2, n).astype(float)
    early = generator.exponential(np.where(risk > 0, 6.0, 30.0))
    time = np.where(early < 8.0, early, 8.0 + generator.exponential(20.0, n))
    figures = []
    for follow_up in (60.0, 25.0):
        lost = generator.uniform(0.0, follow_up, n)
        months, event = np.minimum(time, lost), (time <= lost).astype(int)
        figures.append((harrell_c(risk, months, event), uno_c(risk, months, event, until=20.0)))
    harrell, uno = np.diff(figures, axis=0)[0]
    assert harrell > 0.012
    assert abs(uno) < 0.004


def test_a_yes_no_end_point_is_the_area_under_the_roc_curve():
    risk = np.array([0.1, 0.4, 0.35, 0.8])
    event = np.array([0, 0, 1, 1])
    assert harrell_c(risk, None, event) == auc_at(risk, None, event, month=24.0) == 0.75
    assert discrimination_slope(risk, None, event, month=24.0) == pytest.approx(0.575 - 0.25)


@pytest.mark.parametrize(
    ("months", "event"),
    [
        ([5.0, 9.0], [0, 2]),  # nobody failed
        ([5.0], [1]),  # one patient
        ([5.0, 5.0], [1, 1]),  # all failed at once
        ([0.0, 0.0], [0, 0]),  # nobody was followed
    ],
)
def test_where_no_two_can_be_compared_there_is_no_figure(months, event):
    months, event = np.array(months), np.array(event)
    risk = np.linspace(0.2, 0.4, len(months))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert harrell_c(risk, months, event) is None
        assert harrell_c(risk, None, event) is None
        assert uno_c(risk, months, event, until=60.0) is None
        assert auc_at(risk, months, event, month=6.0) is None
        assert discrimination_slope(risk, months, event, month=6.0) is None


def test_a_horizon_beyond_the_follow_up_has_no_auc():
    risk, months, event = np.array([0.9, 0.5, 0.1]), np.array([5.0, 9.0, 12.0]), np.array([1, 2, 0])
    assert auc_at(risk, months, event, month=12.0) == 1.0
    assert auc_at(risk, months, event, month=13.0) is None


def test_concordance_within_folds_does_not_compare_their_levels():
    generator = np.random.default_rng(2)
    fold = np.repeat([0, 1], 60)
    score = generator.normal(size=120)
    months = generator.exponential(20 * np.exp(-score - 1.5 * fold))
    event = (generator.random(120) < 0.7).astype(int)
    # A model of the other hospital: right about who is worse, wrong about the level.
    risk = score - 3.0 * fold
    own = [harrell_c(risk[fold == f], months[fold == f], event[fold == f]) for f in (0, 1)]
    within = harrell_c_within(risk, months, event, fold)
    assert min(own) <= within <= max(own)
    assert harrell_c(risk, months, event) < within - 0.1


def test_one_fold_is_the_plain_concordance():
    risk, months, event = np.array([0.3, 0.2, 0.9]), np.array([5.0, 4.0, 9.0]), np.array([1, 1, 2])
    assert harrell_c_within(risk, months, event, [7, 7, 7]) == harrell_c(risk, months, event)
    assert harrell_c_within(risk, None, event, [7, 7, 7]) == harrell_c(risk, None, event)
    assert harrell_c_within(risk, months, event, [0, 1, 2]) is None
