"""Normalisation of a channel by its quantity; the constants are written down, not derived from each image.

Every step is a stock MONAI transform, so that an exported bundle can repeat it without HypoxNet.
"""

from __future__ import annotations

import math

import torch
from monai.transforms import Compose, Lambda, NormalizeIntensity, ScaleIntensityRange

from hypoxnet.quantities import Modality, Quantity, quantity
from hypoxnet.transforms.settings import ChannelNorm

# log1p of an SUV or ratio of 1, about that of blood and muscle, becomes 0; SUV 4 becomes 1.8.
PET_CENTRE = math.log1p(1.0)
PET_SCALE = 0.5

# Centre and scale of maps in tissue, in the unit of the quantity table. Sources: docs/reference/quantities.md.
TISSUE: dict[str, tuple[float, float]] = {
    "T1": (1.2, 0.5),
    "B1": (1.0, 0.15),
    "R1": (0.9, 0.4),
    "DR1": (0.02, 0.05),
    "R2STAR": (35.0, 20.0),
    "DT1": (-2.0, 5.0),
    "DR2STAR": (-2.0, 6.0),
    "T2STAR": (0.03, 0.015),
    "ADC": (1.2, 0.5),
    "IVIM_D": (1.0, 0.4),
    "IVIM_F": (0.15, 0.1),
    "IVIM_DSTAR": (20.0, 20.0),
    "KTRANS": (0.3, 0.25),
    "KEP": (0.8, 0.5),
    "VE": (0.35, 0.2),
    "VP": (0.05, 0.05),
    "PS": (0.3, 0.25),
    "FP": (60.0, 40.0),
    "IAUC60": (20.0, 10.0),
    "PO2": (30.0, 20.0),
    "SO2": (0.6, 0.2),
    "THB": (0.3, 0.2),
}

# Of any tracer, by the end of the name.
KINETICS: dict[str, tuple[float, float]] = {
    "KI": (0.01, 0.01),
    "V0": (0.8, 0.4),
    "VT": (1.0, 0.5),
    "K1": (0.3, 0.2),
    "K2": (0.4, 0.3),
    "K3": (0.01, 0.01),
    "VB": (0.06, 0.05),
}


def norm_of(name: str) -> ChannelNorm:
    """The normalisation of a channel.

    PET: log1p of the SUV or ratio; a logarithm keeps the step from 1.2 to 1.4 visible beside an FDG peak of 30.
    CT: -200 to 300 HU, the soft tissues. MR maps: typical tissue. Weighted MR: z-score of the image.

    Raises:
        QuantityError: The name is not in the table.

    Example:
        >>> norm_of("FMISO_SUV").kind
        'fixed'
    """
    q = quantity(name)
    if q.is_arbitrary:
        return ChannelNorm("image", 0.0, 1.0, log=False, low=q.low, high=q.high)
    if q.modality is Modality.PET:
        return ChannelNorm("fixed", PET_CENTRE, PET_SCALE, log=True, low=q.low, high=q.high)
    if q.modality is Modality.CT:
        return ChannelNorm("fixed", 50.0, 125.0, log=False, low=-200.0, high=300.0)
    return _map_norm(q)


def _map_norm(q: Quantity) -> ChannelNorm:
    centre, scale = TISSUE[q.name] if q.name in TISSUE else KINETICS[q.name.rpartition("_")[2]]
    # Four standard deviations: a voxel next to air can hold an R2* of 900 1/s, which would drown the tissue.
    return ChannelNorm(
        "fixed", centre, scale, log=False, low=max(q.low, centre - 4 * scale), high=min(q.high, centre + 4 * scale)
    )


def intensity_transform(norm: ChannelNorm) -> Compose:
    """Stock MONAI transforms that normalise one channel, C D H W to the same."""
    if norm.kind == "image":
        return Compose([NormalizeIntensity(nonzero=True)])
    clip = ScaleIntensityRange(norm.low, norm.high, norm.low, norm.high, clip=True)
    logarithm = [Lambda(torch.log1p)] if norm.log else []
    return Compose([clip, *logarithm, NormalizeIntensity(subtrahend=norm.centre, divisor=norm.scale)])
