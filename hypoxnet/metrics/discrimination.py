"""Does the predicted risk put patients in the right order, with death as a competing risk?

Axis legend: B patients. `event` is 0 censored, 1 locoregional failure, 2 death without it. A patient who died without
failure will never fail, and counts as such, not as censored. The cause-specific form, with death as censoring, is had
by giving `event` with 2 replaced by 0; without deaths both are the plain one.

For a yes/no end point `months` is None: everybody was followed through. Every figure is None where no two patients can
be compared (nobody failed, one patient, everybody failed at once). Times may tie: two failures of one month are not
compared, and a failure came before a censoring of its month. Equal risks count half. All take n log n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hypoxnet.cases import CENSORED, DEATH, FAILURE
from hypoxnet.metrics.ipcw import Mask, figure_at, weighted_mean
from hypoxnet.metrics.pairs import Side, concordant_and_all
from hypoxnet.survival.estimators import still_followed

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
    if months is None:
        return auc_at(risk, None, event, month=0.0)
    return _share(_harrell_pairs(risk, months, event))


def harrell_c_within(risk: Array, months: Array | None, event: Events, strata: Sequence[int] | Events) -> float | None:
    """Harrell's concordance among patients of the same stratum, all strata together.

    Folds that withhold a hospital each have a model with a level of its own: a hospital where more fail is predicted by
    a model of the others, where fewer do. Pairs across folds compare levels; pairs within compare patients.

    Args:
        risk: B, larger is worse.
        months: B, or None.
        event: B.
        strata: B, for example the fold that withheld the patient.

    Example:
        >>> risk, event = np.array([0.9, 0.1, 0.3, 0.2]), np.array([1, 0, 1, 0])
        >>> harrell_c_within(risk, np.array([5.0, 10.0, 5.0, 10.0]), event, [0, 0, 1, 1])
        1.0
    """
    codes = np.asarray(strata)
    pairs = np.zeros(2)
    for stratum in np.unique(codes):
        own = codes == stratum
        if months is None:
            failed = int((event[own] == FAILURE).sum())
            count = failed * (int(own.sum()) - failed)
            auc = auc_at(risk[own], None, event[own], month=0.0)
            pairs += (0.0, 0.0) if auc is None else (auc * count, count)
        else:
            pairs += _harrell_pairs(risk[own], months[own], event[own])
    return _share((float(pairs[0]), float(pairs[1])))


def _harrell_pairs(risk: Array, months: Array, event: Events) -> tuple[float, float]:
    """Concordant pairs, ties of risk as halves, and all that can be compared."""
    failed = event == FAILURE
    place = np.where(event == DEATH, np.inf, _after_failures(months, event))
    return concordant_and_all(_side(place, risk, failed), _side(place, risk, np.ones(len(risk))))


def uno_c(risk: Array, months: Array, event: Events, *, until: float) -> float | None:
    """Uno's concordance for competing risks: weighted by the inverse probability of not being censored.

    Args:
        risk: B.
        months: B.
        event: B.
        until: Failures after this time are not counted, months.

    Source:
        Uno et al. 2011, Stat Med 30:1105. Wolbers et al. 2014, Biostatistics 15:526, equation 3.

    Example:
        >>> uno_c(np.array([0.9, 0.1, 0.5]), np.array([5.0, 10.0, 20.0]), np.array([1, 1, 0]), until=60.0)
        0.6666666666666666
    """
    inverse = 1.0 / still_followed(months, event, months)
    first = (event == FAILURE) & (months <= until)
    place = _after_failures(months, event)
    later = concordant_and_all(_side(place, risk, first * inverse**2), _side(place, risk, np.ones(len(risk))))
    # Those who died by then, in reverse: a greater position is an earlier or an equal time.
    back = np.unique(months, return_inverse=True)[1].astype(np.float64)
    died = concordant_and_all(_side(-back - 0.5, risk, first * inverse), _side(-back, risk, (event == DEATH) * inverse))
    return _share((later[0] + died[0], later[1] + died[1]))


def auc_at(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Area under the ROC curve for failure by a time (cumulative, dynamic): whoever failed by then against the others.

    Args:
        risk: B.
        months: B, or None.
        event: B.
        month: Horizon.

    Source:
        Blanche et al. 2013, Stat Med 32:5381, definition with competing events among the controls.

    Example:
        >>> auc_at(np.array([0.9, 0.5, 0.1]), np.array([5.0, 10.0, 40.0]), np.array([1, 2, 0]), month=24.0)
        1.0
    """

    def area(failed: Mask, weight: Array) -> float | None:
        rank = np.unique(risk, return_inverse=True)[1]
        size = int(rank.max(initial=0)) + 1
        cases = np.bincount(rank, weights=weight * failed, minlength=size)
        controls = np.bincount(rank, weights=weight * ~failed, minlength=size)
        below = np.cumsum(controls) - 0.5 * controls
        return _share((float(cases @ below), float(cases.sum() * controls.sum())))

    return figure_at(months, event, month, area)


def auc_over_time(risk: Array, months: Array, event: Events, *, at: Sequence[float]) -> list[float | None]:
    """The area under the ROC curve at several times, None where there is none.

    Args:
        risk: B, one risk for all times; or B T, the risk by each time.
        months: B.
        event: B.
        at: T times, months.
    """
    columns = risk if risk.ndim == 2 else np.repeat(risk[:, None], len(at), axis=1)
    return [auc_at(column, months, event, month=month) for column, month in zip(columns.T, at, strict=True)]


def discrimination_slope(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Mean risk of those who failed by a time minus mean risk of the others, weighted for censoring.

    Arguments as for `auc_at`; the risk is the predicted incidence of failure by `month`.

    Returns:
        -1 to 1; None when nobody, or everybody, failed by then.

    Source:
        Yates 1982, Organ Behav Hum Perform 30:132. Weights: Uno et al. 2013, Stat Med 32:2430.
    """

    def difference(failed: Mask, weight: Array) -> float | None:
        cases, controls = weighted_mean(risk, weight * failed), weighted_mean(risk, weight * ~failed)
        return None if cases is None or controls is None else cases - controls

    return figure_at(months, event, month, difference)


def _after_failures(months: Array, event: Events) -> Array:
    """Ranks of the times, whoever was not struck half a place behind the events of the same month."""
    return np.asarray(np.unique(months, return_inverse=True)[1] + 0.5 * (event == CENSORED))


def _side(place: Array, risk: Array, weight: Array) -> Side:
    counted = weight > 0
    return Side(place[counted], risk[counted], weight[counted].astype(np.float64))


def _share(sums: tuple[float, float]) -> float | None:
    concordant, total = sums
    return concordant / total if total > 0 else None
