import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, optimize, special

from hypoxnet.errors import QuantityError
from hypoxnet.hypoxia.partial_volume import (
    measured_ratio,
    recovered_ratio,
    smallest_trusted_radius_mm,
    smallest_trusted_volume_ml,
    smallest_visible_radius_mm,
    sphere_recovery,
)


def recovery_as_printed(radius_mm: float, fwhm_mm: float) -> float:
    u = radius_mm / (fwhm_mm / (2.0 * math.sqrt(2.0 * math.log(2.0))))
    return float(special.erf(u / math.sqrt(2.0)) - math.sqrt(2.0 / math.pi) * u * math.exp(-u * u / 2.0))


@pytest.mark.parametrize(
    ("radius_mm", "recoveries"),
    [
        (3.0, (0.427, 0.291, 0.203)),
        (5.0, (0.864, 0.722, 0.581)),
        (7.5, (0.994, 0.966, 0.905)),
        (10.0, (1.000, 0.998, 0.990)),
    ],
)
def test_recovery_at_5_6_and_7_mm(radius_mm, recoveries):
    for fwhm_mm, recovery in zip((5.0, 6.0, 7.0), recoveries, strict=True):
        assert sphere_recovery(radius_mm, fwhm_mm) == pytest.approx(recovery, abs=0.0005)


def test_twice_the_uptake_in_6_mm_is_invisible_at_a_threshold_of_1_4():
    assert measured_ratio(2.0, 3.0, 6.0) == pytest.approx(1.29, abs=0.005)
    assert measured_ratio(2.0, 3.0, 6.0) < 1.4


@given(st.floats(0.5, 40.0), st.floats(3.0, 8.0))
def test_incomplete_gamma_is_the_formula_of_the_error_function(radius, fwhm):
    assert sphere_recovery(radius, fwhm) == pytest.approx(recovery_as_printed(radius, fwhm), rel=1e-9, abs=1e-12)


def test_tiny_spheres_keep_their_digits():
    sigma = 6.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))
    first_term = math.sqrt(2.0 / math.pi) * (1e-5 / sigma) ** 3 / 3.0
    assert sphere_recovery(1e-5, 6.0) == pytest.approx(first_term, rel=1e-9)


@pytest.mark.parametrize(("radius_mm", "fwhm_mm"), [(3.0, 5.0), (5.0, 6.0), (7.5, 7.0)])
def test_formula_agrees_with_a_blurred_voxel_sphere(radius_mm, fwhm_mm):
    spacing = 0.5
    axis = np.arange(-40, 41) * spacing
    square = axis**2
    sphere = square[:, None, None] + square[:, None] + square <= radius_mm**2
    blurred = ndimage.gaussian_filter(sphere.astype(float), fwhm_mm / 2.354820045 / spacing, truncate=6.0)
    # The voxel sphere is a little off the true volume: compare with the radius it has.
    radius = np.cbrt(sphere.sum() * spacing**3 * 3.0 / (4.0 * np.pi))
    assert blurred[40, 40, 40] == pytest.approx(sphere_recovery(radius, fwhm_mm), abs=2e-3)


@given(st.floats(0.2, 6.0), st.floats(1.0, 30.0), st.floats(3.0, 8.0))
def test_recovered_ratio_undoes_the_measurement(ratio, radius, fwhm):
    assert recovered_ratio(measured_ratio(ratio, radius, fwhm), radius, fwhm) == pytest.approx(ratio, rel=1e-9)


@given(st.floats(3.0, 8.0), st.floats(0.01, 0.999))
def test_trusted_radius_is_the_root_of_the_formula(fwhm, recovery):
    root = optimize.brentq(lambda radius: recovery_as_printed(radius, fwhm) - recovery, 1e-6, 100.0, xtol=1e-10)
    assert smallest_trusted_radius_mm(fwhm, recovery=recovery) == pytest.approx(root, rel=1e-6)


def test_trusted_volume_is_that_of_the_trusted_sphere():
    radius = smallest_trusted_radius_mm(6.0)
    assert smallest_trusted_volume_ml(6.0) == pytest.approx(4.0 / 3.0 * math.pi * radius**3 / 1000.0)
    assert smallest_trusted_volume_ml(5.0) < smallest_trusted_volume_ml(7.0)


def test_trusted_volume_at_80_percent_is_about_one_ml():
    volumes = [smallest_trusted_volume_ml(fwhm, recovery=0.80) for fwhm in (5.0, 6.0, 7.0)]
    assert 0.4 < volumes[0] < volumes[-1] < 1.3


@given(st.floats(1.5, 5.0), st.floats(1.1, 1.49), st.floats(4.0, 8.0))
def test_smallest_visible_sphere_reads_exactly_the_threshold(ratio, threshold, fwhm):
    radius = smallest_visible_radius_mm(ratio, threshold, fwhm)
    assert measured_ratio(ratio, radius, fwhm) == pytest.approx(threshold, rel=1e-9)


def test_nothing_is_visible_below_the_threshold_and_everything_in_a_hot_background():
    assert smallest_visible_radius_mm(1.3, 1.4, 6.0) == math.inf
    assert smallest_visible_radius_mm(1.4, 1.4, 6.0) == math.inf
    assert smallest_visible_radius_mm(2.0, 1.0, 6.0) == 0.0


def test_impossible_sizes_are_refused():
    with pytest.raises(QuantityError, match="radius of -1 mm is negative"):
        sphere_recovery(-1.0, 6.0)
    with pytest.raises(QuantityError, match="resolution of 0 mm"):
        sphere_recovery(3.0, 0.0)
    with pytest.raises(QuantityError, match="nothing is recovered"):
        recovered_ratio(1.3, 0.0, 6.0)
    with pytest.raises(QuantityError, match="recovery of 1 is not between"):
        smallest_trusted_radius_mm(6.0, recovery=1.0)
