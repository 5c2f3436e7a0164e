"""A finished run folder without a training: an untrained network, and predictions of which the truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import Outcome
from hypoxnet.files import write_json, write_text
from hypoxnet.jobs.config import TrainJobConfig
from hypoxnet.jobs.scoring import write_scores
from hypoxnet.metrics.evaluate import Evaluator
from hypoxnet.metrics.scores import CaseScore, ReferenceRisk, RiskCurve
from hypoxnet.metrics.segmentation import RegionScore

MONTHS = (12.0, 24.0, 36.0)
ON_TRAINING = {
    "patients": 113,
    "failures": 31,
    "c_index": {"value": 0.532, "low": 0.46, "high": 0.61},
    "apparent": 0.561,
    "optimism": 0.029,
    "resamplings": 200,
}


def withheld(count: int = 60, *, with_outcome: bool = True) -> list[CaseScore]:
    """Patients whose predicted risk is right, and a baseline that knows half of it."""
    generator, known = np.random.default_rng(0), np.random.default_rng(1)
    scores = []
    for number in range(count):
        risk = 0.05 + 0.6 * float(generator.random())
        failed, died = generator.random() < risk, generator.random() < 0.1
        months = float(generator.uniform(2, 24) if failed or died else generator.uniform(30, 60))
        curve = RiskCurve(MONTHS, (0.6 * risk, risk, 1.1 * risk), (0.02, 0.05, 0.08))
        blurred = 0.5 * risk + 0.5 * float(generator.random()) * 0.6
        baseline = ReferenceRisk(blurred, RiskCurve(MONTHS, (0.6 * blurred, blurred, blurred), (0.02, 0.05, 0.08)))
        scores.append(
            CaseScore(
                key=f"P{number:03d}",
                patient=f"P{number:03d}",
                regions={"hsv": RegionScore(0.6, 0.7, 3.0, 5.0, 4.0, float(risk), 0.3 * float(generator.random()))},
                threshold_dice=0.5,
                tumour_ml=float(generator.gamma(2, 10)),
                covariates={
                    "gtv_ml": float(known.gamma(2, 10)),
                    "age": float(known.normal(60, 8)),
                    "arm": float(known.integers(0, 2)),
                    "til": float(known.uniform(0, 60)),
                    "pd_l1_cps": float(known.integers(0, 9)),
                },
                risk=risk if with_outcome else None,
                death=0.05 if with_outcome else None,
                outcome=Outcome(1 if failed else 2 if died else 0, months),
                volume_risk=blurred if with_outcome else None,
                curve=curve if with_outcome else None,
                references={"volume": baseline, "clinical": baseline} if with_outcome else {},
                risk_interval=(0.5 * risk, 1.5 * risk) if with_outcome else None,
                contributions={"age": risk - 0.35, "hpv": -0.1} if with_outcome else {},
            )
        )
    return scores


@cache
def figures_of(count: int, with_outcome: bool) -> str:
    """Figures of `withheld`, as JSON; the bootstrap is the price of these tests."""
    scores = withheld(count, with_outcome=with_outcome)
    return json.dumps(Evaluator(scores, horizon_months=24.0, resamplings=40).metrics())


@pytest.fixture
def make_run(tmp_path: Path, make_bundle: Callable[..., Path], tiny_spec: BundleSpec) -> Callable[..., Path]:
    """Writes a run folder; `with_outcome=False` is a network of contours alone."""

    def make(*, with_outcome: bool = True, count: int = 60, **config: Any) -> Path:
        scores = withheld(count, with_outcome=with_outcome)
        run = tmp_path / "run"
        spec = tiny_spec
        if not with_outcome:
            spec = replace(spec, model=replace(spec.model, outcome=replace(spec.model.outcome, enabled=False)))
        cohort = {
            "patients": 120,
            "cases": 120,
            "sites": 2,
            "channels": {"FMISO_SUV": 120, "T1W": 117},
            "masks": {"GTVP": 120},
            "outcome_known": 113,
            "failures": 31,
            "deaths_without_failure": 9,
            "median_follow_up_months": 37.5,
        }
        provenance = {"trained": "2026-01-01", "seed": 0, "steps": 77, "training_seconds": 5}
        make_bundle(replace(spec, cohort=cohort, provenance=provenance), name="run/bundle")
        metrics = json.loads(figures_of(count, with_outcome))
        metrics["counts"] |= {"failed_cases": 0, "trainings": 1, "training_patients": 120}
        metrics |= {
            "left_out": {"P999": "its files are damaged"},
            "baselines": [
                {
                    "threshold": "FMISO_SUV >= 2 g/ml",
                    "outcome": "Cox on log GTV volume",
                    "clinical": None,
                    "on_training": {"volume": ON_TRAINING},
                }
            ],
            "bootstrap": {"resamplings": 40, "interval": 0.95, "unit": "patient"},
        }
        write_json(run / "metrics.json", metrics)
        write_scores(run / "predictions.csv", scores, {})
        settings = asdict(TrainJobConfig(name="tiny"))
        for key, value in config.items():
            room, name = key.split("__")
            settings[room][name] = value
        settings["label"]["regions"] = {"hsv": ["HYPOXIA"]}
        write_text(run / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        write_json(
            run / "provenance.json",
            {
                "started": "2026-01-01T00:00:00+0000",
                "command": ["train.py", "name=tiny"],
                "manifest": "cohort.csv",
                "manifest_sha256": "ab" * 32,
                "versions": {"python": "3.11.9", "hypoxnet": "0.1.0", "torch": "2.13.0"},
                "machine": {"system": "Linux", "processor": "a processor", "cores": 2, "memory_gib": 8.0},
            },
        )
        return run

    return make
