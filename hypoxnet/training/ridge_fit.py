"""Penalised maximum likelihood of any outcome model: the mean loss plus a ridge on the effects of standardised columns.

Everything is float64 and deterministic.

Axis legend: N patients, P columns, J causes, R effects per cause, D coefficients of the baseline, Q parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from hypoxnet.survival.time_models.base import LEVEL_PRECISION, SHAPE_PRECISION, TimeModel
from hypoxnet.survival.uncertainty import parameter_covariance

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Patients with a known outcome, as arrays.

    Args:
        columns: N P, standardised; with flags of what is not known behind them where the settings want flags.
        months: N; nan for a yes/no end point.
        event: N.
        sites: N, hospitals; empty where nobody asks.
    """

    columns: Tensor
    months: Tensor
    event: Tensor
    sites: tuple[str, ...] = ()

    def of(self, chosen: NDArray[np.int64]) -> Cohort:
        """Some of the patients."""
        index = torch.from_numpy(chosen)
        sites = tuple(self.sites[place] for place in chosen) if self.sites else ()
        return Cohort(self.columns[index], self.months[index], self.event[index], sites)

    def __len__(self) -> int:
        return len(self.months)


@dataclass(frozen=True, slots=True)
class Effects:
    """A fitted model.

    Args:
        baseline: J D.
        weights: J R P.
        ridge: Strength per cause.
        iterations: Of the last fit.
    """

    baseline: Array
    weights: Array
    ridge: tuple[float, ...]
    iterations: int = field(default=0, compare=False)


def fit_effects(
    cohort: Cohort,
    time: TimeModel,
    ridge: Sequence[float],
    start: Effects | None = None,
    *,
    tolerance: float = 1e-7,
) -> Effects:
    """Penalised maximum likelihood by L-BFGS.

    Args:
        cohort: The training patients.
        time: The outcome model.
        ridge: Strength per cause.
        start: Where to begin; the baseline of the cohort with no effects when None.
        tolerance: Largest component of the gradient, per patient, at the end.
    """
    problem = _Problem(cohort, time, torch.tensor(list(ridge), dtype=torch.float64))
    begin = start or Effects(
        time.start(cohort.months, cohort.event).double().numpy(), problem.no_weights(), tuple(ridge)
    )
    flat = np.concatenate([begin.baseline.ravel(), begin.weights.ravel()])
    options = {"maxiter": 500, "ftol": 1e-4 * tolerance, "gtol": tolerance, "maxcor": 20}
    found = minimize(problem, flat, jac=True, method="L-BFGS-B", options=options)
    split = begin.baseline.size
    return Effects(
        found.x[:split].reshape(begin.baseline.shape),
        found.x[split:].reshape(begin.weights.shape),
        tuple(float(value) for value in ridge),
        int(found.nit),
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """The objective and its gradient, divided by the number of patients."""

    cohort: Cohort
    time: TimeModel
    ridge: Tensor

    def no_weights(self) -> Array:
        return np.zeros((self.time.causes, len(self.time.effect), self.cohort.columns.shape[1]))

    def __call__(self, flat: Array) -> tuple[float, Array]:
        parameters = torch.from_numpy(flat.copy()).requires_grad_(True)
        value = self.penalised(parameters)
        (gradient,) = torch.autograd.grad(value, parameters)
        return float(value.detach()), gradient.numpy()

    def penalised(self, parameters: Tensor) -> Tensor:
        """Mean loss and penalty at parameters: baseline, then weights; Q."""
        causes, split = self.time.causes, self.time.causes * len(self.time.basis)
        baseline = parameters[:split].reshape(causes, -1) if split else None
        weights = parameters[split:].reshape(causes, len(self.time.effect), -1)
        value = held_out_loss(self.cohort, self.time, baseline, weights)
        penalty = (self.ridge[:, None, None] * weights.square()).sum()
        if baseline is not None:
            precision = torch.full((baseline.shape[1],), SHAPE_PRECISION, dtype=torch.float64)
            precision[0] = LEVEL_PRECISION
            penalty = penalty + (precision * baseline.square()).sum()
        return value + 0.5 * penalty / max(1, len(self.cohort))


def held_out_loss(cohort: Cohort, time: TimeModel, baseline: Tensor | None, weights: Tensor) -> Tensor:
    """Mean loss of patients under given effects."""
    effects = torch.einsum("np,jrp->njr", cohort.columns, weights)
    return time.loss(time.outputs(baseline, effects), cohort.months, cohort.event, torch.ones(len(cohort)))


def effects_covariance(effects: Effects, cohort: Cohort, time: TimeModel) -> Tensor:
    """Covariance of the fitted parameters, baseline then weights, Q Q; of weights alone where no baseline is fitted.

    Args:
        effects: The fit.
        cohort: The training patients.
        time: The outcome model.
    """
    problem = _Problem(cohort, time, torch.tensor(effects.ridge, dtype=torch.float64))
    flat = torch.from_numpy(np.concatenate([effects.baseline.ravel(), effects.weights.ravel()]))
    return parameter_covariance(lambda parameters: len(cohort) * problem.penalised(parameters), flat)
