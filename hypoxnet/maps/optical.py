"""Optical oxygen probes: the lifetime or the colour of a probe's light to pO2.

The absorption of haemoglobin is in `hypoxnet.maps.haemoglobin`.

Axis legend: T samples of a decay, N voxels (or any shape after T), P parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import FitResult, Parameter, fit

# Rates are in 1/s, lifetimes in microseconds.
PER_MICROSECOND = 1e-6
# A decay is read from its first sample down to this share of it; below, the logarithm of noise would take part.
START_SHARE = 0.05
# Share of the samples, at the end, whose mean is the offset a fit begins with.
TAIL_SHARE = 0.1

AMPLITUDE = Parameter("amplitude", "a.u.", 0.0, math.inf, 0.0)
LIFETIME = Parameter("lifetime", "us", 1.0, 2000.0, 100.0)
OFFSET = Parameter("offset", "a.u.", -math.inf, math.inf, 0.0)


@dataclass(frozen=True, slots=True)
class Probe:
    """A phosphor that oxygen quenches.

    Args:
        name: Its name.
        tau0_us: Lifetime without oxygen, microseconds.
        kq_per_mmhg_per_s: Quenching constant, 1/(mmHg s), at the temperature of the tissue.
        source: Where the constants come from.

    Raises:
        MapError: A constant is not positive.
    """

    name: str
    tau0_us: float
    kq_per_mmhg_per_s: float
    source: str

    def __post_init__(self) -> None:
        if not (self.tau0_us > 0 and self.kq_per_mmhg_per_s > 0):
            raise MapError(
                f"{self.name}: tau0 is {self.tau0_us:g} us and kq {self.kq_per_mmhg_per_s:g} 1/(mmHg s); both must be "
                "positive"
            )


# Neither pair of constants is confirmed against a primary source: measure them for the batch, pH and temperature in
# use, and give a `Probe` of your own instead.
OXYPHOR_R2 = Probe(
    "oxyphor-r2", 676.0, 332.0, "as coded in public analysis software, about 37 degrees C; not confirmed"
)
PTG4 = Probe(
    "ptg4", 47.0, 259.0, "derived from lifetimes of about 47 us at 0 and 16 us at 160 mmHg, 37 degrees C; not confirmed"
)
PROBES: dict[str, Probe] = {probe.name: probe for probe in (OXYPHOR_R2, PTG4)}


def stern_volmer_po2(lifetime_us: Tensor, probe: Probe) -> Tensor:
    """Oxygen partial pressure at which the probe has this lifetime: 1/tau = 1/tau0 + kq pO2.

    Args:
        lifetime_us: Voxels of any shape, microseconds.
        probe: The phosphor.

    Returns:
        Same shape, mmHg. Negative where noise made the lifetime longer than tau0: cut off at zero, the mean of an
        anoxic region would be too high. nan where there is no positive lifetime.

    Source:
        Vanderkooi et al. 1987, J Biol Chem 262:5476.

    Example:
        >>> round(stern_volmer_po2(torch.tensor(208.36), OXYPHOR_R2).item(), 1)
        10.0
    """
    rate_per_us = 1 / lifetime_us - 1 / probe.tau0_us
    po2 = rate_per_us / (probe.kq_per_mmhg_per_s * PER_MICROSECOND)
    return _where(torch.isfinite(lifetime_us) & (lifetime_us > 0), po2)


def stern_volmer_lifetime_us(po2_mmhg: Tensor, probe: Probe) -> Tensor:
    """Lifetime of the probe at this oxygen partial pressure; the inverse of `stern_volmer_po2`.

    Args:
        po2_mmhg: Voxels of any shape, mmHg.
        probe: The phosphor.

    Returns:
        Same shape, microseconds; nan where a negative pressure leaves no decay at all.

    Source:
        Vanderkooi et al. 1987, J Biol Chem 262:5476.

    Example:
        >>> round(stern_volmer_lifetime_us(torch.tensor(40.0), OXYPHOR_R2).item(), 2)
        67.75
    """
    rate_per_us = 1 / probe.tau0_us + probe.kq_per_mmhg_per_s * PER_MICROSECOND * po2_mmhg
    return _where(torch.isfinite(rate_per_us) & (rate_per_us > 0), 1 / rate_per_us)


def po2_error_mmhg(lifetime_us: Tensor, lifetime_error_us: Tensor, *, probe: Probe) -> Tensor:
    """Standard error of the pressure that follows from that of the lifetime: error / (kq tau^2), first order.

    Args:
        lifetime_us: Voxels of any shape, microseconds.
        lifetime_error_us: Standard error of it, microseconds; same shape.
        probe: The phosphor; its own constants count as exact.

    Returns:
        Same shape, mmHg; nan where there is no positive lifetime or no error.

    Source:
        Stern and Volmer 1919, Phys Z 20:183, differentiated.

    Example:
        PtG4 near anoxia: a lifetime known to 1 % gives the pressure to 0.8 mmHg.

        >>> tau = torch.tensor(47.0)
        >>> round(po2_error_mmhg(tau, 0.01 * tau, probe=PTG4).item(), 2)
        0.82
    """
    error = lifetime_error_us / (probe.kq_per_mmhg_per_s * PER_MICROSECOND * lifetime_us**2)
    return _where((lifetime_us > 0) & (lifetime_error_us >= 0) & torch.isfinite(error), error)


def two_gate_lifetime_us(first: Tensor, second: Tensor, *, delay_us: float) -> Tensor:
    """Rapid lifetime determination from two gates of equal width: delay / ln(first / second).

    Args:
        first: Light in the first gate, background subtracted; voxels of any shape, any unit.
        second: Light in the second gate; same shape and unit.
        delay_us: From the begin of the first gate to the begin of the second, microseconds.

    Returns:
        Same shape, microseconds; nan where the light does not fall from the first gate to the second.

    Raises:
        MapError: The delay is not positive.

    Source:
        Ballew and Demas 1989, Anal Chem 61:30.

    Example:
        >>> round(two_gate_lifetime_us(torch.tensor(2.0), torch.tensor(1.0), delay_us=10.0).item(), 4)
        14.427
    """
    if not delay_us > 0:
        raise MapError(f"the second gate begins {delay_us:g} us after the first; it must begin later")
    falls = (second > 0) & (first > second) & torch.isfinite(first)
    return _where(falls, delay_us / torch.log(first / second))


class PhosphorescenceDecay:
    """Signal = amplitude exp(-t / lifetime) + offset.

    Args:
        times_us: T, microseconds after the excitation; increasing, at least four.

    Raises:
        MapError: There are fewer than four times, or they do not increase.

    Source:
        Log-linear start after Vanderkooi et al. 1987, J Biol Chem 262:5476.
    """

    parameters = (AMPLITUDE, LIFETIME, OFFSET)

    def __init__(self, times_us: Tensor) -> None:
        if times_us.ndim != 1 or len(times_us) < 4 or not bool((times_us[1:] > times_us[:-1]).all()):
            raise MapError(
                f"a decay of three unknowns has times of shape {tuple(times_us.shape)}; give at least four, increasing"
            )
        self.times_us = times_us

    @property
    def samples(self) -> int:
        """Number of times."""
        return len(self.times_us)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal T x N and its Jacobian 3 x T x N."""
        amplitude, lifetime, offset = values
        times = self.times_us.to(values)[:, None]
        left = torch.exp(-times / lifetime)
        slope = amplitude * left * times / lifetime**2
        return amplitude * left + offset, torch.stack([left, slope, torch.ones_like(left)])

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """A line through the logarithms of the signal above its last samples, weighted by the signal squared."""
        times = self.times_us.to(signal)[:, None]
        tail = signal[-max(1, int(TAIL_SHARE * len(signal))) :].mean(0)
        light = signal - tail
        used = light > START_SHARE * light[0].clamp(min=0)
        # The error of a logarithm is that of the signal divided by the signal.
        weight = torch.where(used, light, 0.0) ** 2
        total = weight.sum(0)
        logarithm = torch.log(torch.where(used, light, 1.0))
        middle, level = (weight * times).sum(0) / total, (weight * logarithm).sum(0) / total
        spread = (weight * (times - middle) ** 2).sum(0)
        rate = -(weight * (times - middle) * (logarithm - level)).sum(0) / spread
        lifetime = torch.where(rate > 0, 1 / rate, float("nan"))
        amplitude = torch.where(rate > 0, torch.exp(level + rate * middle), light[0].clamp(min=0))
        return torch.stack([amplitude, lifetime, tail])


def lifetime_map(signal: Tensor, times_us: Tensor, *, mask: Tensor | None = None) -> FitResult:
    """Amplitude, lifetime (us) and offset of the decay in every voxel.

    Args:
        signal: T x voxels of any shape, any unit, float32 or float64.
        times_us: T, microseconds after the excitation.
        mask: Voxels to fit; all when None.

    Returns:
        Maps `amplitude`, `lifetime` and `offset` with their errors; nan where `status` says that there is none.

    Raises:
        MapError: The times do not fit the signal, or are fewer than four.

    Source:
        Vanderkooi et al. 1987, J Biol Chem 262:5476.

    Example:
        >>> times = torch.linspace(0, 200, 20, dtype=torch.float64)
        >>> decay = (5 * torch.exp(-times / 40) + 1)[:, None]
        >>> round(lifetime_map(decay, times).values["lifetime"].item(), 3)
        40.0
    """
    return fit(PhosphorescenceDecay(times_us), signal, mask=mask)


def ratiometric(
    sensitive: Tensor,
    reference: Tensor,
    *,
    background_sensitive: float = 0.0,
    background_reference: float = 0.0,
) -> Tensor:
    """Light of an oxygen-sensitive dye by that of an insensitive one beside it, each above its background.

    Args:
        sensitive: Voxels of any shape, counts.
        reference: Same shape, counts.
        background_sensitive: Counts without dye.
        background_reference: Counts without dye.

    Returns:
        Same shape, dimensionless; nan where the reference is not above its background.

    Source:
        Zhang et al. 2009, Nat Mater 8:747.

    Example:
        >>> ratiometric(torch.tensor(7.0), torch.tensor(5.0), background_sensitive=1.0, background_reference=2.0).item()
        2.0
    """
    below = reference - background_reference
    ratio = (sensitive - background_sensitive) / below
    return _where((below > 0) & torch.isfinite(ratio), ratio)


def ratiometric_po2(ratio: Tensor, *, ratio_anoxic: float, k_sv_per_mmhg: float) -> Tensor:
    """Oxygen partial pressure from a ratio: R0 / R = 1 + K_SV pO2.

    Only for dyes that oxygen quenches. Probes that an enzyme activates under hypoxia, such as those of a
    nitroreductase, gather over time and give no pressure: see `contralateral_z`.

    Args:
        ratio: Voxels of any shape, from `ratiometric`.
        ratio_anoxic: The ratio without oxygen.
        k_sv_per_mmhg: Stern-Volmer constant, 1/mmHg.

    Returns:
        Same shape, mmHg; negative where noise made the ratio exceed that of anoxia, nan where it is not positive.

    Raises:
        MapError: A constant is not positive.

    Source:
        Stern and Volmer 1919, Phys Z 20:183.

    Example:
        >>> round(ratiometric_po2(torch.tensor(0.5), ratio_anoxic=1.0, k_sv_per_mmhg=0.05).item(), 3)
        20.0
    """
    if not (ratio_anoxic > 0 and k_sv_per_mmhg > 0):
        raise MapError(
            f"the ratio without oxygen is {ratio_anoxic:g} and the Stern-Volmer constant {k_sv_per_mmhg:g} 1/mmHg; "
            "both must be positive"
        )
    return _where(torch.isfinite(ratio) & (ratio > 0), (ratio_anoxic / ratio - 1) / k_sv_per_mmhg)


def contralateral_z(signal: Tensor, tumour: Tensor, *, contralateral: Tensor) -> Tensor:
    """Light in the tumour in standard deviations above that of the same tissue on the other side.

    All that an enzyme-activated probe allows: its light depends on dose, enzyme and time, and gives no pO2.

    Args:
        signal: Voxels of any shape, any unit.
        tumour: Same shape, bool.
        contralateral: Same shape, bool; the mirrored region in healthy tissue. Voxels that are not finite are left out.

    Returns:
        Same shape, dimensionless; nan outside the tumour.

    Raises:
        MapError: The shapes differ, the regions overlap, or the contralateral region does not scatter.

    Example:
        >>> other = torch.tensor([False, False, True, True, True])
        >>> contralateral_z(torch.tensor([5.0, 9.0, 1.0, 2.0, 3.0]), ~other, contralateral=other)[:2].tolist()
        [3.0, 7.0]
    """
    if not signal.shape == tumour.shape == contralateral.shape:
        raise MapError(
            f"the image is {tuple(signal.shape)}, the tumour {tuple(tumour.shape)} and the contralateral region "
            f"{tuple(contralateral.shape)}; bring them onto one grid"
        )
    tumour, contralateral = tumour.bool(), contralateral.bool()
    shared = int((tumour & contralateral).sum())
    if shared:
        raise MapError(f"tumour and contralateral region share {shared} voxels; separate them")
    healthy = signal[contralateral & torch.isfinite(signal)].double()
    spread = float(healthy.std()) if len(healthy) > 1 else 0.0
    if not spread > 0:
        raise MapError(
            f"the contralateral region has {len(healthy)} finite voxels that scatter by {spread:g}; name a larger one"
        )
    return _where(tumour & torch.isfinite(signal), (signal - float(healthy.mean())) / spread)


def _where(known: Tensor, values: Tensor) -> Tensor:
    return torch.where(known, values, float("nan"))
