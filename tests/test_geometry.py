import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.errors import GeometryError
from hypoxnet.geometry import Grid, check_affine, shear_degrees, without_shear


def rotation(degrees_x: float, degrees_z: float) -> np.ndarray:
    a, b = np.radians([degrees_x, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_x @ about_z


def affine(degrees_x=0.0, degrees_z=0.0, spacing=(1.0, 2.0, 3.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees_x, degrees_z) * np.array(spacing)
    matrix[:3, 3] = (-40.0, 12.5, 7.0)
    return matrix


@given(st.floats(-180, 180), st.floats(-180, 180))
def test_rotation_changes_neither_spacing_nor_voxel_volume(x, z):
    grid = Grid.from_affine((4, 5, 6), affine(x, z))
    assert np.allclose(grid.spacing_mm, (1.0, 2.0, 3.0))
    assert grid.voxel_ml == pytest.approx(0.006)


def test_singular_affine_is_refused():
    with pytest.raises(GeometryError, match="singular"):
        check_affine(np.diag([1.0, 1.0, 0.0, 1.0]))


def test_affine_with_nan_is_refused():
    with pytest.raises(GeometryError, match="finite 4 x 4"):
        check_affine(np.full((4, 4), np.nan))


def test_sheared_affine_is_refused_with_its_angle():
    matrix = affine()
    matrix[0, 1] = 2.0 * np.tan(np.radians(5.0))
    with pytest.raises(GeometryError, match=r"sheared by 5\.00 degrees"):
        Grid.from_affine((4, 4, 4), matrix)


def test_rounded_direction_cosines_are_made_orthogonal_and_keep_their_place():
    exact = affine(12.3, -7.7)
    rounded = exact.copy()
    rounded[:3, :3] = np.round(rounded[:3, :3], 3)
    mended, angle = without_shear(rounded)
    assert 0 < angle < 0.1
    assert shear_degrees(mended) < 1e-10
    assert np.array_equal(mended[:3, 3], exact[:3, 3])
    assert np.abs(mended - exact).max() < 2e-3


def test_grids_that_differ_by_rounding_are_the_same_and_by_half_a_voxel_are_not():
    first = Grid.from_affine((64, 64, 32), affine())
    rounded = affine()
    rounded[0, 3] += 1e-3
    assert first.same_as(Grid.from_affine((64, 64, 32), rounded))
    rounded[0, 3] += 0.5
    assert not first.same_as(Grid.from_affine((64, 64, 32), rounded))
    assert not first.same_as(Grid.from_affine((64, 64, 31), affine()))


def test_shape_of_a_series_is_refused():
    with pytest.raises(GeometryError, match="one volume per file"):
        Grid((4, 4, 4, 2), tuple(tuple(row) for row in np.eye(4)))  # type: ignore[arg-type]
