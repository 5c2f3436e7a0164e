"""A model of covariates alone: the outcome head without image features, fitted to all patients at once.

Penalised maximum likelihood of any outcome model: the mean loss plus a ridge on the effects of standardised columns,
with a strength of its own per cause, chosen by the likelihood of patients left out of an inner cross-validation.
Everything is float64 and deterministic.

Axis legend: N patients, P columns, J causes, R effects per cause, D coefficients of the baseline.
"""

from __future__ import annotations

import logging
import math
import time as clock
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from hypoxnet.cases import END_POINTS, FAILURE, CaseRecord
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.phantom.cohort import one_thread
from hypoxnet.survival.time_models.base import LEVEL_PRECISION, SHAPE_PRECISION, TimeModel
from hypoxnet.survival.uncertainty import parameter_covariance
from hypoxnet.training.run import FittedModel, TrainingSetup, model_spec
from hypoxnet.transforms.prepare import covariate_inputs
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

# The inner cross-validation of a larger cohort looks at this many patients: the best strength, as a sum over patients,
# hardly depends on their number, and there it hardly matters.
INNER_PATIENTS = 2_000
# From here on one dealing is as good as several: with forty failures the best strength changes tenfold with the folds.
ONE_DEALING = 1_000
# Losses of patients left out are compared, not reported: they need no more digits than this gives.
INNER_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class RidgeOptions:
    """How the strength of the ridge is chosen; `model.options` of `model=covariates`.

    Args:
        strengths: Candidates, as a precision of the effect of a column with a standard deviation of 1; in the unit of
            the likelihood's curvature, which is about one per event.
        inner_folds: Folds of the inner cross-validation.
        inner_repeats: How often patients are dealt into folds anew; a cohort with a thousand patients is dealt once.
        one_standard_error: Take the strongest ridge within one standard error of the best rather than the best.
        seed: Seed of the inner folds.
    """

    strengths: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    inner_folds: int = 5
    inner_repeats: int = 5
    one_standard_error: bool = False
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RidgeOptions:
        """From `model.options`.

        Raises:
            ConfigError: An option is unknown or out of its range.
        """
        unknown = [name for name in options if name not in cls.__dataclass_fields__]
        if unknown:
            raise ConfigError(
                f"model.options has {unknown[0]}, a model of covariates knows {', '.join(cls.__dataclass_fields__)}"
            )
        chosen = cls(**options)
        if not chosen.strengths or min(chosen.strengths) <= 0 or chosen.inner_folds < 2 or chosen.inner_repeats < 1:
            raise ConfigError(
                f"model.options.strengths is {list(chosen.strengths)}, inner_folds {chosen.inner_folds}, inner_repeats "
                f"{chosen.inner_repeats}; strengths must be above 0, folds at least 2, repeats at least 1"
            )
        return replace(chosen, strengths=tuple(sorted(float(value) for value in chosen.strengths)))


@dataclass(frozen=True, slots=True)
class Cohort:
    """Patients with a known outcome, as arrays.

    Args:
        columns: N P, standardised; with flags of what is not known behind them where the settings want flags.
        months: N; nan for a yes/no end point.
        event: N.
    """

    columns: Tensor
    months: Tensor
    event: Tensor

    def of(self, chosen: NDArray[np.int64]) -> Cohort:
        """Some of the patients."""
        index = torch.from_numpy(chosen)
        return Cohort(self.columns[index], self.months[index], self.event[index])

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


def covariate_columns(records: Sequence[CaseRecord], settings: PrepareSettings) -> tuple[Tensor, Tensor]:
    """What `prepare` makes of the covariates, for a whole cohort at once: values and flags, N P, float64."""
    values, flags = covariate_inputs([record.covariates for record in records], settings)
    return torch.from_numpy(values), torch.from_numpy(flags)


def refuse_without_failures(records: Sequence[CaseRecord]) -> None:
    """Refuse a cohort that a model of covariates alone cannot learn from.

    Raises:
        ConfigError: No outcome is known, or nobody failed.
    """
    outcomes = [record.outcome for record in records if record.outcome is not None]
    if not outcomes:
        raise ConfigError(
            f"none of the {len(records)} rows for training has an outcome; a model of covariates alone predicts it and "
            "nothing else: add the columns lrc_months and lrc_event, or failed"
        )
    if not any(outcome.event == FAILURE for outcome in outcomes):
        raise ConfigError(
            f"none of the {len(outcomes)} training patients with a known outcome failed; a model of covariates alone "
            "learns from failures: see that lrc_event has 1 for failure and 2 for death without it, or wait for some"
        )


def cohort_of(records: Sequence[CaseRecord], settings: PrepareSettings) -> Cohort:
    """The patients whose outcome is known, each by the first of their visits.

    Raises:
        ConfigError: Nobody failed: there is nothing to learn from.
    """
    refuse_without_failures(records)
    patients = list({record.case_id: record for record in reversed(records) if record.outcome is not None}.values())
    patients.reverse()
    outcomes = [record.outcome for record in patients if record.outcome is not None]
    values, known = covariate_columns(patients, settings)
    columns = torch.cat([values, 1.0 - known], dim=1) if settings.missing == "indicator" else values
    months = [math.nan if outcome.months is None else outcome.months for outcome in outcomes]
    return Cohort(
        columns,
        torch.tensor(months, dtype=torch.float64),
        torch.tensor([outcome.event for outcome in outcomes], dtype=torch.int64),
    )


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


def effects_covariance(effects: Effects, cohort: Cohort, time: TimeModel) -> Tensor | None:
    """Covariance of the fitted parameters, baseline then weights, Q Q; None for a model without a fitted baseline.

    Args:
        effects: The fit.
        cohort: The training patients.
        time: The outcome model.
    """
    if not effects.baseline.size:
        return None
    problem = _Problem(cohort, time, torch.tensor(effects.ridge, dtype=torch.float64))
    flat = torch.from_numpy(np.concatenate([effects.baseline.ravel(), effects.weights.ravel()]))
    return parameter_covariance(lambda parameters: len(cohort) * problem.penalised(parameters), flat)


def choose_ridge(cohort: Cohort, time: TimeModel, options: RidgeOptions) -> tuple[float, ...]:
    """Strength per cause by the likelihood of patients left out, one cause after the other.

    Args:
        cohort: The training patients.
        time: The outcome model.
        options: Candidates and folds.

    Returns:
        One per cause; the strongest candidate for a cause that fewer than two patients met.
    """
    parts = inner_parts(cohort, options)
    strongest, middle = options.strengths[-1], options.strengths[len(options.strengths) // 2]
    counts = [int((cohort.event == cause + 1).sum()) for cause in range(time.causes)]
    ridge = [middle if count >= 2 else strongest for count in counts]
    starts: dict[int, Effects | None] = {}
    for cause, count in enumerate(counts):
        if count < 2 or not parts:
            continue
        losses = []
        for strength in reversed(options.strengths):
            ridge[cause] = strength
            losses.append([_left_out(cohort, time, part, ridge, starts, number) for number, part in enumerate(parts)])
        ridge[cause] = _best(np.array(losses)[::-1], options, weights=np.array([len(part.left_out) for part in parts]))
    return tuple(ridge)


def _left_out(
    cohort: Cohort,
    time: TimeModel,
    part: InnerPart,
    ridge: Sequence[float],
    starts: dict[int, Effects | None],
    number: int,
) -> float:
    """Mean loss of a fold under the model of the others; fits go on from those of the last strength."""
    fitted = fit_effects(cohort.of(part.fitted), time, ridge, starts.get(number), tolerance=INNER_TOLERANCE)
    starts[number] = fitted
    baseline = torch.from_numpy(fitted.baseline) if fitted.baseline.size else None
    with torch.no_grad():
        return float(held_out_loss(cohort.of(part.left_out), time, baseline, torch.from_numpy(fitted.weights)))


def _best(losses: Array, options: RidgeOptions, *, weights: NDArray[np.int64]) -> float:
    """The strength with the lowest loss of patients left out; losses are strengths by folds."""
    means = np.average(losses, axis=1, weights=weights)
    best = int(means.argmin())
    if options.one_standard_error:
        # Repeats look at the same patients again, and make the error no smaller.
        error = float(losses[best].std(ddof=1) / math.sqrt(min(options.inner_folds, losses.shape[1])))
        best = max(index for index, mean in enumerate(means) if mean <= means[best] + error)
    return float(options.strengths[best])


@dataclass(frozen=True, slots=True)
class InnerPart:
    """Who is fitted and who is left out in one fold of the inner cross-validation, as places in the cohort."""

    fitted: NDArray[np.int64]
    left_out: NDArray[np.int64]


def inner_parts(cohort: Cohort, options: RidgeOptions) -> list[InnerPart]:
    """Patients dealt into folds, event by event, at most `INNER_PATIENTS` of them and small cohorts several times.

    Fewer folds where few failed, none where fewer than two did.
    """
    generator = np.random.default_rng(options.seed)
    event = cohort.event.numpy()
    parts = []
    for _ in range(options.inner_repeats if len(event) < ONE_DEALING else 1):
        chosen = generator.permutation(len(event))[:INNER_PATIENTS]
        order = chosen[np.argsort(event[chosen], kind="stable")]
        count = min(options.inner_folds, int((event[order] == FAILURE).sum()))
        folds = [np.sort(order[number::count]) for number in range(count)] if count >= 2 else []
        for number, fold in enumerate(folds):
            parts.append(InnerPart(np.concatenate([f for other, f in enumerate(folds) if other != number]), fold))
    return parts


def fit_covariates(split: Split, settings: PrepareSettings, setup: TrainingSetup) -> FittedModel:
    """Fit a model of covariates alone on the training and validation patients, in seconds.

    Nothing is chosen by the validation patients: they train as the others do.

    Args:
        split: Who trains; `split.test` is not looked at.
        settings: Covariates and how they become columns.
        setup: The outcome model, and in `model.options` how the ridge is chosen.

    Raises:
        ConfigError: Nobody failed, an option is unknown, or the outcome is switched off.
    """
    if not setup.outcome.enabled:
        raise ConfigError(
            "a model of covariates alone predicts the outcome and nothing else: outcome.enabled must be true, and the "
            "training patients need lrc_months and lrc_event, or failed"
        )
    begin = clock.monotonic()
    options = RidgeOptions.of(setup.model.options)
    cohort = cohort_of((*split.train, *split.validation), settings)
    spec = model_spec(settings, setup)
    model = build_model(spec).eval()
    assert model.head is not None
    # On so few patients threads wait for each other ten times as long as they work.
    with one_thread() if len(cohort) < INNER_PATIENTS else nullcontext():
        ridge = choose_ridge(cohort, model.head.time, options)
        effects = fit_effects(cohort, model.head.time, ridge)
        into_head(effects, cohort, model.head)
    if len(options.strengths) > 1 and ridge[0] == options.strengths[-1]:
        log.warning(
            "the strongest ridge was chosen: in patients left out the covariates say next to nothing of failure, and "
            "the model predicts nearly the same for everybody; ask for fewer covariates (data.covariates=[...])"
        )
    log.info(
        "ridge %s; %d iterations, %d patients",
        ", ".join(f"{value:g} for {cause}" for value, cause in zip(ridge, END_POINTS[settings.endpoint], strict=False)),
        effects.iterations,
        len(cohort),
    )
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    return FittedModel(spec, weights, seconds=clock.monotonic() - begin, steps=effects.iterations)


@torch.no_grad()
def into_head(effects: Effects, cohort: Cohort, head: OutcomeHead) -> None:
    """The fitted effects as weights of the head, whose hidden layer says nothing."""
    for parameter in head.parameters():
        parameter.zero_()
    if head.baseline is not None:
        head.baseline.copy_(torch.from_numpy(effects.baseline))
    columns = effects.weights.shape[2]
    head.linear.weight[:, :columns] = torch.from_numpy(effects.weights).flatten(0, 1).to(head.linear.weight)
    _keep_covariance(effects_covariance(effects, cohort, head.time), effects, head)
    each = torch.einsum("np,jrp->njr", cohort.columns, torch.from_numpy(effects.weights))
    baseline = torch.from_numpy(effects.baseline) if effects.baseline.size else None
    head.time.set_baseline(head.time.outputs(baseline, each), cohort.months, cohort.event)


def _keep_covariance(covariance: Tensor | None, effects: Effects, head: OutcomeHead) -> None:
    """The covariance among all parameters of the head; those of columns that were not fitted have none."""
    assert head.covariance is not None
    if covariance is None:
        return
    level, columns = effects.baseline.size, head.linear.weight.shape[1]
    rows = torch.arange(effects.weights.shape[0] * effects.weights.shape[1])
    fitted = level + rows[:, None] * columns + torch.arange(effects.weights.shape[2])
    index = torch.cat([torch.arange(level), fitted.flatten()])
    head.covariance.zero_()
    head.covariance[index[:, None], index] = covariance.to(head.covariance)
