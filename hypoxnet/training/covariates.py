"""A model of covariates alone: the outcome head without image features, fitted to all patients at once.

The ridge on the effects is chosen first, then everything is fitted, and what was fitted becomes weights of the head.

Axis legend: N patients, P columns.
"""

from __future__ import annotations

import logging
import math
import time as clock
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from hypoxnet.cases import END_POINTS, FAILURE, CaseRecord
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.threads import one_thread
from hypoxnet.training.ridge import INNER_PATIENTS, RidgeOptions, choose_ridge
from hypoxnet.training.ridge_fit import Cohort, Effects, effects_covariance, fit_effects
from hypoxnet.training.run import FittedModel, TrainingSetup, model_spec
from hypoxnet.transforms.prepare import covariate_inputs
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)


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
        tuple(record.site for record in patients),
    )


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
    if head.steps is not None:
        clinical = torch.nn.functional.pad(cohort.columns, (0, head.linear.weight.shape[1] - columns))
        head.steps.keep(clinical, each[..., 0], cohort.months, cohort.event)


def _keep_covariance(covariance: Tensor, effects: Effects, head: OutcomeHead) -> None:
    """The covariance among all parameters of the head; those of columns that were not fitted have none."""
    assert head.covariance is not None
    level, columns = effects.baseline.size, head.linear.weight.shape[1]
    rows = torch.arange(effects.weights.shape[0] * effects.weights.shape[1])
    fitted = level + rows[:, None] * columns + torch.arange(effects.weights.shape[2])
    index = torch.cat([torch.arange(level), fitted.flatten()])
    head.covariance.zero_()
    head.covariance[index[:, None], index] = covariance.to(head.covariance)
