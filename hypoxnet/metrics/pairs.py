"""Weighted sums over pairs of patients: what every concordance is made of, in n log n for large cohorts.

Axis legend: Q patients who ask, S patients they are compared with, N = Q + S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Pairs up to which a table of them all is faster, as in the resamples of a cohort of hundreds.
SMALL_TABLE = 300_000


@dataclass(frozen=True, slots=True)
class Side:
    """Patients on one side of a comparison.

    Args:
        position: Place in an order; only patients at strictly greater positions than the asking one count.
        risk: Predicted risk.
        weight: Weight of each patient.
    """

    position: Array
    risk: Array
    weight: Array


def concordant_and_all(asking: Side, others: Side) -> tuple[float, float]:
    """Weight of the pairs in which the asking patient had more risk, and of all pairs that are compared.

    A pair counts with the product of its weights; equal risks count half as concordant.

    Args:
        asking: Q.
        others: S.

    Returns:
        Sum over pairs with a greater position of the other patient: concordant, all.

    Example:
        >>> one = Side(np.array([0.0, 1.0]), np.array([0.2, 0.5]), np.ones(2))
        >>> two = Side(np.array([1.0, 2.0]), np.array([0.2, 0.9]), np.ones(2))
        >>> concordant_and_all(one, two)
        (0.5, 3.0)
    """
    small = len(asking.weight) * len(others.weight) <= SMALL_TABLE
    return by_table(asking, others) if small else by_halves(asking, others)


def by_table(asking: Side, others: Side) -> tuple[float, float]:
    """`concordant_and_all` with a table of Q times S."""
    counted = (others.position > asking.position[:, None]) * others.weight
    more, less = asking.risk[:, None] > others.risk, asking.risk[:, None] < others.risk
    right = counted * (0.5 + 0.5 * more - 0.5 * less)
    return float(asking.weight @ right.sum(axis=1)), float(asking.weight @ counted.sum(axis=1))


def by_halves(asking: Side, others: Side) -> tuple[float, float]:
    """`concordant_and_all` by splitting in halves, N log N per level.

    The positions are split in halves, halves of halves and so on; at each of the log N levels one sort and one running
    sum count all pairs that this split tells apart. Patients at equal positions are never told apart.
    """
    place, risk, asks, gives = _merged(asking, others)
    concordant = total = 0.0
    for level in range(int(place.max(initial=0)).bit_length()):
        # Sorted by risk inside each pair of halves: a stable sort of the pairs keeps the order of the risks.
        order = np.argsort(place >> (level + 1), kind="stable")
        upper = (place[order] >> level) & 1 == 1
        pair = place[order] >> (level + 1)
        below, whole = _sums_below(pair, risk[order], np.where(upper, gives[order], 0.0))
        weight = np.where(upper, 0.0, asks[order])
        concordant += float(weight @ below)
        total += float(weight @ whole)
    return concordant, total


def _merged(asking: Side, others: Side) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """Both sides in one list sorted by risk: ranks of the positions and of the risks, and the two weights."""
    ranks = [
        np.unique(np.concatenate(both), return_inverse=True)[1]
        for both in ((asking.position, others.position), (asking.risk, others.risk))
    ]
    nothing_asked, nothing_given = np.zeros(len(others.weight)), np.zeros(len(asking.weight))
    order = np.argsort(ranks[1], kind="stable")
    asks = np.concatenate([asking.weight, nothing_asked])[order]
    gives = np.concatenate([nothing_given, others.weight])[order]
    return ranks[0][order], ranks[1][order], asks, gives


def _sums_below(pair: NDArray[np.int64], risk: NDArray[np.int64], gives: Array) -> tuple[Array, Array]:
    """For each patient, within its pair of halves: the weight of lower risks plus half of equal ones, and of all."""
    running = np.concatenate([[0.0], np.cumsum(gives)])
    new_pair = np.concatenate([[True], pair[1:] != pair[:-1]])
    begin, end = _runs(new_pair)
    first, last = _runs(new_pair | np.concatenate([[True], risk[1:] != risk[:-1]]))
    below = 0.5 * (running[first] + running[last]) - running[begin]
    return below, running[end] - running[begin]


def _runs(new: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the run of each element begins, and where it ends (exclusive)."""
    starts = np.flatnonzero(new)
    lengths = np.diff(np.concatenate([starts, [len(new)]]))
    return np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)
