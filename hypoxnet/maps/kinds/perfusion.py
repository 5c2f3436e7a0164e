"""Maps of contrast-enhanced MRI."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.config import DceSettings
from hypoxnet.maps.dce import DCE_MODELS, DELAY, iauc, signal_to_concentration
from hypoxnet.maps.fitting import fit
from hypoxnet.maps.input_functions import (
    InputFunction,
    bolus_arrival,
    find_vessel,
    from_blood,
    increasing,
    population,
    read_input,
    timing,
    vessel_curve,
)
from hypoxnet.maps.kinds.base import Extra, MadeMaps, Maker, MapInputs, MapKind, foreground
from hypoxnet.maps.kinds.relaxation import B1, MASK, TR_KEYS
from hypoxnet.maps.relaxometry import check_b1, check_tr, refuse_milliseconds

SECONDS = 60.0
# Tissue holds a few mM at most; larger numbers are signal.
HIGHEST_MM = 50.0
# A delay is read between the points of the internal grid: these lie no further apart, minutes.
DELAY_STEP_MIN = 0.15 / SECONDS
QUANTITIES = {
    "tofts": ("KTRANS", "VE", "KEP"),
    "extended-tofts": ("KTRANS", "VE", "VP", "KEP"),
    "patlak": ("PS", "VP"),
    "2cxm": ("FP", "PS", "VE", "VP", "KTRANS"),
    "2cum": ("FP", "PS", "VP", "KTRANS"),
}


def times_of(inputs: MapInputs, settings: DceSettings) -> Tensor:
    """Times of the volumes in seconds.

    Raises:
        MapError: Nobody knows them, or they do not increase.
    """
    series = inputs.series
    if settings.spacing_s:
        times = [settings.spacing_s * i for i in range(len(series))]
    else:
        times = series.per_volume("VolumeTiming", settings.times_s, flag="times_s", optional=True)
        if not times:
            spacing = series.single(("TemporalResolution",), 0.0, flag="times_s or spacing_s")
            times = [spacing * i for i in range(len(series))]
    tensor = torch.tensor(times, dtype=torch.float64)
    increasing(tensor, series.name)
    if float(tensor[-1]) > 4 * 3600:
        raise MapError(f"{series.name}: the last volume is at {float(tensor[-1]):g} s; give seconds, not ms")
    return tensor


def _make_dce(inputs: MapInputs, settings: DceSettings) -> MadeMaps:
    if len(inputs.series) < 5:
        raise MapError(
            f"{inputs.series.name}: {inputs.series.files[0].name} has {len(inputs.series)} volumes; perfusion needs a "
            "4D series with five or more"
        )
    if not 0 <= settings.skip <= len(inputs.series) - 5:
        raise MapError(
            f"{inputs.series.name}: skip is {settings.skip}, the series has {len(inputs.series)} volumes; five or more "
            "must remain"
        )
    times = times_of(inputs, settings)[settings.skip :]
    signal = inputs.signal()[settings.skip :]
    mask = foreground(signal, inputs.mask())
    used: dict[str, Any] = {"TimesS": times.tolist()}
    concentration, blood = _concentrations(inputs, settings, signal, times, mask, used)
    given = _input(inputs, settings, blood, times, signal, used)
    arrival = SECONDS * float(given.times_min[bolus_arrival(given.plasma)])
    maker = Maker("dce", inputs, settings, used)
    found = _fit(inputs, settings, concentration, times, given, mask)
    for name in QUANTITIES[settings.model]:
        key = name.lower()
        maker.add(name, _value(found.values, key), found.errors.get(key))
    if arrival + 60.0 <= float(times[-1]):
        maker.add(
            "IAUC60", torch.where(mask, iauc(times.to(concentration), concentration, arrival_s=arrival), math.nan)
        )
    else:
        maker.notes.append(f"the series ends {float(times[-1]) - arrival:.0f} s after the bolus: no IAUC60")
    return maker.made(found, figures={"InputPeakMm": float(given.blood.max()), "ArrivalS": arrival})


def _value(values: dict[str, Tensor], key: str) -> Tensor:
    if key == "kep":
        return values["ktrans"] / values["ve"]
    if key == "ktrans" and key not in values:
        flow = values["fp"] / 100
        return values["ps"] * flow / (values["ps"] + flow)
    return values[key]


def _fit(
    inputs: MapInputs,
    settings: DceSettings,
    concentration: Tensor,
    times: Tensor,
    given: InputFunction,
    mask: Tensor,
) -> Any:
    longest = DELAY_STEP_MIN if settings.fit_delay else None
    grid, plasma, _ = timing(times / SECONDS, None, given, longest_step_min=longest)
    model = DCE_MODELS[settings.model](grid, plasma, delay=DELAY if settings.fit_delay else None)
    return fit(model, concentration, mask=mask, progress=inputs.progress)


def _concentrations(
    inputs: MapInputs, settings: DceSettings, signal: Tensor, times: Tensor, mask: Tensor, used: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Concentration of the tissue, and the same with the T1 of blood, where the input is read."""
    name = inputs.series.name
    if settings.signal == "concentration":
        highest = float(torch.nan_to_num(signal).amax())
        if highest > HIGHEST_MM:
            raise MapError(
                f"{name}: concentrations reach {highest:.4g} mM, tissue and blood stay below {HIGHEST_MM:g}; the "
                "series is signal: give dce.signal=spoiled with T1, flip angle and TR"
            )
        return signal, signal
    flip = inputs.series.single(("FlipAngle",), settings.flip_deg, flag="flip_deg")
    tr_s = inputs.series.single(TR_KEYS, settings.tr_s, flag="tr_s")
    check_tr(tr_s)
    t10 = inputs.map("t1")
    if t10 is None:
        if not settings.t10_s:
            raise MapError(f"{name}: T1 before contrast is not known; give a T1 map (--t1) or one value (t10_s)")
        refuse_milliseconds(torch.tensor([settings.t10_s]), name)
        t10 = torch.full_like(signal[0], settings.t10_s)
    else:
        refuse_milliseconds(t10, name)
    b1 = inputs.map("b1")
    check_b1(b1)
    flip_rad = math.radians(flip) * (torch.ones_like(signal[0]) if b1 is None else b1)
    count = settings.baseline or _baseline_volumes(inputs, signal)
    if not 0 < count < len(signal):
        raise MapError(f"{name}: the baseline is {count} of {len(signal)} volumes; give fewer (baseline), 0 finds them")
    used |= {"FlipAngle": flip, "RepetitionTime": tr_s, "BaselineVolumes": count}
    convert = partial(
        signal_to_concentration,
        signal,
        flip_rad=flip_rad,
        tr_s=tr_s,
        relaxivity_per_s_mm=settings.relaxivity_per_s_mm,
        baseline=slice(0, count),
    )
    tissue = convert(t10_s=torch.where(t10 > 0, t10, float("nan")))
    return tissue, convert(t10_s=torch.full_like(signal[0], settings.blood_t1_s))


def _baseline_volumes(inputs: MapInputs, signal: Tensor) -> int:
    """How many volumes lie before the contrast: up to the one before the earliest voxels begin to rise.

    A vessel rises first; a baseline that reaches into its rise makes every concentration too small.
    """
    vessel = inputs.mask("vessel")
    if vessel is not None and bool(vessel.any()):
        return max(1, bolus_arrival(signal[:, vessel].double().mean(1).cpu()))
    flat = signal[:, foreground(signal, None)]
    first = flat[: max(2, len(flat) // 20)].mean(0)
    late = flat.topk(max(2, len(flat) // 10), dim=0).values.mean(0)
    chosen = torch.topk(late - first, max(1, flat.shape[1] // 20)).indices
    risen = flat[:, chosen] > (first + 0.3 * (late - first))[chosen]
    # The first of two volumes in a row: a single noisy one is no bolus.
    both = (risen[:-1] & risen[1:]).to(torch.uint8)
    begins = both.argmax(0)[both.sum(0) > 0].double()
    if len(begins) == 0:
        return bolus_arrival(_enhancing_mean(signal, foreground(signal, None))) + 1
    return max(1, int(torch.quantile(begins, 0.05)) - 1)


def _enhancing_mean(signal: Tensor, mask: Tensor) -> Tensor:
    """Mean curve of the tenth of the voxels that enhances most."""
    inside = signal[:, mask]
    # The mean of the second half: a single noisy volume makes no rise.
    rise = inside[len(inside) // 2 :].mean(0) - inside[: max(1, len(inside) // 10)].mean(0)
    count = max(1, inside.shape[1] // 10)
    return inside[:, torch.topk(torch.nan_to_num(rise), count).indices].double().mean(1).cpu()


def _input(
    inputs: MapInputs, settings: DceSettings, blood: Tensor, times: Tensor, signal: Tensor, used: dict[str, Any]
) -> InputFunction:
    """The input: arteries are looked for in the whole image, not only where tissue is fitted."""
    minutes = times / SECONDS
    if settings.aif == "file":
        if not settings.aif_file:
            raise MapError(f"{inputs.series.name}: aif=file needs aif_file, a table with time_s and plasma or blood")
        return read_input(Path(settings.aif_file), haematocrit=settings.haematocrit)
    if settings.aif in {"auto", "mask"}:
        vessel = inputs.mask("vessel")
        if settings.aif == "mask" and vessel is None:
            raise MapError(f"{inputs.series.name}: aif=mask needs the mask of an artery (--vessel)")
        if vessel is None or settings.aif == "auto":
            vessel = find_vessel(blood.cpu(), minutes, inside=foreground(signal, None).cpu()).to(blood.device)
        used["VesselVoxels"] = int(vessel.sum())
        curve = vessel_curve(blood, vessel).cpu()
        return from_blood(minutes, curve, haematocrit=settings.haematocrit, source=f"measured ({settings.aif})")
    arrival = float(minutes[bolus_arrival(_enhancing_mean(signal, foreground(signal, None)))])
    used["BolusArrivalS"] = arrival * SECONDS
    fine = torch.linspace(0, float(minutes[-1]), max(601, int(float(times[-1]) * 2) + 1), dtype=torch.float64)
    return population(settings.aif, fine, arrival_min=arrival, haematocrit=settings.haematocrit)


DCE = MapKind(
    "dce",
    "perfusion, permeability and volumes from contrast-enhanced MRI",
    DceSettings,
    _make_dce,
    lambda settings: (*QUANTITIES[settings.model], "IAUC60"),
    (
        Extra("t1", "T1", "map", "T1 before contrast, s"),
        B1,
        Extra("vessel", "BLOOD", "mask", "an artery, for aif=mask"),
        MASK,
    ),
    "RAW_DCE",
    "map dce dce.nii.gz --t1 T1map.nii.gz --flip-deg 20 --tr-s 0.005 --spacing-s 4 --aif parker --output maps",
)
