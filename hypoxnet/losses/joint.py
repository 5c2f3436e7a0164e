"""The joint loss: outlines and outcome, each patient with what is known of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypoxnet.cases import Batch, Logits
from hypoxnet.losses.config import LossConfig
from hypoxnet.losses.segmentation import cross_entropy_loss, known_mean, resample_truth, soft_dice_loss
from hypoxnet.survival.time_models.bank import RiskSetBank, patient_numbers
from hypoxnet.survival.time_models.base import TimeModel


class JointLoss(nn.Module):
    """Weighted sum of Dice, cross-entropy and the likelihood of the outcome.

    A patient without a contour trains the outcome, a patient without follow-up the segmentation. What it remembers of
    patients and what it learns about weights is part of a checkpoint, and of nothing that leaves training.

    Args:
        config: Weights of the terms.
        bank: Patients outside the batch, for an outcome model that compares patients; None for any other.

    Source:
        Kendall, Gal and Cipolla 2018, CVPR, Multi-task learning using uncertainty to weigh losses, section 3.2.
    """

    def __init__(self, config: LossConfig, *, bank: RiskSetBank | None = None) -> None:
        super().__init__()
        self.config = config
        self.bank = bank
        self.balance = TaskBalance() if config.balance == "uncertainty" else None

    def forward(
        self, logits: Logits, batch: Batch, *, time: TimeModel | None, inside_tumour: bool
    ) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            logits: What the network returned.
            batch: What is true.
            time: The network's outcome model; None without an outcome head.
            inside_tumour: Only voxels inside the tumour contour count, for patients who have one.

        Returns:
            `total`, and its terms `dice`, `cross_entropy` and `outcome` before weighting, all scalars.
        """
        with torch.autocast(batch.images.device.type, enabled=False):
            dice, cross_entropy = self._segmentation(logits, batch, inside_tumour=inside_tumour)
            outcome = self._outcome(logits, batch, time)
            segmentation = self.config.dice * dice + self.config.cross_entropy * cross_entropy
            weighted = self.config.outcome * outcome
            total = segmentation + weighted
            if self.balance is not None:
                present = torch.stack([(batch.label_known > 0).any(), (batch.outcome_known > 0).any()])
                total = self.balance(torch.stack([segmentation, weighted]), present)
        return {"total": total, "dice": dice, "cross_entropy": cross_entropy, "outcome": outcome}

    def _segmentation(self, logits: Logits, batch: Batch, *, inside_tumour: bool) -> tuple[Tensor, Tensor]:
        everywhere = torch.ones_like(batch.tumour, dtype=torch.float32)
        counts = everywhere
        if inside_tumour:
            contoured = batch.tumour_known[:, None, None, None, None] > 0
            counts = torch.where(contoured, batch.tumour.float(), everywhere)
        outputs = (logits.segmentation, *logits.deep)
        weights = [self.config.deep_decay**n for n in range(len(outputs))]
        terms = []
        for output in outputs:
            truth, weight = resample_truth(batch.label.float(), output.shape), resample_truth(counts, output.shape)
            terms.append(
                (
                    known_mean(soft_dice_loss(output, truth, weight), batch.label_known),
                    known_mean(cross_entropy_loss(output, truth, weight), batch.label_known),
                )
            )
        scale = sum(weights)
        dice = (
            sum((w * t[0] for w, t in zip(weights, terms, strict=True)), torch.zeros((), device=batch.images.device))
            / scale
        )
        cross_entropy = (
            sum((w * t[1] for w, t in zip(weights, terms, strict=True)), torch.zeros((), device=batch.images.device))
            / scale
        )
        return dice, cross_entropy

    def _outcome(self, logits: Logits, batch: Batch, time: TimeModel | None) -> Tensor:
        if time is None:
            return logits.segmentation.new_zeros((), dtype=torch.float32)
        if self.bank is None:
            return time.loss(logits.hazards, batch.months, batch.event, batch.outcome_known)
        numbers = patient_numbers(batch.keys).to(batch.months.device)
        others = self.bank.others(numbers)
        loss = time.loss(logits.hazards, batch.months, batch.event, batch.outcome_known, others=others)
        # Validation patients are compared with training patients, and leave no trace among them.
        if self.training:
            known = batch.outcome_known > 0
            self.bank.remember(numbers[known], logits.hazards[known], batch.months[known], batch.event[known])
        return loss


class TaskBalance(nn.Module):
    """Learnt factors of two tasks: exp(-s) loss + s / 2 each, where s is the logarithm of a variance.

    At the best s, exp(-s) is 1 / (2 loss): the task that is far from solved counts less per unit of its loss. Both s
    begin at 0, which is the fixed weighting. A task that a batch says nothing about does not move its s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        """Total of the losses of segmentation and outcome; `present` says which of them the batch has."""
        return (torch.exp(-self.log_variance) * losses + 0.5 * self.log_variance * present).sum()
