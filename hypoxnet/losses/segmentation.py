"""Segmentation losses that know which voxels and which regions count.

Axis legend: B patients, K regions, D H W voxels. All are computed in float32: a 16-bit sum over a window of 100,000
voxels has lost its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Voxels. Keeps the Dice of an empty region defined: nothing predicted where nothing is costs nothing.
SMOOTH = 1.0


def soft_dice_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """One minus soft Dice, for each patient and region.

    Args:
        logits: B K D H W.
        truth: B K D H W, 0 to 1.
        weight: B 1 D H W or B K D H W, 0 for voxels that do not count.

    Returns:
        B K.

    Source:
        Milletari et al. 2016, V-Net (with the plain sum in the denominator).
    """
    probability = torch.sigmoid(logits.float()) * weight
    truth = truth.float() * weight
    both = (probability * truth).sum(dim=(2, 3, 4))
    either = probability.sum(dim=(2, 3, 4)) + truth.sum(dim=(2, 3, 4))
    return 1.0 - (2.0 * both + SMOOTH) / (either + SMOOTH)


def cross_entropy_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy, averaged over the voxels that count, for each patient and region; B K.

    Arguments as for `soft_dice_loss`. Zero where no voxel counts.
    """
    per_voxel = F.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="none")
    weight = weight.float().expand_as(per_voxel)
    return (per_voxel * weight).sum(dim=(2, 3, 4)) / weight.sum(dim=(2, 3, 4)).clamp(min=1.0)


def known_mean(per_region: Tensor, known: Tensor) -> Tensor:
    """Mean over patients and regions that were contoured; an exact zero in the graph when none was."""
    return (per_region * known).sum() / known.sum().clamp(min=1.0)


def resample_truth(truth: Tensor, shape: torch.Size) -> Tensor:
    """Truth for a coarser output: the share of each coarse voxel that is inside.

    A share, rather than the nearest voxel, so that a subvolume smaller than a coarse voxel is not lost.
    """
    if truth.shape[2:] == shape[2:]:
        return truth
    d, h, w = shape[2:]
    return F.adaptive_avg_pool3d(truth.float(), (d, h, w))
