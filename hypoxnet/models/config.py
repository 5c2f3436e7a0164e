"""Settings of the network. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypoxnet.errors import ConfigError
from hypoxnet.survival.time_models.settings import TimeSettings

# No network over images: the outcome is predicted from covariates alone.
NO_BACKBONE = "none"
BACKBONES = ("residual_unet", "segresnet", "dynunet", "swin_unetr", "mednext")


@dataclass
class OutcomeConfig:
    """The outcome head.

    Args:
        enabled: Predict the outcome at all.
        kind: `hazards` (discrete cause-specific hazards, smooth over time), `cox`, `deephit` or `weibull`. A yes/no end
            point has `hazards` only.
        edges_months: Right edges of the intervals, months; the first interval starts at 0. `cox` and `weibull` know no
            intervals and are reported at these months. Ignored for a cohort with a yes/no end point, which has one
            interval.
        horizon_months: Month at which risk is reported and scored.
        pool: `contour` pools inside the tumour contour where a case has one and inside the predicted region
            otherwise; `prediction` always pools inside the first predicted region.
        volumes: The head also reads the volumes of tumour and regions, and the regions' fractions; false leaves it the
            pooled features and covariates, to see what the image says besides size.
        hidden: Width of the hidden layer.
        dropout: Share of the inputs of the hidden layer that is dropped in training.
        baseline_df: Coefficients of the smooth baseline over time, the constant included; more than there are intervals
            leaves each interval free. `hazards` and `deephit`.
        effect: `proportional`, or `time_varying`: what a patient's effect does over time is learnt with as many
            coefficients as the baseline. `hazards` and `deephit`.
        ties: How `cox` treats failures in the same month: `efron` or `breslow`.
        ranking: Weight of the ranking loss of `deephit`; 0 leaves its likelihood.
        ranking_scale: Difference of incidence at which a wrong order costs e times an undecided one; `deephit`.
        bank: Patients outside the batch that `cox` and `deephit` compare with, as they were seen last.
    """

    enabled: bool = True
    kind: str = "hazards"
    edges_months: list[float] = field(default_factory=lambda: [6.0, 12.0, 18.0, 24.0, 36.0, 48.0, 60.0])
    horizon_months: float = 24.0
    pool: str = "contour"
    volumes: bool = True
    hidden: int = 8
    dropout: float = 0.5
    baseline_df: int = 4
    effect: str = "proportional"
    ties: str = "efron"
    ranking: float = 0.2
    ranking_scale: float = 0.1
    bank: int = 4096

    def __post_init__(self) -> None:
        edges = self.edges_months
        if not edges or edges[0] <= 0 or any(b <= a for a, b in pairwise(edges)):
            raise ConfigError(f"outcome.edges_months is {list(edges)}, it must increase from above 0")
        if self.pool not in {"contour", "prediction"}:
            raise ConfigError(f"outcome.pool is {self.pool!r}, it must be contour or prediction")
        if self.bank < 1:
            raise ConfigError(f"outcome.bank is {self.bank}, it must be at least 1")
        self.time_settings()

    def time_settings(self) -> TimeSettings:
        """The part that decides the model of time.

        Raises:
            ConfigError: A value is out of its range.
        """
        return TimeSettings(
            kind=self.kind,
            baseline_df=self.baseline_df,
            effect=self.effect,
            ties=self.ties,
            ranking=self.ranking,
            ranking_scale=self.ranking_scale,
        )


@dataclass
class ModelConfig:
    """The backbone.

    Args:
        backbone: One of `residual_unet` (ours), `segresnet`, `dynunet`, `swin_unetr`, `mednext` (MONAI), or the name
            of an entry point in the group `hypoxnet.backbones`; `none` reads no image, only covariates.
        features: Channels at each resolution, finest first.
        blocks: Residual blocks at each resolution.
        deep_supervision: Coarser outputs that are also trained; ours only.
        fold: Side of the cube of voxels that the first layer folds into channels (space to depth); 2 makes every later
            layer eight times cheaper, 1 folds nothing.
        options: Arguments by name that go to the backbone besides the settings above. `residual_unet` takes none; a
            MONAI network takes those of its class, for example `model=segresnet +model.options.dropout_prob=0.1` (the
            plus adds a name); a backbone of another package what its author says. `model=covariates` takes `strengths`,
            `inner_folds`, `inner_repeats`, `one_standard_error`, `by_site` and `seed` of its ridge, for example
            `model=covariates model.options.one_standard_error=true`.
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
