"""Absolute risks of a sceptic's models: log volume alone, and volume with stage and age.

Each is fitted on training patients only. Times have a Cox model per cause, put together to incidences; a yes/no end
point has a logistic one.

Axis legend: B patients, P columns, K times of events.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from hypoxnet.cases import DEATH, FAILURE, Outcome
from hypoxnet.metrics.scores import ReferenceRisk, RiskCurve
from hypoxnet.survival.regression import cause_specific_cox, full_rank
from hypoxnet.transforms.covariates import CovariateTerm, encode, encode_table, fit_term

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

VOLUME = "gtv_ml"
CLINICAL = (VOLUME, "t_stage", "n_stage", "age")
# What fewer of the training patients have is left out of a baseline.
KNOWN_SHARE = 0.5
# Per patient, on standardised columns: too weak to be seen with a hundred patients, it keeps a small cohort finite.
RIDGE = 0.01
FEWEST_FAILURES = 2


@dataclass(frozen=True, slots=True)
class CauseModel:
    """Hazard of one cause.

    Args:
        months: K, times of the cause.
        steps: K, increments of its baseline hazard.
        coefficients: P.
    """

    months: tuple[float, ...]
    steps: tuple[float, ...]
    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """A baseline that gives absolute risks.

    Args:
        terms: How its covariates become columns.
        failure: Hazard of failure; for a yes/no end point its one step is the intercept.
        death: Hazard of death without failure; None where nobody died, and for a yes/no end point.
        kind: `Cox` or `logistic`.
    """

    terms: tuple[CovariateTerm, ...]
    failure: CauseModel
    death: CauseModel | None
    kind: str

    def predict(self, covariates: Mapping[str, float], months: Sequence[float]) -> ReferenceRisk:
        """What it says of a patient; a covariate that is not known is taken as the mean of the training patients.

        Args:
            covariates: Name to value, the tumour's volume under `gtv_ml`.
            months: Times of the curve; ignored for a yes/no end point.
        """
        columns, _ = encode(covariates, self.terms)
        score = float(columns @ np.array(self.failure.coefficients))
        if self.kind == "logistic":
            risk = float(expit(self.failure.steps[0] + score))
            return ReferenceRisk(score, RiskCurve((np.inf,), (risk,), (0.0,)))
        at, failure, death = self._incidence(columns)
        place = np.searchsorted(at, months, side="right")
        return ReferenceRisk(
            score,
            RiskCurve(
                tuple(months),
                tuple(np.concatenate([[0.0], failure])[place].tolist()),
                tuple(np.concatenate([[0.0], death])[place].tolist()),
            ),
        )

    def _incidence(self, columns: Array) -> tuple[Array, Array, Array]:
        """Times of any cause, and the incidences of both from each on."""
        causes = [cause for cause in (self.failure, self.death) if cause is not None]
        at = np.unique(np.concatenate([cause.months for cause in causes]))
        hazards = np.zeros((2, len(at)))
        for row, cause in enumerate(causes):
            relative = np.exp(columns @ np.array(cause.coefficients))
            hazards[row, np.searchsorted(at, cause.months)] = np.array(cause.steps) * relative
        # exp, not 1 - h: with Cox's relative hazards a step may exceed 1.
        free = np.exp(-np.cumsum(hazards.sum(axis=0)))
        lost = np.concatenate([[1.0], free[:-1]]) - free
        share = hazards / np.maximum(hazards.sum(axis=0), 1e-300)
        return at, np.cumsum(lost * share[0]), np.cumsum(lost * share[1])

    def describe(self) -> str:
        """In words, for tables."""
        names = ", ".join("log GTV volume" if term.name == VOLUME else term.name for term in self.terms)
        return f"{self.kind} on {names}"


def fit_reference(
    patients: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome], names: Sequence[str]
) -> ReferenceModel | None:
    """Fit a baseline on training patients.

    Args:
        patients: B, covariates of each, the tumour's volume under `gtv_ml`.
        outcomes: B.
        names: Covariates to take, each where at least half of the patients have it and it varies.

    Returns:
        The model; None with fewer than two failures, when everybody failed, or when no covariate is left.

    Source:
        `cause_specific_cox`: Prentice et al. 1978, Biometrics 34:541 (a hazard per cause).
        Breslow 1974, Biometrics 30:89 (baseline).
    """
    event = np.array([outcome.event for outcome in outcomes], dtype=np.int64)
    failed = event == FAILURE
    table = {name: np.array([patient.get(name, np.nan) for patient in patients]) for name in names}
    terms = _terms(table)
    if failed.sum() < FEWEST_FAILURES or failed.all() or not terms:
        return None
    columns, _ = encode_table(table, terms, patients=len(patients))
    if not full_rank(columns):
        return None
    if outcomes[0].is_binary:
        return ReferenceModel(terms, _logistic(columns, failed), None, "logistic")
    months = np.array([outcome.months for outcome in outcomes], dtype=float)
    failure = _cause(columns, months, failed)
    if failure is None:
        return None
    return ReferenceModel(terms, failure, _cause(columns, months, event == DEATH), "Cox")


def _terms(table: Mapping[str, Array]) -> tuple[CovariateTerm, ...]:
    found = []
    for name, values in table.items():
        known = np.isfinite(values)
        term = fit_term(name, values[known]) if known.mean() >= KNOWN_SHARE else ""
        if isinstance(term, CovariateTerm):
            found.append(term)
    return tuple(found)


def _cause(columns: Array, months: Array, struck: NDArray[np.bool_]) -> CauseModel | None:
    """Cox with a weak ridge; no effects where fewer than two were struck or it does not converge, None for nobody."""
    if not struck.any():
        return None
    coefficients = np.zeros(columns.shape[1])
    if struck.sum() >= FEWEST_FAILURES:
        fitted = cause_specific_cox(months, struck.astype(np.int64), columns, ridge=RIDGE)
        if fitted is None:
            # Weaker than it might be: what is beside the model must not look better than it is without a word.
            log.warning("the Cox baseline has no solution and gives everybody the cohort's incidence")
        else:
            coefficients = fitted.coefficients
    times, hits = np.unique(months[struck], return_counts=True)
    relative = np.exp(columns @ coefficients)
    at_risk = np.array([relative[months >= time].sum() for time in times])
    return CauseModel(tuple(times.tolist()), tuple((hits / at_risk).tolist()), tuple(coefficients.tolist()))


def _logistic(columns: Array, failed: NDArray[np.bool_]) -> CauseModel:
    sign = np.where(failed, -1.0, 1.0)

    def loss(parameters: Array) -> float:
        logit = parameters[0] + columns @ parameters[1:]
        penalty = 0.5 * RIDGE * len(failed) * float(parameters[1:] @ parameters[1:])
        return float(np.logaddexp(0.0, sign * logit).sum()) + penalty

    found = minimize(loss, np.zeros(1 + columns.shape[1])).x
    return CauseModel((np.inf,), (float(found[0]),), tuple(found[1:].tolist()))
