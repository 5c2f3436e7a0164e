"""From pO2 to the late uptake of FMISO, as a ratio to muscle.

A voxel holds a distribution of pO2, and binding is far from linear, so the local response is averaged over it. Binding
falls with pO2, and cells without oxygen are dead: the voxel's uptake peaks near 5 mmHg and falls below it.

Source:
    Warren and Partridge 2016, Phys Med Biol 61:8596 (half-maxima; uptake against mean pO2 is not monotonic).
"""

from __future__ import annotations

import numpy as np

from hypoxnet.phantom.fields import FloatArray
from hypoxnet.phantom.presets import Oxygen, Tracer

# Nodes of a Gamma distribution with shape 2 and mean 1: pO2 inside a voxel spreads by about 70 % of its mean.
_NODES, _WEIGHTS = np.polynomial.laguerre.laggauss(12)
_RELATIVE = _NODES / 2.0
_SHARE = _NODES * _WEIGHTS / (_NODES * _WEIGHTS).sum()


def local_binding(po2: FloatArray, tracer: Tracer) -> FloatArray:
    """Trapped tracer at a point, as a share of the largest: binding of living cells."""
    return np.asarray(
        tracer.half_binding_mmhg / (tracer.half_binding_mmhg + po2) * po2 / (po2 + tracer.half_viability_mmhg)
    )


def voxel_binding(mean_po2: FloatArray, tracer: Tracer) -> FloatArray:
    """Mean of `local_binding` over the distribution of pO2 inside a voxel of the given mean."""
    total = np.zeros_like(mean_po2)
    for relative, share in zip(_RELATIVE, _SHARE, strict=True):
        total += share * local_binding(mean_po2 * relative, tracer)
    return total


def uptake_ratio(po2: FloatArray, radius_um: FloatArray, *, tracer: Tracer, oxygen: Oxygen, free: float) -> FloatArray:
    """Late ratio to muscle of tissue, before the scanner.

    Args:
        po2: Mean pO2, mmHg.
        radius_um: Half the distance between vessels, um; delivery of free tracer falls with it.
        tracer: Parameters.
        oxygen: Gives the vessels of muscle.
        free: This patient's ratio without binding.
    """
    delivery = (oxygen.normal_radius_um / radius_um) ** tracer.perfusion_share
    return np.asarray(free * delivery + tracer.binding * voxel_binding(po2, tracer))


def effective_share(po2: FloatArray, tracer: Tracer) -> FloatArray:
    """Share of the cells of a voxel that live, averaged over its distribution of pO2."""
    total = np.zeros_like(po2)
    for relative, share in zip(_RELATIVE, _SHARE, strict=True):
        local = po2 * relative
        total += share * local / (local + tracer.half_viability_mmhg)
    return total
