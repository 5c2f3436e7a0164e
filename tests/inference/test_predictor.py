from dataclasses import replace
from math import inf

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.cases import CAUSES, Outcome
from hypoxnet.errors import BundleError, CaseError, ConfigError
from hypoxnet.inference.batching import MOST_ON_CPU
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.survival.discrete import cumulative_incidence
from hypoxnet.transforms.prepare import prepare

CPU = InferenceConfig(device="cpu")


@pytest.fixture
def predictor(tiny_spec, make_bundle):
    return load_predictor(make_bundle(tiny_spec), CPU)


def test_maps_lie_on_the_grid_of_the_reference_image(predictor, make_case):
    record = make_case()
    prediction = predictor.predict(record)
    reference = nib.load(record.channels["FMISO_SUV"])
    assert prediction.probability["hsv"].shape == reference.shape
    np.testing.assert_allclose(prediction.grid.matrix, reference.affine, atol=1e-6)
    assert prediction.probability["hsv"].dtype == np.float32
    assert prediction.mask["hsv"].dtype == bool


def test_nothing_is_predicted_outside_the_contour(predictor, make_case):
    record = make_case()
    prediction = predictor.predict(record)
    outside = nib.load(record.masks["GTVP"]).get_fdata() == 0
    assert prediction.probability["hsv"][outside].max() == 0
    assert prediction.probability["hsv"][~outside].min() > 0
    assert prediction.read_outs["inside_tumour_only"] is True
    assert "set to 0" in prediction.read_outs["notes"][0]


def test_a_case_without_contour_is_predicted_everywhere_and_says_so(predictor, make_case):
    prediction = predictor.predict(make_case(contour=False))
    assert (prediction.probability["hsv"] > 0).all()
    assert prediction.read_outs["tumour_ml"] is None
    assert prediction.read_outs["regions"]["hsv"]["fraction"] is None
    assert prediction.read_outs["risk"]["pooled_inside"] == "prediction"
    assert "no tumour contour was given" in prediction.read_outs["notes"][0]


def test_a_risk_without_a_covariate_says_so(tiny_settings, make_spec, make_bundle, make_case):
    record = replace(make_case(), covariates={})
    for missing, sentence in (
        ("indicator", "not known: age"),
        ("mean", "not known, taken as the mean of the training patients: age"),
    ):
        bundle = make_bundle(make_spec(replace(tiny_settings, missing=missing)), name=missing)
        predictor = load_predictor(bundle, InferenceConfig(device="cpu"))
        assert sentence in predictor.predict(record).read_outs["notes"]
        assert not any("not known" in note for note in predictor.predict(make_case()).read_outs["notes"])


def test_volumes_are_those_of_the_maps(predictor, make_case):
    record = make_case()
    prediction = predictor.predict(record)
    said, voxel_ml = prediction.read_outs["regions"]["hsv"], 0.064
    gtv = nib.load(record.masks["GTVP"]).get_fdata() > 0
    assert prediction.read_outs["tumour_ml"] == pytest.approx(gtv.sum() * voxel_ml)
    assert said["volume_ml"] == pytest.approx(prediction.mask["hsv"].sum() * voxel_ml)
    assert said["expected_ml"] == pytest.approx(prediction.probability["hsv"].sum() * voxel_ml, rel=1e-5)
    assert said["fraction"] == pytest.approx(said["volume_ml"] / prediction.read_outs["tumour_ml"], abs=1e-5)


def test_prediction_is_the_network_on_the_prepared_case(tiny_settings, make_spec, make_bundle, make_network, make_case):
    """One window, no restriction: the plain forward pass that training makes, and its incidence."""
    settings = replace(tiny_settings, window=(24, 24, 24), inside_tumour=False)
    spec = make_spec(settings)
    record = make_case()
    sample = prepare(record, settings).sample
    applied = load_predictor(make_bundle(spec), CPU).apply(sample)
    with torch.inference_mode():
        logits = make_network(spec, seed=1)(
            sample.images[None],
            sample.presence[None],
            sample.tumour[None],
            sample.tumour_known[None],
            sample.covariates[None],
            sample.covariates_known[None],
        )
    torch.testing.assert_close(applied.probability, torch.sigmoid(logits.segmentation[0]), rtol=1e-5, atol=1e-6)
    at_edges, at_horizon = applied.incidence[:, :-1], applied.incidence[:, -1]
    torch.testing.assert_close(at_edges, cumulative_incidence(logits.hazards)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(at_horizon, at_edges[:, settings.edges_months.index(24.0)])


def test_an_ensemble_is_the_mean_of_its_members(tiny_spec, make_bundle, make_case):
    record = make_case()
    single = [
        load_predictor(make_bundle(tiny_spec, seeds=(seed,), name=f"b{seed}"), CPU).predict(record)
        for seed in (1, 2, 3)
    ]
    together = load_predictor(make_bundle(tiny_spec, seeds=(1, 2, 3)), CPU).predict(record)
    mean = np.mean([p.probability["hsv"] for p in single], axis=0)
    np.testing.assert_allclose(together.probability["hsv"], mean, atol=1e-6)
    for cause in CAUSES:
        np.testing.assert_allclose(
            together.incidence[cause], np.mean([p.incidence[cause] for p in single], axis=0), atol=1e-6
        )


def test_mirroring_gives_mirrored_patients_mirrored_maps(tiny_spec, make_bundle, make_case):
    predictor = load_predictor(make_bundle(tiny_spec), replace(CPU, mirror=True))
    sample = prepare(predictor.needed(make_case()), tiny_spec.settings).sample
    turned = replace(sample, images=sample.images.flip(1), tumour=sample.tumour.flip(1))
    with torch.inference_mode():
        upright, mirrored = predictor.apply(sample), predictor.apply(turned)
    # voxels at the rim of the box belong to windows that are laid from the other side
    both = (upright.probability > 0) & (mirrored.probability.flip(1) > 0) & (sample.tumour > 0)
    torch.testing.assert_close(upright.probability[both], mirrored.probability.flip(1)[both], rtol=0, atol=2e-3)
    assert int(both.sum()) == int(sample.tumour.sum())


def test_an_absent_channel_and_covariate_are_reported(predictor, make_case, without_t1w):
    record = replace(without_t1w(make_case()), covariates={})
    read_outs = predictor.predict(record).read_outs
    assert read_outs["channels"] == {"present": ["FMISO_SUV"], "absent": ["T1W"]}
    assert read_outs["covariates"] == {"known": [], "missing": ["age"]}


def test_a_case_without_any_channel_of_the_model_names_both(predictor, make_case):
    record = make_case()
    record = replace(record, channels={"ADC": record.channels["T1W"]})
    with pytest.raises(CaseError, match=r"P001: the network reads FMISO_SUV, T1W, the manifest \(line 2\) has ADC"):
        predictor.predict(record)


def test_true_regions_and_outcome_are_not_looked_at(predictor, make_case, tmp_path):
    record = make_case()
    labelled = replace(
        record, masks={**record.masks, "HYPOXIA": tmp_path / "no_such_file.nii"}, outcome=Outcome(1, 3.0)
    )
    np.testing.assert_array_equal(
        predictor.predict(labelled).probability["hsv"], predictor.predict(record).probability["hsv"]
    )
    assert predictor.digest(labelled) == predictor.digest(record)


def test_risk_by_month_rises_and_the_horizon_lies_on_it(predictor, make_case):
    risk = predictor.predict(make_case()).read_outs["risk"]
    assert risk["months"] == [12.0, 24.0, 36.0]
    for cause in CAUSES:
        by_month = risk["incidence"][cause]
        assert by_month == sorted(by_month)
        assert risk["at_horizon"][cause] == pytest.approx(by_month[1], abs=1e-6)
    assert sum(risk["incidence"][cause][-1] for cause in CAUSES) <= 1.0


def test_a_yes_no_end_point_has_one_risk(tiny_settings, make_spec, make_bundle, make_case):
    predictor = load_predictor(make_bundle(make_spec(replace(tiny_settings, edges_months=(inf,)))), CPU)
    risk = predictor.predict(make_case()).read_outs["risk"]
    assert (risk["months"], risk["horizon_months"]) == ([None], None)
    assert list(risk["at_horizon"]) == [CAUSES[0]]


def test_a_model_without_outcome_head_states_no_risk(tiny_settings, tiny_spec, make_spec, make_bundle, make_case):
    spec = make_spec(tiny_settings, outcome=replace(tiny_spec.model.outcome, enabled=False))
    prediction = load_predictor(make_bundle(spec), CPU).predict(make_case())
    assert (prediction.incidence, prediction.months, prediction.read_outs["risk"]) == ({}, (), None)


def test_a_higher_threshold_gives_a_smaller_mask(tiny_spec, make_bundle, make_case):
    folder, record = make_bundle(tiny_spec), make_case()
    probability = load_predictor(folder, CPU).predict(record).probability["hsv"]
    cut = float(np.quantile(probability[probability > 0], 0.5))
    mask = load_predictor(folder, replace(CPU, threshold=cut)).predict(record).mask["hsv"]
    np.testing.assert_array_equal(mask, probability >= np.float32(cut))


def test_what_is_not_chosen_comes_from_the_bundle(tiny_spec, make_bundle):
    spec = replace(tiny_spec, inference=replace(tiny_spec.inference, overlap=0.25, threshold=0.4))
    choices = load_predictor(make_bundle(spec), replace(CPU, threshold=0.6)).choices
    assert (choices.overlap, choices.threshold) == (0.25, 0.6)


@pytest.mark.parametrize("change", ["image", "mask", "covariate", "choice", "bundle"])
def test_the_digest_follows_everything_a_prediction_depends_on(tiny_spec, make_bundle, make_case, change):
    folder, record = make_bundle(tiny_spec), make_case()
    before = load_predictor(folder, CPU).digest(record)
    config = CPU
    if change in {"image", "mask"}:
        path = record.channels["T1W"] if change == "image" else record.masks["GTVP"]
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "covariate":
        record = replace(record, covariates={"age": 62.0})
    elif change == "choice":
        config = replace(CPU, mirror=True)
    else:
        make_bundle(tiny_spec, seeds=(5,))
    assert load_predictor(folder, config).digest(record) != before


def test_weights_of_another_shape_are_refused(tiny_spec, make_bundle, make_spec, tiny_settings, make_network, tmp_path):
    from hypoxnet.bundle.write import write_bundle

    other = make_spec(replace(tiny_settings, terms=()))
    write_bundle(tmp_path / "wrong", tiny_spec, [make_network(other, seed=1).state_dict()])
    with pytest.raises(BundleError, match=r"wrong/models/model_0\.safetensors does not fit its model"):
        load_predictor(tmp_path / "wrong", CPU)


@pytest.mark.parametrize("name", ["gpu", "cuda:77", "cpu:x"])
def test_a_device_that_does_not_exist_is_one_sentence(tiny_spec, make_bundle, name):
    with pytest.raises(ConfigError, match=f"inference.device is '{name}'"):
        load_predictor(make_bundle(tiny_spec), InferenceConfig(device=name))


def test_bfloat16_is_near_float32_is_not_the_same_and_says_so(tiny_spec, make_bundle, make_case):
    record, bundle = make_case(), make_bundle(tiny_spec)
    exact, rounded = load_predictor(bundle, CPU), load_predictor(bundle, replace(CPU, precision="bfloat16"))
    one, other = exact.predict(record), rounded.predict(record)
    apart = np.abs(one.probability["hsv"] - other.probability["hsv"])
    assert 0 < apart.max() < 0.02
    assert other.probability["hsv"].dtype == np.float32
    for cause, incidence in one.incidence.items():
        np.testing.assert_allclose(other.incidence[cause], incidence, atol=0.01)
    assert other.read_outs["choices"] == {**one.read_outs["choices"], "precision": "bfloat16"}
    assert exact.digest(record) != rounded.digest(record)


def test_a_precision_that_nobody_computes_in_is_refused():
    with pytest.raises(ConfigError, match=r"inference\.precision is 'int8', it must be one of float32, bfloat16"):
        InferenceConfig(precision="int8")


def test_a_case_is_prepared_by_one_thread_and_predicted_by_all(predictor, make_case, set_threads, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "hypoxnet.inference.predictor.prepare",
        lambda *given: seen.append(torch.get_num_threads()) or prepare(*given),
    )
    set_threads(2)
    ready = predictor.prepare(make_case())
    assert (seen, torch.get_num_threads()) == ([1], 2)
    with pytest.raises(CaseError):
        predictor.prepare(replace(ready.record, channels={}))
    assert torch.get_num_threads() == 2


def holds(predictor, windows, monkeypatch):
    """A device whose memory holds so many windows; returns the batches that were tried."""
    model, tried = predictor.models[0], []
    encode = model.encode

    def limited(images, *others):
        tried.append(len(images))
        if len(images) > windows:
            raise torch.OutOfMemoryError
        return encode(images, *others)

    monkeypatch.setattr(model, "encode", limited)
    return tried


@pytest.mark.parametrize("threads", [1, 2])
def test_too_little_memory_for_a_batch_goes_on_with_half_and_says_so(
    tiny_spec, make_bundle, make_case, threads, set_threads, monkeypatch, caplog
):
    set_threads(threads)
    record, folder = make_case(voxels=40, contour=False), make_bundle(tiny_spec)
    expected = load_predictor(folder, replace(CPU, windows_per_batch=2)).predict(record)
    predictor = load_predictor(folder, replace(CPU, windows_per_batch=8))
    tried = holds(predictor, 2, monkeypatch)
    with caplog.at_level("WARNING", logger="hypoxnet"):
        prediction = predictor.predict(record)
    assert list(dict.fromkeys(tried)) == [8, 4, 2]  # each size may be tried by several threads before it is given up
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "cpu has too little memory for 8 windows at once, going on with 4",
        "cpu has too little memory for 4 windows at once, going on with 2",
    ]
    np.testing.assert_array_equal(prediction.probability["hsv"], expected.probability["hsv"])
    assert prediction.incidence == expected.incidence
    tried.clear()
    predictor.predict(record)
    assert max(tried) == 2


def test_a_case_of_which_not_one_window_fits_is_one_sentence_and_slows_no_other(
    tiny_spec, make_bundle, make_case, monkeypatch
):
    predictor = load_predictor(make_bundle(tiny_spec), replace(CPU, windows_per_batch=4))
    holds(predictor, 0, monkeypatch)
    with pytest.raises(CaseError, match="P001: cpu has too little memory for one window of 16 x 16 x 16 voxels"):
        predictor.predict(make_case())
    assert predictor.windows_per_batch == 4


def test_the_first_case_measures_how_many_windows_fit(predictor, make_case):
    assert predictor.windows_per_batch is None
    predictor.predict(make_case())
    assert predictor.windows_per_batch == MOST_ON_CPU


def test_mirror_images_share_a_batch(tiny_spec, make_bundle, make_case, monkeypatch):
    predictor = load_predictor(make_bundle(tiny_spec), replace(CPU, mirror=True, windows_per_batch=8))
    tried = holds(predictor, 8, monkeypatch)
    predictor.predict(make_case())
    assert tried == [8]


def test_only_the_surroundings_of_a_contour_are_kept(predictor, make_case):
    sample = predictor.prepare(make_case(voxels=40)).case.sample
    with torch.inference_mode():
        applied = predictor.apply(sample)
    assert applied.inside.shape[1:] == (16, 16, 16)
    assert applied.probability.shape[1:] == sample.images.shape[1:]
    assert torch.equal(applied.probability[(slice(None), *applied.box)], applied.inside)
    assert float(applied.probability.double().sum()) == float(applied.inside.double().sum())


def test_each_file_of_a_case_is_read_once(predictor, make_case, monkeypatch):
    read, load = [], nib.load
    monkeypatch.setattr("hypoxnet.images.nib.load", lambda path: read.append(path) or load(path))
    predictor.predict(make_case())
    assert sorted(path.name for path in read) == ["fmiso.nii.gz", "gtvp.nii.gz", "t1w.nii.gz"]


def test_the_callers_random_state_is_left_alone(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_predictor(folder, CPU)
    assert torch.equal(torch.rand(2), expected)
