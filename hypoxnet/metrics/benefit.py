"""Would decisions get better: net benefit, reclassification and discrimination improvement over a baseline.

Axis legend: B patients, T thresholds. `event` is 0 censored, 1 failure, 2 death without it (never a failure). For a
yes/no end point `months` is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypoxnet.metrics.calibration import observed_incidence
from hypoxnet.metrics.discrimination import discrimination_slope

Array = NDArray[np.float64]
Events = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit at thresholds of risk, in true positives per patient; treating nobody has 0.

    Args:
        thresholds: T, risks at and above which a patient would be treated.
        model: T, treating by the model.
        treat_all: T, treating everybody.
    """

    thresholds: Array
    model: Array
    treat_all: Array


def decision_curve(
    risk: Array, months: Array | None, event: Events, *, month: float, thresholds: Sequence[float]
) -> DecisionCurve:
    """Net benefit of treating whose predicted risk reaches a threshold.

    Those treated are taken as a cohort of their own, and their incidence is Aalen-Johansen's. It is not defined
    for a cohort without patients.

    Args:
        risk: B, predicted incidence of failure by `month`.
        months: B, or None.
        event: B.
        month: Horizon.
        thresholds: T, each at least 0 and below 1.

    Returns:
        The curve; 0 where nobody reaches the threshold, and for an empty list no points.

    Source:
        Vickers and Elkin 2006, Med Decis Making 26:565. Vickers et al. 2008, BMC Med Inform Decis Mak 8:53 (censoring
        and competing risks).

    Example:
        >>> risk, event = np.array([0.9, 0.6, 0.4, 0.1]), np.array([1, 0, 1, 0])
        >>> decision_curve(risk, None, event, month=24.0, thresholds=[0.5]).model.tolist()
        [0.0]
    """
    at = np.asarray(thresholds, dtype=np.float64)
    overall = observed_incidence(months, event, month=month)
    odds = at / (1.0 - at)
    model = np.zeros_like(at)
    for index, threshold in enumerate(at):
        treated = risk >= threshold
        if treated.any():
            failed = observed_incidence(None if months is None else months[treated], event[treated], month=month)
            model[index] = float(treated.mean()) * (failed - (1.0 - failed) * odds[index])
    return DecisionCurve(at, model, overall - (1.0 - overall) * odds)


@dataclass(frozen=True, slots=True)
class Reclassification:
    """Net reclassification improvement of a model over a baseline.

    Args:
        of_failures: Net share of those who fail whose risk moved up, -1 to 1.
        of_others: Net share of those who do not fail whose risk moved down, -1 to 1.
    """

    of_failures: float
    of_others: float

    @property
    def total(self) -> float:
        """The sum of both, -2 to 2."""
        return self.of_failures + self.of_others


def reclassification(
    risk: Array,
    baseline: Array,
    months: Array | None,
    event: Events,
    *,
    month: float,
    categories: Sequence[float] | None = None,
) -> Reclassification | None:
    """Net reclassification improvement: does the new risk move up who fails and down who does not?

    Shares of those who fail are had from the incidence (Aalen-Johansen) among the patients who moved up and down.
    It rewards miscalibrated models (Hilden and Gerds 2014, Stat Med 33:3405): read it beside a proper score.

    Args:
        risk: B, predicted incidence of failure by `month`.
        baseline: B, that of the baseline.
        months: B, or None.
        event: B.
        month: Horizon.
        categories: Risks at which the next category begins, ascending; None for any change of risk (continuous form).

    Returns:
        The improvement; None when nobody, or everybody, failed by then.

    Source:
        Pencina, D'Agostino and Steyerberg 2011, Stat Med 30:11 (the form for survival times).

    Example:
        >>> event = np.array([1, 1, 0, 0])
        >>> old, new = np.array([0.4, 0.4, 0.4, 0.4]), np.array([0.6, 0.5, 0.3, 0.5])
        >>> reclassification(new, old, None, event, month=24.0)
        Reclassification(of_failures=1.0, of_others=0.0)
    """
    if not len(risk):
        return None
    incidence = observed_incidence(months, event, month=month)
    if not 0 < incidence < 1:
        return None
    if categories is not None:
        risk, baseline = (np.digitize(values, categories).astype(np.float64) for values in (risk, baseline))
    (failed_up, others_up), (failed_down, others_down) = (
        _moved(moved, months, event, month) for moved in (risk > baseline, risk < baseline)
    )
    return Reclassification((failed_up - failed_down) / incidence, (others_down - others_up) / (1.0 - incidence))


def _moved(moved: NDArray[np.bool_], months: Array | None, event: Events, month: float) -> tuple[float, float]:
    """Share of the cohort that moved and fails, and that moved and does not."""
    if not moved.any():
        return 0.0, 0.0
    share = float(moved.mean())
    incidence = observed_incidence(None if months is None else months[moved], event[moved], month=month)
    return share * incidence, share * (1.0 - incidence)


def discrimination_improvement(
    risk: Array, baseline: Array, months: Array | None, event: Events, *, month: float
) -> float | None:
    """Integrated discrimination improvement: the gain in mean risk between who fails and who does not.

    Args:
        risk: B, predicted incidence of failure by `month`.
        baseline: B, that of the baseline.
        months: B, or None.
        event: B.
        month: Horizon.

    Returns:
        Difference of the discrimination slopes; None when nobody or everybody failed by then, or the follow-up ends
        before.

    Source:
        Pencina et al. 2008, Stat Med 27:157. Uno et al. 2013, Stat Med 32:2430 (weights for censoring).

    Example:
        >>> event = np.array([1, 0])
        >>> discrimination_improvement(np.array([0.75, 0.25]), np.array([0.5, 0.5]), None, event, month=24.0)
        0.5
    """
    new, old = (discrimination_slope(values, months, event, month=month) for values in (risk, baseline))
    return None if new is None or old is None else new - old
