"""Cohort statistics of the digital reference object beside published ones, measured on its images as a clinic would.

    hypoxnet phantom --preset standard --output standard
    python3 benchmarks/phantom_statistics.py standard

Prints JSON: each figure with its 95 % bootstrap interval over patients, the published range, its source, and whether
the estimate lies inside. Only the baseline visit is read.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from scipy.stats import spearmanr

from hypoxnet.cases import FAILURE, CaseRecord
from hypoxnet.data.manifest import read_manifest
from hypoxnet.geometry import Grid
from hypoxnet.images import read_channel, read_mask
from hypoxnet.maps.reference_region import reference_value
from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.survival.estimators import incidence_of_cohort, kaplan_meier
from hypoxnet.transforms.prepare import onto

HYPOXIA_TRACERS = ("FMISO_SUV", "FAZA_SUV", "HX4_SUV")
# Before oxygen, as the object has it.
TUMOUR_T1_S = 1.34
MAPS = ("KTRANS", "ADC", "R2STAR", "DR1", "T1", "VE")


@dataclass(frozen=True, slots=True)
class Published:
    """A range that a cohort of this kind should have."""

    low: float
    high: float
    source: str


RANGES: dict[str, Published] = {
    "tmr_max_median": Published(1.1, 2.9, "FAZA Tmax/Mmedian 1.1-2.9, median 1.5 (Mortensen 2012)"),
    "tbr_max_mean": Published(1.4, 2.1, "FMISO 1.6 (Rajendran 2006), 1.94 (Wiedenmann 2015)"),
    "hypoxic_share_tmr_1p4": Published(
        0.55, 0.85, "63 % (Mortensen 2012), 69 % (HX4, PMC5047929), 79 % (Rajendran 2006)"
    ),
    "share_tmr_1p6": Published(0.27, 0.59, "16 of 38, 42 % (Saksoe 2020; exact binomial interval)"),
    "hv_1p4_ml_median": Published(0.0, 15.8, "FAZA HV1.4 0-30.9 ml, median 0.3 (Mortensen); FMISO 15.8 (Wiedenmann)"),
    "hv_1p4_ml_p95": Published(
        5.0, 60.0, "FAZA maximum 30.9 ml (Mortensen 2012); FMISO mean HV 40.2 ml (Rajendran 2006)"
    ),
    "hf_1p4_mean": Published(0.05, 0.42, "HX4 HF 21.7 +- 19.8 % (PMC5047929)"),
    "hv_against_gtv_spearman": Published(0.2, 0.9, "HV grows with GTV (Hildingsson 2022; no single figure)"),
    "hf_against_gtv_spearman": Published(
        0.0, 0.7, "HF is higher in larger tumours (Hildingsson 2022; no single figure)"
    ),
    "ktrans_per_min_median": Published(0.05, 1.0, "plausible head and neck range; nasopharynx .571 (PMC5620271)"),
    "adc_um2_per_ms_median": Published(0.75, 1.4, "SCC D .82 +- .17 (PMC7965088), ADC above D by perfusion"),
    "r2star_per_s_median": Published(33.0, 70.0, "T2* 18 +- 3 and 15 +- 5 ms in tumours at 3 T (Wiedenmann 2018)"),
    "dt1_percent_median": Published(-7.0, -0.3, "primaries -3.5 % (-7.0 to -0.3) (McCabe 2024)"),
    "lrc_24_months": Published(0.70, 0.92, "0.897 in four Canadian hospitals; 0.75-0.9 in chemoradiation series"),
    "lrc_60_months": Published(0.70, 0.90, "0.807 in four Canadian hospitals"),
    "failures_5y_tmr_1p6": Published(0.2, 0.7, "7 of 16, 44 % (Saksoe 2020; exact binomial interval)"),
    "failures_5y_tmr_below_1p6": Published(0.01, 0.29, "2 of 22, 9 % (Saksoe 2020; exact binomial interval)"),
    "hazard_ratio_tmr_1p6": Published(1.2, 28.2, "5.8 (1.2-28.2) (Saksoe 2020, DAHANCA 24)"),
    "hazard_ratio_early_response": Published(0.10, 0.85, "0.321 (p .015) (Nicolay 2021; interval from its p value)"),
    "hazard_ratio_hpv": Published(0.15, 0.7, "HPV-positive tumours fail less: 0.42 (0.27-0.66) (DAHANCA, Lassen 2009)"),
}


def _tumour(record: CaseRecord, grid: Grid) -> np.ndarray:
    whole = np.zeros(grid.shape, dtype=bool)
    for name in ("GTVP", "GTVN"):
        if name in record.masks:
            mask = read_mask(record.masks[name], case=record.key)
            whole |= onto(mask.array, mask.grid, grid)
    return whole


def measured(folder: Path, record: CaseRecord) -> dict[str, float]:
    """What a clinic would read off one patient's images."""
    row: dict[str, float] = {}
    tracer = next((name for name in HYPOXIA_TRACERS if name in record.channels), None)
    if tracer:
        pet = read_channel(record.channels[tracer], tracer, case=record.key)
        tumour = _tumour(record, pet.grid)
        references = {n: read_mask(record.masks[n], case=record.key).array for n in ("MUSCLE", "BLOOD")}
        tmr = pet.array / reference_value(pet.array, references["MUSCLE"], statistic="median")
        tbr = pet.array / reference_value(pet.array, references["BLOOD"], statistic="mean")
        row["gtv_ml"] = float(tumour.sum()) * pet.grid.voxel_ml
        row |= {"tmr_max": float(tmr[tumour].max()), "tbr_max": float(tbr[tumour].max())}
        row["hv_1p4_ml"] = float((tmr[tumour] >= 1.4).sum()) * pet.grid.voxel_ml
        row["hf_1p4"] = row["hv_1p4_ml"] / row["gtv_ml"]
    for name in MAPS:
        if name in record.channels:
            volume = read_channel(record.channels[name], name, case=record.key)
            inside = _tumour(record, volume.grid) & (volume.array != 0)
            if inside.any():
                row[name] = float(np.median(volume.array[inside]))
    truth = json.loads((folder / record.case_id / "truth.json").read_text(encoding="utf-8"))
    row["true_hf"] = truth["visits"][record.visit]["hypoxic_fraction"]
    row["reoxygenation"] = truth["patient"]["reoxygenation"]
    row["hpv"] = truth["patient"]["hpv"]
    assert record.outcome is not None
    assert record.outcome.months is not None
    return row | {"months": record.outcome.months, "event": record.outcome.event}


def hazard_ratio(table: pd.DataFrame, covariate: str) -> float | None:
    """Cause-specific Cox hazard ratio of failure."""
    two = pd.DataFrame(
        {"x": table[covariate].astype(float), "t": table["months"], "e": table["event"] == FAILURE}
    ).dropna()
    if two["x"].nunique() < 2 or not two["e"].any():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(np.exp(CoxPHFitter().fit(two, "t", "e").params_["x"]))
    except (ConvergenceError, ValueError, ZeroDivisionError):  # a resampling that has no solution
        return None


def t1_change_percent(rate_change_per_s: float) -> float:
    """Change of a tumour's T1 under oxygen for a change of its rate."""
    added = rate_change_per_s * TUMOUR_T1_S
    return -100.0 * added / (1.0 + added)


def statistics() -> dict[str, Callable[[pd.DataFrame], float | None]]:
    """Name to figure of a table of patients."""

    def median(name: str) -> Callable[[pd.DataFrame], float | None]:
        return lambda t: float(t[name].median()) if name in t and t[name].notna().any() else None

    def failed(table: pd.DataFrame, month: float) -> float | None:
        if table.empty:
            return None
        return incidence_of_cohort(table["months"].to_numpy(), table["event"].to_numpy(), month)

    def controlled(month: float) -> Callable[[pd.DataFrame], float | None]:
        return lambda t: 1.0 - (failed(t, month) or 0.0)

    return {
        "tmr_max_median": median("tmr_max"),
        "tbr_max_mean": lambda t: float(t["tbr_max"].mean()),
        "hypoxic_share_tmr_1p4": lambda t: float((t["hv_1p4_ml"] > 0.5).mean()),
        "share_tmr_1p6": lambda t: float((t["tmr_max"] >= 1.6).mean()),
        "hv_1p4_ml_median": median("hv_1p4_ml"),
        "hv_1p4_ml_p95": lambda t: float(t["hv_1p4_ml"].quantile(0.95)),
        "hf_1p4_mean": lambda t: float(t["hf_1p4"].mean()),
        "hv_against_gtv_spearman": lambda t: float(spearmanr(t["hv_1p4_ml"], t["gtv_ml"], nan_policy="omit").statistic),
        "hf_against_gtv_spearman": lambda t: float(spearmanr(t["hf_1p4"], t["gtv_ml"], nan_policy="omit").statistic),
        "true_hf_mean": lambda t: float(t["true_hf"].mean()),
        "true_hf_against_measured_spearman": lambda t: float(
            spearmanr(t["true_hf"], t["hf_1p4"], nan_policy="omit").statistic
        ),
        "ktrans_per_min_median": median("KTRANS"),
        "adc_um2_per_ms_median": median("ADC"),
        "r2star_per_s_median": median("R2STAR"),
        "dt1_percent_median": lambda t: t1_change_percent(float(t["DR1"].median())) if "DR1" in t else None,
        "dr1_per_s_median": median("DR1"),
        "lrc_24_months": controlled(24.0),
        "lrc_60_months": controlled(60.0),
        "failures_5y_tmr_1p6": lambda t: failed(t[t["tmr_max"] >= 1.6], 60.0),
        "failures_5y_tmr_below_1p6": lambda t: failed(t[t["tmr_max"] < 1.6], 60.0),
        "hazard_ratio_tmr_1p6": lambda t: hazard_ratio(t.assign(x=(t["tmr_max"] >= 1.6)), "x"),
        "hazard_ratio_early_response": lambda t: hazard_ratio(
            t.assign(x=t["reoxygenation"] > t["reoxygenation"].median()), "x"
        ),
        "hazard_ratio_hpv": lambda t: hazard_ratio(t, "hpv"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="folder that `hypoxnet phantom` wrote")
    parser.add_argument("--resamplings", type=int, default=500)
    parser.add_argument("--table", type=Path, help="write the patients' figures here, CSV")
    options = parser.parse_args(arguments)
    records = [r for r in read_manifest(options.cohort / "manifest.csv") if r.visit == "baseline"]
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(measured, options.cohort), records, chunksize=4))
    table = pd.DataFrame(rows)
    if options.table:
        table.assign(case_id=[r.case_id for r in records]).to_csv(options.table, index=False, quoting=csv.QUOTE_MINIMAL)
    report: dict[str, Any] = {"cohort": str(options.cohort), "patients": len(table), "figures": {}}
    for name, figure in statistics().items():
        found = bootstrap(
            lambda index, f=figure: f(table.iloc[index]), [r.case_id for r in records], resamplings=options.resamplings
        )
        entry: dict[str, Any] = found.to_json()
        if name in RANGES:
            known = RANGES[name]
            entry |= {"published": [known.low, known.high], "source": known.source}
            entry["inside"] = found.value is not None and known.low <= found.value <= known.high
        report["figures"][name] = entry
    control = kaplan_meier(table["months"].to_numpy(), table["event"].to_numpy()).at(24.0)
    report["control_by_kaplan_meier_24"] = round(control, 4)
    json.dump(report, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
