"""Closed forms for simple arrangements of vessels; the solver and the closure are held against them.

Source:
    Krogh 1919, J Physiol 52:409, with Erlang's formula: a vessel of radius r supplies a cylinder of radius R whose
    tissue consumes M everywhere, and nothing passes the cylinder's surface.
    Drummond and Tahir 1984, Int J Multiphase Flow 10:515: flow along a square array of rods, which obeys the same
    equation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def krogh_supply_per_s(radius_um: Tensor, *, capillary_radius_um: float, diffusion_um2_per_s: float) -> Tensor:
    """Consumption over the mean drop of pressure in Krogh's cylinder, 1/s: 2 D / (R^2 (ln(R/r) - 3/4)) for R >> r.

    Args:
        radius_um: R, um.
        capillary_radius_um: r.
        diffusion_um2_per_s: D.

    Example:
        >>> far = krogh_supply_per_s(torch.tensor([500.0]), capillary_radius_um=5.0, diffusion_um2_per_s=2000.0)
        >>> round(float(far) * 500**2 * (math.log(100) - 0.75) / 4000, 3)
        1.0
    """
    inner, outer = capillary_radius_um**2, radius_um**2
    ring = outer - inner
    drop = outer * torch.log(radius_um / capillary_radius_um) / ring - 0.5 - ring / (4.0 * outer)
    return 2.0 * diffusion_um2_per_s / (outer * drop)


def krogh_profile_mmhg(
    distance_um: Tensor, *, radius_um: float, capillary_radius_um: float, diffusion_um2_per_s: float, consumption: float
) -> Tensor:
    """Drop of pO2 from the vessel to a distance from its axis, mmHg.

    Args:
        distance_um: From the axis, between r and R.
        radius_um: R.
        capillary_radius_um: r.
        diffusion_um2_per_s: D.
        consumption: M, mmHg/s, everywhere.
    """
    quarter = consumption / (4.0 * diffusion_um2_per_s)
    logarithm = torch.log(distance_um / capillary_radius_um)
    return 2.0 * quarter * radius_um**2 * logarithm - quarter * (distance_um**2 - capillary_radius_um**2)


def square_array_supply_per_s(radius_um: float, *, capillary_radius_um: float, diffusion_um2_per_s: float) -> float:
    """As `krogh_supply_per_s` for parallel vessels in a square array, per volume of tissue and vessels, 1/s.

    Args:
        radius_um: R; the array has one vessel in pi R^2.
        capillary_radius_um: r.
        diffusion_um2_per_s: D.
    """
    share = (capillary_radius_um / radius_um) ** 2
    series = -math.log(share) - 1.476 + 2.0 * share - 0.5 * share**2
    return 4.0 * diffusion_um2_per_s / (radius_um**2 * series)


def anoxia_distance_um(*, vessel_mmhg: float, diffusion_um2_per_s: float, consumption: float) -> float:
    """Distance from a plane of vessels at which oxygen is used up when consumption is M up to there: sqrt(2 D p / M).

    Args:
        vessel_mmhg: p.
        diffusion_um2_per_s: D.
        consumption: M, mmHg/s.

    Example:
        >>> round(anoxia_distance_um(vessel_mmhg=40.0, diffusion_um2_per_s=2000.0, consumption=15.0), 1)
        103.3
    """
    return math.sqrt(2.0 * diffusion_um2_per_s * vessel_mmhg / consumption)


def first_order_slab_mmhg(
    distance_um: Tensor, *, depth_um: float, vessel_mmhg: float, diffusion_um2_per_s: float, rate_per_s: float
) -> Tensor:
    """pO2 in a slab that consumes k p, between vessels at distance 0 and a border at `depth_um`: cosh over cosh.

    Args:
        distance_um: From the vessels.
        depth_um: Thickness of the slab.
        vessel_mmhg: At the vessels.
        diffusion_um2_per_s: D.
        rate_per_s: k.
    """
    inverse = math.sqrt(rate_per_s / diffusion_um2_per_s)
    return vessel_mmhg * torch.cosh((depth_um - distance_um) * inverse) / math.cosh(depth_um * inverse)
