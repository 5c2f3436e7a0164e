"""Planned dose, and the clonogens that survive it in every voxel.

With p the local pO2 and d the dose per fraction, a fraction kills

    alpha f(p) d + beta f(p)^2 d^2,     f(p) = OER(p) / m,     OER(p) = (m p + K) / (p + K)

so that f is 1 in full oxygen and 1/m in anoxia. The n fractions of a course are given while the tumour re-oxygenates:
its oxygen is known at a few weeks, and the kill of a fraction between two of them is interpolated linearly in time
(before the first and after the last it is that of the nearest). Inside a voxel pO2 is a distribution; a node of it is
followed through the weeks, which means that the cells farthest from vessels stay the farthest. Survivors are summed
over nodes, not doses averaged: the few cells in the worst place decide.

Left out: incomplete repair, redistribution in the cell cycle, and a loss of clonogens other than by dose. Repopulation
is deterministic growth after its start.

Axis legend: D H W voxels of the object, Q nodes of pO2 inside a voxel, V voxels of the tumour, W weeks.

Source:
    Oxygen: Wouters and Brown 1997, Radiat Res 147:541. Poisson control: Webb and Nahum 1993, Phys Med Biol 38:653.
    The numbers: hypoxnet.phantom.parameters.treatment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.special import ndtri
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.fields import smooth
from hypoxnet.phantom.parameters.treatment import Treatment
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue

# The edge of a target receives at least this share of its dose (ICRU Report 50 and 62: 95 to 107 %).
COVERAGE = 0.95


def planned_dose(anatomy: Anatomy, treatment: Treatment, boost: Tensor | None) -> Tensor:
    """Dose that is planned, three layers with a Gaussian fall-off.

    The elective neck receives its dose, the gross tumour with its margin more on top of it, boosted voxels still more.
    A layer is the blurred indicator of a region that is wider than the target by so much that the target's edge keeps
    95 % of its dose; it is scaled until the mean over the prescribed voxels is the prescription. A boost narrower than
    the penumbra becomes a hill as wide as the penumbra.

    Args:
        anatomy: Object. Where `dose_gy` is known it takes the place of the two lower layers, unscaled.
        treatment: Prescription, margins, penumbra.
        boost: D H W, bool, voxels to boost; None or empty for no boost.

    Returns:
        D H W, Gy; 0 outside the patient.

    Raises:
        ConfigError: There is neither a tumour nor a plan, so that there is nothing to prescribe to.
    """
    inside = (anatomy.tissue != Tissue.OUTSIDE).float()
    dose = _conventional(anatomy, treatment) * inside if anatomy.dose_gy is None else anatomy.dose_gy.float()
    if boost is None or not bool(boost.any()):
        return dose
    layer = _layer(boost, anatomy, reach_mm=0.0, sigma_mm=treatment.boost_penumbra_mm) * inside
    return dose + layer * _amplitude(treatment.boost_gy, dose, layer, boost)


def _conventional(anatomy: Anatomy, treatment: Treatment) -> Tensor:
    """Elective neck and gross tumour."""
    tumour = anatomy.tumour
    if not bool(tumour.any()):
        raise ConfigError(
            "the object holds 0 voxels of tumour and no planned dose, a prescription needs one of them; give a larger "
            "tumour or a finer grid"
        )
    low, high = treatment.elective_gy, treatment.dose_gy
    vessels = anatomy.is_a(Tissue.ARTERY, Tissue.VEIN)
    elective = _distance_mm(vessels | tumour, anatomy) <= treatment.elective_margin_mm
    layer = _layer(elective, anatomy, reach_mm=_reach_mm(low, 0.0, treatment), sigma_mm=treatment.penumbra_mm)
    # The mean is taken where the elective neck is tissue: nobody prescribes to air.
    dose = layer * _amplitude(low, torch.zeros_like(layer), layer, elective & anatomy.body)
    reach = treatment.target_margin_mm + _reach_mm(high, low, treatment)
    layer = _layer(tumour, anatomy, reach_mm=reach, sigma_mm=treatment.penumbra_mm)
    return dose + layer * _amplitude(high, dose, layer, tumour)


def _reach_mm(high: float, low: float, treatment: Treatment) -> float:
    """How much wider than the target a layer must be for its edge to keep its dose, on top of a layer below."""
    if high <= low:
        return 0.0
    needed = (COVERAGE * high - low) / (high - low)
    return max(0.0, treatment.penumbra_mm * float(ndtri(min(max(needed, 1e-3), 0.999))))


def _layer(target: Tensor, anatomy: Anatomy, *, reach_mm: float, sigma_mm: float) -> Tensor:
    """Blurred indicator of a widened target, 0 to 1."""
    wide = target if reach_mm <= 0 else _distance_mm(target, anatomy) <= reach_mm
    return smooth(wide.float(), [sigma_mm / spacing for spacing in anatomy.grid.spacing_mm])


def _distance_mm(target: Tensor, anatomy: Anatomy) -> Tensor:
    """Distance to the nearest voxel of a target, mm; D H W."""
    outside = ~target.cpu().numpy()
    apart = distance_transform_edt(outside, sampling=anatomy.grid.spacing_mm)
    return torch.from_numpy(apart.astype(np.float32)).to(target.device)


def _amplitude(wanted_gy: float, dose: Tensor, layer: Tensor, where: Tensor) -> float:
    """What a layer must be multiplied by, on top of a dose, for the mean over some voxels to be the prescription."""
    if not bool(where.any()):
        return 0.0
    missing = wanted_gy - float(dose[where].double().mean())
    return max(0.0, missing) / max(float(layer[where].double().mean()), 1e-6)


def oxygen_modification(po2: Tensor, treatment: Treatment) -> Tensor:
    """Factor by which oxygen modifies dose, 1 in full oxygen and 1/m in anoxia.

    A hypoxic sensitiser lowers m: anoxic cells become more sensitive, oxygenated cells do not.

    Args:
        po2: Local pO2, mmHg, any shape.
        treatment: m, K, and the sensitiser.

    Source:
        OER(p) = (m p + K) / (p + K), Wouters and Brown 1997, Radiat Res 147:541.

    Example:
        >>> round(float(oxygen_modification(torch.tensor(2.5), Treatment())), 5)
        0.63636
        >>> round(float(oxygen_modification(torch.tensor(0.0), Treatment(sensitiser_ratio=1.3))), 4)
        0.4333
    """
    most, half = treatment.oer_max / treatment.sensitiser_ratio, treatment.oer_half_mmhg
    return (po2 + half / most) / (po2 + half)


def log_survival(po2: Tensor, dose_gy: Tensor, treatment: Treatment, *, alpha_per_gy: float) -> Tensor:
    """Logarithm of the surviving fraction after the whole course, at a constant pO2, without repopulation.

    Args:
        po2: Local pO2, mmHg; ... V.
        dose_gy: Total dose; V, given in `treatment.fractions` equal fractions.
        treatment: Fractions and radiobiology.
        alpha_per_gy: Linear radiosensitivity in full oxygen.

    Returns:
        ... V, 0 or less.

    Source:
        Linear-quadratic model; the dose-modifying factor multiplies dose, so beta takes its square.

    Example:
        >>> oxic = torch.tensor([1e9])
        >>> round(float(log_survival(oxic, torch.tensor([70.0]), Treatment(), alpha_per_gy=0.3)), 3)
        -25.2
    """
    effective = oxygen_modification(po2, treatment) * dose_gy
    per_gy = 1.0 / (treatment.fractions * treatment.alpha_beta_gy)
    return -alpha_per_gy * effective * (1.0 + per_gy * effective)


def course_shares(treatment: Treatment) -> list[float]:
    """Share of the fractions that each of the known oxygenations governs; they add up to 1.

    A fraction between two known weeks belongs to both, by its distance in time; before the first and after the last it
    belongs to the nearest.

    Example:
        >>> [round(share, 4) for share in course_shares(Treatment())]
        [0.1735, 0.3571, 0.4694]
    """
    weeks = treatment.oxygenation_weeks
    days = np.array(treatment.fraction_days()) / 7.0
    return [float(np.interp(days, weeks, np.eye(len(weeks))[one]).mean()) for one in range(len(weeks))]


def repopulation(treatment: Treatment) -> float:
    """Logarithm of the growth of clonogens during treatment, after its start.

    Example:
        >>> round(repopulation(Treatment()), 4)
        3.5648
    """
    growing = max(0.0, treatment.overall_days - treatment.repopulation_start_days)
    return growing * math.log(2.0) / treatment.repopulation_doubling_days


def viable_share(po2: Tensor, treatment: Treatment) -> Tensor:
    """Share of the cells that live at a local pO2, p / (p + P).

    Source:
        Warren and Partridge 2016, PMC5717515: half-maximal necrosis at 1.2 (0.1-4.9) mmHg.

    Example:
        >>> float(viable_share(torch.tensor(1.2), Treatment()))
        0.5
    """
    half = treatment.viable_half_mmhg
    return torch.ones_like(po2) if half == 0 else po2 / (po2 + half)


def surviving_clonogens(
    oxygenations: Sequence[Oxygenation],
    viable: Tensor,
    dose_gy: Tensor,
    anatomy: Anatomy,
    treatment: Treatment,
    *,
    alpha_per_gy: float,
    clonogens_per_ml: float,
) -> Tensor:
    """Expected number of clonogens that survive in each voxel; tumour control has the probability exp(-sum).

    Clonogens are where cells live at the first oxygenation: `viable`, times the viable share at each node.

    Args:
        oxygenations: W, oxygen at each of `treatment.oxygenation_weeks`; the nodes of one voxel are in the same order.
        viable: D H W, share of the tissue that is not necrotic, 0 to 1.
        dose_gy: D H W, total dose.
        anatomy: Object; only voxels of primary and nodes hold clonogens.
        treatment: Fractions, radiobiology, weeks.
        alpha_per_gy: Radiosensitivity of this tumour in full oxygen.
        clonogens_per_ml: Density of clonogens in living tumour.

    Returns:
        D H W, float64; 0 outside the tumour.

    Raises:
        ConfigError: There are not as many oxygenations as weeks.
    """
    weeks = treatment.oxygenation_weeks
    if len(oxygenations) != len(weeks):
        raise ConfigError(
            f"{len(oxygenations)} oxygenations are given, oxygenation_weeks={weeks} of the phantom asks for "
            f"{len(weeks)}; give one for each week"
        )
    # Gathered first: a tumour is a few per cent of the object.
    at = anatomy.tumour.flatten().nonzero()[:, 0]
    dose = dose_gy.flatten()[at].float()
    nodes = [oxygenation.nodes.flatten(1)[:, at] for oxygenation in oxygenations]
    log_surviving = torch.zeros_like(nodes[0])
    for share, po2 in zip(course_shares(treatment), nodes, strict=True):
        log_surviving += share * log_survival(po2, dose, treatment, alpha_per_gy=alpha_per_gy)
    # float64: the exponent of a boosted oxic voxel lies below what float32 can hold.
    growth = repopulation(treatment)
    surviving = (viable_share(nodes[0], treatment) * torch.exp(log_surviving.double() + growth)).mean(dim=0)
    clonogens = clonogens_per_ml * anatomy.grid.voxel_ml * viable.flatten()[at].double()
    survivors = torch.zeros(anatomy.tumour.shape, dtype=torch.float64, device=dose.device)
    survivors.view(-1)[at] = clonogens * surviving
    return survivors


def control_probability(survivors: Tensor) -> float:
    """Probability that no clonogen survives, by Poisson's law.

    Example:
        >>> round(control_probability(torch.tensor([0.5, 0.5])), 4)
        0.3679
    """
    return math.exp(-float(survivors.double().sum()))


def eqd2_gy(dose_gy: float, treatment: Treatment) -> float:
    """Dose in fractions of 2 Gy that does the same to the tumour, without the effect of time.

    Args:
        dose_gy: Total dose in `treatment.fractions` fractions.
        treatment: Fractions, alpha over beta.

    Example:
        >>> round(eqd2_gy(77.0, Treatment()), 2), round(eqd2_gy(80.5, Treatment()), 2)
        (78.28, 82.51)
    """
    ratio = treatment.alpha_beta_gy
    return dose_gy * (dose_gy / treatment.fractions + ratio) / (2.0 + ratio)
