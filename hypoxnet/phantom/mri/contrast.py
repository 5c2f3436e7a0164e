"""Contrast agent in tissue: the population input, late by the transit of blood, through a compartment model.

The response of tissue to the input depends on rates and time alone. It is made once for a fine table of both, and read
between its points: the cost of a voxel is then two readings, whatever the steps of the input.

Axis legend: K rates and M times of the table, T volumes, N voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hypoxnet.maps.compartments import CompartmentModel, Timing
from hypoxnet.maps.convolution import Convolution
from hypoxnet.maps.dce import ExtendedTofts, TwoCompartmentExchange
from hypoxnet.maps.input_functions import InputFunction, population
from hypoxnet.phantom.mri.properties import MrProperties
from hypoxnet.phantom.parameters.mri import MrProtocol

SECONDS = 60.0
# Steps of the input: a quarter of a second, against a first pass with a standard deviation of 3.4 s.
STEP_S = 0.25
# Rates, 1/min. Between 1,024 of them a response is off by 3e-5 of itself at most; the table takes 8 MB.
LOWEST_RATE, HIGHEST_RATE, RATES = 1e-3, 300.0, 1024
LEAST_PLASMA = 2e-3


def arterial_input(bolus_s: float, haematocrit: float, *, until_s: float) -> InputFunction:
    """The population input of Parker et al. on fine times, arriving with the bolus."""
    steps = math.ceil(until_s / STEP_S) + 1
    times = STEP_S / SECONDS * torch.arange(steps, dtype=torch.float64)
    return population("parker", times, arrival_min=bolus_s / SECONDS, haematocrit=haematocrit)


@lru_cache(maxsize=8)
def _table(bolus_s: float, haematocrit: float, until_s: float, like: torch.dtype) -> Tensor:
    """Response to exp(-k t), mM min, and the input itself, mM: 2 K M."""
    given = arterial_input(bolus_s, haematocrit, until_s=until_s)
    rates = torch.logspace(math.log10(LOWEST_RATE), math.log10(HIGHEST_RATE), RATES, dtype=torch.float64)
    response = Convolution(given.times_min, given.plasma)(rates)[0].T
    return torch.stack([response, given.plasma.expand_as(response)]).to(like)


def _model(name: str) -> CompartmentModel:
    """A model for its kinetics alone, whose input and times do not enter."""
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    kind = {"extended-tofts": ExtendedTofts, "2cxm": TwoCompartmentExchange}[name]
    return kind(Timing(times, times), times)


def kinetics(properties: MrProperties, name: str) -> Tensor:
    """Amplitudes, rates and share of plasma of the response of every voxel, (2R + 1) N."""
    model = _model(name)
    known = {
        "ktrans": properties.ktrans,
        "ve": properties.ve,
        # Without plasma the exchange model divides by 0; this little lets its fast rate stay inside the table.
        "vp": properties.vp.clamp(min=LEAST_PLASMA) if name == "2cxm" else properties.vp,
        "ps": properties.ps,
        "fp": properties.flow,
    }
    return model.kinetics(torch.stack([known[parameter.name] for parameter in model.parameters]))


def concentration(properties: MrProperties, protocol: MrProtocol, times_s: Sequence[float]) -> Iterator[Tensor]:
    """Concentration of contrast agent in tissue.

    Args:
        properties: Maps of N voxels.
        protocol: Model, bolus and haematocrit.
        times_s: T, from the first volume on.

    Yields:
        N, mM, at each of the times.

    Source:
        Parker et al. 2006, Magn Reson Med 56:993 (input); Tofts 1997, J Magn Reson Imaging 7:91, or Sourbron and
        Buckley 2012, Phys Med Biol 57:R1 (2cxm).
    """
    like = properties.ktrans
    table = _table(protocol.bolus_s, protocol.contrast_haematocrit, times_s[-1], like.dtype).to(like.device)
    stacked = kinetics(properties, protocol.contrast_model)
    count = len(stacked) // 2
    amplitudes, rates, plasma = stacked[:count], stacked[count:-1], stacked[-1]
    span = math.log(HIGHEST_RATE / LOWEST_RATE)
    across = 2 * torch.log(rates.clamp(LOWEST_RATE, HIGHEST_RATE) / LOWEST_RATE) / span - 1
    last = STEP_S * (table.shape[-1] - 1)
    for time in times_s:
        along = 2 * (time - properties.delay_s) / last - 1
        mm = torch.zeros_like(along)
        for part, at in zip(amplitudes, across, strict=True):
            response, arterial = _read(table, at, along)
            mm = torch.addcmul(mm, part, response)
        yield torch.addcmul(mm, plasma, arterial)


def _read(table: Tensor, rate: Tensor, time: Tensor) -> Tensor:
    """Both layers of the table at N places between its points; before the first time both are 0."""
    where = torch.stack([time.clamp(min=-1), rate], dim=-1)[None, None]
    return F.grid_sample(table[None], where, mode="bilinear", padding_mode="border", align_corners=True)[0, :, 0]
