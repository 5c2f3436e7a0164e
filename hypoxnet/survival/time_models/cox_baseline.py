"""The baseline of cause-specific Cox models: Breslow's steps, and how uncertain each is.

Axis legend: B patients, J causes, G steps, P columns, one effect per column.

The log of a step depends on the effects only through the mean columns of those at risk then, weighted by their risk:
an effect that is larger by b makes the step smaller by b times that mean. What is left is independent from step to
step, with a variance of one over the step's events. Together with the covariance of the effects this is the whole
covariance of the cumulative hazards, without a matrix of all steps by all steps.

Source:
    Breslow 1972, J R Stat Soc B 34:216; Andersen et al. 1993, Statistical Models Based on Counting Processes, section
    VII.2.3; Cheng, Fine and Wei 1998, Biometrics 54:219 (incidence with competing risks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypoxnet.survival.time_models.cox_likelihood import log_sums


@dataclass(frozen=True, slots=True)
class Steps:
    """Breslow's estimate.

    Args:
        months: G, in order.
        log_hazards: J G, increase of each cause's cumulative hazard of a patient with log-risk 0; -inf without event.
        events: J G.
    """

    months: Tensor
    log_hazards: Tensor
    events: Tensor


def breslow_steps(log_risk: Tensor, months: Tensor, event: Tensor) -> Steps:
    """Steps of the baseline at each month with an event.

    Args:
        log_risk: B J.
        months: B.
        event: B, 0 censored, 1 ... J the cause.

    Example:
        >>> steps = breslow_steps(torch.zeros(3, 1), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 0]))
        >>> [round(float(value), 3) for value in steps.log_hazards[0].exp()]
        [0.333, 0.5]
    """
    causes, times = log_risk.shape[1], torch.unique(months[event > 0])
    cell = torch.searchsorted(times, months[event > 0]) * causes + event[event > 0].long() - 1
    events = torch.bincount(cell, minlength=len(times) * causes).reshape(-1, causes).T
    log_hazards = torch.log(events.to(log_risk)) - at_risk_log_sums(log_risk, months, times).T
    return Steps(times, log_hazards, events)


def at_risk_log_sums(values: Tensor, months: Tensor, times: Tensor) -> Tensor:
    """Logarithm of the sum of exp(values), B ..., over the patients at risk at each time, G ..."""
    latest_first = months.argsort(stable=True, descending=True)
    number = len(months) - torch.searchsorted(months[latest_first].flip(0), times)
    return values[latest_first].logcumsumexp(dim=0)[number - 1]


def means_at_risk(columns: Tensor, log_risk: Tensor, months: Tensor, times: Tensor) -> Tensor:
    """Mean columns of the patients at risk at each time, weighted by their risk of each cause.

    Args:
        columns: B P.
        log_risk: B J.
        months: B.
        times: G.

    Returns:
        J G P.
    """
    means = []
    for risk in log_risk.T:
        total = at_risk_log_sums(risk, months, times)[:, None]
        above, below = (
            at_risk_log_sums(risk[:, None] + torch.log(part), months, times)
            for part in (columns.clamp(min=0.0), (-columns).clamp(min=0.0))
        )
        means.append(torch.exp(above - total) - torch.exp(below - total))
    return torch.stack(means)


def thinned(steps: Steps, most: int) -> tuple[Steps, Tensor]:
    """At most so many steps: neighbours are added up at the later time.

    Args:
        steps: All of them.
        most: How many are kept.

    Returns:
        The steps, and for each old one, G, the place of the new one that holds it.
    """
    count, device = len(steps.months), steps.months.device
    kept = min(count, most)
    ends = torch.linspace(0, count, kept + 1).round().long()[1:].to(device)
    place = torch.bucketize(torch.arange(count, device=device), ends, right=True)
    log_hazards = torch.stack([log_sums(row, place, kept) for row in steps.log_hazards])
    events = steps.events.new_zeros(len(steps.events), kept).index_add(1, place, steps.events)
    return Steps(steps.months[ends - 1], log_hazards, events), place


class StepSpread(nn.Module):
    """How uncertain the steps of a kept baseline are; buffers, which go with the weights of a model without images.

    Args:
        causes: Number of causes J.
        steps: Number of steps that are kept G.
        columns: Number of columns P.
    """

    variance: Tensor
    means: Tensor

    def __init__(self, causes: int, steps: int, columns: int) -> None:
        super().__init__()
        # Of the logarithm of each step at given effects.
        self.register_buffer("variance", torch.zeros(causes, steps))
        self.register_buffer("means", torch.zeros(causes, steps, columns))

    @torch.no_grad()
    def keep(self, columns: Tensor, log_risk: Tensor, months: Tensor, event: Tensor) -> None:
        """Keep that of a cohort, for the steps that `CauseSpecificCox.set_baseline` keeps.

        Args:
            columns: B P.
            log_risk: B J.
            months: B.
            event: B, 0 censored, 1 ... J the cause.
        """
        every = breslow_steps(log_risk, months, event)
        kept, place = thinned(every, self.variance.shape[1])
        share = torch.exp(every.log_hazards - kept.log_hazards[:, place]).nan_to_num(nan=0.0)
        means = means_at_risk(columns, log_risk, months, every.months)
        count = len(kept.months)
        self.variance.zero_()
        self.means.zero_()
        self.variance[:, :count].index_add_(1, place, (share.square() / every.events.clamp(min=1)).to(self.variance))
        self.means[:, :count].index_add_(1, place, (share[..., None] * means).to(self.means))

    def moved(self, independent: Tensor, effects: Tensor) -> Tensor:
        """What is added to the logarithm of each step, J G.

        Args:
            independent: J G, of each step at given effects.
            effects: J P, by how much the effects are other than those fitted.
        """
        return independent - torch.einsum("jgp,jp->jg", self.means.to(effects), effects)
