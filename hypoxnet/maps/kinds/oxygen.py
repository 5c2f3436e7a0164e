"""Oxygen-enhanced MRI: the change of R1 when oxygen is breathed."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.config import OxygenSettings
from hypoxnet.maps.kinds.base import Extra, MadeMaps, Maker, MapInputs, MapKind, foreground
from hypoxnet.maps.kinds.relaxation import B1, MASK, TR_KEYS
from hypoxnet.maps.motion import displacement_voxels, moved_volumes
from hypoxnet.maps.oxygen_enhanced import (
    DynamicChange,
    OxygenClass,
    classify,
    delta_r1,
    delta_t1_percent,
    dynamic_change,
    hypoxic_fraction,
    unphysiological_share,
)
from hypoxnet.maps.relaxometry import check_b1, check_tr, refuse_milliseconds, spoiled_signal_to_r1
from hypoxnet.maps.series import Series

GASES = ("air", "oxygen", "transition")
PART = re.compile(r"\s*(\w+)\s*:\s*(\d+)\s*")


def gases(text: str, series: Series) -> list[str]:
    """What is breathed during each volume, from `air:30,oxygen:40` or the sidecars.

    Raises:
        MapError: A word is no gas, or the counts do not add up to the series.
    """
    if not text:
        listed = [sidecar.get("Gas") for sidecar in series.sidecars]
        if not all(isinstance(gas, str) for gas in listed):
            raise MapError(f"{series.name}: no sidecar names Gas; give gas, for example air:30,transition:10,oxygen:40")
        out = [str(gas) for gas in listed]
    else:
        out = []
        for part in text.split(","):
            found = PART.fullmatch(part)
            if found is None:
                raise MapError(f"{series.name}: gas has {part!r}, it must be GAS:VOLUMES, for example air:30")
            out += [found[1]] * int(found[2])
    unknown = set(out) - set(GASES)
    if unknown:
        raise MapError(f"{series.name}: {sorted(unknown)[0]!r} is no gas; there are {', '.join(GASES)}")
    if len(out) != len(series):
        raise MapError(f"{series.name}: gas names {len(out)} volumes, the series has {len(series)}; mend the counts")
    return out


def _make_oe(inputs: MapInputs, settings: OxygenSettings) -> MadeMaps:
    if "oxygen" in inputs.others:
        return _two_point(inputs, settings)
    gas = gases(settings.gas, inputs.series)
    signal = inputs.signal()
    mask = foreground(signal, inputs.mask())
    used: dict[str, Any] = {"Gas": gas}
    r1 = _r1(inputs, settings, signal, gas, used)
    r1 = torch.where(mask, r1, float("nan"))
    change = dynamic_change(r1, gas)
    maker = Maker("oe", inputs, settings, used)
    moved = moved_volumes(displacement_voxels(torch.nan_to_num(signal)))
    if bool(moved.any()):
        maker.notes.append(
            f"{int(moved.sum())} of {len(moved)} volumes moved by more than half a voxel against the first; register "
            "the series, the change of R1 is not to be trusted"
        )
    return _oxygen_maps(maker, change, mask, settings)


def _r1(inputs: MapInputs, settings: OxygenSettings, signal: Tensor, gas: list[str], used: dict[str, Any]) -> Tensor:
    """R1 of every volume."""
    name = inputs.series.name
    if settings.signal == "t1":
        refuse_milliseconds(signal, name)
        return torch.where(signal > 0, 1 / signal, float("nan"))
    flip = inputs.series.single(("FlipAngle",), settings.flip_deg, flag="flip_deg")
    tr_s = inputs.series.single(TR_KEYS, settings.tr_s, flag="tr_s")
    check_tr(tr_s)
    used |= {"FlipAngle": flip, "RepetitionTime": tr_s}
    t10 = inputs.map("t1")
    if t10 is None:
        if not settings.t10_s:
            raise MapError(f"{name}: T1 under air is not known; give a T1 map (--t1) or one value (t10_s)")
        t10 = torch.full_like(signal[0], settings.t10_s)
    refuse_milliseconds(t10, name)
    b1 = inputs.map("b1")
    check_b1(b1)
    if "air" not in gas:
        raise MapError(f"{name}: gas names no volume of air; the change is counted from air")
    first = gas.index("air")
    last = next((i for i in range(first, len(gas)) if gas[i] != "air"), len(gas))
    flip_rad = math.radians(flip) * (torch.ones_like(signal[0]) if b1 is None else b1)
    known = torch.where(t10 > 0, t10, float("nan"))
    return spoiled_signal_to_r1(signal, t10_s=known, flip_rad=flip_rad, tr_s=tr_s, baseline=slice(first, last))


def _two_point(inputs: MapInputs, settings: OxygenSettings) -> MadeMaps:
    """One T1 map under air, one under oxygen: a change without a test."""
    oxygen = inputs.others["oxygen"]
    if len(inputs.series) != 1 or len(oxygen) != 1:
        raise MapError(
            f"{inputs.series.name}: two-point needs one T1 map under air and one under oxygen, there are "
            f"{len(inputs.series)} and {len(oxygen)} volumes; give the dynamic series alone, with gas"
        )
    if not oxygen.grid.same_as(inputs.series.grid):
        raise MapError(
            f"{inputs.series.name}: air lies on {inputs.series.grid.describe()}, oxygen on {oxygen.grid.describe()}; "
            "resample one of them"
        )
    maker = Maker("oe", inputs, settings, {"Oxygen": [path.name for path in oxygen.files]})
    before, after = (torch.where(s > 0, s, float("nan")) for s in (inputs.signal()[0], inputs.signal(oxygen)[0]))
    refuse_milliseconds(before, inputs.series.name)
    change, percent = delta_r1(before, after), delta_t1_percent(before, after)
    maker.notes.append("two-point: without a dynamic series no voxel can be called enhancing or refractory")
    figures = _figures(maker, change, percent, torch.isfinite(change))
    maker.add("DR1", change)
    maker.add("DT1", percent)
    return maker.made(figures=figures)


def _oxygen_maps(maker: Maker, change: DynamicChange, mask: Tensor, settings: OxygenSettings) -> MadeMaps:
    inputs = maker.inputs
    percent = delta_t1_percent(1 / change.mean_air, 1 / change.mean_oxygen)
    figures = _figures(maker, change.delta, percent, mask & torch.isfinite(change.delta))
    tumour, perfused = inputs.mask("tumour"), inputs.mask("perfused")
    region = mask if tumour is None else tumour
    shown = None if perfused is None else perfused.to(change.delta)
    classes = classify(change, tumour=region, perfused=shown, alpha=settings.alpha)
    fraction = hypoxic_fraction(classes, include_not_perfused=perfused is not None)
    figures["HypoxicFraction"] = {
        "Value": None if math.isnan(fraction.fraction) else fraction.fraction,
        "Numerator": fraction.numerator,
        "Denominator": fraction.denominator,
        "Voxels": [fraction.voxels_numerator, fraction.voxels_denominator],
        "Region": "tumour" if tumour is not None else "foreground",
    }
    figures["Classes"] = {c.name.lower(): int((classes == int(c)).sum()) for c in OxygenClass if c}
    maker.add("DR1", change.delta)
    maker.add("DT1", percent)
    label = np.asarray(classes.cpu().numpy().transpose(2, 1, 0), dtype=np.uint8)
    return maker.made(labels={"oxygen": label}, figures=figures)


def _figures(maker: Maker, change: Tensor, percent: Tensor, mask: Tensor) -> dict[str, Any]:
    share = unphysiological_share(change, percent, mask=mask) if bool(mask.any()) else math.nan
    if share > 0.1:
        maker.notes.append(
            f"{100 * share:.0f} % of the voxels change by more than oxygen can change them (0.2 1/s or 15 %): "
            "motion, or signal that is not what the settings say"
        )
    return {"UnphysiologicalShare": None if math.isnan(share) else share}


OE = MapKind(
    "oe",
    "change of R1 and T1 from air to oxygen, and which voxels answer to it",
    OxygenSettings,
    _make_oe,
    lambda settings: ("DR1", "DT1"),
    (
        Extra("t1", "T1", "map", "T1 under air, s"),
        B1,
        Extra("oxygen", "RAW_OE_OXYGEN", "series", "T1 map under oxygen, for two-point; the series is that under air"),
        Extra("tumour", "GTVP", "mask", "region whose hypoxic fraction is reported"),
        Extra("perfused", "PERFUSED", "mask", "voxels that contrast agent reaches"),
        MASK,
    ),
    "RAW_OE",
    "map oe dynamic.nii.gz --t1 T1map.nii.gz --flip-deg 15 --tr-s 0.004 --gas air:30,transition:10,oxygen:40 "
    "--output maps",
)
