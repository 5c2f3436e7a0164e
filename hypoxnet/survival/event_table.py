"""Who was at risk when, and what struck: the one count that all estimators start from.

Axis legend: B patients, K distinct times, E event codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Events = NDArray[np.int64]
Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EventTable:
    """A life table at the distinct times of a cohort, made by `event_table`.

    Args:
        months: K, distinct times of events and censorings, ascending.
        at_risk: K, patients followed and free of any event just before.
        counts: K E, patients by event code at this time; column 0 is the censored.
        row: B, the row of each patient.
    """

    months: Array
    at_risk: Array
    counts: Array
    row: Index

    def struck(self, cause: int) -> Array:
        """K, patients whom this cause struck at each time; zeros for a code that never occurs."""
        known = cause < self.counts.shape[1]
        return np.asarray(self.counts[:, cause] if known else np.zeros(len(self.months)))

    @property
    def any_event(self) -> Array:
        """K, patients with an event of any cause."""
        return np.asarray(self.counts[:, 1:].sum(axis=1))

    @property
    def free(self) -> Array:
        """K, probability of being free of any event from each time on (Kaplan-Meier)."""
        return np.asarray(np.cumprod(1.0 - self.any_event / self.at_risk))

    @property
    def free_before(self) -> Array:
        """K, likewise just before each time."""
        return np.concatenate([[1.0], self.free])[: len(self.months)]

    def incidence(self, cause: int) -> Array:
        """K, Aalen-Johansen incidence of a cause from each time on."""
        # Rounding may lead a sum of exactly 1 beyond it.
        return np.minimum(np.cumsum(self.free_before * self.struck(cause) / self.at_risk), 1.0)


def event_table(months: Array, event: Events) -> EventTable:
    """Counts of a cohort; time grows as n log n.

    Args:
        months: B, times; they may tie.
        event: B, 0 censored, any other number a cause.

    Example:
        >>> table = event_table(np.array([3.0, 1.0, 3.0]), np.array([1, 0, 2]))
        >>> table.at_risk.tolist(), table.struck(1).tolist()
        ([3.0, 2.0], [0.0, 1.0])
    """
    codes = np.asarray(event, dtype=np.int64)
    distinct, row = np.unique(np.asarray(months, dtype=np.float64), return_inverse=True)
    width = int(codes.max(initial=0)) + 1
    counts = np.bincount(row * width + codes, minlength=len(distinct) * width).reshape(-1, width).astype(np.float64)
    left = np.cumsum(counts.sum(axis=1))
    return EventTable(distinct, len(codes) - np.concatenate([[0.0], left])[: len(distinct)], counts, row)


def some_outlast_the_first(months: Array, event: Events, *, cause: int) -> bool:
    """Whether anybody at risk at the first event of a cause is not struck by it there: else nothing can be compared.

    False also without any event of the cause.
    """
    struck = np.asarray(event) == cause
    if not struck.any():
        return False
    first = months[struck].min()
    return bool(((months >= first) & ~(struck & (months == first))).any())
