import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.errors import CaseError, ConfigError
from hypoxnet.inference.attribution import TOLERANCE, LogOdds, attribute, explain, reference_images
from hypoxnet.inference.config import EXPLANATIONS, InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.models.config import OutcomeConfig
from hypoxnet.transforms.prepare import prepare

CPU = InferenceConfig(device="cpu")


@pytest.fixture
def predictor(tiny_spec, make_bundle):
    return load_predictor(make_bundle(tiny_spec), CPU)


@pytest.fixture
def sample(predictor, make_case):
    return prepare(predictor.needed(make_case()), predictor.spec.settings).sample


def total(attribution):
    return float(attribution.images.double().sum() + attribution.covariates.double().sum())


@pytest.mark.parametrize(("seeds", "mirror"), [((1,), False), ((1, 2), True)])
def test_what_is_explained_is_what_is_predicted(tiny_spec, make_bundle, make_case, seeds, mirror):
    loaded = load_predictor(make_bundle(tiny_spec, seeds=seeds), replace(CPU, mirror=mirror))
    one = prepare(loaded.needed(make_case()), tiny_spec.settings).sample
    with torch.inference_mode():
        predicted = loaded.apply(one).incidence[0, -1]
        explained = LogOdds(loaded, one).of(one.images[None], one.covariates[None])
    torch.testing.assert_close(explained[0], torch.logit(predicted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inside", [True, False], ids=["one window", "eight windows"])
def test_the_parts_add_up_to_the_difference_from_the_reference(
    make_spec, tiny_settings, make_bundle, make_case, inside
):
    predictor = load_predictor(make_bundle(make_spec(replace(tiny_settings, inside_tumour=inside))), CPU)
    sample = prepare(predictor.needed(make_case()), predictor.spec.settings).sample
    found = attribute(predictor, sample)
    with torch.no_grad():
        log_odds = LogOdds(predictor, sample)
        patient = log_odds.of(sample.images[None], sample.covariates[None])
        reference = log_odds.of(reference_images(sample)[None], torch.zeros_like(sample.covariates)[None])
    difference = float(patient - reference)
    # A drawn network may hardly tell patient and reference apart, but the parts of which that is the sum are large.
    assert float(found.images.abs().sum()) > 20 * TOLERANCE
    assert total(found) == pytest.approx(difference, abs=TOLERANCE)


def test_only_measured_channels_inside_the_tumour_have_a_part(predictor, make_case, without_t1w):
    one = prepare(predictor.needed(without_t1w(make_case())), predictor.spec.settings).sample
    for method in EXPLANATIONS:
        images = attribute(predictor, one, method=method).images
        assert images[0, one.tumour[0] > 0].abs().min() > 0
        assert images[0, one.tumour[0] == 0].abs().max() == 0
        assert images[1].abs().max() == 0


@pytest.mark.parametrize("way", ["features", "volumes"])
def test_a_way_that_the_head_does_not_read_has_no_part(predictor, sample, way):
    """The hidden layer reads features, then volumes; the linear one reads volumes only."""
    (model,) = predictor.models
    features = sum(model.backbone.pooled_features)
    volumes = 1 + 2 * model.spec.regions
    with torch.no_grad():
        if way == "features":
            model.head.hidden[1].weight[:, :features] = 0.0
        else:
            model.head.hidden[1].weight[:, features : features + volumes] = 0.0
            model.head.linear.weight[:, :volumes] = 0.0
    found = attribute(predictor, sample)
    unread, read = found.by_features, found.by_volumes
    if way == "volumes":
        unread, read = read, unread
    assert unread.abs().max() == 0
    assert read.abs().max() > 0


def test_read_outs_are_the_volumes_without_their_gradient(predictor, sample):
    (model,) = predictor.models
    tumour = sample.tumour[None].float()
    probability = torch.rand(1, 1, *tumour.shape[2:], generator=torch.Generator().manual_seed(0)).requires_grad_()
    volumes = model.volumes(probability, tumour)
    read_outs = model.read_outs(probability, tumour, sample.tumour_known[None])
    assert torch.equal(volumes.detach(), read_outs)
    assert volumes.requires_grad
    assert not read_outs.requires_grad


def test_ablation_gives_a_covariate_what_the_risk_loses_without_it(predictor, sample):
    found = attribute(predictor, sample, method="ablation")
    with torch.no_grad():
        log_odds = LogOdds(predictor, sample)
        images = sample.images[None]
        lost = log_odds.of(images, sample.covariates[None]) - log_odds.of(images, 0.0 * sample.covariates[None])
    assert float(found.covariates.sum()) == pytest.approx(float(lost), abs=1e-5)


def test_ablation_of_a_cube_is_shared_by_its_voxels(predictor, sample):
    """A tumour of one voxel is one cube: its part is what putting that voxel to the reference takes away."""
    voxel = torch.zeros_like(sample.tumour)
    place = tuple(int(i) for i in torch.nonzero(sample.tumour)[0])
    voxel[place] = 1
    one = replace(sample, tumour=voxel)
    found = attribute(predictor, one, method="ablation")
    images = sample.images.clone()
    images[0][place[1:]] = 0.0
    with torch.no_grad():
        log_odds = LogOdds(predictor, one)
        lost = log_odds.of(sample.images[None], one.covariates[None]) - log_odds.of(images[None], one.covariates[None])
    assert float(found.images[0].sum()) == pytest.approx(float(lost), abs=1e-5)


def test_deleting_what_adds_most_lowers_the_risk_more_than_deleting_what_adds_least(predictor, sample):
    by_voxel = attribute(predictor, sample).images.sum(dim=0)
    inside = sample.tumour[0] > 0
    middle = by_voxel[inside].median()
    with torch.no_grad():
        log_odds = LogOdds(predictor, sample)
        without_most, without_least = (
            float(log_odds.of(sample.images.masked_fill(gone, 0.0)[None], sample.covariates[None]))
            for gone in (inside & (by_voxel > middle), inside & (by_voxel < middle))
        )
    assert without_most < without_least


def test_the_map_is_a_density_on_the_patients_grid(predictor, make_case):
    record = make_case()
    explanation = explain(predictor, record)
    reference = nib.load(record.channels["FMISO_SUV"])
    said = explanation.summary["channels"]
    assert set(explanation.maps) == {"FMISO_SUV", "T1W"}
    for name, added in explanation.maps.items():
        assert added.shape == reference.shape
        # The file is on a grid of the working spacing, so that nothing is lost to interpolation.
        assert float(added.sum()) * 0.064 == pytest.approx(said[name]["log_odds"], abs=1e-4)


def test_shares_are_of_what_moves_and_sum_to_one(predictor, make_case):
    said = explain(predictor, make_case()).summary
    assert set(said["parts"]) == {"image_by_features", "image_by_volumes", "covariates"}
    for group in ("parts", "channels"):
        assert sum(part["share"] for part in said[group].values()) == pytest.approx(1.0, abs=1e-5)
    added = sum(part["log_odds"] for part in said["parts"].values())
    assert added + said["left_over"] == pytest.approx(said["difference"], abs=1e-5)
    assert said["complete"] is True
    assert sum(said["covariates"].values()) == pytest.approx(said["parts"]["covariates"]["log_odds"], abs=1e-5)


def test_a_run_writes_maps_and_parts_and_keeps_them(tiny_spec, make_bundle, make_case, tmp_path):
    folder, record = make_bundle(tiny_spec), make_case()
    plain, explaining = (load_predictor(folder, replace(CPU, explain=asked)) for asked in (False, True))
    assert run_inference(plain, [record], tmp_path / "out").predicted == ("P001",)
    assert "explanation" not in json.loads((tmp_path / "out/P001/P001.json").read_text())
    assert run_inference(explaining, [record], tmp_path / "out").predicted == ("P001",)
    content = json.loads((tmp_path / "out/P001/P001.json").read_text())
    assert content["explanation"]["risk"] == pytest.approx(
        content["risk"]["at_horizon"]["locoregional failure"], abs=1e-5
    )
    assert {"P001_FMISO_SUV_attribution.nii.gz", "P001_T1W_attribution.nii.gz"} <= set(content["files"])
    assert np.isfinite(nib.load(tmp_path / "out/P001/P001_T1W_attribution.nii.gz").get_fdata()).all()
    assert run_inference(explaining, [record], tmp_path / "out").kept == ("P001",)


def test_a_case_without_contour_is_predicted_and_says_why_it_is_not_explained(tiny_spec, make_bundle, make_case):
    loaded = load_predictor(make_bundle(tiny_spec), replace(CPU, explain=True))
    record = make_case(contour=False)
    prediction = loaded.predict(record)
    assert prediction.read_outs["explanation"] is None
    assert prediction.attribution == {}
    assert "none was given; add GTVP or GTVN" in prediction.read_outs["notes"][-1]
    with pytest.raises(CaseError, match="P001: an explanation needs the tumour's contour"):
        explain(loaded, record)


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (OutcomeConfig(enabled=False), "predicts no outcome"),
        (OutcomeConfig(pool="prediction", edges_months=[12.0, 24.0, 36.0], hidden=4), "outcome.pool=prediction"),
    ],
)
def test_a_bundle_whose_risk_cannot_be_traced_is_refused(make_spec, tiny_settings, make_bundle, outcome, sentence):
    folder = make_bundle(make_spec(tiny_settings, outcome=outcome))
    with pytest.raises(ConfigError, match=sentence):
        load_predictor(folder, replace(CPU, explain=True))


def test_an_unknown_method_is_refused():
    with pytest.raises(
        ConfigError, match=r"explain_by is 'saliency', it must be one of integrated_gradients, ablation"
    ):
        InferenceConfig(explain_by="saliency")


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_a_model_without_covariates_is_explained_by_the_image_alone(
    make_spec, tiny_settings, make_bundle, make_case, method
):
    loaded = load_predictor(make_bundle(make_spec(replace(tiny_settings, terms=()))), CPU)
    said = explain(loaded, make_case(), method=method).summary
    assert said["covariates"] == {}
    assert sum(part["share"] for name, part in said["parts"].items() if name.startswith("image")) == pytest.approx(1.0)
