"""Withheld patients in two or three groups, of predicted risk or of hypoxia: what became of each, and how sure that is.

A cut never looks at the outcome of the patients it divides. Axis legend: B patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.cases import FAILURE
from hypoxnet.metrics.calibration import risk_groups
from hypoxnet.metrics.power import power_sentence
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.metrics.stratification import GROUPS, PD_L1_CPS, contrast, hypoxia_immune_groups, stratify
from hypoxnet.survival.comparison import ChiSquared, gray_test, logrank_test
from hypoxnet.survival.estimators import incidence_curve, numbers_at_risk
from hypoxnet.survival.restricted_mean import time_lost

SMALLEST_COHORT = 6
DRAWN_EVERY_MONTHS = 12.0
DRAWN_UNTIL_MONTHS = 60.0

Array = NDArray[np.float64]
Events = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Division:
    """Patients in groups.

    Args:
        cut: How, in words.
        names: Of the groups, from low to high.
        group: B, place in `names`.
        high: B, who is compared with the others.
        compared: The comparison, in words.
    """

    cut: str
    names: tuple[str, ...]
    group: NDArray[np.int64]
    high: Mask
    compared: str


def groups_of_risk(scores: Sequence[CaseScore], months: Array, event: Events, *, horizon: float) -> dict[str, Any]:
    """Groups of predicted risk at the median of the training patients' risk, where that is known.

    Else in cross-validation at the median of the patients whom other folds withheld, and for a single split in thirds
    of the withheld themselves.

    Args:
        scores: B withheld patients, each with a predicted risk.
        months: B.
        event: B.
        horizon: Month at which incidences are given.

    Returns:
        For `metrics.json`; empty for fewer than six patients or when all fall into one group.
    """
    if len(scores) < SMALLEST_COHORT:
        return {}
    risk = np.array([score.risk for score in scores], dtype=float)
    medians = [score.training_median for score in scores]
    folds = [score.fold for score in scores]
    if all(median is not None for median in medians):
        high = risk > np.array(medians, dtype=float)
        division = _halves("above the median risk of the training patients", high, ("low risk", "high risk"))
    elif len(set(folds)) > 1 and None not in folds:
        found = stratify(risk, months, event, [int(fold or 0) for fold in folds], rule="median")
        words = "above the median risk of the patients whom other folds withheld"
        division = _halves(words, found.high, ("low risk", "high risk"))
    else:
        division = _thirds(risk)
    return _described(division, scores, months, event, horizon)


@dataclass(frozen=True, slots=True)
class HypoxiaSplit:
    """Withheld patients above and below the median hypoxic share of the tumour.

    Args:
        places: K of B patients whose share is known.
        high: K, above the median.
        cut: How they were divided, in words.
        folded: Divided by the patients whom other folds withheld.
    """

    places: NDArray[np.int64]
    high: Mask
    cut: str
    folded: bool


def split_by_hypoxia(scores: Sequence[CaseScore], months: Array, event: Events, *, true: bool) -> HypoxiaSplit | None:
    """More hypoxic than the median against the others, by the first region's share of the tumour.

    The median is that of the patients themselves, or in cross-validation of those in other folds; no outcome has a say.

    Args:
        scores: B withheld patients.
        months: B.
        event: B.
        true: By the contoured share rather than by the predicted one.

    Returns:
        None for fewer than six patients with a share, or when all fall into one group.
    """
    shares = [_share(score, true=true) for score in scores]
    known = np.array([place for place, share in enumerate(shares) if share is not None], dtype=np.int64)
    if len(known) < SMALLEST_COHORT:
        return None
    values = np.array([shares[place] for place in known], dtype=float)
    folds = [scores[place].fold for place in known]
    folded = len(set(folds)) > 1 and None not in folds
    if folded:
        strata = stratify(values, months[known], event[known], [int(f or 0) for f in folds], rule="median")
        high, of = strata.high, "of the patients whom other folds withheld"
    else:
        high, of = values > float(np.median(values)), f"of these patients ({100 * float(np.median(values)):.1f} %)"
    if high.all() or not high.any():
        return None
    whose = "contoured" if true else "predicted"
    return HypoxiaSplit(known, high, f"{whose} hypoxic share of the tumour above the median {of}", folded)


def hypoxia_groups(
    scores: Sequence[CaseScore], months: Array, event: Events, *, horizon: float, true: bool
) -> dict[str, Any]:
    """What became of the more and of the less hypoxic, as `split_by_hypoxia` divides them.

    Args:
        scores: B withheld patients.
        months: B.
        event: B.
        horizon: Month at which incidences are given.
        true: By the contoured share rather than by the predicted one.

    Returns:
        For `metrics.json`; empty for fewer than six patients with a share or when all fall into one group.
    """
    split = split_by_hypoxia(scores, months, event, true=true)
    if split is None:
        return {}
    division = _halves(split.cut, split.high, ("less hypoxic", "more hypoxic"))
    chosen = [scores[place] for place in split.places]
    return _described(division, chosen, months[split.places], event[split.places], horizon)


def immune_groups(
    scores: Sequence[CaseScore], months: Array, event: Events, *, horizon: float, true: bool
) -> dict[str, Any]:
    """Four groups of hypoxia and immune infiltration, as `hypoxia_immune_groups` makes them.

    The median of the lymphocytes is learnt like that of hypoxia: of the patients whom other folds withheld, or of the
    patients themselves; no outcome has a say. The hypoxic with low infiltration are compared with all others.

    Args:
        scores: B withheld patients, `til` and `pd_l1_cps` among their covariates.
        months: B.
        event: B.
        horizon: Month at which incidences are given.
        true: By the contoured hypoxic share rather than by the predicted one.

    Returns:
        For `metrics.json`; empty for fewer than six patients with all three or when all fall on one side.
    """
    split = split_by_hypoxia(scores, months, event, true=true)
    if split is None:
        return {}
    til, cps = (_covariate([scores[place] for place in split.places], name) for name in ("til", "pd_l1_cps"))
    folds = np.array([scores[place].fold or 0 for place in split.places]) if split.folded else np.zeros(len(til))
    cut = _median_of_others(til, folds) if split.folded else np.full(len(til), _median(til))
    groups = hypoxia_immune_groups(split.high, np.where(np.isfinite(cut), til, np.nan), cps, til_cut=cut)
    known = [] if groups is None else [place for place, name in enumerate(groups) if name]
    if groups is None or len(known) < SMALLEST_COHORT:
        return {}
    number = np.array([GROUPS.index(groups[place]) for place in known], dtype=np.int64)
    of = "median of the patients whom other folds withheld" if split.folded else f"median of {_median(til):.3g} %"
    division = Division(
        f"{split.cut}; immune high: lymphocytes above the {of}, and a PD-L1 score (CPS) of at least {PD_L1_CPS:g}",
        GROUPS,
        number,
        number == len(GROUPS) - 1,
        f"{GROUPS[-1]} against the others",
    )
    places = split.places[known]
    return _described(division, [scores[place] for place in places], months[places], event[places], horizon)


def _covariate(scores: Sequence[CaseScore], name: str) -> Array:
    return np.array([score.covariates.get(name, np.nan) for score in scores], dtype=float)


def _median(values: Array) -> float:
    """Of those that are known; nan without one."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _median_of_others(values: Array, folds: NDArray[Any]) -> Array:
    medians = {fold: _median(values[folds != fold]) for fold in np.unique(folds)}
    return np.array([medians[fold] for fold in folds])


def _share(score: CaseScore, *, true: bool) -> float | None:
    first = next(iter(score.regions.values()), None)
    if first is None:
        return None
    return first.true_fraction if true else first.predicted_fraction


def _halves(cut: str, high: Mask, names: tuple[str, str]) -> Division:
    return Division(cut, names, high.astype(np.int64), high, f"{names[1]} against {names[0]}")


def _thirds(risk: Array) -> Division:
    group = np.zeros(len(risk), dtype=np.int64)
    for place, members in enumerate(risk_groups(risk, 3)):
        group[members] = place
    names = ("lowest third", "middle third", "highest third")
    return Division(
        "thirds of the withheld patients themselves (the training patients' risks are not recorded)",
        names,
        group,
        group == 2,
        "highest third against the others",
    )


def _described(
    division: Division, scores: Sequence[CaseScore], months: Array, event: Events, horizon: float
) -> dict[str, Any]:
    if division.high.all() or not division.high.any():
        return {}
    tumour_ml = np.array([np.nan if score.tumour_ml is None else score.tumour_ml for score in scores], dtype=float)
    failures = int((event == FAILURE).sum())
    return {
        "cut": division.cut,
        "compared": division.compared,
        "groups": [
            _group(name, months[division.group == place], event[division.group == place], horizon)
            for place, name in enumerate(division.names)
            if (division.group == place).any()
        ],
        **contrast(division.high, months, event, tumour_ml).to_json(),
        "logrank_p": _p(logrank_test(months, event, division.high)),
        "gray_p": _p(gray_test(months, event, division.high)),
        "power": power_sentence(failures, float(division.high.mean())),
    }


def _p(test: ChiSquared | None) -> float | None:
    return None if test is None else round(test.p_value, 6)


def _group(name: str, months: Array, event: Events, horizon: float) -> dict[str, Any]:
    curve = incidence_curve(months, event, cause=FAILURE)
    place = int(np.searchsorted(curve.months, horizon, side="right")) - 1
    lost = time_lost(months, event, until=horizon)
    last = min(DRAWN_UNTIL_MONTHS, float(np.ceil(months.max() / DRAWN_EVERY_MONTHS)) * DRAWN_EVERY_MONTHS)
    at = np.arange(0.0, last + 1.0, DRAWN_EVERY_MONTHS).tolist()
    steps = {"months": curve.months, "value": curve.value, "low": curve.low, "high": curve.high}
    return {
        "name": name,
        "patients": len(months),
        "failures": int((event == FAILURE).sum()),
        "incidence": {
            "value": round(float(curve.value[place]), 6),
            "low": round(float(curve.low[place]), 6),
            "high": round(float(curve.high[place]), 6),
        },
        "months_lost": None if lost is None else round(lost.months, 6),
        "at_risk": {"months": at, "patients": numbers_at_risk(months, at)},
        "last_month": round(float(months.max()), 6),
        "curve": {what: [round(float(number), 6) for number in values] for what, values in steps.items()},
    }
