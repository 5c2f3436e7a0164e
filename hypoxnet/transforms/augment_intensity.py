"""What a scanner does to each channel: counts and blur in PET, bias field, gamma and Rician noise in MR.

Axis legend: B patients, C channels, D H W voxels. Images are normalised (see `transforms.normalise`): PET as
(log1p(SUV) - log1p(1)) / 0.5, so SUV physics is applied to the SUV itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hypoxnet.quantities import Modality
from hypoxnet.transforms.config import AugmentConfig
from hypoxnet.transforms.normalise import PET_CENTRE, PET_SCALE

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True, slots=True)
class IntensityDraw:
    """Random numbers of the intensity part; 0 (or 1 for factors) where a change was not chosen.

    Args:
        noise: B C, strength of noise.
        noise_field: B C D H W, standard normal.
        blur_voxels: B C 3, standard deviation of the blur along D H W.
        factor: B C, factor on the SUV.
        bias: B C 4 4 4, log of the bias field at its knots.
        log_gamma: B C.
    """

    noise: Tensor
    noise_field: Tensor
    blur_voxels: Tensor
    factor: Tensor
    bias: Tensor
    log_gamma: Tensor


def draw_intensity(
    images: Tensor,
    config: AugmentConfig,
    *,
    modalities: Sequence[Modality],
    spacing_mm: Sequence[float],
    generator: torch.Generator,
) -> IntensityDraw:
    """Random numbers for a batch of images, B C D H W."""
    shape, device = images.shape[:2], images.device
    is_pet = torch.tensor([m is Modality.PET for m in modalities], device=device)
    is_mr = torch.tensor([m is Modality.MR for m in modalities], device=device)

    def chosen(applies: Tensor) -> Tensor:
        return (torch.rand(shape, generator=generator, device=device) < config.intensity) & applies

    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    strength = torch.where(is_pet, config.pet_noise, config.mr_noise)
    sigma_mm = uniform() * config.pet_blur_mm / FWHM_PER_SIGMA * chosen(is_pet)
    spacing = torch.tensor(list(spacing_mm), device=device)
    return IntensityDraw(
        noise=uniform() * strength * chosen(is_pet | is_mr),
        noise_field=torch.randn(images.shape, generator=generator, device=device),
        blur_voxels=sigma_mm[..., None] / spacing,
        factor=1.0 + (2 * uniform() - 1) * config.pet_scale * chosen(is_pet),
        bias=torch.randn((*shape, 4, 4, 4), generator=generator, device=device)
        * (config.mr_bias * uniform() * chosen(is_mr))[..., None, None, None],
        log_gamma=(2 * uniform() - 1) * config.mr_gamma * chosen(is_mr),
    )


def apply_intensity(images: Tensor, drawn: IntensityDraw, *, modalities: Sequence[Modality]) -> Tensor:
    """Apply what was drawn, channel by channel, to the patients it was drawn for; B C D H W to the same."""
    images = images.clone()
    for channel, modality in enumerate(modalities):
        if modality is Modality.PET:
            changed = (drawn.noise[:, channel] > 0) | (drawn.blur_voxels[:, channel, 0] > 0)
            changed |= drawn.factor[:, channel] != 1
            apply_one = _apply_pet
        elif modality is Modality.MR:
            changed = (drawn.noise[:, channel] > 0) | (drawn.log_gamma[:, channel] != 0)
            changed |= drawn.bias[:, channel].flatten(1).any(dim=1)
            apply_one = _apply_mr
        else:
            continue
        for patient in torch.nonzero(changed)[:, 0].tolist():
            images[patient, channel] = apply_one(images[patient, channel], drawn, patient, channel)
    return images


def _apply_pet(image: Tensor, drawn: IntensityDraw, patient: int, channel: int) -> Tensor:
    """Blur, SUV error and count noise of one channel, D H W."""
    suv = torch.expm1(image * PET_SCALE + PET_CENTRE)
    suv = _blur(suv, drawn.blur_voxels[patient, channel]) * drawn.factor[patient, channel]
    # Counts: the variance grows with the uptake. Noise is relative to SUV 1.
    noise = drawn.noise[patient, channel] * drawn.noise_field[patient, channel]
    suv = (suv + noise * suv.clamp(min=0.0).sqrt()).clamp(min=0.0)
    return (torch.log1p(suv) - PET_CENTRE) / PET_SCALE


def _apply_mr(image: Tensor, drawn: IntensityDraw, patient: int, channel: int) -> Tensor:
    """Bias field, gamma and Rician noise of one channel, D H W; background (0) stays 0."""
    inside = image != 0
    if not inside.any():
        return image
    low = image.masked_fill(~inside, torch.inf).min()
    high = image.masked_fill(~inside, -torch.inf).max()
    span = (high - low).clamp(min=1e-6)
    magnitude = (image - low).clamp(min=0.0) / span
    field = F.interpolate(
        drawn.bias[patient, channel][None, None], size=list(image.shape), mode="trilinear", align_corners=True
    )[0, 0]
    magnitude = magnitude.pow(torch.exp(drawn.log_gamma[patient, channel])) * torch.exp(field)
    noise = drawn.noise[patient, channel] / span * drawn.noise_field[patient, channel]
    # Rician: the second quadrature has its own noise, here the same field mirrored along D.
    magnitude = torch.sqrt((magnitude + noise) ** 2 + noise.flip(0) ** 2)
    return torch.where(inside, magnitude * span + low, image)


def _blur(volume: Tensor, sigma_voxels: Tensor) -> Tensor:
    """Separable Gaussian blur of D H W; sigma 0 leaves an axis as it is."""
    for axis, sigma in enumerate(sigma_voxels.tolist()):
        if sigma >= 0.05:
            matrix = _blur_matrix(volume.shape[axis], sigma, volume)
            volume = torch.tensordot(volume, matrix, dims=([axis], [1])).movedim(-1, axis)
    return volume


def _blur_matrix(length: int, sigma: float, like: Tensor) -> Tensor:
    """Gaussian blur along a line as a matrix, N N; beyond its ends the line is continued by its outer values.

    For lines as short as those of a window a product of matrices is quicker than a convolution of one channel.
    """
    radius = max(1, math.ceil(3 * sigma))
    source = torch.arange(-radius, length + radius, device=like.device)
    distance = torch.arange(length, device=like.device)[:, None] - source[None]
    weights = torch.where(distance.abs() <= radius, torch.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(like.dtype)
    matrix = torch.zeros(length, length, dtype=like.dtype, device=like.device)
    return matrix.index_add_(1, source.clamp(0, length - 1), weights)
