"""What every outcome model offers: a loss that is a sum over patients, and incidence at any month.

Axis legend: B patients, J causes, K outputs per cause, M months, N other patients, D coefficients of the baseline over
time, R effects per cause.

The network gives R effects per cause and patient. A model turns them into its K outputs by two fixed matrices:
`outputs = offset + baseline @ basis + effects @ effect`. So every kind has the same head, the same start from the
cohort, and the same place for covariates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypoxnet.errors import ConfigError
from hypoxnet.survival.discrete import at_least_float32

# Of the prior that keeps the start finite for a cause that nobody met: precision of the constant, of the shape.
LEVEL_PRECISION = 0.01
SHAPE_PRECISION = 1.0


@dataclass(frozen=True, slots=True)
class Others:
    """Patients outside the batch whom a loss compares with; their outputs carry no gradient.

    Args:
        outputs: N J K.
        months: N.
        event: N.
    """

    outputs: Tensor
    months: Tensor
    event: Tensor


class TimeModel(nn.Module, ABC):
    """An outcome model.

    Args:
        causes: Number of causes J.
        offset: K, what the outputs of an average patient begin with.
        basis: D K, baseline coefficients to outputs; D may be 0.
        effect: R K, a patient's effects to outputs.
    """

    kind: str
    # The loss compares a patient with others, so that a batch of one needs a bank of them.
    compares = False
    # The incidence needs a baseline that only exists once training is over.
    baseline_after_training = False

    offset: Tensor
    basis: Tensor
    effect: Tensor

    def __init__(self, *, causes: int, offset: Tensor, basis: Tensor, effect: Tensor) -> None:
        super().__init__()
        self.causes = causes
        self.columns = len(offset)
        # Kept with the weights, which would mean something else on another basis.
        for name, value in (("offset", offset), ("basis", basis), ("effect", effect)):
            self.register_buffer(name, value.float().contiguous())

    def outputs(self, baseline: Tensor | None, effects: Tensor) -> Tensor:
        """Outputs B J K of a baseline J D (None where D is 0) and the patients' effects B J R."""
        outputs = self.offset.to(effects) + effects @ self.effect.to(effects)
        return outputs if baseline is None else outputs + (baseline @ self.basis.to(baseline))[None]

    def loss(
        self, outputs: Tensor, months: Tensor, event: Tensor, known: Tensor, *, others: Others | None = None
    ) -> Tensor:
        """Sum over the patients whose outcome is known, divided by their number.

        Without any known outcome it is an exact zero that belongs to the graph.

        Args:
            outputs: B J K.
            months: B, time of event or censoring; nan for a yes/no end point.
            event: B, 0 censored, 1 ... J the cause.
            known: B, 1 where the outcome is known.
            others: Patients outside the batch; only kinds that compare patients look at them.

        Returns:
            Scalar, float32 at least.
        """
        with torch.autocast(outputs.device.type, enabled=False):
            keep = known > 0
            values = at_least_float32(outputs)[keep]
            per_patient = self._per_patient(values, months[keep], event[keep], others)
            return per_patient.sum() / keep.sum().clamp(min=1)

    def incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        """Cumulative incidence of each cause at any month.

        Args:
            outputs: B J K.
            months: M times; a yes/no end point has one value whatever the month.

        Returns:
            B J M, increasing in months; the sum over causes is at most 1.

        Raises:
            ConfigError: A month is negative.
        """
        negative = [month for month in months if not month >= 0]
        if negative:
            raise ConfigError(f"the horizon is {negative[0]} months, it must not be negative")
        with torch.autocast(outputs.device.type, enabled=False):
            return self._incidence(at_least_float32(outputs), months)

    def control(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        """Probability of being free of locoregional failure, the first cause, at each month; B M."""
        return 1.0 - self.incidence(outputs, months)[:, 0]

    def start(self, months: Tensor, event: Tensor) -> Tensor:
        """Baseline that fits a cohort best when nobody differs from anybody, J D: where training begins.

        A maximum-likelihood fit; with as many coefficients as intervals it is the life table. A weak prior keeps it
        finite for a cause that nobody met.

        Args:
            months: B, of the patients whose outcome is known.
            event: B.
        """
        baseline = torch.zeros(self.causes, len(self.basis), dtype=torch.float64, requires_grad=True)
        precision = torch.full((len(self.basis),), SHAPE_PRECISION, dtype=torch.float64)
        precision[:1] = LEVEL_PRECISION
        optimizer = torch.optim.LBFGS([baseline], max_iter=200, line_search_fn="strong_wolfe")
        months, event = months.cpu(), event.cpu()
        nobody = torch.zeros(len(months), self.causes, len(self.effect), dtype=torch.float64)

        def objective() -> float:
            optimizer.zero_grad()
            likelihood = self.loss(self.outputs(baseline, nobody), months, event, torch.ones(len(months)))
            value = len(months) * likelihood + 0.5 * (precision * baseline.square()).sum()
            value.backward()  # type: ignore[no-untyped-call]
            return float(value.detach())

        if baseline.numel() and len(months):
            optimizer.step(objective)  # type: ignore[no-untyped-call]
        return baseline.detach().float()

    def set_baseline(self, outputs: Tensor, months: Tensor, event: Tensor) -> None:
        """Keep what only the whole training cohort can tell; most kinds need nothing.

        Args:
            outputs: B J K of the training patients.
            months: B.
            event: B.
        """

    @abstractmethod
    def _per_patient(self, outputs: Tensor, months: Tensor, event: Tensor, others: Others | None) -> Tensor:
        """Losses of patients whose outcome is known; B."""

    @abstractmethod
    def _incidence(self, outputs: Tensor, months: Sequence[float]) -> Tensor:
        """B J M."""


def with_others(outputs: Tensor, months: Tensor, event: Tensor, others: Others | None) -> tuple[Tensor, Tensor, Tensor]:
    """The batch, then the others, on one device and in one precision."""
    if others is None:
        return outputs, months, event
    return (
        torch.cat([outputs, others.outputs.to(outputs)]),
        torch.cat([months, others.months.to(months)]),
        torch.cat([event, others.event.to(event)]),
    )


def own_value_whole_gradient(per_patient: Tensor, own: int) -> Tensor:
    """The value of the batch's terms, with the gradient of everybody's.

    A patient of the batch stands in the risk sets of others as well. Their terms count when those others are in the
    batch, so that batches add up to the whole; what they say about this patient is used now, while there is a graph.

    Args:
        per_patient: Terms of the batch, then of the others.
        own: Number of patients in the batch.
    """
    mine, theirs = per_patient[:own], per_patient[own:].sum()
    # Spread over the batch: only the sum is used.
    return mine + (theirs - theirs.detach()) / max(own, 1)


def incidence_by_shares(shares: Tensor, hazard: Tensor) -> Tensor:
    """Cumulative incidence from steps of cumulative hazard.

    In each step the probability lost, S(before) - S(after), is divided between the causes by their shares, so that
    incidences and survival add up to 1 whatever the step.

    Args:
        shares: B J G, weights of the causes in each step, at least 0.
        hazard: B G, increase of the cumulative hazard of all causes.

    Returns:
        B J G, at the end of each step.
    """
    before = torch.cat([torch.zeros_like(hazard[..., :1]), torch.cumsum(hazard, dim=-1)[..., :-1]], dim=-1)
    lost = torch.exp(-before) * -torch.expm1(-hazard)
    total = shares.sum(dim=1, keepdim=True)
    share = shares / torch.where(total > 0, total, torch.ones_like(total))
    # Rounding of long sums may pass 1 by a few units of the last digit.
    return torch.cumsum(share * lost[:, None], dim=-1).clamp(max=1.0)
