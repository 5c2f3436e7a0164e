"""Time free of failure and time lost to a cause, up to a horizon: summaries in months, without a hazard ratio.

Axis legend: B patients, K distinct times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypoxnet.survival.estimators import Array, Events, hazard_odds
from hypoxnet.survival.event_table import EventTable, event_table


@dataclass(frozen=True, slots=True)
class MeanTime:
    """An estimate in months.

    Args:
        months: Estimate.
        standard_error: Of the estimate, months.
    """

    months: float
    standard_error: float


def restricted_mean_free(months: Array, event: Events, *, until: float, cause: int = 1) -> MeanTime | None:
    """Mean time free of a cause within `until` months, other causes taken as censoring: the area under Kaplan-Meier.

    Arguments and what is returned are as for `time_lost`.

    Source:
        Royston and Parmar 2013, BMC Med Res Methodol 13:152. Variance: Klein and Moeschberger 2003, section 4.5.

    Example:
        >>> restricted_mean_free(np.array([6.0, 12.0]), np.array([1, 0]), until=12.0).months
        9.0
    """
    lost = time_lost(months, (np.asarray(event) == cause).astype(np.int64), until=until)
    return None if lost is None else MeanTime(until - lost.months, lost.standard_error)


def time_lost(months: Array, event: Events, *, until: float, cause: int = 1) -> MeanTime | None:
    """Mean time lost to a cause within `until` months under competing risks: the area under its incidence.

    Args:
        months: B.
        event: B, 0 censored, any other number a cause.
        until: Horizon, months.
        cause: Which cause.

    Returns:
        Mean and standard error; None when the follow-up ends before `until` while somebody was still free.

    Source:
        Andersen 2013, Stat Med 32:5278. The variance is the delta method of `incidence_variance`, integrated.

    Example:
        >>> time_lost(np.array([6.0, 9.0, 20.0]), np.array([1, 2, 0]), until=12.0).months
        2.0
    """
    if not len(months):
        return None
    table = event_table(months, event)
    if until > table.months[-1] and table.free[-1] > 0:
        return None
    incidence = table.incidence(cause)
    counted: NDArray[np.bool_] = table.months <= until
    area = _area_to(table, incidence, until)
    return MeanTime(float(area[0]), float(np.sqrt(max(_variance(table, cause, area, counted, until), 0.0))))


def _area_to(table: EventTable, incidence: Array, until: float) -> Array:
    """K + 1: the area under the incidence from 0, and from each time, to the horizon."""
    times = np.minimum(np.concatenate([[0.0], table.months, [until]]), until)
    pieces = np.concatenate([[0.0], incidence]) * np.diff(times)
    return np.cumsum(pieces[::-1])[::-1]


def _variance(table: EventTable, cause: int, area: Array, counted: NDArray[np.bool_], until: float) -> float:
    hazard = table.struck(cause) / table.at_risk
    left = np.maximum(until - table.months, 0.0)
    gained = table.free_before * left
    later = area[1:] - table.incidence(cause) * left
    terms = gained**2 * hazard * (1.0 - hazard) - 2.0 * gained * hazard * later + later**2 * hazard_odds(table)
    return float((terms / table.at_risk)[counted].sum())
