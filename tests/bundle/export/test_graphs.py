"""The graphs that leave a bundle say what its inference says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hypoxnet.bundle.export.graphs import CaseGraph, example_inputs, graphs_of, reported_months
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.transforms.prepare import prepare


@pytest.fixture(scope="module")
def predictor(clinical_spec, opened):
    return opened(clinical_spec, seeds=(1, 2))


def of_case(predictor, record):
    sample = prepare(record, predictor.spec.settings).sample
    # The whole case in one box, whose sides are multiples.
    sides = [n - n % 2 for n in sample.images.shape[1:]]
    images, tumour = (t[:, : sides[0], : sides[1], : sides[2]] for t in (sample.images, sample.tumour))
    return {
        "image": images[None],
        "presence": sample.presence[None],
        "tumour": tumour[None].float(),
        "tumour_known": sample.tumour_known[None],
        "covariates": sample.covariates[None],
        "covariates_known": sample.covariates_known[None],
    }


def test_probability_is_the_mean_over_the_members(predictor):
    inputs = example_inputs(predictor.spec, (8, 8, 8), patients=2)
    both = graphs_of(predictor.spec, predictor.models)[0].module
    with torch.no_grad():
        joint = both(**inputs)
        parts = [CaseGraph(predictor.spec, [model]).eval()(**inputs) for model in predictor.models]
    for name in ("pred", "incidence"):
        assert torch.allclose(joint[name], (parts[0][name] + parts[1][name]) / 2, atol=1e-6)
    assert not torch.allclose(parts[0]["pred"], parts[1]["pred"], atol=1e-3)


@pytest.mark.parametrize("contour", [True, False])
def test_incidence_is_that_of_our_inference_when_one_window_holds_the_case(predictor, make_case, contour):
    record = replace(make_case(voxels=16, contour=contour), covariates={"age": 70.0, "subsite": 3.0})
    ours = predictor.predict(record)
    with torch.no_grad():
        graph = graphs_of(predictor.spec, predictor.models)[0].module(**of_case(predictor, record))
    row = torch.tensor([ours.incidence[cause] for cause in predictor.spec.causes])
    assert torch.allclose(graph["incidence"][0, :, :-1], row, atol=1e-5)


def test_the_outcome_graph_continues_where_the_network_ends(predictor):
    network, outcome = graphs_of(predictor.spec, predictor.models)
    with torch.no_grad():
        assert torch.equal(outcome.module(**outcome.inputs)["incidence"], network.module(**network.inputs)["incidence"])


def test_months_are_the_edges_and_the_horizon(predictor):
    assert reported_months(predictor.spec) == (12.0, 24.0, 36.0, predictor.spec.model.outcome.horizon_months)
    _, outcome = graphs_of(predictor.spec, predictor.models)
    with torch.no_grad():
        incidence = outcome.module(**outcome.inputs)["incidence"]
    assert incidence.shape[1:] == (len(predictor.spec.causes), 4)
    assert (incidence.diff(dim=-1)[..., :2] >= 0).all()


def test_without_an_outcome_head_there_is_one_graph_of_two_outputs(tiny_settings, make_spec, opened):
    spec = make_spec(replace(tiny_settings, terms=()), outcome=OutcomeConfig(enabled=False))
    predictor = opened(spec)
    (graph,) = graphs_of(predictor.spec, predictor.models)
    assert (graph.name, graph.outputs) == ("network", ("pred", "logits"))
    assert set(graph.inputs) == {"image", "presence", "tumour", "tumour_known"}


def test_a_model_of_covariates_is_one_graph_of_covariates(clinical_spec, opened):
    model = replace(clinical_spec.model, backbone=ModelConfig(backbone="none"), channels=0, regions=0)
    settings = replace(clinical_spec.settings, channels=(), norms=(), regions=())
    predictor = opened(replace(clinical_spec, model=model, settings=settings))
    (graph,) = graphs_of(predictor.spec, predictor.models)
    assert (graph.name, graph.outputs, list(graph.inputs)) == (
        "covariates",
        ("incidence",),
        ["covariates", "covariates_known"],
    )


def test_examples_have_no_two_sides_alike_and_an_absent_channel(predictor):
    network = graphs_of(predictor.spec, predictor.models)[0]
    assert len(set(network.inputs["image"].shape[2:])) == 3
    assert (network.inputs["presence"] == 0).any()
    absent = network.inputs["image"][network.inputs["presence"] == 0]
    assert (absent == 0).all()


@pytest.mark.parametrize("contour", [True, False])
def test_calibrated_members_give_the_probability_and_the_incidence_of_our_inference(
    clinical_spec, opened, make_case, contour
):
    spec = replace(clinical_spec, members=2, temperatures=((2.5,), (0.6,)))
    predictor = opened(spec, seeds=(1, 2))
    record = replace(make_case(voxels=16, contour=contour), covariates={"age": 70.0, "subsite": 3.0})
    inputs = of_case(predictor, record)
    with torch.no_grad():
        ours = predictor.apply(prepare(record, spec.settings).sample)
        graph = graphs_of(spec, predictor.models)[0].module(**inputs)
        plain = graphs_of(clinical_spec, predictor.models)[0].module(**inputs)
    assert torch.allclose(graph["pred"][0], ours.probability, atol=1e-5)
    assert torch.allclose(graph["incidence"][0], ours.incidence, atol=1e-5)
    assert torch.equal(graph["incidence"], plain["incidence"]), "the outcome does not know the temperature"
    assert (graph["pred"] - plain["pred"]).abs().max() > 0.05


def test_the_outcome_graph_reads_volumes_as_they_were_before_the_temperature(clinical_spec, opened):
    spec = replace(clinical_spec, members=2, temperatures=((2.5,), (0.6,)))
    network, outcome = graphs_of(spec, opened(spec, seeds=(1, 2)).models)
    with torch.no_grad():
        continued, direct = (graph.module(**graph.inputs)["incidence"] for graph in (outcome, network))
    assert torch.allclose(continued, direct, atol=1e-6)
