"""Settings of a cohort, its splits and its loading. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.errors import ConfigError
from hypoxnet.maps.config import MapsConfig


@dataclass
class SplitConfig:
    """Who is withheld.

    Args:
        kind: `holdout` withholds `test_fraction` once; `crossval` withholds each of `folds` folds in turn.
        test_fraction: Share of patients withheld, for `holdout`.
        validation_fraction: Share of the training patients that choose the best checkpoint; 0 keeps the last one.
        folds: Number of folds; a `fold` column in the manifest takes precedence.
        only: Folds to run, all when empty.
        seed: Seed of the shuffle.
    """

    kind: str = "holdout"
    test_fraction: float = 0.25
    validation_fraction: float = 0.0
    folds: int = 5
    only: list[int] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in {"holdout", "crossval"}:
            raise ConfigError(f"split.kind is {self.kind!r}, it must be holdout or crossval")
        if not 0 < self.test_fraction < 1 or not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"split.test_fraction={self.test_fraction} and split.validation_fraction={self.validation_fraction} "
                "must lie in (0, 1) and [0, 1)"
            )
        if self.folds < 2:
            raise ConfigError(f"split.folds is {self.folds}, it must be at least 2")


@dataclass
class DataConfig:
    """The cohort and how it is brought to the network.

    Args:
        manifest: CSV or TSV of the cohort; empty uses the embedded phantom cohort.
        phantom: Preset of the embedded cohort.
        channels: Quantities the network reads, in order; empty takes every channel of the training cases.
        reference: Channel whose grid is the patient's reference grid; empty takes the first PET channel,
            else the first one.
        spacing_mm: Spacing of the working grid.
        window: Voxels of the window that the network sees in training and inference.
        tumour: Mask columns whose union is the tumour.
        covariates: Covariates of the outcome head, in order; null takes every one that at least half of the training
            patients have, an empty list none.
        focus: Share of the training windows that are centred on a voxel of the label rather than on the tumour.
        anywhere: Share of the training windows that are centred on any voxel.
        maps: How raw series of the manifest become maps, which are made once and cached; `channels` chooses among the
            maps, an empty one takes the first of each series.
        cache: Folder of the persistent cache; empty is the user's cache folder.
        in_memory: Keep prepared cases in memory as well.
        workers: Processes that read and prepare; 0 prepares in the training process.
    """

    manifest: str = ""
    phantom: str = "demo"
    channels: list[str] = field(default_factory=list)
    reference: str = ""
    spacing_mm: list[float] = field(default_factory=lambda: [3.0, 3.0, 3.0])
    window: list[int] = field(default_factory=lambda: [32, 32, 32])
    tumour: list[str] = field(default_factory=lambda: ["GTVP", "GTVN"])
    covariates: list[str] | None = None
    focus: float = 0.25
    anywhere: float = 0.25
    maps: MapsConfig = field(default_factory=MapsConfig)
    cache: str = ""
    in_memory: bool = True
    workers: int = 0

    def __post_init__(self) -> None:
        for name, value in (("spacing_mm", self.spacing_mm), ("window", self.window)):
            if len(value) != 3 or min(value) <= 0:
                raise ConfigError(f"data.{name} is {list(value)}, it must be three positive numbers")
        if self.focus < 0 or self.anywhere < 0 or self.focus + self.anywhere > 1:
            raise ConfigError(f"data.focus={self.focus} and data.anywhere={self.anywhere} must add up to at most 1")
