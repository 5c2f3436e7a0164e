"""Settings of a cohort, its splits and its loading. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.data.dates import iso_date
from hypoxnet.errors import ConfigError
from hypoxnet.maps.config import MapsConfig

KINDS_OF_SPLIT = ("holdout", "crossval", "repeated", "leave_site_out", "temporal", "external")
KINDS_OF_LEAK = ("same_patient", "same_image", "site_code", "label_input", "follow_up")


@dataclass
class SplitConfig:
    """Who is withheld.

    Args:
        kind: `holdout` withholds `test_fraction` once; `crossval` withholds each of `folds` folds in turn, `repeated`
            does so `repeats` times; `leave_site_out` withholds each site in turn; `temporal` withholds whoever was
            treated from `test_from` on; `external` withholds nobody and predicts the cohort of `test_manifest`.
        test_fraction: Share of patients withheld, for `holdout`.
        validation_fraction: Share of the training patients that choose the best checkpoint; 0 keeps the last one.
        folds: Number of folds; a `fold` column in the manifest takes precedence.
        repeats: Times that the patients are dealt into folds anew, for `repeated`.
        smallest_site: Sites with fewer patients are withheld together, for `leave_site_out`.
        test_from: Year, month or day (`2018`, `2018-07-01`) from which on patients are withheld, for `temporal`; the
            column `treated` of the manifest says when.
        test_manifest: CSV or TSV of the cohort that is only predicted, for `external`.
        only: Folds to run, all when empty.
        allow_leakage: Kinds of leak that are known and do not stop the run: `same_patient`, `same_image`,
            `site_code`, `label_input`, `follow_up`.
        seed: Seed of the shuffle.
    """

    kind: str = "holdout"
    test_fraction: float = 0.25
    validation_fraction: float = 0.0
    folds: int = 5
    repeats: int = 5
    smallest_site: int = 10
    test_from: str = ""
    test_manifest: str = ""
    only: list[int] = field(default_factory=list)
    allow_leakage: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS_OF_SPLIT:
            raise ConfigError(f"split.kind is {self.kind!r}, it must be one of {', '.join(KINDS_OF_SPLIT)}")
        if not 0 < self.test_fraction < 1 or not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"split.test_fraction={self.test_fraction} and split.validation_fraction={self.validation_fraction} "
                "must lie in (0, 1) and [0, 1)"
            )
        for name, value, least in (
            ("folds", self.folds, 2),
            ("repeats", self.repeats, 1),
            ("smallest_site", self.smallest_site, 1),
        ):
            if value < least:
                raise ConfigError(f"split.{name} is {value}, it must be at least {least}")
        unknown = [kind for kind in self.allow_leakage if kind not in KINDS_OF_LEAK]
        if unknown:
            raise ConfigError(f"split.allow_leakage has {unknown[0]!r}, it may hold {', '.join(KINDS_OF_LEAK)}")
        self._check_what_a_kind_needs()

    def _check_what_a_kind_needs(self) -> None:
        if self.test_from and iso_date(self.test_from) is None:
            raise ConfigError(f"split.test_from is {self.test_from!r}, it must be like 2018, 2018-07 or 2018-07-01")
        for kind, name, value in (
            ("temporal", "test_from", self.test_from),
            ("external", "test_manifest", self.test_manifest),
        ):
            if self.kind == kind and not value:
                raise ConfigError(f"split.kind={kind} needs split.{name}")
            if self.kind != kind and value:
                raise ConfigError(
                    f"split.{name}={value} has no effect with split.kind={self.kind}; say split={kind}, or leave it out"
                )


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
        covariates: Covariates of the outcome head, in order, measured read-outs such as `FMISO_TMRMAX` among them; null
            takes every one that at least a quarter of the training patients have, without `arm`, an empty list none.
        endpoint: Which outcome of the manifest, by the prefix of its columns: `lrc` locoregional control, `dm` distant
            metastasis, `os` overall survival.
        missing_covariates: What stands for a covariate that is not known: `conditional` what is to be expected from
            the patient's known ones, `mean` the mean of the training patients, `indicator` that mean with a flag
            beside it that the model may read; a flag is often a code of the hospital.
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
    endpoint: str = "lrc"
    missing_covariates: str = "conditional"
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
        if self.endpoint not in {"lrc", "dm", "os"}:
            raise ConfigError(f"data.endpoint is {self.endpoint!r}, it must be lrc, dm or os")
        if self.missing_covariates not in {"conditional", "mean", "indicator"}:
            raise ConfigError(
                f"data.missing_covariates is {self.missing_covariates!r}, it must be conditional, mean or indicator"
            )
        if self.focus < 0 or self.anywhere < 0 or self.focus + self.anywhere > 1:
            raise ConfigError(f"data.focus={self.focus} and data.anywhere={self.anywhere} must add up to at most 1")
