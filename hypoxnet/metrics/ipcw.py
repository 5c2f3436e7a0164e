"""Who failed by a month, who did not, and how much each counts for those lost to follow-up.

Axis legend: B patients. `event` is 0 censored, 1 failure, 2 death without it. A patient who died without failure will
never fail, and counts as such, not as censored. For a yes/no end point `months` is None: everybody was followed
through.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hypoxnet.cases import CENSORED, FAILURE
from hypoxnet.survival.estimators import still_followed

Array = NDArray[np.float64]
Events = NDArray[np.int64]
Mask = NDArray[np.bool_]


def failed_by(months: Array | None, event: Events, month: float) -> tuple[Mask, Array] | None:
    """Whether each patient failed by a time, and the weight by the inverse probability of not being censored.

    Events of a month come before its censorings: whoever is censored at the horizon itself was free of failure at it.

    Args:
        months: B, or None.
        event: B.
        month: Horizon.

    Returns:
        Failed, B, and weight, B, 0 for whoever was censored before the horizon; None when the follow-up ends before
        the horizon, so that weights cannot stand for those who were lost.

    Source:
        Graf et al. 1999, Stat Med 18:2529. Schoop et al. 2011, Biom J 53:88 (competing risks).

    Example:
        >>> failed, weight = failed_by(np.array([6.0, 9.0, 30.0, 30.0]), np.array([1, 0, 2, 0]), 24.0)
        >>> failed.tolist(), weight.round(6).tolist()
        ([True, False, False, False], [1.0, 0.0, 1.5, 1.5])
    """
    if months is None:
        return event == FAILURE, np.ones(len(event))
    known = (event != CENSORED) & (months <= month)
    free = (months > month) | ((months == month) & (event == CENSORED))
    # The last one is the horizon itself.
    followed = still_followed(months, event, np.append(np.minimum(months, month), month))
    if not (known | free).any() or followed[-1] <= 0:
        return None
    weight = np.where(known | free, 1.0 / followed[:-1], 0.0)
    return (event == FAILURE) & (months <= month), weight


def figure_at(
    months: Array | None, event: Events, month: float, figure: Callable[[Mask, Array], float | None]
) -> float | None:
    """A figure of who failed by a time and of the weights, both as from `failed_by`; None where that is.

    Args:
        months: B, or None.
        event: B.
        month: Horizon.
        figure: Makes the figure of failed, B, and weight, B.
    """
    status = failed_by(months, event, month)
    return None if status is None else figure(*status)


def weighted_mean(values: Array, weight: Array) -> float | None:
    """Mean with weights; None when they are all 0."""
    total = float(weight.sum())
    return float((values * weight).sum()) / total if total > 0 else None
