"""What is imaged of a patient on one day: PET, MRI and CT as their scanners give them, and the masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.geometry import Grid
from hypoxnet.phantom.anatomy import ct_hu
from hypoxnet.phantom.fields import averaged
from hypoxnet.phantom.mri.acquire import acquire_mr, mr_session
from hypoxnet.phantom.mri.maps import fitted_maps
from hypoxnet.phantom.mri.properties import MrProperties, mr_properties, vessel_pressure_under_oxygen
from hypoxnet.phantom.mri.sequences import raw_series, series_needed
from hypoxnet.phantom.parameters.cohort import MR_MAPS, PET_CHANNEL, Visit
from hypoxnet.phantom.parameters.tracer import TRACERS
from hypoxnet.phantom.pet import acquire_pet, for_tracer, pet_grid
from hypoxnet.phantom.subject import Subject
from hypoxnet.phantom.tracer import Kinetics, kinetics, late_suv, patient_tracer, static_frame
from hypoxnet.phantom.words import ImagedVisit, Oxygenation, RawSeries, Vasculature
from hypoxnet.quantities import RAW_SERIES

WEIGHTED = ("T1W", "T2W")
# The cycle of acute hypoxia stands at another place on every day; its period is of minutes.
A_DAY_MIN = 1440.0


@dataclass(frozen=True, slots=True)
class DayTruth:
    """What a visit was made of.

    Args:
        vessels: Of that day.
        oxygen: Average over the cycle.
        kinetics: Of the hypoxia tracer.
        properties: As MRI sees tissue; None without MRI.
        misregistration_mm: How far the patient lay in the MR scanner from where the header says, RAS+.
        registration_mm: How far the visit lies from the first one after registration, RAS+.
    """

    vessels: Vasculature
    oxygen: Oxygenation
    kinetics: Kinetics | None = None
    properties: MrProperties | None = None
    misregistration_mm: tuple[float, ...] = ()
    registration_mm: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Imaged:
    """Images of a day and their truth."""

    visit: ImagedVisit
    truth: DayTruth
    absent: tuple[str, ...] = field(default=())


def absent_images(subject: Subject) -> frozenset[str]:
    """What was not measured of this patient, on any visit."""
    chosen, generator = subject.chosen, subject.streams("absent")
    no_mr, no_fdg = generator.random() < chosen.without_mr, generator.random() < chosen.without_fdg
    absent = {"FDG_SUV"} if no_fdg else set()
    for name in MR_MAPS:
        if generator.random() < chosen.without_map:
            absent.add(name)
    return frozenset(absent | ({*MR_MAPS, *WEIGHTED} if no_mr else set()))


def image_visit(subject: Subject, visit: Visit, oxygen: Oxygenation | None = None) -> Imaged:
    """Image a patient on one day.

    Args:
        subject: The patient.
        visit: The day.
        oxygen: Of that day, where it is known already.
    """
    vessels = subject.vessels_at(visit)
    oxygen = oxygen or subject.oxygen_of(vessels)
    absent = absent_images(subject)
    wanted = [name for name in subject.chosen.images if name not in absent]
    grid = pet_grid(subject.anatomy.grid, subject.hospital.pet, subject.streams(f"pet.place.{visit.name}"))
    images, truth = _pet(subject, visit, wanted, DayTruth(vessels, oxygen), grid)
    if "CT_HU" in wanted:
        hounsfield = ct_hu(subject.anatomy, subject.streams(f"ct.{visit.name}"))
        images["CT_HU"] = (hounsfield, subject.anatomy.grid)
    raw: dict[str, tuple[RawSeries, Grid]] = {}
    if any(name in wanted for name in (*MR_MAPS, *WEIGHTED)):
        mr, raw, truth = _mr(subject, visit, wanted, truth)
        images |= mr
    imaged = ImagedVisit(visit.name, images, _masks(subject, truth, grid), raw)
    if visit.name != "baseline" and subject.chosen.noise:
        moved = subject.chosen.registration_mm * subject.streams(f"registration.{visit.name}").standard_normal(3)
        imaged = _displaced(imaged, moved)
        truth = replace(truth, registration_mm=tuple(round(float(mm), 4) for mm in moved))
    return Imaged(imaged, truth, tuple(sorted(absent)))


def _displaced(visit: ImagedVisit, moved_mm: NDArray[np.float64]) -> ImagedVisit:
    """The visit where an imperfect registration to the first one puts it."""

    def there(grid: Grid) -> Grid:
        affine = grid.matrix
        affine[:3, 3] += moved_mm
        return Grid.from_affine(grid.shape, affine)

    return ImagedVisit(
        visit.name,
        {name: (values, there(grid)) for name, (values, grid) in visit.images.items()},
        {name: (mask, there(grid)) for name, (mask, grid) in visit.masks.items()},
        {name: (series, there(grid)) for name, (series, grid) in visit.raw.items()},
    )


def _pet(
    subject: Subject, visit: Visit, wanted: list[str], truth: DayTruth, grid: Grid
) -> tuple[dict[str, tuple[Tensor, Grid]], DayTruth]:
    images: dict[str, tuple[Tensor, Grid]] = {}
    for channel, name in ((PET_CHANNEL, subject.hospital.tracer), ("FDG_SUV", "FDG")):
        if channel not in wanted:
            continue
        # Traits of the patient and his tumour stay the same from visit to visit.
        tracer = patient_tracer(TRACERS[name], subject.streams(f"{name}.blood"))
        rates = kinetics(truth.oxygen, truth.vessels, subject.anatomy, tracer, subject.streams(f"{name}.tumour"))
        scanner = for_tracer(subject.hospital.pet, tracer)
        noise = subject.streams(f"{name}.noise.{visit.name}") if subject.chosen.noise else None
        image = acquire_pet(late_suv(rates, tracer), subject.anatomy.grid, scanner, grid, noise, static_frame(tracer))
        images[f"{name}_SUV"] = (image, grid)
        if channel == PET_CHANNEL:
            truth = replace(truth, kinetics=rates)
    return images, truth


def _mr(
    subject: Subject, visit: Visit, wanted: list[str], truth: DayTruth
) -> tuple[dict[str, tuple[Tensor, Grid]], dict[str, tuple[RawSeries, Grid]], DayTruth]:
    chosen = subject.chosen
    minutes = A_DAY_MIN * float(subject.streams(f"mr.time.{visit.name}").random())
    tissue = replace(chosen.tissue, field_t=subject.hospital.mr.field_t)
    air = subject.oxygen_of(truth.vessels, minutes=minutes)
    raised = subject.patient.oxygen_factor * vessel_pressure_under_oxygen(truth.vessels.flow, tissue)
    breathing = subject.oxygen_of(truth.vessels, minutes=minutes, vessel_mmhg=raised) if needs_gas(wanted) else air
    properties = mr_properties(subject.anatomy, truth.vessels, air, breathing, tissue, subject.streams("mr.tissue"))
    scanner = subject.hospital.mr if chosen.noise else subject.hospital.mr.without_imperfections()
    session = mr_session(subject.anatomy, scanner, subject.streams(f"mr.session.{visit.name}"))
    signals: dict[str, RawSeries] = {}
    for series in raw_series(properties, chosen.protocol, series_needed(wanted), session):
        noise = subject.streams(f"{series.name}.{visit.name}") if chosen.noise else None
        signals[series.name] = acquire_mr(series, session, noise)
    inside = averaged(subject.anatomy.body, subject.anatomy.grid, session.grid) > 0.5
    found = fitted_maps(signals, [name for name in wanted if name in MR_MAPS], inside)
    images = {name: (values, session.grid) for name, values in found.items()}
    images |= {name: (signals[name].signal[0], session.grid) for name in WEIGHTED if name in wanted}
    raw = {name: (series, session.grid) for name, series in signals.items() if name in RAW_SERIES}
    shift = tuple(round(float(mm), 4) for mm in session.misregistration_mm)
    return images, raw if chosen.raw else {}, replace(truth, properties=properties, misregistration_mm=shift)


def needs_gas(wanted: list[str]) -> bool:
    """True when a series is taken under oxygen."""
    return any(name in wanted for name in ("DR1", "DT1", "DR2STAR"))


def _masks(subject: Subject, truth: DayTruth, grid: Grid) -> Mapping[str, tuple[Tensor, Grid]]:
    """Contours on the voxels of PET: a voxel belongs where at least half of it does."""
    anatomy = subject.anatomy
    fine = {
        "GTVP": anatomy.primary,
        "GTVN": anatomy.nodes > 0,
        "HYPOXIA": subject.is_hypoxic(truth.vessels, truth.oxygen),
        "MUSCLE": anatomy.muscle_reference,
        "BLOOD": anatomy.blood_reference,
    }
    masks = {name: averaged(mask, anatomy.grid, grid) >= 0.5 for name, mask in fine.items()}
    tumour = masks["GTVP"] | masks["GTVN"]
    masks["HYPOXIA"] &= tumour
    if not bool(anatomy.nodes.any()):
        del masks["GTVN"]  # nobody contours a node that is not there
    return {name: (mask, grid) for name, mask in masks.items()}


def reference_ratio(image: Tensor, muscle: Tensor) -> Tensor:
    """Ratio to the median of muscle."""
    return image / torch.from_numpy(np.asarray(np.median(image[muscle].numpy()))).to(image)
