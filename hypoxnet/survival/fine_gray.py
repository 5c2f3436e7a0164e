"""Fine and Gray's regression: covariates and the cumulative incidence of a cause under competing risks.

Axis legend: B patients, P covariates, K distinct times of the cause, U distinct times of censoring.

A patient struck by another cause stays in the risk set with the weight G(t) / G(own time), where G is the probability
of not being censored. Every sum over a risk set is a running sum, so that an iteration costs B P.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypoxnet.survival.estimators import Array, Events, still_followed
from hypoxnet.survival.event_table import event_table, some_outlast_the_first
from hypoxnet.survival.regression import LEAST_INFORMATION, RUNS_AWAY, HazardRatios, full_rank

MOST_ITERATIONS = 50
CONVERGED = 1e-10


@dataclass(frozen=True, slots=True)
class FineGray(HazardRatios):
    """A fitted regression; hazard ratios are of the subdistribution, the covariance is robust.

    Args:
        months: K, times of the cause.
        baseline: K, cumulative subdistribution hazard from each of them on, all covariates 0.
    """

    months: Array
    baseline: Array

    def incidence(self, covariates: Array, month: float) -> Array:
        """B, predicted incidence of the cause by a time, from B P covariates."""
        hazard = np.concatenate([[0.0], self.baseline])[np.searchsorted(self.months, month, side="right")]
        return np.asarray(-np.expm1(-hazard * np.exp(self.risk(covariates))))


def fine_gray(months: Array, event: Events, covariates: Array, *, cause: int = 1) -> FineGray | None:
    """Proportional-subdistribution-hazards regression by Newton's method, Breslow's likelihood for ties.

    An event and a censoring in the same month: the event came first, as in `still_followed` and in `finegray` of R's
    survival. R's cmprsk estimates G with both at risk; its coefficients agree where events and censorings do not tie.

    Args:
        months: B, times.
        event: B, 0 censored, any other number a cause.
        covariates: B P.
        cause: Which cause.

    Returns:
        The regression; None where it has no finite solution: no event of the cause, nobody who outlasts the first, a
        covariate that is constant or a sum of others, or one that separates who failed.

    Source:
        Fine and Gray 1999, J Am Stat Assoc 94:496 (weights, score, robust variance).

    Example:
        >>> months, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1, 1, 2, 1, 0])
        >>> fit = fine_gray(months, event, np.array([[1.0], [0.0], [1.0], [1.0], [0.0]]))
        >>> round(float(fit.coefficients[0]), 3)
        0.34
    """
    x = np.asarray(covariates, dtype=np.float64)
    # Whoever was struck by another cause stays in the risk set, so outlasts everything.
    stays = np.where((np.asarray(event) > 0) & (np.asarray(event) != cause), np.inf, months)
    if not some_outlast_the_first(stays, event, cause=cause) or not full_rank(x):
        return None
    centre, scale = x.mean(axis=0), x.std(axis=0)
    cohort = _cohort(months, event, (x - centre) / scale, cause)
    standardised = _maximise(cohort)
    if standardised is None:
        return None
    state = _state(cohort, standardised)
    covariance = _robust_covariance(cohort, state)
    coefficients = standardised / scale
    baseline = np.cumsum(state.step) * np.exp(-centre @ coefficients)
    return FineGray(coefficients, covariance / np.outer(scale, scale), state.log_likelihood, cohort.times, baseline)


@dataclass(frozen=True, slots=True)
class _Cohort:
    """Patients in the order of their times, and the times of the cause.

    Args:
        months: B.
        codes: B, 0 censored, 1 the cause, 2 another.
        x: B P.
        followed: B, G just before the own time.
        times: K.
        hits: K, patients struck.
        start: K, how many patients have an earlier time.
        followed_then: K, G just before.
    """

    months: Array
    codes: NDArray[np.int64]
    x: Array
    followed: Array
    times: Array
    hits: Array
    start: NDArray[np.int64]
    followed_then: Array


@dataclass(frozen=True, slots=True)
class _State:
    """Everything at given coefficients.

    Args:
        relative: B, relative hazards.
        kept: B, relative hazard over G for those struck by another cause, else 0.
        mean: K P, mean covariates of the weighted risk sets.
        step: K, increments of the baseline.
        log_likelihood: Partial.
        score: P.
        information: P P.
    """

    relative: Array
    kept: Array
    mean: Array
    step: Array
    log_likelihood: float
    score: Array
    information: Array


def _cohort(months: Array, event: Events, x: Array, cause: int) -> _Cohort:
    order = np.argsort(months, kind="stable")
    event = np.asarray(event, dtype=np.int64)
    codes = np.where(event == cause, 1, np.where(event > 0, 2, 0))[order]
    ordered = np.asarray(months, dtype=np.float64)[order]
    times, hits = np.unique(ordered[codes == 1], return_counts=True)
    return _Cohort(
        ordered,
        codes,
        x[order],
        still_followed(ordered, codes, ordered),
        times,
        hits.astype(np.float64),
        np.searchsorted(ordered, times, side="left"),
        still_followed(ordered, codes, times),
    )


def _maximise(cohort: _Cohort) -> Array | None:
    """Coefficients by Newton's method with halved steps; None when they run away."""
    coefficients = np.zeros(cohort.x.shape[1])
    state = _state(cohort, coefficients)
    for _ in range(MOST_ITERATIONS):
        if np.linalg.eigvalsh(state.information)[0] < LEAST_INFORMATION * cohort.hits.sum():
            return None
        step = np.linalg.solve(state.information, state.score)
        step *= min(1.0, RUNS_AWAY / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < CONVERGED:
            return coefficients
        trial = _state(cohort, coefficients + step)
        # Rounding of the likelihood grows with its size; below it a step neither gains nor loses.
        slack = 1e-12 * abs(state.log_likelihood)
        while trial.log_likelihood < state.log_likelihood - slack and np.abs(step).max() >= CONVERGED:
            step = step / 2.0
            trial = _state(cohort, coefficients + step)
        coefficients, state = coefficients + step, trial
        if np.abs(coefficients).max() > RUNS_AWAY:
            return None
    return None


def _state(cohort: _Cohort, coefficients: Array) -> _State:
    linear = cohort.x @ coefficients
    shift = float(linear.max())  # the exponent cannot overflow, and the shift cancels
    relative = np.exp(linear - shift)
    kept = np.where(cohort.codes == 2, relative / cohort.followed, 0.0)
    total = _risk_sum(cohort, relative, kept)
    mean = (
        np.stack([_risk_sum(cohort, relative * column, kept * column) for column in cohort.x.T], axis=1)
        / total[:, None]
    )
    step = cohort.hits / total
    struck = cohort.codes == 1
    log_likelihood = float(linear[struck].sum() - (cohort.hits * (np.log(total) + shift)).sum())
    score = cohort.x[struck].sum(axis=0) - cohort.hits @ mean
    exposure = _exposure(cohort, relative, kept, step)
    information = (cohort.x * exposure[:, None]).T @ cohort.x - (mean * cohort.hits[:, None]).T @ mean
    unshifted = np.exp(-shift)
    return _State(relative / unshifted, kept / unshifted, mean, step * unshifted, log_likelihood, score, information)


def _risk_sum(cohort: _Cohort, of_everyone: Array, of_kept: Array) -> Array:
    """K, sum over those at risk plus the weighted sum over those struck by another cause before."""
    at_risk = np.cumsum(of_everyone[::-1])[::-1]
    before = np.concatenate([[0.0], np.cumsum(of_kept)])
    return np.asarray(at_risk[cohort.start] + cohort.followed_then * before[cohort.start])


def _exposure(cohort: _Cohort, relative: Array, kept: Array, step: Array) -> Array:
    """B, weighted integral of a patient's hazard over increments `step` (K)."""
    passed = np.searchsorted(cohort.times, cohort.months, side="right")
    while_at_risk = np.concatenate([[0.0], np.cumsum(step)])[passed]
    weighted = step * cohort.followed_then
    afterwards = np.concatenate([np.cumsum(weighted[::-1])[::-1], [0.0]])[passed]
    return np.asarray(relative * while_at_risk + kept * afterwards)


def _robust_covariance(cohort: _Cohort, state: _State) -> Array:
    """Sandwich of the score residuals, those of the estimated G included."""
    own = np.searchsorted(cohort.times, cohort.months, side="left")
    residual = np.zeros_like(cohort.x)
    struck = cohort.codes == 1
    residual[struck] = cohort.x[struck] - state.mean[own[struck]]
    residual -= cohort.x * _exposure(cohort, state.relative, state.kept, state.step)[:, None]
    for p, column in enumerate(state.mean.T):
        residual[:, p] += _exposure(cohort, state.relative, state.kept, state.step * column)
    residual += _censoring_residual(cohort, state)
    bread = np.linalg.inv(state.information)
    return np.asarray(bread @ (residual.T @ residual) @ bread)


def _censoring_residual(cohort: _Cohort, state: _State) -> Array:
    """B P, what each patient's censoring or follow-up does to the score by way of G."""
    table = event_table(cohort.months, cohort.codes)
    at_risk = np.maximum(table.at_risk - table.any_event, 1.0)
    censored = table.counts[:, 0]
    until = np.searchsorted(cohort.months, table.months, side="right")
    after = np.searchsorted(cohort.times, table.months, side="right")
    weighted = state.step * cohort.followed_then
    kept = np.concatenate([[0.0], np.cumsum(state.kept)])[until]
    to_come = np.concatenate([np.cumsum(weighted[::-1])[::-1], [0.0]])[after]
    residual = np.empty_like(cohort.x)
    for p, column in enumerate(cohort.x.T):
        kept_x = np.concatenate([[0.0], np.cumsum(state.kept * column)])[until]
        to_come_mean = np.concatenate([np.cumsum((weighted * state.mean[:, p])[::-1])[::-1], [0.0]])[after]
        influence = (kept_x * to_come - kept * to_come_mean) / at_risk
        compensator = np.cumsum(influence * censored / at_risk)
        # Whoever had an event at a time was no longer at risk of being censored at it.
        before = np.concatenate([[0.0], compensator])[table.row]
        residual[:, p] = np.where(cohort.codes == 0, influence[table.row] - compensator[table.row], -before)
    return residual
