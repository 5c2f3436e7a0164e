import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.data.config import DataConfig
from hypoxnet.data.plan import plan_covariates, plan_covariates_alone
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.survival.time_models.settings import TimeSettings
from hypoxnet.survival.uncertainty import incidence_spread
from hypoxnet.training.covariates import cohort_of, covariate_columns, fit_covariates
from hypoxnet.training.ridge import RidgeOptions, choose_ridge, inner_parts
from hypoxnet.training.ridge_fit import Cohort, fit_effects
from hypoxnet.transforms.prepare import covariate_inputs

EDGES = (6.0, 12.0, 18.0, 24.0, 36.0, 48.0, 60.0)


def simulated(patients=400, *, effects=(0.7, 0.0), seed=0):
    """Exponential times of two causes and of censoring; the first cause has the effects."""
    generator = np.random.default_rng(seed)
    columns = generator.standard_normal((patients, len(effects)))
    failure = generator.exponential(1.0 / (0.015 * np.exp(columns @ np.array(effects))))
    death = generator.exponential(1.0 / 0.006, patients)
    end = generator.uniform(12.0, 80.0, patients)
    months = np.minimum(np.minimum(failure, death), end)
    event = np.where(months == end, 0, np.where(failure < death, 1, 2))
    return Cohort(torch.from_numpy(columns), torch.from_numpy(months), torch.from_numpy(event))


def records_of(cohort):
    return tuple(
        CaseRecord(
            f"P{i:04d}",
            outcome=Outcome(int(cohort.event[i]), float(cohort.months[i])),
            covariates={"age": 60.0 + 8.0 * float(cohort.columns[i, 0])}
            | ({"x_other": float(cohort.columns[i, 1])} if i % 3 else {}),
        )
        for i in range(len(cohort))
    )


def outcome_model(kind="hazards"):
    return build_time_model(TimeSettings(kind=kind), EDGES, 2)


def test_without_a_ridge_the_cox_kind_is_cox_regression():
    cohort = simulated(effects=(0.7, -0.4, 0.0))
    ours = fit_effects(cohort, outcome_model("cox"), (1e-9, 1e-9)).weights[:, 0]
    table = pd.DataFrame(cohort.columns.numpy()).assign(months=cohort.months.numpy())
    for cause in (1, 2):
        frame = table.assign(hit=cohort.event.numpy() == cause)
        oracle = CoxPHFitter().fit(frame, "months", "hit").params_.to_numpy()
        assert ours[cause - 1] == pytest.approx(oracle, abs=2e-4)


@pytest.mark.parametrize("kind", ["hazards", "cox", "weibull"])
def test_the_effects_that_made_the_times_are_found(kind):
    fitted = fit_effects(simulated(1500, effects=(0.7, -0.4, 0.0)), outcome_model(kind), (1.0, 1.0))
    assert fitted.weights[0, 0] == pytest.approx([0.7, -0.4, 0.0], abs=0.1)
    assert fitted.weights[1, 0] == pytest.approx([0.0, 0.0, 0.0], abs=0.15)


def test_a_stronger_ridge_shrinks_its_own_cause_alone():
    cohort, time = simulated(effects=(0.7, -0.4)), outcome_model()
    norms = [np.abs(fit_effects(cohort, time, (ridge, 1.0)).weights).sum(axis=(1, 2)) for ridge in (0.1, 30.0, 1e4)]
    first, second = np.array(norms).T
    assert first[0] > first[1] > first[2]
    assert first[2] < 0.02
    assert second == pytest.approx(second[0], rel=0.1)


def test_noise_is_shrunk_and_a_strong_effect_is_not():
    options = RidgeOptions(strengths=(1.0, 10.0, 100.0, 1000.0), inner_folds=3)
    noise = choose_ridge(simulated(150, effects=(0.0,) * 8), outcome_model("weibull"), options)
    strong = choose_ridge(simulated(150, effects=(1.2, -1.0)), outcome_model("weibull"), options)
    assert noise[0] >= 100.0
    assert strong[0] <= 10.0


def test_one_standard_error_never_chooses_a_weaker_ridge():
    cohort, time = simulated(150, effects=(0.5, 0.0, 0.0)), outcome_model("weibull")
    options = RidgeOptions(strengths=(1.0, 10.0, 100.0), inner_folds=3)
    best = choose_ridge(cohort, time, options)
    careful = choose_ridge(cohort, time, replace(options, one_standard_error=True))
    assert careful[0] >= best[0]


def test_inner_folds_hold_each_patient_once_and_share_the_failures():
    cohort = simulated(200)
    parts = inner_parts(cohort, RidgeOptions(inner_repeats=2))
    assert len(parts) == 10
    for part in parts:
        assert sorted([*part.fitted, *part.left_out]) == list(range(200))
    folds = [part.left_out for part in parts[:5]]
    assert sorted(np.concatenate(folds).tolist()) == list(range(200))
    assert sorted(parts[5].left_out) != sorted(folds[0])
    failures = [int((cohort.event[torch.from_numpy(fold)] == 1).sum()) for fold in folds]
    assert max(failures) - min(failures) <= 1


def test_by_site_every_inner_fold_is_made_of_whole_hospitals():
    names = np.array(["north", "south", "coast", "lake", "hill", "moor", "isle"])
    cohort = simulated(210)
    cohort = replace(cohort, sites=tuple(names[np.arange(210) % 7]))
    parts = inner_parts(cohort, RidgeOptions(by_site=True, inner_folds=3))
    assert sorted(np.concatenate([part.left_out for part in parts]).tolist()) == list(range(210))
    sites = np.array(cohort.sites)
    for part in parts:
        assert not set(sites[part.fitted]) & set(sites[part.left_out])
    failures = [int((cohort.event[torch.from_numpy(part.left_out)] == 1).sum()) for part in parts]
    assert max(failures) < 2 * min(failures)
    few = replace(cohort, sites=tuple(names[np.arange(210) % 2]))
    with pytest.raises(ConfigError, match=r"model\.options\.by_site leaves out hospitals, .* are of 2; it takes three"):
        inner_parts(few, RidgeOptions(by_site=True))


def test_by_site_a_covariate_that_one_hospital_makes_look_harmful_is_believed_less():
    """In two hospitals of four everybody has it; in one of these two more fail, for reasons of its own."""
    cohort, site = simulated(600, effects=(0.0,)), np.arange(600) % 4
    months = torch.where(torch.from_numpy(site == 0), cohort.months / 4.0, cohort.months)
    mark = torch.from_numpy(np.where(site < 2, 1.0, -1.0))[:, None]
    cohort = Cohort(mark, months, cohort.event, tuple(map(str, site)))
    options = RidgeOptions(strengths=(1.0, 10.0, 100.0, 1000.0), inner_folds=4, inner_repeats=1)
    mixed = choose_ridge(cohort, outcome_model("weibull"), options)
    apart = choose_ridge(cohort, outcome_model("weibull"), replace(options, by_site=True))
    assert mixed[0] <= 10.0
    assert apart[0] == 1000.0


def setup_of(tiny_training, tmp_path, **changes):
    setup = replace(
        tiny_training(epochs=1, cache=tmp_path),
        model=ModelConfig(backbone="none", options={"strengths": [1.0, 10.0], "inner_folds": 2}),
        outcome=OutcomeConfig(edges_months=list(EDGES)),
    )
    return replace(setup, **changes)


@pytest.mark.parametrize("kind", ["hazards", "cox", "weibull"])
def test_the_head_says_what_was_fitted(tiny_training, tmp_path, kind):
    cohort = simulated(120)
    records = records_of(cohort)
    setup = setup_of(tiny_training, tmp_path, outcome=OutcomeConfig(edges_months=list(EDGES), kind=kind))
    settings = plan_covariates_alone(records, setup.data, edges_months=EDGES)
    fitted = fit_covariates(Split(records, (), ()), settings, setup)
    again = fit_covariates(Split(records, (), ()), settings, setup)
    assert all(torch.equal(fitted.weights[name], again.weights[name]) for name in fitted.weights)
    model = build_model(fitted.spec).eval()
    model.load_state_dict(fitted.weights)
    values, flags = covariate_columns(records, settings)
    with torch.no_grad():
        outputs = model.outcome_of_covariates(values, flags)
        incidence = model.time.incidence(outputs, (24.0, 60.0))
        effects = values.float() @ fitted.weights["head.linear.weight"][:, : values.shape[1]].T
    assert outputs[:, 0].diff(dim=0)[:, 0].numpy() == pytest.approx(effects.diff(dim=0)[:, 0].numpy(), abs=1e-5)
    seen = ((cohort.event == 1) & (cohort.months <= 24.0)).double().mean()
    assert float(incidence[:, 0, 0].mean()) == pytest.approx(float(seen), abs=0.08)
    clinical = model.head.clinical(values.new_zeros((len(values), 0)), values, flags)
    spread = incidence_spread(
        lambda parameters: model.head.incidence_alone(parameters, clinical[:5], (24.0, 60.0)),
        model.head.parameters_alone(),
        model.head.covariance_alone(),
    )
    low, high = spread.limits()
    assert bool((low < incidence[:5]).all())
    assert bool((incidence[:5] < high).all())
    assert 0.02 < float((high - low)[:, 0, 0].mean()) < 0.4
    # What the loader of a network would make of the same patients.
    assert values[3].tolist() == covariate_inputs([records[3].covariates], settings)[0][0].tolist()


def test_flags_are_columns_only_when_asked_for(tiny_training, tmp_path):
    records = records_of(simulated(60))
    setup = setup_of(tiny_training, tmp_path)
    for missing, columns in (("mean", 2), ("indicator", 4)):
        data = DataConfig(missing_covariates=missing)
        settings = plan_covariates_alone(records, data, edges_months=EDGES)
        assert cohort_of(records, settings).columns.shape == (60, columns)
        fitted = fit_covariates(Split(records, (), ()), settings, replace(setup, data=data))
        assert bool(fitted.weights["head.linear.weight"][:, 2:].any()) is (missing == "indicator")


def test_visits_of_a_patient_count_once():
    records = records_of(simulated(40))
    settings = plan_covariates_alone(records, DataConfig(), edges_months=EDGES)
    visits = [*records, *(replace(record, visit="week2", covariates={"age": 1.0}) for record in records)]
    assert torch.equal(cohort_of(visits, settings).columns, cohort_of(records, settings).columns)


def test_a_yes_or_no_end_point_is_fitted_too(tiny_training, tmp_path):
    records = [
        replace(record, outcome=Outcome(int(record.outcome.event == 1), None)) for record in records_of(simulated(80))
    ]
    settings = plan_covariates_alone(records, DataConfig(), edges_months=EDGES)
    fitted = fit_covariates(Split(tuple(records), (), ()), settings, setup_of(tiny_training, tmp_path))
    assert (fitted.spec.causes, fitted.spec.edges_months) == (1, (math.inf,))


def test_constant_covariates_are_left_out_and_said():
    records = [replace(r, covariates={**r.covariates, "sex": 1.0}) for r in records_of(simulated(30))]
    terms, sentences = plan_covariates(records, DataConfig())
    assert [term.name for term in terms] == ["age", "x_other"]
    assert sentences == ("sex is left out: it is 1 in all 30 training patients who have it",)


def test_what_cannot_be_fitted_is_refused_in_a_sentence(tiny_training, tmp_path):
    records = records_of(simulated(30))
    setup = setup_of(tiny_training, tmp_path)
    settings = plan_covariates_alone(records, DataConfig(), edges_months=EDGES)
    nobody = tuple(replace(record, outcome=Outcome(0, 30.0)) for record in records)
    with pytest.raises(ConfigError, match="none of the 30 training patients with a known outcome failed"):
        fit_covariates(Split(nobody, (), ()), settings, setup)
    with pytest.raises(ConfigError, match=r"outcome\.enabled must be true"):
        fit_covariates(Split(records, (), ()), settings, replace(setup, outcome=OutcomeConfig(enabled=False)))
    unknown = ModelConfig(backbone="none", options={"ridges": 1})
    with pytest.raises(ConfigError, match=r"model\.options has ridges, a model of covariates knows strengths"):
        fit_covariates(Split(records, (), ()), settings, replace(setup, model=unknown))
    bare = [replace(record, covariates={}) for record in records]
    with pytest.raises(ConfigError, match="a model of covariates alone needs one"):
        plan_covariates_alone(bare, DataConfig(), edges_months=EDGES)
