"""The part of a backbone that looks: stem and encoder, without decoder and heads, for other people's tasks.

Axis legend: B patients, C channels, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn

from hypoxnet.errors import ConfigError
from hypoxnet.models.backbones import MonaiBackbone
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.residual_unet import ResidualUNet


class FeatureEncoder(nn.Module):
    """Images to feature maps at every resolution.

    Args:
        stem: Reads the images and which channels are there.
        body: Features of the stem to a list of maps, finest first.
        multiple: Sides of the images are multiples of this, and twice as much at least.
        free_sides: Whether one graph can hold every size; False where sides decide which operations there are.
    """

    def __init__(self, stem: nn.Module, body: nn.Module, *, multiple: int, free_sides: bool = True) -> None:
        super().__init__()
        self.stem = stem
        self.body = body
        self.multiple = multiple
        self.free_sides = free_sides

    def forward(self, image: Tensor, presence: Tensor) -> dict[str, Tensor]:
        """B C D H W and B C to `level_0`, the finest, `level_1` ..., each B F d h w."""
        maps = self.body(self.stem(image, presence))
        return {f"level_{level}": feature_map for level, feature_map in enumerate(maps)}

    @torch.no_grad()
    def layout(self, channels: int) -> list[dict[str, Any]]:
        """Name, stride against the images and number of features of each map.

        Args:
            channels: Number of channels C.
        """
        side = 2 * self.multiple
        maps = self(torch.zeros(1, channels, side, side, side), torch.ones(1, channels))
        return [
            {"name": name, "stride": side // feature_map.shape[2], "features": int(feature_map.shape[1])}
            for name, feature_map in maps.items()
        ]


class _SegResNetBody(nn.Module):
    def __init__(self, network: nets.SegResNet) -> None:
        super().__init__()
        self.first, self.levels = network.convInit, network.down_layers

    def forward(self, volume: Tensor) -> list[Tensor]:
        return _one_after_another(self.first(volume), self.levels)


class _DynUNetBody(nn.Module):
    def __init__(self, network: nets.DynUNet) -> None:
        super().__init__()
        self.levels = nn.ModuleList([network.input_block, *network.downsamples, network.bottleneck])

    def forward(self, volume: Tensor) -> list[Tensor]:
        return _one_after_another(volume, self.levels)


class _MedNeXtBody(nn.Module):
    def __init__(self, network: nets.MedNeXt) -> None:
        super().__init__()
        self.first, self.levels, self.downs = network.stem, network.enc_stages, network.down_blocks
        self.last = network.bottleneck

    def forward(self, volume: Tensor) -> list[Tensor]:
        volume, maps = self.first(volume), []
        for level, down in zip(self.levels, self.downs, strict=True):
            maps.append(level(volume))
            volume = down(maps[-1])
        return [*maps, self.last(volume)]


class _SwinUNETRBody(nn.Module):
    """The transformer's stages, and the convolutions through which the decoder sees them."""

    def __init__(self, network: nets.SwinUNETR) -> None:
        super().__init__()
        self.transformer, self.normalize = network.swinViT, network.normalize
        self.first, self.last = network.encoder1, network.encoder10
        self.levels = nn.ModuleList([network.encoder2, network.encoder3, network.encoder4])

    def forward(self, volume: Tensor) -> list[Tensor]:
        *seen, fourth, fifth = self.transformer(volume, self.normalize)
        maps = [level(part) for level, part in zip(self.levels, seen, strict=True)]
        return [self.first(volume), *maps, fourth, self.last(fifth)]


def _one_after_another(volume: Tensor, levels: nn.ModuleList) -> list[Tensor]:
    maps = []
    for level in levels:
        volume = level(volume)
        maps.append(volume)
    return maps


BODIES: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nets.SegResNet: _SegResNetBody,
    nets.DynUNet: _DynUNetBody,
    nets.MedNeXt: _MedNeXtBody,
    nets.SwinUNETR: _SwinUNETRBody,
}
# A stage of SwinUNETR pads to, shifts and shrinks its windows of attention by the sides of what it gets: other sides
# are other operations, and torch.export with open sides is caught in conditions on them (2.13: no end in minutes).
FIXED_SIDES = (nets.SwinUNETR,)


def encoder_of(model: HypoxNet) -> FeatureEncoder:
    """The stem and encoder of a network; they share its weights.

    Raises:
        ConfigError: A model of covariates alone, or a backbone of another package.
    """
    backbone: Any = model.backbone
    if backbone is None:
        raise ConfigError("a model of covariates alone reads no image, and has no encoder")
    if isinstance(backbone, ResidualUNet):
        return FeatureEncoder(backbone.stem, backbone.encoder, multiple=backbone.multiple).eval()
    if isinstance(backbone, MonaiBackbone) and type(backbone.network) in BODIES:
        body = BODIES[type(backbone.network)](backbone.network)
        return FeatureEncoder(backbone.stem, body, multiple=backbone.multiple, free_sides=has_free_sides(model)).eval()
    raise ConfigError(
        f"the encoder of {model.spec.backbone.backbone} is not taken out; those of residual_unet, segresnet, dynunet, "
        "mednext and swin_unetr are"
    )


def has_free_sides(model: HypoxNet) -> bool:
    """Whether one graph of operations serves images of every size; not so with windows of attention."""
    backbone: Any = model.backbone
    return not (isinstance(backbone, MonaiBackbone) and isinstance(backbone.network, FIXED_SIDES))
