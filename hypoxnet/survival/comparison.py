"""Do groups differ: the log-rank test of a cause-specific hazard, and Gray's test of cumulative incidence.

Axis legend: B patients, K distinct times, G groups. `event` is 0 censored, any other number a cause.

Under competing risks the two answer different questions: the log-rank test asks whether failure strikes those still at
risk at another rate, Gray's whether more patients fail in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lifelines.statistics import multivariate_logrank_test
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from hypoxnet.survival.estimators import ROUNDING, Array, Events
from hypoxnet.survival.event_table import event_table, some_outlast_the_first

# Of a score of whole patients: below this a variance is rounding.
SMALLEST_VARIANCE = 1e-9


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """Result of a test.

    Args:
        statistic: Chi-squared statistic.
        degrees: Degrees of freedom.
        p_value: Probability of as much or more where nothing differs.
    """

    statistic: float
    degrees: int
    p_value: float


def logrank_test(months: Array, event: Events, group: ArrayLike, *, cause: int = 1) -> ChiSquared | None:
    """Log-rank test that the hazard of a cause is the same in all groups, other causes taken as censoring.

    Args:
        months: B.
        event: B.
        group: B, labels of at least two groups.
        cause: Which cause.

    Returns:
        The test; None with fewer than two groups, without an event of the cause, where a group is never at risk at
        one, or where all at risk at the first are struck by it.

    Source:
        Peto and Peto 1972, J R Stat Soc A 135:185, as in lifelines.

    Example:
        >>> months = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
        >>> test = logrank_test(months, np.ones(6, dtype=int), list("aaabbb"))
        >>> round(test.statistic, 3), test.degrees
        (5.052, 1)
    """
    labels, member = np.unique(np.asarray(group), return_inverse=True)
    struck = np.asarray(event) == cause
    if len(labels) < 2 or not some_outlast_the_first(months, event, cause=cause):
        return None
    if len(np.unique(member[months >= months[struck].min()])) < len(labels):
        return None
    result = multivariate_logrank_test(months, member, struck)
    return ChiSquared(float(result.test_statistic), len(labels) - 1, float(result.p_value))


def gray_test(months: Array, event: Events, group: ArrayLike, *, cause: int = 1) -> ChiSquared | None:
    """Gray's test that the cumulative incidence of a cause is the same in all groups.

    The weight is 1 (rho = 0), and tied times have the hypergeometric factors of R's cmprsk. Arguments are as for
    `logrank_test`.

    Returns:
        The test; None with fewer than two groups, without an event of the cause, where a group is never at risk at
        one, where the pooled incidence is 1 before the last one (R's cmprsk stops there with an error), or where
        ties leave the score without a positive variance (R's cmprsk then gives a negative statistic).

    Source:
        Gray 1988, Ann Stat 16:1141.

    Example:
        >>> months = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
        >>> test = gray_test(months, np.array([1, 1, 2, 1, 2, 0]), list("aaabbb"))
        >>> round(test.statistic, 3), test.degrees
        (2.438, 1)
    """
    labels, member = np.unique(np.asarray(group), return_inverse=True)
    if len(labels) < 2 or not (np.asarray(event) == cause).any():
        return None
    sums = _gray_score(_stacked(months, event, member, cause))
    if sums is None:
        return None
    score, covariance = sums
    if not np.linalg.eigvalsh(covariance[:-1, :-1]).min() > SMALLEST_VARIANCE:
        return None
    statistic = float(score[:-1] @ np.linalg.solve(covariance[:-1, :-1], score[:-1]))
    return ChiSquared(statistic, len(labels) - 1, float(chi2.sf(statistic, len(labels) - 1)))


@dataclass(frozen=True, slots=True)
class _Stacked:
    """Counts of every group at the times of events of the whole cohort: K G.

    Args:
        at_risk: Before each time.
        struck: By the cause.
        other: By other causes.
    """

    at_risk: Array
    struck: Array
    other: Array


def _stacked(months: Array, event: Events, member: NDArray[np.int64], cause: int) -> _Stacked:
    codes = np.where(np.asarray(event) == cause, 1, np.where(np.asarray(event) > 0, 2, 0))
    whole = event_table(months, codes)
    groups = int(member.max()) + 1
    counts = np.bincount((whole.row * groups + member) * 3 + codes, minlength=len(whole.months) * groups * 3)
    table = counts.reshape(-1, groups, 3).astype(np.float64)
    leaving = np.cumsum(table.sum(axis=2), axis=0)
    at_risk = leaving[-1] - np.concatenate([np.zeros((1, groups)), leaving[:-1]])
    events = whole.any_event > 0
    return _Stacked(at_risk[events], table[events, :, 1], table[events, :, 2])


def _gray_score(counts: _Stacked) -> tuple[Array, Array] | None:
    """Scores of the groups and their covariance, G and G G, from running sums over the times.

    None where nobody is left of the pooled cohort although a group still has events.
    """
    here = counts.at_risk > 0
    risk = np.where(here, counts.at_risk, 1.0)
    free = np.cumprod(np.where(here, 1.0 - (counts.struck + counts.other) / risk, 1.0), axis=0)
    before = _shifted(np.asarray(free, dtype=np.float64), 1.0)
    fallen = np.cumsum(np.where(here, before * counts.struck / risk, 0.0), axis=0)
    # Patients at risk, blown up to what they would be had nobody left by another cause or by censoring.
    weight = np.where(here, counts.at_risk / np.where(before > 0, before, 1.0), 0.0)
    total = weight.sum(axis=1)
    hits = counts.struck.sum(axis=1)
    pooled_step: Array = hits / total
    pooled = np.cumsum(pooled_step)
    left = 1.0 - _shifted(pooled, 0.0)
    if (left[hits > 0] <= ROUNDING).any():
        return None
    share = weight * (1.0 - _shifted(fallen, 0.0))
    score = (counts.struck - hits[:, None] * share / share.sum(axis=1)[:, None]).sum(axis=0)
    # a[k, i, j]: what group j's increment does to the score of group i.
    identity = np.eye(risk.shape[1])
    a = weight[:, :, None] * (identity - (weight / total[:, None])[:, None, :])
    steps = a * np.where(hits > 0, pooled_step / np.where(hits > 0, left, 1.0), 0.0)[:, None, None]
    to_come = steps.sum(axis=0) - np.cumsum(steps, axis=0)
    survived = np.where(free > 0, (1.0 - pooled)[:, None] / np.where(free > 0, free, 1.0), 0.0)
    return score, _gray_covariance(counts, before, (a, to_come, survived), pooled_step)


def _gray_covariance(counts: _Stacked, before: Array, terms: tuple[Array, Array, Array], pooled_step: Array) -> Array:
    a, to_come, survived = terms
    risk = np.where(counts.at_risk > 0, counts.at_risk, 1.0)
    hits = counts.struck.sum(axis=1)[:, None]
    blown_up = np.where(pooled_step > 0, hits[:, 0] / np.where(pooled_step > 0, pooled_step, 1.0), 0.0)[:, None]
    tied = np.where(hits > 1, 1.0 - (hits - 1.0) / np.where(hits > 1, blown_up * before - 1.0, 1.0), 1.0)
    own = np.where(counts.at_risk > 0, tied * before * pooled_step[:, None] / risk, 0.0)
    by_cause = a + (1.0 - survived)[:, None, :] * to_come
    tied = np.where(counts.other > 1, 1.0 - (counts.other - 1.0) / np.where(risk > 1, risk - 1.0, 1.0), 1.0)
    others = tied * before**2 * counts.other / risk**2
    by_other = survived[:, None, :] * to_come
    return np.asarray(
        np.einsum("kj,kaj,kbj->ab", own, by_cause, by_cause) + np.einsum("kj,kaj,kbj->ab", others, by_other, by_other)
    )


def _shifted(running: Array, first: float) -> Array:
    """The values just before each time."""
    return np.concatenate([np.full_like(running[:1], first), running])[: len(running)]
