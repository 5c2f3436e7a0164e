"""Geometric augmentation: one resampling for rotation, scaling, elastic deformation and misalignment together.

Axis legend: B patients, C channels, K regions, D H W voxels. Grids are in torch's order (x = W, y = H, z = D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hypoxnet.transforms.config import AugmentConfig

# Distance of the control points of the elastic deformation, mm: about the size of a structure of the neck.
ELASTIC_KNOT_MM = 24.0


@dataclass(frozen=True, slots=True)
class SpatialDraw:
    """Random numbers of the geometric part.

    Args:
        flip: B 3, True where an axis is mirrored.
        moved: Indices of the patients that are resampled.
        matrix: M 3 3, for the moved patients, in voxels about the centre of the window.
        displacement: M 3 d h w, elastic displacement at the knots, voxels along D H W; None without.
        shift: M C 3, shift of each channel against the others, voxels along D H W.
    """

    flip: Tensor
    moved: Tensor
    matrix: Tensor
    displacement: Tensor | None
    shift: Tensor


def draw_spatial(
    images: Tensor, config: AugmentConfig, *, spacing_mm: Sequence[float], generator: torch.Generator
) -> SpatialDraw:
    """Random numbers for a batch of images, B C D H W."""
    count, channels = images.shape[:2]
    device = images.device
    spacing = torch.tensor(list(spacing_mm), device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    flip = uniform(count, 3) < config.flip
    warped = uniform(count) < config.spatial
    shifted = uniform(count) < config.misalign
    angles = (2 * uniform(count, 3) - 1) * torch.deg2rad(torch.tensor(config.rotate_degrees, device=device))
    scale = 1 + (2 * uniform(count) - 1) * config.scale
    matrix = _rotation(angles, spacing) * scale[:, None, None]
    identity = torch.eye(3, device=device)
    matrix = torch.where(warped[:, None, None], matrix, identity)
    shift = normal(count, channels, 3) * (config.misalign_mm / spacing) * shifted[:, None, None]
    knots = [max(2, round(n * s / ELASTIC_KNOT_MM) + 1) for n, s in zip(images.shape[2:], spacing_mm, strict=True)]
    displacement = normal(count, 3, *knots) * (config.elastic_mm / spacing)[:, None, None, None]
    displacement = displacement * warped[:, None, None, None, None]
    moved = torch.nonzero(
        (warped & (config.rotate_degrees > 0 or config.scale > 0 or config.elastic_mm > 0))
        | (shifted & (config.misalign_mm > 0))
    )[:, 0]
    elastic = displacement[moved] if config.elastic_mm > 0 else None
    return SpatialDraw(flip, moved, matrix[moved], elastic, shift[moved])


def _rotation(angles: Tensor, spacing: Tensor) -> Tensor:
    """Rotation about each axis in mm, expressed in voxels; angles B 3, radians."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    rotation = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, first, first] = turn[:, second, second] = cos[:, axis]
        turn[:, first, second], turn[:, second, first] = -sin[:, axis], sin[:, axis]
        rotation = rotation @ turn
    return rotation * spacing[None, None, :] / spacing[None, :, None]


def apply_spatial(images: Tensor, masks: Tensor, drawn: SpatialDraw) -> tuple[Tensor, Tensor]:
    """Images (linear) and masks (linear, at least half) moved together.

    Args:
        images: B C D H W.
        masks: B M D H W, uint8.
        drawn: From `draw_spatial`.

    Returns:
        New images and masks of the same shapes and types; voxels from outside the window are 0.
    """
    images, masks = _flip(images, drawn.flip), _flip(masks, drawn.flip)
    if len(drawn.moved) == 0:
        return images, masks
    where = _sampling_grid(images.shape[2:], drawn)
    moving = images[drawn.moved]
    if drawn.shift.any():
        moved_images = _sample_shifted(moving, where, drawn.shift)
        moved_masks = _sample(masks[drawn.moved].to(images.dtype), where)
    else:
        both = _sample(torch.cat([moving, masks[drawn.moved].to(images.dtype)], dim=1), where)
        moved_images, moved_masks = both[:, : images.shape[1]], both[:, images.shape[1] :]
    images, masks = images.clone(), masks.clone()
    images[drawn.moved] = moved_images
    masks[drawn.moved] = (moved_masks >= 0.5).to(masks.dtype)
    return images, masks


def _flip(volumes: Tensor, flip: Tensor) -> Tensor:
    turned = [
        volume.flip([1 + axis for axis in range(3) if axes[axis]]) if any(axes) else volume
        for volume, axes in zip(volumes, flip.tolist(), strict=True)
    ]
    return torch.stack(turned)


def _sampling_grid(shape: torch.Size, drawn: SpatialDraw) -> Tensor:
    """Where each voxel comes from, M D H W 3 in voxels about the centre, along D H W."""
    device = drawn.matrix.device
    axes = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    centred = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    where = torch.einsum("mij,dhwj->mdhwi", drawn.matrix, centred)
    if drawn.displacement is not None:
        dense = F.interpolate(drawn.displacement, size=list(shape), mode="trilinear", align_corners=True)
        where = where + dense.permute(0, 2, 3, 4, 1)
    return where


def _sample(volumes: Tensor, where: Tensor) -> Tensor:
    """Linear sampling of M X D H W at voxels about the centre."""
    half = torch.tensor([n / 2 for n in volumes.shape[2:]], device=where.device)
    normalised = (where / half).flip(-1).to(volumes.dtype)
    return F.grid_sample(volumes, normalised, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sample_shifted(volumes: Tensor, where: Tensor, shift: Tensor) -> Tensor:
    """Each channel at its own shift; channels are sampled one by one, which costs no more than together."""
    return torch.cat(
        [
            _sample(volumes[:, channel : channel + 1], where + shift[:, channel, None, None, None, :])
            for channel in range(volumes.shape[1])
        ],
        dim=1,
    )
