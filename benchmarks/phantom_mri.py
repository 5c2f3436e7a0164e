"""The MRI of the digital reference object: its equations checked, its maps held against the truth, and what it costs.

Prints one JSON object. Run on one thread, in less than a minute:

    OMP_NUM_THREADS=1 python benchmarks/phantom_mri.py
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.special import ive
from torch import Tensor

from hypoxnet.phantom.fields import centred_grid, gaussian_field, resampled
from hypoxnet.phantom.mri.acquire import NOISE, acquire, acquire_mr, mr_session, rician
from hypoxnet.phantom.mri.contrast import concentration
from hypoxnet.phantom.mri.maps import MAKERS, fitted_maps, true_maps
from hypoxnet.phantom.mri.properties import (
    MrProperties,
    mr_properties,
    r2prime_per_s,
    vessel_pressure_under_oxygen,
)
from hypoxnet.phantom.mri.sequences import NEEDS, SEQUENCES, diffusion_signal, raw_series
from hypoxnet.phantom.parameters.mri import MrProtocol, MrScanner, MrTissue
from hypoxnet.phantom.words import Anatomy, Oxygenation, RawSeries, Tissue, Vasculature

IDEAL = MrProtocol(spoiled_te_s=0.0, wash_in_s=1e-3)
VOXELS = 8000
HYPOXIC_MMHG = 10.0


def krogh_mmhg(radius_um: Tensor, vessel_mmhg: Tensor | float) -> Tensor:
    """Mean pO2 between vessels, enough for a benchmark: g (p_v - p) = M p / (p + K)."""
    supply = 4000.0 / (radius_um**2 * (torch.log(radius_um / 5.0) - 0.75))
    b, c = 2.0 + 15.0 / supply - vessel_mmhg, 2.0 * torch.as_tensor(vessel_mmhg)
    return 0.5 * (torch.sqrt(b**2 + 4.0 * c) - b)


def neck(side: int, spacing_mm: float, seed: int) -> tuple[Anatomy, Vasculature, Oxygenation, Oxygenation]:
    """A neck with a round tumour whose vessels become sparse with depth."""
    generator = np.random.default_rng(seed)
    grid = centred_grid((side * spacing_mm,) * 3, (spacing_mm,) * 3)
    axis = (torch.arange(side) - (side - 1) / 2) * spacing_mm
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    half = side * spacing_mm / 2
    tissue = torch.zeros(side, side, side, dtype=torch.uint8)
    tissue[x**2 + y**2 < (0.9 * half) ** 2] = int(Tissue.FAT)
    tissue[x**2 + y**2 < (0.8 * half) ** 2] = int(Tissue.SOFT)
    tissue[(x.abs() > 0.4 * half) & (x.abs() < 0.7 * half) & (y < -0.2 * half) & (y > -0.5 * half)] = int(Tissue.MUSCLE)
    tissue[x**2 + (y - 0.45 * half) ** 2 < 7.5**2] = int(Tissue.AIRWAY)
    tissue[x**2 + (y + 0.6 * half) ** 2 < 9.0**2] = int(Tissue.BONE)
    tissue[(x.abs() - 0.5 * half) ** 2 + y**2 < 4.0**2] = int(Tissue.ARTERY)
    distance = ((x - 4) ** 2 + (y - 2) ** 2 + z**2).sqrt()
    tumour = (distance < 16.0) & (tissue != int(Tissue.AIRWAY))
    tissue[tumour] = int(Tissue.TUMOUR)
    depth = torch.where(tumour, 16.0 - distance, 0.0)
    texture = gaussian_field(tissue.shape, length_mm=6.0, spacing_mm=grid.spacing_mm, generator=generator)
    level = 0.2 * float(generator.standard_normal())
    radius = torch.where(tumour, 46.0 * torch.exp(level + 0.35 * (1 - torch.exp(-depth / 6)) + 0.28 * texture), 34.0)
    viable = torch.where(tumour, torch.sigmoid((120.0 - radius) / 8.0), 1.0)
    flow = torch.where(tumour, 130.0 * 46.0 / radius * viable, 20.0)
    none = torch.zeros_like(tissue)
    anatomy = Anatomy(grid, tissue, tumour, none, none.bool(), none.bool(), depth, "oropharynx")
    vessels = Vasculature(radius, flow, viable, torch.zeros_like(radius), torch.zeros_like(radius))
    pressures = (40.0, vessel_pressure_under_oxygen(flow, MrTissue()))
    air, breathing = (krogh_mmhg(radius, pressure) for pressure in pressures)
    return anatomy, vessels, Oxygenation(air, air[None]), Oxygenation(breathing, breathing[None])


def drawn(count: int) -> MrProperties:
    """Voxels in a row over the range of tissue, float64."""
    generator = np.random.default_rng(0)

    def between(low: float, high: float) -> Tensor:
        return torch.from_numpy(generator.uniform(low, high, (count, 1, 1)))

    none = torch.zeros(count, 1, 1, dtype=torch.float64)
    return MrProperties(
        proton_density=between(0.5, 1.0),
        r1=between(0.5, 1.5),
        dr1=between(0.0, 0.08),
        r2=between(8.0, 30.0),
        r2star=between(20.0, 90.0),
        r2star_oxygen=between(20.0, 90.0),
        saturation=none,
        flow=between(80.0, 150.0),
        ps=none,
        ktrans=between(0.05, 0.5),
        ve=between(0.15, 0.6),
        vp=between(0.01, 0.08),
        delay_s=none,
        d=between(0.6, 1.6),
        f=between(0.03, 0.25),
        d_star=between(40.0, 60.0),
        transmit=none + 1.0,
    )


def worked_numbers() -> dict[str, dict[str, Any]]:
    """Numbers that were computed independently."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    base = drawn(1)
    tissue = MrTissue(haematocrit=0.4)
    voxel = replace(base, ktrans=0.25 * one, ve=0.3 * one, vp=0.05 * one, flow=60.0 * one, ps=0.2 * one)
    flat = voxel.each(lambda m: m.flatten())
    times = [20.0 + 60.0 * t for t in (0.5, 1.0, 2.0, 5.0)]
    bolus = MrProtocol(bolus_s=20.0, contrast_volumes=60)
    slow = replace(base, proton_density=one, f=0.15 * one, d=0.82 * one, d_star=20.0 * one)
    spoiled = SEQUENCES["RAW_VFA"](
        replace(base, proton_density=one, r1=one), replace(IDEAL, flips_deg=(2.0, 5.0, 12.0))
    )
    tofts = [float(c) for c in concentration(flat, bolus, times)]
    exchange = [float(c) for c in concentration(flat, replace(bolus, contrast_model="2cxm"), times)]
    return {
        "r2prime_per_s": _pair(7.0995, float(r2prime_per_s(0.05 * one, 0.6 * one, tissue))),
        "dr1_of_plasma_400_mmhg": _pair(0.0788, MrTissue().r1_oxygen_per_s_mmhg * 400.0),
        "spoiled_2_5_12_deg": _pair([0.0311177, 0.049544, 0.0387927], spoiled.signal.flatten().tolist()),
        "ivim_b_100_400_1000": _pair(
            [0.80338, 0.61236, 0.37437], [float(diffusion_signal(slow, b, te_s=0.0)) for b in (100.0, 400.0, 1000.0)]
        ),
        "extended_tofts_mm": _pair([0.48649, 0.5024, 0.48574, 0.32681], tofts),
        "2cxm_mm_0.5_1_5_min": _pair([0.32125, 0.37226, 0.34519], [exchange[0], exchange[1], exchange[3]]),
    }


def _pair(expected: Any, reached: Any) -> dict[str, Any]:
    shown = [round(x, 6) for x in reached] if isinstance(reached, list) else round(reached, 6)
    return {"expected": expected, "reached": shown}


def recovery() -> dict[str, dict[str, float]]:
    """Largest and median relative error of maps fitted to signal without noise."""
    p = drawn(VOXELS)
    inside = torch.ones(p.r1.shape, dtype=torch.bool)
    raw = {name: sequence(p, IDEAL) for name, sequence in SEQUENCES.items()}
    truth, found = true_maps(p, list(MAKERS), IDEAL), fitted_maps(raw, list(MAKERS), inside)
    out = {}
    for name in MAKERS:
        error = (found[name] - truth[name]).abs()
        scale = truth[name].abs().mean()
        out[name] = {"median": float((error / scale).median()), "largest": float((error / scale).max())}
    return out


def errors_with_noise() -> dict[str, dict[str, float]]:
    """Mean and sd of (fit - truth) over the smallest possible standard error (Cramer-Rao)."""
    p = replace(drawn(VOXELS), f=torch.zeros(VOXELS, 1, 1, dtype=torch.float64))
    inside = torch.ones(p.r1.shape, dtype=torch.bool)
    scanner, out = MrScanner(), {}
    for name, series, decay, axis in (
        ("R2STAR", "RAW_R2STAR", p.r2star, IDEAL.echo_times_s),
        ("ADC", "RAW_ADC", p.d, tuple(1e-3 * b for b in IDEAL.adc_b_values)),
    ):
        clean = SEQUENCES[series](p, IDEAL)
        for label, snr in (("scan", scanner.snr_of(series)), ("ten_times", 10 * scanner.snr_of(series))):
            sd = float(clean.signal[0].mean()) / snr
            seen = rician(clean.signal.float(), sd, np.random.default_rng(1))
            found = fitted_maps({series: RawSeries(series, seen, {**clean.sidecar, NOISE: sd})}, [name], inside)[name]
            flat = clean.signal.flatten(1)
            rows = torch.stack([-torch.tensor(axis, dtype=torch.float64)[:, None] * flat, flat])
            information = torch.einsum("ptn,qtn->npq", rows, rows) / sd**2
            z = (found - decay).flatten() / torch.linalg.inv(information)[:, 0, 0].sqrt()
            out[f"{name}, SNR {snr:g} ({label})"] = {
                "mean_z": round(float(z.mean()), 3),
                "sd_z": round(float(z.std()), 3),
            }
    return out


def magnitude() -> dict[str, dict[str, Any]]:
    """Mean and variance of Rician noise against their closed forms."""
    out = {}
    for snr in (0.0, 1.0, 3.0):
        seen = rician(torch.full((1_000_000,), snr), 1.0, np.random.default_rng(0)).double()
        half = snr**2 / 4
        mean = math.sqrt(math.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
        out[f"SNR {snr:g}"] = {
            "mean": _pair(round(mean, 5), float(seen.mean())),
            "variance": _pair(round(2 + snr**2 - mean**2, 5), float(seen.var())),
        }
    return out


def population(patients: int) -> dict[str, Any]:
    """Tumours of simple necks against published ranges, and scans repeated without change."""
    rows: dict[str, list[float]] = {}
    apart = []
    for seed in range(patients):
        anatomy, *rest = neck(24, 3.0, seed)
        p = mr_properties(anatomy, *rest, MrTissue(), np.random.default_rng(seed))
        truth = true_maps(p, ["T2STAR", "R2STAR", "KTRANS", "VE", "VP", "ADC", "DT1", "DR2STAR", "T1"], MrProtocol())
        hypoxic = anatomy.tumour & (rest[1].po2 < HYPOXIC_MMHG)
        for name, values in truth.items():
            rows.setdefault(name, []).append(float(values[anatomy.tumour].median()))
            if name in {"T2STAR", "DT1", "KTRANS"} and int(hypoxic.sum()) > 10:
                rows.setdefault(f"{name} hypoxic", []).append(float(values[hypoxic].median()))
                rest_of = anatomy.tumour & ~hypoxic
                rows.setdefault(f"{name} not hypoxic", []).append(float(values[rest_of].median()))
        apart.append([_tumour_t2star(anatomy, p, seed + 1000 * day) for day in (1, 2)])
    pairs = np.array(apart)
    difference = (pairs[:, 0] - pairs[:, 1]) / pairs.mean(1)
    quantiles = {n: [round(float(np.quantile(v, q)), 5) for q in (0.05, 0.5, 0.95)] for n, v in rows.items()}
    return {
        "median_of_tumour_5_50_95": quantiles,
        "t2star_limits_of_agreement_percent": round(196 * difference.std(), 2),
    }


def _tumour_t2star(anatomy: Anatomy, properties: MrProperties, seed: int) -> float:
    session = mr_session(anatomy, MrScanner(voxel_mm=(3.0, 3.0, 3.0)), np.random.default_rng(seed))
    (series,) = raw_series(properties, MrProtocol(), ["RAW_R2STAR"], session)
    seen = acquire_mr(series, session, np.random.default_rng(seed))
    mask = resampled(anatomy.tumour, anatomy.grid, session.grid) > 0.5
    return float(1 / fitted_maps({"RAW_R2STAR": seen}, ["R2STAR"], mask)["R2STAR"][mask].median())


def timings(side: int, spacing_mm: float, voxel_mm: tuple[float, float, float], reach_mm: float) -> dict[str, Any]:
    """Milliseconds of processor time on one thread, per step."""
    anatomy, *rest = neck(side, spacing_mm, 0)
    scanner = MrScanner(voxel_mm=voxel_mm)
    out: dict[str, Any] = {}
    out["properties"], p = _ms(lambda: mr_properties(anatomy, *rest, MrTissue(), np.random.default_rng(0)))
    out["session"], session = _ms(lambda: mr_session(anatomy, scanner, np.random.default_rng(0)))
    tumour = resampled(anatomy.tumour, anatomy.grid, session.grid) > 0.5
    body = resampled(anatomy.body, anatomy.grid, session.grid) > 0.5
    away = distance_transform_edt(~tumour.numpy(), sampling=session.grid.spacing_mm)
    mask = torch.from_numpy(away < reach_mm) & body
    raw = {}
    for name in SEQUENCES:
        signal_ms, (series,) = _ms(lambda name=name: list(raw_series(p, MrProtocol(), [name], session)))
        seen_ms, seen = _ms(lambda series=series: acquire(series, session, np.random.default_rng(0)))
        raw[name] = seen.series
        out[name] = {"volumes": len(series.signal), "signal": signal_ms, "recorded": seen_ms}
    for wanted in (["T1"], ["R2STAR"], ["DR2STAR"], ["DR1"], ["KTRANS", "VE", "VP"], ["ADC"], ["IVIM_D", "IVIM_F"]):
        needed = {series: raw[series] for series in NEEDS[wanted[0]]}
        out[f"fit {' '.join(wanted)}"], _ = _ms(lambda w=wanted, n=needed: fitted_maps(n, w, mask))
    spent = [v if isinstance(v, float) else v["signal"] + v["recorded"] for v in out.values()]
    return {"images": session.grid.describe(), "voxels_fitted": int(mask.sum()), "all_ms": round(sum(spent), 1), **out}


def _ms(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    made, best = work(), math.inf
    for _ in range(repeats):
        begin = time.thread_time()
        made = work()
        best = min(best, time.thread_time() - begin)
    return round(1000 * best, 1), made


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    figures = {
        "worked_numbers": worked_numbers(),
        "recovery_without_noise_relative": recovery(),
        "errors_over_the_least_possible": errors_with_noise(),
        "magnitude": magnitude(),
        "population": population(30),
        "ms_small": timings(32, 3.0, (3.0, 3.0, 3.0), 20.0),
        "ms_standard": timings(72, 2.0, (2.0, 2.0, 3.0), 42.0),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
