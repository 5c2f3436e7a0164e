"""What a cohort's follow-up says: incidence under competing risks, freedom from failure, censoring weights.

Axis legend: B patients. `event` is 0 censored, 1 the cause of interest, 2 a competing cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray

Array = NDArray[np.float64]
Events = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A right-continuous step function with a 95 % band.

    Args:
        months: Times of the steps, beginning with 0.
        value: Value from each time on.
        low: Lower limit of the band.
        high: Upper limit.
    """

    months: Array
    value: Array
    low: Array
    high: Array

    def at(self, month: float) -> float:
        """Value at a time."""
        return float(self.value[np.searchsorted(self.months, month, side="right") - 1])


def kaplan_meier(months: Array, event: Events, *, cause: int = 1) -> Curve:
    """Kaplan-Meier estimate of being free of one cause, other causes taken as censoring (Kaplan and Meier 1958).

    Under competing risks this is what would be seen if nobody died of anything else; for what is seen, see
    `aalen_johansen`. The band is lifelines' log(-log) interval.

    Args:
        months: B, times.
        event: B.
        cause: Which event counts.
    """
    fitter = KaplanMeierFitter().fit(months, event == cause)
    band = fitter.confidence_interval_.to_numpy()
    table = fitter.survival_function_
    return Curve(table.index.to_numpy(float), table.to_numpy()[:, 0], band[:, 0], band[:, 1])


def numbers_at_risk(months: Array, times: Sequence[float]) -> list[int]:
    """Patients still followed and free of any event just before each time.

    Example:
        >>> numbers_at_risk(np.array([5.0, 12.0, 20.0]), [0, 12, 24])
        [3, 2, 0]
    """
    return [int((months >= time).sum()) for time in times]


def aalen_johansen(months: Array, event: Events, *, cause: int = 1) -> tuple[Array, Array]:
    """Cumulative incidence of a cause under competing risks.

    lifelines moves tied times apart at random; months are recorded to a tenth and tie, so this is exact instead.

    Args:
        months: B.
        event: B, 0 censored, any other number a cause.
        cause: Which cause.

    Returns:
        Times of events beginning with 0, and the incidence from each time on.

    Source:
        Aalen and Johansen 1978, Scand J Stat 5:141.

    Example:
        >>> times, incidence = aalen_johansen(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 2, 0, 1]))
        >>> [round(float(x), 3) for x in incidence]
        [0.0, 0.25, 0.25, 0.75]
    """
    times = np.unique(months[event > 0])
    at_risk = (months[None] >= times[:, None]).sum(axis=1)
    here = months[None] == times[:, None]
    hit = (here & (event == cause)[None]).sum(axis=1) / at_risk
    any_cause = (here & (event > 0)[None]).sum(axis=1) / at_risk
    free_before = np.concatenate([[1.0], np.cumprod(1.0 - any_cause)[:-1]]) if len(times) else np.array([])
    return np.concatenate([[0.0], times]), np.concatenate([[0.0], np.cumsum(hit * free_before)])


def incidence_of_cohort(months: Array, event: Events, month: float, *, cause: int = 1) -> float:
    """Aalen-Johansen incidence of a cause by a time."""
    times, incidence = aalen_johansen(months, event, cause=cause)
    return float(incidence[np.searchsorted(times, month, side="right") - 1])


def still_followed(months: Array, event: Events, at: Array) -> Array:
    """Probability of not being censored just before each time, by Kaplan-Meier of the censoring: the G of IPCW.

    An event and a censoring in the same month: the event came first.

    Args:
        months: B, of the cohort that the weights are estimated from.
        event: B; any event is not a censoring.
        at: Times.

    Returns:
        One value per time, in (0, 1]; 0 only beyond a last patient who was censored.
    """
    times = np.unique(months[event == 0])
    # Whoever had an event at this time was no longer at risk of being censored at it.
    at_risk = (months[None] >= times[:, None]).sum(axis=1) - ((months[None] == times[:, None]) & (event > 0)[None]).sum(
        axis=1
    )
    censored = ((months[None] == times[:, None]) & (event == 0)[None]).sum(axis=1)
    steps = np.concatenate([[1.0], np.cumprod(1.0 - censored / at_risk)])
    return np.asarray(steps[np.searchsorted(times, at, side="left")])
