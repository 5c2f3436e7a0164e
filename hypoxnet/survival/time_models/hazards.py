"""Discrete cause-specific hazards that change smoothly over time: the default.

Axis legend: B patients, J causes, T intervals, M months.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypoxnet.survival.discrete import cumulative_incidence, incidence_at, patient_log_likelihood
from hypoxnet.survival.time_models.base import Others, TimeModel
from hypoxnet.survival.time_models.settings import TimeSettings
from hypoxnet.survival.time_models.spline import interval_basis, interval_offset


class DiscreteHazards(TimeModel):
    """Multinomial logit of what happens in an interval; outputs are the T hazard logits of each cause.

    The logit of an average patient is the logarithm of the interval's length plus a natural cubic spline of
    log(1 + month). Effects add to all intervals alike, or by the same spline when they may change over time.

    Args:
        settings: `baseline_df` and `effect`.
        edges_months: Right edges of the T intervals; (inf,) for a yes/no end point.
        causes: Number of causes J.

    Source:
        Tutz and Schmid 2016, Modeling Discrete Time-to-Event Data, chapters 5 and 8.
    """

    kind = "hazards"

    def __init__(self, settings: TimeSettings, edges_months: Sequence[float], causes: int) -> None:
        basis = interval_basis(edges_months, settings.baseline_df)
        effect = basis if settings.effect == "time_varying" else basis[:1]
        super().__init__(causes=causes, offset=interval_offset(edges_months), basis=basis, effect=effect)
        self.edges_months = tuple(edges_months)

    def _per_patient(self, outputs: Tensor, months: Tensor, event: Tensor, others: Others | None) -> Tensor:
        return -patient_log_likelihood(outputs, months, event, edges_months=self.edges_months)

    def _incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        at_edges = cumulative_incidence(outputs)
        return torch.stack([incidence_at(at_edges, month, self.edges_months) for month in months], dim=-1)
