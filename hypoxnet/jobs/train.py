"""The training job: cohort in; model, predictions for withheld patients, metrics and a report out."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypoxnet.bundle.read import read_bundle
from hypoxnet.bundle.schema import CHECKSUMS, cohort_counts, of_all_members
from hypoxnet.bundle.write import write_bundle
from hypoxnet.cases import CaseRecord
from hypoxnet.data.cache import PreparedCache
from hypoxnet.data.covariate_text import write_covariate
from hypoxnet.data.datamodule import cache_folder, maps_folder
from hypoxnet.data.manifest import read_manifest, rows_without_images
from hypoxnet.data.measured import ReadOutCache, wanted_read_outs
from hypoxnet.data.phantom_cohort import phantom_manifest
from hypoxnet.data.plan import plan_covariates, plan_covariates_alone, plan_settings
from hypoxnet.data.splits import Split, splits_of
from hypoxnet.errors import ManifestError
from hypoxnet.files import write_json, write_text
from hypoxnet.jobs.config import TrainJobConfig
from hypoxnet.jobs.derive import MapCache, complete_cohort
from hypoxnet.jobs.gallery import chosen_for_gallery, save_for_gallery
from hypoxnet.jobs.measure import measure_cohort
from hypoxnet.jobs.part import Part, Scored, fit_part, is_trained, prepared_part, run_part
from hypoxnet.jobs.run_folder import RunFolder, log_to, open_run
from hypoxnet.jobs.scoring import (
    write_scores,
)
from hypoxnet.jobs.validation import (
    checked_for_leaks,
    describe_design,
    figures_of,
    notes_of,
    pooled,
    withheld_once,
)
from hypoxnet.metrics.evaluate import Evaluator
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.report.page import write_report
from hypoxnet.training.copies import Copies, joined
from hypoxnet.training.covariates import refuse_without_failures
from hypoxnet.training.run import TrainingSetup, refuse_machine
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)


def run_training_job(config: TrainJobConfig) -> int:
    """Train, predict the withheld patients, evaluate and report; goes on where an earlier call was interrupted.

    Args:
        config: Everything.

    Returns:
        Exit status, 0.

    Raises:
        HypoxNetError: Manifest, configuration or run folder cannot be used.
    """
    refuse_machine(config.training)
    with joined(config.training, output=config.output) as copies:
        return _run_first(config, copies) if copies.rank == 0 else _train_along(config, copies)


def _run_first(config: TrainJobConfig, copies: Copies) -> int:
    alone = config.model.backbone == NO_BACKBONE
    manifest = _manifest(config)
    config = replace(config, name=config.name or (manifest.stem if config.data.manifest else "phantom"))
    records, without_maps = _cohort(manifest, config, alone=alone)
    external, more_without_maps = _external(config, alone=alone)
    parts_of = splits_of(records, config.split, external)
    setup, settings = _plan(records, parts_of, config)
    parts_of = checked_for_leaks(parts_of, settings, config.split)
    run = open_run(config, manifest)
    log_to(run.path / "run.log")
    log.info("run folder: %s", run.path)
    if copies.count > 1:
        log.info("%d copies of this job train together", copies.count)
    for sentence in (*_about_covariates(records, parts_of, settings, config), *notes_of(parts_of.values())):
        log.info("%s", sentence)
    if not _is_finished(run):
        if alone:
            parts = [Part(fold, split, run.part(fold), {}) for fold, split in parts_of.items()]
        else:
            cache = PreparedCache(cache_folder(config.data), settings)
            parts = [prepared_part(fold, split, run, cache, config) for fold, split in parts_of.items()]
        _write_withheld(run, parts)
        copies.told([part.fold for part in parts if not alone and not is_trained(part)])
        scored = [run_part(part, settings, setup, config) for part in parts]
        _finish(run, parts, scored, settings, config, {**without_maps, **more_without_maps})
    else:
        copies.told([])
    log.info("report: %s", write_report(run.path))
    log.info("to predict others: python3 infer.py bundle=%s manifest=cohort.csv output=predictions", run.bundle)
    return 0


def _train_along(config: TrainJobConfig, copies: Copies) -> int:
    """What a copy does that is not the first: train what the first one trains, when it has prepared everything."""
    logging.getLogger("hypoxnet").setLevel(logging.ERROR)  # the first one says it
    folds = copies.told()
    if not folds:
        return 0
    manifest = _manifest(config)
    config = replace(config, name=config.name or (manifest.stem if config.data.manifest else "phantom"))
    records, _ = _cohort(manifest, config, alone=False)
    parts_of = splits_of(records, config.split, _external(config, alone=False)[0])
    setup, settings = _plan(records, parts_of, config)
    run, cache = RunFolder(Path(config.output).absolute()), PreparedCache(cache_folder(config.data), settings)
    for fold, split in checked_for_leaks(parts_of, settings, config.split).items():
        if fold in folds:
            fit_part(prepared_part(fold, split, run, cache, config), settings, setup, config)
    return 0


def _cohort(manifest: Path, config: TrainJobConfig, *, alone: bool) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """The cases with the channels and read-outs that their files give; those that cannot be completed, with the reason.

    Raises:
        ManifestError: The manifest has a fault, or a row has no image and the network needs one.
        CaseError: No case could be completed.
    """
    records = read_manifest(manifest, check_files=not alone, endpoint=config.data.endpoint)
    reasons: dict[str, str] = {}
    if not alone:
        without = rows_without_images(records)
        if 0 < len(without) < len(records):
            raise ManifestError(str(manifest), without)
        maps = MapCache(maps_folder(config.data), config.data.maps, tuple(config.data.channels))
        records, reasons = complete_cohort(records, maps)
    names = wanted_read_outs(records, config.data.covariates, alone=alone)
    if names:
        cache = ReadOutCache(maps_folder(config.data) / "read_outs", names, tuple(config.data.tumour))
        records, more = measure_cohort(records, cache)
        reasons |= more
    return records, reasons


def _about_covariates(
    records: Sequence[CaseRecord],
    parts: Mapping[int | None, Split],
    settings: PrepareSettings,
    config: TrainJobConfig,
) -> Iterator[str]:
    """What the log says of covariates: which, which were measured, which teach nothing."""
    yield f"covariates: {', '.join(settings.covariates) or 'none'}"
    measured = Counter(name for record in records for name in record.measured)
    for name, count in measured.items():
        yield f"{name} was measured of images and contours in {count} of {len(records)} cases"
    yield from plan_covariates(_planned(records, parts), config.data)[1]


def _manifest(config: TrainJobConfig) -> Path:
    if not config.data.manifest:
        return phantom_manifest(config.data.phantom, Path(config.data.cache) if config.data.cache else None)
    return Path(config.data.manifest).expanduser()


def _external(config: TrainJobConfig, *, alone: bool) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """The cohort that is only predicted, and its cases that cannot be completed; empty for other designs."""
    if not config.split.test_manifest:
        return (), {}
    return _cohort(Path(config.split.test_manifest).expanduser(), config, alone=alone)


def _plan(
    records: Sequence[CaseRecord], parts: Mapping[int | None, Split], config: TrainJobConfig
) -> tuple[TrainingSetup, PrepareSettings]:
    """Settings of every room. A single split is planned on its training cases, folds on the whole cohort.

    Folds share one preparation so that their networks can be averaged; what it takes from the cohort are names of
    channels, and mean and spread of covariates, no contour and no outcome.
    """
    planned = _planned(records, parts)
    edges = config.outcome.edges_months
    if config.model.backbone == NO_BACKBONE:
        refuse_without_failures(planned)
        settings = plan_covariates_alone(planned, config.data, edges_months=edges)
    else:
        settings = plan_settings(planned, config.data, config.label, edges_months=edges)
    outcome = config.outcome
    if outcome.enabled and not any(record.outcome for record in planned):
        outcome = replace(outcome, enabled=False)
    setup = TrainingSetup(
        config.data, config.augment, config.model, outcome, config.loss, config.training, config.tracking
    )
    return setup, settings


def _planned(records: Sequence[CaseRecord], parts: Mapping[int | None, Split]) -> Sequence[CaseRecord]:
    """The cases that preparation is planned on."""
    single = parts.get(None)
    return records if single is None else (*single.train, *single.validation)


def _is_finished(run: RunFolder) -> bool:
    """The bundle gets its figures last."""
    return run.metrics.is_file() and (run.bundle / CHECKSUMS).is_file() and bool(read_bundle(run.bundle)[0].metrics)


def _write_withheld(run: RunFolder, parts: Sequence[Part]) -> None:
    """The withheld cases as a manifest with absolute paths, for `infer.py`."""
    records = withheld_once(part.split for part in parts)
    channels = list(dict.fromkeys(n for record in records for n in record.channels if n not in record.derived))
    raw = list(dict.fromkeys(name for record in records for name in record.raw))
    masks = list(dict.fromkeys(name for record in records for name in record.masks))
    # What was measured is measured again, of the same files.
    given = [{n: v for n, v in record.covariates.items() if n not in record.measured} for record in records]
    covariates = list(dict.fromkeys(name for values in given for name in values))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["case_id", "visit", "site", *channels, *raw, *masks, *covariates], lineterminator="\n"
    )
    writer.writeheader()
    for record, values in zip(records, given, strict=True):
        row: dict[str, Any] = {"case_id": record.case_id, "visit": record.visit, "site": record.site}
        files = {**record.channels, **record.masks}
        row |= {name: path.absolute() for name, path in files.items() if name not in record.derived}
        row |= {name: "|".join(str(path.absolute()) for path in paths) for name, paths in record.raw.items()}
        writer.writerow(row | {name: write_covariate(name, value) for name, value in values.items()})
    write_text(run.manifest, text.getvalue())


def _finish(
    run: RunFolder,
    parts: Sequence[Part],
    scored: Sequence[Scored],
    settings: PrepareSettings,
    config: TrainJobConfig,
    without_maps: Mapping[str, str],
) -> None:
    """Pool the parts: table, metrics, gallery, and the bundle with its figures."""
    every = [score for part in scored for score in part.scores]
    scores = pooled(every, config.split)
    failed = {key: reason for part in scored for key, reason in part.failed.items()}
    write_scores(run.predictions, scores, failed)
    _save_gallery(run, parts, scores, settings)
    metrics = Evaluator(
        scores,
        horizon_months=config.outcome.horizon_months,
        resamplings=config.bootstrap,
        evaluation=config.evaluation,
    ).metrics()
    metrics["counts"] |= {"failed_cases": len(failed), "trainings": len(parts)}
    metrics["counts"]["training_patients"] = _training_patients(parts)
    metrics["left_out"] = {key: reason for part in scored for key, reason in part.left_out.items()} | dict(without_maps)
    metrics["validation"] = describe_design({part.fold: part.split for part in parts}, every, config.split)
    metrics["baselines"] = [part.baselines.describe() for part in scored]
    metrics["bootstrap"] = {"resamplings": config.bootstrap, "interval": 0.95, "unit": "patient"}
    write_json(run.metrics, metrics)
    _bundle_with_figures(run, parts, metrics)
    _log_figures(metrics)


def _training_patients(parts: Sequence[Part]) -> int:
    """Of the smallest training, so that nothing looks larger than it is."""
    return min(len({record.case_id for record in part.split.train}) for part in parts)


def _bundle_with_figures(run: RunFolder, parts: Sequence[Part], metrics: Mapping[str, Any]) -> None:
    """The bundle of a single training, or the networks of all folds as one ensemble; with the pooled figures.

    In an ensemble every patient of the cohort trained most of the networks: its figures are those of the single
    networks on the patients that each had withheld.
    """
    read = [read_bundle(part.folder.bundle) for part in parts]
    spec = read[0][0]
    weights = [member for _, members in read for member in members]
    if len(parts) > 1:
        everyone = withheld_once(part.split for part in parts)
        steps = sum(int(other.provenance["steps"]) for other, _ in read)
        seconds = sum(int(other.provenance["training_seconds"]) for other, _ in read)
        spec = replace(
            spec,
            **of_all_members([other for other, _ in read]),
            cohort=cohort_counts(everyone),
            provenance={**spec.provenance, "steps": steps, "training_seconds": seconds, "folds": len(parts)},
        )
    write_bundle(run.bundle, replace(spec, metrics=figures_of(metrics), digest=""), weights)


def _save_gallery(
    run: RunFolder, parts: Sequence[Part], scores: Sequence[CaseScore], settings: PrepareSettings
) -> None:
    if not settings.regions:
        return
    place = {record.key: (record, part.folder.cases) for part in parts for record in part.split.test}
    for number, (score, title) in enumerate(chosen_for_gallery(scores, settings.region_names[0])):
        record, cases = place[score.key]
        path = run.path / "gallery" / f"{number:02d}_{score.key}.npz"
        save_for_gallery(path, record, cases / score.key, settings, title=title)


def _log_figures(metrics: Mapping[str, Any]) -> None:
    for room, names in (
        ("segmentation", ("dice", "threshold_dice")),
        ("outcome", ("c_index", "volume_c_index")),
    ):
        for name in names:
            figure = metrics.get(room, {}).get(name)
            if figure and figure["value"] is not None:
                log.info("withheld patients: %s.%s %s", room, name, json.dumps(figure))
