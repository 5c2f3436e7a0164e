"""Intervals of a Cox model's incidence beside R, and beside the inverse information of all steps and effects."""

import numpy as np
import pytest
import torch
from r_figures import cohorts, recorded

from hypoxnet.models.config import NO_BACKBONE, ModelConfig, OutcomeConfig
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.models.spec import ModelSpec
from hypoxnet.survival.time_models.cox_baseline import breslow_steps, means_at_risk, thinned
from hypoxnet.survival.time_models.cox_likelihood import partial_likelihood_terms
from hypoxnet.survival.uncertainty import incidence_spread
from hypoxnet.training.covariates import into_head
from hypoxnet.training.ridge_fit import Cohort, fit_effects

FIGURES = recorded()


def fitted_head(cohort, *, ridge=1e-9):
    outcome = OutcomeConfig(kind="cox", ties="breslow")
    spec = ModelSpec(
        backbone=ModelConfig(backbone=NO_BACKBONE),
        outcome=outcome,
        channels=0,
        regions=0,
        covariates=cohort.columns.shape[1],
        edges_months=tuple(outcome.edges_months),
        spacing_mm=(1.0, 1.0, 1.0),
    )
    head = OutcomeHead(spec, features=0, read_outs=0).double()
    into_head(fit_effects(cohort, head.time, (ridge, ridge), tolerance=1e-10), cohort, head)
    return head


def spread_of(head, columns, months):
    clinical = torch.cat([columns, torch.zeros_like(columns)], dim=1)
    return incidence_spread(
        lambda values: head.incidence_alone(values, clinical, months), head.parameters_alone(), head.covariance_alone()
    )


def recorded_cohort(name, *, competing):
    frame = cohorts()[name]
    event = torch.tensor(frame["event"].to_numpy().astype(np.int64))
    columns = torch.tensor(frame[["x1", "x2"]].to_numpy(), dtype=torch.float64)
    columns = (columns - columns.mean(dim=0)) / columns.std(dim=0)
    event = event if competing else torch.where(event == 1, 1, 0)
    return Cohort(columns, torch.tensor(frame["months"].to_numpy()), event), float(frame["horizon"].iloc[0])


@pytest.mark.parametrize("name", ["bmt", "cgvhd", "ties", "lung"])
def test_one_cause_has_the_hazard_of_survfit_and_its_error(name):
    cohort, horizon = recorded_cohort(name, competing=False)
    spread = spread_of(fitted_head(cohort), cohort.columns[:5], [horizon])
    hazard, error = (np.array(FIGURES[name][key], dtype=float) for key in ("hazard", "hazard_error"))
    np.testing.assert_allclose(spread.middle[:, 0, 0].exp().numpy(), hazard, rtol=1e-5)
    # of the logarithm of the cumulative hazard
    np.testing.assert_allclose(spread.variance[:, 0, 0].sqrt().numpy(), error / hazard, rtol=1e-5)


def whole_information(cohort, head):
    """Inverse curvature of the likelihood of all steps and effects, and the incidence as a function of them."""
    steps = breslow_steps(
        cohort.columns @ head.linear.weight[:, : cohort.columns.shape[1]].T, cohort.months, cohort.event
    )
    struck = steps.events > 0
    log_hazards = steps.log_hazards[struck].detach()
    causes, width = 2, cohort.columns.shape[1]
    split = len(log_hazards)

    def pieces(values):
        full = torch.full(struck.shape, -torch.inf, dtype=values.dtype).masked_scatter(struck, values[:split])
        return full, values[split:].reshape(causes, width)

    def minus_log_likelihood(values):
        log_steps, weights = pieces(values)
        risk = cohort.columns @ weights.T
        at_risk = (cohort.months[:, None] >= steps.months[None]).double()
        total = sum((at_risk * (log_steps[j] + risk[:, j : j + 1]).exp()).sum() for j in range(causes))
        seen = sum((risk[:, j] * (cohort.event == j + 1)).sum() for j in range(causes))
        return total - seen - (steps.events[struck] * values[:split]).sum()

    parameters = torch.cat([log_hazards, head.linear.weight[:, :width].detach().flatten()])
    information = torch.autograd.functional.hessian(minus_log_likelihood, parameters)

    def incidence(values, columns, month):
        log_steps, weights = pieces(values)
        return head.time.incidence_of_steps((columns @ weights.T)[..., None], [month], padded(log_steps, head))

    return parameters, torch.linalg.inv(information), incidence


def padded(log_steps, head):
    width = head.time.log_steps.shape[1] - log_steps.shape[1]
    return torch.nn.functional.pad(log_steps, (0, width), value=-torch.inf)


@pytest.mark.parametrize("name", ["bmt", "cgvhd", "ties"])
def test_two_causes_spread_as_the_information_of_all_steps_and_effects_says(name):
    cohort, horizon = recorded_cohort(name, competing=True)
    head = fitted_head(cohort)
    parameters, covariance, incidence = whole_information(cohort, head)
    asked = cohort.columns[:5]
    expected = incidence_spread(lambda values: incidence(values, asked, horizon), parameters, covariance)
    found = spread_of(head, asked, [horizon])
    np.testing.assert_allclose(found.middle.numpy(), expected.middle.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.variance.numpy(), expected.variance.numpy(), rtol=1e-4)


def test_a_patient_like_those_at_risk_is_surer_than_one_far_from_them():
    cohort, horizon = recorded_cohort("ties", competing=True)
    columns = torch.stack([torch.zeros(2), torch.full((2,), 4.0)]).double()
    variance = spread_of(fitted_head(cohort), columns, [horizon]).variance[:, 0, 0]
    assert variance[1] > 4.0 * variance[0]


def test_before_the_first_event_nothing_is_expected_and_nothing_spreads():
    cohort, _ = recorded_cohort("ties", competing=True)
    low, high = spread_of(fitted_head(cohort), cohort.columns[:2], [0.5]).limits()
    assert float(high.max()) < 1e-6
    assert float(low.min()) >= 0.0


def test_thinned_steps_keep_hazard_and_events():
    generator = np.random.default_rng(5)
    months = torch.tensor(generator.exponential(30.0, 1500))
    risk = torch.tensor(generator.standard_normal((1500, 2)))
    every = breslow_steps(risk, months, torch.tensor(generator.integers(0, 3, 1500)))
    kept, place = thinned(every, 512)
    assert len(kept.months) == 512
    assert int(kept.events.sum()) == int(every.events.sum())
    np.testing.assert_allclose(kept.log_hazards.exp().sum(dim=1), every.log_hazards.exp().sum(dim=1))
    assert bool((kept.months[place] >= every.months).all())


def test_thinned_steps_keep_nearly_the_spread(monkeypatch):
    generator = np.random.default_rng(6)
    columns = torch.tensor(generator.standard_normal((400, 2)))
    months = torch.tensor(generator.exponential(30.0 * np.exp(-0.5 * columns[:, 0].numpy())))
    cohort = Cohort(columns, months, torch.tensor(generator.integers(0, 3, 400)))
    whole = spread_of(fitted_head(cohort), columns[:5], [24.0]).variance
    monkeypatch.setattr("hypoxnet.models.heads.STEPS", 100)
    monkeypatch.setattr("hypoxnet.survival.time_models.cox.STEPS", 100)
    thin = spread_of(fitted_head(cohort), columns[:5], [24.0]).variance
    assert not torch.equal(thin, whole)
    np.testing.assert_allclose(thin.numpy(), whole.numpy(), rtol=0.05)


def test_means_at_risk_are_weighted_means():
    generator = torch.Generator().manual_seed(2)
    columns = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    log_risk = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    months = torch.randint(1, 9, (40,), generator=generator).double()
    times = torch.unique(months)
    found = means_at_risk(columns, log_risk, months, times)
    for cause in range(2):
        for place, time in enumerate(times):
            weight = log_risk[:, cause].exp() * (months >= time)
            expected = (weight[:, None] * columns).sum(dim=0) / weight.sum()
            np.testing.assert_allclose(found[cause, place].numpy(), expected.numpy(), rtol=1e-10, atol=1e-12)


def one_sum_per_event(log_risk, months, hit, ties):
    """The definition, with its loops."""
    terms = torch.zeros_like(log_risk)
    for i in hit.nonzero()[:, 0]:
        tied = hit & (months == months[i])
        size = int(tied.sum())
        shared = []
        for rank in range(size):
            weight = 1.0 - tied.to(log_risk) * (rank / size if ties == "efron" else 0.0)
            shared.append((log_risk + weight.log())[months >= months[i]].logsumexp(dim=0))
        terms[i] = log_risk[i] - torch.stack(shared).mean()
    return terms


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_running_sums_are_one_sum_per_event(ties, scale):
    generator = torch.Generator().manual_seed(3)
    log_risk = (scale * torch.randn(80, generator=generator, dtype=torch.float64)).requires_grad_()
    months = torch.randint(1, 12, (80,), generator=generator).double()
    hit = torch.rand(80, generator=generator) < 0.5
    found, expected = (
        terms(log_risk)
        for terms in (
            lambda x: partial_likelihood_terms(x, months, hit, ties=ties),
            lambda x: one_sum_per_event(x, months, hit, ties),
        )
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    slopes = [torch.autograd.grad(value.sum(), log_risk)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_the_curvature_is_finite_where_the_last_patients_all_failed_together():
    months, hit = torch.tensor([1.0, 3.0, 3.0]), torch.tensor([True, True, True])
    curvature = torch.autograd.functional.hessian(
        lambda x: partial_likelihood_terms(x, months, hit, ties="efron").sum(), torch.zeros(3, dtype=torch.float64)
    )
    assert torch.isfinite(curvature).all()
    # One of three failed first; of the two others each is as likely as the other.
    np.testing.assert_allclose(curvature[0].numpy(), [-2 / 9, 1 / 9, 1 / 9], atol=1e-12)


def test_a_hundred_thousand_patients_need_no_matrix_of_events_by_patients():
    """Fifty thousand events by a hundred thousand patients would be 37 GiB."""
    generator = torch.Generator().manual_seed(4)
    log_risk = torch.randn(100_000, generator=generator)
    months = torch.rand(100_000, generator=generator)
    hit = torch.rand(100_000, generator=generator) < 0.5
    terms = partial_likelihood_terms(log_risk, months, hit, ties="efron")
    assert int((terms != 0).sum()) == int(hit.sum())
    few = months >= months[hit].topk(50).values.min()
    expected = one_sum_per_event(log_risk[few].double(), months[few], hit[few], "efron")
    torch.testing.assert_close(terms[few].double(), expected, rtol=1e-5, atol=1e-5)
