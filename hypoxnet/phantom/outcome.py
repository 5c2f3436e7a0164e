"""From the oxygen of a tumour to what happens to the patient.

Source:
    Linear-quadratic model with an oxygen modification factor: Wouters and Brown 1997, Radiat Res 147:541.
    Poisson tumour control probability: Webb and Nahum 1993, Phys Med Biol 38:653.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hypoxnet.cases import CENSORED, DEATH, FAILURE, Outcome
from hypoxnet.phantom.fields import FloatArray
from hypoxnet.phantom.presets import Treatment

MONTHS_PER_YEAR = 12.0


@dataclass(frozen=True, slots=True)
class Covariates:
    """A patient's clinical data.

    Args:
        age: Years.
        hpv: 1 when positive.
        t_stage: 1 to 4.
        smoking_pack_years: Pack-years.
    """

    age: float
    hpv: float
    t_stage: float
    smoking_pack_years: float


def draw_covariates(gtv_ml: float, generator: np.random.Generator) -> Covariates:
    """Clinical data of a patient; the T category follows the tumour's size, smoking the HPV status."""
    hpv = float(generator.random() < 0.45)
    t_stage = 1 + np.searchsorted([6.0, 15.0, 32.0], gtv_ml * np.exp(0.35 * generator.standard_normal()))
    pack_years = generator.gamma(1.2, 12.0) if hpv else generator.gamma(2.0, 18.0)
    return Covariates(
        age=round(float(np.clip(generator.normal(62.0, 9.0), 30, 90)), 1),
        hpv=hpv,
        t_stage=float(t_stage),
        smoking_pack_years=round(float(min(pack_years, 200.0)), 1),
    )


def oxygen_modification(po2: FloatArray, treatment: Treatment) -> FloatArray:
    """Dose-modifying factor, 1 in full oxygen and 1/m in anoxia.

    Example:
        >>> round(float(oxygen_modification(np.array(2.5), Treatment())), 5)
        0.63636
    """
    m, half = treatment.oer, treatment.oer_half_mmhg
    return np.asarray((m * po2 + half) / (po2 + half) / m)


def log_survival(po2: FloatArray, alpha_per_gy: float, treatment: Treatment) -> FloatArray:
    """Natural logarithm of the surviving fraction of clonogens after the whole treatment.

    Example:
        >>> round(float(log_survival(np.array(1e9), 0.3, Treatment())), 1)
        -25.2
    """
    per_fraction = treatment.dose_gy / treatment.fractions
    beta = alpha_per_gy / treatment.alpha_beta_gy
    factor = oxygen_modification(po2, treatment)
    return np.asarray(
        -treatment.fractions * (alpha_per_gy * factor * per_fraction + beta * factor**2 * per_fraction**2)
    )


def surviving_clonogens(
    po2: FloatArray, living: FloatArray, *, alpha_per_gy: float, voxel_ml: float, treatment: Treatment
) -> float:
    """Expected number of clonogens that survive.

    Args:
        po2: pO2 of each voxel of the tumour during treatment, mmHg.
        living: Share of its cells that live, 0 to 1.
        alpha_per_gy: This patient's radiosensitivity.
        voxel_ml: Volume of a voxel.
        treatment: Dose and fractions.

    Returns:
        Expected number; the tumour control probability is exp(-number).
    """
    clonogens = treatment.clonogens_per_ml * voxel_ml * living
    return float((clonogens * np.exp(log_survival(po2, alpha_per_gy, treatment))).sum())


def reoxygenated(po2: FloatArray, share: float, vessel_mmhg: float) -> FloatArray:
    """pO2 during treatment: a share of what is missing below well-oxygenated tissue (half the vessels') returns."""
    return np.asarray(po2 + share * np.maximum(0.5 * vessel_mmhg - po2, 0.0))


def draw_outcome(
    control: float, covariates: Covariates, treatment: Treatment, generator: np.random.Generator
) -> Outcome:
    """What is observed: the first of failure, death and the end of follow-up.

    Args:
        control: Tumour control probability.
        covariates: Age and smoking carry the risk of death.
        treatment: Times and hazards.
        generator: Source of randomness.
    """
    failure = np.inf
    if generator.random() > control:
        failure = float(treatment.failure_months * np.exp(0.6 * generator.standard_normal()))
    risk = np.exp(0.05 * (covariates.age - 60.0) + 0.008 * (covariates.smoking_pack_years - 20.0))
    death = float(generator.exponential(MONTHS_PER_YEAR / (treatment.death_per_year * risk)))
    lost = float(generator.exponential(MONTHS_PER_YEAR / treatment.loss_per_year))
    end = min(lost, float(generator.uniform(*treatment.follow_up_months)))
    months = min(failure, death, end)
    event = FAILURE if months == failure else DEATH if months == death else CENSORED
    return Outcome(event, max(0.1, round(months, 1)))
