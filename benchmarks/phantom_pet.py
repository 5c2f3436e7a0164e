"""Verification figures and times of the tracer and PET links of the phantom, as one JSON object.

The oxygen here is made by hand: one vessel per tissue cylinder (Krogh, zero order), its radius drawn for each patient.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from hypoxnet.hypoxia.partial_volume import sphere_recovery
from hypoxnet.hypoxia.repeatability import Scan, ScanPair, image_repeatability
from hypoxnet.maps.pet_kinetics import Frames, fit_kinetics, frame_weights, patlak
from hypoxnet.phantom.fields import centred_grid, gaussian_field, resampled
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import FAZA, FDG, FMISO, HX4, TRACERS, Tracer
from hypoxnet.phantom.pet import acquire_pet, for_tracer, noise_sd, pet_grid
from hypoxnet.phantom.tracer import Kinetics, dynamic_suv, input_function, kinetics, late_suv, static_frame
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature

PATIENTS = 20
VESSEL_MM = 6.5
THRESHOLDS = {"FMISO": 1.4, "HX4": 1.2}
Patient = tuple[Anatomy, Vasculature, Oxygenation]


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    figures = {
        "tracer": {
            "ratio_at_150_min_by_k3": worked_table(),
            "peak_of_uptake": {tracer.name: peak(tracer) for tracer in (FMISO, FAZA, HX4)},
            "recovered_by_our_maps": recovered(),
            "cohort": {tracer.name: ratios(tracer) for tracer in TRACERS.values()},
        },
        "scanner": {
            "sphere_recovery": spheres(),
            "activity_kept": activity_kept(),
            "noise": noise(),
        },
        "test_retest_noise_and_place_only": {
            f"{tracer.name} noise_suv={level:g}": retest(tracer, level)
            for level in (0.03, 0.05, 0.07)
            for tracer in (FMISO, HX4)
        },
        "published": {
            "HX4 (Zegers 2015)": {"maximum_relative_rc": 0.17, "voxel_r": 0.65, "voxel_r_sd": 0.14},
            "EF5 (Silvoniemi 2018)": {"tmr_relative_rc": 0.10, "tmr_icc": 0.87, "voxel_r": 0.65},
        },
        "milliseconds": {f"{n}^3 at {mm:g} mm": times(n, mm) for n, mm in ((32, 3.0), (72, 2.0))},
    }
    print(json.dumps(figures, indent=2))


def krogh(radius_um: Tensor, *, count: int = 16) -> Oxygenation:
    """Oxygen round one vessel (40 mmHg, 5 um; 15 mmHg/s, 2000 um2/s, zero order), at nodes of equal area."""
    share = ((torch.arange(count) + 0.5) / count).reshape(-1, 1, 1, 1)
    square = 25.0 + share * (radius_um**2 - 25.0)
    fall = 15.0 / (4.0 * 2000.0) * (radius_um**2 * torch.log(square / 25.0) - (square - 25.0))
    nodes = (40.0 - fall).clamp(min=0.0)
    return Oxygenation(nodes.mean(0), nodes)


def vessels(radius_um: Tensor) -> Vasculature:
    """Flow falls with the distance of vessels, 60 ml/100ml/min at 50 um; tissue dies beyond 125 um."""
    none = torch.zeros_like(radius_um)
    viable = 1.0 / (1.0 + (radius_um / 125.0) ** 8)
    return Vasculature(radius_um, 60.0 * (50.0 / radius_um) ** 1.5, viable, none, none)


def patient(seed: int, *, n: int = 32, mm: float = 3.0) -> Patient:
    """An ellipsoidal tumour of 10 to 18 mm half axes in muscle, beside a vessel of 13 mm diameter."""
    draw = np.random.default_rng(seed)
    grid = centred_grid([n * mm] * 3, [mm] * 3)
    axis = (torch.arange(n) - (n - 1) / 2) * mm
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    a, b, c = (float(v) for v in draw.uniform(10.0, 18.0, 3))
    place = torch.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    tumour = place <= 1.0
    to_vessel = torch.sqrt((x - 0.375 * n * mm) ** 2 + (y + 0.3125 * n * mm) ** 2)
    tissue = torch.full(grid.shape, int(Tissue.MUSCLE), dtype=torch.uint8)
    tissue[to_vessel < VESSEL_MM] = int(Tissue.ARTERY)
    tissue[tumour] = int(Tissue.TUMOUR)
    depth = (1.0 - place).clamp(min=0.0) * (a + b + c) / 3.0
    muscle = (tissue == int(Tissue.MUSCLE)) & (place > 2.0) & (to_vessel > 15.0)
    anatomy = Anatomy(
        grid, tissue, tumour, torch.zeros_like(tissue), muscle, to_vessel < VESSEL_MM - 3.0, depth, "oropharynx"
    )
    texture = gaussian_field(grid.shape, length_mm=3.0, spacing_mm=grid.spacing_mm, generator=draw)
    level = 0.22 * draw.standard_normal() + 0.35 * ((depth / 15.0).clamp(max=1.0) - 0.4) + 0.28 * texture
    radius = (58.0 * torch.exp(level)).clamp(17.5, 160.0)
    return anatomy, vessels(radius), krogh(radius)


def uptake(tracer: Tracer, seed: int) -> tuple[Anatomy, Tensor]:
    """One patient's SUV before the scanner."""
    anatomy, vasculature, oxygen = patient(seed)
    return anatomy, late_suv(kinetics(oxygen, vasculature, anatomy, tracer, np.random.default_rng(seed)), tracer)


def line(*values: float) -> Tensor:
    """Values as voxels in a row."""
    return torch.tensor(values).reshape(1, 1, -1)


def worked_table() -> dict[str, list[float]]:
    """Tissue over blood at 150 min with Feng's input, K1 0.3, k2 0.5."""
    k3 = line(0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
    one, at = torch.ones_like(k3), Frames(torch.tensor([150.0], dtype=torch.float64))
    tissue = dynamic_suv(Kinetics(0.3 * one, 0.5 * one, k3, 0 * one), FDG, at)
    blood = dynamic_suv(Kinetics(0 * one, 0 * one, 0 * one, one), FDG, at)
    expected = [0.613, 0.857, 1.101, 1.826, 3.015, 5.325]
    return {"k3": k3.flatten().tolist(), "expected": expected, "reached": rounded((tissue / blood).flatten(), 4)}


def peak(tracer: Tracer) -> dict[str, float]:
    """Where late uptake against the voxel's mean pO2 is highest, and how high; published: about 5 mmHg."""
    radius = torch.linspace(20.0, 140.0, 600).reshape(1, 1, -1)
    oxygen, none = krogh(radius, count=64), torch.zeros(1, 1, 600, dtype=torch.uint8)
    grid = centred_grid([1.0, 1.0, 600.0], [1.0] * 3)
    off = none.bool()
    anatomy = Anatomy(grid, none + int(Tissue.TUMOUR), ~off, none, off, off, none.float(), "oropharynx")
    ratio = (late_suv(kinetics(oxygen, vessels(radius), anatomy, tracer), tracer) / tracer.blood_suv)[0, 0]
    po2 = oxygen.po2[0, 0]
    at = {f"tbr_at_{p:g}_mmhg": round(float(ratio[(po2 - p).abs().argmin()]), 3) for p in (1, 2.5, 5, 10, 20, 30)}
    return {"peak_mmhg": round(float(po2[ratio.argmax()]), 2), "peak_tbr": round(float(ratio.max()), 2), **at}


def protocol() -> Frames:
    """47 frames in 150 min."""
    seconds = np.repeat([5, 10, 30, 60, 300, 600], [12, 6, 6, 5, 8, 10])
    ends = torch.from_numpy(np.cumsum(seconds) / 60.0)
    return Frames(ends - torch.from_numpy(seconds / 60.0), ends)


def recovered() -> dict[str, object]:
    """Largest relative error of what our maps find without noise, and bias and SD with it."""
    frames, given, draw = protocol(), input_function(FMISO), np.random.default_rng(0)
    k1, partition, k3, vb = (
        torch.from_numpy(draw.uniform(low, high, (8, 8, 8)).astype(np.float32))
        for low, high in ((0.1, 0.5), (0.7, 1.1), (0.001, 0.02), (0.02, 0.1))
    )
    truth = Kinetics(k1, k1 / partition, k3, vb)
    series = dynamic_suv(truth, FMISO, frames).reshape(47, -1)
    found = fit_kinetics("2t-irreversible", series, frames, given).values
    errors = {
        name: float((found[name] / getattr(truth, name).flatten() - 1).abs().max())
        for name in ("k1", "k2", "k3", "vb", "ki")
    }
    slope = patlak(series, frames, given, from_min=60.0).values["ki"]
    errors["patlak"] = float((slope / ((1 - vb) * truth.ki).flatten() - 1).abs().max())
    grid = centred_grid([72.0] * 3, [3.0] * 3)
    uniform = Kinetics(*(torch.full(grid.shape, v) for v in (0.3, 0.33, 0.008, 0.05)))
    noisy = acquire_pet(dynamic_suv(uniform, FMISO, frames), grid, PetScanner(), grid, draw, frames)
    curves = noisy.reshape(47, -1)[:, ::16]
    weights = frame_weights(frames, curves.mean(1), half_life_min=109.77)
    fitted = fit_kinetics("2t-irreversible", curves, frames, given, weights=weights)
    noisy_figures = {
        name: {
            "truth": value,
            "mean": round(float(fitted.values[name].mean()), 5),
            "sd": round(float(fitted.values[name].std()), 5),
            "median_stated_error": round(float(fitted.errors[name].median()), 5),
        }
        for name, value in (("k1", 0.3), ("k2", 0.33), ("k3", 0.008))
    }
    return {"largest_relative_error_without_noise": errors, "with_noise": noisy_figures}


def image_of(anatomy: Anatomy, suv: Tensor, tracer: Tracer, scanner: PetScanner, draw: np.random.Generator) -> Scan:
    """A static scan as ratio to blood."""
    grid = pet_grid(anatomy.grid, scanner, draw)
    pet = acquire_pet(suv, anatomy.grid, for_tracer(scanner, tracer), grid, draw, static_frame(tracer))
    tumour, blood = (resampled(m, anatomy.grid, grid) > 0.5 for m in (anatomy.tumour, anatomy.blood_reference))
    return Scan((pet / pet[blood].mean()).numpy(), tumour.numpy(), grid)


def ratios(tracer: Tracer) -> dict[str, list[float]]:
    """10th, 50th and 90th percentile over patients of what a static scan shows."""
    rows = []
    for seed in range(PATIENTS):
        anatomy, suv = uptake(tracer, seed)
        scan = image_of(anatomy, suv, tracer, PetScanner(), np.random.default_rng(1000 + seed))
        muscle = np.median(scan.ratio[(resampled(anatomy.muscle_reference, anatomy.grid, scan.grid) > 0.5).numpy()])
        tbr = scan.ratio[scan.tumour]
        rows.append([tbr.max(), tbr.max() / muscle, tbr.mean(), muscle, float(suv[anatomy.tumour].max())])
    names = ("tbr_max", "tmr_max", "tbr_mean", "muscle_over_blood", "suv_max_before_scanner")
    return {n: rounded(np.percentile(c, [10, 50, 90]), 2) for n, c in zip(names, np.array(rows).T, strict=True)}


def spheres() -> dict[str, list[float]]:
    """Recovery in the middle of balls of 5, 7.5 and 10 mm radius on voxels of 0.5 mm."""
    grid, out = centred_grid([32.5] * 3, [0.5] * 3), {}
    axis = (torch.arange(260) - 129.5) / 8.0
    square = (axis**2)[:, None, None] + (axis**2)[:, None] + axis**2
    for psf in (5.0, 6.0, 7.0):
        scanner = PetScanner(psf_mm=psf, voxel_mm=0.5)
        for radius in (5.0, 7.5, 10.0):
            ball = (square <= radius**2).reshape(65, 4, 65, 4, 65, 4).float().mean((1, 3, 5))
            reached = float(acquire_pet(ball, grid, scanner, grid, None)[32, 32, 32])
            out[f"psf {psf:g} radius {radius:g}"] = rounded([sphere_recovery(radius, psf), reached], 4)
    return out


def activity_kept() -> float:
    """Sum of an image over that of the object, voxels of 3 mm at a random place over 2 mm."""
    grid = centred_grid([72.0] * 3, [2.0] * 3)
    suv = torch.zeros(grid.shape)
    suv[14:22, 15:20, 13:24] = 3.0
    target = pet_grid(grid, PetScanner(), np.random.default_rng(0))
    image = acquire_pet(suv, grid, PetScanner(), target, None)
    return round(float(image.sum()) * target.voxel_ml / (float(suv.sum()) * grid.voxel_ml), 7)


def noise() -> dict[str, object]:
    """Mean, variance against counts, correlation and duration, each from eight fields of 96 mm."""
    scanner, grid = PetScanner(), centred_grid([96.0] * 3, [3.0] * 3)

    def images(suv: float, frames: Frames | None = None) -> Tensor:
        draws = [np.random.default_rng(seed) for seed in range(8)]
        return torch.stack([acquire_pet(torch.full(grid.shape, suv), grid, scanner, grid, d, frames) for d in draws])

    levels = [0.5, 1.0, 2.0, 4.0, 8.0]
    variances = [float(images(level).var(dim=(1, 2, 3)).mean()) for level in levels]
    slope, intercept = np.polyfit(levels, variances, 1)
    expected = scanner.noise_suv**2 / (1 + scanner.floor_suv)
    fine = centred_grid([72.0] * 3, [1.5] * 3)
    field = acquire_pet(torch.ones(fine.shape), fine, scanner, fine, np.random.default_rng(0)).numpy() - 1.0
    lags = np.fft.ifftn(np.abs(np.fft.fftn(field)) ** 2).real
    widths = [
        2 * float(np.interp(-0.5, -a / lags[0, 0, 0], 1.5 * np.arange(12))) for a in (lags[:12, 0, 0], lags[0, 0, :12])
    ]
    begin = torch.tensor([120.0], dtype=torch.float64)
    by_duration = {}
    for minutes in (2.0, 5.0, 20.0):
        variance = float(images(1.0, Frames(begin, begin + minutes)).var(dim=(1, 2, 3)).mean())
        decay = 2.0 ** ((120.0 + minutes / 2.0 - scanner.middle_min) / scanner.half_life_min)
        by_duration[f"{minutes:g} min"] = round(variance * minutes / decay, 5)
    stated = noise_sd(torch.ones(grid.shape), grid, scanner)
    return {
        "mean_at_suv_1": round(float(images(1.0).mean()), 5),
        "sd_at_suv_1": {"stated": round(float(stated[5, 5, 5]), 5), "reached": round(variances[1] ** 0.5, 5)},
        "variance_slope": rounded([expected, slope], 6),
        "variance_intercept": rounded([expected * scanner.floor_suv, intercept], 6),
        "autocorrelation_fwhm_mm": {"stated": scanner.correlation_mm, "reached": rounded(widths, 2)},
        "variance_times_duration_without_decay": by_duration,
    }


def retest(tracer: Tracer, noise_suv: float) -> dict[str, object]:
    """Two scans of the same uptake by the same scanner."""
    scanner, pairs = PetScanner(noise_suv=noise_suv), []
    for seed in range(PATIENTS):
        anatomy, suv = uptake(tracer, seed)
        draw = np.random.default_rng(2000 + seed)
        one, two = (image_of(anatomy, suv, tracer, scanner, draw) for _ in range(2))
        registered = resampled(torch.from_numpy(two.ratio), two.grid, one.grid).numpy()
        pairs.append(ScanPair(one, two, registered))
    found = image_repeatability(pairs, threshold=THRESHOLDS[tracer.name])
    rows = {"maximum": found.maximum, "peak": found.peak, "mean": found.mean, "hypoxic_ml": found.hypoxic_ml}
    figures: dict[str, object] = {
        f"{name}_{what}": rounded(list(asdict(getattr(row, what)).values()), 3)
        for name, row in rows.items()
        if row is not None
        for what in ("relative_rc", "icc")
    }
    scalars = {"voxel_r": found.voxel_r, "voxel_r_sd": found.voxel_r_sd, "dice": found.dice}
    return figures | {name: round(value, 3) if math.isfinite(value) else None for name, value in scalars.items()}


def times(n: int, mm: float) -> dict[str, float]:
    """Best of five, one thread."""
    anatomy, vasculature, oxygen = patient(1, n=n, mm=mm)
    rates = kinetics(oxygen, vasculature, anatomy, FMISO)
    suv, scanner, draw = late_suv(rates, FMISO), PetScanner(), np.random.default_rng(0)
    grid = pet_grid(anatomy.grid, scanner)
    steps: dict[str, Callable[[], object]] = {
        "kinetics": lambda: kinetics(oxygen, vasculature, anatomy, FMISO),
        "late_suv": lambda: late_suv(rates, FMISO),
        "acquire_pet": lambda: acquire_pet(suv, anatomy.grid, scanner, grid, draw),
    }
    out = {name: min(_milliseconds(step) for _ in range(5)) for name, step in steps.items()}
    return {name: round(value, 1) for name, value in (out | {"all": sum(out.values())}).items()}


def _milliseconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - begin)


def rounded(values: object, digits: int) -> list[float]:
    """Numbers for print."""
    return [round(float(v), digits) for v in np.asarray(values).ravel()]


if __name__ == "__main__":
    main()
