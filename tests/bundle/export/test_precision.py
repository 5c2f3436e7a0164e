"""Weights of fewer bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hypoxnet.bundle.export.precision import (
    BFLOAT16,
    FLOAT32,
    INT8,
    LARGEST,
    StoredBfloat16,
    StoredInt8,
    with_stored_weights,
)
from hypoxnet.errors import ConfigError


@pytest.fixture
def weight():
    return torch.randn(6, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-3, 1e-2, 0.1, 1.0, 10.0, 0.0]
    ).view(6, 1, 1, 1, 1)


def test_int8_is_off_by_half_a_step_of_each_output_channel_at_most(weight):
    form = StoredInt8(axis=0)
    stored, scale = form.right_inverse(weight)
    assert (stored.dtype, scale.shape) == (torch.int8, (6, 1, 1, 1, 1))
    assert int(stored.min()) >= -LARGEST
    step = weight.abs().amax(dim=(1, 2, 3, 4), keepdim=True) / LARGEST
    assert ((form(stored, scale) - weight).abs() <= step / 2 * 1.0001).all()
    assert stored.abs().amax(dim=(1, 2, 3, 4)).tolist() == [LARGEST] * 5 + [0]


def test_int8_of_one_scale_per_input_channel_would_be_worse(weight):
    errors = [float((form(*form.right_inverse(weight)) - weight).abs()[0].max()) for form in map(StoredInt8, (0, 1))]
    assert errors[0] < errors[1] / 100


def test_bfloat16_keeps_eight_bits_of_the_number(weight):
    form = StoredBfloat16()
    (stored,) = form.right_inverse(weight)
    assert stored.dtype == torch.bfloat16
    assert ((form(stored) - weight).abs() <= weight.abs() * 2**-8).all()


def test_a_transposed_convolution_has_its_output_channels_on_the_second_axis(make_network, tiny_spec):
    (model,) = with_stored_weights([make_network(tiny_spec, seed=1)], INT8)
    layers = [layer for layer in model.backbone.modules() if isinstance(layer, nn.ConvTranspose3d)]
    assert layers
    for layer in layers:
        assert layer.parametrizations.weight.original1.shape == (1, layer.out_channels, 1, 1, 1)


@pytest.mark.parametrize("precision", [BFLOAT16, INT8])
def test_rounding_changes_a_copy_a_little_and_leaves_the_outcome_head(make_network, tiny_spec, precision):
    model = make_network(tiny_spec, seed=1).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (rounded,) = with_stored_weights([model], precision)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert rounded.head.state_dict().keys() == model.head.state_dict().keys()
    images, presence = torch.randn(1, 2, 16, 16, 16), torch.ones(1, 2)
    with torch.no_grad():
        one, two = (net.backbone(images, presence).segmentation for net in (model, rounded))
    apart = float((one - two).abs().max())
    assert 0 < apart < 0.1 * float(one.abs().max())
    kinds = {tensor.dtype for tensor in rounded.backbone.state_dict().values()}
    assert getattr(torch, precision) in kinds


def test_float32_is_the_models_themselves(make_network, tiny_spec):
    model = make_network(tiny_spec, seed=1)
    assert with_stored_weights([model], FLOAT32) == (model,)


def test_a_model_of_covariates_has_nothing_to_round(make_network, tiny_spec):
    model = make_network(tiny_spec, seed=1).requires_grad_(False)
    model.backbone = None
    with pytest.raises(ConfigError, match="leave --weights out"):
        with_stored_weights([model], INT8)


def test_a_rounded_network_has_a_quarter_of_the_bytes(make_network, tiny_spec):
    model = make_network(tiny_spec, seed=1).requires_grad_(False)
    (rounded,) = with_stored_weights([model], INT8)
    layers = [m for m in rounded.backbone.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)]
    stored = sum(layer.parametrizations.weight.original0.nbytes for layer in layers)
    assert stored == sum(int(np.prod(layer.weight.shape)) for layer in layers)
