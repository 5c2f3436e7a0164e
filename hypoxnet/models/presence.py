"""Telling the network which channels were measured. Axis legend: B patients, C channels, D H W voxels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PresenceStem(nn.Module):
    """First convolution of every backbone: an absent channel counts as nothing, and its absence is said.

    The image of an absent channel is multiplied by 0, whatever it holds; which channels are present scales and shifts
    the features (FiLM, Perez et al. 2018), starting from no effect.

    Args:
        channels: Number of input channels C.
        features: Number of output features.
        fold: Side of the block of voxels that is folded into channels first (space to depth); 1 folds nothing.
            2 makes all that follows eight times cheaper: on two CPU cores that is worth more than the finest level.
    """

    def __init__(self, channels: int, features: int, *, fold: int = 1) -> None:
        super().__init__()
        self.fold = fold
        self.convolution = nn.Conv3d(channels * fold**3, features, kernel_size=3, padding=1, bias=False)
        self.norm = nn.InstanceNorm3d(features, affine=True)
        self.film = nn.Linear(channels, 2 * features)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, images: Tensor, presence: Tensor) -> Tensor:
        """B C D H W and B C to B features D/fold H/fold W/fold."""
        absent = presence[:, :, None, None, None] == 0
        measured = images.masked_fill(absent, 0.0)
        features = self.norm(self.convolution(space_to_depth(measured, self.fold)))
        # Presence as its deviation from "all present", so that a cohort without gaps never moves the film.
        scale, shift = self.film(1.0 - presence)[:, :, None, None, None].chunk(2, dim=1)
        return nn.functional.leaky_relu(features * (1.0 + scale) + shift, 0.01)


def space_to_depth(volume: Tensor, side: int) -> Tensor:
    """Fold cubes of side^3 voxels into channels: B C D H W to B C*side^3 D/side H/side W/side."""
    if side == 1:
        return volume
    b, c, d, h, w = volume.shape
    blocks = volume.reshape(b, c, d // side, side, h // side, side, w // side, side)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * side**3, d // side, h // side, w // side)


def depth_to_space(volume: Tensor, side: int) -> Tensor:
    """The inverse of `space_to_depth`: B C*side^3 D H W to B C D*side H*side W*side.

    Example:
        >>> x = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
        >>> bool((depth_to_space(space_to_depth(x, 2), 2) == x).all())
        True
    """
    if side == 1:
        return volume
    b, c, d, h, w = volume.shape
    blocks = volume.reshape(b, c // side**3, side, side, side, d, h, w)
    return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // side**3, d * side, h * side, w * side)


def pad_to_multiple(volume: Tensor, multiple: int, *, minimum: int = 1) -> Tensor:
    """Zeros at the far end of each axis until its length is a multiple, and no less than a minimum."""
    missing = [max(n + (-n) % multiple, minimum) - n for n in volume.shape[2:]]
    if not any(missing):
        return volume
    return nn.functional.pad(volume, [0, missing[2], 0, missing[1], 0, missing[0]])


def crop_to(volume: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The near corner of a volume, undoing `pad_to_multiple`."""
    return volume[..., : shape[0], : shape[1], : shape[2]]
