from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.cases import Outcome, Sample
from hypoxnet.data.cache import PreparedCache
from hypoxnet.data.config import DataConfig
from hypoxnet.data.datamodule import HypoxiaDataModule
from hypoxnet.data.splits import Split
from hypoxnet.errors import CaseError, GeometryError
from hypoxnet.geometry import Grid
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.transforms.prepare import prepare
from hypoxnet.transforms.settings import ThresholdLabel
from hypoxnet.transforms.spatial import to_grid


def test_training_and_inference_prepare_bit_for_bit(tiny_spec, make_bundle, make_case, tmp_path, monkeypatch):
    """What the loader hands to training is what the predictor hands to the network: images, presence, covariates."""
    record = make_case(voxels=16)
    data = DataConfig(cache=str(tmp_path / "cache"), window=[16, 16, 16])
    module = HypoxiaDataModule(
        Split((record,), (), ()), tiny_spec.settings, data, batch_size=1, steps_per_epoch=1, seed=0
    )
    trained = module.store(record)
    seen = {}
    predictor = load_predictor(make_bundle(tiny_spec), InferenceConfig(device="cpu"))
    apply = predictor.apply
    monkeypatch.setattr(
        type(predictor),
        "apply",
        lambda self, sample, *rest: seen.setdefault("sample", sample) and apply(sample, *rest),
    )
    predictor.predict(record)
    for name in ("images", "presence", "tumour", "tumour_known", "covariates", "covariates_known"):
        assert torch.equal(getattr(trained, name), getattr(seen["sample"], name)), name
    assert trained.grid == seen["sample"].grid


def test_a_channel_on_another_grid_lands_where_it_lies_in_space(tiny_settings, tmp_path):
    """A ramp along x, sampled on an oblique grid, is the same ramp on the working grid."""

    def ramp(grid):
        index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
        return (index @ grid.matrix[:3, :3].T + grid.matrix[:3, 3])[..., 0].astype(np.float32)

    angle = np.radians(8.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array([3.0, 5.0, 4.0])
    affine[:3, 3] = [-70.0, -80.0, -60.0]
    source = Grid.from_affine((50, 34, 32), affine)
    target = Grid.from_affine(
        (16, 16, 16), np.diag([-4.0, -4.0, 4.0, 1.0]) + np.array([[0, 0, 0, 30.0]] * 2 + [[0, 0, 0, -20.0]] + [[0] * 4])
    )
    there = to_grid(torch.from_numpy(ramp(source))[None], source, target)[0]
    np.testing.assert_allclose(there, ramp(target), atol=2e-3)


def test_orientation_and_rounded_cosines_are_repaired_and_reported(tiny_settings, make_case, tmp_path):
    record = make_case()
    path = record.channels["T1W"]
    image = nib.load(path)
    affine = image.affine.copy()
    affine[1, 0] = 5.0 * np.tan(np.radians(0.05))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    sample = prepare(record, tiny_settings).sample
    told = " ".join(sample.repairs)
    assert "direction cosines were off a right angle by 0.05" in told
    assert "T1W (22 x 20 x 18 at 5.00 x 5.00 x 6.00 mm) was resampled onto the reference grid" in told
    np.testing.assert_allclose(sample.grid.matrix[:3, :3], np.diag([4.0, 4.0, 4.0]), atol=1e-6)


def test_an_absent_channel_is_zero_and_said_to_be_absent(tiny_settings, make_case, without_t1w):
    sample = prepare(without_t1w(make_case()), tiny_settings).sample
    assert sample.presence.tolist() == [1.0, 0.0]
    assert not sample.images[1].any()
    assert sample.images[0].any()


def test_what_is_not_known_is_marked(tiny_settings, make_case):
    record = replace(make_case(contour=False), covariates={}, outcome=None)
    sample = prepare(record, tiny_settings).sample
    assert float(sample.tumour_known) == float(sample.outcome_known) == 0.0
    assert sample.label_known.tolist() == [0.0]
    assert sample.covariates_known.tolist() == [0.0]
    known = prepare(replace(record, outcome=Outcome(2, 9.5), covariates={"age": 68.0}), tiny_settings).sample
    assert (float(known.months), int(known.event), float(known.outcome_known)) == (9.5, 2, 1.0)
    assert known.covariates.tolist() == [1.0]


def test_suv_is_normalised_with_the_same_constants_for_every_patient(tiny_settings, make_case):
    record = make_case()
    norm = tiny_settings.norms[0]
    sample = prepare(record, tiny_settings).sample
    raw = nib.as_closest_canonical(nib.load(record.channels["FMISO_SUV"])).get_fdata(dtype=np.float32)
    expected = (np.log1p(np.clip(raw, norm.low, norm.high)) - norm.centre) / norm.scale
    np.testing.assert_allclose(sample.images[0].numpy(), expected, atol=2e-5)


def test_a_threshold_label_is_the_ratio_inside_the_tumour(tiny_settings, make_case, tmp_path):
    record = make_case()
    pet = nib.load(record.channels["FMISO_SUV"])
    muscle = np.zeros(pet.shape, np.uint8)
    muscle[:4, :4, :4] = 1
    nib.save(nib.Nifti1Image(muscle, pet.affine), tmp_path / "muscle.nii.gz")
    record = replace(record, masks={**record.masks, "MUSCLE": tmp_path / "muscle.nii.gz"})
    settings = replace(
        tiny_settings,
        regions=(replace(tiny_settings.regions[0], masks=()),),
        threshold=ThresholdLabel("FMISO_SUV", "MUSCLE", "median", 1.4),
    )
    suv = pet.get_fdata(dtype=np.float32)
    inside = nib.load(record.masks["GTVP"]).get_fdata() > 0
    expected = (suv >= 1.4 * np.median(suv[muscle > 0])) & inside
    label = prepare(record, settings).sample.label[0].numpy() > 0
    canonical = nib.as_closest_canonical(nib.Nifti1Image(expected.astype(np.uint8), pet.affine)).get_fdata() > 0
    assert (label == canonical).all()


def test_no_channel_of_the_network_names_both(tiny_settings, make_case):
    record = replace(make_case(), channels={})
    with pytest.raises(
        CaseError, match=r"P001: the network reads FMISO_SUV, T1W, the manifest \(line 2\) has no channel"
    ):
        prepare(record, tiny_settings)


def test_channels_apart_in_space_are_refused(tiny_settings, make_case):
    record = make_case()
    image = nib.load(record.channels["T1W"])
    affine = image.affine.copy()
    affine[:3, 3] += 800.0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), record.channels["T1W"])
    with pytest.raises(CaseError, match=r"P001: T1W is centred at .* do not overlap"):
        prepare(record, tiny_settings)


def test_a_sheared_image_is_refused_with_case_and_file(tiny_settings, make_case):
    record = make_case()
    image = nib.load(record.channels["FMISO_SUV"])
    affine = image.affine.copy()
    affine[0, 1] = 1.0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), record.channels["FMISO_SUV"])
    with pytest.raises(GeometryError, match=r"P001: FMISO_SUV: .*fmiso\.nii\.gz: the affine is sheared by 14"):
        prepare(record, tiny_settings)


def test_a_sample_survives_the_cache(tiny_settings, make_case, tmp_path):
    record = make_case()
    kept = PreparedCache(tmp_path, tiny_settings)
    kept.get(record)
    again, fresh = kept.get(record).sample, prepare(record, tiny_settings).sample
    for item in fields(Sample):
        a, b = getattr(again, item.name), getattr(fresh, item.name)
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) if isinstance(a, torch.Tensor) else a == b


def test_pet_in_becquerels_is_refused_in_training_and_inference(tiny_settings, make_case):
    record = make_case()
    image = nib.load(record.channels["FMISO_SUV"])
    nib.save(nib.Nifti1Image(image.get_fdata() * 10000, image.affine), record.channels["FMISO_SUV"])
    sentence = (
        r"P001: FMISO_SUV: .*fmiso\.nii\.gz has a maximum of .* in g/ml at most 50 is plausible; it may be in Bq/ml"
    )
    with pytest.raises(CaseError, match=sentence):
        prepare(record, tiny_settings)


def test_an_empty_contour_is_refused_unless_it_is_of_nodes_beside_a_primary(tiny_settings, make_case, tmp_path):
    record = make_case()
    image = nib.load(record.masks["GTVP"])
    nothing = tmp_path / "nothing.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), nothing)
    sentence = r"P001: GTV[PN]: .*nothing\.nii\.gz is empty \(0 voxels of 13824\); draw it, or leave the cell empty"
    for masks in ({"GTVP": nothing}, {"GTVN": nothing}, {"GTVP": nothing, "GTVN": record.masks["GTVP"]}):
        with pytest.raises(CaseError, match=sentence):
            prepare(replace(record, masks=masks), tiny_settings)
    alone, beside = (
        prepare(replace(record, masks=masks), tiny_settings).sample
        for masks in (record.masks, {**record.masks, "GTVN": nothing})
    )
    assert torch.equal(alone.tumour, beside.tumour)
