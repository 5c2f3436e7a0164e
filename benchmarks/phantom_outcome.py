"""Patients, treatment and outcome of the digital reference object: what was checked, expected and reached.

    python benchmarks/phantom_outcome.py                     about a minute on one core

The tumours here are simple on purpose: a sphere and its nodes, a field of mean pO2, and gamma-distributed pO2 inside
each voxel, so that this says something about these three links alone. `worked`, `frequencies` and `counterfactual` test
the code against numbers that do not depend on any parameter's being right. `cohort` sets figures of simulated patients
beside published ones, and says of each what it is worth. calibrated: radiosensitivity, its ratio for HPV and the
regrowth were chosen to meet it. fitted: the hazard behind it was fitted to the same patients. seen: it was looked at
while the spread of oxygen of these tumours, the limit of persistence or the effect of chemotherapy was chosen. free:
nothing was chosen by it. Hazard ratios are adjusted for HPV.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2, gamma, spearmanr
from torch import Tensor

from hypoxnet.phantom.fields import centred_grid, gaussian_field
from hypoxnet.phantom.outcome import LogHazardRatio, TrueOutcome, draw_outcome, log_hazard_ratios
from hypoxnet.phantom.parameters.patients import TRIAL_SITES, Population
from hypoxnet.phantom.parameters.treatment import FollowUp, Treatment
from hypoxnet.phantom.patients import Patient, draw_patient, sphere_mm, stage
from hypoxnet.phantom.streams import Streams
from hypoxnet.phantom.treatment import control_probability, planned_dose, surviving_clonogens
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue
from hypoxnet.survival.estimators import incidence_of_cohort, kaplan_meier

NODES, SHAPE = 36, 3.0
# Quantiles of a gamma distribution with mean 1: pO2 inside a voxel, relative to its mean.
RELATIVE = torch.from_numpy(gamma.ppf((np.arange(NODES) + 0.5) / NODES, SHAPE))
RELATIVE = (RELATIVE / RELATIVE.mean()).float()[:, None, None, None]
ENOUGH_MMHG = 25.0


@dataclass(frozen=True, slots=True)
class Case:
    """A simulated patient under both doses."""

    patient: Patient
    standard: TrueOutcome
    boosted: TrueOutcome
    hypoxic_share: float
    gtv_ml: float


def simple_anatomy(primary_ml: float, nodes_ml: list[float], *, voxels: int, spacing_mm: float) -> Anatomy:
    """A spherical primary, nodes beside it, and a vessel."""
    grid = centred_grid([voxels * spacing_mm] * 3, [spacing_mm] * 3)
    axis = (torch.arange(voxels) - (voxels - 1) / 2) * spacing_mm
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    half = voxels * spacing_mm / 2
    tissue = torch.full((voxels,) * 3, int(Tissue.MUSCLE), dtype=torch.uint8)
    tissue[(x**2 + y**2).sqrt() > half - spacing_mm] = Tissue.OUTSIDE
    tissue[((x - 0.6 * half) ** 2 + y**2).sqrt() < 4.0] = Tissue.VEIN
    primary = (x**2 + y**2 + z**2).sqrt() <= sphere_mm(primary_ml) / 2
    nodes = torch.zeros_like(tissue)
    for number, ml in enumerate(nodes_ml, start=1):
        angle = 2.4 * number
        apart = (x - 0.6 * half * math.cos(angle)) ** 2 + (y - 0.6 * half * math.sin(angle)) ** 2 + (z + 8.0) ** 2
        nodes[(apart.sqrt() <= sphere_mm(ml) / 2) & ~primary] = number
    nowhere = torch.zeros_like(primary)
    return Anatomy(grid, tissue, primary, nodes, nowhere, nowhere, torch.zeros(primary.shape), "oropharynx")


def with_mean(po2: Tensor) -> Oxygenation:
    """Oxygen with a mean, gamma-distributed inside each voxel."""
    return Oxygenation(po2, po2[None] * RELATIVE)


def oxygen_of(patient: Patient, anatomy: Anatomy, generator: np.random.Generator) -> list[Oxygenation]:
    """Oxygen at weeks 0, 2 and 5: what is missing returns by the patient's share, half of it by week 2."""
    level = 18.0 * math.exp(0.8 * generator.standard_normal()) * patient.oxygen_factor
    field = gaussian_field(anatomy.grid.shape, length_mm=8.0, spacing_mm=anatomy.grid.spacing_mm, generator=generator)
    before = with_mean(level * torch.exp(0.5 * field))
    later = [1.0 - 0.5 * patient.reoxygenation, 1.0 - patient.reoxygenation]
    reached = [ENOUGH_MMHG - (ENOUGH_MMHG - before.nodes).clamp_min(0.0) * left for left in later]
    nodes = [torch.maximum(before.nodes, one) for one in reached]
    return [before, *(Oxygenation(one.mean(dim=0), one) for one in nodes)]


def simulate(population: Population, number: int, seed: int) -> Case:
    """One patient, treated with and without a boost of the hypoxic part."""
    streams = Streams(seed, number)
    patient = draw_patient(population, streams("patient"))
    sizes = streams("anatomy")
    primary_ml = float(np.clip(12.0 * math.exp(0.9 * sizes.standard_normal()), 1.0, 120.0))
    count = int(sizes.choice([0, 1, 2, 3], p=[0.2, 0.3, 0.3, 0.2]))
    nodes_ml = [float(np.clip(4.0 * math.exp(0.9 * sizes.standard_normal()), 0.5, 60.0)) for _ in range(count)]
    anatomy = simple_anatomy(primary_ml, nodes_ml, voxels=28, spacing_mm=4.0)
    patient = patient.staged(*stage(primary_ml, nodes_ml, streams("stage")))
    oxygenations = oxygen_of(patient, anatomy, streams("oxygen"))
    viable = torch.ones(anatomy.primary.shape)
    hypoxic = (oxygenations[0].po2 < 10.0) & anatomy.tumour
    arms = {}
    for name, boost in (("standard", None), ("boosted", hypoxic)):
        survivors = surviving_clonogens(
            oxygenations,
            viable,
            planned_dose(anatomy, Treatment(), boost),
            anatomy,
            Treatment(),
            alpha_per_gy=patient.alpha_per_gy,
            clonogens_per_ml=patient.clonogens_per_ml,
        )
        arms[name] = draw_outcome(
            survivors, anatomy, patient, FollowUp(), streams("outcome"), oxygenations=oxygenations
        )
    share = float(oxygenations[0].share_below(5.0)[anatomy.tumour].mean())
    gtv_ml = float(anatomy.tumour.sum()) * anatomy.grid.voxel_ml
    return Case(patient, arms["standard"], arms["boosted"], share, gtv_ml)


def expectation(expected: float, reached: float, tolerance: float) -> dict[str, Any]:
    """One line of the report."""
    return {"expected": expected, "reached": reached, "passed": bool(abs(reached - expected) <= tolerance)}


def uniform_survivors(po2: float, gy: float, ml: float, cells: float) -> float:
    """Survivors of a uniform tumour without repopulation and necrosis."""
    anatomy = replace(simple_anatomy(4.0, [], voxels=8, spacing_mm=4.0), primary=torch.ones(8, 8, 8, dtype=torch.bool))
    mean = torch.full((8, 8, 8), po2)
    treatment = Treatment(repopulation_start_days=1e3, viable_half_mmhg=0.0, oxygenation_weeks=(0.0,))
    whole = 512 * anatomy.grid.voxel_ml
    dose = torch.full((8, 8, 8), gy)
    oxygen = [Oxygenation(mean, mean.expand(4, 8, 8, 8))]
    left = surviving_clonogens(
        oxygen, torch.ones(8, 8, 8), dose, anatomy, treatment, alpha_per_gy=0.3, clonogens_per_ml=cells * ml / whole
    )
    return float(left.sum())


def worked_numbers() -> dict[str, Any]:
    """Control of uniform tumours, computed elsewhere."""
    table = [(1e9, 70.0, ml, 1e7, control, 5e-6) for ml, control in ((1, 0.99989), (10, 0.99886), (30, 0.99659))]
    table += [(2.5, 70.0, 1, 1e7, 0.057, 5e-4), (2.5, 77.0, 1, 1e7, 0.590, 5e-4)]
    table += [(5.0, 70.0, 1, 1e7, 0.873, 5e-4), (5.0, 77.0, 1, 1e7, 0.983, 5e-4)]
    table += [(10.0, 70.0, 1, 1e7, 0.9906, 5e-5), (10.0, 77.0, 1, 1e7, 0.9991, 5e-5)]
    table += [(1e9, 48.29, 1, 1e7, 0.5, 2e-3), (1e9, 54.22, 1, 1e8, 0.5, 2e-3)]
    return {
        f"control at {po2:g} mmHg, {gy:g} Gy, {ml} ml, {cells:g} per ml": expectation(
            control, math.exp(-uniform_survivors(po2, gy, ml, cells)), tolerance
        )
        for po2, gy, ml, cells, control, tolerance in table
    }


def frequencies() -> dict[str, Any]:
    """Failures and their places against probabilities, over many draws for one tumour."""
    draws, total = 6000, 1.3
    anatomy = simple_anatomy(2.0, [1.0], voxels=16, spacing_mm=4.0)
    patient = draw_patient(Population(), np.random.default_rng(0)).staged(1, 1)
    weights = torch.from_numpy(np.random.default_rng(1).gamma(0.5, size=anatomy.primary.shape)) * anatomy.tumour
    survivors = total * weights / weights.sum()
    found = [draw_outcome(survivors, anatomy, patient, FollowUp(), Streams(9, n)("outcome")) for n in range(draws)]
    failed = np.array([one.origin is not None for one in found])
    rate = 1.0 - control_probability(survivors)
    places = torch.zeros_like(survivors)
    for one in found:
        if one.origin is not None:
            places[one.origin.voxel] += 1
    wanted = survivors / total * failed.sum()
    many = wanted > 5
    statistic = float(((places - wanted) ** 2 / wanted.clamp_min(1e-12))[many].sum())
    watch = spearmanr([one.end_months for one in found], failed)
    return {
        "failure rate against 1 - TCP, in standard errors": float(
            (failed.mean() - rate) / math.sqrt(rate * (1 - rate) / draws)
        ),
        "p of the origins' chi-squared test": float(chi2.sf(statistic, int(many.sum()) - 1)),
        "p of censoring time against failure": float(watch.pvalue),
        "passed": bool(abs(failed.mean() - rate) < 3 * math.sqrt(rate * (1 - rate) / draws)),
    }


def counterfactual(cases: list[Case]) -> dict[str, Any]:
    """The same patients with and without a boost of what is hypoxic."""
    pairs = [(case.standard, case.boosted) for case in cases]
    standard, boosted = ([pair[arm].origin is not None for pair in pairs] for arm in (0, 1))
    effect = np.array(standard, float) - np.array(boosted, float)
    gain = float(np.mean([b.control - a.control for a, b in pairs]))
    return {
        "patients": len(pairs),
        "harmed by the boost": int((effect < 0).sum()),
        "saved by the boost": int((effect > 0).sum()),
        "failed sooner with the boost": sum(b.failure_months < a.failure_months for a, b in pairs),
        "mean gain of control probability": gain,
        "mean individual effect": expectation(gain, float(effect.mean()), 3 * float(effect.std()) / len(effect) ** 0.5),
    }


def ratio_of(cases: list[Case], exposed: list[float]) -> dict[str, Any]:
    """Hazard ratio of locoregional failure, adjusted for HPV."""
    columns = {"x": np.array(exposed), "hpv": np.array([float(case.patient.hpv) for case in cases])}
    found: LogHazardRatio = log_hazard_ratios([case.standard.lrc for case in cases], columns)["x"]
    low, high = found.interval
    return {"hazard_ratio": round(found.ratio, 2), "interval": [round(low, 2), round(high, 2)]}


def control_at(cases: list[Case], month: float) -> float:
    """Locoregional control by Kaplan-Meier."""
    outcomes = [case.standard.lrc for case in cases]
    curve = kaplan_meier(np.array([o.months or 0.0 for o in outcomes]), np.array([o.event for o in outcomes]))
    return round(curve.at(month), 3)


def failed_of(cases: list[Case]) -> float:
    """Share with an observed locoregional failure."""
    return round(float(np.mean([case.standard.lrc.event == 1 for case in cases])), 3)


def real_mix(cases: list[Case]) -> dict[str, Any]:
    """Figures beside those of 298 patients in Canada (Vallieres et al. 2017)."""
    dated = [case.standard.failure_months for case in cases if case.standard.lrc.event == 1]
    spread = [case.standard.distant for case in cases]
    months, event = np.array([o.months or 0.0 for o in spread]), np.array([o.event for o in spread])
    positive, negative = ([case for case in cases if case.patient.hpv == status] for status in (1, 0))
    return {
        "calibrated: failure, HPV-negative (14 of 46)": failed_of(negative),
        "calibrated: failure, HPV-positive (3 of 78)": failed_of(positive),
        "calibrated: median month of failure (16.1)": round(float(np.median(dated)), 1),
        "seen: control at 2 years (0.897)": control_at(cases, 24.0),
        "free: control at 5 years (0.807)": control_at(cases, 60.0),
        "fitted: metastasis at 2 years (0.095)": round(1.0 - kaplan_meier(months, event).at(24.0), 3),
        "seen: incidence of failure at 2 years, Aalen-Johansen": round(
            incidence_of_cohort(
                np.array([c.standard.lrc.months or 0.0 for c in cases]),
                np.array([c.standard.lrc.event for c in cases]),
                24.0,
            ),
            3,
        ),
        "seen: persistent hypoxia (0.249, Gui et al. 2024)": round(
            float(np.mean([c.standard.persistent for c in cases])), 3
        ),
        "free: lymphocytes above 80 % (0.279, high against low, Nicolay et al. 2021)": ratio_of(
            cases, [float(c.patient.til > 80) for c in cases]
        ),
        "free: re-oxygenation above a half (0.321, Nicolay et al. 2021, early resolution)": ratio_of(
            cases, [float(c.patient.reoxygenation > 0.5) for c in cases]
        ),
        "seen: chemotherapy": ratio_of(cases, [float(c.patient.chemo) for c in cases]),
    }


def trial_mix(cases: list[Case]) -> dict[str, Any]:
    """Figures beside DAHANCA 24: 16 of 38 hypoxic, 7 and 2 failed (Sakso et al. 2020)."""
    shares = np.array([case.hypoxic_share for case in cases])
    exposed = shares > np.quantile(shares, 1.0 - 16 / 38)
    return {
        "calibrated: failure (9 of 38)": failed_of(cases),
        "seen: failure, most hypoxic 42 % (7 of 16)": failed_of(
            [c for c, one in zip(cases, exposed, strict=True) if one]
        ),
        "seen: failure, others (2 of 22)": failed_of([c for c, one in zip(cases, exposed, strict=True) if not one]),
        "seen: hypoxic against not (5.8, 1.2-28.2)": ratio_of(cases, exposed.astype(float).tolist()),
    }


def milliseconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median time of a call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(1000.0 * float(np.median(times)), 2)


def timings() -> dict[str, Any]:
    """One thread; three oxygenations of 36 nodes."""
    found: dict[str, Any] = {}
    for voxels, spacing in ((32, 3.0), (72, 2.0)):
        anatomy = simple_anatomy(30.0, [8.0], voxels=voxels, spacing_mm=spacing)
        patient = draw_patient(Population(), np.random.default_rng(1)).staged(2, 2)
        oxygen = oxygen_of(patient, anatomy, np.random.default_rng(2))
        dose, viable = planned_dose(anatomy, Treatment(), None), torch.ones(anatomy.primary.shape)
        run = (oxygen, viable, dose, anatomy, Treatment())
        left = surviving_clonogens(*run, alpha_per_gy=0.3, clonogens_per_ml=1e7)
        boost = anatomy.tumour & (oxygen[0].po2 < 10.0)
        found[f"{voxels}^3"] = {
            "tumour_voxels": int(anatomy.tumour.sum()),
            "survivors_ms": milliseconds(
                lambda run=run: surviving_clonogens(*run, alpha_per_gy=0.3, clonogens_per_ml=1e7)
            ),
            "dose_ms": milliseconds(lambda a=anatomy, b=boost: planned_dose(a, Treatment(), b)),
            "outcome_ms": milliseconds(
                lambda s=left, a=anatomy, p=patient, o=oxygen: draw_outcome(
                    s, a, p, FollowUp(), np.random.default_rng(0), oxygenations=o
                )
            ),
        }
    return found


def main() -> None:
    """Run everything and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=800, help="of each case-mix")
    options = parser.parse_args()
    torch.set_num_threads(1)
    real = [simulate(Population(), number, 5) for number in range(options.patients)]
    trial = [simulate(Population(sites=TRIAL_SITES), number, 5) for number in range(options.patients)]
    report = {
        "machine": f"{platform.machine()}, one thread",
        "worked": worked_numbers(),
        "frequencies": frequencies(),
        "counterfactual": counterfactual(real + trial),
        "cohort": {"real case-mix": real_mix(real), "case-mix of hypoxia trials": trial_mix(trial)},
        "timings": timings(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
