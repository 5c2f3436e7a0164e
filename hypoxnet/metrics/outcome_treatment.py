"""Whether the treatment of a cohort does more for its hypoxic patients, where the manifest says who got it.

Axis legend: B patients, P covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hypoxnet.cases import FAILURE
from hypoxnet.errors import ConfigError
from hypoxnet.metrics.config import EvaluationConfig
from hypoxnet.metrics.interaction import Interaction, Mask, treatment_interaction
from hypoxnet.metrics.outcome_cohort import Array, Cohort
from hypoxnet.metrics.outcome_groups import HypoxiaSplit, split_by_hypoxia
from hypoxnet.metrics.power import least_interaction
from hypoxnet.metrics.reference_models import KNOWN_SHARE
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.transforms.covariates import CovariateTerm, encode_table, fit_term, table_of

DEFAULT_ARM = EvaluationConfig().arm


def interactions(cohort: Cohort, evaluation: EvaluationConfig) -> dict[str, Any]:
    """Treatment and hypoxia, predicted and contoured, of withheld patients whose arm is known.

    Args:
        cohort: Withheld patients.
        evaluation: Which covariate is the arm, and how it came about.

    Returns:
        For `metrics.json`: the arm and, under `predicted_hypoxia` and `true_hypoxia`, the ratios or a `reason`; a
        `reason` alone where there can be none. Empty where no arm is known and none was asked for.
    """
    arm = evaluation.arm
    known = cohort.where(lambda score: arm in score.covariates)
    if not known.scores:
        return {} if arm == DEFAULT_ARM else _none(arm, "no withheld patient with a known outcome has it")
    treated = np.array([score.covariates[arm] for score in known.scores])
    if not np.isin(treated, (0.0, 1.0)).all():
        other = treated[~np.isin(treated, (0.0, 1.0))][0]
        return _none(arm, f"it is {other:g} in some patients, it must be 0 or 1")
    if known.months is None:
        return _none(arm, "a yes/no end point has no hazards to compare")
    content: dict[str, Any] = {"arm": arm}
    for name, true in (("predicted_hypoxia", False), ("true_hypoxia", True)):
        split = split_by_hypoxia(known.scores, known.months, known.event, true=true)
        if split is not None:
            content[name] = {"cut": split.cut} | _of_split(known, treated == 1.0, split, evaluation)
    if len(content) == 1:
        return _none(arm, "fewer than six withheld patients have it and a hypoxic share, or all of them are alike")
    return content


def _none(arm: str, reason: str) -> dict[str, Any]:
    return {"arm": arm, "reason": reason}


def _of_split(cohort: Cohort, treated: Mask, split: HypoxiaSplit, evaluation: EvaluationConfig) -> dict[str, Any]:
    assert cohort.months is not None
    places = split.places
    covariates, names = None, list[str]()
    if not evaluation.arm_drawn:
        covariates, names = _chosen_by([cohort.scores[place] for place in places], evaluation.arm_chosen_by)
        if not names:
            asked = ", ".join(evaluation.arm_chosen_by) or "evaluation.arm_chosen_by is empty"
            return {"reason": f"nothing is known that the arm may have been chosen by ({asked})"}
    months, event = cohort.months[places], cohort.event[places]
    try:
        found = treatment_interaction(split.high, treated[places], months, event, cause=FAILURE, covariates=covariates)
    except ConfigError as error:
        # Hours of training stand behind this: what cannot be said is said, and the rest is written.
        return {"reason": str(error)}
    return found.to_json() | ({"chosen_by": names} if names else {}) | _power(found)


def _chosen_by(scores: Sequence[CaseScore], asked: Sequence[str]) -> tuple[Array, list[str]]:
    """B P, nan in a patient of whom a covariate is not known; and the covariates that enough patients have."""
    table = table_of([score.covariates for score in scores], asked)
    terms = []
    for name, values in table.items():
        there = np.isfinite(values)
        term = fit_term(name, values[there]) if there.mean() >= KNOWN_SHARE else ""
        if isinstance(term, CovariateTerm):
            terms.append(term)
    columns, known = encode_table(table, terms, patients=len(scores))
    return np.where(known > 0, columns, np.nan), [term.name for term in terms]


def _power(found: Interaction) -> dict[str, Any]:
    """The least ratio that so many events can show; empty where a group or an event is missing."""
    _, low_treated, high_control, high_treated = found.patients
    patients, events = sum(found.patients), sum(found.events)
    if min(found.patients) == 0 or events == 0:
        return {}
    shares = ((high_control + high_treated) / patients, (low_treated + high_treated) / patients)
    return {"least_ratio": round(least_interaction(events, *shares), 6)}
