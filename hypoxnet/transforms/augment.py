"""Augmentation of a whole batch on its device: draw, then apply.

Axis legend: B patients, C channels, K regions, D H W voxels.

Drawing takes the only random numbers; applying is deterministic. Segmentation labels move with the images. The order
follows the physics: geometry, then what the scanner does to each channel, then channels that were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hypoxnet.cases import Batch
from hypoxnet.quantities import Modality
from hypoxnet.transforms.augment_intensity import IntensityDraw, apply_intensity, draw_intensity
from hypoxnet.transforms.augment_spatial import SpatialDraw, apply_spatial, draw_spatial
from hypoxnet.transforms.config import AugmentConfig


@dataclass(frozen=True, slots=True)
class Draw:
    """All random numbers of one batch's augmentation.

    Args:
        spatial: Flips, rotation, scaling, elastic deformation, misalignment of channels.
        intensity: Noise, blur, scale, bias field, gamma.
        kept: B C, 1 for channels that stay, 0 for those withheld.
    """

    spatial: SpatialDraw
    intensity: IntensityDraw
    kept: Tensor


def augment(
    batch: Batch,
    config: AugmentConfig,
    *,
    modalities: Sequence[Modality],
    spacing_mm: Sequence[float],
    generator: torch.Generator,
) -> Batch:
    """A batch as it might have been measured another time.

    Args:
        batch: On any device; left unchanged.
        config: Strengths and probabilities.
        modalities: Of each channel.
        spacing_mm: Of the working grid.
        generator: On the batch's device; the same state gives the same batch.
    """
    drawn = draw(batch, config, modalities=modalities, spacing_mm=spacing_mm, generator=generator)
    return apply(batch, drawn, modalities=modalities)


def draw(
    batch: Batch,
    config: AugmentConfig,
    *,
    modalities: Sequence[Modality],
    spacing_mm: Sequence[float],
    generator: torch.Generator,
) -> Draw:
    """The random numbers alone; arguments as for `augment`."""
    return Draw(
        draw_spatial(batch.images, config, spacing_mm=spacing_mm, generator=generator),
        draw_intensity(batch.images, config, modalities=modalities, spacing_mm=spacing_mm, generator=generator),
        _draw_kept(batch.presence, config.drop_channel, generator),
    )


def apply(batch: Batch, drawn: Draw, *, modalities: Sequence[Modality]) -> Batch:
    """Apply what was drawn."""
    images, masks = apply_spatial(batch.images, torch.cat([batch.label, batch.tumour], dim=1), drawn.spatial)
    images = apply_intensity(images, drawn.intensity, modalities=modalities)
    presence = batch.presence * drawn.kept
    return replace(
        batch,
        images=images * presence[:, :, None, None, None],
        presence=presence,
        label=masks[:, :-1],
        tumour=masks[:, -1:],
    )


def _draw_kept(presence: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Which channels stay; where all present ones would go, the luckiest stays."""
    luck = torch.rand(presence.shape, generator=generator, device=presence.device)
    kept = (luck >= probability).float()
    luckiest = torch.nn.functional.one_hot((luck * presence).argmax(dim=1), presence.shape[1]).float()
    none_left = (kept * presence).sum(dim=1, keepdim=True) == 0
    return torch.where(none_left, luckiest, kept)
