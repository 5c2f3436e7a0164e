"""ADC and IVIM from diffusion-weighted series."""

from __future__ import annotations

import torch

from hypoxnet.maps.config import AdcSettings, IvimSettings
from hypoxnet.maps.diffusion import adc_log_linear, adc_nonlinear, ivim
from hypoxnet.maps.kinds.base import MadeMaps, Maker, MapInputs, MapKind, foreground
from hypoxnet.maps.kinds.relaxation import MASK


def _b_values(inputs: MapInputs, given: list[float]) -> torch.Tensor:
    return torch.tensor(inputs.series.per_volume("bval", given, flag="b_values"), dtype=torch.float64)


def _make_adc(inputs: MapInputs, settings: AdcSettings) -> MadeMaps:
    b_values = _b_values(inputs, settings.b_values)
    signal = inputs.signal()
    mask = foreground(signal, inputs.mask())
    if settings.method == "nonlinear":
        found = adc_nonlinear(signal, b_values, mask=mask, progress=inputs.progress)
    else:
        noise = settings.noise_sd
        found = adc_log_linear(signal, b_values, noise_sd=noise, mask=mask, progress=inputs.progress)
    maker = Maker("adc", inputs, settings, {"bval": b_values.tolist()})
    maker.add("ADC", found.values["adc"], found.errors["adc"])
    return maker.made(found)


def _make_ivim(inputs: MapInputs, settings: IvimSettings) -> MadeMaps:
    b_values = _b_values(inputs, settings.b_values)
    signal = inputs.signal()
    mask = foreground(signal, inputs.mask())
    found = ivim(signal, b_values, segmented=settings.segmented, mask=mask, progress=inputs.progress)
    maker = Maker("ivim", inputs, settings, {"bval": b_values.tolist()})
    maker.notes.append("D* repeats poorly between scans; D and f are the maps to use")
    for name, key in (("IVIM_D", "d"), ("IVIM_F", "f"), ("IVIM_DSTAR", "d_star")):
        maker.add(name, found.values[key], found.errors.get(key))
    return maker.made(found)


ADC = MapKind(
    "adc",
    "apparent diffusion coefficient",
    AdcSettings,
    _make_adc,
    lambda settings: ("ADC",),
    (MASK,),
    "RAW_ADC",
    "map adc dwi.nii.gz --b-values 0 400 800 --output maps",
)
IVIM = MapKind(
    "ivim",
    "diffusion, perfusion fraction and pseudo-diffusion",
    IvimSettings,
    _make_ivim,
    lambda settings: ("IVIM_D", "IVIM_F", "IVIM_DSTAR"),
    (MASK,),
    "RAW_IVIM",
    "map ivim dwi.nii.gz --b-values 0 50 100 200 400 600 800 1000 --output maps",
)
