"""What a trained network is told of itself before it leaves: its temperature, and what its training patients look like.

Both are learned of patients of the training part. Withheld patients are not looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hypoxnet.bundle.read import load_strictly
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.bundle.typical import Appearance
from hypoxnet.cases import CaseRecord, Sample
from hypoxnet.data.cache import PreparedCache
from hypoxnet.data.splits import Split
from hypoxnet.inference.applied import said_by
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor
from hypoxnet.inference.unlike import appearance_of
from hypoxnet.inference.windows import Box, Encoding
from hypoxnet.models.build import build_model
from hypoxnet.training.temperature import FEWEST_PATIENTS, LogitCounts, fit_temperature
from hypoxnet.training.typical import fit_typical

log = logging.getLogger(__name__)

# More patients than this make neither a temperature nor a mean better, and each costs a prediction.
MOST_PATIENTS = 200


def with_knowledge(
    spec: BundleSpec, weights: Mapping[str, Tensor], split: Split, cache: PreparedCache, config: InferenceConfig
) -> BundleSpec:
    """The description of a single trained network with its temperature and its training patients.

    Args:
        spec: As trained.
        weights: Of the network.
        split: Its training and validation patients.
        cache: Their prepared cases.
        config: How it is applied.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_model(spec.model)
    load_strictly(model, weights, source="the trained network")
    predictor = Predictor(spec, [model.requires_grad_(False)], config)
    counts = [LogitCounts() for _ in spec.settings.region_names]
    training = [_seen(predictor, cache, record, None) for record in one_each(split.train)]
    validation = [_seen(predictor, cache, record, counts) for record in one_each(split.validation)]
    temperatures = tuple(fit_temperature(each) for each in counts)
    typical = fit_typical(training, validation)
    _tell(spec, counts, temperatures)
    if typical is None:
        log.info("%d training patients are too few to say what they look like", len(training))
    else:
        log.info("what %d training patients look like: limits by %s", typical.patients, typical.judged_by)
    return replace(spec, temperatures=(temperatures,), typical=(typical,) if typical else ())


def one_each(records: Sequence[CaseRecord]) -> list[CaseRecord]:
    """One case of each patient, the first; at most `MOST_PATIENTS`, evenly from all."""
    first = list({record.case_id: record for record in reversed(records)}.values())
    first.sort(key=lambda record: record.case_id)
    places = np.unique(np.linspace(0, len(first) - 1, min(len(first), MOST_PATIENTS)).round().astype(int))
    return [first[place] for place in places]


@torch.inference_mode()
def _seen(
    predictor: Predictor, cache: PreparedCache, record: CaseRecord, counts: Sequence[LogitCounts] | None
) -> Appearance:
    """What a case looks like; its log-odds are counted where `counts` asks for them."""
    sample = cache.get(record).sample
    box, passes = predictor.logits(predictor.models[0], sample)
    logits = list(passes)
    if counts is not None:
        _count(counts, sample, box, logits, inside_tumour=predictor.spec.settings.inside_tumour)
    pooled = said_by(logits, None, None).encoding
    return appearance_of(sample, predictor.spec.settings, (pooled.pooled_sum, pooled.pooled_weight))


def _count(
    counts: Sequence[LogitCounts], sample: Sample, box: Box, passes: Sequence[Encoding], *, inside_tumour: bool
) -> None:
    """Voxels inside the contour where the model is one of insides, else all of the box."""
    tumour = sample.tumour[0][box].numpy() > 0
    place = tumour if inside_tumour and tumour.any() else np.ones_like(tumour)
    for region, each in enumerate(counts):
        if bool(sample.label_known[region] > 0):
            truth = sample.label[region][box].numpy() > 0
            every = [one.segmentation[0, region].float().cpu().numpy()[place] for one in passes]
            each.add(np.concatenate(every), np.concatenate([truth[place]] * len(every)))


def _tell(spec: BundleSpec, counts: Sequence[LogitCounts], temperatures: Sequence[float]) -> None:
    for name, each, temperature in zip(spec.settings.region_names, counts, temperatures, strict=True):
        if each.patients < FEWEST_PATIENTS:
            log.info(
                "%s: probabilities are not calibrated, %d validation patients have the region and %d are needed; "
                "split.validation_fraction=0.2 gives some",
                *(name, each.patients, FEWEST_PATIENTS),
            )
        else:
            log.info("%s: temperature %.3g from %d validation patients", name, temperature, each.patients)
