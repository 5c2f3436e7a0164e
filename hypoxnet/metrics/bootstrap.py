"""Figures with their intervals: percentile bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Statistic = Callable[[Index], float | None]

# An interval from fewer resamplings that are defined than this share says nothing.
ENOUGH_DEFINED = 0.5


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate with its 95 % interval; None where it is not defined (no event, one patient)."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """`{value, low, high}`, six digits."""
        return {
            name: None if number is None else round(number, 6)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }


def bootstrap(statistic: Statistic, patients: Sequence[str], *, resamplings: int, seed: int = 0) -> Figure:
    """Value of a statistic and its percentile interval, patients drawn with replacement with all their cases.

    Args:
        statistic: From the indices of cases to a number; None where it is not defined.
        patients: Whose each case is.
        resamplings: Number of bootstrap samples.
        seed: Seed; the same seed draws the same patients for every statistic, so that differences are paired.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Example:
        >>> values = np.array([0.2, 0.4, 0.6, 0.8])
        >>> bootstrap(lambda i: float(values[i].mean()), list("abcd"), resamplings=200).value
        0.5
    """
    value = _defined(statistic(np.arange(len(patients))))
    if value is None or len(set(patients)) < 2:
        return Figure(value)
    drawn = [_defined(statistic(index)) for index in resampled(patients, resamplings=resamplings, seed=seed)]
    defined = [number for number in drawn if number is not None]
    if len(defined) < ENOUGH_DEFINED * resamplings:
        return Figure(value)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Figure(value, float(low), float(high))


def resampled(patients: Sequence[str], *, resamplings: int, seed: int = 0) -> Iterator[Index]:
    """Indices of cases, patients drawn with replacement with all their cases, one array per resampling.

    Args:
        patients: Whose each case is.
        resamplings: Number of bootstrap samples.
        seed: The same seed draws the same patients.
    """
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    cases = np.split(order, np.cumsum(np.bincount(owner, minlength=len(names)))[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(resamplings):
        chosen = generator.integers(len(names), size=len(names))
        yield np.concatenate([cases[patient] for patient in chosen])


def _defined(number: float | None) -> float | None:
    return None if number is None or not np.isfinite(number) else float(number)
