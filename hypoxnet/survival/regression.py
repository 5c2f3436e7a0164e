"""Hazard ratios of one cause: Cox's regression with other causes taken as censoring.

Axis legend: B patients, P covariates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning, StatisticalWarning
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning
from scipy.stats import norm

from hypoxnet.survival.estimators import Z_95, Array, Events
from hypoxnet.survival.event_table import some_outlast_the_first

# lifelines stops Newton's method early by default: coefficients may then be right to three or four digits only. The
# precision is of the square of a step.
TO_ROUNDING = {"precision": 1e-20, "r_precision": 1e-15}
# Log hazard ratio per standard deviation beyond which the likelihood has no maximum: it separates who failed. So does
# what leaves less than this information per failure, in standard deviations.
RUNS_AWAY = 20.0
LEAST_INFORMATION = 1e-6


@dataclass(frozen=True, slots=True)
class HazardRatios:
    """Coefficients of a proportional-hazards regression.

    Args:
        coefficients: P, logarithms of the hazard ratios per unit of the covariates.
        covariance: P P.
        log_likelihood: Partial log-likelihood at the coefficients, less the penalty where there is one.
    """

    coefficients: Array
    covariance: Array
    log_likelihood: float

    @property
    def standard_errors(self) -> Array:
        """P."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def p_values(self) -> Array:
        """P, two-sided, by Wald."""
        return np.asarray(2.0 * norm.sf(np.abs(self.coefficients / self.standard_errors)))

    def intervals(self) -> Array:
        """P 2, 95 % intervals of the hazard ratios."""
        reach = Z_95 * self.standard_errors
        return np.exp(np.stack([self.coefficients - reach, self.coefficients + reach], axis=1))

    def risk(self, covariates: Array) -> Array:
        """B, linear predictor of B P covariates; larger is worse."""
        return np.asarray(covariates @ self.coefficients)


def cause_specific_cox(
    months: Array,
    event: Events,
    covariates: Array,
    *,
    cause: int = 1,
    weights: Array | None = None,
    ridge: float = 0.0,
) -> HazardRatios | None:
    """Cox's regression of the hazard of a cause among those still at risk, Efron's likelihood for ties.

    Args:
        months: B, times.
        event: B, 0 censored, any other number a cause; causes other than `cause` count as censoring.
        covariates: B P.
        cause: Which cause.
        weights: B, above 0; then the covariance is the robust one.
        ridge: Penalty, per patient, of half the sum of the squared coefficients of standardised covariates.

    Returns:
        The regression; None where it has no finite solution: no event of the cause, nobody who outlasts the first, a
        covariate that is constant or a sum of others, or one that separates who failed; with a ridge the last has one.

    Source:
        Cox 1972, J R Stat Soc B 34:187, as in lifelines. Prentice et al. 1978, Biometrics 34:541 (cause-specific). Lin
        and Wei 1989, J Am Stat Assoc 84:1074 (robust covariance).

    Example:
        >>> months, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1, 1, 2, 1, 0])
        >>> fit = cause_specific_cox(months, event, np.array([[1.0], [0.0], [1.0], [1.0], [0.0]]))
        >>> round(float(fit.coefficients[0]), 3)
        0.564
    """
    if not some_outlast_the_first(months, event, cause=cause) or not full_rank(covariates):
        return None
    frame = pd.DataFrame(np.asarray(covariates, dtype=np.float64)).add_prefix("x")
    columns = list(frame.columns)
    struck = np.asarray(event) == cause
    frame["months"], frame["struck"], frame["weight"] = months, struck, 1.0 if weights is None else weights
    try:
        # On its way to infinity a fit may overflow.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # A likelihood without a maximum is a warning of lifelines or, in a few patients, of the solver below it;
            # here it is a result, None.
            warnings.simplefilter("error", ConvergenceWarning)
            warnings.simplefilter("error", LinAlgWarning)
            # That weights which are not counts need a robust covariance: they get it below.
            warnings.simplefilter("ignore", StatisticalWarning)
            fitter = CoxPHFitter(penalizer=ridge)
            fitted = fitter.fit(frame, "months", "struck", weights_col="weight", fit_options=TO_ROUNDING)
    except (ConvergenceError, ConvergenceWarning, LinAlgWarning):
        return None
    covariance = fitted.variance_matrix_.loc[columns, columns].to_numpy(np.float64)
    found = HazardRatios(fitted.params_[columns].to_numpy(np.float64), covariance, float(fitted.log_likelihood_))
    if _has_run_away(found, covariates.std(axis=0), failures=float(frame["weight"][struck].sum())):
        return None
    if weights is None:
        return found
    return replace(found, covariance=_robust_covariance(found, months, struck, covariates, weights))


def _has_run_away(fit: HazardRatios, scale: Array, *, failures: float) -> bool:
    """Whether Newton's method stopped on its way to infinity."""
    covariance = fit.covariance * np.outer(scale, scale)
    if not np.isfinite(covariance).all() or np.abs(fit.coefficients * scale).max() > RUNS_AWAY:
        return True
    variances = np.linalg.eigvalsh(covariance)
    return bool(variances[0] <= 0 or variances[-1] * LEAST_INFORMATION * failures > 1)


def _robust_covariance(
    fit: HazardRatios, months: Array, struck: NDArray[np.bool_], covariates: Array, weights: Array
) -> Array:
    """P P, from what each patient adds to the coefficients; Efron's average over the order of tied failures.

    lifelines takes tied failures in the order of the rows: its errors are too small by a sixth where times tie heavily.
    """
    x = covariates - covariates.mean(axis=0)
    relative = np.exp(fit.risk(x))[:, None]
    mass = weights[:, None] * relative * np.column_stack([np.ones(len(x)), x])
    times, tied = np.unique(months[struck], return_counts=True)
    last = np.searchsorted(times, months, side="right")
    at_risk = _sums(last, mass, len(times) + 1)[::-1].cumsum(axis=0)[::-1][1:]
    own = last[struck] - 1
    falling, mean_weight = _sums(own, mass[struck], len(times)), _sums(own, weights[struck], len(times)) / tied
    # One term per failure: of those tied at a time, the share that is gone grows from 0.
    term = np.repeat(np.arange(len(times)), tied)
    gone = (np.arange(len(term)) - (np.cumsum(tied) - tied)[term]) / tied[term]
    left = at_risk[term] - gone[:, None] * falling[term]
    mean = left / left[:, :1]
    hazard = (mean_weight[term] / left[:, 0])[:, None] * mean
    lived = np.concatenate([np.zeros_like(hazard[:1]), _sums(term, hazard, len(times)).cumsum(axis=0)])[last]
    lived[struck] -= _sums(term, gone[:, None] * hazard, len(times))[own]
    score = relative * (lived[:, 1:] - x * lived[:, :1])
    score[struck] += x[struck] - (_sums(term, mean, len(times)) / tied[:, None])[own][:, 1:]
    moved = weights[:, None] * score @ fit.covariance
    return np.asarray(moved.T @ moved)


def _sums(place: NDArray[np.int64], values: Array, count: int) -> Array:
    """Of the values by place, `count` places."""
    out = np.zeros((count, *values.shape[1:]))
    np.add.at(out, place, values)
    return out


def full_rank(covariates: Array) -> bool:
    """Whether no covariate is constant or a linear combination of others."""
    spread = covariates.std(axis=0)
    if not (spread > 0).all():
        return False
    rank = np.linalg.matrix_rank((covariates - covariates.mean(axis=0)) / spread)
    return bool(rank == covariates.shape[1])
