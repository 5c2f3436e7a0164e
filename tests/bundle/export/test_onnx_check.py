"""Files of ONNX that are damaged or hostile: one sentence, nothing run, and little memory."""

from __future__ import annotations

import copy
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hypoxnet.bundle.export.graphs import graphs_of
from hypoxnet.bundle.export.onnx_check import MOST_BESIDES_WEIGHTS, checked_bytes
from hypoxnet.bundle.export.onnx_program import onnx_runner
from hypoxnet.errors import BundleError


@pytest.fixture(scope="module")
def graph(onnx_model):
    predictor, _ = onnx_model
    return graphs_of(predictor.spec, predictor.models)[0]


@pytest.fixture(scope="module")
def original(onnx_model):
    return onnx.load(onnx_model[1] / "network.onnx")


@pytest.fixture
def model(original):
    return copy.deepcopy(original)


def refused(model: onnx.ModelProto, graph, tmp_path, match: str) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=match) as caught:
        checked_bytes(path, graph)
    assert "\n" not in str(caught.value)


def test_our_own_file_is_accepted(onnx_model, graph):
    path = onnx_model[1] / "network.onnx"
    assert checked_bytes(path, graph) == path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_file_that_was_cut_short(onnx_model, graph, tmp_path, share):
    whole = (onnx_model[1] / "network.onnx").read_bytes()
    path = tmp_path / "network.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BundleError, match="export the bundle again"):
        checked_bytes(path, graph)


def test_values_in_another_file(model, graph, tmp_path):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    refused(model, graph, tmp_path, "keeps the values of .* in another file")


def test_values_in_another_file_of_a_tensor_inside_an_operator(model, graph, tmp_path):
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))
    refused(model, graph, tmp_path, "keeps the values of 'hidden' in another file")


def test_a_million_channels_without_their_values(model, graph, tmp_path):
    model.graph.initializer[0].dims[:] = [1_000_000, 1_000_000, 3, 3, 3]
    refused(model, graph, tmp_path, "1000000 x 1000000 x 3 x 3 x 3 and holds")


def test_a_million_channels_of_the_image(model, graph, tmp_path):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1_000_000
    refused(model, graph, tmp_path, "takes image as any x 1000000 x any x any x any and not as any x 2 x")


def test_a_negative_side(model, graph, tmp_path):
    model.graph.initializer[0].dims[:] = [-4, -4]
    refused(model, graph, tmp_path, "negative side")


def test_more_values_than_the_bundle_has(model, graph, tmp_path):
    huge = np.zeros(MOST_BESIDES_WEIGHTS, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(huge, "huge"))
    refused(model, graph, tmp_path, "MiB, the weights of the bundle")


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
def test_a_tensor_made_larger_than_any_memory(model, graph, tmp_path, operator):
    shape = numpy_helper.from_array(np.array([100_000, 100_000, 100_000]), "huge")
    model.graph.initializer.append(shape)
    inputs = ["huge"] if operator == "ConstantOfShape" else ["presence", "huge"]
    model.graph.node.append(helper.make_node(operator, inputs, ["made"]))
    refused(model, graph, tmp_path, f"makes a tensor of 100000 x 100000 x 100000 by {operator}")


def test_a_graph_inside_an_operator(model, graph, tmp_path):
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["round"], body=inner))
    refused(model, graph, tmp_path, "has a graph inside the operator Loop")


def test_operators_that_are_not_onnx_own(model, graph, tmp_path):
    model.graph.node.append(helper.make_node("RunShell", ["image"], ["out"], domain="com.evil"))
    refused(model, graph, tmp_path, r"not ONNX's own \(com.evil\)")


def test_functions(model, graph, tmp_path):
    body = helper.make_function("", "Own", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    model.functions.append(body)
    refused(model, graph, tmp_path, r"not ONNX's own \(functions\)")


def test_other_outputs(model, graph, tmp_path):
    model.graph.output[0].name = "harmless"
    refused(model, graph, tmp_path, "has the outputs harmless, .* and not pred")


def test_an_operator_that_is_not_in_its_version(model, graph, tmp_path):
    model.graph.node[0].op_type = "NoSuchOperator"
    refused(model, graph, tmp_path, "no valid ONNX")


def test_text_instead_of_a_model(graph, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_text("not a model at all, but words" * 50)
    with pytest.raises(BundleError, match=r"is no ONNX or was cut short|it is none of HypoxNet's"):
        checked_bytes(path, graph)


@contextmanager
def little_memory(*, beside_bytes):
    """No more than this beside what the process has already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    address_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes + beside_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_a_shape_that_is_computed_meets_the_limit_of_memory(original, graph, tmp_path):
    """Squares of lengths can only be seen by running: it is stopped there, and takes no more memory than there is."""
    model = copy.deepcopy(original)
    long = numpy_helper.from_array(np.array([300_000, 1]), "long")
    model.graph.initializer.extend([long, numpy_helper.from_array(np.array([1, 300_000]), "wide")])
    nodes = [
        helper.make_node("ConstantOfShape", ["long"], ["column"]),
        helper.make_node("ConstantOfShape", ["wide"], ["row"]),
        helper.make_node("Add", ["column", "row"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["most"], keepdims=0),
        helper.make_node("Add", ["most", "pred_"], ["pred"]),
    ]
    for node in model.graph.node:
        node.output[:] = ["pred_" if name == "pred" else name for name in node.output]
        node.input[:] = ["pred_" if name == "pred" else name for name in node.input]
    model.graph.node.extend(nodes)
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    run = onnx_runner(path, graph)
    with (
        little_memory(beside_bytes=4 * 2**30),
        pytest.raises(BundleError, match="cannot be run by onnxruntime"),
    ):
        run({name: tensor.numpy() for name, tensor in graph.inputs.items()})


def test_a_runner_gives_the_numbers_of_the_graph(onnx_model, graph):
    inputs = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
    found = onnx_runner(onnx_model[1] / "network.onnx", graph)(inputs)
    assert list(found) == list(graph.outputs)
    assert found["pred"].shape == (2, 1, 6, 8, 10)
