"""Whether a case is unlike the patients that trained the networks, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.bundle.typical import AROUND, FEATURES, IMAGE, TUMOUR, Appearance, Typical, levels_at, levels_of
from hypoxnet.cases import Sample
from hypoxnet.models.joint import mean_of_pooled
from hypoxnet.quantities import quantity
from hypoxnet.transforms.appearance import STATISTICS, channel_statistics, medians_around
from hypoxnet.transforms.settings import ChannelNorm, PrepareSettings

WHERE = {TUMOUR: "inside the tumour", IMAGE: "in the image", AROUND: AROUND}
NOISE = STATISTICS.index("noise")


def appearance_of(
    sample: Sample, settings: PrepareSettings, pooled: tuple[Tensor, Tensor] | None, *, everywhere: bool = True
) -> Appearance:
    """What a case looks like.

    Args:
        sample: As prepared.
        settings: Names of the channels.
        pooled: Features summed over the tumour and the weight of that sum, 1 F each; None where nobody asked.
        everywhere: Look at the whole image as well when there is a contour.
    """
    contour = bool(sample.tumour_known > 0) and bool(sample.tumour.any())
    channels = {}
    if everywhere or not contour:
        channels[IMAGE] = channel_statistics(sample, settings.channels, inside_contour=False)
    else:
        present = zip(settings.channels, sample.presence.tolist(), strict=True)
        channels[IMAGE] = {name: np.zeros(0) for name, there in present if there > 0}
    features, around = None, {}
    if contour:
        around = medians_around(sample, settings.channels)
        channels[TUMOUR] = channel_statistics(sample, settings.channels, inside_contour=True)
        if pooled is not None:
            features = mean_of_pooled(*pooled)[0].double().cpu().numpy()
    return Appearance(channels, features, around)


def unlike_training(spec: BundleSpec, sample: Sample, pooled: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any] | None:
    """What the JSON of a case says under `unlike_training`.

    In an ensemble every member has its own training patients: a case is unlike when most of them say so.

    Args:
        spec: The bundle.
        sample: As prepared.
        pooled: Per member, as for `appearance_of`.

    Returns:
        None when the bundle does not know its training patients, or nothing of the case can be compared with them.
    """
    said = []
    for typical, one in zip(spec.typical, pooled, strict=bool(spec.typical)):
        if typical is not None:
            case = appearance_of(sample, spec.settings, one, everywhere=False)
            answer = _said(typical, case, spec.settings)
            said += [answer] if answer is not None else []
    if not said:
        return None
    unlike = [answer for answer in said if answer["unlike"]]
    agreed = unlike if 2 * len(unlike) > len(said) else [answer for answer in said if not answer["unlike"]]
    furthest = max(agreed, key=lambda answer: answer["surprise"] - answer["limit"])
    return {**furthest, "networks": len(said), "networks_that_say_so": len(unlike)}


def _said(typical: Typical, case: Appearance, settings: PrepareSettings) -> dict[str, Any] | None:
    place = case.place
    surprises = typical.surprises(case, place)
    if not surprises or place not in typical.limits:
        return None
    limit = typical.limits[place]
    beyond = sorted((name for name, value in surprises.items() if value > limit), key=lambda name: -surprises[name])
    return {
        "unlike": bool(beyond),
        "reasons": [_reason(name, typical, case, settings) for name in beyond],
        "surprise": round(max(surprises.values()), 4),
        "limit": round(limit, 4),
        "by_part": {name: round(value, 4) for name, value in surprises.items()},
        "judged": WHERE[place],
    }


def _reason(name: str, typical: Typical, case: Appearance, settings: PrepareSettings) -> str:
    place = case.place
    if name == FEATURES:
        assert typical.features is not None
        assert case.features is not None
        times = typical.features.distance(case.features) / math.exp(typical.features.centre)
        return f"the network's features inside the tumour are {times:.1f} times as far from those of training as usual"
    for each in levels_of(place):
        if name == levels_at(each):
            return _beside_the_others(typical, case, each, settings)
    part, numbers = typical.channels[place][name], case.channels[place][name]
    furthest = int(np.abs(part.standardised(numbers)).argmax())
    if furthest == NOISE:
        return f"{name} {WHERE[place]} has {_times(10 ** (numbers[NOISE] - part.mean[NOISE]))} the usual noise"
    here, there, ratio = _compared(name, settings, float(numbers[furthest]), part.mean[furthest])
    return f"{name} {WHERE[place]}: its {STATISTICS[furthest]} is {here}, that of training patients {there}{ratio}"


def _beside_the_others(typical: Typical, case: Appearance, place: str, settings: PrepareSettings) -> str:
    """The channel whose median goes least with those of the others."""
    medians = case.medians(place)
    levels = typical.levels[place]
    name, usual = levels.oddest(medians)
    here, there, ratio = _compared(name, settings, medians[name], usual)
    beside = "beside those of the other channels" if len(medians.keys() & set(levels.names)) > 1 else "where"
    return f"{name} {WHERE[place]}: its median is {here}, {beside} {there} is usual{ratio}"


def _compared(name: str, settings: PrepareSettings, value: float, usual: float) -> tuple[str, str, str]:
    """Two normalised values in the unit of the channel, and in words how many times the second the first is."""
    norm = settings.norms[settings.channels.index(name)]
    here, there = _in_units(norm, value), _in_units(norm, usual)
    unit = "standard deviations of the image" if norm.kind == "image" else quantity(name).unit
    unit = "" if unit in {"", "1"} else f" {unit}"
    ratio = f", {_times(here / there)} it" if norm.kind == "fixed" and norm.low >= 0 and min(here, there) > 0 else ""
    return f"{here:.3g}{unit}", f"{there:.3g}{unit}", ratio


def _in_units(norm: ChannelNorm, value: float) -> float:
    if norm.kind == "image":
        return value
    scaled = value * norm.scale + norm.centre
    return math.expm1(scaled) if norm.log else scaled


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times"
