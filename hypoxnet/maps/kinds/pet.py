"""Maps of PET: SUV, ratios, kinetics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.config import PetSettings, RatioSettings, SuvSettings
from hypoxnet.maps.input_functions import InputFunction, find_vessel, read_input, vessel_curve
from hypoxnet.maps.kinds.base import Extra, MadeMaps, Maker, MapInputs, MapKind, foreground
from hypoxnet.maps.kinds.relaxation import MASK
from hypoxnet.maps.pet_kinetics import Frames, choose_model, fit_kinetics, frame_weights, logan, patlak
from hypoxnet.maps.reference_region import find_muscle, ratio_map, reference_report
from hypoxnet.maps.series import Series
from hypoxnet.maps.suv import Body, Injection, SuvKind, suv_factor
from hypoxnet.quantities import quantity

SECONDS = 60.0
MACRO = {
    "patlak": ("KI", "V0"),
    "logan": ("VT",),
    "1t": ("K1", "K2", "VB", "VT"),
    "2t-irreversible": ("KI", "K1", "K2", "K3", "VB"),
    "2t-reversible": ("VT", "K1", "K2", "K3", "VB"),
    "3t-irreversible": ("KI", "K1", "K2", "K3", "VB"),
    "casciari": ("K3", "K1", "VB"),
}
# What the constants of the Casciari model are in the words of the others: flow brings the tracer, Ka traps it.
CASCIARI = {"k3": "ka", "k1": "flow"}


def frames_of(series: Series, settings: PetSettings) -> Frames:
    """Begin and end of the frames.

    Raises:
        MapError: Nobody knows them, or there are not as many as volumes.
    """
    starts = series.per_volume("FrameTimesStart", settings.frame_starts_s, flag="frame_starts_s")
    durations = series.per_volume("FrameDuration", settings.frame_durations_s, flag="frame_durations_s")
    begin = torch.tensor(starts, dtype=torch.float64) / SECONDS
    end = begin + torch.tensor(durations, dtype=torch.float64) / SECONDS
    if float(end[-1]) > 24 * 60:
        raise MapError(f"{series.name}: the last frame ends after {float(end[-1]) / 60:.0f} h; give seconds, not ms")
    return Frames(begin, end)


def _make_pet(inputs: MapInputs, settings: PetSettings) -> MadeMaps:
    series = inputs.series
    if len(series) < 4:
        raise MapError(
            f"{series.name}: {series.files[0].name} has {len(series)} frames; kinetics need a 4D series of four or more"
        )
    frames = frames_of(series, settings)
    activity = inputs.signal()
    mask = foreground(activity, inputs.mask())
    used: dict[str, Any] = {
        "FrameTimesStart": (frames.starts_min * SECONDS).tolist(),
        "FrameEnd": (frames.ends_min * SECONDS).tolist() if frames.ends_min is not None else [],
    }
    given = _input(inputs, settings, activity, frames, mask, used)
    maker = Maker("pet", inputs, settings, used)
    if settings.model in {"patlak", "logan"}:
        line = patlak if settings.model == "patlak" else logan
        found = line(activity, frames, given, from_min=settings.from_min, mask=mask, progress=inputs.progress)
    else:
        curve = torch.nan_to_num(activity[:, mask]).double().mean(1).cpu()
        weights = frame_weights(frames, curve, half_life_min=settings.half_life_s / SECONDS)
        found = fit_kinetics(
            settings.model, activity, frames, given, mask=mask, weights=weights, progress=inputs.progress
        )
    for name in MACRO[settings.model]:
        key = CASCIARI.get(name.lower(), name.lower()) if settings.model == "casciari" else name.lower()
        maker.add(f"{settings.tracer}_{name}", found.values[key], found.errors.get(key))
    if settings.model == "casciari":
        maker.notes.append("K1 is the blood flow of the Casciari model, K3 its reduction rate Ka")
    figures = {
        "InputPeak": float(given.blood.max()),
        "Input": given.source,
        **_regional(inputs, activity, frames, given),
    }
    return maker.made(found, figures=figures)


def _regional(inputs: MapInputs, activity: Tensor, frames: Frames, given: InputFunction) -> dict[str, Any]:
    """Every model on the curve of the tumour, the best first."""
    tumour = inputs.mask("tumour")
    if tumour is None or not bool(tumour.any()):
        return {}
    curve = torch.nan_to_num(activity[:, tumour]).double().mean(1).cpu()
    rows = choose_model(curve, frames, given)
    return {
        "TumourModels": [
            {
                "Model": row.model,
                "Aic": round(row.aic, 3),
                "Weight": round(row.share, 4),
                "Values": {name: round(value, 6) for name, value in row.values.items() if math.isfinite(value)},
            }
            for row in rows
        ]
    }


def _input(
    inputs: MapInputs, settings: PetSettings, activity: Tensor, frames: Frames, mask: Tensor, used: dict[str, Any]
) -> InputFunction:
    name = inputs.series.name
    if settings.input == "file":
        if not settings.input_file:
            raise MapError(f"{name}: input=file needs input_file, a table with time_s and plasma or blood")
        given = read_input(Path(settings.input_file))
    else:
        vessel = inputs.mask("vessel")
        if settings.input == "mask" and vessel is None:
            raise MapError(f"{name}: input=mask needs the mask of an artery or the heart (--vessel)")
        if vessel is None:
            vessel = find_vessel(activity.cpu(), frames.middles_min, inside=mask.cpu()).to(activity.device)
        used["VesselVoxels"] = int(vessel.sum())
        given = image_derived(vessel_curve(activity, vessel).cpu(), frames)
    return given.dispersed(settings.dispersion_s / SECONDS).delayed(settings.delay_s / SECONDS)


def image_derived(curve: Tensor, frames: Frames) -> InputFunction:
    """A vessel's curve as an input: 0 at the injection, the means of the frames at their middles, held to the end."""
    ends = frames.middles_min if frames.ends_min is None else frames.ends_min
    times, values = [frames.middles_min.double()], [curve.double()]
    if float(frames.middles_min[0]) > 0:
        times.insert(0, torch.zeros(1, dtype=torch.float64))
        values.insert(0, torch.zeros(1, dtype=torch.float64))
    if float(ends[-1]) > float(frames.middles_min[-1]):
        times.append(ends[-1:].double())
        values.append(curve[-1:].double())
    whole = torch.cat(values)
    return InputFunction(torch.cat(times), whole, whole, "image-derived")


def _make_suv(inputs: MapInputs, settings: SuvSettings) -> MadeMaps:
    series = inputs.series
    if len(series) != 1:
        raise MapError(f"{series.name}: SUV is made of one volume, {len(series)} were given; choose a frame")
    dose = series.single(("InjectedRadioactivity",), settings.dose_bq, flag="dose_bq")
    unit = str(series.sidecars[0].get("InjectedRadioactivityUnits", "Bq")) if not settings.dose_bq else "Bq"
    scale = {"bq": 1.0, "kbq": 1e3, "mbq": 1e6, "gbq": 1e9, "mci": 3.7e7}.get(unit.lower())
    if scale is None:
        raise MapError(f"{series.name}: InjectedRadioactivityUnits is {unit!r}; give Bq, kBq, MBq, GBq or mCi")
    dose *= scale
    weight = series.single(("BodyWeight",), settings.weight_kg, flag="weight_kg")
    if not settings.sex and settings.kind != "bw" and settings.kind != "bsa":
        raise MapError(f"{series.name}: SUV by {settings.kind} needs the sex (M or F)")
    body = Body(weight, settings.height_cm or None, settings.sex or None)
    injection = Injection(dose, settings.half_life_s, 0.0, _decay_s(series, settings), nuclide=None)
    kind = SuvKind(settings.kind)
    factor = suv_factor(kind, body, injection)
    activity = inputs.signal()[0]
    if float(torch.nan_to_num(activity).amax()) < 100:
        raise MapError(
            f"{series.name}: the largest voxel is {float(torch.nan_to_num(activity).amax()):.4g}, activity in Bq/ml is "
            "in the thousands; the image may be SUV or kBq/ml already"
        )
    maker = Maker(
        "suv", inputs, settings, {"FactorPerBqPerMl": factor, "DoseAtReferenceBq": injection.dose_at_reference_bq()}
    )
    mask = inputs.mask()
    suv = activity * factor
    maker.add(_suv_name(settings), suv if mask is None else torch.where(mask, suv, float("nan")))
    return maker.made(figures={"SuvMax": float(torch.nan_to_num(activity).amax()) * factor})


def _decay_s(series: Series, settings: SuvSettings) -> float:
    """From the injection to the time for which voxels are given; nothing is assumed."""
    if settings.decay_s is not None:
        return settings.decay_s
    keys = [series.sidecars[0].get(key) for key in ("ImageDecayCorrectionTime", "InjectionStart")]
    if not all(isinstance(value, (int, float)) for value in keys):
        raise MapError(
            f"{series.name}: the time for which voxels are given is not known; give decay_s, the seconds from "
            "injection to it (0 when they are corrected to the injection)"
        )
    return float(keys[0]) - float(keys[1])  # type: ignore[arg-type]


def _suv_name(settings: SuvSettings) -> str:
    ending = {"bw": "SUV", "ibw": "SUVIBW", "bsa": "SUVBSA"}.get(settings.kind, "SUL")
    return f"{settings.tracer}_{ending}"


def _make_ratio(inputs: MapInputs, settings: RatioSettings) -> MadeMaps:
    series = inputs.series
    if len(series) != 1:
        raise MapError(f"{series.name}: a ratio is made of one volume, {len(series)} were given; choose a frame")
    suv = series.volumes[0].astype(np.float64)
    tumour = inputs.masks.get("tumour")
    region = inputs.masks.get("reference")
    how = "given"
    if region is None:
        if settings.reference != "muscle":
            raise MapError(f"{series.name}: blood cannot be found in a late image; draw it and give --reference-mask")
        nowhere = np.zeros(suv.shape, dtype=bool)
        region = find_muscle(suv, grid=series.grid, tumour=nowhere if tumour is None else tumour)
        how = "found"
    report = reference_report(suv, region, series.grid, statistic=settings.statistic, tumour=tumour)
    maker = Maker("ratio", inputs, settings, {"Reference": how, "ReferenceValue": report.value})
    maker.notes += report.warnings
    ratio = torch.from_numpy(ratio_map(suv, report.value).transpose(2, 1, 0).copy())
    maker.add(f"{settings.tracer}_{'TMR' if settings.reference == 'muscle' else 'TBR'}", ratio)
    figures = {
        "ReferenceValue": report.value,
        "ReferenceMl": report.volume_ml,
        "ReferenceCoV": report.coefficient_of_variation,
    }
    return maker.made(labels={"reference": region.astype(np.uint8)}, figures=figures)


def _kinetic_names(settings: PetSettings) -> tuple[str, ...]:
    names = tuple(f"{settings.tracer}_{name}" for name in MACRO[settings.model])
    return tuple(quantity(name).name for name in names)


PET = MapKind(
    "pet",
    "kinetics of a tracer from dynamic PET",
    PetSettings,
    _make_pet,
    _kinetic_names,
    (
        Extra("vessel", "BLOOD", "mask", "an artery or the heart, for input=mask"),
        Extra("tumour", "GTVP", "mask", "region whose curve is fitted by every model and compared"),
        MASK,
    ),
    "RAW_PET",
    "map pet dynamic.nii.gz --tracer FMISO --model patlak --input file --input-file plasma.csv --output maps",
)
SUV = MapKind(
    "suv",
    "standardised uptake value from activity in Bq/ml",
    SuvSettings,
    _make_suv,
    lambda settings: (_suv_name(settings),),
    (Extra("tumour", "GTVP", "mask", "tumour, whose SUVmax, SUVpeak and SUVmean are reported"), MASK),
    "",
    "map suv pet.nii.gz --tracer FMISO --weight-kg 75 --dose-bq 370e6 --decay-s 9000 --output maps",
)
RATIO = MapKind(
    "ratio",
    "uptake over that of muscle or blood",
    RatioSettings,
    _make_ratio,
    lambda settings: (f"{settings.tracer}_{'TMR' if settings.reference == 'muscle' else 'TBR'}",),
    (
        Extra("reference", "MUSCLE", "mask", "reference region; muscle is found in the image when not given"),
        Extra("tumour", "GTVP", "mask", "tumour, from which the reference keeps its distance"),
    ),
    "",
    "map ratio suv.nii.gz --tracer FAZA --reference-mask muscle.nii.gz --output maps",
)
