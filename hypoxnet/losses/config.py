"""Settings of the joint loss. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LossConfig:
    """Weights of the joint loss.

    Args:
        dice: Weight of the soft Dice term.
        cross_entropy: Weight of the cross-entropy term.
        outcome: Weight of the negative log-likelihood of the outcome, per patient.
        deep_decay: Weight of each coarser output relative to the next finer one.
    """

    dice: float = 1.0
    cross_entropy: float = 1.0
    outcome: float = 0.1
    deep_decay: float = 0.5
