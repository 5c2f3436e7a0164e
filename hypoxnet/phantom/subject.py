"""One patient from vessels to outcome: the links of the chain, put together.

Every link draws from a stream of its own, so that another scanner, dose or channel leaves the rest of the patient as it
was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypoxnet.phantom.anatomy import make_anatomy
from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.open_kbp import read_open_kbp
from hypoxnet.phantom.oxygen.closure import Closure, closure_for
from hypoxnet.phantom.oxygen.voxel import oxygenation
from hypoxnet.phantom.parameters.cohort import Hospital, Preset, Visit
from hypoxnet.phantom.parameters.oxygen import HYPOXIC_MMHG
from hypoxnet.phantom.patients import Patient, draw_patient, stage
from hypoxnet.phantom.streams import Streams
from hypoxnet.phantom.vasculature import another_day, make_vasculature, reoxygenated
from hypoxnet.phantom.words import Anatomy, Oxygenation, Vasculature

# A voxel counts as living tumour when at least this share of it is not necrotic.
LIVING = 0.5


@dataclass(frozen=True, slots=True)
class Subject:
    """A patient before anybody looks at him.

    Args:
        chosen: Parameters.
        number: Of the patient.
        hospital: Where he is treated.
        patient: Covariates and hidden traits.
        anatomy: Tissues and tumours.
        vasculature: Before treatment.
        closure: From vessels to oxygen.
    """

    chosen: Preset
    number: int
    hospital: Hospital
    patient: Patient
    anatomy: Anatomy
    vasculature: Vasculature
    closure: Closure

    @property
    def streams(self) -> Streams:
        """Randomness of this patient."""
        return Streams(self.chosen.seed, self.number)

    @property
    def vessel_mmhg(self) -> float:
        """Pressure of his vessels under air."""
        return self.chosen.oxygen.vessel_mmhg * self.patient.oxygen_factor

    def vessels_at(self, visit: Visit) -> Vasculature:
        """Vessels on the day of a visit."""
        vessels = self.vasculature
        if visit.another_day:
            vessels = another_day(vessels, self.anatomy, self.chosen.vessels, self.streams(f"day.{visit.name}"))
        share = reoxygenated_share(self.patient.reoxygenation, visit.week, self.chosen.response_weeks)
        return reoxygenated(vessels, self.anatomy, share, vessels=self.chosen.vessels) if share > 0 else vessels

    def oxygen_of(
        self, vessels: Vasculature, *, minutes: float | None = None, vessel_mmhg: float | Tensor | None = None
    ) -> Oxygenation:
        """Oxygen of vessels: the average over the cycle, or a snapshot; under air unless a pressure is given."""
        pressure = self.vessel_mmhg if vessel_mmhg is None else vessel_mmhg
        return oxygenation(
            vessels, self.anatomy, self.chosen.oxygen, self.closure, vessel_mmhg=pressure, minutes=minutes
        )

    def is_hypoxic(self, vessels: Vasculature, oxygen: Oxygenation) -> Tensor:
        """The truth that is to be found: living tumour of little oxygen, D H W, bool."""
        return self.anatomy.tumour & (oxygen.po2 < HYPOXIC_MMHG) & (vessels.viable >= LIVING)


def reoxygenated_share(whole: float, week: float, response_weeks: float) -> float:
    """Share of the missing oxygen that has returned after some weeks of treatment.

    Args:
        whole: Share at the end of week 5.
        week: Since the first fraction.
        response_weeks: Time constant.

    Example:
        >>> reoxygenated_share(0.6, 5.0, 2.5)
        0.6
    """
    reached = -np.expm1(-week / response_weeks) / -np.expm1(-5.0 / response_weeks)
    return float(whole * min(1.0, reached))


def make_subject(chosen: Preset, number: int, closure: Closure | None = None) -> Subject:
    """Patient `number` of a cohort; depends on nothing but the preset, its seed and the number.

    Args:
        chosen: Parameters.
        number: Of the patient.
        closure: Made for these parameters; looked up, or made in minutes, when None.
    """
    streams = Streams(chosen.seed, number)
    hospital = _hospital(chosen, streams("hospital"))
    patient = draw_patient(hospital.population, streams("patient"))
    anatomy = _anatomy(chosen, number, patient, streams("anatomy"))
    nodes_ml = [
        float((anatomy.nodes == n).sum()) * anatomy.grid.voxel_ml for n in range(1, int(anatomy.nodes.max()) + 1)
    ]
    primary_ml = float(anatomy.primary.sum()) * anatomy.grid.voxel_ml
    patient = patient.staged(*stage(primary_ml, nodes_ml, streams("stage"), staging=hospital.population.staging))
    vasculature = make_vasculature(anatomy, chosen.vessels, streams("vessels"))
    return Subject(
        chosen,
        number,
        hospital,
        patient,
        anatomy,
        vasculature,
        closure or closure_for(chosen.oxygen, chosen.vessels),
    )


def _hospital(chosen: Preset, generator: np.random.Generator) -> Hospital:
    shares = np.array([hospital.share for hospital in chosen.hospitals])
    return chosen.hospitals[int(np.searchsorted(np.cumsum(shares / shares.sum()), generator.random(), side="right"))]


def _anatomy(chosen: Preset, number: int, patient: Patient, generator: np.random.Generator) -> Anatomy:
    if chosen.open_kbp:
        folder = Path(chosen.open_kbp[(number - 1) % len(chosen.open_kbp)])
        return read_open_kbp(folder, spacing_mm=chosen.fine_mm, neck=chosen.neck, generator=generator)
    grid = centred_grid((chosen.extent_mm,) * 3, (chosen.fine_mm,) * 3)
    return make_anatomy(chosen.neck, grid, hpv=bool(patient.hpv), subsite=patient.subsite, generator=generator)


def hypoxic_read_outs(subject: Subject, vessels: Vasculature, oxygen: Oxygenation) -> dict[str, float]:
    """True numbers of a visit: volumes, fractions and pressures of the tumour."""
    tumour = subject.anatomy.tumour
    living = tumour & (vessels.viable >= LIVING)
    hypoxic = subject.is_hypoxic(vessels, oxygen)
    voxel = subject.anatomy.grid.voxel_ml
    inside = oxygen.po2[living] if bool(living.any()) else torch.full((1,), float("nan"))
    found = {
        "gtv_ml": float(tumour.sum()) * voxel,
        "hypoxic_ml": float(hypoxic.sum()) * voxel,
        "hypoxic_fraction": float(hypoxic.sum()) / max(1.0, float(tumour.sum())),
        "necrotic_ml": float((tumour & ~living).sum()) * voxel,
        "median_po2_mmhg": float(inside.median()),
    }
    nodes = oxygen.nodes[:, living]
    found |= {f"share_below_{mmhg:g}_mmhg": float((nodes < mmhg).float().mean()) for mmhg in (2.5, 5.0, 10.0)}
    return {name: round(value, 5) for name, value in found.items()}
