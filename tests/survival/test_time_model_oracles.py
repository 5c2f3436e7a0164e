"""Outcome models beside independent programs, and known parameters that come back."""

from math import log

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter, WeibullFitter
from scipy.integrate import quad
from simulated import EDGES, MONTHS, cohort, fitted, model_of, random_outputs
from torchsurv.loss.cox import neg_partial_log_likelihood

from hypoxnet.survival.estimators import aalen_johansen
from hypoxnet.survival.time_models.cox import STEPS
from hypoxnet.survival.time_models.cox_likelihood import partial_likelihood_terms

# --- known parameters come back


def assert_within_three(estimate, error, truth):
    assert (error > 0).all()
    assert ((estimate - truth).abs() <= 3 * error).all(), (estimate, error, truth)


def test_cox_finds_the_log_hazard_ratios():
    estimate, error = fitted(model_of("cox"), *cohort(2000, seed=7))
    assert_within_three(estimate, error, torch.tensor([0.8, -0.5]))


def test_weibull_finds_effects_scales_and_shapes():
    generator = np.random.default_rng(8)
    x = generator.standard_normal(2000)
    level, shape, slope = np.array([-0.5, -1.0]), np.array([1.4, 0.7]), np.array([0.8, -0.5])
    hazard = generator.exponential(size=(2000, 2)) / np.exp(level + np.outer(x, slope))
    times = 24.0 * hazard ** (1 / shape)
    ends = generator.uniform(10, 70, 2000)
    months = np.minimum(times.min(axis=1), ends)
    event = np.where(times.min(axis=1) <= ends, times.argmin(axis=1) + 1, 0)
    estimate, error = fitted(model_of("weibull"), torch.tensor(x), torch.tensor(months), torch.tensor(event))
    truth = torch.tensor([*slope, level[0], log(shape[0]), level[1], log(shape[1])])
    # an event within the first day counts as one at its end; shape 0.7 has some
    assert_within_three(estimate, error, truth)


def drawn_from(model, outputs, *, seed):
    """Times and events at edges, drawn from the model's own incidence; 30 % are censored at an edge before."""
    incidence = model.incidence(outputs, EDGES).numpy()
    mass = np.diff(incidence, axis=2, prepend=0.0).reshape(len(incidence), -1)
    cumulative = np.cumsum(mass, axis=1)
    generator = np.random.default_rng(seed)
    cell = (generator.random(len(mass))[:, None] > cumulative).sum(axis=1)
    cause, at = np.divmod(cell, len(EDGES))
    beyond = cell == mass.shape[1]
    month, event = np.asarray(EDGES)[np.where(beyond, -1, at)], np.where(beyond, 0, cause + 1)
    ends = np.where(generator.random(len(mass)) < 0.3, generator.choice(EDGES, len(mass)), np.inf)
    event = np.where(ends < month, 0, event)
    return torch.tensor(np.minimum(month, ends)), torch.tensor(event)


@pytest.mark.parametrize("kind", ["hazards", "deephit"])
@pytest.mark.parametrize("effect", ["proportional", "time_varying"])
def test_discrete_kinds_find_effects_and_baseline(kind, effect):
    model = model_of(kind, effect=effect, baseline_df=3, ranking=0.0)
    x = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = torch.tensor([[0.8, -0.3, 0.2], [-0.5, 0.1, 0.0]], dtype=torch.float64)[:, : len(model.effect)]
    baseline = torch.tensor([[-1.2, -0.4, 0.1], [-1.8, 0.3, 0.0]], dtype=torch.float64)
    outputs = model.outputs(baseline, x[:, None, None] * slope)
    months, event = drawn_from(model, outputs, seed=2)
    estimate, error = fitted(model, x, months, event)
    assert_within_three(estimate, error, torch.cat([slope.flatten(), baseline.flatten()]))


# --- oracles


def test_free_hazards_are_the_life_table():
    model = model_of("hazards", baseline_df=99)
    months, event = cohort(500, seed=4)[1:]
    estimate, _ = fitted(model, torch.zeros(500, dtype=torch.float64) + 1e-3, months, event)
    baseline = estimate[2:].reshape(2, 7) + 1e-3 * estimate[:2, None] * model.basis[0]
    hazards = model.incidence(model.outputs(baseline, torch.zeros(1, 2, 1)), EDGES)[0].numpy()
    free = 1 - np.concatenate([[0.0], hazards.sum(axis=0)[:-1]])
    begins = np.array([0.0, *EDGES[:-1]])
    for cause in (1, 2):
        hit = [((months > a) & (months <= b) & (event == cause)).sum() for a, b in zip(begins, EDGES, strict=True)]
        gone = [((months > a) & (months < b) & (event == 0)).sum() for a, b in zip(begins, EDGES, strict=True)]
        at_risk = [(months > a).sum() for a in begins] - np.array(gone)
        found = np.diff(hazards[cause - 1], prepend=0.0) / free
        np.testing.assert_allclose(found, np.array(hit) / at_risk, atol=2e-5)


@pytest.mark.parametrize("rounded", [3, 0])
def test_cox_is_lifelines(rounded):
    """Efron's ties; coefficient, log-likelihood and Breslow's baseline."""
    x, months, event = cohort(300, seed=9, rounded=rounded)
    table = pd.DataFrame({"x": x, "months": months, "failed": event == 1})
    fitter = CoxPHFitter().fit(table, "months", "failed")
    slope = float(fitter.params_["x"])
    terms = partial_likelihood_terms(slope * x, months, event == 1, ties="efron")
    assert float(terms.sum()) == pytest.approx(fitter.log_likelihood_, abs=1e-6)
    estimate, error = fitted(model_of("cox"), x, months, event)
    assert float(estimate[0]) == pytest.approx(slope, abs=1e-5)
    assert float(error[0]) == pytest.approx(float(fitter.standard_errors_["x"]), rel=1e-5)
    model = model_of("cox")
    model.set_baseline(torch.stack([slope * x, torch.zeros(300)], dim=1)[..., None], months, event)
    hazard = model.log_steps[0].double().exp().sum()
    centred = fitter.baseline_cumulative_hazard_.iloc[-1, 0] * np.exp(-slope * float(x.mean()))
    assert float(hazard) == pytest.approx(centred, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Ties in `time` detected:UserWarning")
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_is_torchsurv(ties):
    x, months, event = cohort(150, seed=10, rounded=0)
    terms = partial_likelihood_terms(x, months, event == 1, ties=ties)
    expected = neg_partial_log_likelihood(x[:, None], event == 1, months, ties_method=ties, reduction="sum")
    # torchsurv sums in single precision
    assert -float(terms.sum()) == pytest.approx(float(expected), rel=1e-6)


def test_cox_without_effects_predicts_aalen_johansen():
    model = model_of("cox")
    _, months, event = cohort(400, seed=11)
    outputs = torch.zeros(400, 2, 1)
    model.set_baseline(outputs, months, event)
    for cause in (1, 2):
        times, expected = aalen_johansen(months.numpy(), event.numpy(), cause=cause)
        at = [expected[np.searchsorted(times, month, side="right") - 1] for month in MONTHS]
        # exp(-dH) in the place of 1 - dH
        np.testing.assert_allclose(model.incidence(outputs[:1], MONTHS)[0, cause - 1].numpy(), at, atol=2e-3)


def test_a_long_list_of_event_times_is_thinned_without_losing_hazard():
    model = model_of("cox")
    months, event = torch.arange(1.0, 3001.0) / 50, torch.ones(3000, dtype=torch.int64)
    model.set_baseline(torch.zeros(3000, 2, 1), months, event)
    assert int((model.step_months < 1e9).sum()) == STEPS
    exact = float((1.0 / torch.arange(1501, 3001, dtype=torch.float64)).sum())
    assert float(-model.control(torch.zeros(1, 2, 1), (30.0,)).log()) == pytest.approx(exact, rel=5e-3)


def test_weibull_is_lifelines():
    _, months, event = cohort(300, seed=12)
    fitter = WeibullFitter().fit(months.numpy(), event.numpy() == 1)
    model = model_of("weibull")
    a, log_shape = fitted(model, torch.randn(300, dtype=torch.float64) * 1e-6, months, event)[0][2:4].tolist()
    assert np.exp(log_shape) == pytest.approx(fitter.rho_, rel=1e-3)
    assert 24.0 * np.exp(-a / np.exp(log_shape)) == pytest.approx(fitter.lambda_, rel=1e-3)
    outputs = torch.tensor([[[a, log_shape], [-50.0, 0.0]]], dtype=torch.float64)
    survival = fitter.survival_function_at_times(list(MONTHS[1:])).to_numpy()
    np.testing.assert_allclose(model.control(outputs, MONTHS[1:])[0].numpy(), survival, atol=1e-3)


@pytest.mark.parametrize("shapes", [(1.4, 0.7), (0.3, 0.3), (0.2, 8.0), (1.0, 1.0)])
def test_weibull_incidence_is_the_integral(shapes):
    level = np.array([0.4, -0.9])

    def density(u, cause):
        cumulative = np.exp(level) * (u / 24.0) ** np.array(shapes)
        return cumulative[cause] * shapes[cause] * np.exp(-cumulative.sum())  # of log u

    outputs = torch.tensor([[[level[j], log(shapes[j])] for j in (0, 1)]], dtype=torch.float64)
    found = model_of("weibull").incidence(outputs, (3.0, 24.0, 71.0))[0]
    for cause in (0, 1):
        for at, month in enumerate((3.0, 24.0, 71.0)):
            exact = quad(lambda v, c=cause: density(np.exp(v), c), -230, np.log(month), limit=500, epsabs=1e-12)[0]
            assert float(found[cause, at]) == pytest.approx(exact, abs=1e-5)


def test_deephit_without_ranking_is_the_likelihood_of_hazards():
    """Free over time, both are the same family: the best likelihoods agree."""
    _, months, event = cohort(300, seed=13)
    best = []
    for kind in ("hazards", "deephit"):
        model = model_of(kind, baseline_df=99, ranking=0.0)
        values = fitted(model, torch.randn(300, dtype=torch.float64) * 1e-6, months, event)[0][2:].reshape(2, 7)
        best.append(float(model.loss(model.outputs(values, torch.zeros(300, 2, 1)), months, event, torch.ones(300))))
    assert best[0] == pytest.approx(best[1], rel=1e-5)


def test_ranking_by_hand():
    """Failed at 5 months, free until 20: exp(-(F(own) - F(other)) / 0.1), and nothing the other way round."""
    model = model_of("deephit", ranking=1.0)
    outputs = random_outputs(model, 2)
    months, event = torch.tensor([5.0, 20.0]), torch.tensor([1, 0])
    plain = model_of("deephit", ranking=0.0).loss(outputs, months, event, torch.ones(2))
    by_then = model.incidence(outputs, (6.0,))[:, 0, 0]
    expected = float(plain) + float(torch.exp(-(by_then[0] - by_then[1]) / 0.1)) / 2
    assert float(model.loss(outputs, months, event, torch.ones(2))) == pytest.approx(expected)
    alone = model.loss(outputs[:1], months[:1], event[:1], torch.ones(1))
    likelihood = model_of("deephit", ranking=0.0).loss(outputs[:1], months[:1], event[:1], torch.ones(1))
    assert float(alone) == float(likelihood)
