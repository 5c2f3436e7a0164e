"""One interface, four outcome models: what each promises, and inputs that must not break it."""

from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import EDGES, MONTHS, cohort, fitted, model_of, random_outputs

from hypoxnet.errors import ConfigError
from hypoxnet.survival.estimators import aalen_johansen
from hypoxnet.survival.time_models.bank import RiskSetBank, patient_numbers
from hypoxnet.survival.time_models.base import Others
from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.survival.time_models.settings import KINDS, TimeSettings
from hypoxnet.survival.time_models.spline import interval_basis


def with_baseline(model):
    """A Cox model has no incidence before it was given a cohort."""
    if model.baseline_after_training:
        x, months, event = cohort()
        model.set_baseline(torch.stack([0.8 * x, -0.5 * x], dim=1)[..., None], months, event)
    return model


# --- what every kind promises


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_is_its_share_of_a_sum(kind):
    """Likelihoods of patients add up; for kinds that compare, the others are given."""
    model = model_of(kind)
    _, months, event = cohort(12)
    outputs, known = random_outputs(model, 12), torch.ones(12)
    whole = model.loss(outputs, months, event, known) * 12
    parts = []
    for n in range(12):
        rest = torch.arange(12) != n
        others = Others(outputs[rest], months[rest], event[rest])
        one = slice(n, n + 1)
        parts.append(model.loss(outputs[one], months[one], event[one], known[one], others=others))
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_batches_of_one_are_those_of_the_whole(kind):
    model = model_of(kind)
    _, months, event = cohort(15, seed=3, rounded=-1)
    outputs = random_outputs(model, 15).requires_grad_()
    (model.loss(outputs, months, event, torch.ones(15)) * 15).backward()
    for n in range(15):
        rest = torch.arange(15) != n
        one = outputs.detach()[n : n + 1].requires_grad_()
        others = Others(outputs.detach()[rest], months[rest], event[rest])
        model.loss(one, months[n : n + 1], event[n : n + 1], torch.ones(1), others=others).backward()
        torch.testing.assert_close(one.grad[0], outputs.grad[n])


@pytest.mark.parametrize("kind", KINDS)
def test_no_known_outcome_is_zero_with_a_gradient(kind):
    model = model_of(kind)
    outputs = random_outputs(model, 3).requires_grad_()
    loss = model.loss(outputs, torch.full((3,), torch.nan), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not outputs.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_outcome_changes_nothing(kind):
    model = model_of(kind)
    _, months, event = cohort(6)
    outputs, known = random_outputs(model, 6), torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    hidden = torch.where(known > 0, months, torch.nan)
    among = model.loss(outputs, hidden, event, known)
    keep = known > 0
    torch.testing.assert_close(among, model.loss(outputs[keep], months[keep], event[keep], torch.ones(4)))


PATTERN = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 6.0, 11.9, 60.0, 200.0]), st.integers(0, 2)), min_size=1, max_size=8
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@settings(max_examples=25, deadline=None)
@given(pattern=PATTERN, seed=st.integers(0, 1000))
def test_any_pattern_has_a_finite_loss_and_gradient(kind, scale, pattern, seed):
    """Ties, events at time 0 and beyond the last edge, no event, one patient, outputs of 10,000."""
    model = model_of(kind)
    months, event = torch.tensor([m for m, _ in pattern]), torch.tensor([e for _, e in pattern])
    outputs = random_outputs(model, len(pattern), seed=seed, scale=scale, dtype=torch.float32).requires_grad_()
    loss = model.loss(outputs, months, event, torch.ones(len(pattern)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1e4, -1.0, 0.0, 1.0, 1e4])
def test_all_censored_at_time_zero_say_nothing(kind, value):
    model = model_of(kind)
    outputs = torch.full((4, 2, model.columns), value, requires_grad=True)
    loss = model.loss(outputs, torch.zeros(4), torch.zeros(4, dtype=torch.int64), torch.ones(4))
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.3, 3.0, 1e4]))
def test_incidence_rises_and_never_exceeds_one(kind, seed, scale):
    model = with_baseline(model_of(kind))
    outputs = random_outputs(model, 4, seed=seed, scale=scale, dtype=torch.float32)
    incidence = model.incidence(outputs, MONTHS)
    assert incidence.shape == (4, 2, len(MONTHS))
    assert torch.isfinite(incidence).all()
    assert (incidence.diff(dim=2) >= -1e-6).all()
    assert (incidence.sum(dim=1) <= 1 + 1e-5).all()
    assert not incidence[..., 0].any()
    torch.testing.assert_close(model.control(outputs, MONTHS), 1 - incidence[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_month_does_not_depend_on_the_others_asked_for(kind):
    model = with_baseline(model_of(kind))
    outputs = random_outputs(model, 3)
    together = model.incidence(outputs, (36.0, 2.5, 17.2))
    apart = torch.cat([model.incidence(outputs, (month,)) for month in (36.0, 2.5, 17.2)], dim=2)
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_month_is_refused(kind):
    with pytest.raises(ConfigError, match=r"the horizon is -1\.0 months, it must not be negative"):
        model_of(kind).incidence(torch.zeros(1, 2, model_of(kind).columns), (12.0, -1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_float32_under_autocast(kind):
    model = with_baseline(model_of(kind))
    _, months, event = cohort(8)
    outputs = random_outputs(model, 8, dtype=torch.float32)
    plain = model.loss(outputs, months, event, torch.ones(8)), model.incidence(outputs, MONTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model.loss(outputs, months, event, torch.ones(8)), model.incidence(outputs, MONTHS)
        half = model.loss(outputs.bfloat16(), months, event, torch.ones(8))
    torch.testing.assert_close(inside[0], plain[0], rtol=0, atol=0)
    torch.testing.assert_close(inside[1], plain[1], rtol=0, atol=0)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(plain[0]), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    model = model_of(kind)
    _, months, event = cohort(7, seed=5)
    outputs = random_outputs(model, 7, scale=0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: model.loss(o, months, event, torch.ones(7)), (outputs,))


@pytest.mark.parametrize("kind", ["hazards", "deephit", "weibull"])
def test_training_starts_at_the_incidence_of_the_cohort(kind):
    """Nobody differs yet: predicted incidence is Aalen-Johansen's."""
    model = model_of(kind)
    _, months, event = cohort(400, seed=2)
    baseline = model.start(months, event)
    outputs = model.outputs(baseline, torch.zeros(1, 2, len(model.effect)))
    for cause in (1, 2):
        times, expected = aalen_johansen(months.numpy(), event.numpy(), cause=cause)
        at = [expected[np.searchsorted(times, edge, side="right") - 1] for edge in EDGES]
        # discrete kinds count nobody censored inside an interval as at risk in it, so they are a little higher
        np.testing.assert_allclose(model.incidence(outputs, EDGES)[0, cause - 1].numpy(), at, atol=0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cause_that_nobody_met_stays_finite_and_small(kind):
    model = model_of(kind)
    _, months, event = cohort(60)
    event = torch.where(event == 2, 0, event)
    baseline = model.start(months, event)
    outputs = model.outputs(baseline if len(model.basis) else None, torch.zeros(60, 2, len(model.effect)))
    model.set_baseline(outputs, months, event)
    incidence = model.incidence(outputs[:1], (60.0,))[0, :, 0]
    assert torch.isfinite(baseline).all()
    assert 0.2 < float(incidence[0]) < 0.9
    assert 0.0 <= float(incidence[1]) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_covariate_has_no_effect_to_learn(kind):
    """Standardised with a spread of 1 it is 0 for everybody: its weight gets no gradient."""
    model = model_of(kind)
    _, months, event = cohort(20)
    weight = torch.ones(2, len(model.effect), dtype=torch.float64, requires_grad=True)
    outputs = model.outputs(None, torch.zeros(20, 1, 1) * weight)
    model.loss(outputs, months, event, torch.ones(20)).backward()
    assert not weight.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_cohort_starts_somewhere(kind):
    assert torch.isfinite(model_of(kind).start(torch.zeros(0), torch.zeros(0, dtype=torch.int64))).all()


@pytest.mark.parametrize("kind", ["cox", "deephit", "weibull"])
def test_a_yes_no_end_point_has_hazards_only(kind):
    with pytest.raises(ConfigError, match=f"outcome.kind is {kind}, and the cohort has a yes/no end point"):
        build_time_model(TimeSettings(kind=kind), (inf,), 1)


def test_a_yes_no_end_point_is_logistic_regression():
    model = build_time_model(TimeSettings(), (inf,), 1)
    effects, event = torch.randn(6, 1, 1), torch.tensor([0, 1, 0, 1, 1, 0])
    outputs = model.outputs(torch.tensor([[0.3]]), effects)
    loss = model.loss(outputs, torch.full((6,), torch.nan), event, torch.ones(6))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(effects.flatten() + 0.3, event.float())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(model.incidence(outputs, (inf, 24.0))[:, 0, 1], torch.sigmoid(effects.flatten() + 0.3))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"kind": "lasso"}, "outcome.kind is 'lasso', it must be one of hazards, cox, deephit, weibull"),
        ({"kind": "cox", "effect": "time_varying"}, "which outcome.kind=cox does not have"),
        ({"baseline_df": 0}, "outcome.baseline_df is 0"),
        ({"ranking_scale": 0.0}, "outcome.ranking_scale 0.0"),
    ],
)
def test_settings_out_of_range_are_one_sentence(choices, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TimeSettings(**choices)


# --- the spline and the bank


def test_the_spline_is_a_constant_and_orthogonal_bends():
    basis = interval_basis(EDGES, 4).double()
    torch.testing.assert_close(basis @ basis.T / len(EDGES), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-5)
    assert (basis[0] == 1).all()
    assert torch.linalg.matrix_rank(interval_basis(EDGES, 50)) == len(EDGES)


def test_the_bank_keeps_each_patient_once_as_seen_last():
    bank = RiskSetBank(3, causes=2, columns=1)
    for step, keys in enumerate([("a",), ("b", "a"), ("c",), ("a", "a")]):
        bank.remember(
            patient_numbers(keys),
            torch.full((len(keys), 2, 1), float(step)),
            torch.arange(len(keys)) + 1.0,
            torch.zeros(len(keys), dtype=torch.int64),
        )
    kept = bank.others(patient_numbers(["b"]))
    assert sorted(kept.outputs[:, 0, 0].tolist()) == [2.0, 3.0]
    assert 2.0 in kept.months.tolist()
    bank.remember(patient_numbers(["d"]), torch.full((1, 2, 1), 9.0), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert sorted(bank.others(patient_numbers(["x"])).outputs[:, 0, 0].tolist()) == [2.0, 3.0, 9.0]


def test_more_patients_than_places_leave_the_last():
    bank = RiskSetBank(2, causes=1, columns=1)
    outputs = torch.arange(5.0)[:, None, None]
    bank.remember(patient_numbers("abcde"), outputs, torch.ones(5), torch.zeros(5, dtype=torch.int64))
    assert sorted(bank.others(patient_numbers("x")).outputs.flatten().tolist()) == [3.0, 4.0]


def test_steps_with_a_bank_find_what_the_whole_cohort_finds():
    """Batches of one, each patient's log-risk as it was last: the effect is that of a full-batch fit."""
    x, months, event = cohort(40, seed=14)
    whole = fitted(model_of("cox"), x, months, event)[0]
    model, bank = model_of("cox"), RiskSetBank(40, causes=2, columns=1)
    slope = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    order = np.random.default_rng(0)
    numbers = patient_numbers([str(n) for n in range(40)])
    for epoch in range(15):
        step = 0.2 * 0.75**epoch
        for n in order.permutation(40):
            one = slice(n, n + 1)
            outputs = (x[one, None] * slope)[..., None]
            others = bank.others(numbers[one])
            loss = model.loss(outputs, months[one], event[one], torch.ones(1), others=others)
            (gradient,) = torch.autograd.grad(loss, slope)
            bank.remember(numbers[one], outputs, months[one], event[one])
            with torch.no_grad():
                slope -= step * gradient
    torch.testing.assert_close(slope.detach(), whole, rtol=0, atol=0.02)
