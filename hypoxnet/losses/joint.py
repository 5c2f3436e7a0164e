"""The joint loss: outlines and outcome, each patient with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypoxnet.cases import Batch, Logits
from hypoxnet.losses.config import LossConfig
from hypoxnet.losses.segmentation import cross_entropy_loss, known_mean, resample_truth, soft_dice_loss
from hypoxnet.survival.discrete import negative_log_likelihood


class JointLoss:
    """Weighted sum of Dice, cross-entropy and the likelihood of the outcome.

    A patient without a contour trains the outcome, a patient without follow-up the segmentation.

    Args:
        config: Weights of the terms.
        edges_months: Right edges of the outcome's intervals.
    """

    def __init__(self, config: LossConfig, edges_months: Sequence[float]) -> None:
        self.config = config
        self.edges_months = tuple(edges_months)

    def __call__(self, logits: Logits, batch: Batch, *, inside_tumour: bool) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            logits: What the network returned.
            batch: What is true.
            inside_tumour: Only voxels inside the tumour contour count, for patients who have one.

        Returns:
            `total`, and its terms `dice`, `cross_entropy` and `outcome` before weighting, all scalars.
        """
        with torch.autocast(batch.images.device.type, enabled=False):
            dice, cross_entropy = self._segmentation(logits, batch, inside_tumour=inside_tumour)
            outcome = self._outcome(logits, batch)
            total = self.config.dice * dice + self.config.cross_entropy * cross_entropy + self.config.outcome * outcome
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

    def _outcome(self, logits: Logits, batch: Batch) -> Tensor:
        if logits.hazards.shape[1] == 0:
            return logits.segmentation.new_zeros((), dtype=torch.float32)
        return negative_log_likelihood(
            logits.hazards, batch.months, batch.event, batch.outcome_known, edges_months=self.edges_months
        )
