"""Hazard ratios of one cause: Cox's regression with other causes taken as censoring.

Axis legend: B patients, P covariates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from scipy.stats import norm

from hypoxnet.survival.estimators import Z_95, Array, Events
from hypoxnet.survival.event_table import some_outlast_the_first

# lifelines stops Newton's method early by default: coefficients may then be right to three or four digits only. The
# precision is of the square of a step.
TO_ROUNDING = {"precision": 1e-20, "r_precision": 1e-15}


@dataclass(frozen=True, slots=True)
class HazardRatios:
    """Coefficients of a proportional-hazards regression.

    Args:
        coefficients: P, logarithms of the hazard ratios per unit of the covariates.
        covariance: P P.
        log_likelihood: Partial log-likelihood at the coefficients.
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


def cause_specific_cox(months: Array, event: Events, covariates: Array, *, cause: int = 1) -> HazardRatios | None:
    """Cox's regression of the hazard of a cause among those still at risk, Efron's likelihood for ties.

    Args:
        months: B, times.
        event: B, 0 censored, any other number a cause; causes other than `cause` count as censoring.
        covariates: B P.
        cause: Which cause.

    Returns:
        The regression; None where it has no finite solution: no event of the cause, nobody who outlasts the first, a
        covariate that is constant or a sum of others, or one that separates who failed.

    Source:
        Cox 1972, J R Stat Soc B 34:187, as in lifelines. Prentice et al. 1978, Biometrics 34:541 (cause-specific).

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
    frame["months"], frame["struck"] = months, np.asarray(event) == cause
    try:
        with warnings.catch_warnings():
            # A likelihood without a maximum is lifelines' warning; here it is a result, None.
            warnings.simplefilter("error", ConvergenceWarning)
            fitted = CoxPHFitter().fit(frame, "months", "struck", fit_options=TO_ROUNDING)
    except (ConvergenceError, ConvergenceWarning):
        return None
    covariance = fitted.variance_matrix_.loc[columns, columns].to_numpy(np.float64)
    return HazardRatios(fitted.params_[columns].to_numpy(np.float64), covariance, float(fitted.log_likelihood_))


def full_rank(covariates: Array) -> bool:
    """Whether no covariate is constant or a linear combination of others."""
    spread = covariates.std(axis=0)
    if not (spread > 0).all():
        return False
    rank = np.linalg.matrix_rank((covariates - covariates.mean(axis=0)) / spread)
    return bool(rank == covariates.shape[1])
