"""The outcome model where the truth is known: calibration, discrimination and coverage over simulated cohorts.

    python3 benchmarks/outcome_simulation.py --repeats 500 --workers 2
    python3 benchmarks/outcome_simulation.py --kind cox --repeats 200

Patients have six covariates, some correlated and some missing, and Weibull hazards of locoregional failure and of
death that depend on them; follow-up ends between one and six years. In each repeat the model of covariates alone is
fitted on a new cohort with its ridge chosen by inner cross-validation, and judged on patients whose true incidence is
known:

- calibration slope and intercept: complementary log-log of the true incidence at 24 months against the predicted one;
- C-index of the prediction, and of the true incidence, on the same 4,000 patients with drawn outcomes;
- coverage: how often the 95 % interval of a predicted incidence holds the true one, over 50 patients;
- coverage of the patient bootstrap: how often the interval of the C-index on 300 withheld patients holds the C-index of
  this model in 20,000.

Prints JSON with Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.metrics.discrimination import harrell_c
from hypoxnet.models.config import NO_BACKBONE, ModelConfig, OutcomeConfig
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.models.spec import ModelSpec
from hypoxnet.survival.time_models.settings import KINDS
from hypoxnet.survival.uncertainty import incidence_spread
from hypoxnet.training.covariates import into_head
from hypoxnet.training.ridge import RidgeOptions, choose_ridge
from hypoxnet.training.ridge_fit import Cohort, fit_effects
from hypoxnet.transforms.imputation import fit_joint_normal

Array = NDArray[np.float64]

HORIZON = 24.0
# Log hazard ratios of failure and of death: volume, T, N, age, HPV, and one that does nothing.
EFFECTS = np.array([[0.5, 0.3, 0.2, 0.0, -0.6, 0.0], [0.2, 0.1, 0.2, 0.4, -0.2, 0.0]])
SHAPES = np.array([0.8, 1.1])
SCALES = np.array([260.0, 160.0])
# Volume goes with T, HPV with N and with youth.
CORRELATION = np.array(
    [
        [1.0, 0.5, 0.2, 0.0, -0.1, 0.0],
        [0.5, 1.0, 0.1, 0.0, -0.2, 0.0],
        [0.2, 0.1, 1.0, -0.1, 0.3, 0.0],
        [0.0, 0.0, -0.1, 1.0, -0.3, 0.0],
        [-0.1, -0.2, 0.3, -0.3, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    ]
)
HPV = 4
STEPS = np.linspace(0.0, HORIZON, 481)


@dataclass(frozen=True, slots=True)
class Simulated:
    """Patients with what is known of them, and what happened."""

    columns: Array
    months: Array
    event: NDArray[np.int64]

    def cohort(self, columns: Array) -> Cohort:
        """For fitting, with completed columns."""
        return Cohort(torch.from_numpy(columns), torch.from_numpy(self.months), torch.from_numpy(self.event))


def draw(patients: int, generator: np.random.Generator) -> Simulated:
    """A cohort."""
    columns = generator.multivariate_normal(np.zeros(len(CORRELATION)), CORRELATION, size=patients)
    rate = np.exp(columns @ EFFECTS.T)
    drawn = SCALES * (generator.exponential(size=(patients, 2)) / rate) ** (1.0 / SHAPES)
    end = generator.uniform(12.0, 72.0, patients)
    months = np.minimum(drawn.min(axis=1), end)
    event = np.where(months == end, 0, 1 + drawn.argmin(axis=1))
    return Simulated(columns, months, event.astype(np.int64))


def true_incidence(columns: Array) -> Array:
    """Incidence of failure by the horizon, by quadrature; one per patient."""
    rate = np.exp(columns @ EFFECTS.T)
    hazard = (STEPS[:, None] / SCALES) ** SHAPES
    total = rate @ hazard.T
    middle = np.exp(-0.5 * (total[:, 1:] + total[:, :-1]))
    return np.asarray((middle * rate[:, :1] * np.diff(hazard[:, 0])[None]).sum(axis=1))


def log_log(incidence: Array) -> Array:
    """Complementary log-log."""
    return np.asarray(np.log(-np.log1p(-np.clip(incidence, 1e-9, 1 - 1e-9))))


def empty_head(kind: str, covariates: int) -> OutcomeHead:
    """The head of a model without images, in float64."""
    outcome = OutcomeConfig(kind=kind)
    spec = ModelSpec(
        backbone=ModelConfig(backbone=NO_BACKBONE),
        outcome=outcome,
        channels=0,
        regions=0,
        covariates=covariates,
        edges_months=tuple(outcome.edges_months),
        spacing_mm=(1.0, 1.0, 1.0),
    )
    return OutcomeHead(spec, features=0, read_outs=0).double().eval()


def one_repeat(kind: str, patients: int, missing: float, number: int) -> dict[str, float]:
    """Fit one cohort and judge it."""
    torch.set_num_threads(1)
    generator = np.random.default_rng([6, number])
    training = draw(patients, generator)
    known = np.ones_like(training.columns, dtype=bool)
    known[:, HPV] = generator.random(patients) >= missing
    completed = (
        fit_joint_normal(training.columns, known).complete(training.columns, known) if missing else training.columns
    )
    cohort = training.cohort(completed)
    head = empty_head(kind, completed.shape[1])
    ridge = choose_ridge(cohort, head.time, RidgeOptions(strengths=(1.0, 10.0, 100.0), inner_repeats=1))
    into_head(fit_effects(cohort, head.time, ridge), cohort, head)
    parameters, covariance = head.parameters_alone(), head.covariance_alone()
    assert covariance is not None

    def incidence(values: torch.Tensor, columns: Array) -> torch.Tensor:
        clinical = torch.from_numpy(np.hstack([columns, np.zeros_like(columns)]))
        return head.incidence_alone(values, clinical, [HORIZON])

    asked = draw(50, generator).columns
    low, high = incidence_spread(partial(incidence, columns=asked), parameters, covariance).limits()
    truth = true_incidence(asked)
    judged = draw(20_000, generator)
    with torch.no_grad():
        said = incidence(parameters, judged.columns)[:, 0, 0].numpy()
    true = true_incidence(judged.columns)
    slope, intercept = np.polyfit(log_log(said), log_log(true), 1)
    few, withheld = slice(0, 4_000), slice(4_000, 4_300)
    own = harrell_c(said, judged.months, judged.event)
    months, event, risk = judged.months[withheld], judged.event[withheld], said[withheld]
    spread = bootstrap(
        lambda i: harrell_c(risk[i], months[i], event[i]), [str(n) for n in range(len(risk))], resamplings=400
    )
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "c": float(harrell_c(said[few], judged.months[few], judged.event[few]) or np.nan),
        "true_c": float(harrell_c(true[few], judged.months[few], judged.event[few]) or np.nan),
        "covered": float(((low[:, 0, 0].numpy() <= truth) & (truth <= high[:, 0, 0].numpy())).mean()),
        "width": float((high - low)[:, 0, 0].mean()),
        "bootstrap_covered": float((spread.low or 0.0) <= (own or np.nan) <= (spread.high or 1.0)),
        "failures": float((training.event == 1).sum()),
    }


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--kind", choices=KINDS, default="hazards", help="the outcome model, as `outcome.kind`")
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--missing", type=float, default=0.0, help="share of the training patients without HPV status")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    begin = time.perf_counter()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        one = partial(one_repeat, options.kind, options.patients, options.missing)
        rows = list(pool.map(one, range(options.repeats), chunksize=5))
    seconds = time.perf_counter() - begin
    json.dump(
        {
            "machine": platform.processor() or platform.machine(),
            "seconds": round(seconds),
            **vars(options),
            **summary(rows),
        },
        sys.stdout,
        indent=2,
    )
    print()
    return 0


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over repeats with their standard errors; for the slope also the range of most cohorts."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        found[name] = {
            "mean": round(float(values.mean()), 4),
            "se": round(float(values.std(ddof=1) / len(rows) ** 0.5), 4),
        }
    below = np.array([row["true_c"] - row["c"] for row in rows])
    found["c_below_truth"] = {
        "mean": round(float(below.mean()), 4),
        "largest_95": round(float(np.quantile(below, 0.95)), 4),
    }
    slopes = np.array([row["slope"] for row in rows])
    found["slope"]["middle_95"] = [round(float(q), 3) for q in np.quantile(slopes, [0.025, 0.975])]
    return found


if __name__ == "__main__":
    sys.exit(main())
