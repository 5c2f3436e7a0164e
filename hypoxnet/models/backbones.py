"""Backbones by name: ours, MONAI's, and others' through entry points.

A backbone is a module with `pooled_features` (features of each map it offers for pooling) whose
`forward(images B C D H W, presence B C)` returns `Features`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from monai.networks import nets
from torch import Tensor, nn

from hypoxnet.errors import ConfigError
from hypoxnet.models.config import BACKBONES, ModelConfig
from hypoxnet.models.presence import PresenceStem, crop_to, pad_to_multiple
from hypoxnet.models.residual_unet import Features, ResidualUNet
from hypoxnet.quantities import suggestion

ENTRY_POINT_GROUP = "hypoxnet.backbones"


class Backbone(Protocol):
    """What the joint network asks of a backbone."""

    @property
    def pooled_features(self) -> Sequence[int]:
        """Features of each map in `Features.pooled`."""

    def __call__(self, images: Tensor, presence: Tensor) -> Features:
        """Logits and feature maps of a window."""


class MonaiBackbone(nn.Module):
    """A MONAI segmentation network behind a presence-aware stem; features are read where it is coarsest.

    Args:
        network: Takes `stem_features` channels and returns K logits.
        bottleneck: The submodule whose output the outcome head pools.
        channels: Number of input channels C.
        stem_features: Features of the stem.
        multiple: Sizes must be multiples of this; windows are padded to it, and to twice as much at least, since a
            single voxel at the bottleneck could not be normalised.
        pooled: Features of the bottleneck's output.
    """

    def __init__(
        self,
        network: nn.Module,
        bottleneck: nn.Module,
        *,
        channels: int,
        stem_features: int,
        multiple: int,
        pooled: int,
    ) -> None:
        super().__init__()
        self.stem = PresenceStem(channels, stem_features)
        self.network = network
        self.multiple = multiple
        self._bottleneck: list[Tensor] = []
        bottleneck.register_forward_hook(self._keep)
        # Said, not measured: a forward pass at every start would cost seconds.
        self.pooled_features = (pooled,)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._bottleneck.append(output[-1] if isinstance(output, (list, tuple)) else output)

    def forward(self, images: Tensor, presence: Tensor) -> Features:
        """B C D H W and B C to logits and the bottleneck's features."""
        padded = pad_to_multiple(images, self.multiple, minimum=2 * self.multiple)
        logits = self.network(self.stem(padded, presence))
        return Features(crop_to(logits, images.shape[2:]), (), (self._bottleneck.pop(),))


def _segresnet(config: ModelConfig, channels: int, regions: int) -> Backbone:
    width = config.features[0]
    blocks = tuple(config.blocks)
    network = nets.SegResNet(
        spatial_dims=3,
        init_filters=width,
        in_channels=width,
        out_channels=regions,
        blocks_down=blocks,
        blocks_up=(1,) * (len(blocks) - 1),
        **config.options,
    )
    coarsest = 2 ** (len(blocks) - 1)
    return MonaiBackbone(
        network,
        network.down_layers[-1],
        channels=channels,
        stem_features=width,
        multiple=coarsest,
        pooled=width * coarsest,
    )


def _dynunet(config: ModelConfig, channels: int, regions: int) -> Backbone:
    width, levels = config.features[0], len(config.features)
    options = {"res_block": True, **config.options}
    network = nets.DynUNet(
        spatial_dims=3,
        in_channels=width,
        out_channels=regions,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=config.features,
        **options,
    )
    return MonaiBackbone(
        network,
        network.bottleneck,
        channels=channels,
        stem_features=width,
        multiple=2 ** (levels - 1),
        pooled=config.features[-1],
    )


def _swin_unetr(config: ModelConfig, channels: int, regions: int) -> Backbone:
    width = config.features[0]
    options = {"feature_size": 12 * max(1, width // 12), **config.options}
    network = nets.SwinUNETR(in_channels=width, out_channels=regions, **options)
    pooled = 16 * int(options["feature_size"])
    return MonaiBackbone(network, network.encoder10, channels=channels, stem_features=width, multiple=32, pooled=pooled)


def _mednext(config: ModelConfig, channels: int, regions: int) -> Backbone:
    width, down = config.features[0], config.blocks[:-1]
    network = nets.MedNeXt(
        spatial_dims=3,
        init_filters=width,
        in_channels=width,
        out_channels=regions,
        blocks_down=down,
        blocks_bottleneck=config.blocks[-1],
        blocks_up=down[::-1],
        **{"kernel_size": 3, "use_residual_connection": True, **config.options},
    )
    coarsest = 2 ** len(down)
    return MonaiBackbone(
        network,
        network.bottleneck,
        channels=channels,
        stem_features=width,
        multiple=coarsest,
        pooled=width * coarsest,
    )


def _residual_unet(config: ModelConfig, channels: int, regions: int) -> Backbone:
    if config.options:
        raise ConfigError(f"model.options {sorted(config.options)} are for MONAI's networks; residual_unet has none")
    return ResidualUNet(config, channels=channels, regions=regions)


Builder = Callable[[ModelConfig, int, int], Backbone]

BUILDERS: dict[str, Builder] = {
    "residual_unet": _residual_unet,
    "segresnet": _segresnet,
    "dynunet": _dynunet,
    "swin_unetr": _swin_unetr,
    "mednext": _mednext,
}
assert tuple(BUILDERS) == BACKBONES


def others_backbones() -> dict[str, EntryPoint]:
    """Backbones that other installed packages register under `hypoxnet.backbones`; none of their code is run here.

    Raises:
        ConfigError: Two backbones have the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in BUILDERS or point.name in found:
            raise ConfigError(f"the backbone {point.name} of {point.value} has a name that is taken; rename it")
        found[point.name] = point
    return found


def builder_of(name: str) -> Builder:
    """The builder of a backbone: ours, MONAI's, or that of another package, which is imported only if it is named.

    Raises:
        ConfigError: No backbone has that name.
    """
    if name in BUILDERS:
        return BUILDERS[name]
    others = others_backbones()
    if name not in others:
        known = [*BUILDERS, *others]
        raise ConfigError(f"model.backbone is {name!r}, known are {', '.join(known)}{suggestion(name, known)}")
    builder: Builder = others[name].load()
    return builder


def build_backbone(config: ModelConfig, *, channels: int, regions: int) -> Backbone:
    """The backbone that a configuration names.

    Raises:
        ConfigError: No backbone has that name, or it refuses its options.
    """
    builder = builder_of(config.backbone)
    try:
        return builder(config, channels, regions)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{config.backbone} refuses model.features={config.features}, model.blocks={config.blocks}, "
            f"model.options={config.options}: {error}"
        ) from error
