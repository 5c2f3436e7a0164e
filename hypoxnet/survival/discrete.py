"""Discrete-time competing risks: from hazard logits to likelihood and cumulative incidence.

Axis legend: B patients, J causes, T intervals. Everything is computed in float32 at least: the exponent of a 16-bit
logit overflows, and products of survival over intervals lose their digits.

In interval t a patient who is still at risk meets cause j with probability softmax([logit_1 ... logit_J, 0])_j, and
passes it unharmed with the probability of the last entry.

Conventions: interval t is (edge_{t-1}, edge_t], the first begins at 0. An event belongs to the interval it falls in.
A patient censored inside an interval counts as having passed the intervals that were complete by then. Whoever is
followed beyond the last edge is censored at it. A yes/no end point has the one edge `inf` and no times.

Source:
    Tutz and Schmid 2016, Modeling Discrete Time-to-Event Data, chapter 8 (multinomial hazards for competing risks).
    Lee et al. 2018, DeepHit; Gensheimer and Narasimhan 2019, PeerJ 7:e6257 (discrete hazards in a network).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hypoxnet.errors import ConfigError


def at_least_float32(values: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it has more digits."""
    return values if values.dtype == torch.float64 else values.float()


def log_interval_probabilities(hazard_logits: Tensor) -> Tensor:
    """Logarithms of what can happen in an interval to a patient at risk.

    Args:
        hazard_logits: B J T.

    Returns:
        B (J + 1) T; the last entry along the second axis is "nothing happened".
    """
    logits = at_least_float32(hazard_logits)
    return F.log_softmax(torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1), dim=1)


def passed_and_hit(months: Tensor, event: Tensor, edges_months: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Which intervals a patient passed unharmed, and in which the event fell.

    Args:
        months: B, time of event or censoring; nan for a yes/no end point.
        event: B, 0 censored, 1 ... J causes.
        edges_months: Right edges of the T intervals.

    Returns:
        passed: B T, 1 for intervals that were passed. hit: B T, 1 for the interval of the event, all 0 without one.
    """
    edges = torch.as_tensor(list(edges_months), dtype=torch.float64, device=months.device)
    # A yes/no end point was followed through its only interval, whose edge is infinite.
    time = torch.where(torch.isnan(months), torch.inf, months.double())[:, None]
    begins = torch.cat([edges.new_zeros(1), edges[:-1]])
    has_event = (event > 0)[:, None]
    inside = (time > begins) & (time <= edges)
    # An event at time 0 belongs to the first interval.
    inside[:, 0] |= time[:, 0] <= 0
    hit = inside & has_event
    passed = torch.where(has_event, edges < time, edges <= time)
    return passed.to(torch.float32), hit.to(torch.float32)


def patient_log_likelihood(
    hazard_logits: Tensor, months: Tensor, event: Tensor, *, edges_months: Sequence[float]
) -> Tensor:
    """Log-likelihood of what was seen of each patient.

    Args:
        hazard_logits: B J T.
        months: B; nan for a yes/no end point.
        event: B, integers 0 ... J.
        edges_months: Right edges of the T intervals.

    Returns:
        B, at most 0.
    """
    log_p = log_interval_probabilities(hazard_logits)
    passed, hit = passed_and_hit(months, event, edges_months)
    causes = hazard_logits.shape[1]
    cause = (event.clamp(1, causes) - 1)[:, None, None].expand(-1, 1, log_p.shape[2])
    log_cause = torch.gather(log_p, 1, cause)[:, 0]
    return (passed.to(log_p) * log_p[:, -1] + hit.to(log_p) * log_cause).sum(dim=1)


def cumulative_incidence(hazard_logits: Tensor) -> Tensor:
    """Probability that each cause has struck by the end of each interval.

    Args:
        hazard_logits: B J T.

    Returns:
        B J T, increasing along T; its sum over J and the probability of being free of events add up to 1.
    """
    log_p = log_interval_probabilities(hazard_logits)
    log_free = torch.cumsum(log_p[:, -1:], dim=2)
    before = torch.cat([torch.zeros_like(log_free[..., :1]), log_free[..., :-1]], dim=2)
    return torch.cumsum(torch.exp(log_p[:, :-1] + before), dim=2)


def incidence_at(incidence: Tensor, month: float, edges_months: Sequence[float]) -> Tensor:
    """Cumulative incidence at a month, linear inside the intervals.

    Args:
        incidence: B J T, at the right edges.
        month: Time, months; at or beyond the last edge gives the last value.
        edges_months: Right edges; (inf,) for a yes/no end point, which has one value whatever the month.

    Returns:
        B J.

    Raises:
        ConfigError: The month is negative.

    Example:
        >>> incidence_at(torch.tensor([[[0.2, 0.4]]]), 9.0, (6.0, 12.0))
        tensor([[0.3000]])
    """
    if month < 0:
        raise ConfigError(f"the horizon is {month} months, it must not be negative")
    edges = [0.0, *edges_months]
    values = torch.cat([torch.zeros_like(incidence[..., :1]), incidence], dim=-1)
    if month >= edges[-1] or edges[-1] == float("inf"):
        return values[..., -1]
    after = next(i for i, edge in enumerate(edges) if edge > month)
    share = (month - edges[after - 1]) / (edges[after] - edges[after - 1])
    return values[..., after - 1] * (1 - share) + values[..., after] * share
