"""What the scanner's blur leaves of a small hypoxic focus.

A uniform sphere in a uniform background, seen through a Gaussian point spread function.
"""

from __future__ import annotations

import math

from scipy import special

from hypoxnet.errors import QuantityError

# FWHM of a Gaussian in standard deviations, 2.3548.
FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))


def sphere_recovery(radius_mm: float, fwhm_mm: float) -> float:
    """Recovery coefficient in the centre of a sphere: share of its contrast to the background that is seen there.

    erf(u / sqrt 2) - sqrt(2 / pi) u exp(-u^2 / 2) with u the radius in standard deviations of the blur.

    Args:
        radius_mm: Radius of the sphere, mm; 0 recovers nothing.
        fwhm_mm: Full width at half maximum of the point spread function, mm.

    Returns:
        0 to 1.

    Raises:
        QuantityError: The radius is negative or the width not positive.

    Source:
        Kessler, Ellis and Eden 1984, J Comput Assist Tomogr 8:514.

    Example:
        >>> round(sphere_recovery(5.0, 6.0), 3)
        0.722
    """
    if not radius_mm >= 0:
        raise QuantityError(f"a radius of {radius_mm:g} mm is negative; give the radius of the sphere in mm")
    # The share of a 3D normal distribution within u; as an incomplete gamma it keeps its digits in tiny spheres, where
    # the two terms above cancel.
    return float(special.gammainc(1.5, 0.5 * (radius_mm / _sigma_mm(fwhm_mm)) ** 2))


def measured_ratio(true_ratio: float, radius_mm: float, fwhm_mm: float) -> float:
    """Ratio that the centre of a sphere reads, in a background with the uptake of the reference.

    Args:
        true_ratio: TBR or TMR of the sphere.
        radius_mm: Its radius, mm.
        fwhm_mm: Full width at half maximum of the point spread function, mm.

    Raises:
        QuantityError: The radius is negative or the width not positive.

    Example:
        A focus of 6 mm diameter and twice the uptake of muscle stays below the usual 1.4:

        >>> round(measured_ratio(2.0, 3.0, 6.0), 2)
        1.29
    """
    return 1.0 + (true_ratio - 1.0) * sphere_recovery(radius_mm, fwhm_mm)


def recovered_ratio(measured: float, radius_mm: float, fwhm_mm: float) -> float:
    """True ratio of a sphere whose centre reads `measured`; the inverse of `measured_ratio`.

    Noise is divided by the recovery too: below a recovery of one half the answer is little but noise.

    Args:
        measured: TBR or TMR in the centre.
        radius_mm: Radius, mm, positive.
        fwhm_mm: Full width at half maximum of the point spread function, mm.

    Raises:
        QuantityError: The sphere has no radius, or the width is not positive.

    Example:
        >>> round(recovered_ratio(measured_ratio(2.0, 3.0, 6.0), 3.0, 6.0), 6)
        2.0
    """
    recovery = sphere_recovery(radius_mm, fwhm_mm)
    if recovery == 0:
        raise QuantityError(
            f"nothing is recovered of a sphere of {radius_mm:g} mm radius at {fwhm_mm:g} mm; give a larger radius"
        )
    return 1.0 + (measured - 1.0) / recovery


def smallest_trusted_radius_mm(fwhm_mm: float, *, recovery: float = 0.95) -> float:
    """Radius of the smallest sphere whose centre recovers so much of its contrast, mm.

    Args:
        fwhm_mm: Full width at half maximum of the point spread function, mm.
        recovery: Wanted recovery, above 0 and below 1.

    Raises:
        QuantityError: The width is not positive, or the recovery not between 0 and 1.

    Example:
        >>> round(smallest_trusted_radius_mm(6.0), 2)
        7.12
    """
    if not 0 < recovery < 1:
        raise QuantityError(f"a recovery of {recovery:g} is not between 0 and 1; 0.95 is usual")
    return _radius_mm(recovery, fwhm_mm)


def smallest_trusted_volume_ml(fwhm_mm: float, *, recovery: float = 0.95) -> float:
    """Volume of the smallest sphere whose centre recovers so much of its contrast, mL.

    Args:
        fwhm_mm: Full width at half maximum of the point spread function, mm.
        recovery: Wanted recovery, above 0 and below 1.

    Raises:
        QuantityError: The width is not positive, or the recovery not between 0 and 1.

    Example:
        >>> round(smallest_trusted_volume_ml(5.0), 2)
        0.88
    """
    return 4.0 / 3.0 * math.pi * smallest_trusted_radius_mm(fwhm_mm, recovery=recovery) ** 3 / 1000.0


def smallest_visible_radius_mm(true_ratio: float, threshold: float, fwhm_mm: float) -> float:
    """Radius of the smallest sphere whose centre still reads at or above the threshold, mm.

    Args:
        true_ratio: TBR or TMR of the sphere.
        threshold: Ratio at and above which a voxel counts as hypoxic.
        fwhm_mm: Full width at half maximum of the point spread function, mm.

    Returns:
        Radius, mm; inf when no sphere reads so much, 0 when the background itself does.

    Raises:
        QuantityError: The width is not positive.

    Example:
        >>> round(smallest_visible_radius_mm(2.0, 1.4, 6.0), 2)
        3.48
        >>> smallest_visible_radius_mm(1.3, 1.4, 6.0)
        inf
    """
    if threshold <= 1:
        return 0.0
    if true_ratio <= threshold:
        return math.inf
    return _radius_mm((threshold - 1.0) / (true_ratio - 1.0), fwhm_mm)


def _radius_mm(recovery: float, fwhm_mm: float) -> float:
    """Inverse of `sphere_recovery` in the radius."""
    return _sigma_mm(fwhm_mm) * math.sqrt(2.0 * float(special.gammaincinv(1.5, recovery)))


def _sigma_mm(fwhm_mm: float) -> float:
    if not fwhm_mm > 0:
        raise QuantityError(f"a resolution of {fwhm_mm:g} mm is not positive; give the FWHM of the scanner, 5 to 7 mm")
    return fwhm_mm / FWHM_PER_SIGMA
