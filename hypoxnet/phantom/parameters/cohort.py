"""Parameters of a cohort: hospitals, visits, channels, and the parameters of every link."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.anatomy import Neck
from hypoxnet.phantom.parameters.base import check, digest, number
from hypoxnet.phantom.parameters.mri import MrProtocol, MrScanner, MrTissue
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels
from hypoxnet.phantom.parameters.patients import Population
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import TRACERS
from hypoxnet.phantom.parameters.treatment import FollowUp, Treatment
from hypoxnet.quantities import QUANTITIES, suggestion

# Raise it when the same parameters would give another cohort.
VERSION = 4

# A PET wider than this share of the field of view would show its edges everywhere.
WIDEST_PSF = 0.25

PET_CHANNEL = "HYPOXIA_PET"
MR_MAPS = ("R2STAR", "DR2STAR", "T1", "R1", "DR1", "DT1", "KTRANS", "VE", "VP", "ADC", "IVIM_D", "IVIM_F")
IMAGES = (PET_CHANNEL, "FDG_SUV", "CT_HU", "T1W", "T2W", *MR_MAPS)


@dataclass(frozen=True, slots=True)
class Visit:
    """A day on which a patient is imaged.

    Args:
        name: In the manifest.
        another_day: Biology of another day than the baseline's, without treatment.
    """

    name: str
    week: float = number(0.0, "weeks", "since the first fraction", "chosen: weeks 0, 2 and 5 (Wiedenmann 2015)", low=0)
    another_day: bool = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Hospital:
    """A hospital: its scanners, its tracer and its patients.

    Args:
        name: Site in the manifest.
        tracer: Of its hypoxia PET.
        pet: Its PET scanner.
        mr: Its MR scanner.
        population: Its case-mix.
    """

    name: str
    tracer: str = "FMISO"
    share: float = number(1.0, "1", "patients, relative to the other hospitals", "chosen", above=0)
    pet: PetScanner = field(default_factory=PetScanner)
    mr: MrScanner = field(default_factory=MrScanner)
    population: Population = field(default_factory=Population)

    def __post_init__(self) -> None:
        check(self)
        if self.tracer not in TRACERS or self.tracer == "FDG":
            known = [name for name in TRACERS if name != "FDG"]
            raise ConfigError(
                f"tracer {self.tracer!r} of hospital {self.name} is no hypoxia tracer of the phantom; choose one of "
                f"{', '.join(known)}"
            )


@dataclass(frozen=True, slots=True)
class Preset:
    """A whole cohort.

    Args:
        name: Of the preset.
        cases: Number of patients.
        seed: Case n is drawn from (seed, n) alone.
        hospitals: Patients come from one of them.
        visits: Of every patient.
        images: Channels; `HYPOXIA_PET` is that of the hospital's tracer.
        raw: Write the raw MR series as well.
        noise: False for scanners without noise, motion and bias.
        truth_maps: Maps of the truth on the object's grid, beside `po2`.
        randomised: Half of the patients are boosted to `treatment.boost_gy` in the hypoxic volume of their PET: `arm` 1
            of the manifest.
        open_kbp: Folders of real planning CTs in the place of the synthetic neck.
    """

    name: str
    cases: int
    seed: int = 2026
    hospitals: tuple[Hospital, ...] = (Hospital("north"),)
    visits: tuple[Visit, ...] = (Visit("baseline"),)
    images: tuple[str, ...] = (PET_CHANNEL, "T1W", "R2STAR", "KTRANS")
    raw: bool = False
    noise: bool = True
    truth_maps: bool = False
    randomised: bool = False
    open_kbp: tuple[str, ...] = ()
    extent_mm: float = number(96.0, "mm", "side of the cube that is imaged", "chosen", low=70, high=200)
    fine_mm: float = number(3.0, "mm", "voxel of the object", "chosen: below the scanners' resolution", above=0, high=6)
    without_mr: float = number(0.1, "1", "share of patients without any MR", "chosen", low=0, high=1)
    without_map: float = number(0.1, "1", "share of MR maps that are absent", "chosen", low=0, high=1)
    without_fdg: float = number(0.2, "1", "share of patients without FDG PET", "chosen", low=0, high=1)
    missing_covariate: float = number(0.08, "1", "share of covariates that are not known", "chosen", low=0, high=1)
    boost_ratio: float = number(
        1.4, "1", "ratio to muscle from which a voxel of the PET is boosted", "Mortensen 2012: FAZA, 1.4", above=0
    )
    registration_mm: float = number(
        1.5,
        "mm",
        "SD along each axis of what is left between a later visit and the first after registration",
        "chosen: an error of 2.6 mm, about a voxel of PET",
        low=0,
        high=20,
    )
    response_weeks: float = number(
        2.5,
        "weeks",
        "time constant with which oxygen returns during treatment",
        "chosen: TBRmax 1.94, 1.57, 1.27 in weeks 0, 2, 5 (Wiedenmann 2015)",
        above=0,
    )
    neck: Neck = field(default_factory=Neck)
    vessels: Vessels = field(default_factory=Vessels)
    oxygen: Oxygen = field(default_factory=Oxygen)
    tissue: MrTissue = field(default_factory=MrTissue)
    protocol: MrProtocol = field(default_factory=MrProtocol)
    treatment: Treatment = field(default_factory=Treatment)
    follow_up: FollowUp = field(default_factory=FollowUp)

    def __post_init__(self) -> None:
        check(self)
        if self.cases < 1 or self.seed < 0:
            raise ConfigError(f"cases={self.cases} must be at least 1 and seed={self.seed} not negative")
        if not self.hospitals or not self.visits or self.visits[0].name != "baseline":
            raise ConfigError(f"preset {self.name} needs a hospital and a first visit named baseline")
        for name in self.images:
            if name not in IMAGES:
                raise ConfigError(f"image {name} is not made by the phantom{suggestion(name, IMAGES)}")
        for hospital in self.hospitals:
            if hospital.pet.psf_mm > WIDEST_PSF * self.extent_mm:
                raise ConfigError(
                    f"psf_mm={hospital.pet.psf_mm:g} of hospital {hospital.name} is wider than a quarter of "
                    f"extent_mm={self.extent_mm:g}; narrow it or image a larger cube"
                )
        self._check_chain()

    def _check_chain(self) -> None:
        if self.fine_mm > self.extent_mm / 8:
            raise ConfigError(f"fine_mm={self.fine_mm:g} leaves fewer than 8 voxels of extent_mm={self.extent_mm:g}")
        if abs(self.tissue.vessel_air_mmhg - self.oxygen.vessel_mmhg) > 1e-6:
            raise ConfigError(
                f"vessel_air_mmhg={self.tissue.vessel_air_mmhg:g} of MrTissue and vessel_mmhg="
                f"{self.oxygen.vessel_mmhg:g} of Oxygen are one pressure; give both the same"
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """Image columns of the manifest, in the order of the table of quantities."""
        tracers = {f"{hospital.tracer}_SUV" for hospital in self.hospitals}
        wanted = {name for name in self.images if name != PET_CHANNEL}
        return tuple(name for name in QUANTITIES if name in wanted | (tracers if PET_CHANNEL in self.images else set()))

    def digest(self) -> str:
        """A name that changes with any parameter."""
        return digest(self)
