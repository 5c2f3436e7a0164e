"""Cause-specific Cox models, with a baseline that is kept once training is over.

Axis legend: B patients, J causes, E events, G steps of the baseline, M months.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypoxnet.survival.discrete import at_least_float32
from hypoxnet.survival.time_models.base import (
    Others,
    TimeModel,
    incidence_by_shares,
    own_value_whole_gradient,
    with_others,
)
from hypoxnet.survival.time_models.settings import TimeSettings

# Steps of the baseline that a bundle keeps. Cohorts of the field have fewer distinct times of events.
STEPS = 512
# Stands for "no step"; weights of a bundle are finite.
NEVER = 1e30
# exp of it is a hazard nobody survives, and float32 still holds it.
LARGEST_LOG_HAZARD = 80.0


def partial_likelihood_terms(log_risk: Tensor, months: Tensor, hit: Tensor, *, ties: str) -> Tensor:
    """Each patient's term of the Cox partial log-likelihood; 0 for patients without the event.

    Terms of tied events share the mean of their denominators, so that a term does not depend on the order of patients.

    Args:
        log_risk: B.
        months: B.
        hit: B, true where the event of interest happened; other events leave the risk set as censorings do.
        ties: `efron` or `breslow`.

    Returns:
        B; their sum is the partial log-likelihood.

    Source:
        Cox 1972, J R Stat Soc B 34:187; Efron 1977, J Am Stat Assoc 72:557; Breslow 1974, Biometrics 30:89.

    Example:
        >>> terms = partial_likelihood_terms(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 0]) > 0,
        ...                                  ties="efron")
        >>> [round(float(term), 3) for term in terms]
        [-1.099, -0.693, 0.0]
    """
    rows = hit.nonzero()[:, 0]
    if len(rows) == 0:
        return log_risk * 0.0
    at_risk = months[None] >= months[rows, None]
    tied = (months[None] == months[rows, None]) & hit[None]
    together = tied[:, rows].to(log_risk)
    size = together.sum(dim=1)
    log_weight = torch.zeros_like(at_risk, dtype=log_risk.dtype)
    if ties == "efron":
        rank = together.tril(diagonal=-1).sum(dim=1)
        log_weight = torch.where(tied, torch.log1p(-rank / size)[:, None], log_weight)
    # One sum per event, in logarithms: exp of a log-risk overflows above 88, and a running sum loses its digits.
    denominators = (log_risk[None] + log_weight).masked_fill(~at_risk, -torch.inf).logsumexp(dim=1)
    shared = (together @ denominators) / size
    return torch.zeros_like(log_risk).index_add(0, rows, log_risk[rows] - shared)


class CauseSpecificCox(TimeModel):
    """A log-risk per cause, scored by the partial likelihood of each cause against everybody still at risk.

    A batch is compared with `others`, the latest log-risks of patients outside it. When they are everybody else, the
    batches' losses add up to the partial likelihood of the cohort, and a patient's gradient is that of the whole.

    Args:
        settings: `ties`.
        causes: Number of causes J.

    Source:
        Prentice et al. 1978, Biometrics 34:541 (cause-specific hazards); Breslow 1972 (baseline).
    """

    kind = "cox"
    compares = True
    baseline_after_training = True

    step_months: Tensor
    log_steps: Tensor

    def __init__(self, settings: TimeSettings, causes: int) -> None:
        super().__init__(causes=causes, offset=torch.zeros(1), basis=torch.zeros(0, 1), effect=torch.ones(1, 1))
        self.ties = settings.ties
        self.register_buffer("step_months", torch.full((STEPS,), NEVER))
        self.register_buffer("log_steps", torch.full((causes, STEPS), -NEVER))

    def _per_patient(self, outputs: Tensor, months: Tensor, event: Tensor, others: Others | None) -> Tensor:
        everybody, times, events = with_others(outputs, months, event, others)
        terms = [
            partial_likelihood_terms(everybody[:, j, 0], times, events == j + 1, ties=self.ties)
            for j in range(self.causes)
        ]
        return own_value_whole_gradient(-torch.stack(terms).sum(dim=0), len(outputs))

    @torch.no_grad()
    def set_baseline(self, outputs: Tensor, months: Tensor, event: Tensor) -> None:
        """Keep the Breslow estimate of each cause's baseline hazard.

        Args:
            outputs: B J 1, log-risks of the training patients.
            months: B.
            event: B.
        """
        log_risk = at_least_float32(outputs)[..., 0]
        times = torch.unique(months[event > 0])
        at_risk = (months[None] >= times[:, None])[:, None]
        denominator = log_risk.T[None].masked_fill(~at_risk, -torch.inf).logsumexp(dim=2)
        cause = torch.arange(1, self.causes + 1, device=event.device)
        here = (months[None] == times[:, None])[:, None] & (event[None] == cause[:, None])[None]
        # G J; log 0 where the cause did not strike at that time
        steps = torch.log(here.sum(dim=2).to(log_risk)) - denominator
        times, steps = _thinned(times, steps)
        self.step_months.fill_(NEVER)
        self.log_steps.fill_(-NEVER)
        self.step_months[: len(times)] = times.to(self.step_months)
        self.log_steps[:, : len(times)] = steps.T.to(self.log_steps).clamp(min=-NEVER)

    def _incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        log_hazard = (self.log_steps.to(outputs)[None] + outputs).clamp(max=LARGEST_LOG_HAZARD)
        hazard = log_hazard.exp()
        incidence = incidence_by_shares(hazard, hazard.sum(dim=1))
        values = torch.cat([torch.zeros_like(incidence[..., :1]), incidence], dim=-1)
        wanted = torch.tensor([float(month) for month in months], dtype=self.step_months.dtype)
        return values[..., torch.searchsorted(self.step_months, wanted.to(self.step_months.device), right=True)]


def _thinned(times: Tensor, log_steps: Tensor) -> tuple[Tensor, Tensor]:
    """At most `STEPS` steps: neighbours are added up at the later time."""
    if len(times) <= STEPS:
        return times, log_steps
    ends = torch.linspace(0, len(times), STEPS + 1).round().long()[1:].tolist()
    begins = [0, *ends[:-1]]
    merged = torch.stack([log_steps[a:b].logsumexp(dim=0) for a, b in zip(begins, ends, strict=True)])
    return times[torch.tensor(ends) - 1], merged
