"""The outcome's part of `metrics.json`: each figure with an interval, beside the baselines'."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hypoxnet.cases import Outcome
from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.metrics.calibration import calibration_slope
from hypoxnet.metrics.outcome import OutcomeEvaluator
from hypoxnet.metrics.outcome_groups import groups_of_risk, hypoxia_groups
from hypoxnet.metrics.scores import CaseScore, ReferenceRisk, RiskCurve
from hypoxnet.metrics.segmentation import RegionScore

MONTHS = (12.0, 24.0, 36.0)


def patients(count=80, *, seed=0, known=1.0):
    """Predicted risks are the true ones; the baseline sees the share `known` of them."""
    generator = np.random.default_rng(seed)
    scores = []
    for number in range(count):
        risk = 0.02 + 0.9 * float(generator.random()) ** 2
        failed = generator.random() < risk
        months = float(generator.uniform(1, 24) if failed else generator.uniform(25, 60))
        blurred = known * risk + (1 - known) * float(generator.random())
        curves = [RiskCurve(MONTHS, (r / 2, r, r), (0.0, 0.0, 0.0)) for r in (risk, blurred)]
        scores.append(
            CaseScore(
                key=f"P{number}",
                patient=f"P{number}",
                fold=number % 4,
                regions={"hsv": RegionScore(0.5, 0.5, None, 1.0, 1.0, risk, 1.0 - risk)},
                tumour_ml=float(generator.gamma(2, 10)),
                risk=risk,
                outcome=Outcome(int(failed), months),
                volume_risk=blurred,
                curve=curves[0],
                references={"clinical": ReferenceRisk(blurred, curves[1])},
            )
        )
    return scores


def outcome(scores, resamplings=40, horizon=24.0):
    return OutcomeEvaluator(scores, horizon_months=horizon, resamplings=resamplings).metrics()


def test_a_model_that_knows_more_than_its_baseline_is_better_in_every_figure():
    found = outcome(patients(300, known=0.2))
    clinical = found["baselines"]["clinical"]
    assert found["c_index"]["value"] > clinical["c_index"]["value"]
    assert found["brier"]["value"] < clinical["brier"]["value"]
    assert found["integrated_brier"]["value"] < clinical["integrated_brier"]["value"]
    assert found["c_index_above_clinical"]["low"] > 0
    assert found["reclassification"]["against"] == "clinical"
    assert found["reclassification"]["total"]["low"] > 0
    for row in found["decision"]["net_benefit"]:
        assert row["model"]["value"] > row["clinical"]["value"]


def test_a_model_like_its_baseline_gains_nothing():
    found = outcome(patients(60, known=1.0))
    for figure in (found["c_index_above_clinical"], found["reclassification"]["total"]):
        assert (figure["value"], figure["low"], figure["high"]) == (0.0, 0.0, 0.0)


def test_right_risks_are_calibrated_on_average_over_cohorts():
    found = [outcome(patients(250, seed=seed), resamplings=1) for seed in range(16)]
    for name, right in (("calibration_slope", 1.0), ("calibration_intercept", 0.0), ("calibration", 1.0)):
        values = np.array([one[name]["value"] for one in found])
        # One interval of one cohort misses once in twenty; the mean of cohorts has a standard error to be held against.
        assert abs(values.mean() - right) < 3 * values.std(ddof=1) / np.sqrt(len(values)), name


def test_halved_risks_are_not_calibrated():
    right = patients(300)
    halved = [
        replace(s, risk=s.risk / 2, curve=RiskCurve(MONTHS, tuple(f / 2 for f in s.curve.failure), s.curve.death))
        for s in right
    ]
    found, wrong = outcome(right), outcome(halved)
    assert wrong["calibration_intercept"]["low"] > 0
    assert wrong["calibration"]["value"] == pytest.approx(2 * found["calibration"]["value"], rel=1e-5)
    assert wrong["time_lost"]["predicted"]["value"] == pytest.approx(found["time_lost"]["predicted"]["value"] / 2)
    assert wrong["time_lost"]["observed"] == found["time_lost"]["observed"]


def test_the_areas_over_time_are_those_of_the_months_that_were_followed():
    found = outcome(patients())
    followed = found["auc_over_time"]
    assert [row["month"] for row in followed] == [12.0, 24.0, 36.0]
    short = [replace(s, outcome=Outcome(s.outcome.event, min(s.outcome.months, 26.0))) for s in patients()]
    assert [row["month"] for row in outcome(short)["auc_over_time"]] == [12.0, 24.0]
    at_horizon = next(row for row in followed if row["month"] == 24.0)
    assert at_horizon["model"]["value"] == found["auc"]["value"]


def test_slow_figures_take_fewer_resamplings_and_say_so():
    scores = patients(40)
    found = outcome(scores, resamplings=300)
    assert "resamplings" not in found["c_index"]
    assert found["calibration_slope"]["resamplings"] == 100
    assert found["integrated_brier"]["resamplings"] == 200
    risk = np.array([s.risk for s in scores])
    months, event = np.array([s.outcome.months for s in scores]), np.array([s.outcome.event for s in scores])
    expected = bootstrap(
        lambda i: calibration_slope(risk[i], months[i], event[i], month=24.0),
        [s.patient for s in scores],
        resamplings=100,
    )
    assert found["calibration_slope"]["value"] == pytest.approx(expected.value, abs=1e-6)
    assert found["calibration_slope"]["high"] == pytest.approx(expected.high, abs=1e-6)


def test_a_yes_no_end_point_has_no_curves_over_time_and_keeps_the_rest():
    plain = [
        replace(
            s,
            outcome=Outcome(s.outcome.event, None),
            curve=RiskCurve((np.inf,), (s.risk,), (0.0,)),
            references={"clinical": ReferenceRisk(s.risk, RiskCurve((np.inf,), (s.risk,), (0.0,)))},
        )
        for s in patients()
    ]
    found = outcome(plain)
    assert found["horizon_months"] is None
    assert not {"auc_over_time", "d_calibration", "time_lost", "risk_groups", "integrated_brier", "uno_c"} & set(found)
    assert {"auc", "brier", "calibration_slope", "decision", "reclassification"} <= set(found)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("event", [0, 1, 2])
def test_tiny_cohorts_give_null_and_never_nan(count, event):
    scores = [replace(s, outcome=Outcome(event, 30.0)) for s in patients(count)]
    found = outcome(scores, resamplings=5)
    assert "NaN" not in json.dumps(found)
    assert found["c_index"] == found["auc"] == {"value": None, "low": None, "high": None}
    assert 0 < found["brier"]["value"] < 1


def test_without_curves_and_baselines_the_old_figures_stay():
    bare = [replace(s, curve=None, references={}) for s in patients(40)]
    found = outcome(bare)
    assert found["c_index"] == outcome(patients(40))["c_index"]
    assert not {"integrated_brier", "d_calibration", "baselines", "reclassification"} & set(found)
    assert found["decision"]["against"] == ""


def times(scores):
    return np.array([s.outcome.months for s in scores]), np.array([s.outcome.event for s in scores])


def test_risk_is_cut_at_the_training_median_where_it_is_known():
    scores = [replace(s, training_median=0.25) for s in patients()]
    found = groups_of_risk(scores, *times(scores), horizon=24.0)
    assert "training patients" in found["cut"]
    assert found["groups"][1]["patients"] == sum(s.risk > 0.25 for s in scores) == found["high"]
    assert found["hazard_ratio"]["value"] > 1
    assert found["gray_p"] < 0.01


def test_folds_are_cut_at_the_median_of_the_others_and_a_single_split_in_thirds():
    folds = patients()
    found = groups_of_risk(folds, *times(folds), horizon=24.0)
    assert "other folds" in found["cut"]
    single = [replace(s, fold=None) for s in folds]
    thirds = groups_of_risk(single, *times(single), horizon=24.0)
    assert "thirds of the withheld" in thirds["cut"]
    assert [group["patients"] for group in thirds["groups"]] == [27, 27, 26]
    assert sum(group["failures"] for group in thirds["groups"]) == thirds["events"]


def test_the_cut_of_a_fold_does_not_change_with_the_outcomes():
    scores = patients()
    generator = np.random.default_rng(1)
    shuffled = [replace(s, outcome=scores[j].outcome) for s, j in zip(scores, generator.permutation(80), strict=True)]
    for cut in (groups_of_risk, lambda *a, **k: hypoxia_groups(*a, **k, true=False)):
        one, other = (cut(cohort, *times(cohort), horizon=24.0) for cohort in (scores, shuffled))
        assert one["high"] == other["high"]


def test_hypoxia_is_that_of_the_truth_or_of_the_prediction():
    # The predicted share goes with the risk here, the contoured one against it.
    scores = [replace(s, fold=None) for s in patients()]
    predicted, true = (hypoxia_groups(scores, *times(scores), horizon=24.0, true=which) for which in (False, True))
    assert predicted["hazard_ratio"]["value"] > 1 > true["hazard_ratio"]["value"]
    assert "contoured" in true["cut"]
    bare = [replace(s, regions={}) for s in scores]
    assert hypoxia_groups(bare, *times(bare), horizon=24.0, true=True) == {}


def test_patients_of_the_groups_and_at_risk_add_up():
    scores = patients()
    found = groups_of_risk(scores, *times(scores), horizon=24.0)
    months, _ = times(scores)
    for place, month in enumerate(found["groups"][0]["at_risk"]["months"]):
        assert sum(group["at_risk"]["patients"][place] for group in found["groups"]) == int((months >= month).sum())


def test_a_curve_is_read_between_its_months():
    curve = RiskCurve((12.0, 24.0), (0.2, 0.4), (0.1, 0.1))
    assert curve.failure_at(np.array([0.0, 6.0, 18.0, 99.0])).tolist() == pytest.approx([0.0, 0.1, 0.3, 0.4])
    assert float(curve.free_at(24.0)) == pytest.approx(0.5)
    plain = RiskCurve((np.inf,), (0.3,), (0.0,))
    assert float(plain.failure_at(24.0)) == 0.3
