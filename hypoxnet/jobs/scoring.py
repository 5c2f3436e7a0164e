"""Predictions of withheld cases beside the truth and the baselines."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypoxnet.cases import END_POINTS, CaseRecord
from hypoxnet.errors import HypoxNetError
from hypoxnet.files import write_text
from hypoxnet.hypoxia.volumes import volume_ml
from hypoxnet.images import read_grid, read_mask, read_volume
from hypoxnet.inference.read_outs import tumour_on
from hypoxnet.inference.writing import read_prediction
from hypoxnet.jobs.scoring_outcome import fit_references, reference_risks, risk_details, with_volume
from hypoxnet.metrics.baselines import (
    CONVENTIONAL_SHARE,
    UptakeThreshold,
    VolumeModel,
    choose_threshold,
    fit_volume_model,
    read_uptake,
    true_region,
)
from hypoxnet.metrics.on_training import figures_on_training
from hypoxnet.metrics.reference_models import VOLUME, ReferenceModel
from hypoxnet.metrics.reliability import Calibrated, calibrated
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.metrics.segmentation import RegionScore, dice, score_region
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)

# Columns of what was outlined; a table in which nobody has them goes without.
OF_CONTOURS = ("threshold_dice", "suvmax41_dice")


@dataclass(frozen=True, slots=True)
class Baselines:
    """What stands beside the network; None where the cohort does not allow it.

    Args:
        threshold: Of the uptake.
        volume: Rank by the tumour's volume.
        references: Models with absolute risks, by name.
        on_training: Figures of these on their own training patients, corrected for it.
    """

    threshold: UptakeThreshold | None
    volume: VolumeModel | None
    references: Mapping[str, ReferenceModel] = field(default_factory=dict)
    on_training: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {
            "threshold": None if self.threshold is None else self.threshold.describe(),
            "outcome": None
            if self.volume is None
            else f"{self.volume.kind} on log GTV volume, {self.volume.coefficient:+.3f} per log mL",
            "clinical": self.references["clinical"].describe() if "clinical" in self.references else None,
            **({"on_training": dict(self.on_training)} if self.on_training else {}),
        }


def fit_baselines(records: Sequence[CaseRecord], settings: PrepareSettings) -> Baselines:
    """Fit the baselines on training cases, and on nothing else."""
    volumes, outcomes, known, patients = [], [], [], []
    for record in {record.case_id: record for record in reversed(records)}.values():
        tumour_ml = _tumour_ml(record, settings)
        if record.outcome is not None and tumour_ml:
            volumes.append(tumour_ml)
            outcomes.append(record.outcome)
            known.append(record)
            patients.append(with_volume(record, tumour_ml))
    model = fit_volume_model(volumes, outcomes) if outcomes else None
    references = fit_references(known, patients)
    apparent = figures_on_training(references, patients, outcomes)
    return Baselines(choose_threshold(records, settings), model, references, apparent)


def fit_baselines_alone(records: Sequence[CaseRecord]) -> Baselines:
    """The same where no contour is read: of the patients whose volume stands in the manifest."""
    patients = {record.case_id: record for record in reversed(records)}.values()
    known = [record for record in patients if record.outcome is not None and VOLUME in record.covariates]
    outcomes = [record.outcome for record in known if record.outcome is not None]
    covariates = [record.covariates for record in known]
    model = fit_volume_model([one[VOLUME] for one in covariates], outcomes) if known else None
    references = fit_references(known, covariates)
    return Baselines(None, model, references, figures_on_training(references, covariates, outcomes))


def score_without_image(
    record: CaseRecord, at_horizon: Sequence[float], volume: VolumeModel | None, *, fold: int | None
) -> CaseScore:
    """Score a case of a model of covariates alone.

    Args:
        record: The withheld case with its truth.
        at_horizon: Incidence of each cause at the horizon.
        volume: The baseline, fitted on the training cases.
        fold: Which fold withheld it.
    """
    tumour_ml = record.covariates.get(VOLUME)
    return CaseScore(
        key=record.key,
        patient=record.case_id,
        site=record.site,
        fold=fold,
        tumour_ml=tumour_ml,
        risk=at_horizon[0],
        death=at_horizon[1] if len(at_horizon) > 1 else None,
        outcome=record.outcome,
        volume_risk=volume.risk(tumour_ml) if volume and tumour_ml else None,
        covariates=record.covariates,
    )


def _tumour_ml(record: CaseRecord, settings: PrepareSettings) -> float | None:
    """Volume of the union of the tumour contours on the grid of the first of them."""
    names = [name for name in settings.tumour if name in record.masks]
    if not names:
        return None
    try:
        grid, _ = read_grid(record.masks[names[0]], case=record.key)
        mask = tumour_on(record, settings, grid)
    except HypoxNetError:
        return None  # preparation has already said what is wrong with this case
    return None if mask is None else volume_ml(mask, grid)


def score_case(
    record: CaseRecord,
    folder: Path,
    settings: PrepareSettings,
    baselines: Baselines,
    *,
    fold: int | None,
    temperatures: Sequence[float] = (),
) -> CaseScore | None:
    """Score one predicted case on its own reference grid.

    Args:
        record: The withheld case with its truth.
        folder: Its prediction.
        settings: What the network outlines.
        baselines: Fitted on the training cases.
        fold: Which fold withheld it.
        temperatures: Of the network, per region; empty without any.

    Returns:
        The scores; None when the case was not predicted.
    """
    said = read_prediction(folder, record.key)
    if said is None:
        return None
    regions, probabilities = _regions(record, folder, settings, temperatures)
    tumour_ml = _tumour_ml(record, settings)
    at_horizon = said["risk"]["at_horizon"] if said["risk"] else {}
    event, competing = END_POINTS[settings.endpoint]
    has_truth = settings.region_names[0] in regions
    conventional = _conventional(baselines, settings)
    details = risk_details(said, END_POINTS[settings.endpoint])
    months = details["curve"].months if details else ()
    covariates = with_volume(record, tumour_ml)
    unlike = said.get("unlike_training")
    return CaseScore(
        key=record.key,
        patient=record.case_id,
        site=record.site,
        fold=fold,
        regions=regions,
        threshold_dice=_threshold_dice(record, settings, baselines.threshold) if has_truth else None,
        conventional_dice=_threshold_dice(record, settings, conventional) if has_truth else None,
        tumour_ml=tumour_ml,
        risk=at_horizon.get(event),
        death=at_horizon.get(competing),
        outcome=record.outcome,
        volume_risk=baselines.volume.risk(tumour_ml) if baselines.volume and tumour_ml else None,
        references=reference_risks(baselines.references, covariates, months) if details else {},
        covariates=covariates,
        reliability=probabilities,
        unlike_training=float(unlike["unlike"]) if unlike else None,
        **details,
    )


def _regions(
    record: CaseRecord, folder: Path, settings: PrepareSettings, temperatures: Sequence[float]
) -> tuple[dict[str, RegionScore], dict[str, Calibrated]]:
    """Scores of the masks, and how reliable the probabilities are, of the regions that somebody contoured."""
    regions: dict[str, RegionScore] = {}
    probabilities: dict[str, Calibrated] = {}
    for place, name in enumerate(settings.region_names):
        path = folder / f"{record.key}_{name}_mask.nii.gz"
        grid, _ = read_grid(path, case=record.key)
        truth = true_region(record, settings, name, grid)
        if truth is None:
            continue
        predicted = read_mask(path, case=record.key).array
        whole = None if _is_tumour(name, settings) else tumour_on(record, settings, grid)
        regions[name] = score_region(predicted, truth, grid, whole)
        said = read_volume(folder / f"{record.key}_{name}_probseg.nii.gz", case=record.key).array
        confined = whole if settings.inside_tumour else None
        found = calibrated(said, truth, confined, temperature=temperatures[place] if temperatures else 1.0)
        probabilities |= {name: found} if found else {}
    return regions, probabilities


def _is_tumour(region: str, settings: PrepareSettings) -> bool:
    """A region of tumour contours only: its share of the tumour says nothing."""
    masks = next(r.masks for r in settings.regions if r.name == region)
    return bool(masks) and set(masks) <= set(settings.tumour)


def _conventional(baselines: Baselines, settings: PrepareSettings) -> UptakeThreshold | None:
    """41 % of SUVmax, for a label that is the tumour itself."""
    if settings.inside_tumour or baselines.threshold is None:
        return None
    return UptakeThreshold(baselines.threshold.channel, "share_of_max", "", CONVENTIONAL_SHARE)


def _threshold_dice(record: CaseRecord, settings: PrepareSettings, threshold: UptakeThreshold | None) -> float | None:
    if threshold is None:
        return None
    try:
        uptake = read_uptake(record, settings, threshold.channel, threshold.reference)
        if uptake is None:
            return None
        truth = true_region(record, settings, settings.region_names[0], uptake.grid)
    except HypoxNetError as error:
        log.warning("no threshold baseline: %s", error)
        return None
    return None if truth is None else dice(threshold.mask(uptake), truth)


def write_scores(path: Path, scores: Sequence[CaseScore], failed: dict[str, str]) -> None:
    """`predictions.csv` of a training run: one line per withheld case, a failed one with its reason."""
    rows = [_row(score) for score in scores]
    rows += [{"key": key, "status": "failed", "reason": reason} for key, reason in failed.items()]
    every = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in every if name not in OF_CONTOURS or any(row.get(name, "") != "" for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _row(score: CaseScore) -> dict[str, Any]:
    row: dict[str, Any] = {"key": score.key, "status": "ok", "reason": "", "case_id": score.patient}
    row |= {"site": score.site, "fold": "" if score.fold is None else score.fold}
    for name, region in score.regions.items():
        row |= {f"{name}_{what}": _cell(value) for what, value in asdict(region).items()}
    row |= {f"{name}_ece": _cell(found.after.error) for name, found in score.reliability.items()}
    row |= {} if score.unlike_training is None else {"unlike_training": _cell(score.unlike_training)}
    outcome = score.outcome
    return row | {
        "threshold_dice": _cell(score.threshold_dice),
        "suvmax41_dice": _cell(score.conventional_dice),
        "tumour_ml": _cell(score.tumour_ml),
        "risk": _cell(score.risk),
        "death": _cell(score.death),
        "log_volume_score": _cell(score.volume_risk),
        **_outcome_cells(score),
        "event": "" if outcome is None else outcome.event,
        "months": "" if outcome is None or outcome.months is None else outcome.months,
    }


def _outcome_cells(score: CaseScore) -> dict[str, Any]:
    """Interval, curve, baselines and contributions, where the model gives them."""
    cells: dict[str, Any] = {}
    if score.risk_interval is not None:
        cells |= {"risk_low": _cell(score.risk_interval[0]), "risk_high": _cell(score.risk_interval[1])}
    if score.curve is not None:
        at = [month for month in score.curve.months if month < float("inf")]
        cells |= {f"risk_{month:g}m": _cell(float(score.curve.failure_at(month))) for month in at}
    cells |= {f"{name}_baseline_score": _cell(said.score) for name, said in score.references.items()}
    return cells | {f"contribution_{name}": _cell(value) for name, value in score.contributions.items()}


def _cell(value: float | None) -> float | str:
    return "" if value is None else round(value, 6)
