"""T1 from flip angles and inversions, R2* from echoes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.config import InversionSettings, R2StarSettings, VfaSettings
from hypoxnet.maps.fitting import FitResult
from hypoxnet.maps.inversion import t1_from_inversions, t1_from_look_locker
from hypoxnet.maps.kinds.base import Extra, MadeMaps, Maker, MapInputs, MapKind, foreground
from hypoxnet.maps.r2star import near_air, r2star_arlo, r2star_log_linear, r2star_nonlinear
from hypoxnet.maps.relaxometry import t1_from_flips, t1_from_flips_nonlinear
from hypoxnet.maps.series import Series

TR_KEYS = ("RepetitionTimeExcitation", "RepetitionTime")
B1 = Extra("b1", "B1", "map", "map of actual over nominal flip angle")
MASK = Extra("mask", "BODY", "mask", "where to fit; the foreground when not given")
AIR = Extra("air", "AIR", "mask", "air cavities")
METHODS = {"log-linear": r2star_log_linear, "arlo": r2star_arlo, "nonlinear": r2star_nonlinear}


def _make_vfa(inputs: MapInputs, settings: VfaSettings) -> MadeMaps:
    series = inputs.series
    flips = torch.tensor(series.per_volume("FlipAngle", settings.flips_deg, flag="flips_deg"), dtype=torch.float64)
    tr_s = series.single(TR_KEYS, settings.tr_s, flag="tr_s")
    signal = inputs.signal()
    function = t1_from_flips_nonlinear if settings.method == "nonlinear" else t1_from_flips
    found = function(
        signal, flips, tr_s=tr_s, b1=inputs.map("b1"), mask=foreground(signal, inputs.mask()), progress=inputs.progress
    )
    maker = Maker("vfa", inputs, settings, {"FlipAngle": flips.tolist(), "RepetitionTime": tr_s})
    if "b1" not in inputs.maps:
        maker.notes.append("no B1 map: T1 is off by about twice the error of the flip angle")
    return _t1_maps(maker, found)


def _make_inversion(inputs: MapInputs, settings: InversionSettings) -> MadeMaps:
    given = settings.inversion_times_s
    times = inputs.series.per_volume("InversionTime", given, flag="inversion_times_s")
    tensor = torch.tensor(times, dtype=torch.float64)
    signal = inputs.signal()
    mask = foreground(signal, inputs.mask())
    if settings.look_locker:
        found = t1_from_look_locker(signal, tensor, magnitude=settings.magnitude, mask=mask, progress=inputs.progress)
    else:
        found = t1_from_inversions(
            signal,
            tensor,
            magnitude=settings.magnitude,
            efficiency=settings.efficiency,
            mask=mask,
            progress=inputs.progress,
        )
    return _t1_maps(Maker("inversion", inputs, settings, {"InversionTime": times}), found)


def _t1_maps(maker: Maker, found: FitResult) -> MadeMaps:
    t1, error = found.values["t1"], found.errors["t1"]
    maker.add("T1", t1, error)
    maker.add("R1", 1 / t1, error / t1**2)
    return maker.made(found)


def echoes_in_order(series: Series, given: list[float]) -> tuple[Series, Tensor]:
    """The series sorted by echo time, and the times in seconds."""
    times = series.per_volume("EchoTime", given, flag="echo_times_s")
    order = sorted(range(len(times)), key=times.__getitem__)
    # Times that the user gives are those of the volumes as they come: a wrong order is a mistake, not a choice.
    if given or order == list(range(len(times))):
        return series, torch.tensor(times, dtype=torch.float64)
    return series.reordered(order), torch.tensor([times[i] for i in order], dtype=torch.float64)


def fit_r2star(inputs: MapInputs, settings: R2StarSettings, series: Series) -> tuple[FitResult, list[float]]:
    """R2* of one series with the method of the settings."""
    ordered, times = echoes_in_order(series, settings.echo_times_s)
    signal = inputs.signal(ordered)
    mask = foreground(signal, inputs.mask())
    if settings.method == "log-linear":
        found = r2star_log_linear(signal, times, noise_sd=settings.noise_sd, mask=mask, progress=inputs.progress)
    else:
        found = METHODS[settings.method](signal, times, mask=mask, progress=inputs.progress)
    return found, times.tolist()


def _make_r2star(inputs: MapInputs, settings: R2StarSettings) -> MadeMaps:
    found, times = fit_r2star(inputs, settings, inputs.series)
    maker = Maker("r2star", inputs, settings, {"EchoTime": times})
    r2star = found.values["r2star"]
    excluded, figures = without_air(inputs, settings, maker)
    if excluded is not None:
        r2star = torch.where(excluded, float("nan"), r2star)
    error = found.errors["r2star"]
    maker.add("R2STAR", r2star, error)
    maker.add("T2STAR", 1 / torch.where(r2star > 0, r2star, float("nan")), error / r2star**2)
    return maker.made(found, figures=figures)


def without_air(
    inputs: MapInputs, settings: R2StarSettings, maker: Maker
) -> tuple[Tensor | None, dict[str, float | str]]:
    """Voxels next to air, which say nothing about oxygen, and their share of the region."""
    if "air" not in inputs.masks or settings.air_mm <= 0:
        return None, {}
    air = inputs.masks["air"]
    region = inputs.masks.get("tumour", ~air)
    exclusion = near_air(air, region, spacing_mm=inputs.series.grid.spacing_mm, within_mm=settings.air_mm)
    everywhere = near_air(air, np.ones_like(air), spacing_mm=inputs.series.grid.spacing_mm, within_mm=settings.air_mm)
    maker.notes.append(f"{100 * exclusion.share:.1f} % of the region lies {exclusion.reason} and has no value")
    excluded = torch.from_numpy(np.ascontiguousarray(everywhere.excluded.transpose(2, 1, 0))).to(inputs.device)
    return excluded, {"ExcludedShare": exclusion.share, "ExcludedBecause": exclusion.reason}


def _make_dr2star(inputs: MapInputs, settings: R2StarSettings) -> MadeMaps:
    if "oxygen" not in inputs.others:
        raise MapError(f"{inputs.series.name}: dr2star compares two series; give the one under oxygen with --oxygen")
    oxygen = inputs.others["oxygen"]
    if not oxygen.grid.same_as(inputs.series.grid):
        raise MapError(
            f"{inputs.series.name}: air lies on {inputs.series.grid.describe()}, oxygen on {oxygen.grid.describe()}; "
            "resample one of them"
        )
    (before, times), (after, _) = (fit_r2star(inputs, settings, series) for series in (inputs.series, oxygen))
    maker = Maker("dr2star", inputs, settings, {"EchoTime": times, "Oxygen": [p.name for p in oxygen.files]})
    change = after.values["r2star"] - before.values["r2star"]
    error = torch.sqrt(after.errors["r2star"] ** 2 + before.errors["r2star"] ** 2)
    excluded, figures = without_air(inputs, settings, maker)
    if excluded is not None:
        change = torch.where(excluded, float("nan"), change)
    maker.add("DR2STAR", change, error)
    return maker.made(before, figures=figures)


VFA = MapKind(
    "vfa",
    "T1 and R1 from spoiled gradient echoes at several flip angles",
    VfaSettings,
    _make_vfa,
    lambda settings: ("T1", "R1"),
    (B1, MASK),
    "RAW_VFA",
    "map vfa fa2.nii.gz fa5.nii.gz fa12.nii.gz --flips-deg 2 5 12 --tr-s 0.0054 --output maps",
)
INVERSION = MapKind(
    "inversion",
    "T1 and R1 from inversion recovery, Look-Locker or MOLLI",
    InversionSettings,
    _make_inversion,
    lambda settings: ("T1", "R1"),
    (MASK,),
    "RAW_INVERSION",
    "map inversion ir.nii.gz --inversion-times-s 0.1 0.4 1.0 2.5 --output maps",
)
R2STAR = MapKind(
    "r2star",
    "R2* and T2* from a multi-echo gradient echo",
    R2StarSettings,
    _make_r2star,
    lambda settings: ("R2STAR", "T2STAR"),
    (MASK, AIR, Extra("tumour", "GTVP", "mask", "region whose excluded share is reported")),
    "RAW_R2STAR",
    "map r2star mge.nii.gz --echo-times-s 0.005 0.010 0.015 0.020 --output maps",
)
DR2STAR = MapKind(
    "dr2star",
    "change of R2* from air to oxygen",
    R2StarSettings,
    _make_dr2star,
    lambda settings: ("DR2STAR",),
    (
        Extra("oxygen", "RAW_R2STAR_OXYGEN", "series", "the series under oxygen (one 4D file)"),
        MASK,
        AIR,
        Extra("tumour", "GTVP", "mask", "region whose excluded share is reported"),
    ),
    "",
    "map dr2star air.nii.gz --oxygen oxygen.nii.gz --output maps",
)
