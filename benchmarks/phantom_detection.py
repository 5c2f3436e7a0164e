"""The detection limit: what a threshold and an ideal observer find of the hypoxic volume, with and without noise.

    python3 benchmarks/phantom_detection.py --patients 60 --plot docs/explanation/pictures/detection-limit.png

For patients of a preset, hypoxia PET is simulated without and with noise. The hypoxic volume is then outlined by

- one threshold of the ratio to muscle for all, the best on the *other* patients (leave one out);
- the threshold that is best for each patient, which nobody can know;
- the ideal observer (`hypoxnet.phantom.observer`), who knows the physics and everything but the tumour's vessels.

Dice is that of the PET's own voxels inside the tumour, 1 where both are empty. Prints JSON: means with 95 % bootstrap
intervals over patients, for all and by thirds of the true hypoxic volume. Beside them, what the observer expects of
itself, without knowing the truth: the mean over its samples of the Dice of its region. Draws of the exact posterior
expect on average what is reached; the difference, and a misfit above 1, tell how far the chains are from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.phantom.fields import averaged
from hypoxnet.phantom.imaging import reference_ratio
from hypoxnet.phantom.observer import Settings, TumourImage, Whitening, most_expected_dice, observe
from hypoxnet.phantom.parameters.cohort import Preset
from hypoxnet.phantom.parameters.tracer import TRACERS
from hypoxnet.phantom.pet import acquire_pet, for_tracer, pet_grid
from hypoxnet.phantom.presets import preset
from hypoxnet.phantom.subject import make_subject
from hypoxnet.phantom.tracer import kinetics, late_suv, patient_tracer, static_frame
from hypoxnet.threads import one_thread

THRESHOLDS = np.round(np.arange(0.8, 4.0001, 0.05), 2)
# What stands for no noise: a tenth of it.
ALMOST_NONE = 0.1
# Where patients without hypoxia stand in the picture, below one voxel of 3 mm.
NONE_ML = 0.015
METHODS = ("threshold", "own threshold", "ideal observer")


@dataclass(frozen=True, slots=True)
class Limits:
    """One patient: sizes, and the Dice of everything."""

    gtv_ml: float
    hypoxic_ml: float
    by_threshold: dict[str, list[float]]
    observer: dict[str, float]
    expected: dict[str, float]
    misfit: dict[str, float]


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Dice, 1 where both are empty."""
    whole = float(one.sum() + other.sum())
    return 2.0 * float((one & other).sum()) / whole if whole else 1.0


def limits_of(chosen: Preset, settings: Settings, number: int) -> Limits:
    """Simulate and outline one patient."""
    with one_thread():
        subject = make_subject(chosen, number)
        vessels, anatomy = subject.vasculature, subject.anatomy
        oxygen = subject.oxygen_of(vessels)
        tracer = patient_tracer(TRACERS[subject.hospital.tracer], subject.streams("tracer.blood"))
        scanner = for_tracer(subject.hospital.pet, tracer)
        grid = pet_grid(anatomy.grid, scanner, subject.streams("pet.place"))
        suv = late_suv(kinetics(oxygen, vessels, anatomy, tracer, subject.streams("tracer.tumour")), tracer)
        clean = acquire_pet(suv, anatomy.grid, scanner, grid, None)
        noise = subject.streams("pet.noise")
        noisy = acquire_pet(suv, anatomy.grid, scanner, grid, noise, static_frame(tracer))
        tumour, truth, muscle = (
            averaged(mask, anatomy.grid, grid) >= 0.5
            for mask in (anatomy.tumour, subject.is_hypoxic(vessels, oxygen), anatomy.muscle_reference)
        )
        truth &= tumour
        chain = TumourImage(subject, suv, tracer, scanner, grid)
        found: dict[str, dict[str, Any]] = {"thresholds": {}, "observer": {}, "expected": {}, "misfit": {}}
        for name, image, scale in (("noise-free", clean, ALMOST_NONE), ("noisy", noisy, 1.0)):
            ratio = reference_ratio(image, muscle)
            found["thresholds"][name] = [dice(tumour & (ratio >= t), truth) for t in THRESHOLDS]
            whitening = Whitening(clean, scanner, grid, tracer, scale)
            seen = observe(chain, image, whitening, subject.streams(f"observer.{name}"), settings)
            samples = (averaged(seen.samples, anatomy.grid, grid) >= 0.5) & tumour
            region = most_expected_dice(samples)
            found["observer"][name], found["misfit"][name] = dice(region, truth), seen.misfit
            found["expected"][name] = float(np.mean([dice(region, sample) for sample in samples]))
        volumes = [float(mask.sum()) * grid.voxel_ml for mask in (tumour, truth)]
        return Limits(*volumes, found["thresholds"], found["observer"], found["expected"], found["misfit"])


def scores_of(patients: list[Limits], noise: str) -> dict[str, np.ndarray]:
    """Dice of each method, one number per patient."""
    table = np.array([patient.by_threshold[noise] for patient in patients])
    others = (table.sum(axis=0) - table) / max(1, len(table) - 1)
    return {
        "threshold": table[np.arange(len(table)), others.argmax(axis=1)],
        "own threshold": table.max(axis=1),
        "ideal observer": np.array([patient.observer[noise] for patient in patients]),
    }


def main() -> int:
    """Simulate, outline, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--leaps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="write the figure here")
    options = parser.parse_args()
    chosen = replace(preset(options.preset), images=("HYPOXIA_PET",))
    one = partial(limits_of, chosen, Settings(options.chains, options.moves, options.leaps))
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        patients = list(pool.map(one, range(1, options.patients + 1)))
    report = {"patients": len(patients), "preset": options.preset, **summary(patients)}
    if options.plot:
        draw(patients, options.plot)
    json.dump(report, sys.stdout, indent=2)
    print()
    return 0


def summary(patients: list[Limits]) -> dict[str, Any]:
    """Means of all, and by thirds of the true hypoxic volume."""
    volumes = np.array([patient.hypoxic_ml for patient in patients])
    everybody = np.arange(len(patients))
    thirds = [third for third in np.array_split(volumes.argsort(kind="stable"), 3) if len(third)]
    found: dict[str, Any] = {"dice": {}, "by_hypoxic_volume": []}
    for noise in ("noise-free", "noisy"):
        scores = scores_of(patients, noise)
        found["dice"][noise] = {method: mean_of(scores[method], everybody) for method in METHODS}
        for name in ("expected", "misfit"):
            found["dice"][noise][name] = round(float(np.mean([getattr(one, name)[noise] for one in patients])), 3)
        for third in thirds:
            of = [round(float(edge), 2) for edge in (volumes[third].min(), volumes[third].max())]
            row = {"noise": noise, "hypoxic_ml": of, "patients": len(third)}
            found["by_hypoxic_volume"].append(row | {method: mean_of(scores[method], third) for method in METHODS})
    return found


def mean_of(scores: np.ndarray, patients: np.ndarray) -> dict[str, float | None]:
    """Mean over some patients, with its interval."""
    values = scores[patients]
    return bootstrap(lambda i: float(values[i].mean()), [str(n) for n in patients], resamplings=1000).to_json()


def draw(patients: list[Limits], path: Path) -> None:
    """Dice against the true hypoxic volume, with a running mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    volumes = np.array([max(patient.hypoxic_ml, NONE_ML) for patient in patients])
    order = np.argsort(volumes, kind="stable")
    # Without hypoxia Dice is 1 or 0, whether anything is outlined; the mean is that of the others.
    order = order[volumes[order] > NONE_ML]
    figure, panes = plt.subplots(1, 2, figsize=(9.5, 4.1), sharex=True, sharey=True, layout="constrained")
    colours = {"threshold": "#b5651d", "own threshold": "#8a8a8a", "ideal observer": "#1f5f8b"}
    width = max(5, len(order) // 6)
    windows = [order[first : first + width] for first in range(len(order) - width + 1)]
    for pane, noise in zip(panes, ("noise-free", "noisy"), strict=True):
        for method, values in scores_of(patients, noise).items():
            pane.scatter(volumes, values, s=12, color=colours[method], alpha=0.45, linewidths=0)
            middle, mean = ([np.median(volumes[w]) for w in windows], [values[w].mean() for w in windows])
            pane.plot(middle, mean, color=colours[method], label=method, linewidth=2)
        pane.set(xscale="log", xlabel="true hypoxic volume, ml", title=f"hypoxia PET, {noise}", ylim=(-0.03, 1.03))
        ticks = {NONE_ML: "none", 0.1: "0.1", 1.0: "1", 10.0: "10"}
        pane.set_xticks(list(ticks), list(ticks.values()))
        pane.grid(alpha=0.3)
    panes[0].set_ylabel("Dice of the hypoxic volume")
    figure.legend(*panes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
