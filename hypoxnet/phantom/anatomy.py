"""A neck with a tumour: which tissue is where.

Lengths in mm from the centre of the cube; x runs to the right of the patient, y from front to back, z upwards. Voxel
axes are RAS+, so y runs against the second of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hypoxnet.phantom.fields import FloatArray, gaussian_field
from hypoxnet.phantom.presets import Preset

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Tissues on the fine grid.

    Args:
        body: Inside the skin.
        air: The airway.
        bone: The spine.
        vessels: Carotid arteries and jugular veins.
        muscle: The reference region, away from tumour and vessels.
        tumour: Gross tumour volume of the primary.
        depth_mm: Distance from the rim of the tumour inwards, 0 outside.
    """

    body: BoolArray
    air: BoolArray
    bone: BoolArray
    vessels: BoolArray
    muscle: BoolArray
    tumour: BoolArray
    depth_mm: FloatArray


def make_anatomy(preset: Preset, generator: np.random.Generator) -> Anatomy:
    """Draw a neck.

    Tumour volumes are log-normal; its surface is a sphere whose radius varies smoothly, so volume and lobes are drawn
    independently.
    """
    side = round(preset.extent_mm / preset.fine_mm)
    axis = (np.arange(side) - (side - 1) / 2) * preset.fine_mm
    x, y, z = np.meshgrid(axis, -axis, axis, indexing="ij")
    half = preset.extent_mm / 2
    body = (x / (1.15 * half)) ** 2 + (y / (0.98 * half)) ** 2 < 1
    air = (x / 8) ** 2 + ((y + 0.45 * half) / 7) ** 2 < 1
    bone = (x / 12) ** 2 + ((y - 0.62 * half) / 10) ** 2 < 1
    vessels = np.zeros_like(body)
    for sign in (-1, 1):
        vessels |= (x - sign * 0.52 * half) ** 2 + (y - 2) ** 2 < 3.5**2
        vessels |= (x - sign * 0.68 * half) ** 2 + (y - 6) ** 2 < 4.5**2
    centre = generator.normal(0.0, [0.12 * half, 0.08 * half, 0.10 * half])
    tumour = _tumour(preset, (x - centre[0], y - centre[1], z - centre[2]), generator) & body & ~bone & ~air
    muscle = (np.abs(np.abs(x) - 0.45 * half) < 9) & (np.abs(y - 0.62 * half) < 7) & (np.abs(z) < 0.7 * half)
    away = ndimage.distance_transform_edt(~tumour) * preset.fine_mm > 10.0
    depth = ndimage.distance_transform_edt(tumour) * preset.fine_mm
    return Anatomy(
        body, air & body & ~tumour, bone, vessels & body & ~tumour, muscle & away & body & ~bone, tumour, depth
    )


def _tumour(
    preset: Preset, offset: tuple[FloatArray, FloatArray, FloatArray], generator: np.random.Generator
) -> BoolArray:
    volume_ml = float(np.exp(np.log(preset.median_gtv_ml) + preset.gtv_spread * generator.standard_normal()))
    # The largest sphere that keeps 10 mm of neck round it.
    volume_ml = min(volume_ml, 4 / 3 * np.pi * (preset.extent_mm / 2 - 14) ** 3 / 1000)
    axes = np.exp(0.15 * generator.standard_normal(3))
    axes /= np.cbrt(axes.prod())
    distance = np.sqrt(sum((o / a) ** 2 for o, a in zip(offset, axes, strict=True)))
    lobes = gaussian_field(distance.shape, length_mm=9.0, spacing_mm=(preset.fine_mm,) * 3, generator=generator)
    level = distance * np.exp(0.13 * lobes)
    # The level that encloses the volume that was drawn.
    wanted = max(1, round(volume_ml * 1000 / preset.fine_mm**3))
    inside: BoolArray = level <= np.partition(level.ravel(), wanted)[wanted]
    parts, count = ndimage.label(inside)
    if count < 2:
        return inside
    return np.asarray(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
