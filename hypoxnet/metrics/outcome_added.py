"""Whether the predicted risk says anything of withheld patients that volume, stage and age do not.

Axis legend: B patients, P columns of the clinical model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit

from hypoxnet.cases import FAILURE
from hypoxnet.metrics.optimism import permutation_test, unexplained
from hypoxnet.metrics.outcome_cohort import Array, Cohort
from hypoxnet.metrics.reference_models import CLINICAL, VOLUME, ReferenceModel, fit_reference
from hypoxnet.survival.regression import cause_specific_cox
from hypoxnet.transforms.covariates import encode_table, table_of

# A p of 0.05 is then known to 0.005.
PERMUTATIONS = 1999
# Keeps the scale of the risk finite.
LEAST_RISK = 1e-6


def beyond_clinical(cohort: Cohort) -> dict[str, Any]:
    """Does the model's risk go with failure among patients of the same volume, stage and age?

    A clinical model is fitted to the withheld patients themselves, so that it has every advantage. What it leaves over
    (the martingale residual; for yes/no the residual) is multiplied with what it leaves over of the model's risk, and
    the sum is held against those that the same risks give when they are dealt out to other patients of the same fold.

    Args:
        cohort: Withheld patients; those without a tumour volume are left out.

    Returns:
        For `metrics.json`: p, one-sided, the ratio of hazards of a standard deviation of the model's risk, log(-log(1 -
        risk)) less the mean of its fold, at the same clinical covariates, and the counts. Empty without a volume, with
        fewer than two failures, or when all risks are alike.

    Source:
        Potter 2005, Stat Med 24:693 (permutation of regressor residuals). Therneau, Grambsch and Fleming 1990,
        Biometrika 77:147 (martingale residuals and their product with a covariate).
    """
    known = cohort.where(lambda score: VOLUME in score.covariates)
    patients = [score.covariates for score in known.scores]
    outcomes = [score.outcome for score in known.scores if score.outcome is not None]
    model = fit_reference(patients, outcomes, CLINICAL) if patients else None
    if model is None:
        return {}
    table = table_of(patients, [term.name for term in model.terms])
    columns, _ = encode_table(table, model.terms, patients=len(patients))
    folds = np.array([-1 if score.fold is None else score.fold for score in known.scores])
    risk = within_folds(known.risk, folds)
    if not risk.std() > 1e-9:
        return {}
    risk = risk / risk.std()
    own = unexplained(np.column_stack([columns, _indicators(folds)]), risk[:, None])[:, 0]
    left = left_over(model, columns, known)
    test = permutation_test(
        lambda order: float(own[order] @ left), len(own), permutations=PERMUTATIONS, strata=folds.tolist()
    )
    return {
        "given": [term.name for term in model.terms],
        "patients": len(own),
        "failures": int((known.event == FAILURE).sum()),
        "hazard_ratio": _hazard_ratio(known, np.column_stack([risk, columns])),
        "p": None if test is None else round(test.p_value, 6),
        "permutations": 0 if test is None else test.permutations,
    }


def within_folds(risk: Array, folds: np.ndarray[Any, Any]) -> Array:
    """The risk as log(-log(1 - risk)), less the mean of its fold: models of other folds have other levels.

    Example:
        >>> within_folds(np.array([0.2, 0.4, 0.2, 0.2]), np.array([0, 0, 1, 1])).round(3).tolist()
        [-0.414, 0.414, 0.0, 0.0]
    """
    clipped = np.clip(risk, LEAST_RISK, 1 - LEAST_RISK)
    scale = np.log(-np.log1p(-clipped))
    means = {fold: scale[folds == fold].mean() for fold in np.unique(folds)}
    return np.asarray(scale - np.array([means[fold] for fold in folds]))


def _indicators(folds: np.ndarray[Any, Any]) -> Array:
    """A column for each fold but the first."""
    return np.column_stack([np.zeros((len(folds), 0)), *((folds == name)[:, None] for name in np.unique(folds)[1:])])


def left_over(model: ReferenceModel, columns: Array, cohort: Cohort) -> Array:
    """B, failure less what a clinical model expects of the patient by the end of the follow-up.

    Args:
        model: Fitted to these patients.
        columns: B P, its covariates.
        cohort: The patients.
    """
    score = columns @ np.array(model.failure.coefficients)
    failed = (cohort.event == FAILURE).astype(float)
    if cohort.months is None:
        return np.asarray(failed - expit(model.failure.steps[0] + score))
    hazard = np.concatenate([[0.0], np.cumsum(model.failure.steps)])
    lived = hazard[np.searchsorted(model.failure.months, cohort.months, side="right")]
    return np.asarray(failed - lived * np.exp(score))


def _hazard_ratio(cohort: Cohort, columns: Array) -> dict[str, Any]:
    """Of the first column, the others held."""
    nothing = {"value": None, "low": None, "high": None}
    if cohort.months is None:
        return {**nothing, "reason": "a yes/no end point has no hazard"}
    fit = cause_specific_cox(cohort.months, cohort.event, columns, cause=FAILURE)
    if fit is None:
        return {**nothing, "reason": "the likelihood has no maximum"}
    low, high = fit.intervals()[0]
    found = (float(np.exp(fit.coefficients[0])), float(low), float(high))
    return {name: round(number, 6) for name, number in zip(nothing, found, strict=True)}
