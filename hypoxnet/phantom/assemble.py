"""A patient as a cohort holds him: imaged on every visit, treated, followed, with the truth behind each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hypoxnet.geometry import Grid
from hypoxnet.phantom.fields import resampled
from hypoxnet.phantom.imaging import DayTruth, Imaged, image_visit, reference_ratio
from hypoxnet.phantom.mri.maps import true_maps
from hypoxnet.phantom.outcome import TrueOutcome, draw_outcome
from hypoxnet.phantom.oxygen.closure import Closure
from hypoxnet.phantom.parameters.cohort import Preset, Visit
from hypoxnet.phantom.subject import Subject, hypoxic_read_outs, make_subject
from hypoxnet.phantom.treatment import planned_dose, surviving_clonogens
from hypoxnet.phantom.words import Oxygenation, Phantom
from hypoxnet.phantom.writing import case_name
from hypoxnet.quantities import COVARIATES, MASKS, RAW_SERIES

# Which covariates a clinic writes down.
KNOWN = (
    "age",
    "sex",
    "hpv",
    "t_stage",
    "n_stage",
    "subsite_oropharynx",
    "smoking_pack_years",
    "hb_g_dl",
    "ecog",
    "chemo",
    "til",
    "pd_l1_cps",
)
# Maps of MRI whose truth is written.
TRUE_MAPS = ("R1", "DR1", "R2STAR", "DR2STAR", "KTRANS", "VE", "VP", "ADC")
MASK_COLUMNS = ("GTVP", "GTVN", "HYPOXIA", "MUSCLE", "BLOOD")


def manifest_columns(chosen: Preset) -> tuple[str, ...]:
    """Columns of a cohort's manifest."""
    raw = tuple(RAW_SERIES) if chosen.raw else ()
    masks = tuple(name for name in MASKS if name in MASK_COLUMNS)
    covariates = (*KNOWN, "dose_gy", "arm") if chosen.randomised else KNOWN
    return ("case_id", "visit", "site", *chosen.channels, *raw, *masks, "lrc_months", "lrc_event", *covariates)


def make_phantom(chosen: Preset, number: int, closure: Closure | None = None) -> Phantom:
    """Patient `number` of a cohort; depends on nothing but the preset, its seed and the number.

    Args:
        chosen: Parameters.
        number: Of the patient.
        closure: Made for these parameters; looked up, or made in minutes, when None.

    Example:
        >>> from hypoxnet.phantom.presets import preset
        >>> make_phantom(preset("test"), 1).case_id
        'P0001'
    """
    subject = make_subject(chosen, number, closure)
    course = {w: subject.oxygen_of(subject.vessels_at(Visit("", week=w))) for w in chosen.treatment.oxygenation_weeks}
    weeks = list(course.values())
    known_oxygen = [None if visit.another_day else course.get(visit.week) for visit in chosen.visits]
    days = [image_visit(subject, visit, oxygen) for visit, oxygen in zip(chosen.visits, known_oxygen, strict=True)]
    boosted = _arm(subject)
    fates = {gy: _treated(subject, weeks, boost) for gy, boost in _plans(subject, days[0]).items()}
    received = chosen.treatment.boost_gy if boosted else chosen.treatment.dose_gy
    survivors, outcome = fates[received]
    known = _known_covariates(subject)
    if chosen.randomised:
        known |= {"dose_gy": received, "arm": float(boosted)}
    return Phantom(
        case_id=case_name(number),
        site=subject.hospital.name,
        visits=tuple(day.visit for day in days),
        outcome=outcome.lrc,
        outcomes=_end_points(subject, outcome, received),
        covariates=known,
        truth=_truth(subject, days, {gy: one for gy, (_, one) in fates.items()}, received),
        truth_maps=_truth_maps(subject, days, survivors),
    )


def _arm(subject: Subject) -> bool:
    """True for the arm with the boost."""
    return subject.chosen.randomised and bool(subject.streams("arm").random() < 0.5)


def _plans(subject: Subject, first: Imaged) -> dict[float, Tensor | None]:
    """Doses of the arms and what each boosts: the volume that the baseline PET shows, not the truth."""
    treatment = subject.chosen.treatment
    plans: dict[float, Tensor | None] = {treatment.dose_gy: None}
    if subject.chosen.randomised:
        image, grid = first.visit.images[f"{subject.hospital.tracer}_SUV"]
        ratio = reference_ratio(image, first.visit.masks["MUSCLE"][0])
        shown = (ratio >= subject.chosen.boost_ratio).float()
        anatomy = subject.anatomy
        plans[treatment.boost_gy] = anatomy.tumour & (resampled(shown, grid, anatomy.grid) >= 0.5)
    return plans


def _treated(subject: Subject, weeks: Sequence[Oxygenation], boost: Tensor | None) -> tuple[Tensor, TrueOutcome]:
    chosen, patient = subject.chosen, subject.patient
    survivors = surviving_clonogens(
        weeks,
        subject.vasculature.viable,
        planned_dose(subject.anatomy, chosen.treatment, boost),
        subject.anatomy,
        chosen.treatment,
        alpha_per_gy=patient.alpha_per_gy,
        clonogens_per_ml=patient.clonogens_per_ml,
    )
    fate = subject.streams("fate")  # the same for every arm
    return survivors, draw_outcome(survivors, subject.anatomy, patient, chosen.follow_up, fate, oxygenations=weeks)


def _known_covariates(subject: Subject) -> dict[str, float]:
    generator = subject.streams("covariates")
    values = subject.patient.covariates()
    missing = generator.random(len(KNOWN)) < subject.chosen.missing_covariate
    return {n: values[n] for n, gone in zip(KNOWN, missing, strict=True) if n in COVARIATES and not gone}


def _end_points(subject: Subject, outcome: TrueOutcome, received: float) -> dict[str, Any]:
    origin = outcome.origin
    place = ("", "", "") if origin is None else tuple(f"{mm:.1f}" for mm in origin.ras_mm)
    return {
        "site": subject.hospital.name,
        "dose_gy": f"{received:g}",
        **outcome.observed(),
        "control_probability": f"{outcome.control:.6g}",
        **dict(zip(("origin_x_mm", "origin_y_mm", "origin_z_mm"), place, strict=True)),
        "origin_node": "" if origin is None else origin.node,
        "origin_po2_mmhg": "" if origin is None else f"{origin.po2_mmhg[0]:.3f}",
    }


def _truth(
    subject: Subject, days: Sequence[Imaged], outcomes: Mapping[float, TrueOutcome], received: float
) -> dict[str, Any]:
    visits = {}
    for visit, day in zip(subject.chosen.visits, days, strict=True):
        truth = day.truth
        visits[visit.name] = {
            "week": visit.week,
            "another_day": visit.another_day,
            "mr_misregistration_mm": list(truth.misregistration_mm),
            "registration_mm": list(truth.registration_mm),
            **hypoxic_read_outs(subject, truth.vessels, truth.oxygen),
        }
    anatomy = subject.anatomy
    nodes = [float((anatomy.nodes == n).sum()) * anatomy.grid.voxel_ml for n in range(1, int(anatomy.nodes.max()) + 1)]
    return {
        "seed": subject.chosen.seed,
        "number": subject.number,
        "digest": subject.chosen.digest(),
        "hospital": subject.hospital.name,
        "tracer": subject.hospital.tracer,
        "patient": asdict(subject.patient),
        "primary_ml": round(float(anatomy.primary.sum()) * anatomy.grid.voxel_ml, 4),
        "nodes_ml": [round(ml, 4) for ml in nodes],
        "absent": list(days[0].absent),
        "visits": visits,
        "received_gy": received,
        "arms": {f"{gy:g}": one.truth() for gy, one in outcomes.items()},
    }


def _truth_maps(subject: Subject, days: Sequence[Imaged], survivors: Tensor) -> dict[str, tuple[Tensor, Grid]]:
    """Maps on the object's grid: pO2 always, what everything else was made of where asked for."""
    grid = subject.anatomy.grid
    maps = {
        "po2" if visit.name == "baseline" else f"po2_{visit.name}": day.truth.oxygen.po2
        for visit, day in zip(subject.chosen.visits, days, strict=True)
    }
    if subject.chosen.truth_maps:
        maps |= _everything(subject, days[0].truth)
        # Numbers from 1e-30 to 1e7 do not fit 16 bits with one scale.
        maps["log10_survivors"] = torch.log10(survivors.clamp(min=1e-30)).float() * subject.anatomy.tumour
    return {name: (values, grid) for name, values in maps.items()}


def _everything(subject: Subject, truth: DayTruth) -> dict[str, Tensor]:
    vessels, oxygen = truth.vessels, truth.oxygen
    maps = {
        "tissue": subject.anatomy.tissue.float(),
        "nodes": subject.anatomy.nodes.float(),
        "vessel_radius_um": vessels.radius_um,
        "flow": vessels.flow,
        "viable": vessels.viable,
        "acute": vessels.acute,
        "share_below_10_mmhg": oxygen.share_below(10.0),
        "share_below_2.5_mmhg": oxygen.share_below(2.5),
    }
    if truth.kinetics is not None:
        maps |= {name: getattr(truth.kinetics, name) for name in ("k1", "k2", "k3", "vb")}
    if truth.properties is not None:
        maps |= true_maps(truth.properties, TRUE_MAPS, subject.chosen.protocol)
    return maps
