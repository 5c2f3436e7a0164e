"""The ideal observer: its chain is that of the object, its noise is white, and it is above a threshold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hypoxnet.phantom.fields import averaged
from hypoxnet.phantom.observer import FIELDS, TRAITS, Settings, TumourImage, Whitening, most_expected_dice, observe
from hypoxnet.phantom.parameters.tracer import FMISO
from hypoxnet.phantom.pet import acquire_pet, for_tracer, pet_grid
from hypoxnet.phantom.presets import preset
from hypoxnet.phantom.subject import make_subject
from hypoxnet.phantom.tracer import kinetics, late_suv, static_frame
from hypoxnet.phantom.vasculature import make_vasculature

SMALL = replace(preset("test"), images=("HYPOXIA_PET",))


@pytest.fixture(scope="module")
def scene():
    """A patient whose vessels are made of known numbers, seen by PET with and without noise."""
    subject = make_subject(SMALL, 3)
    scanner = for_tracer(subject.hospital.pet, FMISO)
    target = pet_grid(subject.anatomy.grid, scanner)
    oxygen = subject.oxygen_of(subject.vasculature)
    suv = late_suv(kinetics(oxygen, subject.vasculature, subject.anatomy, FMISO), FMISO)
    clean = acquire_pet(suv, subject.anatomy.grid, scanner, target, None)
    noise = np.random.default_rng(5)
    noisy = acquire_pet(suv, subject.anatomy.grid, scanner, target, noise, static_frame(FMISO))
    return subject, TumourImage(subject, suv, FMISO, scanner, target), clean, noisy


def numbers_of(subject) -> torch.Tensor:
    """The standard normal numbers of `make_vasculature`, in the order in which it draws them."""
    generator = subject.streams("vessels")
    shape = subject.anatomy.grid.shape
    texture = generator.standard_normal(shape, dtype=np.float32)
    levels = generator.standard_normal(1 + int(subject.anatomy.nodes.max()))
    flow_of_patient = generator.standard_normal()
    flow = generator.standard_normal(shape, dtype=np.float32)
    acute = generator.standard_normal(shape, dtype=np.float32)
    fields = np.concatenate([field.ravel() for field in (texture, flow, acute)])
    traits = [flow_of_patient, 0.0, 0.0, *levels]
    return torch.from_numpy(np.concatenate([fields, traits]).astype(np.float32))[None]


def test_the_observer_makes_the_vessels_of_the_object_from_the_same_numbers(scene):
    subject, chain, _, _ = scene
    z = numbers_of(subject)
    assert z.shape[1] == chain.unknowns == len(FIELDS) * subject.anatomy.tissue.numel() + chain.traits
    vessels = chain.vessels(z)
    true = make_vasculature(subject.anatomy, SMALL.vessels, subject.streams("vessels"))
    tumour = subject.anatomy.tumour
    for name in ("radius_um", "flow", "viable", "acute"):
        found, expected = getattr(vessels, name).squeeze(), getattr(true, name)[tumour]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_its_image_is_that_of_the_scanner(scene):
    subject, chain, clean, _ = scene
    image = chain.image(numbers_of(subject))[0]
    # The exchange of oxygen between voxels, which the observer leaves out, is all that differs.
    assert float((image - clean).abs().max()) < 0.01


def test_gradients_reach_every_kind_of_unknown(scene):
    _, chain, clean, _ = scene
    z = torch.zeros(1, chain.unknowns, requires_grad=True)
    (gradient,) = torch.autograd.grad(((chain.image(z) - clean) ** 2).sum(), z)
    assert bool(torch.isfinite(gradient).all())
    fields = gradient[0, : -chain.traits].reshape(len(FIELDS), -1)
    assert (fields.abs().amax(dim=1) > 0).all()
    assert (gradient[0, -chain.traits :][: TRAITS + 1].abs() > 0).all()


def test_noise_has_the_stated_variance_and_is_white_once_whitened(scene):
    _, chain, clean, _ = scene
    whitening = Whitening(clean, chain.scanner, chain.target, FMISO)
    drawn = whitening.noise(64, np.random.default_rng(1))
    ratio = drawn.std(dim=0) / whitening.sd
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.02)
    misfit = 2.0 * float(whitening.misfit(drawn).mean()) / clean.numel()
    # Frequencies that the reconstruction has filtered out do not count; no more than all of them can.
    assert 0.5 < misfit <= 1.01


def test_the_region_of_most_expected_dice_is_that_of_trying_all_sizes():
    generator = np.random.default_rng(0)
    samples = torch.from_numpy(generator.random((20, 2, 3, 2)) < generator.beta(0.5, 1.0, (2, 3, 2)))
    order = samples.float().mean(dim=0).flatten().argsort(descending=True, stable=True)
    scores = []
    for size in range(13):
        region = torch.zeros(12, dtype=torch.bool)
        region[order[:size]] = True
        scores.append(np.mean([dice_of(region, one.flatten()) for one in samples]))
    assert int(most_expected_dice(samples).sum()) == int(np.argmax(scores))


def test_nothing_is_outlined_where_most_draws_are_empty():
    samples = torch.zeros(5, 2, 2, 2, dtype=torch.bool)
    samples[0, 0, 0, 0] = True
    assert not bool(most_expected_dice(samples).any())


def dice_of(one: torch.Tensor, other: torch.Tensor) -> float:
    """Dice, 1 where both are empty."""
    whole = float(one.sum() + other.sum())
    return 2.0 * float((one & other).sum()) / whole if whole else 1.0


def test_it_finds_more_than_any_threshold_of_the_same_image(scene):
    subject, chain, clean, noisy = scene
    truth = subject.is_hypoxic(subject.vasculature, subject.oxygen_of(subject.vasculature))
    whitening = Whitening(clean, chain.scanner, chain.target, FMISO)
    seen = observe(chain, noisy, whitening, np.random.default_rng(2), Settings(samples=4, steps=60))
    seen_truth, tumour, samples = (
        averaged(mask, subject.anatomy.grid, chain.target) >= 0.5
        for mask in (truth, subject.anatomy.tumour, seen.samples)
    )
    best = max(dice_of(tumour & (noisy >= threshold), seen_truth) for threshold in np.arange(0.8, 4.0, 0.05))
    assert dice_of(most_expected_dice(samples & tumour), seen_truth) > best - 0.02
    assert 0.3 < seen.misfit < 1.3
    assert bool((seen.probability[~subject.anatomy.tumour] == 0).all())
