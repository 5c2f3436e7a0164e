"""Cause-specific Cox models, with a baseline that is kept once training is over.

Axis legend: B patients, J causes, G steps of the baseline, M months.
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
from hypoxnet.survival.time_models.cox_baseline import breslow_steps, thinned
from hypoxnet.survival.time_models.cox_likelihood import partial_likelihood_terms
from hypoxnet.survival.time_models.settings import TimeSettings

# Steps of the baseline that a bundle keeps. Cohorts of the field have fewer distinct times of events.
STEPS = 512
# Stands for "no step"; weights of a bundle are finite.
NEVER = 1e30
# exp of it is a hazard nobody survives, and float32 still holds it.
LARGEST_LOG_HAZARD = 80.0


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
        steps, _ = thinned(breslow_steps(at_least_float32(outputs)[..., 0], months, event), STEPS)
        count = len(steps.months)
        self.step_months.fill_(NEVER)
        self.log_steps.fill_(-NEVER)
        self.step_months[:count] = steps.months.to(self.step_months)
        self.log_steps[:, :count] = steps.log_hazards.to(self.log_steps).clamp(min=-NEVER)

    def _incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        return self.incidence_of_steps(outputs, months, self.log_steps)

    def incidence_of_steps(self, outputs: Tensor, months: Sequence[float], log_steps: Tensor) -> Tensor:
        """Incidence with other steps than those kept, at the same months.

        Args:
            outputs: B J 1.
            months: M times.
            log_steps: J G.

        Returns:
            B J M.
        """
        log_hazard = (log_steps.to(outputs)[None] + outputs).clamp(max=LARGEST_LOG_HAZARD)
        hazard = log_hazard.exp()
        incidence = incidence_by_shares(hazard, hazard.sum(dim=1))
        values = torch.cat([torch.zeros_like(incidence[..., :1]), incidence], dim=-1)
        wanted = torch.tensor([float(month) for month in months], dtype=self.step_months.dtype)
        # Counted rather than searched for, which is no operation of ONNX; there are 512 steps.
        passed = (self.step_months <= wanted.to(self.step_months.device)[:, None]).sum(dim=1)
        return values[..., passed]
