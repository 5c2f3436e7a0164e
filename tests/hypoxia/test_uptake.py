import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.hypoxia.uptake import sphere_weights, suv_max, suv_mean, suv_peak

RADIUS_MM = math.cbrt(3000.0 / (4.0 * math.pi))
SPACINGS = [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (4.0, 4.0, 4.0), (2.73, 2.73, 3.27), (1.0, 2.0, 5.0), (4.07, 4.07, 8.0)]


def grid_of(spacing, extent_mm=48.0, degrees=(0.0, 0.0, 0.0)) -> Grid:
    """A cube round the origin, with the origin in a voxel centre."""
    shape = tuple(2 * round(extent_mm / s / 2) + 1 for s in spacing)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * np.array(spacing)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid.from_affine(shape, matrix)


def distance_mm(grid: Grid, centre=(0.0, 0.0, 0.0)) -> np.ndarray:
    index = np.stack([*np.indices(grid.shape), np.ones(grid.shape)])
    places = np.tensordot(grid.matrix[:3], index, axes=1)
    return np.sqrt(((places - np.array(centre)[:, None, None, None]) ** 2).sum(axis=0))


def blob(grid: Grid, width_mm=10.0) -> np.ndarray:
    return 1.0 + 3.0 * np.exp(-0.5 * (distance_mm(grid) / width_mm) ** 2)


def blob_peak(width_mm=10.0) -> float:
    """Mean of the blob over the sphere, by shells."""
    edges = np.linspace(0.0, RADIUS_MM, 20001)
    r = (edges[:-1] + edges[1:]) / 2
    return float(np.average(1.0 + 3.0 * np.exp(-0.5 * (r / width_mm) ** 2), weights=r**2))


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.5, 0.5, 0.5), (20.0, 20.0, 20.0)])
@pytest.mark.parametrize("volume_ml", [0.5, 1.0, 1.5])
def test_sampled_sphere_has_its_volume_within_one_percent(spacing, volume_ml):
    weights = sphere_weights(spacing, volume_ml=volume_ml)
    assert weights.sum() * np.prod(spacing) / 1000.0 == pytest.approx(volume_ml, rel=0.01)
    assert 0 <= weights.min() <= weights.max() <= 1
    assert all(n % 2 for n in weights.shape)
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_peak_of_a_constant_is_the_constant(spacing):
    grid = grid_of(spacing)
    assert suv_peak(np.full(grid.shape, 1.7), np.ones(grid.shape, bool), grid).value == pytest.approx(1.7, rel=1e-13)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (2.73, 2.73, 3.27), (1.0, 2.0, 4.0)])
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (31.0, -17.0, 64.0)])
def test_peak_does_not_depend_on_spacing_or_rotation(spacing, degrees):
    grid = grid_of(spacing, degrees=degrees)
    peak = suv_peak(blob(grid), distance_mm(grid) < 12.0, grid)
    assert peak.value == pytest.approx(blob_peak(), rel=0.01)
    assert np.allclose(peak.centre_mm, 0.0, atol=1e-9)


def test_peak_does_not_depend_on_the_order_of_the_axes():
    grid = grid_of((1.0, 2.0, 4.0))
    suv = blob(grid) + np.random.default_rng(3).normal(0.0, 0.3, grid.shape)
    mask = distance_mm(grid) < 12.0
    turned = Grid.from_affine(grid.shape[::-1], grid.matrix[:, [2, 1, 0, 3]])
    first, second = suv_peak(suv, mask, grid), suv_peak(suv.T, mask.T, turned)
    assert second.value == pytest.approx(first.value, rel=1e-12)
    assert second.centre_mm == pytest.approx(first.centre_mm)


def test_peak_is_the_best_of_all_spheres_one_by_one():
    grid = grid_of((2.0, 3.0, 4.0), extent_mm=40.0)
    suv = np.random.default_rng(1).gamma(4.0, 0.5, grid.shape)
    mask = distance_mm(grid) < 9.0
    weights = sphere_weights(grid.spacing_mm, volume_ml=1.0)
    reach = [n // 2 for n in weights.shape]
    means = {
        tuple(at): np.average(
            suv[tuple(slice(a - r, a + r + 1) for a, r in zip(at, reach, strict=True))], weights=weights
        )
        for at in np.argwhere(mask)
    }
    best = max(means, key=means.get)
    peak = suv_peak(suv, mask, grid)
    assert peak.value == pytest.approx(means[best], rel=1e-12)
    assert peak.centre_mm == pytest.approx(grid.matrix[:3, :3] @ best + grid.matrix[:3, 3])


def test_sphere_may_leave_the_tumour_but_its_centre_may_not():
    grid = grid_of((2.0, 2.0, 2.0))
    suv = np.where(distance_mm(grid, (10.0, 0.0, 0.0)) < 7.0, 4.0, 1.0)
    mask = distance_mm(grid) < 5.0
    peak = suv_peak(suv, mask, grid)
    assert peak.centre_mm == pytest.approx((4.0, 0.0, 0.0))
    assert 1.0 < suv_max(suv, mask) == 4.0
    assert 1.0 < peak.value < 4.0


def test_sphere_stays_in_the_image():
    grid = grid_of((2.0, 2.0, 2.0), extent_mm=30.0)
    suv = np.ones(grid.shape)
    suv[0] = 50.0
    peak = suv_peak(suv, np.ones(grid.shape, bool), grid)
    x_first = grid.matrix[0, 3] - 1.0
    assert peak.centre_mm[0] - RADIUS_MM >= x_first
    assert math.isnan(suv_peak(suv[:3], np.ones((3, *grid.shape[1:]), bool), _cropped(grid)).value)


def _cropped(grid: Grid) -> Grid:
    return Grid.from_affine((3, *grid.shape[1:]), grid.matrix)


def test_spheres_over_voxels_without_value_do_not_count():
    grid = grid_of((2.0, 2.0, 2.0))
    suv = blob(grid)
    hole = tuple(n // 2 for n in grid.shape)
    suv[hole] = np.nan
    peak = suv_peak(suv, distance_mm(grid) < 14.0, grid)
    assert RADIUS_MM - 1.0 < np.linalg.norm(peak.centre_mm) < RADIUS_MM + 3.0
    assert math.isnan(suv_peak(np.full(grid.shape, np.nan), np.ones(grid.shape, bool), grid).value)


def test_empty_tumour_has_neither_maximum_nor_mean_nor_peak():
    grid = grid_of((4.0, 4.0, 4.0))
    empty = np.zeros(grid.shape, bool)
    suv = np.ones(grid.shape)
    peak = suv_peak(suv, empty, grid)
    assert all(math.isnan(v) for v in (suv_max(suv, empty), suv_mean(suv, empty), peak.value, *peak.centre_mm))


def test_maximum_and_mean_leave_out_voxels_without_value():
    suv = np.array([[[1.0, np.nan, 2.0, np.inf, 9.0]]])
    mask = np.array([[[True, True, True, True, False]]])
    assert suv_max(suv, mask) == 2.0
    assert suv_mean(suv, mask) == 1.5


def test_mean_does_not_drown_in_float32():
    suv = np.full((200, 200, 50), 0.1, dtype=np.float32)
    assert suv_mean(suv, np.ones(suv.shape, bool)) == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_small_sphere_reads_higher_than_a_large_one():
    grid = grid_of((2.0, 2.0, 2.0))
    mask = distance_mm(grid) < 10.0
    values = [suv_peak(blob(grid), mask, grid, sphere_ml=ml).value for ml in (0.2, 1.0, 3.0)]
    assert suv_max(blob(grid), mask) > values[0] > values[1] > values[2]


def test_shapes_that_differ_and_spheres_without_volume_are_refused():
    grid = grid_of((4.0, 4.0, 4.0))
    with pytest.raises(CaseError, match="resample"):
        suv_max(np.ones((2, 2, 2)), np.ones((2, 2, 3), bool))
    with pytest.raises(CaseError, match="resample them to one grid"):
        suv_peak(np.ones((2, 2, 2)), np.ones((2, 2, 2), bool), grid)
    with pytest.raises(CaseError, match="sphere of 0 ml"):
        suv_peak(np.ones(grid.shape), np.ones(grid.shape, bool), grid, sphere_ml=0.0)
