"""What a clinical model says of the patients it was fitted to, and how much of that it owes to the fit.

Axis legend: B patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hypoxnet.cases import FAILURE, Outcome
from hypoxnet.metrics.bootstrap import Index
from hypoxnet.metrics.discrimination import harrell_c
from hypoxnet.metrics.optimism import optimism_corrected
from hypoxnet.metrics.reference_models import ReferenceModel
from hypoxnet.survival.fine_gray import FineGray, fine_gray
from hypoxnet.transforms.covariates import encode_table, table_of

RESAMPLINGS = 200
# Of more patients the optimism of four coefficients is below what anybody would report, and a C-index costs B B.
MOST_PATIENTS = 1000


def figures_on_training(
    models: Mapping[str, ReferenceModel], patients: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """C-index of each Cox model on its own training patients: as it looks, its optimism, and corrected for it.

    In every resample the coefficients are fitted anew, without the weak ridge of the baseline itself.

    Args:
        models: Name of a baseline to it.
        patients: B, covariates of the patients it was fitted to.
        outcomes: B.

    Returns:
        For `metrics.json`; empty for a yes/no end point and for more than a thousand patients.

    Source:
        As for `optimism_corrected`.
    """
    if not outcomes or outcomes[0].is_binary or len(outcomes) > MOST_PATIENTS:
        return {}
    found = {name: _figure(model, patients, outcomes) for name, model in models.items()}
    return {name: figure for name, figure in found.items() if figure}


def _figure(
    model: ReferenceModel, patients: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    months = np.array([outcome.months for outcome in outcomes], dtype=float)
    event = np.array([outcome.event for outcome in outcomes], dtype=np.int64)
    names = [term.name for term in model.terms]
    columns, _ = encode_table(table_of(patients, names), model.terms, patients=len(patients))
    # With deaths as censored Fine and Gray's regression is Cox's, and Newton's method here is quick.
    failed = (event == FAILURE).astype(np.int64)

    def fit(index: Index) -> FineGray | None:
        return fine_gray(months[index], failed[index], columns[index])

    def score(fitted: FineGray | None, index: Index) -> float | None:
        return None if fitted is None else harrell_c(fitted.risk(columns[index]), months[index], event[index])

    each = [str(number) for number in range(len(patients))]
    found = optimism_corrected(fit, score, each, resamplings=RESAMPLINGS)
    if found is None:
        return {}
    return {
        "patients": len(patients),
        "failures": int(failed.sum()),
        "c_index": {name: round(getattr(found, of), 6) for name, of in _CORRECTED.items()},
        "apparent": round(found.apparent, 6),
        "optimism": round(found.optimism, 6),
        "resamplings": RESAMPLINGS,
    }


_CORRECTED = {"value": "corrected", "low": "low", "high": "high"}
