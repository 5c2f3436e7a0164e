"""Maps against truth that others wrote: prints n of n inside the tolerance for each file, exit status 1 if one is not.

    HYPOXNET_REFERENCE=FOLDER python benchmarks/reference_maps.py

Tolerances are absolute + relative: those of the OSIPI DCE-DSC code collection, and 1 % for noise-free PET curves.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from hypoxnet.maps.dce import DCE_MODELS, DELAY, signal_to_concentration
from hypoxnet.maps.fitting import fit
from hypoxnet.maps.input_functions import InputFunction, georgiou, parker, preclinical, timing
from hypoxnet.maps.pet_kinetics import Frames, fit_kinetics, patlak
from hypoxnet.maps.r2star import r2star_log_linear
from hypoxnet.maps.relaxometry import t1_from_flips, t1_from_flips_nonlinear

TOLERANCE = {"ve": (0.05, 0), "ktrans": (0.005, 0.1), "ps": (0.005, 0.1), "vp": (0.025, 0), "fp": (5, 0.1)}
DELAY_S = 1.0
# Delays are read between the points of the internal grid.
DELAY_STEP_MIN = 0.15 / 60
DCE_FILES = {
    "dce_DRO_data_tofts.csv": ("tofts", {"ktrans": "Ktrans", "ve": "ve"}),
    "dce_DRO_data_extended_tofts.csv": ("extended-tofts", {"ktrans": "Ktrans", "ve": "ve", "vp": "vp"}),
    "patlak_sd_0.02_delay_0.csv": ("patlak", {"ps": "ps", "vp": "vp"}),
    "patlak_sd_0.02_delay_5.csv": ("patlak", {"ps": "ps", "vp": "vp"}),
    "2cxm_sd_0.001_delay_0.csv": ("2cxm", {"fp": "fp", "ps": "ps", "ve": "ve", "vp": "vp"}),
    "2cxm_sd_0.001_delay_5.csv": ("2cxm", {"fp": "fp", "ps": "ps", "ve": "ve", "vp": "vp"}),
    "2cum_sd_0.0025_delay_0.csv": ("2cum", {"fp": "fp", "ps": "ps", "vp": "vp"}),
    "2cum_sd_0.0025_delay_5.csv": ("2cum", {"fp": "fp", "ps": "ps", "vp": "vp"}),
}
Outcome = tuple[str, int, int, list[str]]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a table, names stripped."""
    csv.field_size_limit(10**7)
    with path.open(encoding="utf-8-sig") as stream:
        return [{(k or "").strip(): v for k, v in row.items()} for row in csv.DictReader(stream)]


def numbers(text: str) -> Tensor:
    """A cell of numbers."""
    return torch.tensor([float(cell) for cell in text.split()], dtype=torch.float64)


def inside(value: float, truth: float, absolute: float, relative: float) -> bool:
    """True when a value lies within absolute + relative of the truth."""
    return abs(value - truth) <= absolute + relative * abs(truth)


def dce_models(folder: Path) -> Iterator[Outcome]:
    """Every curve of every model; files with a delay have it fitted too."""
    for name, (model, columns) in DCE_FILES.items():
        rows = rows_of(folder / "dce_models" / name)
        delayed = any(float(row.get("arterial_delay", 0) or 0) for row in rows)
        failed = []
        for group in grouped(rows):
            failed += _dce_group(model, columns, group, delayed=delayed)
        yield f"dce_models/{name}", len(rows) - len(failed), len(rows), failed


def grouped(rows: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Rows that share times and input, which are fitted together."""
    by_input: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        by_input.setdefault((row["t"], row.get("cp_aif") or row["ca"]), []).append(row)
    yield from by_input.values()


def _dce_group(model: str, columns: dict[str, str], rows: list[dict[str, str]], *, delayed: bool) -> list[str]:
    minutes = numbers(rows[0]["t"]) / 60
    plasma = numbers(rows[0].get("cp_aif") or rows[0]["ca"])
    curves = torch.stack([numbers(row.get("C_t") or row["C"]) for row in rows], 1)
    given = InputFunction(minutes, plasma, plasma, "reference")
    grid, on_grid, _ = timing(minutes, None, given, longest_step_min=DELAY_STEP_MIN if delayed else None)
    found = fit(DCE_MODELS[model](grid, on_grid, delay=DELAY if delayed else None), curves)
    failed = []
    for i, row in enumerate(rows):
        good = all(inside(float(found.values[p][i]), float(row[c]), *TOLERANCE[p]) for p, c in columns.items())
        if delayed:
            good &= inside(60 * float(found.values["delay"][i]), float(row["arterial_delay"]), DELAY_S, 0)
        if not good:
            got = ", ".join(f"{p} {float(found.values[p][i]):.4g} for {row[c]}" for p, c in columns.items())
            failed.append(f"{row['label']}: {got}")
    return failed


def t1_maps(folder: Path) -> Iterator[Outcome]:
    """R1 of every voxel; the prostate file has references with and without B1, by the line and by the full fit."""
    for name in ("t1_brain_data.csv", "t1_quiba_data.csv"):
        scale = 1000.0 if "quiba" in name else 1.0
        rows = rows_of(folder / "t1" / name)
        yield _t1(f"t1/{name}", rows, lambda row, k=scale: k * float(row["R1"]), t1_from_flips_nonlinear, 1.0)
    rows = rows_of(folder / "t1" / "t1_prostate_data.csv")
    for column, function, b1 in (
        ("T1 nonlinear", t1_from_flips_nonlinear, False),
        ("T1 nonlinear B1cor", t1_from_flips_nonlinear, True),
        ("T1 linear", t1_from_flips, False),
    ):
        reference = lambda row, c=column: 1000.0 / float(row[c])  # noqa: E731
        yield _t1(f"t1/t1_prostate_data.csv ({column})", rows, reference, function, 0.001, b1=b1)


def _t1(
    name: str,
    rows: list[dict[str, str]],
    reference: Callable[[dict[str, str]], float],
    function: Callable[..., object],
    tr_scale: float,
    *,
    b1: bool = False,
) -> Outcome:
    failed = []
    for row in rows:
        scale = torch.tensor([float(row["B1"]) / 100], dtype=torch.float64) if b1 else None
        tr_s = float(numbers(row["TR"])[0]) * tr_scale
        found = function(numbers(row["s"])[:, None], numbers(row["FA"]), tr_s=tr_s, b1=scale)
        r1, truth = 1 / float(found.values["t1"]), reference(row)  # type: ignore[attr-defined]
        if not inside(r1, truth, 0.05, 0.05):
            failed.append(f"{row['label']}: R1 {r1:.4g} for {truth:.4g}")
    return name, len(rows) - len(failed), len(rows), failed


def concentrations(folder: Path) -> Iterator[Outcome]:
    """Signal to concentration, every point of every curve; the first point is left out of the baseline."""
    rows = rows_of(folder / "signal_to_concentration" / "SI2Conc_data.csv")
    failed = []
    for row in rows:
        found = signal_to_concentration(
            numbers(row["s"])[:, None],
            t10_s=torch.tensor([float(row["T1base"])], dtype=torch.float64),
            flip_rad=math.radians(float(row["FA"])),
            tr_s=float(row["TR"]),
            relaxivity_per_s_mm=float(row["r1"]),
            baseline=slice(1, int(row["numbaselinepts"])),
        )[:, 0]
        truth = numbers(row["conc"])
        if not bool(((found - truth).abs() <= 1e-5 + 1e-5 * truth.abs()).all()):
            failed.append(f"{row['label']}: off by {float((found - truth).abs().max()):.3g} mM")
    yield "signal_to_concentration/SI2Conc_data.csv", len(rows) - len(failed), len(rows), failed


def inputs(folder: Path) -> Iterator[Outcome]:
    """Population inputs, every point."""
    for name, curve, per_minute in (
        ("ParkerAIF_ref.csv", parker, 1.0),
        ("ParkerAIF_ref_with_delay.csv", parker, 1.0),
        ("GeorgiouAIF_ref.csv", georgiou, 1.0),
        ("preclinicalAIF_ref.csv", preclinical, 60.0),
        ("preclinicalAIF_ref_delay.csv", preclinical, 60.0),
    ):
        rows = rows_of(folder / "aif" / name)
        minutes = torch.tensor([float(r["time"]) / per_minute for r in rows], dtype=torch.float64)
        delay = torch.tensor([float(r.get("delay") or 0) / 60 for r in rows], dtype=torch.float64)
        truth = torch.tensor([float(r["Cb"]) for r in rows], dtype=torch.float64)
        found = curve(minutes - delay)
        good = (found - truth).abs() <= 1e-4 + 0.01 * truth.abs()
        failed = [
            f"{float(minutes[i]):g} min: {float(found[i]):.5g} for {float(truth[i]):.5g}" for i in torch.nonzero(~good)
        ]
        yield f"aif/{name}", int(good.sum()), len(rows), failed


def pet_curves(folder: Path) -> Iterator[Outcome]:
    """Rate constants of the noise-free curves within 1 %, and Ki by Patlak of the irreversible ones.

    The curves were made by a discrete convolution, and are read as such. Those of the reversible model carry K1 times
    (r1 - r2) / (r1 + r2), r the two rates: the program that made them divided by the sum of its rates instead of their
    difference, which its later versions have mended.
    """
    plasma = np.loadtxt(folder / "fdg_plasma_clamp_evenly_resampled.txt")
    times, activity = torch.tensor(plasma[:, 0]), torch.tensor(plasma[:, 1])
    given = InputFunction(times, activity, activity, "reference")
    for model, name in (("1t", "1tcm"), ("2t-irreversible", "serial_2tcm_k4zero"), ("2t-reversible", "serial_2tcm")):
        sets = sorted((folder / name).glob("params_*.json"))
        failed = []
        for path in sets:
            truth = dict(json.loads(path.read_text())["params"])
            if model == "2t-reversible":
                total = truth["k2"] + truth["k3"] + truth["k4"]
                truth["k1"] *= math.sqrt(total**2 - 4 * truth["k2"] * truth["k4"]) / total
            failed += _pet_set(model, folder / name, path.stem[-6:], truth, given)
        yield f"petpal_tacs/{name}", len(sets) - len({f.split(":")[0] for f in failed}), len(sets), failed


def _pet_set(model: str, folder: Path, number: str, truth: dict[str, float], given: InputFunction) -> list[str]:
    curve = np.loadtxt(next((folder / "noise_free").glob(f"*{number}.txt")))
    frames, values = Frames(torch.tensor(curve[:, 0])), torch.tensor(curve[:, 1])[:, None]
    found = fit_kinetics(model, values, frames, given, bounds={"vb": (0.0, 0.0)}, rectangle=True).values
    got = {name: float(found[name]) for name in truth}
    if model == "2t-irreversible":
        truth["ki"] = truth["k1"] * truth["k3"] / (truth["k2"] + truth["k3"])
        got["ki"] = float(patlak(values, frames, given, from_min=20.0).values["ki"])
    return [f"{number}: {n} {got[n]:.5g} for {truth[n]:.5g}" for n in truth if not inside(got[n], truth[n], 1e-6, 0.01)]


def kidney(folder: Path) -> Iterator[Outcome]:
    """Mean and standard deviation of T2* in the stated box: 32.5 and 24.0 ms within 2 %."""
    sidecars = {json.loads(p.read_text())["EchoTime"]: p for p in folder.glob("*.json")}
    times = sorted(sidecars)
    volumes = [np.asarray(nib.load(sidecars[t].with_suffix(".nii.gz")).dataobj, dtype=np.float32) for t in times]
    found = r2star_log_linear(torch.tensor(np.stack(volumes)), torch.tensor(times, dtype=torch.float64))
    box = (1000 / found.values["r2star"][30:60, 50:90, 2]).numpy()
    failed = []
    for what, value, truth in (("mean", float(np.nanmean(box)), 32.5), ("sd", float(np.nanstd(box)), 24.0)):
        if not inside(value, truth, 0, 0.02):
            failed.append(f"{what} {value:.2f} ms for {truth}")
    yield "r2star_philips (mean, sd)", 2 - len(failed), 2, failed


def main() -> int:
    """Print one line per file."""
    root = Path(os.environ["HYPOXNET_REFERENCE"])
    osipi = root / "osipi_dce"
    status = 0
    for check in (
        dce_models(osipi),
        t1_maps(osipi),
        concentrations(osipi),
        inputs(osipi),
        pet_curves(root / "petpal_tacs"),
        kidney(root / "r2star_philips"),
    ):
        for name, good, count, failed in check:
            print(f"{name}: {good} of {count}", flush=True)
            for reason in failed:
                print(f"    {reason}")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
