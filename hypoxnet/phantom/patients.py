"""Who the patient is before anything is imaged, and the stage once the tumour is known.

Every patient takes the same count of random numbers, each with one use: another case-mix changes what a number means,
not which number a patient gets.

Source:
    The associations and their sources are in `hypoxnet.phantom.parameters.patients`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaincinv, expit, logit, ndtr, ndtri

from hypoxnet.phantom.parameters.patients import Population, Site, Staging

REFERENCE_AGE = 63.0
# Below this haemoglobin, g/dl, the limit of anaemia in men, the vessels carry less.
ENOUGH_HB_G_DL = 13.0
# A millilitre of tumour holds about as many cells.
MOST_CELLS_PER_ML = 1e9
AJCC7 = Staging()


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient.

    Args:
        age: Years.
        sex: 0 female, 1 male.
        hpv: 0 negative, 1 positive.
        subsite: Place of the primary.
        smoking_pack_years: Tobacco, pack-years.
        hb_g_dl: Haemoglobin, g/dl.
        ecog: Performance status, 0 to 2.
        chemo: 1 with chemotherapy.
        til: Share of the tumour that lymphocytes infiltrate, %.
        pd_l1_cps: Combined positive score, 0 to 100.
        alpha_per_gy: Radiosensitivity in full oxygen, chemotherapy included. Hidden.
        clonogens_per_ml: Clonogens in living tumour. Hidden.
        reoxygenation: Share of the missing oxygen that returns during treatment, 0 to 1. Hidden.
        oxygen_factor: Pressure of the vessels relative to that of a healthy non-smoker. Hidden.
        t_stage: T category, 1 to 4; None until the tumour is known.
        n_stage: N category, 0 to 3; None until the tumour is known.
    """

    age: float
    sex: int
    hpv: int
    subsite: str
    smoking_pack_years: float
    hb_g_dl: float
    ecog: int
    chemo: int
    til: float
    pd_l1_cps: float
    alpha_per_gy: float
    clonogens_per_ml: float
    reoxygenation: float
    oxygen_factor: float
    t_stage: int | None = None
    n_stage: int | None = None

    def staged(self, t_stage: int, n_stage: int) -> Patient:
        """The same patient with a stage."""
        return replace(self, t_stage=t_stage, n_stage=n_stage)

    def covariates(self) -> dict[str, float]:
        """What a clinic would know, by the names of `hypoxnet.quantities.COVARIATES`."""
        known = {
            "age": self.age,
            "sex": self.sex,
            "hpv": self.hpv,
            "t_stage": self.t_stage,
            "n_stage": self.n_stage,
            "subsite_oropharynx": self.subsite == "oropharynx",
            "smoking_pack_years": self.smoking_pack_years,
            "hb_g_dl": self.hb_g_dl,
            "ecog": self.ecog,
            "chemo": self.chemo,
            "til": self.til,
            "pd_l1_cps": self.pd_l1_cps,
        }
        return {name: float(value) for name, value in known.items() if value is not None}


def draw_patient(population: Population, generator: np.random.Generator) -> Patient:
    """A patient of a population.

    Args:
        population: Case-mix and what differs between patients.
        generator: Source of randomness; 8 uniform and 8 normal numbers are taken.

    Returns:
        The patient, without a stage.

    Example:
        >>> patient = draw_patient(Population(), np.random.default_rng(1))
        >>> patient.subsite, patient.t_stage
        ('oropharynx', None)
    """
    u, z = generator.random(8), generator.standard_normal(8)
    site = _site(population.sites, u[0])
    hpv = int(u[1] < site.hpv_share)
    age = float(np.clip(site.age_years + population.age_spread_years * z[0], 18.0, 92.0))
    sex = int(u[2] < population.male_share)
    pack_years = _pack_years(population, hpv, u[3])
    hb = float(np.clip(population.hb_g_dl[sex] + population.hb_spread_g_dl * z[1], 7.0, 18.5))
    chemo = int(u[4] < _shifted(population.chemo_share, population.chemo_per_age_year * (age - REFERENCE_AGE)))
    til, cps = _immune(population, hpv, z[3], z[4])
    return Patient(
        age=round(age, 1),
        sex=sex,
        hpv=hpv,
        subsite=site.name,
        smoking_pack_years=round(pack_years, 1),
        hb_g_dl=round(hb, 1),
        ecog=_ecog(population, age, z[2]),
        chemo=chemo,
        til=round(til, 1),
        pd_l1_cps=round(cps, 1),
        alpha_per_gy=_alpha(population, hpv, chemo, z[5]),
        clonogens_per_ml=_clonogens(population, til, z[6]),
        reoxygenation=_reoxygenation(population, u[5]),
        oxygen_factor=_oxygen_factor(population, hb, pack_years),
    )


def _site(sites: Sequence[Site], uniform: float) -> Site:
    edges = np.cumsum([site.share for site in sites])
    return sites[int(np.searchsorted(edges / edges[-1], uniform, side="right").clip(0, len(sites) - 1))]


def _shifted(share: float, log_odds: float) -> float:
    """A share with its odds multiplied."""
    return float(expit(logit(share) + log_odds))


def _pack_years(population: Population, hpv: int, uniform: float) -> float:
    """Pack-years: 0 or log-normal, so placed that the median over all patients is the parameter."""
    never, spread = population.never_smoked_share[hpv], population.pack_years_spread
    if uniform < never:
        return 0.0
    middle = float(ndtri((0.5 - never) / (1.0 - never)))
    here = float(ndtri((uniform - never) / (1.0 - never)))
    return min(200.0, population.pack_years[hpv] * math.exp(spread * (here - middle)))


def _ecog(population: Population, age: float, score: float) -> int:
    edges = ndtri(np.clip(np.cumsum(population.ecog_shares)[:2], 1e-9, 1.0 - 1e-9))
    return int(np.searchsorted(edges, score + population.ecog_per_age_year * (age - REFERENCE_AGE)))


def _immune(population: Population, hpv: int, first: float, second: float) -> tuple[float, float]:
    """Lymphocytes (%) and the PD-L1 score, correlated by their normal scores."""
    shapes = population.til_positive if hpv else population.til_negative
    til = 100.0 * float(betaincinv(*shapes, ndtr(first)))
    together = population.til_cps_correlation
    score = together * first + math.sqrt(1.0 - together**2) * second
    return til, min(100.0, math.exp(population.cps_log_median + population.cps_spread * score))


def _alpha(population: Population, hpv: int, chemo: int, score: float) -> float:
    """Radiosensitivity, cut at a third of the mean: a resistant tumour, not one that grows under radiation."""
    alpha = max(population.alpha_per_gy + population.alpha_spread_per_gy * float(score), population.alpha_per_gy / 3.0)
    return alpha * population.alpha_hpv_ratio**hpv * population.alpha_chemo_ratio**chemo


def _clonogens(population: Population, til: float, score: float) -> float:
    # Centred at half infiltration, so that `clonogens_per_ml` stays the median.
    shift = population.til_log10_clonogens * (til / 100.0 - 0.5) + population.clonogens_log10_spread * score
    return min(MOST_CELLS_PER_ML, float(population.clonogens_per_ml * 10.0**shift))


def _reoxygenation(population: Population, uniform: float) -> float:
    mean, total = population.reoxygenation, population.reoxygenation_concentration
    return float(betaincinv(total * mean, total * (1.0 - mean), uniform))


def _oxygen_factor(population: Population, hb_g_dl: float, pack_years: float) -> float:
    lost = population.oxygen_per_g_dl * max(0.0, ENOUGH_HB_G_DL - hb_g_dl)
    return max(population.oxygen_least, 1.0 - lost - population.oxygen_per_pack_year * pack_years)


def stage(
    primary_ml: float, nodes_ml: Sequence[float], generator: np.random.Generator, *, staging: Staging = AJCC7
) -> tuple[int, int]:
    """T and N category of a tumour.

    T follows the diameter that a reader would write down, N the number and the largest diameter of the involved nodes;
    a large primary may invade and be T4. Sides of the neck are not told apart.

    Args:
        primary_ml: Volume of the primary, ml.
        nodes_ml: Volume of each involved node, ml.
        generator: Source of randomness; 2 numbers, and one per node, are taken.
        staging: Edges and their scatter.

    Returns:
        T, 1 to 4, and N, 0 to 3.

    Source:
        AJCC, 7th edition, oropharynx, without HPV.

    Example:
        >>> exact = Staging(elongation=1.0, diameter_spread=0.0, invasion_mm=500.0)
        >>> stage(14.0, [4.0, 2.0], np.random.default_rng(0), staging=exact)
        (2, 2)
    """
    uniform, scores = generator.random(), generator.standard_normal(1 + len(nodes_ml))
    primary_mm, *nodes_mm = [
        staging.elongation * sphere_mm(ml) * math.exp(staging.diameter_spread * float(score))
        for ml, score in zip((primary_ml, *nodes_ml), scores, strict=True)
    ]
    invades = uniform < expit((primary_mm - staging.invasion_mm) / staging.invasion_spread_mm)
    t_stage = 4 if invades else 1 + int(np.searchsorted(staging.t_edges_mm, primary_mm))
    if not nodes_mm:
        return t_stage, 0
    n_stage = 1 + int(np.searchsorted(staging.n_edges_mm, max(nodes_mm)))
    return t_stage, max(n_stage, 2) if len(nodes_mm) > 1 else n_stage


def sphere_mm(volume_ml: float) -> float:
    """Diameter of the sphere of a volume, mm.

    Example:
        >>> round(sphere_mm(4.18879), 3)
        20.0
    """
    return math.cbrt(6.0 * volume_ml * 1000.0 / math.pi)
