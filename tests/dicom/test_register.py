"""Two scans of one patient, one of them moved: registration finds by how much, and says when it is doubtful."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from hypoxnet.dicom.register import register_deformable, register_rigid, target_registration_error_mm
from hypoxnet.geometry import Grid


def head(shape=(48, 52, 40), seed=0):
    """A smooth head with structure."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3.0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.8
    return np.where(inside, 1.0 + 8 * noise / noise.std() * 0.05, 0.0).astype(np.float32)


def grid_of(shape, spacing=4.0):
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [90.0, -100.0, -80.0]
    return Grid.from_affine(shape, affine)


def motion(degrees, shift):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize(
    ("degrees", "shift"), [((0, 0, 0), (0, 0, 0)), ((4, -3, 6), (8, -5, 3)), ((-8, 2, 0), (-12, 6, 10))]
)
def test_a_known_motion_is_found_to_a_fraction_of_a_voxel(degrees, shift):
    image, grid = head(), grid_of((48, 52, 40))
    truth = motion(degrees, shift)
    # The moving image is the same head whose header says that it lies elsewhere.
    elsewhere = Grid.from_affine(grid.shape, np.linalg.inv(truth) @ grid.matrix)
    contrast = np.where(image > 0, 3.0 - image, 0.0).astype(np.float32)
    found = register_rigid(image, grid, moving=contrast, moving_grid=elsewhere)
    points = elsewhere.corners_mm()
    target = (np.c_[points, np.ones(8)] @ truth.T)[:, :3]
    error = target_registration_error_mm(found.matrix, fixed_points=target, moving_points=points)
    assert error.max() < 1.5
    assert found.inconsistency_mm < 2.0
    assert np.abs(found.applied(elsewhere).corners_mm() - grid.corners_mm()).max() < 1.5
    assert np.isclose(np.linalg.det(found.matrix), 1.0)


def test_images_of_different_things_are_doubtful():
    grid = grid_of((32, 32, 32))
    generator = np.random.default_rng(0)
    one, other = (gaussian_filter(generator.normal(size=grid.shape), 1.0).astype(np.float32) for _ in range(2))
    found = register_rigid(one, grid, moving=other, moving_grid=grid)
    assert found.warnings
    assert found.describe()["Warnings"]


def test_an_image_far_away_begins_centre_on_centre():
    image, grid = head(), grid_of((48, 52, 40))
    truth = motion((0, 0, 0), (700.0, -300.0, 0.0))
    elsewhere = Grid.from_affine(grid.shape, np.linalg.inv(truth) @ grid.matrix)
    found = register_rigid(image, grid, moving=image, moving_grid=elsewhere)
    assert np.abs(found.applied(elsewhere).corners_mm() - grid.corners_mm()).max() < 1.5
    assert found.warnings == ()


def test_a_part_of_the_body_is_found_from_a_structure_contoured_in_both():
    image, grid = head((40, 40, 90)), grid_of((40, 40, 90))
    part = image[:, :, 8:40]
    place = grid.matrix @ np.array([0, 0, 8, 1.0])
    affine = grid.matrix.copy()
    affine[:3, 3] = place[:3] + np.array([30.0, 20.0, 900.0])
    part_grid = Grid.from_affine(part.shape, affine)
    shift = np.array([-26.0, -25.0, -894.0])
    found = register_rigid(image, grid, moving=part, moving_grid=part_grid, start_mm=shift)
    target = part_grid.corners_mm() - [30.0, 20.0, 900.0]
    error = target_registration_error_mm(found.matrix, fixed_points=target, moving_points=part_grid.corners_mm())
    assert error.max() < 2.0


def test_a_deformation_brings_two_visits_nearer():
    image, grid = head(), grid_of((48, 52, 40))
    axes = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    from scipy.ndimage import map_coordinates

    bent = map_coordinates(image, [axes[0] + 2 * np.sin(axes[1] / 8), axes[1], axes[2]], order=1).astype(np.float32)
    moved, _ = register_deformable(image, grid, moving=bent, moving_grid=grid)
    assert np.abs(moved - image).mean() < 0.6 * np.abs(bent - image).mean()
