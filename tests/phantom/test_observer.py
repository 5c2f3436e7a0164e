"""The ideal observer: its chain is that of the object, its noise is white, and its draws are those of the posterior."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.fields import averaged, centred_grid, gaussian_field
from hypoxnet.phantom.observer import (
    TRAITS,
    Settings,
    TumourImage,
    Whitening,
    most_expected_dice,
    observe,
    posterior,
)
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import FMISO
from hypoxnet.phantom.pet import acquire_pet, for_tracer, pet_grid
from hypoxnet.phantom.presets import preset
from hypoxnet.phantom.subject import Subject, make_subject
from hypoxnet.phantom.tracer import kinetics, late_suv, static_frame

SMALL = replace(preset("test"), images=("HYPOXIA_PET",))


class Scene:
    """A patient seen by PET, without and with noise."""

    def __init__(self, number: int) -> None:
        self.subject = make_subject(SMALL, number)
        anatomy, vessels = self.subject.anatomy, self.subject.vasculature
        scanner = for_tracer(self.subject.hospital.pet, FMISO)
        target = pet_grid(anatomy.grid, scanner)
        self.oxygen = self.subject.oxygen_of(vessels)
        suv = late_suv(kinetics(self.oxygen, vessels, anatomy, FMISO, self.subject.streams("tumour")), FMISO)
        self.clean = acquire_pet(suv, anatomy.grid, scanner, target, None)
        noise = self.subject.streams("noise")
        self.noisy = acquire_pet(suv, anatomy.grid, scanner, target, noise, static_frame(FMISO))
        self.chain = TumourImage(self.subject, suv, FMISO, scanner, target)
        hypoxic = self.subject.is_hypoxic(vessels, self.oxygen)
        self.tumour, self.truth = (averaged(mask, anatomy.grid, target) >= 0.5 for mask in (anatomy.tumour, hypoxic))

    def whitening(self, scale: float = 1.0) -> Whitening:
        return Whitening(self.clean, self.chain.scanner, self.chain.target, FMISO, scale)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(3)


def numbers_of(subject: Subject, chain: TumourImage) -> torch.Tensor:
    """The numbers behind a patient, of the streams and in the order in which his links draw them."""
    vessels, grid, nodes = subject.chosen.vessels, subject.anatomy.grid, int(subject.anatomy.nodes.max())
    generator = subject.streams("vessels")

    def field(length_mm: float) -> torch.Tensor:
        return gaussian_field(grid.shape, length_mm=length_mm, spacing_mm=grid.spacing_mm, generator=generator)

    texture = field(vessels.texture_mm)
    levels = [generator.standard_normal(), *generator.standard_normal(nodes)]
    flow = generator.standard_normal()
    fields = [texture, field(vessels.texture_mm), field(vessels.acute_mm)]
    where = subject.anatomy.tumour.nonzero()
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(where.amin(dim=0), where.amax(dim=0), strict=True))
    numbers = []
    for values, modes in zip(fields, chain.modes, strict=True):
        # The field in the box in terms of its modes.
        inverse = [torch.linalg.pinv(axis.double()) for axis in modes]
        numbers.append(torch.einsum("ijk,ai,bj,ck->abc", values[box].double(), *inverse).flatten())
    traits = torch.tensor([flow, *subject.streams("tumour").standard_normal(2), *levels])
    return torch.cat([*numbers, traits]).float()[None]


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    whole = float(one.sum() + other.sum())
    return 2.0 * float((one & other).sum()) / whole if whole else 1.0


# ---- the chain


@pytest.mark.parametrize("number", [3, 5])
def test_the_observer_makes_the_vessels_of_the_object_from_the_same_numbers(number: int) -> None:
    scene = Scene(number)
    z = numbers_of(scene.subject, scene.chain)
    assert z.shape == (1, scene.chain.unknowns)
    vessels, tumour = scene.chain.vessels(z), scene.subject.anatomy.tumour
    # What is left out of the fields moves logarithms by thousandths; necrosis sets in steeply.
    for name, relative in (("radius_um", 2e-3), ("flow", 4e-3), ("viable", 2e-2), ("acute", 5e-3)):
        found, expected = getattr(vessels, name).squeeze(), getattr(scene.subject.vasculature, name)[tumour]
        torch.testing.assert_close(found, expected, rtol=relative, atol=1e-4)


@pytest.mark.parametrize("number", [3, 5])
def test_its_image_is_that_of_the_object_but_for_oxygen_that_voxels_exchange(number: int) -> None:
    scene = Scene(number)
    z = numbers_of(scene.subject, scene.chain)
    away = (scene.chain.image(z)[0] - scene.clean).abs()
    assert float(away.max()) < 0.1 * float(scene.whitening().sd.min())
    po2 = scene.chain.oxygen(scene.chain.vessels(z)).po2.squeeze()
    assert float((po2 - scene.oxygen.po2[scene.subject.anatomy.tumour]).abs().max()) < 0.2


def test_its_fields_have_variance_one_and_the_correlation_of_the_object(scene: Scene) -> None:
    spacing = scene.subject.anatomy.grid.spacing_mm[0]
    for modes, length in zip(scene.chain.modes, (6.0, 6.0, 4.0), strict=True):
        covariance = modes[0] @ modes[0].T
        apart = spacing * (torch.arange(len(covariance))[:, None] - torch.arange(len(covariance)))
        expected = torch.exp(-0.5 * (apart / length) ** 2)
        # Sampled every 3 mm, a Gaussian is that of its formula only to 2 %.
        torch.testing.assert_close(covariance, expected, rtol=0.0, atol=0.02)


def test_gradients_are_those_of_finite_differences_and_reach_every_kind_of_number(scene: Scene) -> None:
    chain = scene.chain
    generator = torch.Generator().manual_seed(0)
    z = 0.3 * torch.randn(1, chain.unknowns, generator=generator)
    towards = torch.randn(1, *scene.clean.shape, generator=generator)
    start = z.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((chain.image(start) * towards).sum(), start)
    assert bool(torch.isfinite(gradient).all())
    pieces = [*torch.split(gradient[0], [*chain.sizes, 1, 1, 1, chain.traits - TRAITS])]
    assert all(float(piece.abs().max()) > 0 for piece in pieces)
    direction = gradient / gradient.norm()
    ahead, behind = (((chain.image(z + step * direction)) * towards).double().sum() for step in (0.01, -0.01))
    assert float(ahead - behind) / 0.02 == pytest.approx(float(gradient.norm()), rel=0.02)


# ---- the noise


def water(scanner: PetScanner, side: int = 20) -> tuple[torch.Tensor, Grid]:
    return torch.full((side,) * 3, 2.0), centred_grid([side * scanner.voxel_mm] * 3, [scanner.voxel_mm] * 3)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_noise_of_the_scanner_is_white_once_whitened(scale: float) -> None:
    scanner = PetScanner()
    image, grid = water(scanner)
    frame = static_frame(FMISO)
    noise = torch.stack([
        acquire_pet(image, grid, scanner, grid, np.random.default_rng(seed), frame) - image for seed in range(24)
    ])  # fmt: skip
    whitening = Whitening(image, scanner, grid, FMISO, scale)
    white = whitening(scale * noise)
    assert float((white**2).sum()) / len(noise) / whitening.frequencies == pytest.approx(1.0, abs=0.02)
    # Frequencies that count have the same power, whatever the direction; those filtered out are not amplified.
    power = (torch.fft.fftn(white, dim=(-3, -2, -1), norm="ortho").abs() ** 2).mean(dim=0)
    assert float(power[:3, :3, :3].mean()) == pytest.approx(1.0, abs=0.15)
    assert float(power.mean()) < 1.0
    assert 0.5 * image.numel() < whitening.frequencies < image.numel()


# ---- the draws


def linear_problem() -> tuple[torch.Tensor, torch.Tensor, Whitening]:
    """An image that is linear in six numbers, some well and some badly seen, and its noise."""
    scanner = PetScanner(correlation_mm=4.0)
    water_image, grid = water(scanner, side=8)
    generator = torch.Generator().manual_seed(1)
    size = 0.3 * torch.tensor([1.0, 0.5, 0.2, 0.1, 0.03, 0.0])[:, None, None, None]
    design = size * torch.nn.functional.avg_pool3d(torch.randn(6, 8, 8, 8, generator=generator), 3, 1, 1)
    return design, water_image, Whitening(water_image, scanner, grid, FMISO)


def test_draws_of_a_linear_chain_have_the_mean_and_covariance_of_the_posterior() -> None:
    design, image, whitening = linear_problem()
    true = torch.tensor([1.0, -1.0, 2.0, 0.5, -0.5, 0.0])
    noise = 0.05 * torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(2))
    noisy = image + torch.tensordot(true, design, 1) + noise
    seen = whitening(design).flatten(1)
    covariance = torch.linalg.inv(torch.eye(6) + seen @ seen.T)
    mean = covariance @ (seen @ whitening(noisy - image).flatten())
    assert float(covariance[0, 0]) < 0.1 < 0.9 < float(covariance[-1, -1])

    drawn = posterior(
        lambda z: image + torch.einsum("sn,ndhw->sdhw", z, design),
        6,
        noisy,
        whitening=whitening,
        generator=np.random.default_rng(3),
        settings=Settings(chains=400, moves=40, leaps=6),
    )
    spread = covariance.diagonal().sqrt()
    assert len(drawn) == 3 * 400
    torch.testing.assert_close((drawn.mean(dim=0) - mean) / spread, torch.zeros(6), rtol=0.0, atol=0.15)
    found = torch.cov(drawn.T) / (spread[:, None] * spread)
    torch.testing.assert_close(found, covariance / (spread[:, None] * spread), rtol=0.0, atol=0.15)


def test_chains_find_both_explanations_of_an_image_by_their_weight() -> None:
    """The image is the square of a number: plus and minus explain it alike."""
    design, image, whitening = linear_problem()
    shape = design[0]
    drawn = posterior(
        lambda z: image + z[:, :, None, None] ** 2 * shape,
        1,
        image + 1.5 * shape,
        whitening=whitening,
        generator=np.random.default_rng(4),
        settings=Settings(chains=200, moves=40, leaps=4),
    )
    assert float((drawn > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert float((drawn.abs() - np.sqrt(1.5)).abs().max()) < 0.3


# ---- the region


def test_the_region_of_most_expected_dice_is_that_of_trying_all_regions() -> None:
    generator = np.random.default_rng(0)
    every = torch.tensor([[n >> bit & 1 for bit in range(7)] for n in range(2**7)], dtype=torch.bool)
    empty_won = 0
    for _ in range(60):
        # Draws that share a level, as the voxels of one patient do.
        level = generator.normal(-0.8, 1.2, (6, 1))
        draws = torch.from_numpy(generator.normal(size=(6, 7)) + np.linspace(-0.7, 0.7, 7) + level > 0.5)
        expected = [np.mean([dice(region, draw) for draw in draws]) for region in every]
        region = most_expected_dice(draws.reshape(6, 7, 1, 1)).flatten()
        assert np.mean([dice(region, draw) for draw in draws]) == pytest.approx(max(expected), abs=1e-6)
        empty_won += not bool(region.any())
    assert 0 < empty_won < 60


# ---- the observer


def test_on_average_it_finds_far_more_than_the_best_common_threshold_where_noise_is_low() -> None:
    by_threshold, found = [], []
    for number in (1, 2, 11):
        scene = Scene(number)
        grid, target = scene.subject.anatomy.grid, scene.chain.target
        muscle = averaged(scene.subject.anatomy.muscle_reference, grid, target) >= 0.5
        ratio = scene.clean / scene.clean[muscle].median()
        by_threshold.append([dice(scene.tumour & (ratio >= one), scene.truth) for one in np.arange(0.8, 4.0, 0.05)])
        generator, settings = np.random.default_rng(number), Settings(chains=4, moves=30, leaps=6)
        seen = observe(scene.chain, scene.clean, scene.whitening(0.3), generator, settings)
        region = most_expected_dice((averaged(seen.samples, grid, target) >= 0.5) & scene.tumour)
        found.append(dice(region, scene.truth))
    assert np.mean(found) > np.mean(by_threshold, axis=0).max() + 0.1


def test_it_explains_a_noisy_image_up_to_its_noise_by_tumour_alone_and_the_same_for_a_seed() -> None:
    scene = Scene(11)
    settings = Settings(chains=4, moves=15, leaps=5)
    one, again = (
        observe(scene.chain, scene.noisy, scene.whitening(), np.random.default_rng(7), settings) for _ in range(2)
    )
    assert one.misfit == pytest.approx(1.0, abs=0.05)
    assert bool(one.samples.any())
    assert not bool((one.samples & ~scene.subject.anatomy.tumour).any())
    assert torch.equal(one.samples, again.samples)


@pytest.mark.parametrize("wrong", [{"chains": 0}, {"leaps": 0}, {"moves": 9}])
def test_settings_that_leave_nothing_to_draw_are_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name}={wrong[name]}"):
        Settings(**wrong)
