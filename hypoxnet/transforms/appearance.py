"""A few numbers of each channel of a prepared case: level, spread and noise, in the tumour, around it, over the image.

Axis legend: C channels, D H W voxels of the working grid.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

from hypoxnet.cases import Sample

# Percentiles of the normalised values, then the logarithm (base 10) of the typical step between neighbouring voxels.
PERCENTILES = (10.0, 50.0, 90.0)
STATISTICS = ("10th percentile", "median", "90th percentile", "noise")
# Fewer voxels than this say nothing of spread and noise.
FEWEST_VOXELS = 27
# A channel without any noise; also what rounding to 8 bits leaves of a normalised value.
SMALLEST_STEP = 1e-3

# Around the contour: far enough not to be tumour, near enough to be in every field of view.
NEAREST_MM, FURTHEST_MM = 6.0, 18.0

Array = NDArray[np.float64]


def channel_statistics(sample: Sample, channels: tuple[str, ...], *, inside_contour: bool) -> dict[str, Array]:
    """`STATISTICS` of each channel that is present.

    Args:
        sample: As prepared; values are normalised, voxels that a channel does not cover are 0.
        channels: Names of C.
        inside_contour: Of the voxels of the tumour contour, else of every voxel.

    Returns:
        Channel to four numbers; a channel that covers fewer than `FEWEST_VOXELS` of these voxels is left out.
    """
    place = sample.tumour[0].numpy() > 0 if inside_contour else np.ones(sample.images.shape[1:], dtype=bool)
    found = {}
    for name, present, image in zip(channels, sample.presence.tolist(), sample.images.numpy(), strict=True):
        # Exactly 0 is where the channel was not measured; a measured voxel hardly ever is.
        covered = place & (image != 0)
        if present > 0 and int(covered.sum()) >= FEWEST_VOXELS:
            levels = np.percentile(image[covered], PERCENTILES)
            found[name] = np.array([*levels, np.log10(max(_step(image, covered), SMALLEST_STEP))], dtype=np.float64)
    return found


def medians_around(sample: Sample, channels: tuple[str, ...]) -> dict[str, float]:
    """The median of each channel that is present, in the tissue from `NEAREST_MM` to `FURTHEST_MM` round the contour.

    Args:
        sample: As prepared, with a contour.
        channels: Names of C.

    Returns:
        Channel to median; a channel that covers fewer than `FEWEST_VOXELS` of these voxels is left out.
    """
    tumour = sample.tumour[0].numpy() > 0
    margins = [math.ceil(FURTHEST_MM / spacing) for spacing in sample.grid.spacing_mm]
    (found,) = find_objects(tumour.astype(np.uint8))
    box = tuple(slice(max(0, s.start - more), s.stop + more) for s, more in zip(found, margins, strict=True))
    away_mm = distance_transform_edt(~tumour[box], sampling=sample.grid.spacing_mm)
    place = (away_mm > NEAREST_MM) & (away_mm <= FURTHEST_MM)
    medians = {}
    for name, present, image in zip(channels, sample.presence.tolist(), sample.images.numpy(), strict=True):
        values = image[box][place]
        values = values[values != 0]
        if present > 0 and len(values) >= FEWEST_VOXELS:
            medians[name] = float(np.median(values))
    return medians


def _step(image: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """Median magnitude of the second difference along the axes, which a smooth slope does not raise."""
    steps = []
    for axis in range(3):
        values, kept = np.moveaxis(image, axis, 0), np.moveaxis(where, axis, 0)
        if len(values) > 2:
            second = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
            steps.append(second[kept[2:] & kept[1:-1] & kept[:-2]])
    every = np.concatenate(steps) if steps else np.zeros(0)
    return float(np.median(every)) if every.size else 0.0
