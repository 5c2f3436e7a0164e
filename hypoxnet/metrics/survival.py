"""How well predicted risk of failure matches what happened, with death as a competing risk.

Axis legend: B patients. `event` is 0 censored, 1 locoregional failure, 2 death without it. A patient who died without
failure will never fail, and counts as such, not as censored.

For a yes/no end point `months` is None: everybody was followed through.
"""

from __future__ import annotations

import numpy as np
from lifelines.utils import concordance_index
from numpy.typing import NDArray

from hypoxnet.cases import CENSORED, DEATH, FAILURE
from hypoxnet.survival.estimators import incidence_of_cohort, still_followed

Array = NDArray[np.float64]
Events = NDArray[np.int64]


def harrell_c(risk: Array, months: Array | None, event: Events) -> float | None:
    """Harrell's concordance for competing risks: how often, of two patients, the one who failed first had more risk.

    A patient who died without failure is taken to be free of failure for ever. For a yes/no end point it is the area
    under the ROC curve.

    Args:
        risk: B, larger is worse.
        months: B, or None.
        event: B.

    Returns:
        0 to 1; None when no two patients can be compared.

    Source:
        Harrell et al. 1982, JAMA 247:2543. Wolbers et al. 2014, Biostatistics 15:526 (competing risks).

    Example:
        >>> harrell_c(np.array([0.9, 0.5, 0.1]), np.array([5.0, 10.0, 20.0]), np.array([1, 1, 0]))
        1.0
    """
    failed = event == FAILURE
    time = _time_to_failure(months, event)
    try:
        return float(concordance_index(time, -risk, failed))
    except ZeroDivisionError:
        return None


def _time_to_failure(months: Array | None, event: Events) -> Array:
    if months is None:
        return np.where(event == FAILURE, 1.0, 2.0)
    return np.where(event == DEATH, months.max() + 1.0, months)


def uno_c(risk: Array, months: Array, event: Events, *, until: float) -> float | None:
    """Uno's concordance for competing risks: weighted by the inverse probability of not being censored.

    Args:
        risk: B.
        months: B.
        event: B.
        until: Failures after this time are not counted, months.

    Source:
        Uno et al. 2011, Stat Med 30:1105. Wolbers et al. 2014, Biostatistics 15:526, equation 3.
    """
    followed = still_followed(months, event, months)
    first = (event == FAILURE) & (months <= until) & (followed > 0)
    if not first.any():
        return None
    own, time = followed[first][:, None], months[first][:, None]
    later = (months[None] > time) | ((months[None] == time) & (event[None] == CENSORED))
    weights = np.where(later, 1.0 / own**2, 0.0)
    died_before = (event[None] == DEATH) & (months[None] <= time)
    weights += np.where(died_before, 1.0 / (own * np.maximum(followed[None], 1e-9)), 0.0)
    return _weighted_concordance(risk[first][:, None] - risk[None], weights)


def auc_at(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Area under the ROC curve for failure by a time: whoever failed by then against whoever did not.

    Args:
        risk: B.
        months: B, or None.
        event: B.
        month: Horizon.

    Source:
        Blanche et al. 2013, Stat Med 32:5381, definition with competing events among the controls.
    """
    failed, weight = _status_at(months, event, month)
    if not (failed & (weight > 0)).any() or not (~failed & (weight > 0)).any():
        return None
    cases, controls = np.flatnonzero(failed), np.flatnonzero(~failed)
    return _weighted_concordance(risk[cases][:, None] - risk[controls][None], weight[cases][:, None] * weight[controls])


def brier_at(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Brier score for failure by a time, weighted for censoring.

    Args:
        risk: B, predicted incidence of failure by `month`.
        months: B, or None.
        event: B.
        month: Horizon.

    Source:
        Graf et al. 1999, Stat Med 18:2529. Schoop et al. 2011, Biom J 53:88 (competing risks).
    """
    failed, weight = _status_at(months, event, month)
    return float((weight * (failed - risk) ** 2).sum() / len(risk)) if weight.sum() > 0 else None


def observed_incidence(months: Array | None, event: Events, *, month: float) -> float:
    """Share of patients who failed by a time: Aalen-Johansen, or the plain share for a yes/no end point."""
    if months is None:
        return float((event == FAILURE).mean())
    return incidence_of_cohort(months, event, month, cause=FAILURE)


def observed_over_expected(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Calibration in the large: observed incidence over the mean predicted one; 1 is right, above 1 too optimistic."""
    expected = float(risk.mean())
    return observed_incidence(months, event, month=month) / expected if expected > 0 else None


def risk_groups(risk: Array, count: int) -> list[NDArray[np.int64]]:
    """Patients in `count` groups of increasing risk, as even as ties allow; indices."""
    order = np.argsort(risk, kind="stable")
    return [np.sort(part) for part in np.array_split(order, count) if len(part)]


def _status_at(months: Array | None, event: Events, month: float) -> tuple[NDArray[np.bool_], Array]:
    """Whether a patient failed by a time, and the IPCW weight: 0 for whoever was censored before."""
    if months is None:
        return event == FAILURE, np.ones(len(event))
    known = (event != CENSORED) & (months <= month)
    free = months > month
    followed = np.where(
        known, still_followed(months, event, months), still_followed(months, event, np.full(len(months), month))
    )
    weight = np.where((known | free) & (followed > 0), 1.0 / np.maximum(followed, 1e-9), 0.0)
    return (event == FAILURE) & (months <= month), weight


def _weighted_concordance(difference: Array, weights: Array) -> float | None:
    total = float(weights.sum())
    if total <= 0:
        return None
    right = (difference > 0) + 0.5 * (difference == 0)
    return float((weights * right).sum()) / total
