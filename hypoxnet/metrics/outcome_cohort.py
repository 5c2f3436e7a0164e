"""Withheld patients as arrays, and what a model or a baseline says of them.

Axis legend: B patients, T months.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hypoxnet.metrics.bootstrap import Index, Statistic
from hypoxnet.metrics.scores import CaseScore

Array = NDArray[np.float64]
Events = NDArray[np.int64]
# From months, events and indices of some patients to a number.
OfPatients = Callable[[Array | None, Events, Index], float | None]


class Measure(Protocol):
    """A figure of predicted risks at a horizon."""

    def __call__(self, risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
        """The figure; None where it is not defined."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """Withheld patients with a known outcome and a predicted risk, as arrays.

    Args:
        scores: B.
        event: B.
        months: B; None for a yes/no end point.
    """

    scores: tuple[CaseScore, ...]
    event: Events
    months: Array | None

    @classmethod
    def of(cls, scores: Sequence[CaseScore]) -> Cohort:
        """The first case of each patient who has both."""
        known = {s.patient: s for s in reversed(scores) if s.outcome is not None and s.risk is not None}
        patients = tuple(reversed(known.values()))
        outcomes = [score.outcome for score in patients if score.outcome is not None]
        event = np.array([outcome.event for outcome in outcomes], dtype=np.int64)
        if any(outcome.is_binary for outcome in outcomes):
            return cls(patients, event, None)
        return cls(patients, event, np.array([outcome.months for outcome in outcomes], dtype=float))

    @property
    def risk(self) -> Array:
        """B, predicted incidence at the horizon."""
        return np.array([score.risk for score in self.scores], dtype=float)

    def at(self, index: Index) -> tuple[Array | None, Events]:
        """Months and events of some patients."""
        return None if self.months is None else self.months[index], self.event[index]

    def where(self, chosen: Callable[[CaseScore], bool]) -> Cohort:
        """Some of the patients."""
        index = np.array([place for place, score in enumerate(self.scores) if chosen(score)], dtype=np.int64)
        months, event = self.at(index)
        return Cohort(tuple(self.scores[place] for place in index), event, months)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model or a baseline says of the patients of a cohort.

    Args:
        score: B, larger is worse; any scale.
        risk: B, incidence of failure at the horizon.
        curves: B T at `months`; None where no curve is known.
        months: T.
    """

    score: Array
    risk: Array
    curves: Array | None = None
    months: tuple[float, ...] = ()


def on(cohort: Cohort, statistic: OfPatients) -> Statistic:
    """A statistic of some patients of a cohort, for the bootstrap."""

    def of_index(index: Index) -> float | None:
        months, event = cohort.at(index)
        return statistic(months, event, index)

    return of_index


def of_risk(measure: Measure, risk: Array, month: float) -> OfPatients:
    """A figure of one set of risks, for resampling."""
    return lambda months, event, index: measure(risk[index], months, event, month=month)


def mean_of(values: Array) -> OfPatients:
    """The mean of a value per patient, for resampling."""
    return lambda months, event, index: float(values[index].mean())


def difference_of(measure: Callable[[Array, Array | None, Events], float | None], new: Array, old: Array) -> OfPatients:
    """Figure of the new minus that of the old, on the same patients."""

    def statistic(months: Array | None, event: Events, index: Index) -> float | None:
        ours, theirs = (measure(values[index], months, event) for values in (new, old))
        return None if ours is None or theirs is None else ours - theirs

    return statistic
