import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hypoxnet.dicom.contours import trace

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


def filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre an even-odd reader finds inside."""
    inside = np.zeros(shape, dtype=bool)
    for (i, j), (next_i, next_j) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if i == next_i:
            inside[i:, min(j, next_j) : max(j, next_j)] ^= True
        else:
            assert j == next_j
    return inside


def area(polygon: np.ndarray) -> float:
    after = np.roll(polygon, -1, axis=0)
    return 0.5 * float((polygon[:, 0] * after[:, 1] - after[:, 0] * polygon[:, 1]).sum())


@given(masks)
def test_polygons_give_the_mask_back_and_do_not_overlap(mask):
    hits = sum((filled(polygon, mask.shape).astype(int) for polygon in trace(mask)), np.zeros(mask.shape, dtype=int))
    assert np.array_equal(hits, mask.astype(int))


@given(masks)
def test_polygons_enclose_the_area_of_the_pixels(mask):
    assert sum(area(polygon) for polygon in trace(mask)) == mask.sum()


@given(masks)
def test_no_point_lies_on_a_straight_line_onwards(mask):
    for polygon in trace(mask):
        before, after = np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0)
        came, goes = np.sign(polygon - before), np.sign(after - polygon)
        assert not (came == goes).all(axis=1).any()


def test_an_empty_mask_has_no_polygon():
    assert trace(np.zeros((3, 4), dtype=bool)) == []


def test_a_ring_is_one_polygon_with_a_channel_walked_both_ways():
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    (polygon,) = trace(ring)
    assert len(polygon) == 4 + 4 + 2  # outside, hole, and twice where the channel leaves the outside
    assert polygon.tolist().count([0, 2]) == 2


def test_an_island_in_a_hole_is_a_polygon_of_its_own():
    mask = np.ones((7, 7), dtype=bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    assert len(trace(mask)) == 2


@pytest.mark.parametrize("filling", [0.6, 0.95])
def test_thousands_of_holes_take_seconds(filling):
    mask = np.random.default_rng(0).random((128, 128)) < filling
    start = time.perf_counter()
    polygons = trace(mask)
    assert time.perf_counter() - start < 10
    assert sum(area(polygon) for polygon in polygons) == mask.sum()
