from dataclasses import replace
from math import inf

import pytest
import torch

from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.models.spec import ModelSpec

SMALL = {
    "residual_unet": ModelConfig(features=[4, 8, 8], blocks=[1, 1, 1], deep_supervision=1),
    "folded": ModelConfig(features=[8, 8], blocks=[1, 1], deep_supervision=1, fold=2),
    "segresnet": ModelConfig(backbone="segresnet", features=[8, 16], blocks=[1, 1], deep_supervision=0),
    "dynunet": ModelConfig(backbone="dynunet", features=[4, 8, 8], blocks=[1, 1, 1], deep_supervision=0),
    "mednext": ModelConfig(backbone="mednext", features=[4, 8], blocks=[1, 1], deep_supervision=0),
    "swin_unetr": ModelConfig(backbone="swin_unetr", features=[12, 24], blocks=[1, 1], deep_supervision=0),
}


def network(backbone, *, regions=2, outcome=None, edges=(12.0, 24.0, 36.0), covariates=3):
    spec = ModelSpec(
        backbone=backbone,
        outcome=outcome or OutcomeConfig(hidden=4, dropout=0.0),
        channels=2,
        regions=regions,
        covariates=covariates,
        edges_months=edges,
        spacing_mm=(3.0, 3.0, 3.0),
    )
    torch.manual_seed(0)
    return build_model(spec)


def inputs(side=32, b=2, covariates=3):
    generator = torch.Generator().manual_seed(1)
    tumour = torch.zeros(b, 1, side, side, side)
    tumour[:, :, 8:20, 8:20, 8:20] = 1
    return {
        "images": torch.randn(b, 2, side, side, side, generator=generator),
        "presence": torch.ones(b, 2),
        "tumour": tumour,
        "tumour_known": torch.ones(b),
        "covariates": torch.randn(b, covariates, generator=generator),
        "covariates_known": torch.ones(b, covariates),
    }


@pytest.mark.parametrize("name", SMALL)
def test_every_backbone_gives_logits_and_hazards_and_learns(name):
    model = network(SMALL[name]).train()
    logits = model(**inputs(b=1))
    assert logits.segmentation.shape == (1, 2, 32, 32, 32)
    assert logits.hazards.shape == (1, 2, 3)
    outputs = (logits.segmentation, logits.hazards, *logits.deep)
    sum(output.square().mean() for output in outputs).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, without


@pytest.mark.parametrize("name", [name for name in SMALL if name != "swin_unetr"])  # the stem is the same, and quicker
def test_the_image_of_an_absent_channel_does_not_matter_but_its_absence_does(name):
    model = network(SMALL[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    given = inputs() | {"presence": torch.tensor([[1.0, 0.0]] * 2)}
    other = given | {"images": given["images"] + torch.tensor([0.0, 100.0])[None, :, None, None, None]}
    with torch.no_grad():
        assert torch.equal(model(**given).segmentation, model(**other).segmentation)
        present = model(**(given | {"presence": torch.ones(2, 2)})).segmentation
    assert not torch.allclose(model(**given).segmentation, present, atol=1e-4)


@pytest.mark.parametrize("side", [30, 17])
def test_a_window_that_is_no_multiple_keeps_its_size(side):
    assert network(SMALL["folded"]).eval()(**inputs(side)).segmentation.shape[2:] == (side,) * 3


def test_deep_supervision_is_for_training_only():
    model = network(SMALL["residual_unet"])
    assert len(model.train()(**inputs()).deep) == 1
    assert model.eval()(**inputs()).deep == ()


@pytest.mark.parametrize(("kind", "columns"), [("hazards", 3), ("cox", 1), ("deephit", 3), ("weibull", 2)])
def test_every_outcome_model_has_its_outputs_and_travels_in_the_spec(kind, columns):
    model = network(SMALL["folded"], outcome=OutcomeConfig(kind=kind, hidden=4, dropout=0.0))
    assert model(**inputs()).hazards.shape == (2, 2, columns)
    assert model.time.kind == kind
    again = build_model(ModelSpec.from_json(model.spec.to_json()))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(**inputs()).hazards, model.eval()(**inputs()).hazards)


@pytest.mark.parametrize(("effect", "changes"), [("proportional", False), ("time_varying", True)])
def test_an_effect_changes_over_time_only_where_it_may(effect, changes):
    model = network(SMALL["folded"], outcome=OutcomeConfig(effect=effect, dropout=0.0)).eval()
    torch.nn.init.normal_(model.head.linear.weight, generator=torch.Generator().manual_seed(4))
    one, other = model(**inputs()).hazards[:, 0].detach()
    assert bool((one - other).std() > 1e-4) == changes


def test_cox_for_a_yes_no_end_point_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match=r"outcome\.kind is cox, and the cohort has a yes/no end point"):
        network(SMALL["folded"], outcome=OutcomeConfig(kind="cox"), edges=(inf,))


def test_a_yes_no_end_point_is_one_cause_and_one_interval():
    assert network(SMALL["folded"], edges=(inf,))(**inputs()).hazards.shape == (2, 1, 1)


def test_the_outcome_head_can_be_left_out():
    logits = network(SMALL["folded"], outcome=OutcomeConfig(enabled=False))(**inputs())
    assert logits.hazards.numel() == 0


def test_a_missing_covariate_has_no_value():
    model = network(SMALL["folded"]).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    unknown = torch.tensor([[1.0, 0.0, 1.0]] * 2)
    given = inputs() | {"covariates_known": unknown}
    other = given | {"covariates": torch.where(unknown > 0, given["covariates"], torch.tensor(99.0))}
    assert torch.equal(model(**given).hazards, model(**other).hazards)


def test_features_are_pooled_inside_the_tumour():
    """What lies outside the contour, beyond the receptive field, does not reach the risk."""
    model = network(SMALL["folded"], outcome=OutcomeConfig(pool="contour", dropout=0.0)).eval()
    given = inputs()
    contoured = model(**given).hazards
    uncontoured = model(**(given | {"tumour_known": torch.zeros(2)})).hazards
    assert contoured.shape == uncontoured.shape
    moved = given | {"tumour": given["tumour"].roll(8, dims=2)}
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    assert not torch.allclose(model(**given).hazards, model(**moved).hazards)


def test_a_backbone_that_refuses_its_options_is_one_sentence():
    with pytest.raises(ConfigError, match=r"dynunet refuses model\.features=\[4, 8\].*no less than 3"):
        network(ModelConfig(backbone="dynunet", features=[4, 8], blocks=[1, 1], deep_supervision=0))


def test_an_unknown_backbone_is_one_sentence():
    with pytest.raises(ConfigError, match="resnet99"):
        network(ModelConfig(backbone="resnet99"))


@pytest.mark.parametrize("volumes", [True, False])
def test_size_reaches_the_outcome_only_where_the_head_reads_volumes(volumes):
    outcomes = []
    for spacing in ((2.0, 2.0, 2.0), (4.0, 4.0, 4.0)):
        model = network(SMALL["folded"], outcome=OutcomeConfig(volumes=volumes, dropout=0.0)).eval()
        torch.nn.init.ones_(model.head.risk.weight)
        torch.nn.init.ones_(model.head.linear.weight)
        model.spec = replace(model.spec, spacing_mm=spacing)
        outcomes.append(model(**inputs()).hazards.detach())
    assert torch.equal(*outcomes) != volumes


def test_a_head_that_knows_neither_size_nor_covariates_reads_the_image_alone():
    model = network(SMALL["folded"], outcome=OutcomeConfig(volumes=False, hidden=4), covariates=0)
    assert model.head.linear.weight.shape[1] == 0
    assert torch.isfinite(model(**inputs(covariates=0)).hazards).all()
