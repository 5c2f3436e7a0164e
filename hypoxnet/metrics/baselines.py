"""What a sceptic asks for beside the network: a fixed threshold of the uptake, and a model of the tumour's volume.

Both are fitted on the training cases alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from hypoxnet.cases import FAILURE, CaseRecord, Outcome
from hypoxnet.errors import HypoxNetError
from hypoxnet.geometry import Grid
from hypoxnet.images import Volume, read_channel, read_mask
from hypoxnet.maps.reference_region import reference_value
from hypoxnet.quantities import Modality, quantity
from hypoxnet.survival.regression import cause_specific_cox
from hypoxnet.transforms.prepare import files_of, onto, region_masks, union
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

RATIOS = np.round(np.arange(0.8, 4.0001, 0.05), 2)
SUVS = np.round(np.concatenate([np.arange(0.5, 5.0, 0.1), np.arange(5.0, 20.01, 0.5)]), 2)
SHARES_OF_MAX = np.round(np.arange(0.10, 0.901, 0.01), 2)
REFERENCES = {"MUSCLE": "median", "BLOOD": "mean"}

# A share of SUVmax in wide use for FDG (Erdi et al. 1997, Cancer 80:2505, about 41 % for large spheres).
CONVENTIONAL_SHARE = 0.41


@dataclass(frozen=True, slots=True)
class Uptake:
    """PET of one case and what thresholds are relative to.

    Args:
        suv: i j k.
        grid: Its grid.
        inside: i j k, where a threshold may say yes; None is everywhere.
        reference: Uptake of the reference region; 1 where no ratio is taken.
    """

    suv: NDArray[np.float32]
    grid: Grid
    inside: Mask | None
    reference: float

    def relative(self, kind: str) -> NDArray[np.float32]:
        """The uptake in units of a threshold."""
        if kind == "share_of_max":
            counted = self.suv if self.inside is None else self.suv[self.inside]
            return np.asarray(self.suv / max(float(counted.max(initial=0.0)), 1e-6))
        return np.asarray(self.suv / self.reference)


@dataclass(frozen=True, slots=True)
class UptakeThreshold:
    """A fixed threshold of one PET channel.

    Args:
        channel: Which.
        kind: `ratio` to a reference region, `value` as it is, or `share_of_max`.
        reference: Mask of the reference region, for a ratio.
        value: At and above which a voxel is inside.
        training_dice: Mean Dice on the training cases, by which it was chosen; not a result.
    """

    channel: str
    kind: str
    reference: str
    value: float
    training_dice: float = float("nan")

    def mask(self, uptake: Uptake) -> Mask:
        """Where the uptake reaches the threshold."""
        above = uptake.relative(self.kind) >= self.value
        return np.asarray(above if uptake.inside is None else above & uptake.inside)

    def describe(self) -> str:
        """In words, for tables."""
        match self.kind:
            case "ratio":
                return f"{self.channel} / {self.reference} >= {self.value:g}"
            case "share_of_max":
                return f"{self.channel} >= {100 * self.value:g} % of its maximum"
            case _:
                return f"{self.channel} >= {self.value:g} {quantity(self.channel).unit}"


def read_uptake(record: CaseRecord, settings: PrepareSettings, channel: str, reference: str) -> Uptake | None:
    """A case's PET with the region where thresholds count; None when something it needs is absent.

    Args:
        record: The case.
        settings: Whether regions lie inside the tumour, and which masks are the tumour.
        channel: PET channel.
        reference: Mask of the reference region; empty for none.
    """
    if channel not in record.channels or (reference and reference not in record.masks):
        return None
    volume = read_channel(record.channels[channel], channel, case=f"{record.key}: {channel}")
    inside = None
    if settings.inside_tumour:
        contours = [
            read_mask(record.masks[name], case=f"{record.key}: {name}")
            for name in settings.tumour
            if name in record.masks
        ]
        if not contours:
            return None
        mask, grid = union(contours, volume.grid)
        inside = onto(mask, grid, volume.grid)
    divisor = 1.0
    if reference:
        region = read_mask(record.masks[reference], case=f"{record.key}: {reference}")
        where = onto(region.array, region.grid, volume.grid)
        divisor = reference_value(volume.array, where, statistic=REFERENCES[reference])
    return Uptake(volume.array, volume.grid, inside, divisor)


def true_region(record: CaseRecord, settings: PrepareSettings, region: str, grid: Grid) -> Mask | None:
    """The true region of a case on a grid; None when nobody contoured it."""
    masks: dict[str, Volume] = {
        name: read_mask(record.masks[name], case=f"{record.key}: {name}")
        for name in files_of(record, settings)
        if name in record.masks
    }
    found = region_masks(record, settings, masks, grid)
    return onto(*found[region], grid) if region in found else None


def choose_threshold(records: Sequence[CaseRecord], settings: PrepareSettings) -> UptakeThreshold | None:
    """The fixed threshold with the best mean Dice of the first region on these cases: the training cases.

    Inside the tumour, the ratio to muscle (or blood) where cases have that mask, else the value; over the whole image
    the value and the share of the maximum.

    Returns:
        The best one; None when no case has a PET channel and a contour.
    """
    pet = [name for name in settings.channels if quantity(name).modality is Modality.PET]
    if not pet:
        return None
    region, channel = settings.region_names[0], pet[0]
    reference = _reference(records, channel) if settings.inside_tumour else ""
    kinds = {"ratio": RATIOS} if reference else {"value": SUVS, "share_of_max": SHARES_OF_MAX}
    curves: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in kinds}
    for uptake, truth in _training_pairs(records, settings, channel, reference, region):
        for kind, values in kinds.items():
            curves[kind].append(_dice_by_threshold(uptake, truth, kind, values))
    if not any(curves.values()):
        return None
    best = []
    for kind, values in kinds.items():
        means = np.mean(curves[kind], axis=0)
        best.append((float(means.max()), kind, float(values[int(means.argmax())])))
    training_dice, kind, value = max(best)
    return UptakeThreshold(channel, kind, reference, value, training_dice)


def _reference(records: Sequence[CaseRecord], channel: str) -> str:
    if not channel.endswith("_SUV"):
        return ""
    return next((name for name in REFERENCES if any(name in record.masks for record in records)), "")


def _training_pairs(
    records: Sequence[CaseRecord], settings: PrepareSettings, channel: str, reference: str, region: str
) -> Iterator[tuple[Uptake, Mask]]:
    for record in records:
        try:
            uptake = read_uptake(record, settings, channel, reference)
            truth = None if uptake is None else true_region(record, settings, region, uptake.grid)
        except HypoxNetError:
            continue  # preparation has already said what is wrong with this case
        if uptake is not None and truth is not None:
            yield uptake, truth


def _dice_by_threshold(uptake: Uptake, truth: Mask, kind: str, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dice of every candidate at once, by counting in sorted voxels."""
    relative = uptake.relative(kind).astype(np.float64)
    counted = np.ones_like(truth) if uptake.inside is None else uptake.inside
    values, true = np.sort(relative[counted]), np.sort(relative[truth & counted])
    said = len(values) - np.searchsorted(values, thresholds, side="left")
    hit = len(true) - np.searchsorted(true, thresholds, side="left")
    total = said + np.count_nonzero(truth)
    return np.where(total > 0, 2.0 * hit / np.maximum(total, 1), 1.0)


@dataclass(frozen=True, slots=True)
class VolumeModel:
    """Risk from the logarithm of the tumour's volume alone.

    Args:
        coefficient: Per unit of log mL.
        centre: Mean log volume of the training patients.
        kind: `Cox` for times, `logistic` for a yes/no end point.
    """

    coefficient: float
    centre: float
    kind: str

    def risk(self, tumour_ml: float) -> float:
        """Linear predictor; larger is worse."""
        return self.coefficient * (float(np.log(max(tumour_ml, 1e-3))) - self.centre)


def fit_volume_model(volumes_ml: Sequence[float], outcomes: Sequence[Outcome]) -> VolumeModel | None:
    """Fit on training patients: Cox's model of the cause-specific hazard, or logistic regression for yes/no.

    Args:
        volumes_ml: Tumour volumes.
        outcomes: Likewise.

    Returns:
        The model; None with fewer than two failures, without variation, or where the likelihood has no maximum.

    Source:
        Cox 1972, J R Stat Soc B 34:187, as in `cause_specific_cox`.
    """
    logs = np.log(np.maximum(np.asarray(volumes_ml, dtype=float), 1e-3))
    failed = np.array([outcome.event == FAILURE for outcome in outcomes])
    if failed.sum() < 2 or failed.all() or np.ptp(logs) == 0:
        return None
    centred = logs - logs.mean()
    if outcomes[0].is_binary:
        return VolumeModel(_logistic_slope(centred, failed), float(logs.mean()), "logistic")
    months = np.array([outcome.months for outcome in outcomes], dtype=float)
    cox = cause_specific_cox(months, failed.astype(np.int64), centred[:, None])
    if cox is None:
        log.warning("Cox's model of the volume has no solution in %d patients: there is no such baseline", len(logs))
        return None
    return VolumeModel(float(cox.coefficients[0]), float(logs.mean()), "Cox")


def _logistic_slope(x: NDArray[np.float64], failed: Mask) -> float:
    def negative_log_likelihood(parameters: NDArray[np.float64]) -> float:
        logit = parameters[0] + parameters[1] * x
        # A weak penalty keeps the slope finite where the classes are separable.
        return float(np.logaddexp(0.0, np.where(failed, -logit, logit)).sum() + 1e-3 * parameters[1] ** 2)

    return float(minimize(negative_log_likelihood, np.zeros(2)).x[1])
