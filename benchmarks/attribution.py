"""Whether an explanation of the risk points at what makes the risk: deletion, insertion, true origin, random weights.

    python3 train.py output=runs/explain training.epochs=8
    python3 benchmarks/attribution.py runs/explain COHORT/manifest.csv --patients 20

Withheld patients of a digital reference object, whose folder knows where each failure began and what was hypoxic.

- Deletion: the voxels of the tumour, all channels at once, are put to the reference in the order of their attribution,
  and the log-odds are followed; insertion goes the other way, from the reference to the patient. Beside it the order of
  uptake, a random order, and that of the distance from a random voxel of the tumour, which also takes connected pieces.
  Area: mean over the curve of the change of log-odds since its start (Petsiuk, Das and Saenko 2018, BMVC, RISE).
- Place: how well the attribution ranks truly hypoxic voxels before others (area under the ROC curve, chance 0.5), and
  at which percentile of the tumour the origin of the failure lies (chance 50), beside uptake and predicted probability.
- Random weights: rank correlation of the map with that of the same network with shuffled weights, of the outcome head
  only and of everything (Adebayo et al. 2018, NeurIPS, Sanity checks for saliency maps), and with uptake.

Prints JSON: means with 95 % bootstrap intervals over patients, differences paired.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from hypoxnet.cases import CaseRecord, Sample
from hypoxnet.data.manifest import read_manifest
from hypoxnet.inference.attribution import LogOdds, attribute, reference_images
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.transforms.prepare import prepare

Array = NDArray[np.float64]

FRACTIONS = (0.0, 0.05, 0.15, 0.3, 0.5, 0.75, 1.0)
CONTROLS = ("uptake", "random", "random ball")


@dataclass(slots=True)
class Findings:
    """Of one patient: areas by order, ranking of truth, percentile of the origin, correlations."""

    key: str
    difference: float
    remainder: float
    steps: int
    parts: dict[str, float]
    deletion: dict[str, float] = field(default_factory=dict)
    insertion: dict[str, float] = field(default_factory=dict)
    hypoxic: dict[str, float] = field(default_factory=dict)
    origin: dict[str, float] = field(default_factory=dict)
    correlation: dict[str, float] = field(default_factory=dict)


class Case:
    """One patient, prepared, with what is true of the tumour."""

    def __init__(self, predictor: Predictor, record: CaseRecord, *, seed: int) -> None:
        self.predictor, self.record = predictor, record
        self.sample: Sample = prepare(record, predictor.spec.settings).sample
        self.inside = self.sample.tumour[0] > 0
        self.generator = np.random.default_rng([seed, int.from_bytes(record.key.encode(), "little") % 2**32])
        self.attribution = attribute(predictor, self.sample)
        self.map = self.attribution.images.sum(dim=0)[self.inside].double().numpy()
        reference = predictor.spec.settings.channels.index(predictor.spec.settings.reference)
        self.uptake = self.sample.images[reference][self.inside].double().numpy()

    def controls(self) -> dict[str, Array]:
        """Scores by which voxels are taken, highest first."""
        voxels = torch.nonzero(self.inside).double().numpy()
        centre = voxels[self.generator.integers(len(voxels))]
        return {
            "attribution": self.map,
            "uptake": self.uptake,
            "random": self.generator.random(len(voxels)),
            "random ball": -np.linalg.norm(voxels - centre, axis=1),
        }

    def areas(self, score: Array) -> tuple[float, float]:
        """Deletion and insertion in the order of a score."""
        ends = self.attribution.reference_log_odds, self.attribution.log_odds
        patient, reference = self.sample.images, reference_images(self.sample)
        order = np.argsort(-score, kind="stable")
        deleted = self._curve(patient, reference, order, ends[::-1])
        inserted = self._curve(reference, patient, order, ends)
        return float(np.trapezoid(deleted, FRACTIONS)), float(np.trapezoid(inserted, FRACTIONS))

    def _curve(self, start: Tensor, end: Tensor, order: NDArray[np.int64], ends: tuple[float, float]) -> Array:
        log_odds = LogOdds(self.predictor, self.sample)
        place = torch.nonzero(self.inside.flatten())[:, 0]
        values = [ends[0]]
        for fraction in FRACTIONS[1:-1]:
            taken = torch.zeros(self.inside.numel(), dtype=torch.bool)
            taken[place[torch.from_numpy(order[: round(fraction * len(order))].copy())]] = True
            images = torch.where(taken.reshape(self.inside.shape), end, start)
            with torch.no_grad():
                values.append(float(log_odds.of(images[None], self.sample.covariates[None])))
        return np.array([*values, ends[1]]) - ends[0]

    def scores(self) -> dict[str, Array]:
        """What could say where the danger is."""
        with torch.inference_mode():
            probability = self.predictor.apply(self.sample).probability[0]
        return {
            "attribution": self.map,
            "uptake": self.uptake,
            "probability": probability[self.inside].double().numpy(),
        }

    def origin_voxel(self) -> int | None:
        """Index among the tumour's voxels of the one where the failure began; None without, or outside the contour."""
        truth = json.loads((next(iter(self.record.channels.values())).parent / "truth.json").read_text())
        arm = truth["arms"][f"{truth['received_gy']:g}"]
        if "origin_ras_mm" not in arm:
            return None
        grid = self.sample.grid
        place = np.linalg.solve(grid.matrix, np.array([*arm["origin_ras_mm"], 1.0]))[:3]
        index = tuple(int(n) for n in np.round(place))
        if any(not 0 <= n < size for n, size in zip(index, grid.shape, strict=True)) or not self.inside[index]:
            return None
        numbers = torch.cumsum(self.inside.flatten().long(), 0).reshape(self.inside.shape) - 1
        return int(numbers[index])


def roc_area(score: Array, truth: NDArray[np.bool_]) -> float:
    """Probability that a true voxel scores above another; nan without both."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    return float((rankdata(score)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def shuffled(predictor: Predictor, *, head_only: bool, seed: int) -> Predictor:
    """The same bundle with the values of each weight tensor in random order."""
    other = copy.copy(predictor)
    other.models = tuple(copy.deepcopy(model) for model in predictor.models)
    generator = torch.Generator().manual_seed(seed)
    for model in other.models:
        assert model.head is not None
        with torch.no_grad():
            for weight in (model.head if head_only else model).parameters():
                weight.copy_(
                    weight.flatten()[torch.randperm(weight.numel(), generator=generator)].reshape(weight.shape)
                )
    return other


def findings_of(case: Case, randomised: dict[str, Predictor], *, curves: bool) -> Findings:
    """All of one patient."""
    a = case.attribution
    assert a.by_volumes is not None
    parts = {"features": a.by_features, "volumes": a.by_volumes, "covariates": a.covariates}
    found = Findings(
        case.record.key,
        a.log_odds - a.reference_log_odds,
        a.remainder,
        a.steps,
        {name: float(part.sum()) for name, part in parts.items()},
    )
    if curves:
        for name, score in case.controls().items():
            found.deletion[name], found.insertion[name] = case.areas(score)
    truth, origin = (case.sample.label[0] > 0)[case.inside].numpy(), case.origin_voxel()
    for name, score in case.scores().items():
        found.hypoxic[name] = roc_area(score, truth)
        if origin is not None:
            found.origin[name] = 100.0 * float((rankdata(score)[origin] - 0.5) / len(score))
    found.correlation["uptake"] = float(spearmanr(case.map, case.uptake).statistic)
    for name, other in randomised.items():
        random_map = attribute(other, case.sample).images.sum(dim=0)[case.inside].numpy()
        found.correlation[f"{name}, magnitude"] = float(spearmanr(np.abs(case.map), np.abs(random_map)).statistic)
        found.correlation[f"{name}, signed"] = float(spearmanr(case.map, random_map).statistic)
    return found


def mean_of(patients: Sequence[Findings], value: Callable[[Findings], float | None]) -> dict[str, Any]:
    """Mean over the patients who have it, with interval."""
    pairs = [(p.key, value(p)) for p in patients]
    known = [(key, number) for key, number in pairs if number is not None and np.isfinite(number)]
    numbers = np.array([number for _, number in known])
    if not known:
        return {"value": None, "low": None, "high": None, "patients": 0}
    figure = bootstrap(lambda i: float(numbers[i].mean()), [key for key, _ in known], resamplings=2000)
    return {**figure.to_json(), "patients": len(known)}


def curves_of(patients: Sequence[Findings], which: str) -> dict[str, Any]:
    """Mean area by order, and attribution minus each control."""

    def area(patient: Findings, order: str) -> float | None:
        return getattr(patient, which).get(order)

    def gain(patient: Findings, order: str) -> float | None:
        areas = getattr(patient, which)
        return areas["attribution"] - areas[order] if areas else None

    return {
        "area": {name: mean_of(patients, lambda p, n=name: area(p, n)) for name in ("attribution", *CONTROLS)},
        "attribution_minus": {name: mean_of(patients, lambda p, n=name: gain(p, n)) for name in CONTROLS},
    }


def places_of(patients: Sequence[Findings], which: str) -> dict[str, Any]:
    """Mean by score, and attribution minus the others."""
    names = ("attribution", "uptake", "probability")
    report = {name: mean_of(patients, lambda p, n=name: getattr(p, which).get(n)) for name in names}
    for name in names[1:]:
        report[f"attribution minus {name}"] = mean_of(
            patients,
            lambda p, n=name: getattr(p, which)["attribution"] - getattr(p, which)[n] if getattr(p, which) else None,
        )
    return report


def report_of(patients: Sequence[Findings]) -> dict[str, Any]:
    """Everything, over patients."""
    names = sorted({name for p in patients for name in p.correlation})
    return {
        "patients": len(patients),
        "difference_log_odds": mean_of(patients, lambda p: abs(p.difference)),
        "left_over_log_odds": {
            "mean": float(np.mean([abs(p.remainder) for p in patients])),
            "most": float(np.max([abs(p.remainder) for p in patients])),
        },
        "steps": float(np.mean([p.steps for p in patients])),
        "magnitude_of_parts": {n: mean_of(patients, lambda p, n=n: abs(p.parts[n])) for n in patients[0].parts},
        "deletion": curves_of(patients, "deletion"),
        "insertion": curves_of(patients, "insertion"),
        "ranks_hypoxic_voxels": places_of(patients, "hypoxic"),
        "origin_percentile": places_of(patients, "origin"),
        "correlation": {n: mean_of(patients, lambda p, n=n: p.correlation.get(n)) for n in names},
    }


def main() -> int:
    """Explain, delete, insert, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a training on the cohort")
    parser.add_argument("manifest", type=Path, help="of the cohort")
    parser.add_argument("--patients", type=int, default=20, help="withheld patients who are deleted and inserted")
    parser.add_argument("--origins", type=int, default=20, help="withheld patients whose failure has an origin")
    parser.add_argument("--randomised", type=int, default=8, help="patients explained with random weights")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.perf_counter()
    predictor = load_predictor(options.run / "bundle", InferenceConfig(device="cpu"))
    withheld = {record.key for record in read_manifest(options.run / "manifest.csv")}
    records = [record for record in read_manifest(options.manifest) if record.key in withheld]
    random = {
        "random head": shuffled(predictor, head_only=True, seed=options.seed),
        "all random": shuffled(predictor, head_only=False, seed=options.seed),
    }
    found: list[Findings] = []
    for number, record in enumerate(records):
        failed = record.outcome is not None and record.outcome.event == 1
        curves = number < options.patients
        if not curves and not (failed and sum(bool(p.origin) for p in found) < options.origins):
            continue
        case = Case(predictor, record, seed=options.seed)
        found.append(findings_of(case, random if number < options.randomised else {}, curves=curves))
        print(f"{record.key}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    machine = {"processor": platform.machine(), "torch": torch.__version__, "seconds": time.perf_counter() - begin}
    json.dump({"report": report_of(found), "machine": machine}, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
