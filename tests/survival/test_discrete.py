from math import inf, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.errors import ConfigError
from hypoxnet.survival.discrete import (
    cumulative_incidence,
    incidence_at,
    passed_and_hit,
    patient_log_likelihood,
)

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
    values = patient_log_likelihood(logits, months, event, edges_months=EDGES)
    free = log(0.85) + log(0.70) + log(0.60)
    assert values.tolist() == pytest.approx([log(0.85) + log(0.10), log(0.85) + log(0.70), free])


def test_yes_no_is_binary_cross_entropy():
    logits = torch.randn(6, 1, 1)
    event = torch.tensor([0, 1, 0, 1, 1, 0])
    loss = -patient_log_likelihood(logits, torch.full((6,), torch.nan), event, edges_months=(inf,)).mean()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits.flatten(), event.float())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@given(st.integers(0, 10_000))
def test_incidence_rises_and_never_exceeds_one(seed):
    incidence = cumulative_incidence(torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(seed)) * 4)
    assert (incidence.diff(dim=2) >= -1e-6).all()
    assert (incidence.sum(dim=1) <= 1 + 1e-5).all()


def test_incidence_between_edges_is_linear_and_beyond_the_last_constant():
    incidence = torch.tensor([[[0.2, 0.4, 0.6]]])
    assert float(incidence_at(incidence, 18.0, EDGES)) == pytest.approx(0.3)
    assert float(incidence_at(incidence, 90.0, EDGES)) == pytest.approx(0.6)
    with pytest.raises(ConfigError, match="must not be negative"):
        incidence_at(incidence, -1.0, EDGES)


def test_half_precision_logits_do_not_overflow():
    logits = torch.full((1, 2, 3), 60.0, dtype=torch.bfloat16)
    value = patient_log_likelihood(logits, torch.tensor([30.0]), torch.tensor([0]), edges_months=EDGES)
    assert torch.isfinite(value).all()
    assert value.dtype == torch.float32
