from dataclasses import replace

import pytest
import torch

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.bundle.write import write_bundle
from hypoxnet.data.plan import plan_settings
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.training.run import fit, model_spec
from hypoxnet.training.start import start_from
from hypoxnet.transforms.config import LabelConfig


@pytest.fixture
def pretrained(phantom_records, tiny_training, tmp_path):
    """A setup, its settings, and the bundle of a segmentation without outcome."""
    setup = tiny_training(epochs=1, cache=tmp_path)
    settings = plan_settings(phantom_records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    spec = model_spec(settings, replace(setup, outcome=replace(setup.outcome, enabled=False)))
    torch.manual_seed(7)
    bundle = tmp_path / "pretrained"
    weights = {name: tensor.detach() for name, tensor in build_model(spec).state_dict().items()}
    write_bundle(bundle, BundleSpec("outlines", spec, settings), [weights])
    return setup, settings, bundle, weights


def test_a_frozen_backbone_keeps_its_bits_and_the_head_learns(pretrained, phantom_records, tmp_path):
    setup, settings, bundle, weights = pretrained
    setup = replace(setup, training=replace(setup.training, start=str(bundle), freeze="backbone"))
    fitted = fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
    assert all(torch.equal(fitted.weights[name], tensor) for name, tensor in weights.items())
    assert any(bool(tensor.any()) for name, tensor in fitted.weights.items() if name.startswith("head.linear"))


def test_without_freezing_it_begins_there_and_moves_on(pretrained, phantom_records, tmp_path):
    setup, settings, bundle, weights = pretrained
    setup = replace(setup, training=replace(setup.training, start=str(bundle), learning_rate=1e-6))
    fitted = fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
    floats = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point() and tensor.ndim > 1}
    assert any(not torch.equal(fitted.weights[name], tensor) for name, tensor in floats.items())
    assert all(torch.allclose(fitted.weights[name], tensor, atol=1e-4) for name, tensor in floats.items())


def test_layers_that_the_bundle_lacks_are_named(pretrained, caplog):
    setup, settings, bundle, _ = pretrained
    model = build_model(model_spec(settings, setup))
    with caplog.at_level("WARNING"):
        fresh = start_from(model, bundle).fresh
    assert all(name.startswith("head.") for name in fresh)
    assert fresh[0] in caplog.text


def test_a_bundle_of_another_network_is_refused(pretrained, make_spec, tmp_path):
    setup, settings, bundle, _ = pretrained
    other = replace(setup, model=replace(setup.model, features=[5, 7], fold=1))
    with pytest.raises(ConfigError, match="no layer in common"):
        start_from(build_model(model_spec(settings, other)), bundle)


def test_freezing_without_an_outcome_leaves_nothing_to_train(pretrained, phantom_records, tmp_path):
    setup, settings, bundle, _ = pretrained
    setup = replace(setup, outcome=replace(setup.outcome, enabled=False))
    setup = replace(setup, training=replace(setup.training, start=str(bundle), freeze="backbone"))
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
