"""A model of covariates alone, applied: incidence of a whole cohort at once, and what each covariate adds to a risk.

Axis legend: N patients, P columns, J causes, M months.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hypoxnet.bundle.schema import INTENDED_USE, BundleSpec
from hypoxnet.cases import CaseRecord, Prediction
from hypoxnet.inference.read_outs import (
    Risk,
    covariate_notes,
    known_and_missing,
    not_known,
    report_months,
    risk_table,
)
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.models.joint import HypoxNet
from hypoxnet.survival.uncertainty import incidence_spread, pooled_spread
from hypoxnet.transforms.prepare import covariate_inputs


def cohort_incidence(models: Sequence[HypoxNet], spec: BundleSpec, records: Sequence[CaseRecord]) -> Tensor:
    """Incidence of each case at `report_months`, averaged over the ensemble; N J M."""
    values, flags = _inputs(spec, records)
    parts = []
    for model in models:
        assert model.time is not None
        parts.append(model.time.incidence(model.outcome_of_covariates(values, flags), report_months(spec)))
    return torch.stack(parts).mean(dim=0)


def incidence_limits(models: Sequence[HypoxNet], spec: BundleSpec, record: CaseRecord) -> tuple[Tensor, Tensor] | None:
    """Limits of a case's incidence at `report_months`, J M each; None where a model does not know its uncertainty."""
    values, flags = _inputs(spec, [record])
    spreads, months = [], report_months(spec)
    for head in [model.head for model in models if model.head is not None]:
        covariance = head.covariance_alone()
        if covariance is None:
            return None
        clinical = head.clinical(values.new_zeros((1, 0)), values, flags)

        def incidence(parameters: Tensor, head: OutcomeHead = head, clinical: Tensor = clinical) -> Tensor:
            return head.incidence_alone(parameters, clinical, months)

        spreads.append(incidence_spread(incidence, head.parameters_alone(), covariance))
    low, high = pooled_spread(spreads, cohort_incidence(models, spec, [record])).limits()
    return low[0], high[0]


def contributions(models: Sequence[HypoxNet], spec: BundleSpec, record: CaseRecord) -> dict[str, dict[str, float]]:
    """What each covariate adds to the log-risk of each cause, against a patient like the mean of the training patients.

    The model is linear, so that they add up. With effects that change over time it is the mean over the outputs.

    Returns:
        Cause to covariate to log hazard ratio (log odds ratio of an interval for `hazards`), averaged over the
        ensemble.
    """
    values, flags = _inputs(spec, [record])
    columns = [len(term.columns) for term in spec.settings.terms]
    rows, marks = torch.zeros(len(columns) + 1, values.shape[1]), torch.ones(len(columns) + 1, values.shape[1])
    begin = 0
    for row, count in enumerate(columns):
        rows[row, begin : begin + count] = values[0, begin : begin + count]
        marks[row, begin : begin + count] = flags[0, begin : begin + count]
        begin += count
    with torch.inference_mode():
        outputs = torch.stack([model.outcome_of_covariates(rows, marks) for model in models]).mean(dim=0)
    # The last row is the mean patient.
    added = (outputs[:-1] - outputs[-1:])[..., _touched(models[0])].mean(dim=2)
    return {
        cause: {name: round(float(added[i, j]), 6) for i, name in enumerate(spec.settings.covariates)}
        for j, cause in enumerate(spec.causes)
    }


def _touched(model: HypoxNet) -> Tensor:
    """Outputs that an effect changes: of a Weibull model not its shape."""
    assert model.time is not None
    return model.time.effect[0].abs() > 0


def _inputs(spec: BundleSpec, records: Sequence[CaseRecord]) -> tuple[Tensor, Tensor]:
    values, flags = covariate_inputs([record.covariates for record in records], spec.settings)
    return torch.from_numpy(values).float(), torch.from_numpy(flags).float()


def predict_alone(models: Sequence[HypoxNet], spec: BundleSpec, record: CaseRecord) -> Prediction:
    """The prediction of one case: no map, only risk and what is behind it."""
    with torch.no_grad():
        incidence = cohort_incidence(models, spec, [record])[0]
    risk = Risk.of(spec, incidence, incidence_limits(models, spec, record))
    return Prediction(
        key=record.key,
        grid=None,
        probability={},
        mask={},
        incidence=risk.incidence,
        months=spec.model.edges_months,
        read_outs=_describe(models, spec, record, risk),
    )


def _describe(models: Sequence[HypoxNet], spec: BundleSpec, record: CaseRecord, risk: Risk) -> dict[str, Any]:
    return {
        "case_id": record.case_id,
        "visit": record.visit,
        "site": record.site,
        "intended_use": INTENDED_USE,
        "bundle": {"name": spec.name, "version": spec.version, "digest": spec.digest, "members": spec.members},
        "covariates": known_and_missing(record, spec.settings),
        "risk": {**risk_table(spec, risk), "contributions": contributions(models, spec, record)},
        "notes": [*not_known(record, spec.settings), *covariate_notes(record, spec.settings)],
    }


def needed_alone(record: CaseRecord, spec: BundleSpec) -> CaseRecord:
    """The part of a record that a model of covariates alone reads."""
    covariates = {name: value for name, value in record.covariates.items() if name in spec.settings.covariates}
    return replace(record, channels={}, masks={}, raw={}, covariates=covariates, outcome=None)
