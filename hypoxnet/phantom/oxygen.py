"""From vessels to pO2: Krogh's cylinder averaged over a voxel, with Michaelis-Menten consumption.

A voxel of 2 mm holds hundreds of vessels, and oxygen diffuses 0.1 mm: neighbours do not exchange oxygen, the vessels
inside a voxel decide. With vessels of radius r at pressure p_v, each supplying a cylinder of radius R,
the mean pressure p of the tissue obeys

    g(R) (p_v - p) = M p / (p + K),     g(R) = 2 D / (R^2 [ln(R/r) - 3/4])

The left side is Krogh's and Erlang's solution, averaged over the cylinder; the right side is consumption.

Source:
    Krogh 1919, J Physiol 52:409. Dasu et al. 2003, Phys Med Biol 48:2829 (parameters of tumour models).
"""

from __future__ import annotations

import numpy as np

from hypoxnet.phantom.anatomy import Anatomy, BoolArray
from hypoxnet.phantom.fields import FloatArray, gaussian_field
from hypoxnet.phantom.presets import Oxygen, Preset


def supply_per_s(radius_um: FloatArray, oxygen: Oxygen) -> FloatArray:
    """Exchange between vessels and tissue, 1/s, for a tissue cylinder of radius R."""
    shape = np.log(radius_um / oxygen.vessel_radius_um) - 0.75
    return np.asarray(2.0 * oxygen.diffusion_um2_per_s / (radius_um**2 * shape))


def mean_po2(radius_um: FloatArray, oxygen: Oxygen) -> FloatArray:
    """Mean pO2 of tissue between vessels that supply cylinders of radius R: the positive root of a quadratic.

    Args:
        radius_um: Half the distance between vessels, um.
        oxygen: Parameters.

    Returns:
        pO2, mmHg, between 0 and that of the vessels.
    """
    ratio = oxygen.consumption_mmhg_per_s / supply_per_s(radius_um, oxygen)
    b = oxygen.half_consumption_mmhg + ratio - oxygen.vessel_mmhg
    c = oxygen.vessel_mmhg * oxygen.half_consumption_mmhg
    root = np.sqrt(b**2 + 4.0 * c)
    # The root without cancellation, whichever sign b has.
    return np.asarray(np.where(b > 0, 2.0 * c / (b + root), 0.5 * (root - b)))


def balance_residual(po2: FloatArray, radius_um: FloatArray, oxygen: Oxygen) -> FloatArray:
    """Supply minus consumption, mmHg/s: 0 in the steady state."""
    supplied = supply_per_s(radius_um, oxygen) * (oxygen.vessel_mmhg - po2)
    consumed = oxygen.consumption_mmhg_per_s * po2 / (po2 + oxygen.half_consumption_mmhg)
    return np.asarray(supplied - consumed)


def anoxia_distance_um(oxygen: Oxygen) -> float:
    """Distance from a planar vessel wall at which oxygen is used up, zero-order consumption: sqrt(2 D p / M)."""
    return float(np.sqrt(2.0 * oxygen.diffusion_um2_per_s * oxygen.vessel_mmhg / oxygen.consumption_mmhg_per_s))


def vessel_distance(anatomy: Anatomy, preset: Preset, generator: np.random.Generator) -> FloatArray:
    """Half the distance between vessels, um: a patient's level, wider towards the core, with a texture."""
    oxygen = preset.oxygen
    spacing = (preset.fine_mm,) * 3
    texture = gaussian_field(
        anatomy.tumour.shape, length_mm=oxygen.texture_mm / 2, spacing_mm=spacing, generator=generator
    )
    patient = oxygen.tissue_radius_spread * generator.standard_normal()
    depth = np.minimum(anatomy.depth_mm / 15.0, 1.0) - 0.4
    logarithm = patient + oxygen.core_growth * depth + oxygen.tissue_radius_texture * texture
    inside = oxygen.tissue_radius_um * np.exp(logarithm)
    outside = oxygen.normal_radius_um * np.exp(0.1 * texture)
    return np.asarray(np.maximum(np.where(anatomy.tumour, inside, outside), 3.5 * oxygen.vessel_radius_um))


def necrosis(radius_um: FloatArray, anatomy: Anatomy, oxygen: Oxygen) -> BoolArray:
    """Tissue too far from vessels to live; it keeps the pO2 of the model, near 0."""
    return np.asarray(anatomy.tumour & (radius_um > oxygen.necrosis_um))
