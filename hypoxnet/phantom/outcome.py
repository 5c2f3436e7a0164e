"""From surviving clonogens to what happens to the patient, and to what is seen of it.

Locoregional failure: the number of survivors in voxel v is Poisson with mean N_v. Draw E_v, standard exponential, for
every voxel of the tumour; voxel v holds a survivor when E_v < N_v. The patient fails if any does, which has the
probability 1 - exp(-sum N_v), and the failure begins where E_v / N_v is least, which is voxel v with the probability
N_v / sum N_v. As the E_v belong to the patient and not to the treatment, the same patient may be treated twice: where a
second treatment leaves no voxel with more survivors, it can only prevent a failure or put it off, and it prevents it
when it sterilises every voxel that held a survivor. Every other random number is likewise the patient's own.

The recurrence grows from its survivors to a size that is found: T_d log2(cells found / mean number of survivors), with
the doubling time T_d log-normal between patients. Distant metastasis is Weibull with proportional hazards. The hazard
of death is constant until a failure or metastasis adds to it. A distant metastasis does not end the watch for a
locoregional failure. The watch ends with death, with loss to follow-up, or when the study closes.

Left out: salvage, second primaries, metastasis out of a locoregional failure, ageing during follow-up.

Axis legend: D H W voxels of the object, V voxels of the tumour in the order of D H W.

Source:
    Poisson control: Webb and Nahum 1993, Phys Med Biol 38:653. The numbers: hypoxnet.phantom.parameters.treatment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.cases import CENSORED, DEATH, FAILURE, Outcome
from hypoxnet.errors import CaseError
from hypoxnet.phantom.parameters.treatment import FollowUp
from hypoxnet.phantom.patients import REFERENCE_AGE, Patient
from hypoxnet.phantom.treatment import control_probability
from hypoxnet.phantom.words import Anatomy, Oxygenation

MONTHS_PER_YEAR = 12.0
NEVER = math.inf
REFERENCE_ML, REFERENCE_N, REFERENCE_PACK_YEARS = 20.0, 1, 20.0


@dataclass(frozen=True, slots=True)
class Fate:
    """The random numbers of a patient, which no treatment changes.

    Args:
        voxel: V, float64, standard exponential: a voxel fails when it has more expected survivors than this.
        regrowth: Standard normal: doubling time of a recurrence.
        distant: Standard exponential: cumulative hazard at which metastases appear.
        death: Standard exponential: cumulative hazard at which the patient dies.
        lost: Standard exponential: cumulative hazard at which the patient is lost.
        closing: Uniform: when the study closes for the patient.
    """

    voxel: Tensor
    regrowth: float
    distant: float
    death: float
    lost: float
    closing: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a locoregional failure begins.

    Args:
        voxel: Index of the voxel.
        ras_mm: Its centre, RAS+ mm.
        node: 0 in the primary, else the number of the involved node.
        po2_mmhg: Mean pO2 of the voxel at each known time; empty where none was given.
    """

    voxel: tuple[int, int, int]
    ras_mm: tuple[float, float, float]
    node: int
    po2_mmhg: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrueOutcome:
    """What happened, known or not, and what was observed. Times are months from the first fraction.

    Args:
        control: Probability of locoregional control.
        survivors: Expected number of clonogens that survive.
        persistent: The tumour was hypoxic before treatment and at the second known time.
        origin: Where the locoregional failure begins; None when no clonogen survived.
        failure_months: When it would be found, if the patient lived and came; inf without.
        distant_months: When metastases would be found.
        death_months: Death.
        end_months: When the watch would end without death.
        lrc: 0 censored, 1 locoregional failure, 2 death without it.
        distant: 0 censored, 1 distant metastasis, 2 death without it.
        death: 0 censored, 1 death.
    """

    control: float
    survivors: float
    persistent: bool
    origin: Origin | None
    failure_months: float
    distant_months: float
    death_months: float
    end_months: float
    lrc: Outcome
    distant: Outcome
    death: Outcome

    def observed(self) -> dict[str, Any]:
        """The end points as columns of a table."""
        named = {"lrc": self.lrc, "dm": self.distant, "os": self.death}
        return {f"{n}_{what}": getattr(one, what) for n, one in named.items() for what in ("event", "months")}

    def truth(self) -> dict[str, Any]:
        """What nobody would know, as plain values."""
        hidden = (
            "control",
            "survivors",
            "persistent",
            "failure_months",
            "distant_months",
            "death_months",
            "end_months",
        )
        values: dict[str, Any] = {name: getattr(self, name) for name in hidden}
        if self.origin is not None:
            names = ("voxel", "ras_mm", "node", "po2_mmhg")
            values |= {f"origin_{name}": getattr(self.origin, name) for name in names}
        return values


def draw_fate(voxels: int, generator: np.random.Generator) -> Fate:
    """The random numbers of a patient whose tumour has so many voxels.

    The numbers of the patient are drawn before those of the voxels, so that the grid has no say in them.
    """
    distant, death, lost = generator.standard_exponential(3).tolist()
    closing, regrowth = float(generator.random()), float(generator.standard_normal())
    return Fate(torch.from_numpy(generator.standard_exponential(voxels)), regrowth, distant, death, lost, closing)


def draw_outcome(
    survivors: Tensor,
    anatomy: Anatomy,
    patient: Patient,
    follow_up: FollowUp,
    generator: np.random.Generator,
    *,
    oxygenations: Sequence[Oxygenation] = (),
) -> TrueOutcome:
    """What happens to a patient.

    For the same patient under another treatment, pass a generator in the same state and the other survivors.

    Args:
        survivors: D H W, expected number of surviving clonogens.
        anatomy: Object.
        patient: With a stage.
        follow_up: Times, hazards, and end of the watch.
        generator: Source of randomness; five numbers and one per voxel of the tumour are taken.
        oxygenations: Oxygen at the known times; the first two decide on persistent hypoxia. Empty: not persistent.

    Returns:
        What happened and what was observed.

    Raises:
        CaseError: The patient has no stage.
    """
    fate = draw_fate(int(anatomy.tumour.sum()), generator)
    return outcome_of(survivors, anatomy, patient, follow_up, fate, oxygenations=oxygenations)


def outcome_of(
    survivors: Tensor,
    anatomy: Anatomy,
    patient: Patient,
    follow_up: FollowUp,
    fate: Fate,
    *,
    oxygenations: Sequence[Oxygenation] = (),
) -> TrueOutcome:
    """What happens to a patient with given random numbers; see `draw_outcome`."""
    if patient.n_stage is None:
        raise CaseError("the patient has no N category, the risk of metastasis needs one; call stage() first")
    total = float(survivors.double().sum())
    persistent = is_persistent(oxygenations, anatomy, follow_up)
    origin = _origin(survivors, anatomy, fate, oxygenations)
    failure = NEVER if origin is None else failure_months(total, fate.regrowth, follow_up)
    gtv_ml = float(anatomy.tumour.sum()) * anatomy.grid.voxel_ml
    distant = _distant_months(gtv_ml, patient.n_stage, persistent, fate.distant, follow_up)
    death = _death_months(patient, failure, distant, fate.death, follow_up)
    first, last = follow_up.closing_months
    lost = NEVER if follow_up.lost_per_year == 0 else fate.lost * MONTHS_PER_YEAR / follow_up.lost_per_year
    end = min(lost, first + (last - first) * fate.closing)
    return TrueOutcome(
        control=control_probability(survivors),
        survivors=total,
        persistent=persistent,
        origin=origin,
        failure_months=failure,
        distant_months=distant,
        death_months=death,
        end_months=end,
        lrc=_first(failure, death, end),
        distant=_first(distant, death, end),
        death=_first(death, NEVER, end),
    )


def _origin(survivors: Tensor, anatomy: Anatomy, fate: Fate, oxygenations: Sequence[Oxygenation]) -> Origin | None:
    """The voxel that fails first, None when no voxel fails."""
    at = anatomy.tumour.flatten().nonzero()[:, 0]
    expected = survivors.flatten()[at].double()
    ratio = fate.voxel.to(expected.device) / expected
    if ratio.numel() == 0 or float(ratio.min()) >= 1.0:
        return None
    place = int(at[int(ratio.argmin())])
    i, j, k = (int(n) for n in np.unravel_index(place, anatomy.grid.shape))
    x, y, z, _ = (anatomy.grid.matrix @ np.array([i, j, k, 1.0])).tolist()
    po2 = tuple(float(oxygenation.po2.flatten()[place]) for oxygenation in oxygenations)
    return Origin((i, j, k), (x, y, z), 0 if bool(anatomy.primary[i, j, k]) else int(anatomy.nodes[i, j, k]), po2)


def failure_months(survivors: float, score: float, follow_up: FollowUp) -> float:
    """When a recurrence is found: the survivors' descendants have doubled up to a size that is seen.

    Args:
        survivors: Expected number; given a failure there are N / (1 - exp(-N)) on average.
        score: Standard normal, the patient's doubling time.
        follow_up: Size, doubling time, and the first examination.

    Example:
        >>> round(failure_months(1e-9, 0.0, FollowUp()), 2), round(failure_months(1000.0, 0.0, FollowUp()), 2)
        (19.43, 12.96)
    """
    present = 1.0 if survivors < 1e-12 else survivors / -math.expm1(-survivors)
    doublings = max(0.0, math.log2(follow_up.detectable_cells / present))
    doubling = follow_up.regrowth_doubling_months * math.exp(follow_up.regrowth_spread * score)
    return max(follow_up.earliest_months, doublings * doubling)


def is_persistent(oxygenations: Sequence[Oxygenation], anatomy: Anatomy, follow_up: FollowUp) -> bool:
    """True when the tumour is hypoxic at the first and at the second known time; false when fewer are known.

    Source:
        Gui et al. 2024: hypoxia-positive before and one to two weeks into treatment. The volume that counts is ours.
    """
    if len(oxygenations) < 2:
        return False
    return min(_hypoxic_ml(one, anatomy, follow_up) for one in oxygenations[:2]) >= follow_up.persistent_ml


def _hypoxic_ml(oxygenation: Oxygenation, anatomy: Anatomy, follow_up: FollowUp) -> float:
    """Tumour that is hypoxic and not dead, ml."""
    nodes = oxygenation.nodes.flatten(1)[:, anatomy.tumour.flatten().nonzero()[:, 0]]
    counts = (nodes < follow_up.persistent_mmhg) & (nodes >= follow_up.dead_mmhg)
    return float(counts.sum()) / len(nodes) * anatomy.grid.voxel_ml


def _distant_months(gtv_ml: float, n_stage: int, persistent: bool, fate: float, follow_up: FollowUp) -> float:
    """Weibull time with proportional hazards at a cumulative hazard."""
    if follow_up.distant_24_months == 0:
        return NEVER
    log_ratio = follow_up.distant_per_n * (n_stage - REFERENCE_N)
    log_ratio += follow_up.distant_per_log_ml * math.log(max(gtv_ml, 1e-3) / REFERENCE_ML)
    log_ratio += math.log(follow_up.distant_persistent_ratio) * persistent
    hazard = follow_up.distant_24_months * math.exp(log_ratio)
    return 24.0 * float((fate / hazard) ** (1.0 / follow_up.distant_shape))


def _death_months(patient: Patient, failure: float, distant: float, fate: float, follow_up: FollowUp) -> float:
    """Time at which the cumulative hazard, linear between failure and metastasis, reaches a value."""
    log_ratio = follow_up.death_per_age_year * (patient.age - REFERENCE_AGE)
    log_ratio += follow_up.death_per_pack_year * (patient.smoking_pack_years - REFERENCE_PACK_YEARS)
    log_ratio += follow_up.death_per_ecog * patient.ecog
    hazard = follow_up.death_per_year * math.exp(log_ratio) / MONTHS_PER_YEAR
    added = (
        (failure, follow_up.death_after_locoregional_per_year / MONTHS_PER_YEAR),
        (distant, follow_up.death_after_distant_per_year / MONTHS_PER_YEAR),
    )
    now = 0.0
    for start, more in sorted(added):
        if fate <= hazard * (start - now):
            break
        fate -= hazard * (start - now)
        now, hazard = start, hazard + more
    return NEVER if hazard == 0 else now + fate / hazard


def _first(event: float, competing: float, end: float) -> Outcome:
    """Which came first, and when, to a tenth of a month; nothing is seen before the first tenth."""
    months = min(event, competing, end)
    code = FAILURE if months == event else DEATH if months == competing else CENSORED
    return Outcome(code, max(0.1, round(months, 1)))


@dataclass(frozen=True, slots=True)
class LogHazardRatio:
    """A cause-specific log hazard ratio with its standard error."""

    value: float
    error: float

    @property
    def ratio(self) -> float:
        """Hazard ratio."""
        return math.exp(self.value)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the hazard ratio."""
        return math.exp(self.value - 1.96 * self.error), math.exp(self.value + 1.96 * self.error)


def log_hazard_ratios(
    outcomes: Sequence[Outcome], covariates: dict[str, NDArray[np.float64]], *, cause: int = FAILURE
) -> dict[str, LogHazardRatio]:
    """Cause-specific Cox regression of a cohort; other causes censor.

    Args:
        outcomes: One per patient.
        covariates: Name to one value per patient.
        cause: Which event counts.

    Returns:
        One log hazard ratio per covariate, each adjusted for the others.

    Raises:
        CaseError: The regression has no finite solution, as `cause_specific_cox` says.

    Source:
        Cox 1972, J R Stat Soc B 34:187, ties by Efron.

    Example:
        >>> outcomes = [Outcome(FAILURE, 1.0), Outcome(FAILURE, 2.0), Outcome(CENSORED, 3.0), Outcome(FAILURE, 4.0)]
        >>> found = log_hazard_ratios([*outcomes, Outcome(CENSORED, 5.0)], {"hpv": np.array([1.0, 0, 1, 1, 0])})
        >>> round(found["hpv"].value, 3)
        0.564
    """
    # Here, not above: it loads lifelines, which takes a second, and making patients does without it.
    from hypoxnet.survival.regression import cause_specific_cox

    months = np.array([one.months for one in outcomes], dtype=np.float64)
    event = np.array([one.event for one in outcomes], dtype=np.int64)
    columns = np.column_stack([np.asarray(values, dtype=np.float64) for values in covariates.values()])
    found = cause_specific_cox(months, event, columns, cause=cause)
    if found is None:
        raise CaseError(
            f"{len(outcomes)} patients with {int((event == cause).sum())} events of the cause give no finite hazard "
            f"ratio of {', '.join(covariates)}; take more patients or fewer covariates"
        )
    pairs = zip(found.coefficients.tolist(), found.standard_errors.tolist(), strict=True)
    return {name: LogHazardRatio(*pair) for name, pair in zip(covariates, pairs, strict=True)}
