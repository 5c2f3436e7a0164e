"""Maps of optical imaging, for preclinical cohorts."""

from __future__ import annotations

import torch

from hypoxnet.errors import MapError
from hypoxnet.maps.config import PhosphorescenceSettings, RatiometricSettings, SaturationSettings
from hypoxnet.maps.fitting import FitResult
from hypoxnet.maps.haemoglobin import unmix
from hypoxnet.maps.kinds.base import Extra, MadeMaps, Maker, MapInputs, MapKind, foreground
from hypoxnet.maps.kinds.relaxation import MASK
from hypoxnet.maps.optical import (
    PROBES,
    lifetime_map,
    po2_error_mmhg,
    ratiometric,
    ratiometric_po2,
    stern_volmer_po2,
    two_gate_lifetime_us,
)

MOLAR_TO_MILLIMOLAR = 1000.0


def _make_phosphorescence(inputs: MapInputs, settings: PhosphorescenceSettings) -> MadeMaps:
    if settings.probe not in PROBES:
        raise MapError(f"there is no probe {settings.probe!r}; there are {', '.join(PROBES)}")
    probe = PROBES[settings.probe]
    times = inputs.series.per_volume("GateDelayUs", settings.times_us, flag="times_us")
    signal = inputs.signal()
    mask = foreground(signal, inputs.mask())
    used = {"GateDelayUs": times, "Tau0Us": probe.tau0_us, "KqPerMmhgPerS": probe.kq_per_mmhg_per_s}
    maker = Maker("phosphorescence", inputs, settings, used)
    maker.notes.append(probe.source)
    found: FitResult | None = None
    error = None
    if len(times) == 2:
        lifetime = two_gate_lifetime_us(signal[0], signal[1], delay_us=times[1] - times[0])
    else:
        found = lifetime_map(signal, torch.tensor(times, dtype=torch.float64), mask=mask)
        lifetime = found.values["lifetime"]
        error = po2_error_mmhg(lifetime, found.errors["lifetime"], probe=probe)
    maker.add("PO2", stern_volmer_po2(torch.where(mask, lifetime, float("nan")), probe), error)
    return maker.made(found)


def _make_saturation(inputs: MapInputs, settings: SaturationSettings) -> MadeMaps:
    wavelengths = inputs.series.per_volume("WavelengthNm", settings.wavelengths_nm, flag="wavelengths_nm")
    signal = inputs.signal()
    mask = foreground(signal, inputs.mask())
    found = unmix(torch.where(mask, signal, float("nan")), torch.tensor(wavelengths, dtype=torch.float64))
    maker = Maker("saturation", inputs, settings, {"WavelengthNm": wavelengths})
    maker.add("SO2", found.so2)
    maker.add("THB", found.thb * MOLAR_TO_MILLIMOLAR)
    return maker.made()


def _make_ratiometric(inputs: MapInputs, settings: RatiometricSettings) -> MadeMaps:
    name = inputs.series.name
    if settings.ratio_anoxic <= 0 or settings.k_sv_per_mmhg <= 0:
        raise MapError(
            f"{name}: ratio_anoxic is {settings.ratio_anoxic:g} and k_sv_per_mmhg {settings.k_sv_per_mmhg:g}; give the "
            "calibration of the dyes"
        )
    sensitive, reference = inputs.signal()[0], inputs.map("dye")
    if reference is None:
        raise MapError(f"{name}: the light of the insensitive dye is missing; give it with --dye")
    ratio = ratiometric(
        sensitive,
        reference,
        background_sensitive=settings.background_sensitive,
        background_reference=settings.background_reference,
    )
    po2 = ratiometric_po2(ratio, ratio_anoxic=settings.ratio_anoxic, k_sv_per_mmhg=settings.k_sv_per_mmhg)
    mask = foreground(inputs.signal(), inputs.mask())
    maker = Maker("ratiometric", inputs, settings, {})
    maker.add("PO2", torch.where(mask, po2, float("nan")))
    return maker.made()


PHOSPHORESCENCE = MapKind(
    "phosphorescence",
    "pO2 from the lifetime of a phosphorescent probe",
    PhosphorescenceSettings,
    _make_phosphorescence,
    lambda settings: ("PO2",),
    (MASK,),
    "",
    "map phosphorescence gates.nii.gz --probe oxyphor-r2 --times-us 10 40 80 160 320 640 --output maps",
)
SATURATION = MapKind(
    "saturation",
    "oxygen saturation from absorption (1/cm) at several wavelengths",
    SaturationSettings,
    _make_saturation,
    lambda settings: ("SO2", "THB"),
    (MASK,),
    "",
    "map saturation absorption.nii.gz --wavelengths-nm 750 800 850 --output maps",
)
RATIOMETRIC = MapKind(
    "ratiometric",
    "pO2 from an oxygen-sensitive and an insensitive dye",
    RatiometricSettings,
    _make_ratiometric,
    lambda settings: ("PO2",),
    (Extra("dye", "", "map", "light of the insensitive dye"), MASK),
    "",
    "map ratiometric sensitive.nii.gz --dye reference.nii.gz --ratio-anoxic 2.1 --k-sv-per-mmhg 0.02 --output maps",
)
