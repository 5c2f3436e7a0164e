"""Hazard ratios with intervals, also where a group has no event and Cox's likelihood has no maximum.

Axis legend: B patients. Every ratio is of the cause-specific hazard: whoever has another event leaves the risk set
(Latouche et al. 2013, J Clin Epidemiol 66:648, on which hazard answers which question).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.stats import chi2

from hypoxnet.survival.regression import cause_specific_cox, full_rank

Array = NDArray[np.float64]
Events = NDArray[np.int64]
Mask = NDArray[np.bool_]

COX = "Cox (Efron)"
WEIGHTED = "Cox (Efron), weighted, robust variance"
FIRTH = "Cox with Firth's penalty, profile likelihood"
FEWEST_EVENTS = 2
# Of a column's whole range; e to this power is no hazard ratio that anybody would report, and beyond e to 18 the
# information, a difference of squares, is rounding.
LARGEST_LOG_RATIO = 15.0
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class HazardRatio:
    """A ratio of two hazards, or the reason why there is none.

    Args:
        value: Ratio; None where it is not defined.
        low: Lower limit of the 95 % interval.
        high: Upper limit.
        p: Of no difference, two-sided.
        method: By which likelihood.
        reason: Why there is no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    method: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, float | str | None]:
        """For `metrics.json`, six digits."""
        numbers = {"value": self.value, "low": self.low, "high": self.high, "p": self.p}
        rounded = {name: None if number is None else round(number, 6) for name, number in numbers.items()}
        return {**rounded, **({"method": self.method} if self.method else {"reason": self.reason})}


def hazard_ratios(
    columns: Mapping[str, Array],
    months: Array,
    event: Events,
    *,
    cause: int = 1,
    weights: Array | None = None,
    separated: bool = False,
) -> dict[str, HazardRatio]:
    """Cox's model: per column the ratio of hazards for one unit more, the others held.

    Where a column of two values has no event on one side, or the fit does not converge, the likelihood has no maximum,
    and Firth's penalised likelihood is taken instead; `method` says so. There is no such way out for weighted patients.

    Args:
        columns: Name to B values.
        months: B.
        event: B, 0 censored, any other number a cause.
        cause: Which event counts; the others are censored.
        weights: B; then the variance is the robust one.
        separated: Take Firth's likelihood at once, where a combination of columns is known to have no event.

    Source:
        `cause_specific_cox`, and Lin and Wei 1989, J Am Stat Assoc 84:1074 (robust variance of weighted patients).
        Heinze and Schemper 2001, Biometrics 57:114 (penalty).

    Example:
        >>> months, event = np.array([2.0, 3, 5, 6, 7, 9]), np.array([1, 0, 1, 1, 0, 1])
        >>> found = hazard_ratios({"high": np.array([1.0, 1, 0, 1, 0, 0])}, months, event)["high"]
        >>> found.value > 1, found.method
        (True, 'Cox (Efron)')
    """
    failed = event == cause
    reason = _undefined(columns, failed)
    if reason:
        return {name: HazardRatio(None, reason=reason) for name in columns}
    empty = _side_without_event(columns, failed)
    if not empty and not separated:
        found = _cox(columns, months, failed, weights)
        if found:
            return found
    if weights is not None:
        reason = empty or "the weighted likelihood has no maximum"
        return {name: HazardRatio(None, reason=reason) for name in columns}
    return Firth(columns, months, failed).ratios()


def _undefined(columns: Mapping[str, Array], failed: Mask) -> str:
    if failed.sum() < FEWEST_EVENTS:
        return f"{int(failed.sum())} events, at least {FEWEST_EVENTS} are needed"
    constant = [name for name, values in columns.items() if np.ptp(values) == 0]
    if constant:
        return f"{constant[0]} is the same in all {len(failed)} patients"
    if not full_rank(_table(columns)):
        return f"{' and '.join(columns)} cannot be told apart in {len(failed)} patients"
    return ""


def _side_without_event(columns: Mapping[str, Array], failed: Mask) -> str:
    """The first column of two values that has no event on one side, in words."""
    for name, values in columns.items():
        levels = np.unique(values)
        if len(levels) == 2:
            for level in levels:
                if not failed[values == level].any():
                    return f"no event where {name} is {level:g}"
    return ""


def _table(columns: Mapping[str, Array]) -> Array:
    return np.column_stack([np.asarray(values, dtype=float) for values in columns.values()])


def _cox(columns: Mapping[str, Array], months: Array, failed: Mask, weights: Array | None) -> dict[str, HazardRatio]:
    """Empty where the likelihood has no maximum."""
    fit = cause_specific_cox(months, failed.astype(np.int64), _table(columns), weights=weights)
    if fit is None:
        return {}
    method = COX if weights is None else WEIGHTED
    rows = zip(columns, np.exp(fit.coefficients), fit.intervals(), fit.p_values, strict=True)
    return {name: HazardRatio(float(v), float(i[0]), float(i[1]), float(p), method) for name, v, i, p in rows}


class Firth:
    """Cox's partial likelihood (Breslow's for ties) with a penalty that keeps its maximum finite.

    The penalty is half the log determinant of the information.

    Args:
        columns: Name to B values.
        months: B.
        failed: B.
    """

    def __init__(self, columns: Mapping[str, Array], months: Array, failed: Mask) -> None:
        order = np.argsort(-months, kind="stable")
        raw = _table(columns)
        self.names = tuple(columns)
        self.scale = raw.std(axis=0)
        self.x = ((raw - raw.mean(axis=0)) / self.scale)[order]
        self.at = np.flatnonzero(failed[order])
        # The last patient, by falling time, who is still at risk at each event.
        self.end = np.searchsorted(-months[order], -months[order][self.at], side="right") - 1
        self.outer = self.x[:, :, None] * self.x[:, None, :]
        self.limits = LARGEST_LOG_RATIO / np.ptp(self.x, axis=0)
        self.best = self._maximum({}, np.zeros(len(self.names)))

    def log_likelihood(self, beta: Array, *, penalised: bool = True) -> float:
        """At coefficients of the standardised columns."""
        score = self.x @ beta
        weight = np.exp(score - score.max())
        s0 = np.cumsum(weight)[self.end]
        s1 = np.cumsum(weight[:, None] * self.x, axis=0)[self.end] / s0[:, None]
        s2 = np.cumsum(weight[:, None, None] * self.outer, axis=0)[self.end] / s0[:, None, None]
        value = float((score[self.at] - score.max() - np.log(s0)).sum())
        if not penalised:
            return value
        sign, log_determinant = np.linalg.slogdet((s2 - s1[:, :, None] * s1[:, None, :]).sum(axis=0))
        return value + 0.5 * float(log_determinant) if sign > 0 else -1e9

    def _maximum(self, fixed: Mapping[int, float], start: Array) -> tuple[float, Array]:
        """Largest penalised likelihood with some coefficients held, and the coefficients."""
        free = [column for column in range(len(self.names)) if column not in fixed]
        beta = start.copy()
        beta[list(fixed)] = list(fixed.values())

        def loss(values: Array) -> float:
            beta[free] = values
            return -self.log_likelihood(beta)

        if free:
            bounds = [(-self.limits[column], self.limits[column]) for column in free]
            beta[free] = minimize(loss, start[free], method="L-BFGS-B", bounds=bounds, tol=1e-9).x
        return self.log_likelihood(beta), beta

    def ratios(self) -> dict[str, HazardRatio]:
        """Per column: value, profile interval, and p of the penalised likelihood ratio."""
        return {name: self._ratio(column) for column, name in enumerate(self.names)}

    def _ratio(self, column: int) -> HazardRatio:
        top, beta = self.best
        centre = float(beta[column])
        drop = float(chi2.ppf(LEVEL, 1)) / 2

        def above(value: float) -> float:
            return self._maximum({column: value}, beta)[0] - top + drop

        ends = [
            float(brentq(above, centre, far, xtol=1e-4)) if above(far) < 0 else float(far)
            for far in (-self.limits[column], self.limits[column])
        ]
        p = float(chi2.sf(max(0.0, 2 * (top - self._maximum({column: 0.0}, beta)[0])), 1))
        value, low, high = (float(np.exp(number / self.scale[column])) for number in (centre, *ends))
        return HazardRatio(value, low, high, p, FIRTH)
