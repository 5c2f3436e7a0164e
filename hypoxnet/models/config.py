"""Settings of the network. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypoxnet.errors import ConfigError

BACKBONES = ("residual_unet", "segresnet", "dynunet", "swin_unetr", "mednext")


@dataclass
class OutcomeConfig:
    """The outcome head.

    Args:
        enabled: Predict the outcome at all.
        edges_months: Right edges of the intervals, months; the first interval starts at 0. Ignored for a cohort with
            a yes/no end point, which has one interval.
        horizon_months: Month at which risk is reported and scored.
        pool: `contour` pools inside the tumour contour where a case has one and inside the predicted region
            otherwise; `prediction` always pools inside the first predicted region.
        hidden: Width of the hidden layer.
        dropout: Share of the inputs of the hidden layer that is dropped in training.
    """

    enabled: bool = True
    edges_months: list[float] = field(default_factory=lambda: [6.0, 12.0, 18.0, 24.0, 36.0, 48.0, 60.0])
    horizon_months: float = 24.0
    pool: str = "contour"
    hidden: int = 8
    dropout: float = 0.5

    def __post_init__(self) -> None:
        edges = self.edges_months
        if not edges or edges[0] <= 0 or any(b <= a for a, b in pairwise(edges)):
            raise ConfigError(f"outcome.edges_months is {list(edges)}, it must increase from above 0")
        if self.pool not in {"contour", "prediction"}:
            raise ConfigError(f"outcome.pool is {self.pool!r}, it must be contour or prediction")


@dataclass
class ModelConfig:
    """The backbone.

    Args:
        backbone: One of `residual_unet` (ours), `segresnet`, `dynunet`, `swin_unetr`, `mednext` (MONAI), or the name
            of an entry point in the group `hypoxnet.backbones`.
        features: Channels at each resolution, finest first.
        blocks: Residual blocks at each resolution.
        deep_supervision: Coarser outputs that are also trained; ours only.
        fold: Side of the cube of voxels that the first layer folds into channels (space to depth); 2 makes every later
            layer eight times cheaper, 1 folds nothing.
        options: Further keyword arguments for a backbone that is not ours.
    """

    backbone: str = "residual_unet"
    features: list[int] = field(default_factory=lambda: [16, 32, 64, 96])
    blocks: list[int] = field(default_factory=lambda: [1, 1, 2, 2])
    deep_supervision: int = 2
    fold: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.features) != len(self.blocks):
            raise ConfigError(f"model.features has {len(self.features)} levels, model.blocks {len(self.blocks)}")
        if self.fold not in {1, 2, 4}:
            raise ConfigError(f"model.fold is {self.fold}, it must be 1, 2 or 4")
        if not 0 <= self.deep_supervision < len(self.features):
            raise ConfigError(
                f"model.deep_supervision is {self.deep_supervision}, it must be below the {len(self.features)} levels"
            )
