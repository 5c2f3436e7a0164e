"""Smooth random fields, blur and resampling on a voxel grid.

Axis legend: ... any leading axes, D H W voxels along i, j, k of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hypoxnet.geometry import Grid
from hypoxnet.phantom.streams import normal

FWHM_PER_SIGMA = 2.3548200450309493
# Beyond four standard deviations a Gaussian holds 6e-5 of its weight.
REACH = 4.0


@lru_cache(maxsize=64)
def _smoothing(length: int, sigma: float, edge: str) -> Tensor:
    """The Gaussian of an axis as a matrix, length x length; rows add up to 1.

    `edge` is `wrap` (periodic), `same` (rows normalised, so that a constant stays) or `zero` (nothing lies outside).
    """
    index = np.arange(length)
    apart = index[:, None] - index[None, :]
    if edge == "wrap":
        kernel = np.sum([np.exp(-0.5 * ((apart + n * length) / sigma) ** 2) for n in (-2, -1, 0, 1, 2)], axis=0)
        return torch.from_numpy(kernel / kernel.sum(axis=1, keepdims=True)).float()
    kernel = np.exp(-0.5 * (apart / sigma) ** 2)
    whole = np.exp(-0.5 * (np.arange(-length, length + 1) / sigma) ** 2).sum()
    return torch.from_numpy(kernel / (kernel.sum(axis=1, keepdims=True) if edge == "same" else whole)).float()


def smooth(volume: Tensor, sigma_voxels: Sequence[float], *, edge: str = "same") -> Tensor:
    """Gaussian smoothing as one matrix product per axis: exact, differentiable, and fast on every device.

    Args:
        volume: ... D H W.
        sigma_voxels: Standard deviation along each of the last three axes; 0 leaves an axis as it is.
        edge: `same` (a constant stays a constant), `zero` (nothing lies outside) or `wrap` (periodic).

    Returns:
        As `volume`.
    """
    for axis, sigma in zip((-3, -2, -1), sigma_voxels, strict=True):
        if sigma > 0:
            matrix = _smoothing(volume.shape[axis], float(sigma), edge).to(volume)
            volume = torch.matmul(volume.movedim(axis, -1), matrix.T).movedim(-1, axis)
    return volume


def blur(volume: Tensor, *, fwhm_mm: float | Sequence[float], spacing_mm: Sequence[float]) -> Tensor:
    """Gaussian point spread function of a scanner.

    Args:
        volume: ... D H W.
        fwhm_mm: Full width at half maximum, one or along each axis.
        spacing_mm: Voxel size.
    """
    widths = [float(fwhm_mm)] * 3 if isinstance(fwhm_mm, int | float) else list(fwhm_mm)
    return smooth(volume, [w / FWHM_PER_SIGMA / s for w, s in zip(widths, spacing_mm, strict=True)])


def gaussian_field(
    shape: Sequence[int],
    *,
    length_mm: float,
    spacing_mm: Sequence[float],
    generator: np.random.Generator,
    device: torch.device | None = None,
) -> Tensor:
    """A field with mean 0, variance 1 and Gaussian correlation, whatever the grid.

    Args:
        shape: Voxels.
        length_mm: Correlation length: the correlation of two points this far apart is exp(-1/2).
        spacing_mm: Voxel size.
        generator: Source of randomness.
        device: Where the field lives.

    Returns:
        D H W, float32. The expected variance is 1; that of one draw over a small volume is not.
    """
    # White noise smoothed with s has the correlation exp(-d^2 / (4 s^2)).
    sigma = [length_mm / np.sqrt(2.0) / s for s in spacing_mm]
    noise = normal(generator, *shape, device=device)
    share = 1.0
    for n, s in zip(shape, sigma, strict=True):
        share *= float((_smoothing(n, s, "wrap")[0].double() ** 2).sum())
    return smooth(noise, sigma, edge="wrap") / math.sqrt(share)


def resampled(volume: Tensor, source: Grid, target: Grid, *, nearest: bool = False) -> Tensor:
    """A volume on another grid, 0 outside.

    Args:
        volume: ... D H W on `source`; a bool or integer volume is read as float.
        source: Its grid.
        target: Wanted grid.
        nearest: Nearest neighbour instead of linear interpolation.

    Returns:
        ... D H W on `target`, float32.
    """
    mapping = np.linalg.inv(source.matrix) @ target.matrix
    values = volume.float()
    lead = values.shape[:-3]
    values = values.reshape(1, -1, *values.shape[-3:])
    size = np.array(source.shape, dtype=float)
    # grid_sample wants x y z in the order of the last axis first, in units of half the volume.
    scale = 2.0 / size
    matrix = np.zeros((3, 4))
    for row in range(3):
        matrix[row, :3] = mapping[row, :3] * scale[row]
        matrix[row, 3] = (mapping[row, 3] + 0.5) * scale[row] - 1.0
    axes = [torch.arange(n, dtype=torch.float32, device=values.device) for n in target.shape]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    at = [m[0] * i + m[1] * j + m[2] * k + m[3] for m in matrix.tolist()]
    where = torch.stack(at[::-1], dim=-1)[None]
    sampled = F.grid_sample(
        values, where, mode="nearest" if nearest else "bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.reshape(*lead, *target.shape)


def averaged(volume: Tensor, source: Grid, target: Grid) -> Tensor:
    """A volume on a coarser grid: each voxel holds the mean over its own size, 0 outside.

    Args:
        volume: ... D H W on `source`.
        source: Its grid.
        target: Wanted grid; its axes may be oblique by a few degrees.
    """
    widths = [max(1.0, t / s) for s, t in zip(source.spacing_mm, target.spacing_mm, strict=True)]
    # A box of n voxels has the variance of a Gaussian with sigma n / sqrt(12); interpolation itself adds that of one.
    sigma = [np.sqrt(max(w**2 - 1.0, 0.0) / 12.0) for w in widths]
    return resampled(smooth(volume.float(), sigma), source, target)


def centred_grid(extent_mm: Sequence[float], spacing_mm: Sequence[float], *, flipped: bool = False) -> Grid:
    """A grid centred on the origin: RAS+, or with the first axis from left to right (LAS+) as scanners have it."""
    shape = [max(1, round(e / s)) for e, s in zip(extent_mm, spacing_mm, strict=True)]
    directions = np.array([-1.0 if flipped else 1.0, 1.0, 1.0]) * np.asarray(spacing_mm, dtype=float)
    affine = np.diag([*directions, 1.0])
    affine[:3, 3] = -directions * (np.array(shape) - 1) / 2
    return Grid.from_affine(shape, affine)
