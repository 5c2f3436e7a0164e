"""What stands for a covariate that is not known: its expectation given those that are.

Axis legend: N patients, P encoded covariates.

A missing value that is set to the mean says "an average patient". HPV status, for one, is far from average in a young
patient with a small primary and large nodes, and a model that was fitted with the status known misjudges everybody for
whom it is not. Here the columns are taken as jointly normal; a missing one gets its conditional mean. Nothing
but covariates goes in, so nothing of the outcome leaks, and a patient is completed in the same way at prediction.

Source:
    Dempster, Laird and Rubin 1977, J R Stat Soc B 39:1 (EM). Little and Rubin 2002, Statistical Analysis with Missing
    Data, section 11.2 (normal model) and 4.2 (conditional means; Buck 1960, J R Stat Soc B 22:302).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Known = NDArray[np.bool_]

# In patients: weight of the identity against the sample's covariance. Two columns that few patients have together
# would otherwise be perfectly correlated.
PRIOR_PATIENTS = 5.0
ENOUGH_PATIENTS = 5_000
ITERATIONS = 200
TOLERANCE = 1e-8


@dataclass(frozen=True, slots=True)
class JointNormal:
    """Mean and covariance of the standardised columns.

    Args:
        mean: P.
        covariance: P P, positive definite.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> JointNormal:
        """From plain values, whose tuples were lists.

        Raises:
            TypeError: A key is unknown or missing.
        """
        values = dict(content)
        covariance = tuple(tuple(float(value) for value in row) for row in values.pop("covariance"))
        return cls(tuple(float(value) for value in values.pop("mean")), covariance, **values)

    def is_of(self, columns: int) -> bool:
        """Whether it is a distribution of so many columns."""
        rows = {len(row) for row in self.covariance}
        if len(self.mean) != columns or len(self.covariance) != columns or rows - {columns}:
            return False
        covariance = np.array(self.covariance).reshape(columns, columns)
        symmetric = bool(np.allclose(covariance, covariance.T)) and bool(np.isfinite(self.mean).all())
        return symmetric and bool((np.linalg.eigvalsh(covariance) > 0).all())

    def complete(self, values: Array, known: Known) -> Array:
        """Each missing value replaced by its conditional mean.

        Args:
            values: N P; what stands where nothing is known does not matter.
            known: N P.

        Returns:
            N P; known values as they were, and the mean in a patient of whom nothing is known.

        Example:
            >>> pair = JointNormal((0.0, 0.0), ((1.0, 0.5), (0.5, 1.0)))
            >>> pair.complete(np.array([[2.0, 0.0]]), np.array([[True, False]]))
            array([[2., 1.]])
        """
        mean, covariance = np.array(self.mean), np.array(self.covariance)
        return _expected(np.asarray(values, dtype=np.float64), np.asarray(known, dtype=bool), mean, covariance)[0]


def fit_joint_normal(values: Array, known: Known) -> JointNormal:
    """Maximum of the likelihood of what is known, by EM, with a weak prior towards uncorrelated columns.

    Args:
        values: N P, standardised; what stands where nothing is known does not matter.
        known: N P.
    """
    values, known = np.asarray(values, dtype=np.float64), np.asarray(known, dtype=bool)
    # Every so many of a large cohort: the estimate hardly moves, and each pass looks at all of them.
    every = max(1, len(values) // ENOUGH_PATIENTS)
    values, known = values[::every], known[::every]
    patients, columns = values.shape
    counts = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(counts, 1)
    covariance = np.eye(columns)
    for _ in range(ITERATIONS):
        completed, spread = _expected(values, known, mean, covariance)
        new_mean = completed.mean(axis=0)
        residual = completed - new_mean
        scatter = residual.T @ residual + spread + PRIOR_PATIENTS * np.eye(columns)
        new_covariance = scatter / (patients + PRIOR_PATIENTS)
        moved = max(np.abs(new_mean - mean).max(initial=0.0), np.abs(new_covariance - covariance).max(initial=0.0))
        mean, covariance = new_mean, new_covariance
        if moved < TOLERANCE:
            break
    return JointNormal(tuple(mean.tolist()), tuple(tuple(row) for row in covariance.tolist()))


def _expected(values: Array, known: Known, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Conditional means, and the sum over patients of the conditional covariances; patients by pattern."""
    completed = np.where(known, values, 0.0)
    spread = np.zeros_like(covariance)
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        missing, rows = ~pattern, np.flatnonzero(which.ravel() == number)
        if not missing.any():
            continue
        among = covariance[np.ix_(pattern, pattern)]
        across = covariance[np.ix_(missing, pattern)]
        slopes = np.linalg.solve(among, across.T).T if pattern.any() else np.zeros((int(missing.sum()), 0))
        completed[np.ix_(rows, missing)] = mean[missing] + (values[np.ix_(rows, pattern)] - mean[pattern]) @ slopes.T
        spread[np.ix_(missing, missing)] += len(rows) * (covariance[np.ix_(missing, missing)] - slopes @ across.T)
    return completed, spread
