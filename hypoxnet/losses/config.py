"""Settings of the joint loss. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError

BALANCES = ("fixed", "uncertainty")


@dataclass
class LossConfig:
    """Weights of the joint loss.

    Args:
        dice: Weight of the soft Dice term.
        cross_entropy: Weight of the cross-entropy term.
        outcome: Weight of the negative log-likelihood of the outcome, per patient.
        deep_decay: Weight of each coarser output relative to the next finer one.
        balance: `fixed` keeps these weights; `uncertainty` starts from them and learns one factor for the segmentation
            and one for the outcome (Kendall et al. 2018).
    """

    dice: float = 1.0
    cross_entropy: float = 1.0
    outcome: float = 0.1
    deep_decay: float = 0.5
    balance: str = "fixed"

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ConfigError(f"loss.balance is {self.balance!r}, it must be one of {', '.join(BALANCES)}")
