"""Should the ridge be chosen by leaving out hospitals? Simulated hospitals that differ, and new ones to predict.

    python3 benchmarks/ridge_by_site.py --sites 3 --patients 80 --repeats 40

As in `outcome_simulation.py`, with fewer failures; every hospital has a level of its own (`--level`, standard deviation
of its log hazard ratio), effects of its own (`--effect`) and patients of its own kind. The ridge is chosen by each rule
on the same training hospitals, and judged on 8,000 patients of eight new ones: the calibration slope against the true
incidence at 24 months, and the mean loss less that of the first rule. Prints JSON with Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from outcome_simulation import CORRELATION, EFFECTS, HORIZON, SCALES, SHAPES, STEPS, log_log

from hypoxnet.models.config import OutcomeConfig
from hypoxnet.survival.time_models.base import TimeModel
from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.training.ridge import RidgeOptions, choose_ridge
from hypoxnet.training.ridge_fit import Cohort, fit_effects, held_out_loss

Array = NDArray[np.float64]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
RULES = {
    "patients": RidgeOptions(STRENGTHS, inner_repeats=2),
    "hospitals": RidgeOptions(STRENGTHS, by_site=True),
    "patients, one standard error": RidgeOptions(STRENGTHS, inner_repeats=2, one_standard_error=True),
}
# Log hazard ratio of all patients: with it about one in six fails.
RARER = -0.7
# Standard deviation of a hospital's mean of each covariate.
CASE_MIX = 0.3


@dataclass(frozen=True, slots=True)
class Hospitals:
    """Patients of some hospitals, with their true incidence by the horizon."""

    columns: Array
    months: Array
    event: NDArray[np.int64]
    incidence: Array
    sites: tuple[str, ...]

    def cohort(self, mean: Array, deviation: Array) -> Cohort:
        """Standardised by the training patients."""
        columns = torch.from_numpy((self.columns - mean) / deviation)
        return Cohort(columns, torch.from_numpy(self.months), torch.from_numpy(self.event), self.sites)


def draw(sites: int, patients: int, level: float, effect: float, generator: np.random.Generator) -> Hospitals:
    """Hospitals with this many patients each."""
    columns, rates = [], []
    for _ in range(sites):
        drawn = generator.multivariate_normal(np.zeros(len(CORRELATION)), CORRELATION, size=patients)
        drawn += generator.normal(0.0, CASE_MIX, len(CORRELATION))
        effects = EFFECTS + generator.normal(0.0, effect, EFFECTS.shape)
        columns.append(drawn)
        rates.append(np.exp(drawn @ effects.T + generator.normal(0.0, level, 2) + RARER))
    rate = np.concatenate(rates)
    times = SCALES * (generator.exponential(size=rate.shape) / rate) ** (1.0 / SHAPES)
    end = generator.uniform(12.0, 72.0, len(rate))
    months = np.minimum(times.min(axis=1), end)
    event = np.where(months == end, 0, 1 + times.argmin(axis=1)).astype(np.int64)
    hazard = (STEPS[:, None] / SCALES) ** SHAPES
    total = rate @ hazard.T
    free = np.exp(-0.5 * (total[:, 1:] + total[:, :-1]))
    incidence = (free * rate[:, :1] * np.diff(hazard[:, 0])[None]).sum(axis=1)
    names = tuple(np.repeat([f"H{number}" for number in range(sites)], patients).tolist())
    return Hospitals(np.concatenate(columns), months, event, incidence, names)


def judged(training: Cohort, new: Cohort, truth: Array, time: TimeModel, rule: RidgeOptions) -> dict[str, float]:
    """Slope and loss in new hospitals of a model whose ridge a rule chose."""
    fitted = fit_effects(training, time, choose_ridge(training, time, rule))
    baseline, weights = torch.from_numpy(fitted.baseline), torch.from_numpy(fitted.weights)
    with torch.no_grad():
        outputs = time.outputs(baseline, torch.einsum("np,jrp->njr", new.columns, weights))
        said = time.incidence(outputs, [HORIZON])[:, 0, 0].numpy()
        loss = float(held_out_loss(new, time, baseline, weights))
    slope = float(np.polyfit(log_log(said), log_log(truth), 1)[0])
    return {"slope": slope, "loss": loss, "log_ridge": float(np.log(fitted.ridge[0]))}


def summary(rows: list[dict[str, float]], first: list[dict[str, float]]) -> dict[str, Any]:
    """Of one rule over repeats."""
    slopes = np.array([row["slope"] for row in rows])
    above = np.array([row["loss"] - other["loss"] for row, other in zip(rows, first, strict=True)])
    return {
        "slope": {
            "median": round(float(np.median(slopes)), 3),
            "middle_95": [round(float(q), 2) for q in np.quantile(slopes, [0.025, 0.975])],
        },
        "loss_above_first": {
            "mean": round(float(above.mean()), 5),
            "se": round(float(above.std(ddof=1) / len(above) ** 0.5), 5),
        },
        "ridge_geometric_mean": round(float(np.exp(np.mean([row["log_ridge"] for row in rows]))), 1),
    }


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--patients", type=int, default=80, help="of each hospital that trains")
    parser.add_argument("--level", type=float, default=0.4)
    parser.add_argument("--effect", type=float, default=0.2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcome = OutcomeConfig()
    time = build_time_model(outcome.time_settings(), tuple(outcome.edges_months), 2).double()
    found: dict[str, list[dict[str, float]]] = {rule: [] for rule in RULES}
    failures = []
    for number in range(options.repeats):
        generator = np.random.default_rng([9, number])
        hospitals = draw(options.sites, options.patients, options.level, options.effect, generator)
        new = draw(8, 1000, options.level, options.effect, generator)
        scale = hospitals.columns.mean(axis=0), hospitals.columns.std(axis=0)
        failures.append(int((hospitals.event == 1).sum()))
        for name, rule in RULES.items():
            found[name].append(judged(hospitals.cohort(*scale), new.cohort(*scale), new.incidence, time, rule))
    rules = {name: summary(rows, found["patients"]) for name, rows in found.items()}
    machine = platform.processor() or platform.machine()
    described = {"machine": machine, **vars(options), "failures": float(np.mean(failures)), "rules": rules}
    json.dump(described, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
