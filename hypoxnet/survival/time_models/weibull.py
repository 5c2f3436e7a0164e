"""Cause-specific Weibull hazards.

Axis legend: B patients, J causes, M months, G steps of the quadrature, Q nodes in a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hypoxnet.survival.time_models.base import Others, TimeModel, incidence_by_shares
from hypoxnet.survival.time_models.settings import TimeSettings

# Month at which the cumulative hazard is exp(first output): near the middle of a follow-up, so that level and shape are
# learnt almost independently.
REFERENCE_MONTHS = 24.0
# A recorded time of 0 is a time on the first day; its logarithm has to exist.
SHORTEST_MONTHS = 12.0 / 365.25
# Shapes outside 0.05 to 20 are no follow-up of patients.
LARGEST_LOG_SHAPE = 3.0
# Above it the cost of an event-free time rises linearly: exp of an untrained output must not end a training.
LARGEST_LOG_COST = 20.0
# float32 still holds exp of it.
LARGEST_LOG_HAZARD = 80.0
STEPS, NODES = 96, 4
# The quadrature begins at this share of the latest month; what lies before it is divided by the hazards there.
FIRST_SHARE = 1e-8


class CauseSpecificWeibull(TimeModel):
    """Cumulative hazard of each cause exp(a) (t / 24 months)^k, with a from the patient and k of the cause.

    Outputs: a, and the logarithm of the shape k. With scale lambda, H = (t / lambda)^k and lambda = 24 exp(-a / k),
    so an effect e on `a` is a hazard ratio exp(e), and a factor exp(-e / k) on times.

    Args:
        settings: Nothing of it is used but the kind.
        causes: Number of causes J.

    Source:
        Kalbfleisch and Prentice 2002, The Statistical Analysis of Failure Time Data, sections 2.2 and 8.2.
    """

    kind = "weibull"

    def __init__(self, settings: TimeSettings, causes: int) -> None:
        super().__init__(causes=causes, offset=torch.zeros(2), basis=torch.eye(2), effect=torch.tensor([[1.0, 0.0]]))

    def _per_patient(self, outputs: Tensor, months: Tensor, event: Tensor, others: Others | None) -> Tensor:
        log_time = _log_time(months.to(outputs))[:, None]
        log_shape = _log_shape(outputs)
        log_cumulative = outputs[..., 0] + log_shape.exp() * log_time
        # h = H k / t, per month
        log_hazard = log_cumulative + log_shape - log_time - float(np.log(REFERENCE_MONTHS))
        cause = torch.arange(1, self.causes + 1, device=event.device)
        struck = torch.where(event[:, None] == cause, log_hazard, torch.zeros_like(log_hazard))
        followed = (months > 0) | (event > 0)
        cost = torch.where(followed[:, None], _bounded_exp(log_cumulative), torch.zeros_like(log_cumulative))
        return (cost - struck).sum(dim=1)

    def _incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        # By numpy: months are constants, and a graph that is exported holds the edges and not how they are found.
        kind = np.float64 if outputs.dtype == torch.float64 else np.float32
        wanted = np.array([float(month) for month in months], np.float64)
        latest = max(float(wanted.max(initial=0.0)), SHORTEST_MONTHS) if len(wanted) else 1.0
        grid = latest * np.logspace(np.log10(FIRST_SHARE), 0.0, STEPS)
        at = np.unique(np.concatenate([grid, wanted[wanted > 0]]).astype(kind))
        edges = torch.tensor(at.tolist(), dtype=outputs.dtype, device=outputs.device)
        shares, hazard = self._steps(outputs, edges)
        incidence = incidence_by_shares(shares, hazard)
        values = torch.cat([torch.zeros_like(incidence[..., :1]), incidence], dim=-1)
        return values[..., np.searchsorted(at, wanted.astype(kind), side="right").tolist()]

    def _steps(self, outputs: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the causes B J G and hazard of all causes B G in the steps that end at the edges.

        The share of a cause is the integral of its hazard times survival over the step, by Gauss and Legendre in the
        logarithm of time; up to a factor per step, which cancels.
        """
        nodes, weights = (
            torch.as_tensor(values, dtype=edges.dtype) for values in np.polynomial.legendre.leggauss(NODES)
        )
        log_edges = edges.log()
        half = (log_edges[1:] - log_edges[:-1])[:, None] / 2
        log_nodes = log_edges[:-1, None] + half * (1.0 + nodes.to(edges.device))
        at_nodes = self._log_cumulative(outputs, log_nodes.flatten()).reshape(*outputs.shape[:2], *log_nodes.shape)
        at_edges = self._log_cumulative(outputs, log_edges).exp().sum(dim=1)
        total = at_nodes.exp().sum(dim=1, keepdim=True)
        # t h = k H
        log_density = at_nodes + _log_shape(outputs)[..., None, None] - total
        log_share = (log_density + (weights.to(edges.device) * half).log()).logsumexp(dim=-1)
        first = self._log_cumulative(outputs, log_edges[:1])
        log_shares = torch.cat([first, log_share], dim=-1)
        shares = (log_shares - log_shares.amax(dim=1, keepdim=True)).exp()
        hazard = torch.cat([at_edges[..., :1], at_edges.diff(dim=-1)], dim=-1)
        return shares, hazard.clamp(min=0.0)

    def _log_cumulative(self, outputs: Tensor, log_months: Tensor) -> Tensor:
        """Logarithm of the cumulative hazards at G times; B J G."""
        log_time = log_months - float(np.log(REFERENCE_MONTHS))
        return (outputs[..., :1] + _log_shape(outputs).exp()[..., None] * log_time).clamp(max=LARGEST_LOG_HAZARD)


def _log_time(months: Tensor) -> Tensor:
    return months.clamp(min=SHORTEST_MONTHS).log() - float(np.log(REFERENCE_MONTHS))


def _log_shape(outputs: Tensor) -> Tensor:
    return outputs[..., 1].clamp(-LARGEST_LOG_SHAPE, LARGEST_LOG_SHAPE)


def _bounded_exp(values: Tensor) -> Tensor:
    """exp, continued by its tangent above `LARGEST_LOG_COST`."""
    low = values.clamp(max=LARGEST_LOG_COST)
    return low.exp() * (1.0 + values - low)
