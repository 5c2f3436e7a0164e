"""The words: what a patient is on disk, in memory, in a batch, and after prediction.

Axis legend: B patients, C channels, K label regions, P covariates, D H W voxels (RAS+), T intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypoxnet.geometry import Grid

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

CENSORED, FAILURE, DEATH = 0, 1, 2
CAUSES = ("locoregional failure", "death without locoregional failure")
# End point, by the prefix of its columns in a manifest: what event 1 is, and event 2, which competes.
END_POINTS = {
    "lrc": CAUSES,
    "dm": ("distant metastasis", "death without distant metastasis"),
    "os": ("death", "no competing event"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to a patient.

    Args:
        event: 0 censored, 1 locoregional failure, 2 death without it.
        months: Time from the start of radiotherapy, months; None for a plain yes/no end point, which is the case
            of one interval that everybody was followed through.
    """

    event: int
    months: float | None

    @property
    def is_binary(self) -> bool:
        """True for a yes/no end point without times."""
        return self.months is None


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """One row of a manifest: one visit of one patient, as paths; nothing is read yet.

    Args:
        case_id: Pseudonym of the patient.
        visit: Name of the visit, `baseline` by default.
        site: Hospital, empty when unknown.
        channels: Quantity name to file; absent channels are not in the mapping.
        masks: Mask name to file.
        raw: Raw series to its files, of which maps can be made.
        derived: Channels that were made of raw series and masks; the manifest does not name them.
        measured: Covariates that were measured of images and contours; the manifest does not name them.
        not_made: Channel that the files seemed to give to the reason why it could not be made of them.
        outcome: None when not known.
        covariates: Covariate name to value; missing ones are not in the mapping.
        fold: Fold that the manifest assigns, None when it assigns none.
        treated: Year, month or day of treatment, ISO 8601; empty when unknown.
        line: Line of the manifest, for messages.
    """

    case_id: str
    visit: str = "baseline"
    site: str = ""
    channels: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    raw: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    not_made: Mapping[str, str] = field(default_factory=dict)
    outcome: Outcome | None = None
    covariates: Mapping[str, float] = field(default_factory=dict)
    fold: int | None = None
    treated: str = ""
    line: int = 0

    @property
    def key(self) -> str:
        """Name of the case in files and tables: the patient, and the visit where it is not the baseline."""
        return self.case_id if self.visit == "baseline" else f"{self.case_id}_{self.visit}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One case on the working grid, ready for the network: what `prepare` makes and the cache keeps.

    Args:
        key: Name of the case.
        images: C D H W, float32, normalised; zero where absent.
        presence: C, float32, 1 where the channel was measured.
        label: K D H W, uint8, one plane per region (regions may nest).
        label_known: K, float32, 1 where the region was contoured.
        tumour: 1 D H W, uint8, union of the tumour contours.
        tumour_known: float32 scalar, 1 when a tumour contour exists.
        months: float32 scalar, nan when unknown or yes/no.
        event: int64 scalar, 0, 1, 2; meaningless unless `outcome_known`.
        outcome_known: float32 scalar.
        covariates: P columns, float32, standardised; zero where missing.
        covariates_known: P, float32, 1 where known; 1 everywhere when what is missing counts as the mean.
        grid: The working grid.
        repairs: What was repaired on the way, one sentence each.
    """

    key: str
    images: torch.Tensor
    presence: torch.Tensor
    label: torch.Tensor
    label_known: torch.Tensor
    tumour: torch.Tensor
    tumour_known: torch.Tensor
    months: torch.Tensor
    event: torch.Tensor
    outcome_known: torch.Tensor
    covariates: torch.Tensor
    covariates_known: torch.Tensor
    grid: Grid
    repairs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        present = int(self.presence.sum())
        return f"Sample({self.key}, {present} of {len(self.presence)} channels, {self.grid.describe()})"


@dataclass(frozen=True, slots=True)
class Batch:
    """Stacked windows of samples; every tensor gains a leading B, `keys` names the cases.

    Shapes: images B C D H W; presence B C; label B K D H W; label_known B K; tumour B 1 D H W; tumour_known B;
    months B; event B; outcome_known B; covariates B P; covariates_known B P.
    """

    keys: tuple[str, ...]
    images: torch.Tensor
    presence: torch.Tensor
    label: torch.Tensor
    label_known: torch.Tensor
    tumour: torch.Tensor
    tumour_known: torch.Tensor
    months: torch.Tensor
    event: torch.Tensor
    outcome_known: torch.Tensor
    covariates: torch.Tensor
    covariates_known: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "keys"}

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {n: t.to(device, non_blocking=non_blocking) for n, t in self.tensors().items()}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for copies to a GPU that overlap with work."""
        pinned: dict[str, Any] = {n: t.pin_memory() for n, t in self.tensors().items()}
        return replace(self, **pinned)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Logits:
    """What the joint network returns.

    Args:
        segmentation: B K D H W, one logit per region (independent sigmoids; regions may nest).
        hazards: B causes K, outputs of the outcome head, which the network's outcome model (`survival.time_models`)
            turns into incidence; for discrete hazards their logits, one per interval.
        deep: Coarser segmentation logits for deep supervision, finest first; empty in evaluation mode.
    """

    segmentation: torch.Tensor
    hazards: torch.Tensor
    deep: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What inference says about one case, on the patient's own reference grid.

    Args:
        key: Name of the case.
        grid: The reference grid; None for a model of covariates alone, which draws nothing.
        probability: Region name to probability, i j k, float32.
        mask: Region name to mask, i j k, bool.
        incidence: Cause to cumulative incidence at each of `months`; empty when the model has no outcome head.
        months: Right edges of the intervals; (inf,) for a yes/no end point.
        read_outs: Everything else that goes into the JSON of the case (volumes in mL, channels present, repairs).
        attribution: Channel to what it adds to the risk, i j k, float32, log-odds per mL; empty unless asked for.
        deviation: Region to the standard deviation of its probability over members and mirror images, i j k, float32;
            empty unless asked for.
    """

    key: str
    grid: Grid | None
    probability: Mapping[str, NDArray[np.float32]]
    mask: Mapping[str, NDArray[np.bool_]]
    incidence: Mapping[str, tuple[float, ...]]
    months: tuple[float, ...]
    read_outs: Mapping[str, Any]
    attribution: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    deviation: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
