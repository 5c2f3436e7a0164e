import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypoxnet.geometry import Grid
from hypoxnet.inference.native import bounding_box, onto_reference
from hypoxnet.transforms import sampling
from hypoxnet.transforms.spatial import to_grid

# K d h w, D H W, i j k as in inference.native

WORKING = Grid.from_affine((18, 20, 16), np.array([[3.0, 0, 0, -20], [0, 3, 0, -30], [0, 0, 3, -10], [0, 0, 0, 1.0]]))
WHOLE = (slice(0, 18), slice(0, 20), slice(0, 16))


def reference(*, spacing=(2.1, 2.1, 4.0), turn=0.0, flips=(1, 1, 1), shift=(0.0, 0.0, 0.0), shape=(24, 26, 13)):
    """A grid of other spacing about the same middle as `WORKING`, turned about z by `turn` degrees."""
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(np.array(spacing) * flips)
    middle = (WORKING.matrix @ [8.5, 9.5, 7.5, 1.0])[:3]
    affine[:3, 3] = middle + shift - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid.from_affine(shape, affine)


def padded(inside, box):
    whole = torch.zeros(len(inside), *WORKING.shape)
    whole[(slice(None), *box)] = inside
    return whole


def drawn(box, *, seed=0, regions=2):
    shape = [side.stop - side.start for side in box]
    return torch.rand(regions, *shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=80, deadline=None)
@given(
    sides=st.tuples(*[st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True) for n in WORKING.shape]),
    turn=st.sampled_from([0.0, 7.0, 90.0, -33.0]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    shift=st.tuples(*[st.floats(-30, 30)] * 3),
)
def test_a_box_comes_back_as_the_whole_grid_does(sides, turn, flips, shift):
    box = tuple(slice(min(side), max(side)) for side in sides)
    grid, inside = reference(turn=turn, flips=flips, shift=shift), drawn(box)
    expected = to_grid(padded(inside, box), WORKING, grid)
    found = onto_reference(inside, box, WORKING, grid).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found >= 0.5, expected >= 0.5)


@pytest.mark.parametrize("turn", [0.0, 7.0])
def test_plane_by_plane_it_is_the_same(turn, monkeypatch):
    grid, inside = reference(turn=turn), drawn(WHOLE)
    at_once = onto_reference(inside, WHOLE, WORKING, grid)
    monkeypatch.setattr(sampling, "SLAB", 1)
    assert torch.equal(onto_reference(inside, WHOLE, WORKING, grid), at_once)


def test_on_the_same_grid_nothing_is_interpolated():
    box = (slice(2, 9), slice(0, 20), slice(5, 16))
    inside = drawn(box)
    assert torch.equal(onto_reference(inside, box, WORKING, WORKING), padded(inside, box))


def test_only_the_wanted_voxels_are_filled():
    grid, inside = reference(turn=7.0), drawn(WHOLE)
    only = (slice(3, 9), slice(4, 20), slice(0, 5))
    everything = onto_reference(inside, WHOLE, WORKING, grid)
    found = onto_reference(inside, WHOLE, WORKING, grid, only=only)
    expected = torch.zeros_like(everything)
    expected[(slice(None), *only)] = everything[(slice(None), *only)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert 0 < int((found > 0).sum()) < int((everything > 0).sum())


def test_a_wanted_box_on_the_same_grid_is_cut_out():
    only = (slice(3, 9), slice(4, 20), slice(0, 5))
    found = onto_reference(torch.ones(1, *WORKING.shape), WHOLE, WORKING, WORKING, only=only)
    assert float(found.sum()) == float(found[(slice(None), *only)].sum()) == 6 * 16 * 5


def test_a_box_that_no_reference_voxel_sees_gives_zeros():
    box = (slice(2, 4), slice(2, 4), slice(2, 4))
    far = reference(shift=(400.0, 0.0, 0.0))
    assert not onto_reference(drawn(box), box, WORKING, far).any()


def test_the_result_keeps_its_place_on_the_device_in_float32():
    found = onto_reference(drawn(WHOLE).double(), WHOLE, WORKING, reference())
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("voxels", [[], [(1, 2, 3)], [(0, 4, 2), (3, 1, 2)]])
def test_the_bounding_box_holds_every_voxel_and_no_empty_side(voxels):
    mask = np.zeros((5, 6, 7), bool)
    for voxel in voxels:
        mask[voxel] = True
    inner = mask[bounding_box(mask)]
    assert inner.sum() == len(voxels)
    assert all(inner.any(axis=tuple(set(range(3)) - {axis}))[[0, -1]].all() for axis in range(3) if voxels)
