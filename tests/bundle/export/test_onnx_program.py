"""ONNX as it is written: names, axes, description, one file, and the bundle's numbers by onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch

from hypoxnet.bundle.export import onnx_program
from hypoxnet.bundle.export.description import AXES, MEANING
from hypoxnet.bundle.export.folder import read_export
from hypoxnet.bundle.export.formats import Precision, compared
from hypoxnet.bundle.export.graphs import graphs_of
from hypoxnet.bundle.export.onnx_program import DESCRIPTION, ONNX, USE, need_onnx, refuse_too_large
from hypoxnet.bundle.export.precision import BFLOAT16, FLOAT32, INT8
from hypoxnet.bundle.export.torch_program import quiet_torch
from hypoxnet.bundle.schema import INTENDED_USE
from hypoxnet.errors import BundleError, ConfigError
from hypoxnet.models.config import OutcomeConfig


@pytest.fixture
def network(onnx_model):
    return onnx.load(onnx_model[1] / "network.onnx")


def test_agreement_is_rounding_and_stands_in_the_description(onnx_model):
    found = read_export(onnx_model[1])["agreement"]
    assert set(found) == {"network", "outcome", "prepare", "finish"}
    assert all(0 <= x <= 1e-4 for graph in found.values() for x in graph["largest_difference"].values())
    assert len({tuple(shape) for shape in found["network"]["image_shapes"]}) == 3


def test_inputs_and_outputs_have_our_names_meanings_and_free_axes(onnx_model, network):
    session = onnxruntime.InferenceSession(onnx_model[1] / "network.onnx")
    shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    assert list(shapes) == ["image", "presence", "tumour", "tumour_known", "covariates", "covariates_known"]
    assert shapes["image"] == ["patient", 2, *(f"2 * {axis}" for axis in "xyz")]
    assert shapes["covariates"] == ["patient", 4]
    outputs = [tensor.name for tensor in session.get_outputs()]
    assert outputs == ["pred", "incidence", "logits", "pooled_sum", "pooled_weight"]
    for value in (*network.graph.input, *network.graph.output):
        assert value.doc_string == MEANING[value.name]
        assert len(value.type.tensor_type.shape.dim) == len(AXES[value.name])


def test_the_file_holds_the_description_with_units(onnx_model, network):
    props = {prop.key: prop.value for prop in network.metadata_props}
    inside, beside = json.loads(props[DESCRIPTION]), read_export(onnx_model[1])
    assert inside == {key: value for key, value in beside.items() if key != "agreement"}
    assert props[USE] == INTENDED_USE
    assert "SUV" in inside["channels"][0]["description"]
    assert inside["packages"]["onnx"] == onnx.__version__


def test_the_folder_holds_one_file_per_graph_and_no_lines_of_code(onnx_model, network):
    files = sorted(path.name for path in onnx_model[1].rglob("*") if path.is_file())
    graphs = ["finish.onnx", "network.onnx", "outcome.onnx", "prepare.onnx"]
    assert files == ["README.md", "checksums.json", "export.json", *graphs]
    assert not any(tensor.external_data for tensor in network.graph.initializer)
    assert not any(node.metadata_props or node.doc_string for node in network.graph.node)
    assert b"site-packages" not in (onnx_model[1] / "network.onnx").read_bytes()


def test_only_operators_of_onnx_are_used(network):
    assert {node.domain for node in network.graph.node} == {""}
    assert not network.functions


def test_a_graph_of_other_numbers_is_refused(onnx_model, exported):
    def shifted(path, graph):
        run = onnx_program.onnx_runner(path, graph)
        return lambda inputs: {name: array + 2e-4 for name, array in run(inputs).items()}

    predictor, export = onnx_model
    form = onnx_program.GraphFormat(
        "onnx",
        ".onnx",
        (),
        lambda graph, path, _: path.write_bytes((export / path.name).read_bytes()),
        shifted,
    )
    with pytest.raises(BundleError, match=r"network\.onnx: pred differs from the bundle's by 0\.0002, at most"):
        exported(predictor, form)


def test_without_the_extra_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(onnx_program.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ConfigError, match=r"ONNX needs onnxruntime; install with: pip install 'hypoxnet\[onnx\]'"):
        need_onnx()


def test_more_than_one_file_can_hold_is_refused(tmp_path):
    refuse_too_large(2**31 - 1, tmp_path / "network.onnx")
    with pytest.raises(BundleError, match=r"network\.onnx would have 3\.0 GiB, one file of ONNX holds 2; export fewer"):
        refuse_too_large(3 * 2**30, tmp_path / "network.onnx")


def test_what_the_exporter_says_is_silenced_and_nothing_else(caplog):
    exporter = logging.getLogger("torch.onnx._internal.exporter._registration")
    with quiet_torch(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        exporter.warning("torchvision is not installed")
        warnings.warn("another", UserWarning, stacklevel=1)
    exporter.warning("heard again")
    assert [str(warning.message) for warning in heard] == ["another"]
    assert "torchvision" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hazards", "cox", "deephit", "weibull"])
def test_every_outcome_model_is_exported(tiny_settings, make_spec, make_network, tmp_path, kind):
    spec = make_spec(tiny_settings, outcome=OutcomeConfig(edges_months=[12.0, 24.0, 36.0], hidden=4, kind=kind))
    network = make_network(spec, seed=1).requires_grad_(False)
    if network.time.baseline_after_training:
        months = torch.tensor([5.0, 9.0, 14.0, 20.0, 30.0, 33.0])
        network.time.set_baseline(torch.randn(6, 2, 1), months, torch.tensor([1, 0, 1, 2, 1, 2]))
    outcome = graphs_of(spec, [network])[1]
    ONNX.write(outcome, tmp_path / "outcome.onnx", {})
    found = compared(spec, outcome, tmp_path / "outcome.onnx", form=ONNX)
    assert found.worst < 1e-6
    assert outcome.module(**outcome.inputs)["incidence"].max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "share"), [(INT8, 0.30), (BFLOAT16, 0.55)])
def test_rounded_weights_are_stored_rounded(tiny_spec, opened, exported, precision, share):
    # So wide that weights outweigh everything else.
    wide = replace(tiny_spec.model, backbone=replace(tiny_spec.model.backbone, features=[32, 64]))
    predictor = opened(replace(tiny_spec, model=wide))
    held = {}
    for weights in (FLOAT32, precision):
        folder = exported(predictor, ONNX, Precision(weights))
        assert read_export(folder)["weights"]["precision"] == weights
        model = onnx.load(folder / "network.onnx")
        held[weights] = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert held[precision] < share * held[FLOAT32]
