"""Contours to voxels: solids whose volume is known, holes however drawn, grids of any orientation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.polygons import distance, edges_of, inside
from hypoxnet.dicom.rasterise import mask_of
from hypoxnet.dicom.structures import Roi
from hypoxnet.geometry import Grid

FRAME = "1.2.3"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid_of(shape=(40, 40, 30), spacing=(1.0, 1.0, 2.0), *, rotation=None, order=(0, 1, 2), signs=(1, 1, 1)):
    """A grid about the origin; `order` says along which LPS axis i, j and k run, `signs` which way."""
    affine = np.zeros((4, 4))
    for axis in range(3):
        affine[order[axis], axis] = signs[axis] * spacing[axis]
    affine[3, 3] = 1
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid.from_affine(shape, LPS @ affine)


def roi_of(contours, *, kinds=None, frame=FRAME):
    contours = tuple(np.asarray(c, dtype=float) for c in contours)
    return Roi(1, "GTV", contours, tuple(kinds or ["CLOSED_PLANAR"] * len(contours)), "", frame, "GTV")


def circle(radius, z=0.0, *, centre=(0.0, 0.0), points=120, turn=1):
    angles = turn * np.linspace(0, 2 * math.pi, points, endpoint=False)
    u, v = centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)
    return np.stack([u, v, np.full(points, z)], axis=1)


def box(half, z=0.0, *, centre=(0.0, 0.0)):
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    return np.array([[x + centre[0], y + centre[1], z] for x, y in corners])


def ball(radius, step, *, centre=0.0):
    levels = np.arange(-math.floor(radius / step), math.floor(radius / step) + 1) * step
    return [circle(math.sqrt(radius**2 - z**2), z + centre) for z in levels if abs(z) < radius]


def rasterised(contours, grid, **options):
    return mask_of(roi_of(contours, **options), grid, frame_of_reference_uid=FRAME)


def volume(found, grid):
    return 1000 * found.mask.sum() * grid.voxel_ml


def column(radius, *, z=(-6, -4, -2, 0, 2, 4, 6), **options):
    return [circle(radius, level, **options) for level in z]


ODD = {"shape": (41, 41, 31)}
FINE = {"shape": (80, 80, 31), "spacing": (0.5, 0.5, 2.0)}


def test_volume_of_a_ball_on_its_own_slices():
    grid = grid_of(**ODD)
    found = rasterised(ball(15.0, 2.0), grid)
    assert volume(found, grid) == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.01)
    assert found.notes == ()


@pytest.mark.parametrize("step", [1.0, 1.5, 3.0, 4.0])
def test_volume_of_a_ball_whose_planes_lie_between_slices(step):
    grid = grid_of((41, 41, 41), (1.0, 1.0, 1.0))
    found = rasterised(ball(15.0, step, centre=0.3), grid)
    assert volume(found, grid) == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.02)
    assert any("interpolated" in note for note in found.notes)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_axial_contours_on_axial_sagittal_and_coronal_grids(order, signs):
    grid = grid_of((36, 37, 38), (1.0, 1.0, 1.0), order=order, signs=signs)
    found = rasterised(ball(15.0, 2.0), grid)
    assert volume(found, grid) == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.015)
    assert not any("tilted" in note for note in found.notes)


def test_oblique_contours_on_the_oblique_grid_they_were_drawn_on_need_no_resampling():
    rotation = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
    straight, oblique = grid_of(**ODD), grid_of(**ODD, rotation=rotation)
    found = rasterised([c @ rotation.T for c in ball(15.0, 2.0)], oblique)
    assert found.notes == ()
    expected = rasterised(ball(15.0, 2.0), straight).mask
    assert np.count_nonzero(found.mask ^ expected) <= 4  # centres on the outline, by rounding


@settings(max_examples=8, deadline=None)
@given(angles=st.tuples(*[st.floats(-45, 45)] * 3))
def test_volume_of_a_ball_does_not_depend_on_how_its_planes_are_turned(angles):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    grid = grid_of((34, 34, 34), (1.0, 1.0, 1.0))
    found = rasterised([c @ rotation.T for c in ball(14.0, 2.0)], grid)
    assert volume(found, grid) == pytest.approx(4 / 3 * math.pi * 14**3, rel=0.015)


def test_tilted_contours_say_so():
    rotation = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    found = rasterised([c @ rotation.T for c in ball(12.0, 2.0)], grid_of(**ODD))
    assert any("tilted by 20.0 degrees" in note for note in found.notes)


def keyhole(outer, inner, z):
    """Outer circle, along a channel to the inner one, around it backwards, and back the same way."""
    ring, hole = circle(outer, z), circle(inner, z, turn=-1)
    return np.concatenate([ring, ring[:1], hole, hole[:1]])


@pytest.mark.parametrize("turn", [1, -1])
def test_a_hole_is_empty_by_nested_contours_of_either_direction_and_by_a_keyhole(turn):
    grid = grid_of(**FINE)
    levels = np.arange(-6, 7, 2.0)
    nested = rasterised([c for z in levels for c in (circle(12, z), circle(6, z, turn=turn))], grid)
    keyed = rasterised([keyhole(12, 6, z) for z in levels], grid)
    np.testing.assert_array_equal(nested.mask, keyed.mask)
    assert not nested.mask[40, 40, 15]
    assert volume(nested, grid) == pytest.approx(math.pi * (144 - 36) * 14, rel=0.01)


def test_a_keyhole_does_not_thin_the_shape_between_planes():
    grid = grid_of((41, 41, 61), (1.0, 1.0, 0.5))
    levels = np.arange(-6, 7, 4.0)
    keyed = rasterised([keyhole(12 - 0.3 * z, 6, z) for z in levels], grid)
    nested = rasterised([c for z in levels for c in (circle(12 - 0.3 * z, z), circle(6, z))], grid)
    np.testing.assert_array_equal(keyed.mask, nested.mask)


def test_an_island_in_a_hole_belongs():
    grid = grid_of(**ODD)
    found = rasterised([circle(r, z) for z in (-2.0, 0.0, 2.0) for r in (15, 10, 4)], grid)
    assert found.mask[20, 20, 15]
    assert not found.mask[27, 20, 15]
    assert found.mask[33, 20, 15]


def test_a_shell_has_the_volume_between_two_balls():
    grid = grid_of(**ODD)
    found = rasterised([*ball(15.0, 2.0), *ball(8.0, 2.0)], grid)
    assert volume(found, grid) == pytest.approx(4 / 3 * math.pi * (15**3 - 8**3), rel=0.02)


def test_two_islands_in_plane_and_two_along_the_normal_stay_apart():
    grid = grid_of(**FINE)
    beside = rasterised([*column(5, centre=(-9, 0)), *column(5, centre=(9, 0))], grid)
    assert volume(beside, grid) == pytest.approx(2 * math.pi * 25 * 14, rel=0.02)
    above = rasterised([*column(8, z=(-20, -18, -16)), *column(8, z=(10, 12))], grid)
    occupied = np.flatnonzero(above.mask.any(axis=(0, 1)))
    assert occupied.tolist() == [5, 6, 7, 20, 21]
    assert above.notes == (
        "1 gap(s) of up to 26.00 mm between contour planes 2.00 mm apart: taken as separate parts, not bridged",
    )


def test_one_plane_is_as_thick_as_a_slice():
    found = rasterised([circle(8, 0.4)], grid_of(**ODD))
    assert np.flatnonzero(found.mask.any(axis=(0, 1))).tolist() == [15]
    assert found.notes == ("drawn in one plane only: taken to be 2.00 mm thick",)


def test_planes_on_every_second_slice_are_filled_and_reach_half_a_spacing():
    found = rasterised(column(8, z=(-4, 0, 4)), grid_of(**ODD))
    # From -6 (closed) to 6 mm (open): six slices of 2 mm.
    assert np.flatnonzero(found.mask.any(axis=(0, 1))).tolist() == [12, 13, 14, 15, 16, 17]


def test_a_repeated_contour_counts_once_however_it_runs():
    grid = grid_of(**ODD)
    again = np.roll(circle(8, 0.0), 7, axis=0)[::-1]
    found = rasterised([*column(8), again, circle(8, 2.0)], grid)
    np.testing.assert_array_equal(found.mask, rasterised(column(8), grid).mask)
    assert found.notes == ("2 contours repeat another one and are left out",)


def test_edges_through_centres_give_the_area_of_the_square_whatever_the_storage_order():
    # Edges at whole millimetres, as are the centres: 20 x 20 belong, not 19 x 19 or 21 x 21.
    straight = rasterised([box(10, z) for z in (-2, 0, 2)], grid_of(**ODD)).mask
    assert straight.sum() == 20 * 20 * 3
    turned = rasterised([box(10, z) for z in (-2, 0, 2)], grid_of(**ODD, signs=(-1, -1, -1))).mask
    np.testing.assert_array_equal(turned, straight[::-1, ::-1, ::-1])


def test_polygons_that_touch_share_no_voxel_and_lose_none():
    left = rasterised([box(5, centre=(-5, 0))], grid_of(**ODD)).mask
    right = rasterised([box(5, centre=(5, 0))], grid_of(**ODD)).mask
    both = rasterised([box(5, centre=(-5, 0)), box(5, centre=(5, 0))], grid_of(**ODD)).mask
    assert not (left & right).any()
    np.testing.assert_array_equal(left | right, both)


def test_what_reaches_out_is_cut_with_a_note():
    found = rasterised(column(12, centre=(15, 0)), grid_of(**ODD))
    assert found.mask[40].any()
    assert found.notes == ("reaches out of the image and is cut: i from 23.0 to 47.0 of 41 voxels",)


def test_a_region_that_holds_no_centre_is_empty_with_a_note():
    found = rasterised([circle(0.2, 0.0, centre=(0.5, 0.5))], grid_of(**ODD))
    assert not found.mask.any()
    assert "holds no voxel centre: the mask is empty" in found.notes


def test_other_kinds_and_flat_contours_are_left_out_with_notes():
    flat = np.array([[0.0, 0, 0], [5, 0, 0], [2, 0, 0]])
    contours = [*column(8), np.zeros((1, 3)), circle(3), flat]
    kinds = ["CLOSED_PLANAR"] * 7 + ["POINT", "OPEN_PLANAR", "CLOSED_PLANAR"]
    found = rasterised(contours, grid_of(**ODD), kinds=kinds)
    np.testing.assert_array_equal(found.mask, rasterised(column(8), grid_of(**ODD)).mask)
    assert found.notes == (
        "1 contour(s) of type POINT left out",
        "1 contour(s) of type OPEN_PLANAR left out",
        "1 of 8 contours have no area and are left out",
    )


def bent():
    points = circle(10)
    points[:, 2] = np.sin(np.linspace(0, 4 * np.pi, len(points)))
    return points


@pytest.mark.parametrize(
    ("contours", "kinds", "frame", "sentence"),
    [
        (column(8), None, "9.9", "'GTV' lies in frame of reference 9.9, the image in 1.2.3; use the series"),
        (column(8), None, "", "lies in frame of reference unknown"),
        ([], None, FRAME, "encloses nothing: it holds no contour"),
        ([np.zeros((1, 3))], ["POINT"], FRAME, "encloses nothing: it holds 1 POINT; draw closed contours"),
        ([np.zeros((4, 3)), np.ones((2, 3))], None, FRAME, "all of its 2 closed contours have no area"),
        (column(8, centre=(90, 0)), None, FRAME, "wholly outside of the image \\(i 102.0 to 118.0"),
        ([bent()], None, FRAME, "at most 0.25 mm is rounding; contours must be planar"),
        ([circle(8), circle(8)[:, [0, 2, 1]]], None, FRAME, "contours must be planar and parallel"),
    ],
)
def test_regions_that_have_no_place_on_the_grid_are_refused(contours, kinds, frame, sentence):
    with pytest.raises(DicomError, match=sentence):
        rasterised(contours, grid_of(**ODD), kinds=kinds, frame=frame)


def test_inside_and_distance_agree_with_the_naive_forms():
    generator = np.random.default_rng(1)
    polygons = [generator.normal(size=(9, 2)), generator.normal(size=(5, 2))]
    points, edges = generator.normal(size=(300, 2)), edges_of(polygons)
    crossings = np.zeros(300, dtype=int)
    nearest = np.full(300, np.inf)
    for u0, v0, u1, v1 in edges:
        within = (points[:, 1] >= min(v0, v1)) & (points[:, 1] < max(v0, v1))
        crossings += within & (points[:, 0] < u0 + (points[:, 1] - v0) * (u1 - u0) / (v1 - v0))
        for part in np.linspace(0, 1, 2001):
            at = np.array([u0 + part * (u1 - u0), v0 + part * (v1 - v0)])
            nearest = np.minimum(nearest, np.linalg.norm(points - at, axis=1))
    np.testing.assert_array_equal(inside(points, edges), crossings % 2 == 1)
    np.testing.assert_allclose(distance(points, edges), nearest, atol=2e-3)
