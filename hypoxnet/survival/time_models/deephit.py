"""DeepHit: a probability for each cause and interval, and a loss that also ranks patients.

Axis legend: B patients, J causes, T intervals, M months, E events.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypoxnet.survival.discrete import incidence_at, passed_and_hit
from hypoxnet.survival.time_models.base import Others, TimeModel, own_value_whole_gradient, with_others
from hypoxnet.survival.time_models.settings import TimeSettings
from hypoxnet.survival.time_models.spline import interval_basis, interval_offset


class DeepHit(TimeModel):
    """Softmax over every cause and interval, and over an event beyond the last edge, whose logit is 0.

    The loss is the likelihood plus, for each patient with an event, the mean of exp(-(F(own) - F(other)) / scale) over
    patients who were still free of events then: their incidence of that cause by the interval's end should be lower.

    Args:
        settings: `baseline_df`, `effect`, `ranking`, `ranking_scale`.
        edges_months: Right edges of the T intervals.
        causes: Number of causes J.

    Source:
        Lee et al. 2018, DeepHit, AAAI, equations 3 and 4; the ranking is a mean over pairs here, so that its weight
        means the same in every cohort.
    """

    kind = "deephit"

    def __init__(self, settings: TimeSettings, edges_months: Sequence[float], causes: int) -> None:
        basis = interval_basis(edges_months, settings.baseline_df)
        effect = basis if settings.effect == "time_varying" else basis[:1]
        super().__init__(causes=causes, offset=interval_offset(edges_months), basis=basis, effect=effect)
        self.edges_months = tuple(edges_months)
        self.ranking = settings.ranking
        self.scale = settings.ranking_scale
        self.compares = settings.ranking > 0

    def _per_patient(self, outputs: Tensor, months: Tensor, event: Tensor, others: Others | None) -> Tensor:
        likelihood = self._negative_log_likelihood(outputs, months, event)
        if not self.ranking:
            return likelihood
        everybody = with_others(outputs, months, event, others)
        return likelihood + self.ranking * own_value_whole_gradient(self._wrong_order(*everybody), len(outputs))

    def _log_masses(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """B J T and B: logarithms of the mass of each cause and interval, and of the mass beyond."""
        flat = torch.cat([outputs.flatten(1), outputs.new_zeros(outputs.shape[0], 1)], dim=1).log_softmax(dim=1)
        return flat[:, :-1].reshape(outputs.shape), flat[:, -1]

    def _negative_log_likelihood(self, outputs: Tensor, months: Tensor, event: Tensor) -> Tensor:
        log_mass, log_beyond = self._log_masses(outputs)
        passed, hit = passed_and_hit(months, event, self.edges_months)
        cause = torch.arange(1, self.causes + 1, device=event.device)
        seen = (hit[:, None] > 0) & (event[:, None] == cause)[:, :, None]
        # Without an event inside the intervals: anything that comes after those that were passed.
        free = hit.sum(dim=1) == 0
        possible = torch.where(free[:, None, None], (passed[:, None] == 0).expand_as(seen), seen)
        beyond = log_beyond.masked_fill(~free, -torch.inf)
        masses = log_mass.masked_fill(~possible, -torch.inf).flatten(1)
        return -torch.cat([masses, beyond[:, None]], dim=1).logsumexp(dim=1)

    def _wrong_order(self, outputs: Tensor, months: Tensor, event: Tensor) -> Tensor:
        """Ranking term of each patient; 0 without an event inside the intervals or without anybody to compare; B."""
        _, hit = passed_and_hit(months, event, self.edges_months)
        rows = (hit.sum(dim=1) > 0).nonzero()[:, 0]
        incidence = self._at_edges(outputs)
        at = hit[rows].argmax(dim=1)
        # E B: incidence of the row's cause by the end of its interval, for everybody
        by_then = incidence[:, event[rows] - 1, at].T
        own = by_then.gather(1, rows[:, None])
        later = months[None] > months[rows, None]
        cost = torch.exp((by_then - own) / self.scale).masked_fill(~later, 0.0)
        mean = cost.sum(dim=1) / later.sum(dim=1).clamp(min=1)
        return outputs.new_zeros(len(outputs)).index_add(0, rows, mean)

    def _at_edges(self, outputs: Tensor) -> Tensor:
        log_mass, _ = self._log_masses(outputs)
        return torch.cumsum(log_mass.exp(), dim=2)

    def _incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        at_edges = self._at_edges(outputs)
        return torch.stack([incidence_at(at_edges, month, self.edges_months) for month in months], dim=-1)
