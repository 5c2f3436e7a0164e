from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypoxnet.errors import ConfigError, GeometryError
from hypoxnet.geometry import Grid
from hypoxnet.hypoxia.partial_volume import sphere_recovery
from hypoxnet.maps.pet_kinetics import Frames
from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.parameters.base import described
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import HX4
from hypoxnet.phantom.pet import acquire_pet, for_tracer, noise_sd, pet_grid

# One noise realisation: its voxels are correlated, so this many of them are worth one.
SEEDS = range(4)


def ball(n: int, spacing_mm: float, radius_mm: float, *, parts: int = 4) -> torch.Tensor:
    """Share of each voxel that lies in a ball in the middle."""
    axis = (torch.arange(n * parts) - (n * parts - 1) / 2) * spacing_mm / parts
    inside = (axis**2)[:, None, None] + (axis**2)[:, None] + axis**2 <= radius_mm**2
    return inside.reshape(n, parts, n, parts, n, parts).float().mean((1, 3, 5))


def uniform(suv: float, *, voxel_mm: float = 3.0, n: int = 32, scanner: PetScanner, seed: int = 0) -> torch.Tensor:
    grid = centred_grid([n * voxel_mm] * 3, [voxel_mm] * 3)
    return acquire_pet(torch.full((n,) * 3, suv), grid, scanner, grid, np.random.default_rng(seed))


# ---- resolution


@pytest.mark.parametrize("psf_mm", [5.0, 6.0, 7.0])
@pytest.mark.parametrize("radius_mm", [5.0, 7.5, 10.0])
def test_recovery_of_spheres_is_the_closed_form(psf_mm, radius_mm):
    grid = centred_grid([32.5] * 3, [0.5] * 3)
    scanner = PetScanner(psf_mm=psf_mm, voxel_mm=0.5)
    image = acquire_pet(1.0 + 3.0 * ball(65, 0.5, radius_mm), grid, scanner, grid, None)
    recovered = (float(image[32, 32, 32]) - 1.0) / 3.0
    # Boxes of a voxel are part of the resolution: the mean of the ball, the object's voxel, the image's voxel.
    whole = np.sqrt(psf_mm**2 + 3.0 * 8.0 * np.log(2.0) * 0.5**2 / 12.0)
    assert recovered == pytest.approx(sphere_recovery(radius_mm, whole), rel=0.001)
    assert recovered == pytest.approx(sphere_recovery(radius_mm, psf_mm), rel=0.01)


def test_larger_voxels_recover_less():
    grid = centred_grid([63.0] * 3, [1.0] * 3)
    suv = 1.0 + 3.0 * ball(63, 1.0, 6.0)
    best = []
    # An odd number of voxels each: the ball lies in the middle of one.
    for voxel_mm in (1.0, 3.0, 7.0, 9.0):
        scanner = PetScanner(voxel_mm=voxel_mm)
        best.append(float(acquire_pet(suv, grid, scanner, pet_grid(grid, scanner), None).max()))
    assert best == sorted(best, reverse=True)


@given(st.floats(1.0, 6.0), st.floats(0.0, 8.0), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_activity_is_conserved_away_from_the_border(voxel_mm, psf_mm, seed):
    grid = centred_grid([72.0] * 3, [2.0] * 3)
    scanner = PetScanner(voxel_mm=voxel_mm, psf_mm=psf_mm)
    target = pet_grid(grid, scanner, np.random.default_rng(seed))
    suv = 4.0 * ball(36, 2.0, 9.0)
    image = acquire_pet(suv, grid, scanner, target, None)
    assert float(image.sum()) * target.voxel_ml == pytest.approx(float(suv.sum()) * grid.voxel_ml, rel=1e-5)


@given(st.floats(0.1, 9.0), st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_a_uniform_object_is_uniform_up_to_its_border_wherever_the_voxels_lie(suv, seed):
    grid = centred_grid([60.0] * 3, [2.0] * 3)
    target = pet_grid(grid, PetScanner(), np.random.default_rng(seed))
    image = acquire_pet(torch.full(grid.shape, suv), grid, PetScanner(), target, None)
    assert (image - suv).abs().max() < 1e-5 * suv


def test_a_point_is_seen_where_it_lies():
    grid = centred_grid([72.0] * 3, [2.0] * 3)
    suv = torch.zeros(grid.shape)
    suv[8, 20, 29] = 100.0
    place = (grid.matrix @ [8, 20, 29, 1])[:3]
    scanner = PetScanner(offset_mm=2.0)
    target = pet_grid(grid, scanner, np.random.default_rng(1))
    image = acquire_pet(suv, grid, scanner, target, None).double()
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in target.shape], indexing="ij"), -1).double()
    centre = (image[..., None] * index).sum((0, 1, 2)) / image.sum()
    assert (target.matrix @ [*centre.tolist(), 1.0])[:3] == pytest.approx(place, abs=0.05)


def test_voxels_run_from_left_to_right_and_lie_elsewhere_in_each_scan():
    grid = centred_grid([96.0] * 3, [3.0] * 3)
    fixed = pet_grid(grid, PetScanner(voxel_mm=4.0))
    assert fixed.shape == (24, 24, 24)
    assert np.diag(fixed.matrix)[:3] == pytest.approx([-4.0, 4.0, 4.0])
    assert fixed.corners_mm().mean(axis=0) == pytest.approx([0.0, 0.0, 0.0])
    generator = np.random.default_rng(0)
    places = np.array([pet_grid(grid, PetScanner(), generator).corners_mm().mean(axis=0) for _ in range(300)])
    assert places.std(axis=0) == pytest.approx([1.0, 1.0, 1.0], abs=0.12)


# ---- noise


def test_noise_has_mean_zero():
    images = torch.stack([uniform(1.0, scanner=PetScanner(), seed=seed) for seed in SEEDS])
    # 4 x 96 mm cubed of noise with a correlation volume of (1.06 x 7 mm) cubed.
    independent = len(SEEDS) * (96.0 / 7.5) ** 3
    assert abs(float(images.mean()) - 1.0) < 3.0 * 0.05 / independent**0.5


def test_variance_is_a_straight_line_in_the_counts():
    scanner = PetScanner()
    levels = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    sampled = [np.mean([float(uniform(s, scanner=scanner, seed=k).var()) for k in SEEDS]) for s in levels]
    slope, intercept = np.polyfit(levels, sampled, 1)
    expected = scanner.noise_suv**2 / (1.0 + scanner.floor_suv)
    assert slope == pytest.approx(expected, rel=0.06)
    assert intercept == pytest.approx(scanner.floor_suv * expected, abs=0.06 * expected)
    exact = noise_sd(torch.full((8, 8, 8), 1.0), centred_grid([24.0] * 3, [3.0] * 3), scanner)
    assert (exact - scanner.noise_suv).abs().max() < 1e-6


@pytest.mark.parametrize("correlation_mm", [5.0, 7.0, 10.0])
def test_autocorrelation_of_the_noise_has_the_stated_width(correlation_mm):
    scanner = PetScanner(correlation_mm=correlation_mm)
    total = np.zeros((48, 48, 48))
    for seed in SEEDS:
        noise = uniform(1.0, voxel_mm=1.5, n=48, scanner=scanner, seed=seed).numpy() - 1.0
        total += np.fft.ifftn(np.abs(np.fft.fftn(noise)) ** 2).real
    lags = 1.5 * np.arange(12)
    for along in (total[:12, 0, 0], total[0, :12, 0], total[0, 0, :12]):
        half = np.interp(-0.5, -along / total[0, 0, 0], lags)
        assert 2.0 * half == pytest.approx(correlation_mm, rel=0.08)


def test_variance_falls_with_the_duration_of_a_frame_and_grows_with_decay():
    grid = centred_grid([48.0] * 3, [3.0] * 3)
    begin, duration = np.array([120.0, 120.0, 229.77]), np.array([20.0, 5.0, 20.0])
    frames = Frames(torch.from_numpy(begin), torch.from_numpy(begin + duration))
    suv, scanner = torch.ones(3, *grid.shape), PetScanner()
    stated = noise_sd(suv, grid, scanner, frames)[:, 8, 8, 8] ** 2
    shorter = 4.0 * 2.0 ** ((122.5 - 130.0) / 109.77)
    assert (stated / stated[0]).numpy() == pytest.approx([1.0, shorter, 2.0], rel=1e-5)
    images = [acquire_pet(suv, grid, scanner, grid, np.random.default_rng(k), frames) for k in range(8)]
    sampled = torch.stack([image.var(dim=(1, 2, 3)) for image in images]).mean(0)
    assert (sampled / stated).numpy() == pytest.approx([1.0, 1.0, 1.0], rel=0.1)


def test_frames_have_noise_of_their_own():
    grid = centred_grid([48.0] * 3, [3.0] * 3)
    starts = torch.tensor([120.0, 140.0]).double()
    image = acquire_pet(
        torch.ones(2, *grid.shape), grid, PetScanner(), grid, np.random.default_rng(0), Frames(starts, starts + 20.0)
    )
    correlation = np.corrcoef(image.reshape(2, -1).numpy())[0, 1]
    assert abs(correlation) < 4.0 / (48.0 / 7.5) ** 1.5


def test_counts_of_the_surroundings_give_a_cold_voxel_its_noise():
    grid = centred_grid([96.0] * 3, [3.0] * 3)
    suv = 4.0 - 4.0 * ball(32, 3.0, 6.0)
    clean = acquire_pet(suv, grid, PetScanner(psf_mm=4.0), grid, None)
    spread = noise_sd(clean, grid, PetScanner())
    assert float(clean[16, 16, 16]) < 0.8
    assert float(spread[16, 16, 16]) > 0.8 * float(spread[2, 2, 2])


def test_images_are_never_negative_and_tissue_keeps_its_mean():
    grid = centred_grid([96.0] * 3, [3.0] * 3)
    suv = torch.zeros(grid.shape)
    suv[16:] = 1.0
    image = acquire_pet(suv, grid, PetScanner(noise_suv=0.2), grid, np.random.default_rng(0))
    assert float(image.min()) == 0.0
    assert float(image[24:].mean()) == pytest.approx(1.0, abs=0.02)


def test_the_same_generator_gives_the_same_scan_and_none_no_noise():
    first, again = (uniform(1.0, scanner=PetScanner(), seed=5) for _ in range(2))
    assert torch.equal(first, again)
    grid = centred_grid([48.0] * 3, [3.0] * 3)
    assert float(acquire_pet(torch.ones(grid.shape), grid, PetScanner(), grid, None).std()) < 1e-6


def test_noise_falls_with_the_root_of_the_activity():
    scanner = for_tracer(PetScanner(), HX4)
    assert scanner.noise_suv == pytest.approx(PetScanner().noise_suv * (300.0 / 426.0) ** 0.5)
    assert for_tracer(scanner, HX4) == scanner


# ---- refused


def test_a_point_spread_wider_than_a_quarter_of_the_view_is_refused_by_name():
    grid = centred_grid([20.0] * 3, [2.0] * 3)
    with pytest.raises(ConfigError, match=r"psf_mm=6 of PET scanner north .* field of view of 20 mm"):
        pet_grid(grid, PetScanner("north"))
    with pytest.raises(ConfigError, match=r"psf_mm=6 of PET scanner north .* field of view of 20 mm"):
        acquire_pet(torch.ones(grid.shape), grid, PetScanner("north"), grid, None)


def test_an_oblique_image_is_refused():
    grid = centred_grid([48.0] * 3, [3.0] * 3)
    turned = grid.matrix
    turned[:3, :3] = 3.0 * np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(GeometryError, match=r"leave those of the object .* take the grid of pet_grid"):
        acquire_pet(torch.ones(grid.shape), grid, PetScanner(), Grid.from_affine(grid.shape, turned), None)


def test_frames_that_do_not_fit_the_images_are_refused():
    grid = centred_grid([48.0] * 3, [3.0] * 3)
    starts = torch.tensor([0.0, 5.0]).double()
    generator = np.random.default_rng(0)
    for images, frames in (
        (torch.ones(3, *grid.shape), Frames(starts, starts + 5.0)),
        (torch.ones(2, *grid.shape), Frames(starts)),
    ):
        with pytest.raises(ConfigError, match="PET images came with 2 frames; give one frame with begin and end"):
            acquire_pet(images, grid, PetScanner(), grid, generator, frames)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"voxel_mm": 0.0}, "voxel_mm=0 of the phantom .* must be above 0"),
        ({"noise_suv": -0.1}, "noise_suv=-0.1 .* must be at least 0"),
        ({"half_life_min": float("inf")}, "half_life_min=inf .* must be a finite number"),
        ({"neighbourhood_mm": 4.0}, "neighbourhood_mm=4 of PET scanner standard is below psf_mm=6"),
    ],
)
def test_impossible_parameters_are_refused_by_name(change, said):
    with pytest.raises(ConfigError, match=said):
        replace(PetScanner(), **change)


def test_every_number_has_a_unit_and_a_source():
    assert all(row.unit and row.meaning and row.source for row in described(PetScanner()))
