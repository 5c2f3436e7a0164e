"""Smooth random fields on a voxel grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]

FWHM_PER_SIGMA = 2.3548200450309493


def gaussian_field(
    shape: Sequence[int], *, length_mm: float, spacing_mm: Sequence[float], generator: np.random.Generator
) -> FloatArray:
    """A field with mean 0, standard deviation 1 and Gaussian correlation.

    Args:
        shape: Voxels.
        length_mm: Standard deviation of the smoothing kernel; the correlation falls to 1/e over twice of it.
        spacing_mm: Voxel size.
        generator: Source of randomness.
    """
    sigma = [length_mm / s for s in spacing_mm]
    smooth = ndimage.gaussian_filter(generator.standard_normal(tuple(shape)), sigma, mode="wrap")
    return np.asarray((smooth - smooth.mean()) / smooth.std())


def blur(volume: FloatArray, *, fwhm_mm: float, spacing_mm: Sequence[float]) -> FloatArray:
    """Gaussian point spread function of a scanner."""
    sigma = [fwhm_mm / FWHM_PER_SIGMA / s for s in spacing_mm]
    return np.asarray(ndimage.gaussian_filter(volume, sigma, mode="nearest"))
