"""Oxygen-enhanced MRI: what breathing oxygen does to R1, and which tumour does not answer.

Dissolved oxygen raises R1. Tumour whose blood and tissue take up more oxygen answers (Oxy-E); tumour that uses up what
arrives does not (Oxy-R). Only where blood flows at all does no answer mean hypoxia, so perfusion decides on the name.

Axis legend: T volumes, D H W voxels (or any shape after T).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.welch import Sample, welch

AIR, OXYGEN, TRANSITION = "air", "oxygen", "transition"
GASES = (AIR, OXYGEN, TRANSITION)
# Beyond these a change is motion or flow, not dissolved oxygen.
MOST_DELTA_R1_PER_S = 0.2
MOST_DELTA_T1_PERCENT = 15.0


def delta_r1(t1_air_s: Tensor, t1_oxygen_s: Tensor) -> Tensor:
    """Change of the relaxation rate: 1 / T1(oxygen) - 1 / T1(air).

    Args:
        t1_air_s: Voxels of any shape, s.
        t1_oxygen_s: Same shape, s.

    Returns:
        Same shape, 1/s; positive where oxygen is taken up, nan where a T1 is not positive.

    Source:
        O'Connor et al. 2016, Cancer Res 76:787.

    Example:
        >>> round(delta_r1(torch.tensor(1.0), torch.tensor(0.965)).item(), 4)
        0.0363
    """
    change = (t1_air_s - t1_oxygen_s) / (t1_air_s * t1_oxygen_s)
    return _where(_positive(t1_air_s) & _positive(t1_oxygen_s), change)


def delta_t1_percent(t1_air_s: Tensor, t1_oxygen_s: Tensor) -> Tensor:
    """Change of T1 in percent of that on air; negative where oxygen is taken up.

    Args:
        t1_air_s: Voxels of any shape, s.
        t1_oxygen_s: Same shape, s.

    Returns:
        Same shape, percent; nan where a T1 is not positive.

    Source:
        McCabe et al. 2024, Eur Radiol Exp 8:27.

    Example:
        >>> round(delta_t1_percent(torch.tensor(1.0), torch.tensor(0.965)).item(), 2)
        -3.5
    """
    change = 100 * (t1_oxygen_s - t1_air_s) / t1_air_s
    return _where(_positive(t1_air_s) & _positive(t1_oxygen_s), change)


def delta_r1_from_percent(t1_air_s: Tensor, percent: Tensor) -> Tensor:
    """The change of R1 that belongs to a change of T1 in percent: R1(air) (1 / (1 + percent / 100) - 1), exactly.

    Args:
        t1_air_s: Voxels of any shape, s.
        percent: Change of T1, percent of that on air; same shape.

    Returns:
        Same shape, 1/s; nan where T1 is not positive or falls by 100 % or more.

    Example:
        >>> round(delta_r1_from_percent(torch.tensor(1.0), torch.tensor(-7.0)).item(), 4)
        0.0753
    """
    share = percent / 100
    known = _positive(t1_air_s) & (share > -1) & torch.isfinite(share)
    return _where(known, -share / (1 + share) / t1_air_s)


def delta_po2_mmhg(delta_r1: Tensor, *, relaxivity: float = 1.97e-4) -> Tensor:
    """Change of the oxygen partial pressure that a change of R1 stands for, if nothing but dissolved oxygen changed.

    Args:
        delta_r1: Voxels of any shape, 1/s.
        relaxivity: Of oxygen, 1/(s mmHg). The default is that of plasma at 3 T, (1.97 +- 0.09)e-4; tissue differs.

    Returns:
        Same shape, mmHg.

    Raises:
        MapError: The relaxivity is not positive.

    Source:
        Ma et al. 2016, Magn Reson Med, doi 10.1002/mrm.26069.

    Example:
        >>> round(delta_po2_mmhg(torch.tensor(0.0788)).item())
        400
    """
    if not relaxivity > 0:
        raise MapError(f"the relaxivity of oxygen is {relaxivity:g} 1/(s mmHg); it must be positive")
    return delta_r1 / relaxivity


@dataclass(frozen=True, slots=True)
class DynamicChange:
    """What oxygen did to R1 in every voxel; nan where a volume was not finite.

    Args:
        mean_air: Mean R1 on air, 1/s.
        mean_oxygen: Mean R1 on oxygen, 1/s.
        delta: Difference of the two, 1/s.
        t: Welch's t; nan where R1 does not scatter at all.
        degrees: Degrees of freedom of it, after Welch and Satterthwaite.
        p: One-sided: how often chance alone gives such an increase.
    """

    mean_air: Tensor
    mean_oxygen: Tensor
    delta: Tensor
    t: Tensor
    degrees: Tensor
    p: Tensor


def dynamic_change(r1: Tensor, gas: Sequence[str]) -> DynamicChange:
    """Compare R1 on oxygen with R1 on air in every voxel, variances not taken as equal.

    Volumes follow each other in time, so drift counts as an effect; the test does not know of it.

    Args:
        r1: T x voxels of any shape, 1/s.
        gas: T of "air", "oxygen" or "transition"; volumes in transition are left out.

    Raises:
        MapError: The number of gases differs from that of volumes, a gas is unknown, or one has fewer than 3 volumes.

    Source:
        O'Connor et al. 2016, Cancer Res 76:787; Welch 1947, Biometrika 34:28.

    Example:
        >>> r1 = torch.tensor([[0.70], [0.71], [0.72], [0.75], [0.74], [0.76]])
        >>> change = dynamic_change(r1, ["air"] * 3 + ["oxygen"] * 3)
        >>> round(change.delta.item(), 3), round(change.t.item(), 2), bool(change.p < 0.05)
        (0.04, 4.9, True)
    """
    if len(gas) != len(r1):
        raise MapError(f"there are {len(r1)} volumes and {len(gas)} gases; name one gas per volume")
    unknown = sorted(set(gas) - set(GASES))
    if unknown:
        raise MapError(f"'{unknown[0]}' is no gas of an oxygen-enhanced series; name {', '.join(GASES)}")
    air, oxygen = (Sample.of(r1, [i for i, name in enumerate(gas) if name == kind], kind) for kind in (AIR, OXYGEN))
    t, degrees, p = welch(oxygen, air)
    maps = (air.mean, oxygen.mean, oxygen.mean - air.mean, t, degrees, p)
    known = torch.isfinite(air.mean + oxygen.mean)
    return DynamicChange(*(_where(known, values).to(r1.dtype) for values in maps))


def perfused_voxels(
    concentration: Tensor,
    baseline: slice,
    *,
    contrast: slice | None = None,
    alpha: float = 0.05,
    least_millimolar: float = 0.0,
) -> Tensor:
    """Where contrast agent arrived: the mean after it is positive and significantly above the baseline.

    For evenly spaced volumes that mean is the area under the curve by its duration, so both have the same sign.

    Args:
        concentration: T x voxels of any shape, mM.
        baseline: Volumes before the agent arrives.
        contrast: Volumes after it, for example those of the first 60 s; all after the baseline when None.
        alpha: One-sided level of Welch's test.
        least_millimolar: Smallest mean concentration that counts, mM.

    Returns:
        Voxels: 1 perfused, 0 not, nan where it cannot be said; in the precision of `concentration`.

    Raises:
        MapError: One of the two has fewer than 3 volumes, or alpha is not between 0 and 1.

    Source:
        O'Connor et al. 2016, Cancer Res 76:787.

    Example:
        >>> curves = torch.tensor([[0.0, 0.01, -0.01, 0.0, 0.4, 0.5, 0.4], [0.0, 0.01, -0.01, 0.0, 0.01, -0.01, 0.0]])
        >>> perfused_voxels(curves.T, slice(0, 4)).tolist()
        [1.0, 0.0]
    """
    _check_alpha(alpha)
    volumes = range(len(concentration))
    before = volumes[baseline]
    after = volumes[contrast] if contrast is not None else volumes[max(before, default=0) + 1 :]
    first, second = (
        Sample.of(concentration, list(chosen), name)
        for chosen, name in ((before, "the baseline"), (after, "the contrast agent"))
    )
    _, _, p = welch(second, first)
    perfused = (p < alpha) & (second.mean > max(0.0, least_millimolar))
    return _where(torch.isfinite(p), perfused.to(concentration.dtype))


class OxygenClass(IntEnum):
    """What oxygen and contrast agent say of a voxel; perfused classes exist only where perfusion was measured."""

    OUTSIDE = 0
    OXY_E = 1
    OXY_R = 2
    PERFUSED_OXY_E = 3
    PERFUSED_OXY_R = 4
    NOT_PERFUSED = 5
    UNKNOWN = 6


def classify(change: DynamicChange, *, tumour: Tensor, perfused: Tensor | None = None, alpha: float = 0.05) -> Tensor:
    """Class of every voxel.

    Args:
        change: From `dynamic_change`.
        tumour: Voxels, bool.
        perfused: From `perfused_voxels`, or bool; nan is unknown. Without it nothing is called perfused.
        alpha: One-sided level at which an increase of R1 counts as an answer.

    Returns:
        Voxels, uint8 codes of `OxygenClass`.

    Raises:
        MapError: The shapes differ, or alpha is not between 0 and 1.

    Source:
        O'Connor et al. 2016, Cancer Res 76:787.

    Example:
        >>> r1 = torch.tensor([[0.70], [0.71], [0.72], [0.75], [0.74], [0.76]])
        >>> change = dynamic_change(r1, ["air"] * 3 + ["oxygen"] * 3)
        >>> OxygenClass(classify(change, tumour=torch.tensor([True])).item()).name
        'OXY_E'
    """
    _check_alpha(alpha)
    for name, other in (("tumour", tumour), ("perfusion", perfused)):
        if other is not None and other.shape != change.p.shape:
            raise MapError(
                f"the {name} is {tuple(other.shape)}, R1 is {tuple(change.p.shape)}; resample the {name} onto R1"
            )
    answers = (change.p < alpha) & (change.delta > 0)
    known = torch.isfinite(change.p)
    enhancing, refractory = OxygenClass.OXY_E, OxygenClass.OXY_R
    if perfused is not None:
        enhancing, refractory = OxygenClass.PERFUSED_OXY_E, OxygenClass.PERFUSED_OXY_R
        known &= torch.isfinite(perfused)
    classes = torch.where(answers, int(enhancing), int(refractory))
    classes = torch.where(known, classes, int(OxygenClass.UNKNOWN))
    if perfused is not None:
        classes = torch.where(perfused == 0, int(OxygenClass.NOT_PERFUSED), classes)
    return torch.where(tumour.bool(), classes, int(OxygenClass.OUTSIDE)).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class HypoxicFraction:
    """A share of voxels, with what was counted in words.

    Args:
        fraction: 0 to 1; nan when nothing is in the denominator.
        numerator: What counts as hypoxic.
        denominator: Of what it is a share.
        voxels_numerator: How many.
        voxels_denominator: How many.
    """

    fraction: float
    numerator: str
    denominator: str
    voxels_numerator: int
    voxels_denominator: int


def hypoxic_fraction(classes: Tensor, *, include_not_perfused: bool) -> HypoxicFraction:
    """Share of the classified tumour that does not answer to oxygen; unknown voxels are in neither count.

    Args:
        classes: From `classify`.
        include_not_perfused: Count tumour without perfusion in the denominator; without a measurement of perfusion
            there is none, and the words of the denominator say so.

    Raises:
        MapError: Some voxels were classified with perfusion and others without.

    Source:
        O'Connor et al. 2016, Cancer Res 76:787.

    Example:
        >>> fraction = hypoxic_fraction(torch.tensor([0, 3, 4, 5]), include_not_perfused=False)
        >>> fraction.fraction, fraction.numerator, fraction.denominator
        (0.5, 'perfused Oxy-R', 'perfused Oxy-E + perfused Oxy-R')
    """
    count = {kind: int((classes == kind).sum()) for kind in OxygenClass}
    without = count[OxygenClass.OXY_E] + count[OxygenClass.OXY_R]
    perfused = count[OxygenClass.PERFUSED_OXY_E] + count[OxygenClass.PERFUSED_OXY_R]
    measured = perfused + count[OxygenClass.NOT_PERFUSED] > 0
    if without and measured:
        raise MapError(
            f"{without} voxels are classified without perfusion, {perfused + count[OxygenClass.NOT_PERFUSED]} with it; "
            "classify all of them one way"
        )
    if not measured:
        return _fraction(count[OxygenClass.OXY_R], without, ("Oxy-R", "Oxy-E + Oxy-R"))
    words, whole = "perfused Oxy-E + perfused Oxy-R", perfused
    if include_not_perfused:
        words, whole = f"{words} + not perfused", whole + count[OxygenClass.NOT_PERFUSED]
    return _fraction(count[OxygenClass.PERFUSED_OXY_R], whole, ("perfused Oxy-R", words))


def _fraction(part: int, whole: int, words: tuple[str, str]) -> HypoxicFraction:
    return HypoxicFraction(part / whole if whole else math.nan, *words, part, whole)


def unphysiological_share(delta_r1: Tensor, percent: Tensor, *, mask: Tensor) -> float:
    """Share of voxels that change more than dissolved oxygen can: |dR1| >= 0.2 1/s or |dT1| >= 15 %.

    A large share means that the patient moved, or that blood flowed in.

    Args:
        delta_r1: Voxels of any shape, 1/s.
        percent: Change of T1, percent; same shape.
        mask: Same shape, bool.

    Returns:
        0 to 1, of the voxels in the mask with finite values; nan when there is none.

    Raises:
        MapError: The shapes differ.

    Source:
        Limits set beyond the ranges of McCabe et al. 2024, Eur Radiol Exp 8:27 (tumour medians -7.0 to -0.3 %).

    Example:
        >>> percent = torch.tensor([-3.0, -20.0, 1.0, float("nan")])
        >>> unphysiological_share(torch.tensor([0.03, 0.2, 0.5, 0.0]), percent, mask=torch.ones(4))
        0.6666666666666666
    """
    if not delta_r1.shape == percent.shape == mask.shape:
        raise MapError(
            f"dR1 is {tuple(delta_r1.shape)}, dT1 {tuple(percent.shape)}, the mask {tuple(mask.shape)}; bring them "
            "onto one grid"
        )
    known = mask.bool() & torch.isfinite(delta_r1) & torch.isfinite(percent)
    beyond = known & ((delta_r1.abs() >= MOST_DELTA_R1_PER_S) | (percent.abs() >= MOST_DELTA_T1_PERCENT))
    return int(beyond.sum()) / int(known.sum()) if bool(known.any()) else math.nan


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise MapError(f"the level of the test is {alpha:g}; it lies between 0 and 1")


def _positive(values: Tensor) -> Tensor:
    return (values > 0) & torch.isfinite(values)


def _where(known: Tensor, values: Tensor) -> Tensor:
    return torch.where(known, values, float("nan"))
