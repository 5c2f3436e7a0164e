"""Parameters of the digital reference object: every number with its unit and its source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from hypoxnet.errors import ConfigError

# Raise it when the same parameters would give another cohort.
VERSION = 1

# Below this partial pressure tissue counts as hypoxic, mmHg.
HYPOXIC_MMHG = 10.0


def _positive(parameters: object, *names: str) -> None:
    for name in names:
        value = getattr(parameters, name)
        if not value > 0:
            raise ConfigError(f"{name}={value} of the phantom must be positive")


@dataclass(frozen=True, slots=True)
class Oxygen:
    """Supply and consumption of oxygen.

    Args:
        diffusion_um2_per_s: Diffusion coefficient of O2. Literature of in-silico models: 2000 um2/s.
        consumption_mmhg_per_s: Largest consumption. Likewise: 15 mmHg/s.
        half_consumption_mmhg: pO2 of half the largest consumption (Michaelis constant), 1 to 2.5 mmHg.
        vessel_mmhg: pO2 of the vessels, 40 mmHg.
        vessel_radius_um: Radius of a capillary, 5 um.
        tissue_radius_um: Median over patients of half the distance between vessels in the tumour.
        tissue_radius_spread: Standard deviation between patients, of the logarithm.
        tissue_radius_texture: Standard deviation inside a tumour, of the logarithm.
        core_growth: Logarithm by which the distance grows from the rim to 15 mm depth.
        texture_mm: Correlation length of the vessels inside a tumour.
        necrosis_um: Half distance between vessels beyond which tissue is necrotic.
        normal_radius_um: Half distance between vessels in muscle.
    """

    diffusion_um2_per_s: float = 2000.0
    consumption_mmhg_per_s: float = 15.0
    half_consumption_mmhg: float = 2.0
    vessel_mmhg: float = 40.0
    vessel_radius_um: float = 5.0
    tissue_radius_um: float = 58.0
    tissue_radius_spread: float = 0.22
    tissue_radius_texture: float = 0.28
    core_growth: float = 0.35
    texture_mm: float = 6.0
    necrosis_um: float = 125.0
    normal_radius_um: float = 30.0

    def __post_init__(self) -> None:
        _positive(
            self,
            "diffusion_um2_per_s",
            "consumption_mmhg_per_s",
            "half_consumption_mmhg",
            "vessel_mmhg",
            "vessel_radius_um",
            "tissue_radius_um",
            "normal_radius_um",
            "texture_mm",
            "necrosis_um",
        )
        if min(self.tissue_radius_um, self.normal_radius_um) <= 3 * self.vessel_radius_um:
            raise ConfigError(
                f"tissue_radius_um={self.tissue_radius_um} and normal_radius_um={self.normal_radius_um} must exceed "
                f"three times vessel_radius_um={self.vessel_radius_um}; nearer vessels leave no tissue between them"
            )


@dataclass(frozen=True, slots=True)
class Tracer:
    """Late uptake of FMISO relative to muscle.

    Args:
        half_binding_mmhg: Local pO2 of half the largest binding, 1.4 mmHg (0.3-2.6). Warren and Partridge 2016.
        half_viability_mmhg: Local pO2 of half viability, 1.2 mmHg (0.1-4.9). Likewise.
        binding: Ratio that complete binding would add; sets TBRmax to 1.1-2.9 as in Mortensen 2012 and Rajendran 2006.
        free_ratio: Ratio of tissue without binding.
        free_spread: Standard deviation of that ratio between patients.
        perfusion_share: Logarithmic dependence of the free ratio on vessel density (delivery).
        muscle_suv: Mean uptake of muscle, g/ml.
        muscle_spread: Standard deviation between patients, g/ml.
    """

    half_binding_mmhg: float = 1.4
    half_viability_mmhg: float = 1.2
    binding: float = 5.0
    free_ratio: float = 1.0
    free_spread: float = 0.14
    perfusion_share: float = 0.18
    muscle_suv: float = 1.2
    muscle_spread: float = 0.2

    def __post_init__(self) -> None:
        _positive(self, "half_binding_mmhg", "half_viability_mmhg", "binding", "free_ratio", "muscle_suv")


@dataclass(frozen=True, slots=True)
class Scanner:
    """One hospital's PET and MR.

    Args:
        name: Of the hospital.
        psf_mm: Full width at half maximum of PET, 5 to 7 mm.
        pet_noise: Standard deviation at SUV 1, g/ml.
        mr_noise: Standard deviation relative to the mean signal.
        bias: Log-amplitude of the bias field of weighted MR.
    """

    name: str
    psf_mm: float
    pet_noise: float
    mr_noise: float
    bias: float

    def __post_init__(self) -> None:
        _positive(self, "psf_mm", "pet_noise", "mr_noise")


@dataclass(frozen=True, slots=True)
class Treatment:
    """Radiotherapy and what follows it.

    Args:
        dose_gy: Total dose.
        fractions: Number of fractions.
        alpha_per_gy: Linear radiosensitivity, 0.25 to 0.35 /Gy.
        alpha_spread: Standard deviation between patients, /Gy.
        hpv_alpha: Factor on alpha in HPV-positive tumours.
        alpha_beta_gy: 10 Gy.
        clonogens_per_ml: 1e5 to 1e8.
        oer: Largest oxygen enhancement, m = 3.
        oer_half_mmhg: pO2 of half the effect, K = 3 mmHg.
        reoxygenation: Share of the missing oxygen that returns during treatment, mean over patients.
        reoxygenation_spread: Standard deviation of that share between patients.
        failure_months: Median time of a failure.
        death_per_year: Hazard of death without failure at 60 years.
        loss_per_year: Hazard of loss to follow-up.
        follow_up_months: Administrative censoring is uniform between these.
    """

    dose_gy: float = 70.0
    fractions: int = 35
    alpha_per_gy: float = 0.275
    alpha_spread: float = 0.008
    hpv_alpha: float = 1.08
    alpha_beta_gy: float = 10.0
    clonogens_per_ml: float = 1e7
    oer: float = 3.0
    oer_half_mmhg: float = 3.0
    reoxygenation: float = 0.2
    reoxygenation_spread: float = 0.08
    failure_months: float = 10.0
    death_per_year: float = 0.05
    loss_per_year: float = 0.03
    follow_up_months: tuple[float, float] = (30.0, 84.0)

    def __post_init__(self) -> None:
        _positive(self, "dose_gy", "fractions", "alpha_per_gy", "alpha_beta_gy", "clonogens_per_ml", "oer_half_mmhg")


@dataclass(frozen=True, slots=True)
class Preset:
    """A whole cohort.

    Args:
        name: Of the preset.
        cases: Number of patients.
        seed: Case n is drawn from (seed, n) alone.
        extent_mm: Side of the cube that is imaged.
        fine_mm: Voxel of the object itself.
        pet_mm: Voxel of PET and of the masks.
        mr_mm: Voxel of MR along i, j, k.
        median_gtv_ml: Median tumour volume.
        gtv_spread: Standard deviation of its logarithm.
        without_mr: Share of patients without any MR.
        without_ktrans: Share of the others without a Ktrans map.
        missing_covariate: Share of covariates that are missing.
    """

    name: str
    cases: int
    seed: int = 2026
    extent_mm: float = 96.0
    fine_mm: float = 2.0
    pet_mm: float = 3.0
    mr_mm: tuple[float, float, float] = (2.0, 2.0, 3.0)
    median_gtv_ml: float = 17.0
    gtv_spread: float = 0.65
    without_mr: float = 0.1
    without_ktrans: float = 0.15
    missing_covariate: float = 0.08
    oxygen: Oxygen = field(default_factory=Oxygen)
    tracer: Tracer = field(default_factory=Tracer)
    treatment: Treatment = field(default_factory=Treatment)
    hospitals: tuple[Scanner, ...] = (
        Scanner("north", psf_mm=6.0, pet_noise=0.10, mr_noise=0.05, bias=0.15),
        Scanner("south", psf_mm=5.0, pet_noise=0.13, mr_noise=0.06, bias=0.25),
        Scanner("coast", psf_mm=7.0, pet_noise=0.08, mr_noise=0.08, bias=0.20),
    )

    def __post_init__(self) -> None:
        _positive(self, "cases", "extent_mm", "fine_mm", "pet_mm", "median_gtv_ml")
        widest = max(hospital.psf_mm for hospital in self.hospitals)
        if widest > self.extent_mm / 4:
            raise ConfigError(f"psf_mm={widest} is too wide for a field of view of extent_mm={self.extent_mm}")

    def digest(self) -> str:
        """A name that changes with any parameter."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]


PRESETS: dict[str, Preset] = {
    "demo": Preset("demo", cases=480),
    "test": Preset("test", cases=12, extent_mm=72.0, fine_mm=3.0, median_gtv_ml=9.0, gtv_spread=0.4),
}


def preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"phantom preset {name!r} is not known; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
