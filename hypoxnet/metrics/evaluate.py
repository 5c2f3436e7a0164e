"""From the scores of withheld cases to figures with intervals, beside their baselines.

Axis legend: B cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hypoxnet.cases import DEATH, FAILURE
from hypoxnet.metrics.bootstrap import Figure, Statistic, bootstrap
from hypoxnet.metrics.config import EvaluationConfig
from hypoxnet.metrics.outcome import OutcomeEvaluator
from hypoxnet.metrics.reliability import false_alarms, reliability_figures
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.metrics.segmentation import RegionScore
from hypoxnet.metrics.volumes import partial_volume_correlation, volume_correlation


class Evaluator:
    """Figures of a cohort of scores.

    Args:
        scores: Withheld cases.
        horizon_months: Month at which risk is scored.
        resamplings: Bootstrap samples.
        evaluation: What is asked besides.
    """

    def __init__(
        self,
        scores: Sequence[CaseScore],
        *,
        horizon_months: float,
        resamplings: int,
        evaluation: EvaluationConfig | None = None,
    ) -> None:
        self.scores = tuple(scores)
        self.horizon = horizon_months
        self.resamplings = resamplings
        self.evaluation = evaluation

    def metrics(self) -> dict[str, Any]:
        """Everything, as in `metrics.json`: figures are `{value, low, high}`, null where not defined."""
        names = list(dict.fromkeys(name for score in self.scores for name in score.regions))
        regions = {name: self._region(name) for name in names}
        content: dict[str, Any] = {"counts": self._counts()}
        if names:
            first = self._with_threshold(names[0])
            content["segmentation"] = {"region": names[0], **regions[names[0]], **first}
            content["regions"] = regions
        content |= self._doubts()
        outcome = OutcomeEvaluator(
            self.scores, horizon_months=self.horizon, resamplings=self.resamplings, evaluation=self.evaluation
        ).metrics()
        if outcome:
            content["outcome"] = outcome
        return content

    def _doubts(self) -> dict[str, Any]:
        """Whether probabilities are right, and how often a withheld patient was called unlike those of training."""
        content: dict[str, Any] = {}
        names = dict.fromkeys(name for score in self.scores for name in score.reliability)
        for name in names:
            known = [score for score in self.scores if name in score.reliability]
            cases, patients = [score.reliability[name] for score in known], [score.patient for score in known]
            found = reliability_figures(cases, patients, resamplings=self.resamplings)
            content.setdefault("reliability", {})[name] = found
        judged = {s.patient: s.unlike_training for s in reversed(self.scores) if s.unlike_training is not None}
        alarms = false_alarms(judged)
        return content | ({"unlike_training": alarms} if alarms else {})

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


def _without_region(score: CaseScore) -> bool:
    """The first region was contoured as empty: Dice is then 1 or 0, whether anything was predicted."""
    return bool(score.regions) and next(iter(score.regions.values())).true_ml == 0


def _fraction_error(region: RegionScore) -> float | None:
    if region.predicted_fraction is None or region.true_fraction is None:
        return None
    return region.predicted_fraction - region.true_fraction
