import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch, Spacing
from scipy.spatial.transform import Rotation

from hypoxnet.geometry import Grid
from hypoxnet.images import Volume
from hypoxnet.transforms import sampling
from hypoxnet.transforms.sampling import resampled
from hypoxnet.transforms.spatial import WorkingGrid

# C i j k as in transforms.sampling


@st.composite
def grids(draw):
    """Any shape, spacing, order and direction of axes, upright or oblique."""
    shape = draw(st.tuples(*[st.integers(3, 25)] * 3))
    spacing = draw(st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 2.7])] * 3))
    axes = np.eye(3)[list(draw(st.permutations(range(3))))] * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    turn = Rotation.from_rotvec(draw(st.sampled_from([(0, 0, 0), (0.1, -0.2, 0.05), (0, 0, np.pi / 4)]))).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-15, 15)] * 3))
    return Grid.from_affine(shape, affine)


def drawn(grid, *, channels=1):
    return torch.randn(channels, *grid.shape, generator=torch.Generator().manual_seed(0))


def by_monai(volume, source, target, **choices):
    moving = MetaTensor(volume, affine=torch.from_numpy(source.matrix))
    fixed = MetaTensor(torch.zeros(1, *target.shape), affine=torch.from_numpy(target.matrix))
    return ResampleToMatch(align_corners=False, **choices)(moving, fixed).as_tensor()


@settings(max_examples=60, deadline=None)
@given(grids(), grids(), st.sampled_from(["border", "zeros"]), st.sampled_from(["bilinear", "nearest"]))
def test_every_voxel_is_monais_to_the_bit(source, target, beyond, mode):
    volume = drawn(source, channels=2)
    found = resampled(volume, source, target, beyond=beyond, mode=mode)
    assert torch.equal(found, by_monai(volume, source, target, padding_mode=beyond, mode=mode))


@settings(max_examples=60, deadline=None)
@given(grids(), grids(), st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 3.3])] * 3))
def test_the_working_grid_is_monais_to_the_bit(grid, other, spacing_mm):
    volume = Volume(drawn(grid)[0].numpy(), grid)
    working = WorkingGrid(volume, spacing_mm=spacing_mm)
    upright = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    image = upright(MetaTensor(drawn(grid), affine=torch.from_numpy(grid.matrix)))
    image = Spacing(spacing_mm, mode="bilinear", padding_mode="border")(image)
    np.testing.assert_array_equal(working.grid.matrix, image.affine.numpy())
    assert torch.equal(working.image, image.as_tensor())
    assert torch.equal(
        working.resample(drawn(other)[0].numpy(), other),
        by_monai(drawn(other), other, working.grid, padding_mode="zeros", mode="bilinear"),
    )
    everywhere = by_monai(torch.ones(1, *other.shape), other, working.grid, padding_mode="zeros", mode="nearest")
    assert torch.equal(working.covers(other), everywhere > 0.5)


@pytest.mark.parametrize("slab", [1, 150, 2**15])
def test_a_slab_changes_no_bit(slab, monkeypatch):
    source = Grid.from_affine((9, 11, 8), np.diag([2.0, 2.0, 3.0, 1.0]))
    target = Grid.from_affine((20, 10, 12), np.diag([1.1, 2.3, 1.7, 1.0]))
    expected = by_monai(drawn(source), source, target, padding_mode="border", mode="bilinear")
    monkeypatch.setattr(sampling, "SLAB", slab)
    assert torch.equal(resampled(drawn(source), source, target, beyond="border"), expected)


def test_on_the_same_grid_nothing_is_copied():
    grid = Grid.from_affine((4, 5, 6), np.eye(4))
    volume = drawn(grid)
    assert resampled(volume, grid, grid, beyond="border").data_ptr() == volume.data_ptr()
