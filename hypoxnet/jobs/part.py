"""One training of a run: fit it, predict the patients it withholds, and score them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from hypoxnet.bundle.schema import CHECKSUMS, BundleSpec, InferenceDefaults, cohort_counts
from hypoxnet.bundle.write import write_bundle
from hypoxnet.cases import CaseRecord
from hypoxnet.data.cache import PreparedCache
from hypoxnet.data.datamodule import cache_folder, prepare_cohort
from hypoxnet.data.splits import Split
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.jobs.config import TrainJobConfig
from hypoxnet.jobs.knowing import with_knowledge
from hypoxnet.jobs.run_folder import RunFolder
from hypoxnet.jobs.scoring import Baselines, fit_baselines, fit_baselines_alone, score_case, score_without_image
from hypoxnet.jobs.scoring_outcome import with_details_alone
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.training.config import few_steps
from hypoxnet.training.covariates import fit_covariates
from hypoxnet.training.run import FittedModel, TrainingSetup, fit
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One training with the patients it withholds: the whole run, or a fold of it.

    Args:
        fold: Number of the fold; None for a single split.
        split: Who trains, chooses and is withheld.
        folder: Where its training, bundle and cases lie.
        left_out: Cases that could not be prepared for training, with the reason; they are not in the split.
    """

    fold: int | None
    split: Split
    folder: RunFolder
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the cases of a part: scores of the withheld, reasons of those that failed or were left out."""

    scores: tuple[CaseScore, ...]
    failed: Mapping[str, str]
    left_out: Mapping[str, str]
    baselines: Baselines


def prepared_part(fold: int | None, split: Split, run: RunFolder, cache: PreparedCache, config: TrainJobConfig) -> Part:
    """A part without the cases that cannot be prepared, so that nothing counts them as trained on."""
    train, left_out = prepare_cohort(split.train, cache, workers=config.data.workers)
    validation: tuple[CaseRecord, ...] = ()
    if split.validation:
        validation, more = prepare_cohort(split.validation, cache, workers=config.data.workers)
        left_out |= more
    return Part(fold, replace(split, train=train, validation=validation), run.part(fold), left_out)


def run_part(part: Part, settings: PrepareSettings, setup: TrainingSetup, config: TrainJobConfig) -> Scored:
    """Train unless that is done, predict the withheld cases and score them."""
    split = part.split
    name = f"{split.name}: " if split.name else ""
    choosing = f", {len(split.validation)} choose the epoch" if split.validation else ""
    log.info("%s%d cases train%s, %d are withheld", name, len(split.train), choosing, len(split.test))
    if not is_trained(part):
        _train_part(part, settings, setup, config)
    predictor = load_predictor(part.folder.bundle, config.inference)
    if predictor.alone:
        return _score_alone(part, predictor)
    inferred = run_inference(predictor, split.test, part.folder.cases)
    baselines = fit_baselines((*split.train, *split.validation), settings)
    log.info("%sscoring", name)
    scores = [
        score_case(
            *(record, part.folder.cases / record.key, settings, baselines),
            fold=part.fold,
            temperatures=predictor.spec.every_temperature[0],
        )
        for record in split.test
        if record.key not in inferred.failed
    ]
    return Scored(
        tuple(score for score in scores if score is not None), dict(inferred.failed), part.left_out, baselines
    )


def _score_alone(part: Part, predictor: Predictor) -> Scored:
    """Scores of a model that reads no image: of all withheld cases at once, without a file for each."""
    split = part.split
    training = (*split.train, *split.validation)
    baselines = fit_baselines_alone(training)
    at_horizon = predictor.risk_of_covariates(split.test)
    scores = [
        score_without_image(record, risk, baselines.volume, fold=part.fold)
        for record, risk in zip(split.test, at_horizon, strict=True)
    ]
    detailed = with_details_alone(scores, predictor, split.test, baselines.references, training=training)
    return Scored(tuple(detailed), {}, part.left_out, baselines)


def is_trained(part: Part) -> bool:
    """Its bundle stands; what was finished is not done again."""
    return (part.folder.bundle / CHECKSUMS).is_file()


def fit_part(part: Part, settings: PrepareSettings, setup: TrainingSetup, config: TrainJobConfig) -> FittedModel:
    """Train the network of a part, or go on with that."""
    label = config.name if part.fold is None else f"{config.name}-fold{part.fold}"
    return fit(part.split, settings, setup, part.folder.path / "training", name=label)


def _train_part(part: Part, settings: PrepareSettings, setup: TrainingSetup, config: TrainJobConfig) -> None:
    if setup.model.backbone == NO_BACKBONE:
        fitted = fit_covariates(part.split, settings, setup)
    else:
        fitted = fit_part(part, settings, setup, config)
    log.info("trained %d steps in %.0f s", fitted.steps, fitted.seconds)
    if setup.model.backbone != NO_BACKBONE and not config.training.start and few_steps(fitted.steps):
        log.warning("%s", few_steps(fitted.steps))
    spec = BundleSpec(
        name=config.name,
        model=fitted.spec,
        settings=settings,
        inference=InferenceDefaults(**config.inference.chosen()),  # type: ignore[arg-type]
        maps=asdict(config.data.maps) if any(r.derived for r in part.split.train) else {},
        cohort=cohort_counts((*part.split.train, *part.split.validation)),
        provenance={
            "trained": time.strftime("%Y-%m-%d"),
            "seed": config.training.seed,
            "steps": fitted.steps,
            "training_seconds": round(fitted.seconds),
        },
    )
    if setup.model.backbone != NO_BACKBONE:
        cache = PreparedCache(cache_folder(config.data), settings)
        spec = with_knowledge(spec, fitted.weights, part.split, cache, config.inference)
    write_bundle(part.folder.bundle, spec, [fitted.weights])
