"""What is needed of a withheld case to score its predicted outcome: its curve, and what the clinical baselines say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hypoxnet.cases import CAUSES, CaseRecord
from hypoxnet.inference.covariates import cohort_incidence, contributions, incidence_limits
from hypoxnet.inference.predictor import Predictor
from hypoxnet.metrics.reference_models import CLINICAL, VOLUME, ReferenceModel, fit_reference
from hypoxnet.metrics.scores import CaseScore, ReferenceRisk, RiskCurve

# Limits cost some milliseconds a patient; of more patients than this nobody looks at each.
MOST_WITH_INTERVALS = 1000


def with_volume(record: CaseRecord, tumour_ml: float | None) -> dict[str, float]:
    """Covariates of a patient with the volume of the contour; without a contour that of the manifest."""
    return {**record.covariates, **({VOLUME: tumour_ml} if tumour_ml else {})}


def fit_references(records: Sequence[CaseRecord], patients: Sequence[Mapping[str, float]]) -> dict[str, ReferenceModel]:
    """The baselines that give absolute risks, fitted on training patients.

    Args:
        records: Training patients whose outcome is known, one case each.
        patients: Their covariates, as of `with_volume`.

    Returns:
        `volume`, and `clinical` where the patients have stage or age besides.
    """
    outcomes = [record.outcome for record in records if record.outcome is not None]
    if not outcomes:
        return {}
    volume = fit_reference(patients, outcomes, (VOLUME,))
    clinical = fit_reference(patients, outcomes, CLINICAL)
    found = {"volume": volume} if volume else {}
    if clinical and [term.name for term in clinical.terms] != [VOLUME]:
        found["clinical"] = clinical
    return found


def reference_risks(
    models: Mapping[str, ReferenceModel], covariates: Mapping[str, float], months: Sequence[float]
) -> dict[str, ReferenceRisk]:
    """What each baseline says of a withheld patient; none says anything of a patient without a tumour volume."""
    if VOLUME not in covariates:
        return {}
    return {name: model.predict(covariates, months) for name, model in models.items()}


def risk_details(said: Mapping[str, Any], causes: Sequence[str] = CAUSES) -> dict[str, Any]:
    """Fields of a `CaseScore` that the JSON of a case gives: curve, interval, contributions.

    A model of covariates alone says what each adds to the log hazard; of a network it is known only where the run asked
    for explanations, as log-odds.

    Args:
        said: JSON of the case.
        causes: Event and competing event of the end point.

    Returns:
        Empty without an outcome head.
    """
    risk = said["risk"]
    if not risk:
        return {}
    months = tuple(math.inf if month is None else float(month) for month in risk["months"])
    failure = tuple(risk["incidence"][causes[0]])
    death = tuple(risk["incidence"].get(causes[1], (0.0,) * len(months)))
    found: dict[str, Any] = {"curve": RiskCurve(months, failure, death)}
    explained = (said.get("explanation") or {}).get("covariates", {})
    found["contributions"] = dict(risk.get("contributions", {}).get(causes[0], explained))
    interval = risk.get("interval", {}).get("at_horizon", {}).get(causes[0])
    if interval:
        found["risk_interval"] = (float(interval[0]), float(interval[1]))
    return found


def with_details_alone(
    scores: Sequence[CaseScore],
    predictor: Predictor,
    records: Sequence[CaseRecord],
    models: Mapping[str, ReferenceModel],
    *,
    training: Sequence[CaseRecord],
) -> list[CaseScore]:
    """Scores of a model of covariates alone with curves, contributions, baselines and the median risk in training.

    Args:
        scores: As they are.
        predictor: The model.
        records: Whose scores they are.
        models: The baselines.
        training: Who trained the model.
    """
    spec = predictor.spec
    months = spec.model.edges_months
    curves = cohort_incidence(predictor.models, spec, records).detach().numpy()
    median = float(np.median([risk[0] for risk in predictor.risk_of_covariates(training)]))
    return [
        replace(
            score,
            curve=_curve(months, incidence),
            contributions=contributions(predictor.models, spec, record)[spec.causes[0]],
            references=reference_risks(models, record.covariates, months),
            training_median=median,
            risk_interval=_limits(predictor, record) if len(records) <= MOST_WITH_INTERVALS else None,
        )
        for score, record, incidence in zip(scores, records, curves, strict=True)
    ]


def _limits(predictor: Predictor, record: CaseRecord) -> tuple[float, float] | None:
    """Of the incidence of failure at the horizon."""
    limits = incidence_limits(predictor.models, predictor.spec, record)
    return None if limits is None else (float(limits[0][0, -1]), float(limits[1][0, -1]))


def _curve(months: Sequence[float], incidence: Any) -> RiskCurve:
    """From J (T + 1), the last column being the horizon."""
    failure = tuple(float(value) for value in incidence[0, :-1])
    death = tuple(float(value) for value in incidence[1, :-1]) if len(incidence) > 1 else (0.0,) * len(failure)
    return RiskCurve(tuple(months), failure, death)
