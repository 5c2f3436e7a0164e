"""Do as many fail as was predicted, at every level of risk, with death as a competing risk?

Axis legend: B patients. `event` is 0 censored, 1 failure, 2 death without it (never a failure). For a yes/no end point
`months` is None. `risk` is B, the predicted incidence of failure by `month`, the horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import chi2

from hypoxnet.cases import FAILURE
from hypoxnet.metrics.pseudo_values import pseudo_values
from hypoxnet.survival.estimators import incidence_of_cohort
from hypoxnet.survival.fine_gray import fine_gray

Array = NDArray[np.float64]
Events = NDArray[np.int64]

# Mean squared derivative of the fitted incidence, beside that of the incidence of the cohort, below which a slope has
# run away: the predicted risk separates who failed.
LEAST_INFORMATION = 1e-6
# Quantiles of the knots of the smooth curve (Harrell 2015, Regression Modeling Strategies, table 2.3, three knots).
KNOTS = (0.10, 0.50, 0.90)


def observed_incidence(months: Array | None, event: Events, *, month: float) -> float:
    """Share of patients who failed by a time: Aalen-Johansen, or the plain share for a yes/no end point."""
    if months is None:
        return float((event == FAILURE).mean())
    return incidence_of_cohort(months, event, month, cause=FAILURE)


def observed_over_expected(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Calibration in the large: observed incidence over the mean predicted one; 1 is right, above 1 too optimistic.

    None when nobody was given any risk.
    """
    expected = float(risk.mean())
    return observed_incidence(months, event, month=month) / expected if expected > 0 else None


def risk_groups(risk: Array, count: int) -> list[NDArray[np.int64]]:
    """Patients in `count` groups of increasing risk, as even as ties allow; indices."""
    order = np.argsort(risk, kind="stable")
    return [np.sort(part) for part in np.array_split(order, count) if len(part)]


def calibration_slope(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Slope of the observed on the predicted incidence, both on the scale log(-log(1 - incidence)).

    Below 1 the predictions are too extreme, as of an overfitted model; above 1 too timid. Pseudo-values of the
    Aalen-Johansen incidence are regressed with independent working correlation and equal variance.

    Returns:
        The slope; None when nobody or everybody failed by then, when risk does not vary or is exactly 0 or 1 for
        somebody (no such scale), or when it separates who failed.

    Source:
        van Geloven et al. 2022, BMJ 377:e069249 (calibration of competing-risk predictions by pseudo-values).
        Klein and Andersen 2005, Biometrics 61:223.
    """
    if not len(risk) or np.ptp(risk) == 0:
        return None
    fitted = _cloglog_regression(risk, months, event, month, with_slope=True)
    return None if fitted is None else float(fitted[1])


def calibration_intercept(risk: Array, months: Array | None, event: Events, *, month: float) -> float | None:
    """Intercept of the same regression with the slope held at 1: above 0 the risk is predicted too low.

    Returns:
        The intercept; None when nobody or everybody failed by then, or risk is exactly 0 or 1 for somebody.

    Source:
        van Geloven et al. 2022, BMJ 377:e069249.

    Example:
        >>> event = np.array([1, 1, 0, 0])
        >>> round(calibration_intercept(np.full(4, 0.5), None, event, month=24.0), 6) + 0.0
        0.0
    """
    fitted = _cloglog_regression(risk, months, event, month, with_slope=False)
    return None if fitted is None else float(fitted[0])


def _cloglog_regression(
    risk: Array, months: Array | None, event: Events, month: float, *, with_slope: bool
) -> Array | None:
    """Intercept, and slope (1 where it is held), by least squares of pseudo-values."""
    scale = _cloglog(risk)
    if scale is None:
        return None
    incidence = observed_incidence(months, event, month=month)
    if not 0 < incidence < 1:
        return None
    observed = pseudo_values(months, event, month=month)
    columns = np.stack([np.ones_like(scale), scale], axis=1)[:, : 1 + with_slope]
    offset = np.zeros_like(scale) if with_slope else scale

    def residuals(coefficients: Array) -> Array:
        return np.asarray(-np.expm1(-_exp(offset + columns @ coefficients)) - observed)

    def slopes(coefficients: Array) -> Array:
        hazard = _exp(offset + columns @ coefficients)
        return np.asarray(columns * (hazard * np.exp(-hazard))[:, None])

    start = np.array([0.0, 1.0])[: 1 + with_slope]
    fitted = least_squares(residuals, start, jac=slopes, xtol=1e-12, ftol=1e-15, gtol=1e-12)
    weakest = np.linalg.svd(fitted.jac / np.sqrt((columns**2).mean(axis=0)), compute_uv=False)[-1]
    has_run_away = weakest**2 < LEAST_INFORMATION * len(risk) * (incidence * (1.0 - incidence)) ** 2
    return None if fitted.status <= 0 or has_run_away else np.asarray(fitted.x)


def _cloglog(risk: Array) -> Array | None:
    """The scale log(-log(1 - risk)); None without a patient, or where it is infinite for somebody."""
    if not len(risk) or risk.min() <= 0 or risk.max() >= 1:
        return None
    return np.asarray(np.log(-np.log1p(-risk)))


def _exp(values: Array) -> Array:
    """Exponent that is cut where the incidence is 1 to all digits, long before it overflows."""
    return np.asarray(np.exp(np.minimum(values, 10.0)))


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """Absolute difference between predicted and smoothly observed incidence over the patients.

    Args:
        mean: The integrated calibration index (ICI).
        median: E50.
        ninety_percent: E90, the 90th percentile.
        largest: Emax.
    """

    mean: float
    median: float
    ninety_percent: float
    largest: float


def smooth_observed(risk: Array, months: Array, event: Events, *, month: float) -> Array | None:
    """Observed incidence by a time as a smooth function of the predicted one, for each patient: a calibration curve.

    Fine and Gray's regression on a restricted cubic spline (three knots) of log(-log(1 - risk)).

    Returns:
        B; None when the regression has no solution (nobody failed, fewer than three distinct risks at the knots) or
        risk is exactly 0 or 1 for somebody.

    Source:
        Austin, Putter, Giardiello and van Klaveren 2022, Diagn Progn Res 6:2.
    """
    scale = _cloglog(risk)
    if scale is None:
        return None
    low, middle, high = np.quantile(scale, KNOTS)
    if not low < middle < high:
        return None
    columns = np.stack([scale, _spline(scale, low, middle, high)], axis=1)
    fitted = fine_gray(months, event, columns, cause=FAILURE)
    return None if fitted is None else fitted.incidence(columns, month)


def calibration_error(risk: Array, months: Array, event: Events, *, month: float) -> CalibrationError | None:
    """Integrated calibration index with E50, E90 and Emax.

    Returns:
        The differences; None where `smooth_observed` is.

    Source:
        Austin, Harrell and van Klaveren 2020, Stat Med 39:2714.
    """
    observed = smooth_observed(risk, months, event, month=month)
    if observed is None:
        return None
    difference = np.abs(observed - risk)
    median, ninety = np.quantile(difference, [0.5, 0.9])
    return CalibrationError(float(difference.mean()), float(median), float(ninety), float(difference.max()))


def _spline(x: Array, low: float, middle: float, high: float) -> Array:
    """The nonlinear term of a restricted cubic spline with three knots, linear beyond the outer ones."""

    def cubed(knot: float) -> Array:
        return np.asarray(np.maximum(x - knot, 0.0) ** 3)

    bent = cubed(low) - cubed(middle) * (high - low) / (high - middle) + cubed(high) * (middle - low) / (high - middle)
    return np.asarray(bent / (high - low) ** 2)


@dataclass(frozen=True, slots=True)
class DistributionCalibration:
    """D-calibration: the predicted probability of freedom at the own time must be uniform.

    Args:
        counts: Patients by tenth of the predicted probability, censored ones spread over what may come.
        statistic: Chi-squared statistic against equal counts.
        p_value: Small where the predicted distributions are wrong.
    """

    counts: Array
    statistic: float
    p_value: float


def distribution_calibration(free: Array, event: Events, *, bins: int = 10) -> DistributionCalibration | None:
    """Whether whole predicted survival distributions are calibrated, not only one horizon.

    Args:
        free: B, predicted probability of being free of any event at the patient's own time.
        event: B, 0 censored, any other number an event.
        bins: Number of equal bins.

    Returns:
        Counts and test; None for an empty cohort. With fewer than some 5 patients per bin the p-value is rough.

    Source:
        Haider, Hoehn, Davis and Greiner 2020, J Mach Learn Res 21(85):1 (D-calibration, with censoring).

    Example:
        >>> distribution_calibration(np.array([0.25, 0.5]), np.array([1, 0]), bins=2).counts.tolist()
        [2.0, 0.0]
    """
    if not len(free):
        return None
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, free, side="right") - 1, 0, bins - 1)
    struck = np.asarray(event) > 0
    counts = np.bincount(bin_of[struck], minlength=bins).astype(np.float64)
    censored = free[~struck]
    # A patient censored at probability s fails at one that is uniform between 0 and s.
    possible = np.clip(censored[:, None] - edges[:-1], 0.0, 1.0 / bins)
    whole = np.where(censored > 0, censored, 1.0)[:, None]
    counts += (possible / whole).sum(axis=0)
    counts[0] += int((censored <= 0).sum())
    expected = len(free) / bins
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return DistributionCalibration(counts, statistic, float(chi2.sf(statistic, bins - 1)))
