"""Figures of the predicted outcome on withheld patients, each with an interval and beside the baselines'.

Axis legend: B patients, T months.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hypoxnet.cases import FAILURE
from hypoxnet.metrics.benefit import decision_curve, discrimination_improvement, reclassification
from hypoxnet.metrics.bootstrap import Figure, Index, bootstrap
from hypoxnet.metrics.brier import brier_at, brier_without_model, integrated_brier
from hypoxnet.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    distribution_calibration,
    observed_incidence,
    observed_over_expected,
    risk_groups,
)
from hypoxnet.metrics.config import EvaluationConfig
from hypoxnet.metrics.discrimination import auc_at, harrell_c, harrell_c_within, uno_c
from hypoxnet.metrics.ipcw import failed_by
from hypoxnet.metrics.outcome_added import beyond_clinical
from hypoxnet.metrics.outcome_cohort import (
    Array,
    Cohort,
    Events,
    OfPatients,
    Predicted,
    difference_of,
    mean_of,
    of_risk,
    on,
)
from hypoxnet.metrics.outcome_groups import groups_of_risk, hypoxia_groups, immune_groups
from hypoxnet.metrics.outcome_treatment import interactions
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.survival.restricted_mean import time_lost

CALIBRATION_GROUPS = 4
SMALLEST_GROUP = 8
AUC_MONTHS = (12.0, 24.0, 36.0)
# Risks of locoregional failure at which somebody might treat otherwise.
DECISION_RISKS = (0.1, 0.2, 0.3, 0.4)
DRAWN_RISKS = tuple(round(0.01 * percent, 2) for percent in range(1, 61))
# Figures of baselines, and sums over many months, cost a millisecond or more each.
SLOW_RESAMPLINGS = 200
# A regression costs ten.
REGRESSION_RESAMPLINGS = 100


class OutcomeEvaluator:
    """Everything under `outcome` of `metrics.json`.

    Args:
        scores: Withheld cases.
        horizon_months: Month at which risk is scored.
        resamplings: Bootstrap samples; slow figures take fewer, and say so.
        evaluation: What else is asked of the patients.
    """

    def __init__(
        self,
        scores: Sequence[CaseScore],
        *,
        horizon_months: float,
        resamplings: int,
        evaluation: EvaluationConfig | None = None,
    ) -> None:
        self.cohort = Cohort.of(scores)
        self.evaluation = evaluation or EvaluationConfig()
        self.horizon = horizon_months
        self.resamplings = resamplings

    def metrics(self) -> dict[str, Any]:
        """Empty when no outcome is known or none was predicted."""
        cohort = self.cohort
        if not cohort.scores:
            return {}
        own = self._own(cohort)
        content: dict[str, Any] = {"horizon_months": None if cohort.months is None else self.horizon}
        content |= self._figures(cohort, own)
        content["brier_without_model"] = self._figure(cohort, lambda m, e, _: self._null_brier(m, e))
        content["calibration_groups"] = self._calibration_groups()
        content |= self._volume_rank()
        content["baselines"] = {name: self._baseline(name) for name in self._baseline_names()}
        clinical = content["baselines"].get("clinical")
        if clinical:
            content["clinical_c_index"] = clinical["c_index"]
            if "c_index_within" in clinical:
                content["clinical_c_index_within"] = clinical["c_index_within"]
            content["c_index_above_clinical"] = clinical["c_index_difference"]
        content["beyond_clinical"] = beyond_clinical(cohort)
        content["by_site"] = self._by_site()
        content["decision"] = self._decision()
        content["reclassification"] = self._reclassification()
        if cohort.months is not None:
            content["auc_over_time"] = self._auc_over_time()
            content["d_calibration"] = self._d_calibration()
            content["time_lost"] = self._time_lost()
            content |= self._groups()
        content["interaction"] = interactions(cohort, self.evaluation)
        return {name: value for name, value in content.items() if value not in ({}, [])}

    def _figure(self, cohort: Cohort, statistic: OfPatients, *, at_most: int | None = None) -> dict[str, Any]:
        """A figure with its interval; `resamplings` stands in it where they are fewer than asked for."""
        if not cohort.scores:
            return Figure(None).to_json()
        patients = [score.patient for score in cohort.scores]
        draws = self.resamplings if at_most is None else min(self.resamplings, at_most)
        figure = bootstrap(on(cohort, statistic), patients, resamplings=draws).to_json()
        return {**figure, "resamplings": draws} if draws != self.resamplings else {**figure}

    def _null_brier(self, months: Array | None, event: Events) -> float | None:
        return brier_without_model(months, event, month=self.horizon)

    def _own(self, cohort: Cohort) -> Predicted:
        curves = [score.curve for score in cohort.scores if score.curve is not None]
        at = self._curve_months(cohort)
        if len(curves) < len(cohort.scores) or len(at) < 2:
            return Predicted(cohort.risk, cohort.risk)
        return Predicted(cohort.risk, cohort.risk, np.array([curve.failure_at(np.array(at)) for curve in curves]), at)

    def _curve_months(self, cohort: Cohort) -> tuple[float, ...]:
        """Months of the predicted curves as far as the follow-up reaches."""
        first = next((score.curve for score in cohort.scores if score.curve is not None), None)
        if first is None or cohort.months is None:
            return ()
        return tuple(m for m in first.months if failed_by(cohort.months, cohort.event, m) is not None)

    def _figures(self, cohort: Cohort, said: Predicted, *, at_most: int | None = None) -> dict[str, Any]:
        """The figures that are taken of the model and of each baseline alike."""
        score, month = said.score, self.horizon
        content = {"c_index": self._figure(cohort, lambda m, e, i: harrell_c(score[i], m, e))}
        folds = np.array([-1 if one.fold is None else one.fold for one in cohort.scores])
        if len(set(folds.tolist())) > 1:
            content["c_index_within"] = self._figure(
                cohort, lambda m, e, i: harrell_c_within(score[i], m, e, folds[i]), at_most=at_most
            )
        if cohort.months is not None:
            until = float(cohort.months.max())
            content["uno_c"] = self._figure(
                cohort, lambda m, e, i: None if m is None else uno_c(score[i], m, e, until=until), at_most=at_most
            )
        content["auc"] = self._figure(cohort, lambda m, e, i: auc_at(score[i], m, e, month=month), at_most=at_most)
        for name, measure, draws in (
            ("brier", brier_at, at_most),
            ("calibration", observed_over_expected, at_most),
            ("calibration_slope", calibration_slope, REGRESSION_RESAMPLINGS),
            ("calibration_intercept", calibration_intercept, REGRESSION_RESAMPLINGS),
        ):
            content[name] = self._figure(cohort, of_risk(measure, said.risk, month), at_most=draws)
        return content | self._integrated(cohort, said)

    def _integrated(self, cohort: Cohort, said: Predicted) -> dict[str, Any]:
        curves, at = said.curves, said.months
        if curves is None:
            return {}

        def statistic(months: Array | None, event: Events, index: Index) -> float | None:
            return None if months is None else integrated_brier(curves[index], months, event, at=at)

        figure = self._figure(cohort, statistic, at_most=SLOW_RESAMPLINGS)
        return {"integrated_brier": {**figure, "from_months": at[0], "to_months": at[-1]}}

    def _volume_rank(self) -> dict[str, Any]:
        cohort = self.cohort.where(lambda score: score.volume_risk is not None)
        volume = np.array([score.volume_risk for score in cohort.scores], dtype=float)
        return {
            "volume_c_index": self._figure(cohort, lambda m, e, i: harrell_c(volume[i], m, e)),
            "c_index_difference": self._figure(cohort, difference_of(harrell_c, cohort.risk, volume)),
        }

    def _by_site(self) -> dict[str, Any]:
        """Order of the patients of each hospital; empty for one hospital."""
        sites = sorted({score.site for score in self.cohort.scores})
        if len(sites) < 2:
            return {}
        rows = {}
        for site in sites:
            rows[site or "not named"] = self._of_site(site)
        return rows

    def _of_site(self, site: str) -> dict[str, Any]:
        cohort = self.cohort.where(lambda score: score.site == site)
        risk, failures = cohort.risk, int((cohort.event == FAILURE).sum())
        c_index = self._figure(cohort, lambda m, e, i: harrell_c(risk[i], m, e), at_most=SLOW_RESAMPLINGS)
        return {"patients": len(cohort.scores), "failures": failures, "c_index": c_index}

    def _baseline_names(self) -> list[str]:
        return list(dict.fromkeys(name for score in self.cohort.scores for name in score.references))

    def _referenced(self, name: str) -> tuple[Cohort, Predicted]:
        """The patients of whom a baseline says something, and what."""
        cohort = self.cohort.where(lambda score: name in score.references)
        said = [score.references[name] for score in cohort.scores]
        at = self._curve_months(cohort)
        curves = np.array([one.curve.failure_at(np.array(at)) for one in said]) if len(at) > 1 else None
        return cohort, Predicted(
            np.array([one.score for one in said]),
            np.array([float(one.curve.failure_at(self.horizon)) for one in said]),
            curves,
            at,
        )

    def _baseline(self, name: str) -> dict[str, Any]:
        cohort, said = self._referenced(name)
        return {
            "patients": len(cohort.scores),
            **self._figures(cohort, said, at_most=SLOW_RESAMPLINGS),
            "c_index_difference": self._figure(cohort, difference_of(harrell_c, cohort.risk, said.score)),
        }

    def _against(self) -> str:
        """The strongest baseline with absolute risks: the clinical one where there is one."""
        names = self._baseline_names()
        return "clinical" if "clinical" in names else next(iter(names), "")

    def _reclassification(self) -> dict[str, Any]:
        name = self._against()
        if not name:
            return {}
        cohort, said = self._referenced(name)
        old, new, month = said.risk, cohort.risk, self.horizon

        def share(read: str) -> dict[str, Any]:
            def statistic(m: Array | None, e: Events, i: Index) -> float | None:
                found = reclassification(new[i], old[i], m, e, month=month)
                return None if found is None else float(getattr(found, read))

            return self._figure(cohort, statistic, at_most=SLOW_RESAMPLINGS)

        return {
            "against": name,
            **{read: share(read) for read in ("total", "of_failures", "of_others")},
            "discrimination_improvement": self._figure(
                cohort,
                lambda m, e, i: discrimination_improvement(new[i], old[i], m, e, month=month),
                at_most=SLOW_RESAMPLINGS,
            ),
        }

    def _decision(self) -> dict[str, Any]:
        """Net benefit at a few risks with intervals, and the curves to draw."""
        name = self._against()
        cohort, said = self._referenced(name) if name else (self.cohort, None)
        models = {"model": cohort.risk} | ({name: said.risk} if said is not None else {})
        if observed_incidence(cohort.months, cohort.event, month=self.horizon) == 0:
            return {}
        rows = [self._benefit(cohort, models, threshold) for threshold in DECISION_RISKS]
        drawn: dict[str, list[float]] = {"thresholds": list(DRAWN_RISKS)}
        for label, risk in models.items():
            curve = decision_curve(risk, cohort.months, cohort.event, month=self.horizon, thresholds=DRAWN_RISKS)
            drawn[label] = [round(value, 6) for value in curve.model.tolist()]
            drawn["treat_all"] = [round(value, 6) for value in curve.treat_all.tolist()]
        return {"against": name, "net_benefit": rows, "drawn": drawn}

    def _benefit(self, cohort: Cohort, models: Mapping[str, Array], threshold: float) -> dict[str, Any]:
        def of(risk: Array, read: str) -> dict[str, Any]:
            def statistic(m: Array | None, e: Events, i: Index) -> float:
                curve = decision_curve(risk[i], m, e, month=self.horizon, thresholds=[threshold])
                return float(getattr(curve, read)[0])

            return self._figure(cohort, statistic, at_most=SLOW_RESAMPLINGS)

        figures = {label: of(risk, "model") for label, risk in models.items()}
        return {"threshold": threshold, **figures, "treat_all": of(cohort.risk, "treat_all")}

    def _auc_over_time(self) -> list[dict[str, Any]]:
        rows = []
        for month in AUC_MONTHS:
            if failed_by(self.cohort.months, self.cohort.event, month) is None:
                continue
            row: dict[str, Any] = {"month": month, "model": self._auc(self.cohort, self._risk_by(month), month)}
            for name in self._baseline_names():
                cohort, said = self._referenced(name)
                row[name] = self._auc(cohort, said.score, month)
            rows.append(row)
        return rows

    def _auc(self, cohort: Cohort, risk: Array, month: float) -> dict[str, Any]:
        return self._figure(cohort, lambda m, e, i: auc_at(risk[i], m, e, month=month), at_most=SLOW_RESAMPLINGS)

    def _risk_by(self, month: float) -> Array:
        """B, the predicted incidence by a month; that of the horizon where no curve is known."""
        return np.array(
            [s.risk if s.curve is None else float(s.curve.failure_at(month)) for s in self.cohort.scores], dtype=float
        )

    def _d_calibration(self) -> dict[str, Any]:
        """Over the months that the model predicts: who is followed longer is censored at the last."""
        cohort = self.cohort
        assert cohort.months is not None
        curves = [score.curve for score in cohort.scores if score.curve is not None]
        if len(curves) < len(cohort.scores):
            return {}
        last = curves[0].months[-1]
        event = np.where(cohort.months > last, 0, cohort.event)
        free = np.array([float(c.free_at(min(m, last))) for c, m in zip(curves, cohort.months, strict=True)])
        found = distribution_calibration(free, event)
        if found is None:
            return {}
        counts = [round(float(count), 3) for count in found.counts]
        return {"p": round(found.p_value, 6), "statistic": round(found.statistic, 6), "counts": counts}

    def _time_lost(self) -> dict[str, Any]:
        """Months lost to failure within the horizon: observed, predicted, and as each baseline predicts."""
        cohort, until = self.cohort, self.horizon

        def observed(m: Array | None, e: Events, _: Index) -> float | None:
            lost = None if m is None else time_lost(m, e, until=until)
            return None if lost is None else lost.months

        content: dict[str, Any] = {
            "until_months": until,
            "observed": self._figure(cohort, observed, at_most=SLOW_RESAMPLINGS),
        }
        for name, lost in (("predicted", self._lost(cohort, None)), *self._lost_by_baselines()):
            if lost is not None:
                content[name] = self._figure(cohort, mean_of(lost), at_most=SLOW_RESAMPLINGS)
        return content

    def _lost_by_baselines(self) -> list[tuple[str, Array | None]]:
        whole = [n for n in self._baseline_names() if all(n in score.references for score in self.cohort.scores)]
        return [(name, self._lost(self.cohort, name)) for name in whole]

    def _lost(self, cohort: Cohort, baseline: str | None) -> Array | None:
        """B, predicted months lost: the area under each patient's curve."""
        curves = [s.curve if baseline is None else s.references[baseline].curve for s in cohort.scores]
        known = [curve for curve in curves if curve is not None and np.isfinite(curve.months[-1])]
        if len(known) < len(curves):
            return None
        at = np.linspace(0.0, self.horizon, 97)
        return np.array([float(np.trapezoid(curve.failure_at(at), at)) for curve in known])

    def _groups(self) -> dict[str, Any]:
        cohort = self.cohort
        assert cohort.months is not None
        found = {"risk_groups": groups_of_risk(cohort.scores, cohort.months, cohort.event, horizon=self.horizon)}
        for truth, whose in ((False, "predicted"), (True, "true")):
            for name, groups in (("hypoxia", hypoxia_groups), ("immune", immune_groups)):
                found[f"{whose}_{name}"] = groups(
                    cohort.scores, cohort.months, cohort.event, horizon=self.horizon, true=truth
                )
        asked = any({"til", "pd_l1_cps"} & set(score.covariates) for score in cohort.scores)
        if asked and not found["predicted_immune"] and not found["true_immune"]:
            found["immune"] = {"reason": "fewer than six withheld patients have til, pd_l1_cps and a hypoxic share"}
        return found

    def _calibration_groups(self) -> list[dict[str, Any]]:
        """Groups of increasing predicted risk: the mean of what was predicted, and what was observed."""
        cohort, risk = self.cohort, self.cohort.risk
        rows = []
        for group in risk_groups(risk, max(1, min(CALIBRATION_GROUPS, len(risk) // SMALLEST_GROUP))):
            months, event = cohort.at(group)
            part = Cohort(tuple(cohort.scores[place] for place in group), event, months)
            figure = self._figure(part, lambda m, e, _: observed_incidence(m, e, month=self.horizon))
            rows.append({"patients": len(group), "predicted": round(float(risk[group].mean()), 6), "observed": figure})
        return rows
