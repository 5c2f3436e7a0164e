"""The joint loss: each patient with what is known of them, at any batch size."""

from dataclasses import replace

import pytest
import torch

from hypoxnet.cases import Batch, Logits
from hypoxnet.errors import ConfigError
from hypoxnet.losses.config import LossConfig
from hypoxnet.losses.joint import JointLoss
from hypoxnet.survival.time_models.bank import RiskSetBank
from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.survival.time_models.settings import TimeSettings

EDGES = (12.0, 24.0, 36.0)


def batch(keys="abc", *, known=1.0, labelled=1.0):
    n = len(keys)
    return Batch(
        keys=tuple(keys),
        images=torch.zeros(n, 1, 4, 4, 4),
        presence=torch.ones(n, 1),
        label=(torch.rand(n, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8),
        label_known=torch.full((n, 1), labelled),
        tumour=torch.ones(n, 1, 4, 4, 4, dtype=torch.uint8),
        tumour_known=torch.ones(n),
        months=10.0 * torch.arange(1.0, n + 1),
        event=torch.arange(n) % 3,
        outcome_known=torch.full((n,), known),
        covariates=torch.zeros(n, 0),
        covariates_known=torch.zeros(n, 0),
    )


def logits(n, columns, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Logits(
        torch.randn(n, 1, 4, 4, 4, generator=generator).requires_grad_(),
        torch.randn(n, 2, columns, generator=generator).requires_grad_(),
    )


def cox():
    return build_time_model(TimeSettings(kind="cox"), EDGES, 2)


def value(tensor):
    return tensor.detach().item()


def score(loss, given, truth, time):
    return loss(given, truth, time=time, inside_tumour=False)


def test_without_an_outcome_head_the_outcome_costs_nothing():
    terms = score(JointLoss(LossConfig()), logits(3, 1), batch(), None)
    assert value(terms["outcome"]) == 0.0
    assert value(terms["total"]) == pytest.approx(value(terms["dice"] + terms["cross_entropy"]))


def test_a_patient_without_follow_up_does_not_train_the_outcome():
    given, time = logits(3, 3), build_time_model(TimeSettings(), EDGES, 2)
    score(JointLoss(LossConfig()), given, batch(known=0.0), time)["total"].backward()
    assert not given.hazards.grad.any()
    assert given.segmentation.grad.any()


def test_validation_leaves_no_trace_among_the_training_patients():
    loss, time = JointLoss(LossConfig(), bank=RiskSetBank(8, causes=2, columns=1)), cox()
    score(loss.train(), logits(3, 1), batch(), time)
    before = {name: kept.clone() for name, kept in loss.state_dict().items()}
    score(loss.eval(), logits(2, 1), batch("de"), time)
    assert all(torch.equal(kept, before[name]) for name, kept in loss.state_dict().items())
    assert int((loss.bank.seen > 0).sum()) == 3


def test_a_batch_of_one_is_compared_with_those_seen_before():
    loss, time = JointLoss(LossConfig(), bank=RiskSetBank(8, causes=2, columns=1)), cox()
    first, late = batch("ab"), replace(batch("c"), event=torch.tensor([1]))
    alone = score(loss, logits(1, 1), late, time)["outcome"]
    assert value(alone) == pytest.approx(0.0, abs=1e-6)
    score(loss, logits(2, 1), first, time)
    assert value(score(loss, logits(1, 1), late, time)["outcome"]) > 0.01


def test_unknown_outcomes_never_enter_the_bank():
    loss = JointLoss(LossConfig(), bank=RiskSetBank(8, causes=2, columns=1))
    terms = score(loss, logits(3, 1), batch(known=0.0), cox())
    terms["total"].backward()
    assert not loss.bank.seen.any()
    assert value(terms["outcome"]) == 0.0


def test_learnt_weights_begin_at_the_fixed_ones_and_move_towards_half_of_each_loss():
    given, time = logits(3, 3), build_time_model(TimeSettings(), EDGES, 2)
    fixed = score(JointLoss(LossConfig(outcome=0.4)), given, batch(), time)["total"]
    loss = JointLoss(LossConfig(outcome=0.4, balance="uncertainty"))
    assert value(score(loss, given, batch(), time)["total"]) == pytest.approx(value(fixed))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        terms = score(loss, given, batch(), time)
        terms["total"].backward()
        optimizer.step()
    factor = torch.exp(-loss.balance.log_variance)
    assert value(factor[0] * (terms["dice"] + terms["cross_entropy"])) == pytest.approx(0.5, abs=0.01)
    assert value(factor[1] * 0.4 * terms["outcome"]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("missing", "task"), [({"labelled": 0.0}, 0), ({"known": 0.0}, 1)])
def test_a_task_without_truth_does_not_move_its_weight(missing, task):
    loss = JointLoss(LossConfig(balance="uncertainty"))
    terms = score(loss, logits(3, 3), batch(**missing), build_time_model(TimeSettings(), EDGES, 2))
    terms["total"].backward()
    assert value(loss.balance.log_variance.grad[task]) == 0.0
    assert value(loss.balance.log_variance.grad[1 - task]) != 0.0


def test_an_unknown_balance_is_one_sentence():
    with pytest.raises(ConfigError, match=r"loss\.balance is 'magic', it must be one of fixed, uncertainty"):
        LossConfig(balance="magic")
