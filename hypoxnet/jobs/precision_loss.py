"""What fewer bits of the weights cost, on cases: the rounded model beside the float32 one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from hypoxnet.bundle.export.precision import with_stored_weights
from hypoxnet.cases import CaseRecord, Prediction
from hypoxnet.data.cache import default_cache_folder
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.measured import ReadOutCache, then
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor
from hypoxnet.jobs.completing import tell_not_made
from hypoxnet.jobs.derive import MapCache
from hypoxnet.maps.config import MapsConfig


@dataclass(frozen=True, slots=True)
class CaseLoss:
    """What one case loses.

    Args:
        dice: Of the masks of both models, each region; 1 where both are empty.
        largest: Difference of probability, any voxel.
        mean: Difference of probability, over the voxels to which the float32 model gives one.
        incidence: Largest difference of incidence; 0 without an outcome head.
        both_empty: Regions that neither model finds, and whose Dice says nothing.
    """

    dice: tuple[float, ...]
    largest: float
    mean: float
    incidence: float
    both_empty: int


def loss_of_precision(predictor: Predictor, precision: str, manifest: Path) -> dict[str, Any]:
    """Differences between a model and itself with rounded weights, for the description and the card.

    Args:
        predictor: The float32 model.
        precision: Of the rounded weights.
        manifest: Of the cases.

    Raises:
        CaseError: A case cannot be predicted: figures of some of the cases would be figures of others.
        ManifestError: The manifest has faults.
    """
    rounded = Predictor(
        predictor.spec, with_stored_weights(predictor.models, precision), InferenceConfig(device=str(predictor.device))
    )
    complete = _completing(predictor)
    records = [complete(record) for record in read_manifest(manifest)]
    for record in records:
        tell_not_made(record)
    losses = [
        compare(predictor.predict(record), rounded.predict(record))
        for record in track(records, description="cases", transient=True)
    ]
    dice = [value for loss in losses for value in loss.dice]
    return {
        "cases": len(losses),
        "dice": {"mean": float(np.mean(dice)), "lowest": min(dice), "both_empty": sum(x.both_empty for x in losses)},
        "probability": {"mean": float(np.mean([x.mean for x in losses])), "largest": max(x.largest for x in losses)},
        "incidence": {
            "mean": float(np.mean([x.incidence for x in losses])),
            "largest": max(x.incidence for x in losses),
        },
    }


def compare(exact: Prediction, rounded: Prediction) -> CaseLoss:
    """One case by both models."""
    pairs = [(exact.probability[name], rounded.probability[name]) for name in exact.probability]
    apart = [np.abs(one - two) for one, two in pairs]
    inside = [difference[one > 0] for difference, (one, _) in zip(apart, pairs, strict=True)]
    masks = [(exact.mask[name], rounded.mask[name]) for name in exact.mask]
    return CaseLoss(
        dice=tuple(_dice(one, two) for one, two in masks),
        largest=max(float(difference.max()) for difference in apart),
        mean=float(np.concatenate(inside).mean()) if any(part.size for part in inside) else 0.0,
        incidence=max(_incidence_differences(exact, rounded), default=0.0),
        both_empty=sum(not one.any() and not two.any() for one, two in masks),
    )


def _dice(one: np.ndarray[Any, np.dtype[np.bool_]], two: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    total = int(one.sum()) + int(two.sum())
    return 2 * int((one & two).sum()) / total if total else 1.0


def _incidence_differences(exact: Prediction, rounded: Prediction) -> Iterator[float]:
    for cause, row in exact.incidence.items():
        yield from (abs(one - two) for one, two in zip(row, rounded.incidence[cause], strict=True))


def _completing(predictor: Predictor) -> Callable[[CaseRecord], CaseRecord]:
    """Maps of raw series and measured covariates, as inference makes them."""
    settings = predictor.spec.settings
    maps = MapCache(default_cache_folder() / "maps", MapsConfig.from_json(predictor.spec.maps), settings.channels)
    measured = ReadOutCache(default_cache_folder() / "maps" / "read_outs", settings.covariates, settings.tumour)
    return then(maps.complete, measured.complete)
