"""Our backbone: a residual-encoder 3D U-Net with deep supervision.

Axis legend: B patients, C channels, K regions, D H W voxels; level 0 is the finest.

Source:
    Isensee et al. 2024, nnU-Net Revisited (residual encoder, light decoder); He et al. 2016 (residual block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypoxnet.models.config import ModelConfig
from hypoxnet.models.presence import PresenceStem, crop_to, depth_to_space, pad_to_multiple

SLOPE = 0.01


@dataclass(frozen=True, slots=True)
class Features:
    """What a backbone makes of a window.

    Args:
        segmentation: B K D H W logits.
        deep: Coarser logits, finest first; empty in evaluation mode.
        pooled: Feature maps whose mean inside the tumour the outcome head reads, each B F d h w.
    """

    segmentation: Tensor
    deep: tuple[Tensor, ...]
    pooled: tuple[Tensor, ...]


class ConvNorm(nn.Sequential):
    """3 x 3 x 3 convolution, instance norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(SLOPE),
        )


class ResidualBlock(nn.Module):
    """Two convolutions with a skip; a stride halves the resolution.

    Args:
        inputs: Input features.
        outputs: Output features.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv3d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.InstanceNorm3d(outputs, affine=True)
        self.second = nn.Conv3d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.second_norm = nn.InstanceNorm3d(outputs, affine=True)
        skip: list[nn.Module] = [nn.AvgPool3d(stride)] if stride > 1 else []
        if inputs != outputs:
            skip += [nn.Conv3d(inputs, outputs, kernel_size=1, bias=False), nn.InstanceNorm3d(outputs, affine=True)]
        self.skip = nn.Sequential(*skip)

    def forward(self, volume: Tensor) -> Tensor:
        """B inputs D H W to B outputs D/stride H/stride W/stride."""
        inner = nn.functional.leaky_relu(self.first_norm(self.first(volume)), SLOPE)
        return nn.functional.leaky_relu(self.second_norm(self.second(inner)) + self.skip(volume), SLOPE)


class Encoder(nn.Module):
    """Residual blocks at ever coarser levels.

    Args:
        features: Features at each level.
        blocks: Blocks at each level; the first of each level but 0 halves the resolution.
    """

    def __init__(self, features: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for level, (outputs, count) in enumerate(zip(features, blocks, strict=True)):
            inputs = features[max(0, level - 1)]
            first = ResidualBlock(inputs, outputs, stride=2 if level else 1)
            self.levels.append(nn.Sequential(first, *(ResidualBlock(outputs, outputs) for _ in range(count - 1))))

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps = []
        for level in self.levels:
            volume = level(volume)
            maps.append(volume)
        return maps


class Decoder(nn.Module):
    """Transposed convolutions, skips, one convolution per level, and an output at the finest levels.

    Args:
        features: Features at each level, as in the encoder.
        outputs: Output logits at the finest level.
        regions: Output logits at the coarser ones.
        deep_supervision: Number of coarser levels with an output.
    """

    def __init__(self, features: Sequence[int], *, outputs: int, regions: int, deep_supervision: int) -> None:
        super().__init__()
        pairs = list(zip(features[1:], features[:-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2) for coarse, fine in pairs)
        self.merges = nn.ModuleList(ConvNorm(2 * fine, fine) for _, fine in pairs)
        levels = min(deep_supervision + 1, len(pairs))
        self.heads = nn.ModuleList(nn.Conv3d(features[n], regions if n else outputs, 1) for n in range(levels))
        for head in self.heads:
            # Most voxels are background: starting there saves the first hundred steps.
            nn.init.constant_(head.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Logits, finest first; only the finest in evaluation mode."""
        volume = maps[-1]
        logits: list[Tensor] = []
        for level in reversed(range(len(self.ups))):
            volume = self.merges[level](torch.cat([self.ups[level](volume), maps[level]], dim=1))
            if level == 0 or (self.training and level < len(self.heads)):
                logits.insert(0, self.heads[level](volume))
        return logits


class ResidualUNet(nn.Module):
    """Residual-encoder U-Net for windows of any size.

    Args:
        config: Features, blocks, stem and deep supervision.
        channels: Number of input channels C.
        regions: Number of regions K.
    """

    def __init__(self, config: ModelConfig, *, channels: int, regions: int) -> None:
        super().__init__()
        self.fold = config.fold
        self.stem = PresenceStem(channels, config.features[0], fold=config.fold)
        self.encoder = Encoder(config.features, config.blocks)
        self.decoder = Decoder(
            config.features,
            outputs=regions * config.fold**3,
            regions=regions,
            deep_supervision=config.deep_supervision,
        )
        self.pooled_features = (config.features[-2], config.features[-1])
        self.multiple = config.fold * 2 ** (len(config.features) - 1)

    def forward(self, images: Tensor, presence: Tensor) -> Features:
        """B C D H W and B C to logits and feature maps."""
        padded = pad_to_multiple(images, self.multiple, minimum=2 * self.multiple)
        maps = self.encoder(self.stem(padded, presence))
        finest, *coarser = self.decoder(maps)
        segmentation = crop_to(depth_to_space(finest, self.fold), images.shape[2:])
        return Features(segmentation, tuple(coarser), (maps[-2], maps[-1]))
