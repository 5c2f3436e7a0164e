import numpy as np
import pytest

from hypoxnet.cases import Outcome
from hypoxnet.metrics.repeats import figures_of_repeats, mean_of_repeats
from hypoxnet.metrics.scores import CaseScore, ReferenceRisk, RiskCurve


def score(patient, fold, risk, event=0):
    curve = RiskCurve((12.0, 24.0), (risk / 2, risk), (0.0, 0.1))
    return CaseScore(
        patient,
        patient,
        site="north",
        fold=fold,
        risk=risk,
        outcome=Outcome(event, 10.0),
        curve=curve,
        references={"volume": ReferenceRisk(risk, curve)},
        tumour_ml=20.0,
    )


def test_a_patient_counts_once_with_the_mean_of_the_repeats():
    merged = mean_of_repeats([score("A", 0, 0.2), score("B", 1, 0.1), score("A", 3, 0.6), score("B", 2, 0.1)])
    assert [(s.key, s.fold) for s in merged] == [("A", None), ("B", None)]
    assert merged[0].risk == pytest.approx(0.4)
    assert merged[0].curve.failure == pytest.approx((0.2, 0.4))
    assert merged[0].references["volume"].score == pytest.approx(0.4)
    assert merged[0].outcome == Outcome(0, 10.0)
    assert merged[0].tumour_ml == 20.0
    assert merged[1].risk == 0.1


def test_what_one_repeat_lacks_the_mean_lacks():
    merged = mean_of_repeats([score("A", 0, 0.2), CaseScore("A", "A", fold=2)])
    assert merged[0].risk is None
    assert merged[0].references == {}


def test_each_repeat_has_its_own_concordance():
    generator = np.random.default_rng(0)
    scores = []
    for repeat in range(3):
        for number in range(30):
            right = number % 2 if repeat == 0 else generator.random()
            scores.append(score(f"P{number}", 2 * repeat + number % 2, 0.1 + 0.5 * right, event=number % 2))
    found = figures_of_repeats(scores, 2)
    assert len(found["c_index"]) == 3
    assert found["c_index"][0] == 1.0
    assert found["c_index"][1] < 0.9
    assert found["dice"] == [None, None, None]
