"""Weights of fewer bits: rounded once, kept so in the file, and turned back to float32 where they are used.

What is computed stays float32; only the weights of the segmentation networks' convolutions and linear layers are
rounded. The outcome head is a few thousand numbers, and a risk is read to the second digit: it stays as it is.

Source:
    Jacob et al. 2018, CVPR, Quantization and training of neural networks for efficient integer-arithmetic-only
    inference (symmetric, per output channel: Krishnamoorthi 2018, arXiv:1806.08342, section 2.2 and 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hypoxnet.errors import ConfigError
from hypoxnet.models.joint import HypoxNet

FLOAT32 = "float32"
BFLOAT16 = "bfloat16"
INT8 = "int8"
PRECISIONS = (FLOAT32, BFLOAT16, INT8)

# Of int8; -128 is left out, so that the scale is the same on both sides of 0.
LARGEST = 127

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)


class StoredBfloat16(nn.Module):
    """A weight kept as bfloat16: the upper half of its float32."""

    def forward(self, stored: Tensor) -> Tensor:
        """The float32 weight."""
        return stored.float()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        """The stored form of a weight; a tuple, since a tensor alone may not change its type."""
        return (weight.to(torch.bfloat16),)


class StoredInt8(nn.Module):
    """A weight kept as integers -127 to 127 and one scale per output channel.

    Args:
        axis: Of the output channels.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        """The float32 weight."""
        return stored.float() * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The stored form of a weight; a channel of zeros has the scale 1."""
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        scale = weight.abs().amax(dim=others, keepdim=True) / LARGEST
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return torch.round(weight / scale).to(torch.int8), scale


def with_stored_weights(models: Sequence[HypoxNet], precision: str) -> tuple[HypoxNet, ...]:
    """Copies of networks whose segmentation weights are kept in a precision.

    Args:
        models: Members of a bundle, without gradients.
        precision: One of `PRECISIONS`; `float32` changes nothing.

    Raises:
        ConfigError: The models read no images and so have nothing to round.
    """
    if precision == FLOAT32:
        return tuple(models)
    rounded = tuple(copy.deepcopy(model).requires_grad_(False) for model in models)
    for model in rounded:
        backbone: Any = model.backbone
        if backbone is None:
            raise ConfigError(
                f"--weights {precision}: a model of covariates alone has a few hundred weights, there is nothing to "
                "save; leave --weights out"
            )
        for layer in list(backbone.modules()):
            if isinstance(layer, _LAYERS):
                parametrize.register_parametrization(layer, "weight", _stored(layer, precision), unsafe=True)
    return rounded


def _stored(layer: nn.Module, precision: str) -> nn.Module:
    return StoredBfloat16() if precision == BFLOAT16 else StoredInt8(1 if isinstance(layer, _TRANSPOSED) else 0)
