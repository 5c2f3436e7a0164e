"""Maps fitted to recorded series, by the engine that fits those of patients, and the truth to compare them with.

The cheapest sound estimators: straight lines for T1, R2* and ADC, segments for IVIM, and extended Tofts by least
squares, all of them inside a mask only.

Axis legend: T volumes, D H W voxels, N voxels of the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.dce import ExtendedTofts, signal_to_concentration
from hypoxnet.maps.diffusion import adc_log_linear, ivim
from hypoxnet.maps.fitting import FitOptions, fit
from hypoxnet.maps.input_functions import HAEMATOCRIT, SECONDS, InputFunction, population, timing
from hypoxnet.maps.oxygen_enhanced import delta_t1_percent, dynamic_change
from hypoxnet.maps.r2star import r2star_log_linear
from hypoxnet.maps.relaxometry import spoiled_signal_to_r1, t1_from_flips
from hypoxnet.phantom.mri.acquire import NOISE
from hypoxnet.phantom.mri.properties import MrProperties
from hypoxnet.phantom.mri.sequences import AIR, diffusion_signal
from hypoxnet.phantom.parameters.mri import MrProtocol
from hypoxnet.phantom.words import RawSeries
from hypoxnet.quantities import quantity

# The input is followed in seconds while the bolus passes, and in four seconds after.
FINE_S, COARSE_S, PASSAGE_S = 1.0, 4.0, 75.0
# Noise moves Ktrans by a hundred times more than this tolerance; a voxel that is not done by then has no value.
OPTIONS = FitOptions(iterations=20, tolerance=1e-3)


class _Signals:
    """Raw series inside the mask, and T1 where one was measured; each is taken out once."""

    def __init__(self, raw: Mapping[str, RawSeries], mask: Tensor) -> None:
        self.raw = raw
        self.mask = mask
        self._t1: Tensor | None = None

    def series(self, name: str, quantity: str) -> tuple[Tensor, RawSeries]:
        """Signal T N and the series.

        Raises:
            MapError: The series was not taken.
        """
        if name not in self.raw:
            raise MapError(
                f"{quantity} is fitted to {name}, there is {', '.join(self.raw) or 'no series'}; take it too"
            )
        return self.raw[name].signal[:, self.mask], self.raw[name]

    def t1_s(self, quantity: str) -> Tensor:
        """T1 under air, N; nan where the line has none."""
        if self._t1 is None:
            signal, series = self.series("RAW_VFA", quantity)
            flips = torch.tensor(series.sidecar["FlipAngle"], dtype=torch.float64)
            found = t1_from_flips(signal, flips, tr_s=series.sidecar["RepetitionTime"])
            self._t1 = found.values["t1"]
        return self._t1


def _relaxation(signals: _Signals) -> dict[str, Tensor]:
    t1 = signals.t1_s("T1")
    return {"T1": t1, "R1": 1 / t1}


def _r2star(signals: _Signals, name: str, quantity: str) -> Tensor:
    signal, series = signals.series(name, quantity)
    times = torch.tensor(series.sidecar["EchoTime"], dtype=torch.float64)
    return r2star_log_linear(signal, times, noise_sd=series.sidecar.get(NOISE, 0.0)).values["r2star"]


def _decay(signals: _Signals) -> dict[str, Tensor]:
    r2star = _r2star(signals, "RAW_R2STAR", "R2STAR")
    return {"R2STAR": r2star, "T2STAR": 1 / torch.where(r2star > 0, r2star, math.nan)}


def _decay_change(signals: _Signals) -> dict[str, Tensor]:
    air = _r2star(signals, "RAW_R2STAR", "DR2STAR")
    return {"DR2STAR": _r2star(signals, "RAW_R2STAR_OXYGEN", "DR2STAR") - air}


def _oxygen(signals: _Signals) -> dict[str, Tensor]:
    signal, series = signals.series("RAW_OE", "DR1")
    gas: list[str] = series.sidecar["Gas"]
    first = next((i for i, each in enumerate(gas) if each != AIR), len(gas))
    r1 = spoiled_signal_to_r1(
        signal,
        t10_s=signals.t1_s("DR1"),
        flip_rad=math.radians(series.sidecar["FlipAngle"]),
        tr_s=series.sidecar["RepetitionTime"],
        baseline=slice(0, first),
    )
    change = dynamic_change(r1, gas)
    return {"DR1": change.delta, "DT1": delta_t1_percent(1 / change.mean_air, 1 / change.mean_oxygen)}


def contrast_input(series: RawSeries) -> InputFunction:
    """The population input of a contrast series, on times as fine as it needs.

    They divide the time between volumes evenly: a fit pays for every step of another length.
    """
    arrival, volumes = series.sidecar["BolusArrival"], series.sidecar["VolumeTiming"]
    spacing, last = volumes[1] - volumes[0], volumes[-1]
    fine, coarse = (spacing / math.ceil(spacing / step) for step in (FINE_S, COARSE_S))
    # A step before the bolus: a line from the first volume to its begin would add to it.
    begin = fine * max(0, math.ceil(arrival / fine) - 1)
    passed = min(last, spacing * math.ceil((arrival + PASSAGE_S) / spacing))
    first = begin + fine * torch.arange(round((passed - begin) / fine) + 1, dtype=torch.float64)
    later = passed + coarse * torch.arange(1, round((last - passed) / coarse) + 1, dtype=torch.float64)
    before = torch.zeros(1 if begin > 0 else 0, dtype=torch.float64)
    times = torch.cat([before, first, later]) / SECONDS
    return population("parker", times, arrival_min=arrival / SECONDS, haematocrit=HAEMATOCRIT)


def _contrast(signals: _Signals) -> dict[str, Tensor]:
    signal, series = signals.series("RAW_DCE", "KTRANS")
    times = torch.tensor(series.sidecar["VolumeTiming"], dtype=torch.float64)
    before = int((times < series.sidecar["BolusArrival"]).sum())
    concentration = signal_to_concentration(
        signal,
        t10_s=signals.t1_s("KTRANS"),
        flip_rad=math.radians(series.sidecar["FlipAngle"]),
        tr_s=series.sidecar["RepetitionTime"],
        relaxivity_per_s_mm=series.sidecar["Relaxivity"],
        baseline=slice(0, before),
    )
    when, plasma, _ = timing(times / SECONDS, None, contrast_input(series))
    values = fit(ExtendedTofts(when, plasma), concentration, options=OPTIONS).values
    kep = values["ktrans"] / values["ve"]
    return {"KTRANS": values["ktrans"], "VE": values["ve"], "VP": values["vp"], "KEP": kep}


def _diffusion(signals: _Signals) -> dict[str, Tensor]:
    signal, series = signals.series("RAW_ADC", "ADC")
    b_values = torch.tensor(series.sidecar["bval"], dtype=torch.float64)
    return {"ADC": adc_log_linear(signal, b_values, noise_sd=series.sidecar.get(NOISE, 0.0)).values["adc"]}


def _incoherent_motion(signals: _Signals) -> dict[str, Tensor]:
    signal, series = signals.series("RAW_IVIM", "IVIM_D")
    found = ivim(signal, torch.tensor(series.sidecar["bval"], dtype=torch.float64)).values
    return {"IVIM_D": found["d"], "IVIM_F": found["f"], "IVIM_DSTAR": found["d_star"]}


MAKERS: dict[str, Callable[[_Signals], dict[str, Tensor]]] = {
    **dict.fromkeys(("T1", "R1"), _relaxation),
    **dict.fromkeys(("R2STAR", "T2STAR"), _decay),
    "DR2STAR": _decay_change,
    **dict.fromkeys(("DR1", "DT1"), _oxygen),
    **dict.fromkeys(("KTRANS", "VE", "VP", "KEP"), _contrast),
    "ADC": _diffusion,
    **dict.fromkeys(("IVIM_D", "IVIM_F", "IVIM_DSTAR"), _incoherent_motion),
}


def fitted_maps(raw: Mapping[str, RawSeries], wanted: Sequence[str], mask: Tensor) -> dict[str, Tensor]:
    """Maps of recorded series, as `hypoxnet.quantities` names and measures them.

    Args:
        raw: Series by name, all on one grid, T D H W.
        wanted: Quantities.
        mask: D H W, bool, where to fit.

    Returns:
        D H W each, in the order of `wanted`; 0 outside the mask, where the fit has no value, and where its value lies
        outside the plausible range of the quantity.

    Raises:
        MapError: A quantity is not made here, its series was not taken, or the mask lies on another grid.
    """
    unknown = [name for name in wanted if name not in MAKERS]
    if unknown:
        raise MapError(f"{unknown[0]} is not fitted to the phantom's series; there are {', '.join(MAKERS)}")
    for name, series in raw.items():
        if series.signal.shape[1:] != mask.shape:
            raise MapError(f"the mask is {tuple(mask.shape)}, {name} {tuple(series.signal.shape[1:])}; resample it")
    signals = _Signals(raw, mask)
    made: dict[str, Tensor] = {}
    for name in wanted:
        if name not in made:
            made |= MAKERS[name](signals)
    out = {}
    for name in wanted:
        whole = torch.zeros(mask.shape, dtype=made[name].dtype, device=mask.device)
        known = torch.nan_to_num(made[name], nan=0.0)
        about = quantity(name)
        # A fit to noise next to air can give any number; one that cannot be is no value, as in a reading room.
        whole[mask] = torch.where((known >= about.low) & (known <= about.high), known, 0.0)
        out[name] = whole
    return out


def true_maps(properties: MrProperties, wanted: Sequence[str], protocol: MrProtocol) -> dict[str, Tensor]:
    """The truth behind fitted maps, on the grid of the properties; 0 outside the patient.

    ADC is the line through the weightings of the protocol without noise: perfusion enters it.

    Args:
        properties: Without the fields of a scanner.
        wanted: Quantities.
        protocol: Its weightings.

    Raises:
        MapError: A quantity has no truth here.
    """
    p = properties
    known: dict[str, Callable[[], Tensor]] = {
        "T1": lambda: 1 / p.r1,
        "R1": lambda: p.r1,
        "DR1": lambda: p.dr1,
        "DT1": lambda: 100 * (p.r1 / (p.r1 + p.dr1) - 1),
        "R2STAR": lambda: p.r2star,
        "T2STAR": lambda: 1 / p.r2star,
        "DR2STAR": lambda: p.r2star_oxygen - p.r2star,
        "KTRANS": lambda: p.ktrans,
        "VE": lambda: p.ve,
        "VP": lambda: p.vp,
        "KEP": lambda: p.ktrans / p.ve,
        "PS": lambda: p.ps,
        "FP": lambda: p.flow,
        "IVIM_D": lambda: p.d,
        "IVIM_F": lambda: p.f,
        "IVIM_DSTAR": lambda: p.d_star,
        "ADC": lambda: _apparent(p, protocol.adc_b_values),
        "B1": lambda: p.transmit,
        "SO2": lambda: p.saturation,
    }
    missing = [name for name in wanted if name not in known]
    if missing:
        raise MapError(f"{missing[0]} has no truth in MRI; there are {', '.join(known)}")
    inside = p.proton_density > 0
    return {name: torch.where(inside, known[name](), 0.0) for name in wanted}


def _apparent(properties: MrProperties, b_values: tuple[float, ...]) -> Tensor:
    signal = torch.stack([diffusion_signal(properties, b, te_s=0.0) for b in b_values])
    adc = adc_log_linear(signal, torch.tensor(b_values, dtype=torch.float64)).values["adc"]
    return torch.nan_to_num(adc, nan=0.0)
