"""What training patients look like, as numbers of which no patient can be had back, and how far a case is from them.

Of each channel four numbers are taken inside the tumour (and over the whole image, for cases without contour), of the
network's features their mean inside the tumour. Each such part is a normal distribution: mean, spread, and at most
`MOST_COMPONENTS` directions with their variances; the other directions share one variance. The medians of all channels
together are one more part (`hypoxnet.bundle.levels`), and so are those in the tissue near the contour. A case is as far
from the training patients as its furthest part.

Axis legend: d numbers of a part, q directions.

Source:
    Ledoit and Wolf 2004, J Multivar Anal 88:365 (shrinkage); Tipping and Bishop 1999, J R Stat Soc B 61:611 (directions
    and one variance for the rest); Lee et al. 2018, NeurIPS, A simple unified framework for detecting
    out-of-distribution samples (distance of features).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.bundle.levels import Levels, six
from hypoxnet.errors import BundleError
from hypoxnet.transforms.appearance import STATISTICS

Array = NDArray[np.float64]

MOST_COMPONENTS = 8
# Names of the parts that are no channel; levels have the place in their name.
FEATURES = "features"
MEDIAN = STATISTICS.index("median")


def levels_at(place: str) -> str:
    """Name of the part that holds the levels of all channels at a place.

    Example:
        >>> levels_at(TUMOUR), levels_at(AROUND)
        ('levels (tumour)', 'levels (around the tumour)')
    """
    return f"levels ({place})"


# Where channels are looked at: inside the contour, or everywhere in a case without one.
TUMOUR, IMAGE = "tumour", "image"
# Where the levels of channels are looked at besides, in a case with a contour: in the tissue near it.
AROUND = "around the tumour"


def levels_of(place: str) -> tuple[str, ...]:
    """Where the levels of a case are looked at that is judged at a place."""
    return (TUMOUR, AROUND) if place == TUMOUR else (place,)


@dataclass(frozen=True, slots=True)
class Part:
    """A normal distribution of d numbers, and how far from it patients are that did not make it.

    Args:
        mean: d.
        scale: d, standard deviations; numbers are divided by them first.
        directions: q x d, orthonormal.
        variances: q, along the directions.
        rest: Variance along every other direction.
        centre: Mean of the logarithm of the distance of judging patients.
        spread: Standard deviation of that.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...]
    rest: float
    centre: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        d, q = len(self.mean), len(self.variances)
        fits = len(self.scale) == d and len(self.directions) == q and all(len(row) == d for row in self.directions)
        if not (fits and min((*self.scale, *self.variances, self.rest, self.spread)) > 0):
            raise BundleError(f"a part of what training patients look like has {d} means and does not fit them")

    def standardised(self, numbers: Array) -> Array:
        """Numbers in standard deviations from the mean."""
        return np.asarray((numbers - np.array(self.mean)) / np.array(self.scale), dtype=np.float64)

    def distance(self, numbers: Array) -> float:
        """Mahalanobis distance.

        Example:
            >>> part = Part((0.0, 0.0), (1.0, 1.0), ((1.0, 0.0),), (4.0,), rest=1.0)
            >>> part.distance(np.array([2.0, 0.0])), part.distance(np.array([0.0, 2.0]))
            (1.0, 2.0)
        """
        away = self.standardised(numbers)
        along = np.array(self.directions).reshape(-1, len(away)) @ away
        across = max(0.0, float(away @ away - along @ along))
        return math.sqrt(float((along**2 / np.array(self.variances)).sum()) + across / self.rest)

    def surprise(self, numbers: Array) -> float:
        """Logarithm of the distance, in standard deviations above that of judging patients."""
        return (math.log(max(self.distance(numbers), 1e-6)) - self.centre) / self.spread


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a case looks like.

    Args:
        channels: `TUMOUR` (with a contour) and `IMAGE` to each channel that is present, `STATISTICS` each.
        features: Mean features inside the contour; None without one.
        around: Channel to its median near the contour; empty without one.
    """

    channels: Mapping[str, Mapping[str, Array]]
    features: Array | None = None
    around: Mapping[str, float] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it is judged."""
        return TUMOUR if self.channels.get(TUMOUR) else IMAGE

    def medians(self, place: str) -> dict[str, float]:
        """Of each channel that is there; `place` may be `AROUND`."""
        if place == AROUND:
            return dict(self.around)
        return {name: float(values[MEDIAN]) for name, values in self.channels.get(place, {}).items() if len(values)}

    @property
    def pattern(self) -> tuple[str, ...]:
        """Which channels are present."""
        return tuple(sorted(self.channels.get(IMAGE, {})))


@dataclass(frozen=True, slots=True)
class Typical:
    """What the training patients of one network look like.

    Args:
        channels: `TUMOUR` and `IMAGE` to a part per channel.
        features: Of the features; None with too few patients.
        pattern: Channels of the patients of whom features were taken: with others absent, features are others.
        limits: `TUMOUR` and `IMAGE` to the surprise above which a case is unlike.
        patients: Who made the parts.
        judges: Who made the limits.
        judged_by: Whether these were validation patients or the training patients themselves, each left out in turn.
        levels: `TUMOUR`, `AROUND` and `IMAGE` to the levels of all channels; empty where a bundle is older than these.
    """

    channels: Mapping[str, Mapping[str, Part]]
    features: Part | None
    pattern: tuple[str, ...]
    limits: Mapping[str, float]
    patients: int
    judges: int
    judged_by: str
    levels: Mapping[str, Levels] = field(default_factory=dict)

    def parts(self, place: str) -> dict[str, Part | Levels]:
        """What a case is compared with there."""
        found: dict[str, Part | Levels] = dict(self.channels.get(place, {}))
        found |= {levels_at(each): self.levels[each] for each in levels_of(place) if each in self.levels}
        if place == TUMOUR and self.features:
            found[FEATURES] = self.features
        return found

    def surprises(self, case: Appearance, place: str) -> dict[str, float]:
        """Surprise of each part that can be judged; a channel or a pattern that training did not have cannot."""
        parts = self.channels.get(place, {})
        there = case.channels.get(place, {})
        found = {name: parts[name].surprise(values) for name, values in there.items() if name in parts}
        for each in levels_of(place):
            together = self.levels[each].surprise(case.medians(each)) if each in self.levels else None
            if together is not None:
                found[levels_at(each)] = together
        if place == TUMOUR and self.features and case.features is not None and case.pattern == self.pattern:
            found[FEATURES] = self.features.surprise(case.features)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, six digits."""
        return {
            "channels": {
                place: {name: _part_json(part) for name, part in parts.items()}
                for place, parts in self.channels.items()
            },
            "features": None if self.features is None else _part_json(self.features),
            "pattern": list(self.pattern),
            "limits": {place: six(limit) for place, limit in self.limits.items()},
            "patients": self.patients,
            "judges": self.judges,
            "judged_by": self.judged_by,
            "levels": {place: levels.to_json() for place, levels in self.levels.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Typical:
        """The inverse of `to_json`.

        Raises:
            BundleError: Numbers that do not fit each other.
            KeyError, TypeError, ValueError: A value is missing or of the wrong kind.
        """
        channels = {
            str(place): {str(name): _part(values) for name, values in parts.items()}
            for place, parts in content["channels"].items()
        }
        return cls(
            channels=channels,
            features=None if content["features"] is None else _part(content["features"]),
            pattern=tuple(map(str, content["pattern"])),
            limits={str(place): float(limit) for place, limit in content["limits"].items()},
            patients=int(content["patients"]),
            judges=int(content["judges"]),
            judged_by=str(content["judged_by"]),
            levels={str(place): Levels.from_json(one) for place, one in content.get("levels", {}).items()},
        )


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "mean": list(map(six, part.mean)),
        "scale": list(map(six, part.scale)),
        "directions": [list(map(six, row)) for row in part.directions],
        "variances": list(map(six, part.variances)),
        "rest": six(part.rest),
        "centre": six(part.centre),
        "spread": six(part.spread),
    }


def _part(content: Mapping[str, Any]) -> Part:
    return Part(
        mean=tuple(map(float, content["mean"])),
        scale=tuple(map(float, content["scale"])),
        directions=tuple(tuple(map(float, row)) for row in content["directions"]),
        variances=tuple(map(float, content["variances"])),
        rest=float(content["rest"]),
        centre=float(content["centre"]),
        spread=float(content["spread"]),
    )
