from dataclasses import replace

import pytest
import torch

from hypoxnet.cases import Batch
from hypoxnet.quantities import Modality
from hypoxnet.transforms.augment import augment
from hypoxnet.transforms.config import AugmentConfig

MODALITIES = (Modality.PET, Modality.MR)
SPACING = (3.0, 3.0, 3.0)
OFF = AugmentConfig(flip=0, spatial=0, misalign=0, intensity=0, drop_channel=0)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    b, side = 4, 16
    label = torch.zeros(b, 1, side, side, side, dtype=torch.uint8)
    label[:, :, 5:10, 4:11, 6:9] = 1
    images = torch.rand(b, 2, side, side, side, generator=generator)
    images += label
    return Batch(
        keys=tuple("abcd"),
        images=images,
        presence=torch.ones(b, 2),
        label=label,
        label_known=torch.ones(b, 1),
        tumour=label.clone(),
        tumour_known=torch.ones(b),
        months=torch.full((b,), 12.0),
        event=torch.ones(b, dtype=torch.int64),
        outcome_known=torch.ones(b),
        covariates=torch.zeros(b, 0),
        covariates_known=torch.zeros(b, 0),
    )


def run(batch, config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment(batch, config, modalities=MODALITIES, spacing_mm=SPACING, generator=generator)


def test_everything_off_changes_nothing(batch):
    after = run(batch, OFF)
    for name, tensor in batch.tensors().items():
        assert torch.equal(tensor.float(), getattr(after, name).float()), name


def test_the_same_seed_gives_the_same_batch_and_another_another(batch):
    config = AugmentConfig(spatial=1.0, misalign=1.0, intensity=1.0)
    assert torch.equal(run(batch, config).images, run(batch, config).images)
    assert not torch.equal(run(batch, config).images, run(batch, config, seed=1).images)


def test_flips_move_images_and_labels_together(batch):
    after = run(batch, replace(OFF, flip=1.0))
    assert torch.equal(after.images, batch.images.flip(2, 3, 4))
    assert torch.equal(after.label, batch.label.flip(2, 3, 4).to(after.label.dtype))


def test_labels_follow_rotation_scaling_and_elastic_deformation(batch):
    """The image of a label, deformed with it, stays on it."""
    images = batch.label.float().expand(-1, 2, -1, -1, -1).clone()
    config = replace(OFF, spatial=1.0, rotate_degrees=25.0, scale=0.2, elastic_mm=3.0)
    after = run(replace(batch, images=images), config)
    assert not torch.equal(after.label.float(), batch.label.float())
    said = after.images[:, :1] >= 0.5
    truth = after.label > 0.5
    both = 2.0 * (said & truth).sum() / (said.sum() + truth.sum())
    assert both > 0.97


def test_misalignment_moves_channels_against_each_other_but_not_the_label(batch):
    images = batch.label.float().expand(-1, 2, -1, -1, -1).clone()
    after = run(replace(batch, images=images), replace(OFF, misalign=1.0, misalign_mm=6.0))
    assert torch.equal(after.label.float(), batch.label.float())
    assert not torch.allclose(after.images[:, 0], after.images[:, 1], atol=0.1)


def test_a_dropped_channel_is_zero_and_absent_and_one_always_remains(batch):
    after = run(batch, replace(OFF, drop_channel=0.9))
    assert (after.presence.sum(dim=1) >= 1).all()
    assert (after.presence == 0).any()
    assert not after.images[after.presence == 0].any()


def test_a_channel_that_was_absent_stays_so(batch):
    absent = replace(batch, presence=torch.tensor([[1.0, 0.0]] * 4))
    after = run(absent, AugmentConfig(spatial=1.0, intensity=1.0, drop_channel=0.9))
    assert after.presence.tolist() == [[1.0, 0.0]] * 4
    assert not after.images[:, 1].any()


def test_pet_noise_follows_the_counts(batch):
    """Its variance in SUV grows with the uptake (Poisson)."""
    from hypoxnet.transforms.normalise import norm_of

    norm = norm_of("FMISO_SUV")
    low, high = ((torch.log1p(torch.tensor(s)) - norm.centre) / norm.scale for s in (1.0, 9.0))
    images = torch.empty(64, 1, 16, 16, 16)
    images[:32], images[32:] = low, high
    many = replace(
        batch,
        images=images,
        presence=torch.ones(64, 1),
        label=batch.label[:1].expand(64, -1, -1, -1, -1),
        tumour=batch.tumour[:1].expand(64, -1, -1, -1, -1),
    )
    config = replace(OFF, intensity=1.0, pet_noise=0.1, pet_blur_mm=0.0, pet_scale=0.0)
    generator = torch.Generator().manual_seed(0)
    after = augment(many, config, modalities=(Modality.PET,), spacing_mm=SPACING, generator=generator).images
    suv = torch.expm1(after * norm.scale + norm.centre)
    ratio = suv[32:].flatten(1).var(dim=1).mean() / suv[:32].flatten(1).var(dim=1).mean()
    assert 5.0 < float(ratio) < 16.0


def test_outcome_and_covariates_are_untouched(batch):
    after = run(batch, AugmentConfig(spatial=1.0, misalign=1.0, intensity=1.0))
    for name in ("months", "event", "outcome_known", "covariates", "label_known", "tumour_known"):
        assert torch.equal(getattr(after, name), getattr(batch, name))


@pytest.mark.parametrize("sigma", [0.4, 1.3])
def test_extra_blur_is_that_of_scipy(sigma):
    from scipy import ndimage

    from hypoxnet.transforms.augment_intensity import _blur

    volume = torch.rand(12, 9, 16, generator=torch.Generator().manual_seed(0))
    blurred = _blur(volume, torch.tensor([sigma, 0.0, 2 * sigma]))
    radius = [max(1, int(-(-3 * s // 1))) if s else 0 for s in (sigma, 0.0, 2 * sigma)]
    expected = ndimage.gaussian_filter(volume.double().numpy(), (sigma, 0.0, 2 * sigma), mode="nearest", radius=radius)
    torch.testing.assert_close(blurred.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
