from math import inf, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.errors import ConfigError
from hypoxnet.survival.discrete import (
    cumulative_incidence,
    incidence_at,
    life_table_hazards,
    negative_log_likelihood,
    passed_and_hit,
)
from hypoxnet.survival.estimators import aalen_johansen

EDGES = (12.0, 24.0, 36.0)


def logits_of(hazards):
    """Logits whose hazards are these: J T."""
    hazards = torch.tensor(hazards, dtype=torch.float64)
    return (torch.log(hazards) - torch.log(1 - hazards.sum(dim=0)))[None]


@pytest.mark.parametrize(
    ("months", "event", "passed", "hit"),
    [
        (0.0, 1, [0, 0, 0], [1, 0, 0]),
        (12.0, 1, [0, 0, 0], [1, 0, 0]),
        (12.1, 2, [1, 0, 0], [0, 1, 0]),
        (12.0, 0, [1, 0, 0], [0, 0, 0]),
        (30.0, 0, [1, 1, 0], [0, 0, 0]),
        (99.0, 1, [1, 1, 1], [0, 0, 0]),
    ],
)
def test_intervals_are_open_on_the_left_and_closed_on_the_right(months, event, passed, hit):
    p, h = passed_and_hit(torch.tensor([months]), torch.tensor([event]), EDGES)
    assert p[0].tolist() == passed
    assert h[0].tolist() == hit


def test_likelihood_by_hand():
    hazards = [[0.10, 0.20, 0.30], [0.05, 0.10, 0.10]]
    months, event = torch.tensor([20.0, 30.0, 40.0]), torch.tensor([2, 0, 1])
    logits = logits_of(hazards).expand(3, -1, -1)
    loss = negative_log_likelihood(logits, months, event, torch.tensor([1.0, 1.0, 0.0]), edges_months=EDGES)
    expected = -(log(0.85) + log(0.10) + log(0.85) + log(0.70)) / 2
    assert float(loss) == pytest.approx(expected)


def test_no_known_outcome_is_zero_with_a_gradient():
    logits = torch.randn(2, 2, 3, requires_grad=True)
    loss = negative_log_likelihood(
        logits, torch.tensor([9.0, 9.0]), torch.tensor([1, 0]), torch.zeros(2), edges_months=EDGES
    )
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()


def test_yes_no_is_binary_cross_entropy():
    logits = torch.randn(6, 1, 1)
    event = torch.tensor([0, 1, 0, 1, 1, 0])
    loss = negative_log_likelihood(logits, torch.full((6,), torch.nan), event, torch.ones(6), edges_months=(inf,))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits.flatten(), event.float())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@given(st.integers(0, 10_000))
def test_incidence_rises_and_never_exceeds_one(seed):
    incidence = cumulative_incidence(torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(seed)) * 4)
    assert (incidence.diff(dim=2) >= -1e-6).all()
    assert (incidence.sum(dim=1) <= 1 + 1e-5).all()


def test_life_table_gives_back_aalen_johansen_at_the_edges():
    """Hazards of a life table without shrinkage, where nobody is censored inside an interval."""
    generator = np.random.default_rng(0)
    months = generator.choice([3.0, 11.0, 12.0, 20.0, 24.0, 30.0, 36.0], 300)
    event = generator.integers(0, 3, 300)
    months = np.where(event == 0, np.ceil(months / 12) * 12, months)
    hazards = life_table_hazards(torch.tensor(months), torch.tensor(event), causes=2, edges_months=EDGES, prior=0.0)
    incidence = cumulative_incidence(logits_of(hazards.tolist()))[0]
    for cause in (1, 2):
        times, expected = aalen_johansen(months, event, cause=cause)
        at = [expected[np.searchsorted(times, edge, side="right") - 1] for edge in EDGES]
        np.testing.assert_allclose(incidence[cause - 1].numpy(), at, atol=1e-6)


def test_incidence_between_edges_is_linear_and_beyond_the_last_constant():
    incidence = torch.tensor([[[0.2, 0.4, 0.6]]])
    assert float(incidence_at(incidence, 18.0, EDGES)) == pytest.approx(0.3)
    assert float(incidence_at(incidence, 90.0, EDGES)) == pytest.approx(0.6)
    with pytest.raises(ConfigError, match="must not be negative"):
        incidence_at(incidence, -1.0, EDGES)


def test_half_precision_logits_do_not_overflow():
    logits = torch.full((1, 2, 3), 60.0, dtype=torch.bfloat16)
    loss = negative_log_likelihood(logits, torch.tensor([30.0]), torch.tensor([0]), torch.ones(1), edges_months=EDGES)
    assert torch.isfinite(loss)
    assert loss.dtype == torch.float32
