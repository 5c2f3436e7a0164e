"""Baselines with absolute risks: against lifelines' Cox predictions, the cohort's incidence, and by their limits."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter

from hypoxnet.cases import Outcome
from hypoxnet.metrics.reference_models import CLINICAL, RIDGE, VOLUME, fit_reference
from hypoxnet.survival.estimators import incidence_of_cohort


def cohort(count=200, *, seed=0, deaths=True):
    generator = np.random.default_rng(seed)
    patients, outcomes = [], []
    for _ in range(count):
        volume, stage = float(generator.gamma(2, 12)), float(generator.integers(1, 5))
        patients.append({VOLUME: volume, "t_stage": stage, "age": float(generator.normal(60, 9))})
        failure = generator.exponential(60 / (volume / 20) ** 0.7 / 1.3 ** (stage - 2))
        death = generator.exponential(90) if deaths else np.inf
        followed = generator.uniform(24, 72)
        times = [followed, failure, death]
        outcomes.append(Outcome(int(np.argmin(times)), round(float(min(times)), 1)))
    return patients, outcomes


def test_a_single_cause_gives_the_risk_of_lifelines():
    patients, outcomes = cohort(deaths=False)
    model = fit_reference(patients, outcomes, (VOLUME,))
    logs = np.log([p[VOLUME] for p in patients])
    frame = pd.DataFrame(
        {
            "x": (logs - logs.mean()) / logs.std(),
            "months": [o.months for o in outcomes],
            "failed": [o.event for o in outcomes],
        }
    )
    fitted = CoxPHFitter(penalizer=RIDGE).fit(frame, "months", "failed")
    expected = 1 - fitted.predict_survival_function(frame, times=[24.0]).to_numpy()[0]
    own = [float(model.predict(p, (12.0, 24.0)).curve.failure_at(24.0)) for p in patients]
    assert own == pytest.approx(expected.tolist(), abs=0.01)


def test_the_mean_risk_is_the_incidence_of_the_training_patients():
    patients, outcomes = cohort(400)
    model = fit_reference(patients, outcomes, CLINICAL)
    said = [model.predict(p, (24.0,)).curve for p in patients]
    months, event = np.array([o.months for o in outcomes]), np.array([o.event for o in outcomes])
    assert np.mean([c.failure[0] for c in said]) == pytest.approx(incidence_of_cohort(months, event, 24.0), abs=0.02)
    assert np.mean([c.death[0] for c in said]) == pytest.approx(
        incidence_of_cohort(months, event, 24.0, cause=2), abs=0.02
    )


def test_larger_tumours_and_higher_stages_have_more_risk():
    model = fit_reference(*cohort(), CLINICAL)
    base = {VOLUME: 20.0, "t_stage": 2.0, "age": 60.0}
    risk = lambda **change: model.predict({**base, **change}, (24.0,)).curve.failure[0]  # noqa: E731
    assert risk(gtv_ml=60.0) > risk() > risk(gtv_ml=5.0)
    assert risk(t_stage=4.0) > risk(t_stage=1.0)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 900), st.floats(0, 4), st.floats(20, 95))
def test_incidences_grow_with_time_and_never_pass_one(volume, stage, age):
    model = fit_reference(*cohort(120), CLINICAL)
    curve = model.predict({VOLUME: volume, "t_stage": stage, "age": age}, (0.0, 6.0, 24.0, 60.0, 500.0)).curve
    assert curve.failure[0] == curve.death[0] == 0.0
    for incidence in (curve.failure, curve.death):
        assert (np.diff(incidence) >= -1e-12).all()
    assert curve.failure[-1] + curve.death[-1] <= 1 + 1e-9


def test_a_covariate_that_few_have_or_that_never_varies_is_left_out():
    patients, outcomes = cohort()
    sparse = [p if n % 3 == 0 else {VOLUME: p[VOLUME], "age": p["age"]} for n, p in enumerate(patients)]
    same = [{**p, "n_stage": 1.0} for p in sparse]
    assert fit_reference(same, outcomes, CLINICAL).describe() == "Cox on log GTV volume, age"


def test_a_missing_covariate_counts_as_the_mean():
    patients, outcomes = cohort()
    model = fit_reference(patients, outcomes, CLINICAL)
    age = float(np.mean([p["age"] for p in patients]))
    one, other = ({VOLUME: 20.0, "t_stage": 2.0}, {VOLUME: 20.0, "t_stage": 2.0, "age": age})
    assert model.predict(one, (24.0,)).curve.failure == pytest.approx(model.predict(other, (24.0,)).curve.failure)


@pytest.mark.parametrize("failures", [0, 1])
def test_too_few_failures_give_no_model(failures):
    patients, _ = cohort(10)
    outcomes = [Outcome(int(n < failures), 20.0 + n) for n in range(10)]
    assert fit_reference(patients, outcomes, CLINICAL) is None


def test_a_yes_no_end_point_has_one_risk_that_is_right_on_average():
    patients, outcomes = cohort(300)
    plain = [Outcome(int(o.event == 1), None) for o in outcomes]
    model = fit_reference(patients, plain, CLINICAL)
    assert model.describe().startswith("logistic on log GTV volume")
    said = [model.predict(p, (np.inf,)).curve.failure[0] for p in patients]
    assert np.mean(said) == pytest.approx(np.mean([o.event == 1 for o in outcomes]), abs=0.001)
