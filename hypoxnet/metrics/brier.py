"""How far predicted risks lie from what happened: Brier scores, weighted for censoring, under competing risks.

Axis legend: B patients, T times. `event` is 0 censored, 1 failure, 2 death without it (never a failure). For a yes/no
end point `months` is None. `risk` is B, the predicted incidence of failure by `month`, the horizon. Figures are None
when the follow-up ends before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hypoxnet.metrics.calibration import observed_incidence
from hypoxnet.metrics.ipcw import figure_at

Array = NDArray[np.float64]
Events = NDArray[np.int64]


def brier_at(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Brier score for failure by a time, weighted for censoring.

    Source:
        Graf et al. 1999, Stat Med 18:2529. Schoop et al. 2011, Biom J 53:88 (competing risks).

    Example:
        >>> brier_at(np.array([0.8, 0.4]), np.array([6.0, 30.0]), np.array([1, 0]), month=24.0)
        0.1
    """
    return figure_at(
        months, event, month, lambda failed, weight: float((weight * (failed - risk) ** 2).sum() / len(risk))
    )


def brier_without_model(months: Array | None, event: Events, *, month: float) -> float | None:
    """Brier score of a model that gives every patient the incidence of these very patients: hard to beat."""
    share = observed_incidence(months, event, month=month)
    return brier_at(np.full(len(event), share), months, event, month=month)


def prediction_accuracy(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Index of prediction accuracy: the share of the Brier score without a model that the model takes away.

    Returns:
        At most 1; 0 is no better than the incidence of the cohort, negative is worse. None also when that incidence
        is already right for everyone (nobody, or everybody, failed by then).

    Source:
        Kattan and Gerds 2018, Diagn Progn Res 2:7.
    """
    own, without = brier_at(risk, months, event, month=month), brier_without_model(months, event, month=month)
    return None if own is None or without is None or without <= 0 else 1.0 - own / without


def integrated_brier(risk: Array, months: Array, event: Events, *, at: Sequence[float]) -> float | None:
    """Brier score averaged over time: the area under it by trapezoids, over the time spanned.

    Args:
        risk: B T, predicted incidence of failure by each time.
        months: B.
        event: B.
        at: T times, months, ascending; at least two.

    Returns:
        The mean score; None when the follow-up ends before the last time, or with a single time.

    Source:
        Graf et al. 1999, Stat Med 18:2529.

    Example:
        >>> risk = np.array([[0.8, 0.8], [0.4, 0.4]])
        >>> round(integrated_brier(risk, np.array([6.0, 30.0]), np.array([1, 0]), at=[12.0, 24.0]), 6)
        0.1
    """
    scores = [brier_at(column, months, event, month=month) for column, month in zip(risk.T, at, strict=True)]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or len(scores) < 2:
        return None
    return float(np.trapezoid(known, at) / (at[-1] - at[0]))
