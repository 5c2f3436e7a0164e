"""Time and memory of a model of covariates alone on a large cohort, beside lifelines' Cox regression.

    python3 benchmarks/covariate_model.py --patients 100000

The cohort is simulated: ten covariates, two causes with proportional hazards, a tenth of each covariate missing. Ours
is what `model=covariates` does from the manifest on: reading, choosing the ridge per cause by inner cross-validation,
fitting. lifelines fits one cause at one given ridge, on the same columns. Prints JSON.
"""

import argparse
import csv
import json
import math
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lifelines import CoxPHFitter

from hypoxnet.data.config import DataConfig
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.plan import plan_covariates_alone
from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.survival.time_models.settings import KINDS, TimeSettings
from hypoxnet.training.covariates import cohort_of
from hypoxnet.training.ridge import RidgeOptions, choose_ridge
from hypoxnet.training.ridge_fit import fit_effects

EDGES = (6.0, 12.0, 18.0, 24.0, 36.0, 48.0, 60.0)
EFFECTS = {"age": 0.2, "gtv_ml": 0.5, "hpv": -0.6, "t_stage": 0.3}
NAMES = ("age", "sex", "hpv", "t_stage", "n_stage", "gtv_ml", "smoking_pack_years", "hb_g_dl", "ecog", "chemo")


def clock() -> tuple[float, float]:
    """Seconds on the wall, and of the processor: on a busy machine they differ."""
    return time.perf_counter(), time.process_time()


def write_cohort(path: Path, patients: int) -> None:
    """A manifest of simulated patients."""
    generator = np.random.default_rng(0)
    values = {
        "age": generator.normal(62, 10, patients).clip(20, 95).round(),
        "sex": generator.integers(0, 2, patients),
        "hpv": generator.integers(0, 2, patients),
        "t_stage": generator.integers(1, 5, patients),
        "n_stage": generator.integers(0, 4, patients),
        "gtv_ml": np.exp(generator.normal(3.0, 0.9, patients)).clip(0.1, 1400).round(2),
        "smoking_pack_years": generator.integers(0, 80, patients),
        "hb_g_dl": generator.normal(13.5, 1.5, patients).clip(6, 20).round(1),
        "ecog": generator.integers(0, 3, patients),
        "chemo": generator.integers(0, 2, patients),
    }
    known = {name: np.log(v) if name == "gtv_ml" else v for name, v in values.items()}
    risk = sum(effect * (known[name] - known[name].mean()) / known[name].std() for name, effect in EFFECTS.items())
    failure = generator.exponential(1.0 / (0.006 * np.exp(risk)))
    death, end = generator.exponential(150.0, patients), generator.uniform(6.0, 80.0, patients)
    months = np.minimum(np.minimum(failure, death), end)
    event = np.where(months == end, 0, np.where(months == failure, 1, 2))
    missing = generator.random((patients, len(NAMES))) < 0.1
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "site", *NAMES, "lrc_months", "lrc_event"])
        for i in range(patients):
            cells = ["" if missing[i, k] else values[name][i] for k, name in enumerate(NAMES)]
            writer.writerow([f"P{i}", f"S{i % 5}", *cells, round(float(months[i]), 2), event[i]])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, default="hazards", help="the outcome model, as `outcome.kind`")
    options = parser.parse_args()
    patients = options.patients
    marks = [clock()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cohort.csv"
        write_cohort(path, patients)
        marks = [clock()]
        records = read_manifest(path)
    marks.append(clock())
    settings = plan_covariates_alone(records, DataConfig(), edges_months=EDGES)
    cohort = cohort_of(records, settings)
    marks.append(clock())
    model = build_time_model(TimeSettings(kind=options.kind), EDGES, 2)
    ridge = choose_ridge(cohort, model, RidgeOptions())
    marks.append(clock())
    effects = fit_effects(cohort, model, ridge)
    marks.append(clock())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    frame = pd.DataFrame(cohort.columns.numpy(), columns=list(settings.covariate_columns))
    frame = frame.assign(months=cohort.months.numpy(), failed=cohort.event.numpy() == 1)
    cox = CoxPHFitter(penalizer=ridge[0] / math.fsum([len(cohort)])).fit(frame, "months", "failed")
    marks.append(clock())
    steps = ("read_manifest", "arrays", "choose_ridge", "fit", "lifelines_one_cause_one_ridge")
    wall, processor = (dict(zip(steps, row, strict=True)) for row in np.diff(marks, axis=0).T.round(2).tolist())
    ours = effects.weights[0, 0]
    print(
        json.dumps(
            {
                **vars(options),
                "columns": cohort.columns.shape[1],
                "events": [int((cohort.event == cause).sum()) for cause in (1, 2)],
                "seconds": wall,
                "processor_seconds": processor,
                "seconds_of_ours": round(sum(wall[step] for step in steps[:4]), 2),
                "processor_seconds_of_ours": round(sum(processor[step] for step in steps[:4]), 2),
                "peak_memory_gib": round(memory, 2),
                "ridge": list(ridge),
                "largest_difference_of_log_hazard_ratio": round(float(np.abs(ours - cox.params_.to_numpy()).max()), 3),
                "threads": torch.get_num_threads(),
                "machine": platform.processor() or platform.machine(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
