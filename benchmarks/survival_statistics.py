"""Statistics of time to event: seconds by size of the cohort, beside lifelines and scikit-survival on the same arrays.

    OMP_NUM_THREADS=1 python benchmarks/survival_statistics.py                       some minutes
    OMP_NUM_THREADS=1 python benchmarks/survival_statistics.py --patients 1000       a few seconds

Cohorts are drawn: nearly a third each censored, failed and dead, follow-up closed at 60 months, months to a tenth and
risks to a thousandth, so that both tie. Peers that know no competing risk get the deaths as censored; what they are
compared on is the time. A peer is left out above the size at which it needs a table of all patients by all times or
more than a minute. Prints JSON: medians of several rounds in seconds of the processor, ours and the peers' in turns,
after one round that is not counted; null where left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
from lifelines import AalenJohansenFitter, CoxPHFitter, KaplanMeierFitter
from lifelines.utils import concordance_index
from sksurv.compare import compare_survival
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
)
from sksurv.nonparametric import cumulative_incidence_competing_risks, kaplan_meier_estimator
from sksurv.util import Surv

from hypoxnet.metrics.benefit import decision_curve, discrimination_improvement, reclassification
from hypoxnet.metrics.brier import brier_at, integrated_brier
from hypoxnet.metrics.calibration import (
    calibration_error,
    calibration_slope,
    distribution_calibration,
    observed_over_expected,
)
from hypoxnet.metrics.discrimination import auc_at, harrell_c, uno_c
from hypoxnet.metrics.pseudo_values import pseudo_values
from hypoxnet.survival.comparison import gray_test, logrank_test
from hypoxnet.survival.estimators import incidence_curve, kaplan_meier
from hypoxnet.survival.fine_gray import fine_gray
from hypoxnet.survival.regression import cause_specific_cox
from hypoxnet.survival.restricted_mean import time_lost

HORIZON = 24.0
Run = Callable[[], Any]


@dataclass(frozen=True)
class Entry:
    """One statistic: ours, and peers with the largest cohort each can take."""

    ours: Run
    peers: dict[str, tuple[Run, int]]


@dataclass(frozen=True)
class Cohort:
    """Drawn patients in the forms that the programs want."""

    risk: np.ndarray
    other: np.ndarray
    months: np.ndarray
    event: np.ndarray
    group: np.ndarray
    x: np.ndarray

    @property
    def outcome(self) -> np.ndarray:
        """For scikit-survival."""
        return Surv.from_arrays(self.event == 1, self.months)

    @property
    def frame(self) -> pd.DataFrame:
        """For lifelines."""
        return pd.DataFrame(self.x).add_prefix("x").assign(months=self.months, failed=self.event == 1)


def drawn(patients: int) -> Cohort:
    """A cohort of so many patients."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(patients, 3))
    months = generator.exponential(30.0 * np.exp(-0.4 * x[:, 0])).clip(0.1, 60.0).round(1)
    risk = (1.0 / (1.0 + np.exp(1.0 - 0.6 * x[:, 0] - 0.3 * generator.normal(size=patients)))).round(3)
    event, group = generator.integers(0, 3, patients), generator.integers(0, 3, patients)
    event[months >= 60.0] = 0
    return Cohort(risk, np.roll(risk, 1), months, event, group, x)


def estimators(c: Cohort) -> dict[str, Entry]:
    """Curves, tests and regressions."""
    any_size = 10**9
    return {
        "kaplan_meier": Entry(
            lambda: kaplan_meier(c.months, c.event),
            {
                "lifelines": (lambda: KaplanMeierFitter().fit(c.months, c.event == 1), any_size),
                "scikit-survival": (
                    lambda: kaplan_meier_estimator(c.event == 1, c.months, conf_type="log-log"),
                    any_size,
                ),
            },
        ),
        "aalen_johansen_with_band": Entry(
            lambda: incidence_curve(c.months, c.event),
            {
                "lifelines": (lambda: AalenJohansenFitter().fit(c.months, c.event, 1), 1000),
                "scikit-survival": (
                    lambda: cumulative_incidence_competing_risks(c.event, c.months, conf_type="log-log"),
                    any_size,
                ),
            },
        ),
        "months_lost": Entry(lambda: time_lost(c.months, c.event, until=HORIZON), {}),
        "logrank_3_groups": Entry(
            lambda: logrank_test(c.months, c.event, c.group),
            {"scikit-survival": (lambda: compare_survival(c.outcome, c.group), any_size)},
        ),
        "gray_3_groups": Entry(lambda: gray_test(c.months, c.event, c.group), {}),
        "cause_specific_cox": Entry(
            lambda: cause_specific_cox(c.months, c.event, c.x),
            {
                "lifelines": (lambda: CoxPHFitter().fit(c.frame, "months", "failed"), any_size),
                "scikit-survival": (
                    lambda: CoxPHSurvivalAnalysis(ties="efron").fit(c.x, c.outcome),
                    10_000,
                ),
            },
        ),
        "fine_gray": Entry(lambda: fine_gray(c.months, c.event, c.x), {}),
    }


def metrics(c: Cohort) -> dict[str, Entry]:
    """Figures of predicted risk."""
    any_size, at = 10**9, np.linspace(6.0, 48.0, 8)
    curves = c.risk[:, None] * np.linspace(0.3, 1.0, 8)
    args = (c.risk, c.months, c.event)
    return {
        "harrell_c": Entry(
            lambda: harrell_c(*args),
            {
                "lifelines": (lambda: concordance_index(c.months, -c.risk, c.event == 1), any_size),
                "scikit-survival": (lambda: concordance_index_censored(c.event == 1, c.months, c.risk), 10_000),
            },
        ),
        "uno_c": Entry(
            lambda: uno_c(*args, until=60.0),
            {"scikit-survival": (lambda: concordance_index_ipcw(c.outcome, c.outcome, c.risk, tau=60.0), 10_000)},
        ),
        "auc": Entry(
            lambda: auc_at(*args, month=HORIZON),
            {"scikit-survival": (lambda: cumulative_dynamic_auc(c.outcome, c.outcome, c.risk, [HORIZON]), any_size)},
        ),
        "brier": Entry(
            lambda: brier_at(*args, month=HORIZON),
            {
                "scikit-survival": (
                    lambda: brier_score(c.outcome, c.outcome, 1.0 - c.risk[:, None], [HORIZON]),
                    any_size,
                )
            },
        ),
        "integrated_brier_8_times": Entry(
            lambda: integrated_brier(curves, c.months, c.event, at=list(at)),
            {"scikit-survival": (lambda: brier_score(c.outcome, c.outcome, 1.0 - curves, at), any_size)},
        ),
        "observed_over_expected": Entry(lambda: observed_over_expected(*args, month=HORIZON), {}),
        "pseudo_values": Entry(lambda: pseudo_values(c.months, c.event, month=HORIZON), {}),
        "calibration_slope": Entry(lambda: calibration_slope(*args, month=HORIZON), {}),
        "calibration_error": Entry(lambda: calibration_error(*args, month=HORIZON), {}),
        "d_calibration": Entry(lambda: distribution_calibration(1.0 - c.risk, c.event), {}),
        "decision_curve_50_thresholds": Entry(
            lambda: decision_curve(*args, month=HORIZON, thresholds=list(np.linspace(0.01, 0.6, 50))), {}
        ),
        "reclassification": Entry(lambda: reclassification(c.risk, c.other, c.months, c.event, month=HORIZON), {}),
        "discrimination_improvement": Entry(
            lambda: discrimination_improvement(c.risk, c.other, c.months, c.event, month=HORIZON), {}
        ),
    }


def seconds(run: Run) -> float:
    """Time of the processor in one call, so that other jobs of the machine do not count."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def measure(entry: Entry, patients: int, rounds: int) -> dict[str, float | None]:
    """Median seconds of ours and of the peers, one after the other in every round."""
    runs = {"hypoxnet": entry.ours} | {name: run for name, (run, most) in entry.peers.items() if patients <= most}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    left_out = dict.fromkeys(entry.peers)
    return left_out | {name: round(statistics.median(values[1:]), 5) for name, values in times.items()}


def installed(name: str) -> str | None:
    """Version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes of cohorts")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which medians are taken")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # lifelines warns that it moves tied times apart
    results: dict[str, dict[str, Any]] = {}
    for patients in options.patients:
        cohort = drawn(patients)
        for name, entry in (estimators(cohort) | metrics(cohort)).items():
            results.setdefault(name, {})[str(patients)] = measure(entry, patients, options.rounds)
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    packages = {name: installed(name) for name in ("numpy", "lifelines", "scikit-survival")}
    print(
        json.dumps({"machine": machine, "packages": packages, "rounds": options.rounds, "seconds": results}, indent=2)
    )


if __name__ == "__main__":
    main()
