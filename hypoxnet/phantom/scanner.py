"""What a scanner makes of a map: its resolution, its grid, its noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hypoxnet.geometry import Affine, Grid
from hypoxnet.phantom.fields import FloatArray, blur, gaussian_field
from hypoxnet.phantom.presets import Preset, Scanner


def fine_grid(preset: Preset) -> Grid:
    """Grid of the object: centred on the origin, RAS+ axes."""
    side = round(preset.extent_mm / preset.fine_mm)
    affine = np.diag([preset.fine_mm] * 3 + [1.0])
    affine[:3, 3] = -(side - 1) / 2 * preset.fine_mm
    return Grid.from_affine((side, side, side), affine)


def pet_grid(preset: Preset) -> Grid:
    """Grid of PET: radiological order, the first axis runs from left to right of the patient (LAS+)."""
    side = round(preset.extent_mm / preset.pet_mm)
    affine = np.diag([-preset.pet_mm, preset.pet_mm, preset.pet_mm, 1.0])
    affine[:3, 3] = affine[:3, :3] @ np.full(3, -(side - 1) / 2)
    return Grid.from_affine((side, side, side), affine)


def mr_grid(preset: Preset, generator: np.random.Generator) -> Grid:
    """Grid of MR: slightly oblique and off centre, as it was planned on the day."""
    angles = np.radians(generator.normal(0.0, 3.0, 3))
    shape = tuple(round(0.96 * preset.extent_mm / s) for s in preset.mr_mm)
    affine: Affine = np.eye(4)
    affine[:3, :3] = _rotation(angles) * np.array(preset.mr_mm)
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = generator.normal(0.0, 2.0, 3) - middle
    return Grid.from_affine(shape, affine)


def _rotation(angles: FloatArray) -> FloatArray:
    rotation = np.eye(3)
    for (first, second), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def sample(volume: FloatArray, source: Grid, target: Grid) -> FloatArray:
    """A volume on another grid, linear, 0 outside."""
    mapping = np.linalg.inv(source.matrix) @ target.matrix
    return np.asarray(
        ndimage.affine_transform(
            volume, mapping[:3, :3], mapping[:3, 3], output_shape=target.shape, order=1, mode="constant"
        )
    )


def averaged(volume: FloatArray, source: Grid, target: Grid) -> FloatArray:
    """A volume on a coarser grid: each voxel holds the mean over its own size."""
    widths = [max(1.0, t / s) for s, t in zip(source.spacing_mm, target.spacing_mm, strict=True)]
    # A box of n voxels has the variance of a Gaussian with sigma n / sqrt(12).
    smooth = ndimage.gaussian_filter(volume, [w / np.sqrt(12.0) if w > 1 else 0.0 for w in widths])
    return sample(smooth, source, target)


def pet_image(suv: FloatArray, preset: Preset, scanner: Scanner, generator: np.random.Generator) -> FloatArray:
    """PET of an uptake map: point spread, voxel grid, and noise whose variance follows the counts.

    Noise is correlated over a voxel and a half, as after iterative reconstruction with a post-filter.
    """
    fine, grid = fine_grid(preset), pet_grid(preset)
    clean = sample(blur(suv, fwhm_mm=scanner.psf_mm, spacing_mm=fine.spacing_mm), fine, grid)
    noise = gaussian_field(
        grid.shape, length_mm=1.2 * preset.pet_mm / 2, spacing_mm=grid.spacing_mm, generator=generator
    )
    return np.maximum(clean + scanner.pet_noise * np.sqrt(np.maximum(clean, 0.05)) * noise, 0.0)


def mr_map(
    values: FloatArray, grid: Grid, preset: Preset, *, relative_noise: float, generator: np.random.Generator
) -> FloatArray:
    """A quantitative map on the MR grid; its noise is relative to the mean over the tissue."""
    clean = averaged(values, fine_grid(preset), grid)
    inside = clean > 0
    scale = float(clean[inside].mean()) if inside.any() else 0.0
    noisy = clean + relative_noise * (0.5 * scale + 0.5 * clean) * generator.standard_normal(grid.shape)
    return np.where(inside, np.maximum(noisy, 0.0), 0.0)


def mr_weighted(
    signal: FloatArray, grid: Grid, preset: Preset, *, scanner: Scanner, generator: np.random.Generator
) -> FloatArray:
    """A weighted image: bias field, arbitrary gain, Rician noise."""
    clean = averaged(signal, fine_grid(preset), grid)
    bias = np.exp(
        scanner.bias * gaussian_field(grid.shape, length_mm=30.0, spacing_mm=grid.spacing_mm, generator=generator)
    )
    real = clean * bias + scanner.mr_noise * 0.5 * generator.standard_normal(grid.shape)
    imaginary = scanner.mr_noise * 0.5 * generator.standard_normal(grid.shape)
    gain = float(np.exp(generator.normal(6.0, 0.3)))
    return np.asarray(gain * np.hypot(real, imaginary))
