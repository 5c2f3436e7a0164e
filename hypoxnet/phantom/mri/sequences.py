"""What sequences make of tissue: signal without noise, on any grid, with the sidecars that our maps read.

Not in it: magnetisation transfer, water exchange, T2* of contrast agent, inflow, slice profiles, and the phases of fat.

Axis legend: T volumes, D H W voxels, N voxels that take up contrast agent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.diffusion import MILLI
from hypoxnet.maps.relaxometry import spoiled_gradient_echo
from hypoxnet.phantom.mri.acquire import MrSession, as_seen
from hypoxnet.phantom.mri.contrast import concentration
from hypoxnet.phantom.mri.properties import MrProperties
from hypoxnet.phantom.parameters.mri import MrProtocol
from hypoxnet.phantom.words import RawSeries

AIR, TRANSITION, OXYGEN = "air", "transition", "oxygen"


def spin_echo(properties: MrProperties, *, tr_s: float, te_s: float) -> Tensor:
    """Signal of a spin echo, D H W: M0 (1 - exp(-TR R1)) exp(-TE R2)."""
    recovered = -torch.expm1(-tr_s * properties.r1)
    return properties.proton_density * recovered * torch.exp(-te_s * properties.r2)


def t1_weighted(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """A T1-weighted image, 1 D H W."""
    signal = spin_echo(properties, tr_s=protocol.t1w_tr_s, te_s=protocol.t1w_te_s)
    return RawSeries("T1W", signal[None], {"RepetitionTime": protocol.t1w_tr_s, "EchoTime": protocol.t1w_te_s})


def t2_weighted(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """A T2-weighted image, 1 D H W."""
    signal = spin_echo(properties, tr_s=protocol.t2w_tr_s, te_s=protocol.t2w_te_s)
    return RawSeries("T2W", signal[None], {"RepetitionTime": protocol.t2w_tr_s, "EchoTime": protocol.t2w_te_s})


def _spoiled(properties: MrProperties, protocol: MrProtocol, *, r1: Tensor, r2star: Tensor, flip_deg: float) -> Tensor:
    """A spoiled gradient echo with the echo time of the protocol; the flip angle is as the transmitter makes it."""
    flip = math.radians(flip_deg) * properties.transmit
    signal = spoiled_gradient_echo(properties.proton_density, r1, flip_rad=flip, tr_s=protocol.spoiled_tr_s)
    return signal * torch.exp(-protocol.spoiled_te_s * r2star)


def variable_flip_angle(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """Spoiled gradient echoes at several flip angles under air, one volume each."""
    volumes = [
        _spoiled(properties, protocol, r1=properties.r1, r2star=properties.r2star, flip_deg=flip)
        for flip in protocol.flips_deg
    ]
    sidecar = {
        "FlipAngle": list(protocol.flips_deg),
        "RepetitionTime": protocol.spoiled_tr_s,
        "EchoTime": protocol.spoiled_te_s,
    }
    return RawSeries("RAW_VFA", torch.stack(volumes), sidecar)


def gas_of(protocol: MrProtocol) -> list[str]:
    """What is breathed during each volume of the oxygen-enhanced series."""
    return (
        [AIR] * protocol.air_volumes + [TRANSITION] * protocol.transition_volumes + [OXYGEN] * protocol.oxygen_volumes
    )


def oxygen_shares(protocol: MrProtocol) -> list[float]:
    """How much of the change of gas has reached the tissue at each volume: 1 - exp(-t / wash-in) after the change.

    Example:
        >>> shares = oxygen_shares(MrProtocol())
        >>> shares[11], shares[12], round(shares[21], 4), round(shares[-1], 4)
        (0.0, 0.0, 0.9889, 1.0)
    """
    since = [(i - protocol.air_volumes) * protocol.oxygen_spacing_s for i in range(len(gas_of(protocol)))]
    return [-math.expm1(-max(0.0, t) / protocol.wash_in_s) for t in since]


def oxygen_enhanced(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """Spoiled gradient echoes repeated under air and then under oxygen.

    R2* falls with the deoxygenated blood: at the echo time of the protocol that alone adds to the signal, which a map
    of R1 takes for a part of its change.
    """
    shares = oxygen_shares(protocol)
    made: dict[float, Tensor] = {}
    for share in shares:
        if share not in made:
            r1 = properties.r1 + share * properties.dr1
            r2star = torch.lerp(properties.r2star, properties.r2star_oxygen, share)
            made[share] = _spoiled(properties, protocol, r1=r1, r2star=r2star, flip_deg=protocol.oxygen_flip_deg)
    sidecar = {
        "FlipAngle": protocol.oxygen_flip_deg,
        "RepetitionTime": protocol.spoiled_tr_s,
        "EchoTime": protocol.spoiled_te_s,
        "VolumeTiming": [protocol.oxygen_spacing_s * i for i in range(len(shares))],
        "Gas": gas_of(protocol),
    }
    return RawSeries("RAW_OE", torch.stack([made[share] for share in shares]), sidecar)


def multi_echo(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """A multi-echo gradient echo under air."""
    return _echoes("RAW_R2STAR", properties, protocol, r1=properties.r1, r2star=properties.r2star)


def multi_echo_oxygen(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """A multi-echo gradient echo under oxygen, when its effect is complete."""
    r1 = properties.r1 + properties.dr1
    return _echoes("RAW_R2STAR_OXYGEN", properties, protocol, r1=r1, r2star=properties.r2star_oxygen)


def _echoes(name: str, properties: MrProperties, protocol: MrProtocol, *, r1: Tensor, r2star: Tensor) -> RawSeries:
    flip = math.radians(protocol.echo_flip_deg) * properties.transmit
    begin = spoiled_gradient_echo(properties.proton_density, r1, flip_rad=flip, tr_s=protocol.echo_tr_s)
    volumes = torch.stack([begin * torch.exp(-te * r2star) for te in protocol.echo_times_s])
    sidecar = {
        "EchoTime": list(protocol.echo_times_s),
        "RepetitionTime": protocol.echo_tr_s,
        "FlipAngle": protocol.echo_flip_deg,
    }
    return RawSeries(name, volumes, sidecar)


def contrast_enhanced(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """Spoiled gradient echoes while contrast agent passes."""
    times_s = [protocol.contrast_spacing_s * i for i in range(protocol.contrast_volumes)]
    takes_up = (properties.proton_density > 0) & ((properties.ktrans > 0) | (properties.vp > 0))
    chosen = torch.nonzero(takes_up.reshape(-1))[:, 0]
    inside = properties.each(lambda values: values.reshape(-1)[chosen])
    still = _spoiled(
        properties, protocol, r1=properties.r1, r2star=properties.r2star, flip_deg=protocol.contrast_flip_deg
    )
    signal = still.expand(len(times_s), *still.shape).clone()
    for volume, mm in zip(signal, concentration(inside, protocol, times_s), strict=True):
        r1 = inside.r1 + protocol.relaxivity_per_s_mm * mm
        made = _spoiled(inside, protocol, r1=r1, r2star=inside.r2star, flip_deg=protocol.contrast_flip_deg)
        volume.view(-1)[chosen] = made
    sidecar = {
        "FlipAngle": protocol.contrast_flip_deg,
        "RepetitionTime": protocol.spoiled_tr_s,
        "EchoTime": protocol.spoiled_te_s,
        "VolumeTiming": times_s,
        "ContrastBolusIngredient": "GADOLINIUM",
        "BolusArrival": protocol.bolus_s,
        "Relaxivity": protocol.relaxivity_per_s_mm,
    }
    return RawSeries("RAW_DCE", signal, sidecar)


def diffusion_signal(properties: MrProperties, b_value: float, *, te_s: float) -> Tensor:
    """M0 exp(-TE R2) (f exp(-b D*) + (1 - f) exp(-b D)), D H W.

    Source:
        Le Bihan et al. 1988, Radiology 168:497.
    """
    b = MILLI * b_value
    slow, fast = torch.exp(-b * properties.d), torch.exp(-b * properties.d_star)
    attenuation = torch.lerp(slow, fast, properties.f)
    return properties.proton_density * torch.exp(-te_s * properties.r2) * attenuation


def _weighted(name: str, properties: MrProperties, protocol: MrProtocol, b_values: tuple[float, ...]) -> RawSeries:
    te_s = protocol.diffusion_te_s
    volumes = [diffusion_signal(properties, b, te_s=te_s) for b in b_values]
    sidecar: dict[str, Any] = {"bval": list(b_values), "EchoTime": te_s}
    return RawSeries(name, torch.stack(volumes), sidecar)


def diffusion_weighted(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """Diffusion-weighted images for the ADC, the mean over directions."""
    return _weighted("RAW_ADC", properties, protocol, protocol.adc_b_values)


def incoherent_motion(properties: MrProperties, protocol: MrProtocol) -> RawSeries:
    """Diffusion-weighted images for IVIM, the mean over directions."""
    return _weighted("RAW_IVIM", properties, protocol, protocol.ivim_b_values)


SEQUENCES: dict[str, Callable[[MrProperties, MrProtocol], RawSeries]] = {
    "T1W": t1_weighted,
    "T2W": t2_weighted,
    "RAW_VFA": variable_flip_angle,
    "RAW_OE": oxygen_enhanced,
    "RAW_R2STAR": multi_echo,
    "RAW_R2STAR_OXYGEN": multi_echo_oxygen,
    "RAW_DCE": contrast_enhanced,
    "RAW_ADC": diffusion_weighted,
    "RAW_IVIM": incoherent_motion,
}

# Which series a quantity is fitted to.
NEEDS: dict[str, tuple[str, ...]] = {
    "T1W": ("T1W",),
    "T2W": ("T2W",),
    **dict.fromkeys(("T1", "R1"), ("RAW_VFA",)),
    **dict.fromkeys(("DR1", "DT1"), ("RAW_VFA", "RAW_OE")),
    **dict.fromkeys(("R2STAR", "T2STAR"), ("RAW_R2STAR",)),
    "DR2STAR": ("RAW_R2STAR", "RAW_R2STAR_OXYGEN"),
    **dict.fromkeys(("KTRANS", "VE", "VP", "KEP"), ("RAW_VFA", "RAW_DCE")),
    "ADC": ("RAW_ADC",),
    **dict.fromkeys(("IVIM_D", "IVIM_F", "IVIM_DSTAR"), ("RAW_IVIM",)),
}


def series_needed(wanted: Sequence[str]) -> tuple[str, ...]:
    """Series to take for some quantities, each once, in the order of a visit; other quantities need none.

    Example:
        >>> series_needed(["KTRANS", "R1", "FMISO_SUV"])
        ('RAW_VFA', 'RAW_DCE')
    """
    needed = {series for name in wanted for series in NEEDS.get(name, ())}
    return tuple(name for name in SEQUENCES if name in needed)


def raw_series(
    properties: MrProperties, protocol: MrProtocol, names: Sequence[str], session: MrSession
) -> Iterator[RawSeries]:
    """Signal without noise of the tissue in a scanner's fields, on the object's grid, one series after the other.

    Args:
        properties: Of the tissue.
        protocol: How series are taken.
        names: Of `SEQUENCES`.
        session: Of the visit.

    Raises:
        MapError: There is no series of that name.
    """
    seen = as_seen(properties, session)
    for name in names:
        if name not in SEQUENCES:
            raise MapError(f"there is no series {name!r} of the phantom; there are {', '.join(SEQUENCES)}")
        yield SEQUENCES[name](seen, protocol)
