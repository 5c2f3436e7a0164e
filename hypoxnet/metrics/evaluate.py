"""From the scores of withheld cases to figures with intervals, beside their baselines.

Axis legend: B cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.cases import DEATH, FAILURE, Outcome
from hypoxnet.metrics.bootstrap import Figure, Index, Statistic, bootstrap
from hypoxnet.metrics.segmentation import RegionScore
from hypoxnet.metrics.survival import (
    auc_at,
    brier_at,
    harrell_c,
    observed_incidence,
    observed_over_expected,
    risk_groups,
    uno_c,
)
from hypoxnet.metrics.volumes import partial_volume_correlation, volume_correlation
from hypoxnet.survival.estimators import incidence_of_cohort

CALIBRATION_GROUPS = 4
SMALLEST_GROUP = 8

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One withheld case: what was said, and what was true.

    Args:
        key: Name of the case.
        patient: Whose it is.
        site: Hospital.
        fold: Fold that withheld it; None for a single split.
        regions: Region to its scores; regions that nobody contoured are left out.
        threshold_dice: Dice of the threshold baseline for the first region.
        conventional_dice: Dice of 41 % of SUVmax, for a tumour label.
        tumour_ml: Volume of the tumour contour.
        risk: Predicted incidence of failure at the horizon.
        death: Predicted incidence of death without failure at the horizon.
        outcome: What happened.
        volume_risk: Linear predictor of the volume baseline.
    """

    key: str
    patient: str
    site: str = ""
    fold: int | None = None
    regions: Mapping[str, RegionScore] = field(default_factory=dict)
    threshold_dice: float | None = None
    conventional_dice: float | None = None
    tumour_ml: float | None = None
    risk: float | None = None
    death: float | None = None
    outcome: Outcome | None = None
    volume_risk: float | None = None


class Evaluator:
    """Figures of a cohort of scores.

    Args:
        scores: Withheld cases.
        horizon_months: Month at which risk is scored.
        resamplings: Bootstrap samples.
    """

    def __init__(self, scores: Sequence[CaseScore], *, horizon_months: float, resamplings: int) -> None:
        self.scores = tuple(scores)
        self.horizon = horizon_months
        self.resamplings = resamplings

    def metrics(self) -> dict[str, Any]:
        """Everything, as in `metrics.json`: figures are `{value, low, high}`, null where not defined."""
        names = list(dict.fromkeys(name for score in self.scores for name in score.regions))
        regions = {name: self._region(name) for name in names}
        content: dict[str, Any] = {"counts": self._counts()}
        if names:
            first = self._with_threshold(names[0])
            content["segmentation"] = {"region": names[0], **regions[names[0]], **first}
            content["regions"] = regions
        outcome = self._outcome()
        if outcome:
            content["outcome"] = outcome
        return content

    def _counts(self) -> dict[str, int]:
        outcomes = {score.patient: score.outcome for score in self.scores if score.outcome is not None}
        return {
            "cases": len(self.scores),
            "patients": len({score.patient for score in self.scores}),
            "segmented": sum(bool(score.regions) for score in self.scores),
            "without_region": sum(_without_region(score) for score in self.scores),
            "outcome_known": len(outcomes),
            "failures": sum(outcome.event == FAILURE for outcome in outcomes.values()),
            "deaths_without_failure": sum(outcome.event == DEATH for outcome in outcomes.values()),
        }

    def _figure(self, scores: Sequence[CaseScore], statistic: Statistic) -> dict[str, float | None]:
        if not scores:
            return Figure(None).to_json()
        return bootstrap(statistic, [score.patient for score in scores], resamplings=self.resamplings).to_json()

    def _mean(self, scores: Sequence[CaseScore], read: Callable[[CaseScore], float | None]) -> dict[str, Any]:
        known = [score for score in scores if read(score) is not None]
        values = np.array([read(score) for score in known], dtype=float)
        return {**self._figure(known, lambda index: float(values[index].mean())), "cases": len(known)}

    def _region(self, name: str) -> dict[str, Any]:
        scores = [score for score in self.scores if name in score.regions]

        def of(read: Callable[[RegionScore], float | None]) -> dict[str, Any]:
            return self._mean(scores, lambda score: read(score.regions[name]))

        content = {
            "dice": of(lambda r: r.dice),
            "surface_dice_2mm": of(lambda r: r.surface_dice_2mm),
            "hd95_mm": of(lambda r: r.hd95_mm),
            "hv_error_ml": of(lambda r: r.predicted_ml - r.true_ml),
            "hv_absolute_error_ml": of(lambda r: abs(r.predicted_ml - r.true_ml)),
            "hf_error": of(_fraction_error),
        }
        return content | self._correlations(name, scores)

    def _correlations(self, name: str, scores: Sequence[CaseScore]) -> dict[str, Any]:
        predicted = np.array([score.regions[name].predicted_ml for score in scores])
        true = np.array([score.regions[name].true_ml for score in scores])
        content: dict[str, Any] = {
            "volume_correlation": self._figure(scores, lambda i: volume_correlation(predicted[i], true[i]))
        }
        known = [score for score in scores if score.tumour_ml is not None]
        p = np.array([score.regions[name].predicted_ml for score in known])
        t = np.array([score.regions[name].true_ml for score in known])
        tumour = np.array([score.tumour_ml for score in known], dtype=float)
        content["partial_volume_correlation"] = self._figure(
            known, lambda i: partial_volume_correlation(p[i], t[i], tumour[i])
        )
        return content

    def _with_threshold(self, name: str) -> dict[str, Any]:
        both = [score for score in self.scores if name in score.regions and score.threshold_dice is not None]
        content: dict[str, Any] = {"threshold_dice": self._mean(both, lambda score: score.threshold_dice)}
        content["dice_difference"] = self._mean(
            both, lambda score: score.regions[name].dice - (score.threshold_dice or 0.0)
        )
        if any(score.conventional_dice is not None for score in self.scores):
            content["suvmax41_dice"] = self._mean(self.scores, lambda score: score.conventional_dice)
        return content

    def _outcome(self) -> dict[str, Any]:
        scores = list({score.patient: score for score in reversed(self.scores) if _has_outcome(score)}.values())
        scores.reverse()
        if not scores:
            return {}
        risk = np.array([score.risk for score in scores], dtype=float)
        event, months = _observed(scores)
        horizon = self.horizon
        content: dict[str, Any] = {
            "horizon_months": None if months is None else horizon,
            "c_index": self._figure(scores, lambda i: harrell_c(risk[i], _at(months, i), event[i])),
            "auc": self._figure(scores, lambda i: auc_at(risk[i], _at(months, i), event[i], month=horizon)),
            "brier": self._figure(scores, lambda i: brier_at(risk[i], _at(months, i), event[i], month=horizon)),
            "calibration": self._figure(
                scores, lambda i: observed_over_expected(risk[i], _at(months, i), event[i], month=horizon)
            ),
            "calibration_groups": self._calibration(scores, risk, months, event),
            "brier_without_model": self._figure(scores, lambda i: _null_brier(_at(months, i), event[i], horizon)),
        }
        if months is not None:
            until = float(months.max())
            content["uno_c"] = self._figure(scores, lambda i: uno_c(risk[i], months[i], event[i], until=until))
        return content | self._volume_baseline(scores)

    def _volume_baseline(self, scores: Sequence[CaseScore]) -> dict[str, Any]:
        known = [score for score in scores if score.volume_risk is not None]
        volume = np.array([score.volume_risk for score in known], dtype=float)
        risk = np.array([score.risk for score in known], dtype=float)
        event, months = _observed(known) if known else (np.array([], dtype=np.int64), None)

        def difference(i: Index) -> float | None:
            ours, theirs = (harrell_c(r[i], _at(months, i), event[i]) for r in (risk, volume))
            return None if ours is None or theirs is None else ours - theirs

        return {
            "volume_c_index": self._figure(known, lambda i: harrell_c(volume[i], _at(months, i), event[i])),
            "c_index_difference": self._figure(known, difference),
        }

    def _calibration(
        self, scores: Sequence[CaseScore], risk: Array, months: Array | None, event: NDArray[np.int64]
    ) -> list[dict[str, Any]]:
        """Groups of increasing predicted risk: the mean of what was predicted, and what was observed."""
        groups = risk_groups(risk, max(1, min(CALIBRATION_GROUPS, len(scores) // SMALLEST_GROUP)))
        rows = []
        for group in groups:
            m, e = _at(months, group), event[group]

            def observed(i: Index, m: Array | None = m, e: NDArray[np.int64] = e) -> float:
                return observed_incidence(_at(m, i), e[i], month=self.horizon)

            rows.append(
                {
                    "patients": len(group),
                    "predicted": round(float(risk[group].mean()), 6),
                    "observed": self._figure([scores[i] for i in group], observed),
                }
            )
        return rows


def _without_region(score: CaseScore) -> bool:
    """The first region was contoured as empty: Dice is then 1 or 0, whether anything was predicted."""
    return bool(score.regions) and next(iter(score.regions.values())).true_ml == 0


def _fraction_error(region: RegionScore) -> float | None:
    if region.predicted_fraction is None or region.true_fraction is None:
        return None
    return region.predicted_fraction - region.true_fraction


def _has_outcome(score: CaseScore) -> bool:
    return score.outcome is not None and score.risk is not None


def _observed(scores: Sequence[CaseScore]) -> tuple[NDArray[np.int64], Array | None]:
    """Events, and months; None for a yes/no end point."""
    outcomes = [score.outcome for score in scores if score.outcome is not None]
    event = np.array([outcome.event for outcome in outcomes], dtype=np.int64)
    if any(outcome.is_binary for outcome in outcomes):
        return event, None
    return event, np.array([outcome.months for outcome in outcomes], dtype=float)


def _at(months: Array | None, index: Index) -> Array | None:
    return None if months is None else months[index]


def _null_brier(months: Array | None, event: NDArray[np.int64], horizon: float) -> float | None:
    """Brier score of a model that gives every patient the incidence of these very patients: hard to beat."""
    share = float((event == FAILURE).mean()) if months is None else incidence_of_cohort(months, event, horizon)
    return brier_at(np.full(len(event), share), months, event, month=horizon)
