"""From vessels and pO2 to MRI maps: R2*, Ktrans, and a T1-weighted image.

Source:
    Severinghaus 1979, J Appl Physiol 46:599 (oxygen saturation). He and Yablonskiy 2007, Magn Reson Med 57:115 (R2' of
    deoxygenated blood: blood volume 4 pi/3 gamma dchi Hct (1 - Y) B0).
"""

from __future__ import annotations

import numpy as np

from hypoxnet.phantom.anatomy import Anatomy, BoolArray
from hypoxnet.phantom.fields import FloatArray
from hypoxnet.phantom.presets import Oxygen

# 1/s for a blood volume of 1, Hct 0.4, 3 T and fully deoxygenated blood.
R2_PRIME_OF_DEOXYGENATED_BLOOD = 4.0 / 3.0 * np.pi * 2.675e8 * 0.264e-6 * 0.4 * 3.0
R2_OF_TISSUE = 14.0
BLOOD_VOLUME_OF_MUSCLE = 0.04


def oxygen_saturation(po2: FloatArray) -> FloatArray:
    """Share of haemoglobin that carries oxygen, 0 to 1.

    Example:
        >>> round(float(oxygen_saturation(np.array(40.0))), 4)
        0.7495
    """
    cubic = po2**3 + 150.0 * po2
    return np.asarray(cubic / (cubic + 23400.0))


def blood_volume(radius_um: FloatArray, oxygen: Oxygen) -> FloatArray:
    """Blood volume fraction: one vessel per cylinder, so it falls with the square of the distance."""
    return np.asarray(np.minimum(BLOOD_VOLUME_OF_MUSCLE * (oxygen.normal_radius_um / radius_um) ** 2 * 2.0, 0.2))


def r2star_per_s(po2: FloatArray, radius_um: FloatArray, anatomy: Anatomy, oxygen: Oxygen) -> FloatArray:
    """R2* map, 1/s: blood in tissue of low pO2 has given off more of its oxygen; air next door adds to it."""
    venous = 0.5 * (oxygen.vessel_mmhg + np.minimum(po2, oxygen.vessel_mmhg))
    deoxygenated = 1.0 - oxygen_saturation(0.65 * venous)
    r2star = R2_OF_TISSUE + R2_PRIME_OF_DEOXYGENATED_BLOOD * blood_volume(radius_um, oxygen) * deoxygenated
    r2star = np.where(anatomy.bone, 80.0, r2star)
    return np.asarray(np.where(anatomy.body & ~anatomy.air, r2star, 0.0))


def ktrans_per_min(radius_um: FloatArray, dead: BoolArray, anatomy: Anatomy, *, permeability: float) -> FloatArray:
    """Ktrans map, 1/min: the surface of vessels, which falls with the square of their distance.

    Args:
        radius_um: Half the distance between vessels, um.
        dead: Necrotic tissue, without flow.
        anatomy: Tumour vessels leak, those of muscle hardly.
        permeability: This patient's Ktrans at 50 um, 1/min.
    """
    leak = np.where(anatomy.tumour, permeability, 0.15 * permeability)
    ktrans = leak * (50.0 / radius_um) ** 2
    ktrans = np.where(dead, 0.02 * permeability, ktrans)
    return np.asarray(np.where(anatomy.body & ~anatomy.air & ~anatomy.bone, np.minimum(ktrans, 4.0), 0.0))


def t1_weighted(dead: BoolArray, anatomy: Anatomy) -> FloatArray:
    """T1-weighted signal on an arbitrary scale: tumour darker than muscle, necrosis darker still."""
    signal = np.where(anatomy.body, 0.62, 0.0)
    for mask, value in (
        (anatomy.muscle, 0.55),
        (anatomy.bone, 0.30),
        (anatomy.vessels, 0.15),
        (anatomy.tumour, 0.48),
        (dead, 0.33),
        (anatomy.air, 0.02),
    ):
        signal = np.where(mask, value, signal)
    return np.asarray(signal)
