"""The levels of all channels of a patient as one normal distribution: which of them do not go together.

A channel may be usual by itself, and unusual beside the others. What a case lacks is left out of the distribution: the
rest is judged by what is known of it alone.

Axis legend: C channels.

Source:
    Wilson and Hilferty 1931, PNAS 17:684 (the cube root of a squared distance is nearly normal for any number of
    channels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.errors import BundleError

Array = NDArray[np.float64]

# Rounding must not make a correlation matrix one that cannot be solved.
SMALLEST_EIGENVALUE = 0.01


@dataclass(frozen=True, slots=True)
class Levels:
    """A normal distribution of the medians of C channels, and how far from it patients are that did not make it.

    Args:
        names: C, channels.
        mean: C, in normalised values.
        scale: C, standard deviations.
        correlation: C x C.
        centre: Mean of the surprise of judging patients.
        spread: Standard deviation of that.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    centre: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        c = len(self.names)
        sizes = {
            len(set(self.names)),
            len(self.mean),
            len(self.scale),
            len(self.correlation),
            *map(len, self.correlation),
        }
        if sizes != {c} or c == 0 or min((*self.scale, self.spread)) <= 0:
            raise BundleError(f"the levels of {c} channels of training patients have numbers that do not fit them")
        matrix = np.array(self.correlation)
        if not np.array_equal(matrix, matrix.T) or np.linalg.eigvalsh(matrix)[0] < SMALLEST_EIGENVALUE / 2:
            raise BundleError(f"the levels of {c} channels of training patients have correlations that cannot be")

    def surprise(self, medians: Mapping[str, float]) -> float | None:
        """How far the channels that are there lie from training patients, in standard deviations of judging patients.

        Args:
            medians: Channel to its median; other channels than `names` do not count.

        Returns:
            None when none of them is there.

        Example:
            >>> levels = Levels(("FMISO_SUV", "FMISO_TMR"), (0.0, 0.0), (1.0, 1.0), ((1.0, 0.9), (0.9, 1.0)))
            >>> together = levels.surprise({"FMISO_SUV": 1.0, "FMISO_TMR": 1.0})
            >>> apart = levels.surprise({"FMISO_SUV": 1.0, "FMISO_TMR": -1.0})
            >>> round(together, 2), round(apart, 2)
            (-0.24, 3.8)
        """
        there, away = self._away(medians)
        k = len(there)
        if k == 0:
            return None
        squared = float(away @ self._precision(there) @ away)
        variance = 2.0 / (9.0 * k)
        score = (math.cbrt(squared / k) - (1.0 - variance)) / math.sqrt(variance)
        return (score - self.centre) / self.spread

    def oddest(self, medians: Mapping[str, float]) -> tuple[str, float]:
        """The channel that fits the others least, and the median that would go with them.

        Example:
            >>> levels = Levels(("FMISO_SUV", "CT_HU"), (0.0, 0.0), (1.0, 1.0), ((1.0, 0.5), (0.5, 1.0)))
            >>> name, usual = levels.oddest({"FMISO_SUV": 4.0, "CT_HU": 1.0})
            >>> name, round(usual, 3)
            ('FMISO_SUV', 0.5)
        """
        there, away = self._away(medians)
        precision = self._precision(there)
        pulled, own = precision @ away, np.diag(precision)
        furthest = int(np.abs(pulled / np.sqrt(own)).argmax())
        place = int(there[furthest])
        usual = float(away[furthest] - pulled[furthest] / own[furthest])
        return self.names[place], self.mean[place] + self.scale[place] * usual

    def _away(self, medians: Mapping[str, float]) -> tuple[NDArray[np.int64], Array]:
        """Places of the channels that are there, and their standard deviations from the mean."""
        there = np.array([place for place, name in enumerate(self.names) if name in medians], dtype=np.int64)
        values = np.array([medians[self.names[place]] for place in there])
        return there, (values - np.array(self.mean)[there]) / np.array(self.scale)[there]

    def _precision(self, there: NDArray[np.int64]) -> Array:
        return np.asarray(np.linalg.inv(np.array(self.correlation)[np.ix_(there, there)]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, six digits."""
        return {
            "names": list(self.names),
            "mean": list(map(six, self.mean)),
            "scale": list(map(six, self.scale)),
            "correlation": [list(map(six, row)) for row in self.correlation],
            "centre": six(self.centre),
            "spread": six(self.spread),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Levels:
        """The inverse of `to_json`.

        Raises:
            BundleError: Numbers that do not fit each other.
            KeyError, TypeError, ValueError: A value is missing or of the wrong kind.
        """
        return cls(
            names=tuple(map(str, content["names"])),
            mean=tuple(map(float, content["mean"])),
            scale=tuple(map(float, content["scale"])),
            correlation=tuple(tuple(map(float, row)) for row in content["correlation"]),
            centre=float(content["centre"]),
            spread=float(content["spread"]),
        )


def six(number: float) -> float:
    """The number to six digits."""
    return float(f"{number:.6g}")
