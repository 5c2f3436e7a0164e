"""Smooth functions of time with few coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def interval_basis(edges_months: Sequence[float], df: int) -> Tensor:
    """Natural cubic splines of log(1 + month) at the middle of the intervals.

    Knots at evenly spaced ranks of the intervals; the first row is the constant, the others are orthogonal to it and to
    each other with a mean square of 1, so that a coefficient is on the scale of a logit.

    Args:
        edges_months: Right edges of the T intervals.
        df: Number of coefficients, the constant included; more than T is T.

    Returns:
        D T.

    Source:
        Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, equations 5.4 and 5.5.

    Example:
        >>> interval_basis((6.0, 12.0, 18.0, 24.0, 36.0), 3).shape
        torch.Size([3, 5])
    """
    intervals = len(edges_months)
    df = min(df, intervals)
    if df == 1:
        return torch.ones(1, intervals)
    z = np.log1p([(a + b) / 2 for a, b in pairwise([0.0, *edges_months])])
    knots = np.interp(np.linspace(0, intervals - 1, df), np.arange(intervals), z)
    columns = [np.ones_like(z), z - z.mean(), *(_bend(z, knots, k) - _bend(z, knots, df - 2) for k in range(df - 2))]
    return torch.as_tensor(_orthogonal(columns), dtype=torch.float32)


def _bend(z: NDArray[np.float64], knots: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    last = np.maximum(z - knots[-1], 0.0) ** 3
    return np.asarray((np.maximum(z - knots[k], 0.0) ** 3 - last) / (knots[-1] - knots[k]))


def _orthogonal(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Gram-Schmidt, twice: unlike a library's QR, its signs are the same on every machine."""
    rows: list[NDArray[np.float64]] = []
    for column in columns:
        for _ in range(2):
            column = column - sum((row * (row @ column) / (row @ row) for row in rows), np.zeros_like(column))
        rows.append(column / np.sqrt(np.mean(column**2)))
    return np.stack(rows)


def interval_offset(edges_months: Sequence[float]) -> Tensor:
    """Logarithm of the length of each interval, years: a constant rate fills a longer interval with more events; T."""
    widths = [b - a for a, b in pairwise([0.0, *edges_months])]
    return torch.tensor([0.0 if width == inf else float(np.log(width / 12.0)) for width in widths])
