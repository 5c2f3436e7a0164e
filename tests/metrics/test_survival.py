import itertools

import numpy as np
import pytest
import torch
from lifelines.utils import concordance_index
from torchsurv.metrics.auc import Auc
from torchsurv.metrics.brier_score import BrierScore
from torchsurv.metrics.cindex import ConcordanceIndex
from torchsurv.stats.ipcw import get_ipcw

from hypoxnet.metrics.survival import (
    auc_at,
    brier_at,
    harrell_c,
    observed_incidence,
    observed_over_expected,
    risk_groups,
    uno_c,
)


@pytest.fixture
def cohort():
    generator = np.random.default_rng(3)
    risk = generator.random(150)
    months = generator.exponential(30 * np.exp(-1.5 * risk)).round(1) + 0.1
    event = generator.choice([0, 1, 2], 150, p=[0.4, 0.4, 0.2])
    return risk, months, event.astype(np.int64)


def as_torch(risk, months, event):
    """float32 throughout: torchsurv's weights are."""
    return torch.tensor(risk, dtype=torch.float32), torch.tensor(event == 1), torch.tensor(months, dtype=torch.float32)


def test_without_competing_events_harrell_is_that_of_lifelines_and_torchsurv(cohort):
    risk, months, event = cohort
    event = np.where(event == 2, 0, event)
    assert harrell_c(risk, months, event) == pytest.approx(concordance_index(months, -risk, event))
    assert harrell_c(risk, months, event) == pytest.approx(
        float(ConcordanceIndex()(*as_torch(risk, months, event))), abs=2e-3
    )


def test_without_competing_events_uno_is_that_of_torchsurv(cohort):
    risk, _, event = cohort
    months = np.random.default_rng(5).permutation(len(risk)) * 0.37 + 0.1  # no ties
    event = np.where(event == 2, 0, event)
    r, e, t = as_torch(risk, months, event)
    expected = float(ConcordanceIndex()(r, e, t, weight=get_ipcw(e, t)))
    assert uno_c(risk, months, event, until=float("inf")) == pytest.approx(expected, abs=5e-3)


def test_without_competing_events_auc_and_brier_are_those_of_torchsurv(cohort):
    risk, _, event = cohort
    months = np.random.default_rng(5).permutation(len(risk)) * 0.37 + 0.1
    event = np.where(event == 2, 0, event)
    r, e, t = as_torch(risk, months, event)
    at = torch.tensor([24.0])
    weights = {"weight": get_ipcw(e, t), "weight_new_time": get_ipcw(e, t, at)}
    expected = float(Auc()(r, e, t, new_time=at, **weights))
    assert auc_at(risk, months, event, month=24.0) == pytest.approx(expected, abs=5e-3)
    survival = (1.0 - r)[:, None]
    expected = float(BrierScore()(survival, e, t, new_time=at, **weights))
    assert brier_at(risk, months, event, month=24.0) == pytest.approx(expected, abs=5e-3)


def test_who_died_without_failure_never_fails():
    risk, months, event = np.array([0.9, 0.5]), np.array([20.0, 5.0]), np.array([1, 2])
    assert harrell_c(risk, months, event) == 1.0
    # Taken as censored at 5 months the two could not be compared at all.
    assert harrell_c(risk, months, np.array([1, 0])) is None
    assert uno_c(risk, months, event, until=60.0) == 1.0


def test_a_yes_no_end_point_is_the_area_under_the_roc_curve():
    risk = np.array([0.1, 0.4, 0.35, 0.8])
    event = np.array([0, 0, 1, 1])
    assert harrell_c(risk, None, event) == auc_at(risk, None, event, month=24.0) == 0.75
    assert brier_at(risk, None, event, month=24.0) == pytest.approx(np.mean((event - risk) ** 2))
    assert observed_incidence(None, event, month=24.0) == 0.5


def test_nobody_failed_is_not_defined():
    risk, months, event = np.array([0.2, 0.4]), np.array([5.0, 9.0]), np.array([0, 2])
    assert harrell_c(risk, months, event) is None
    assert uno_c(risk, months, event, until=60.0) is None
    assert auc_at(risk, months, event, month=6.0) is None


def test_a_calibrated_model_has_ratio_one_and_half_the_risk_has_two():
    generator = np.random.default_rng(0)
    risk = np.full(4000, 0.4)
    failed = generator.random(4000) < 0.4
    months = np.where(failed, 10.0, 60.0)
    event = failed.astype(np.int64)
    assert observed_over_expected(risk, months, event, month=24.0) == pytest.approx(1.0, abs=0.06)
    assert observed_over_expected(risk / 2, months, event, month=24.0) == pytest.approx(2.0, abs=0.12)


def test_groups_hold_everyone_once_in_order_of_risk():
    risk = np.random.default_rng(0).random(23)
    groups = risk_groups(risk, 4)
    assert sorted(np.concatenate(groups)) == list(range(23))
    assert all(risk[a].max() <= risk[b].min() for a, b in itertools.pairwise(groups))
