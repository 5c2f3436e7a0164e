"""A file of ONNX from elsewhere, looked at before a session is made: small, whole, and shaped like the graph it claims.

Nothing in the file is run and no other file is opened here. What cannot be seen without running (a product of shapes
that are computed) meets a limit of memory in `refusing_unusable`.

Source:
    ONNX 1.23, `onnx.proto`: data location, attributes with graphs, functions, sparse initialisers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from hypoxnet.bundle.export.graphs import Graph
from hypoxnet.errors import BundleError

if TYPE_CHECKING:
    import onnx

# Of everything besides weights: nodes, names, description. Protobuf needs up to some fifty times as much in memory.
MOST_BESIDES_WEIGHTS = 16 * 2**20
# Voxels of any tensor whose shape is written in the file; a whole body at 1 mm has a fifth of it.
MOST_ELEMENTS = 2**30
# Of memory while foreign code runs on the small boxes of a comparison.
MOST_MEMORY = 8 * 2**30
DOMAINS = ("", "ai.onnx")
# Operators that make a tensor of a shape which is an input, and the place of that input.
SHAPED_BY = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}


def checked_bytes(path: Path, graph: Graph) -> bytes:
    """The content of a file that could be a graph.

    Args:
        path: File of ONNX.
        graph: What it must be: our own, made of the bundle.

    Raises:
        BundleError: Too large, cut short, with data in other files, custom operators or nested graphs, tensors of a
            size that they do not have, or other inputs and outputs than the graph's.
    """
    import onnx
    from google.protobuf.message import DecodeError

    weights = sum(tensor.numel() * 4 for tensor in graph.module.state_dict().values())
    size = path.stat().st_size
    if size > weights + MOST_BESIDES_WEIGHTS:
        raise BundleError(
            f"{path} has {size / 2**20:.0f} MiB, the weights of the bundle and a description have "
            f"{(weights + MOST_BESIDES_WEIGHTS) / 2**20:.0f} at most; export the bundle again"
        )
    content = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BundleError(f"{path} is no ONNX or was cut short; export the bundle again") from error
    fault = next(_faults(model, graph), None)
    if fault:
        raise BundleError(f"{path} {fault}; it is none of HypoxNet's, export the bundle again")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path} is no valid ONNX ({reason}); export the bundle again") from error
    return content


@contextmanager
def refusing_unusable(path: Path) -> Iterator[None]:
    """Foreign code with a limit of memory, whose errors are ours.

    Raises:
        BundleError: It fails, or needs more than `MOST_MEMORY`.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    own = [kind for kind in vars(runtime).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    failures: tuple[type[Exception], ...] = (*own, MemoryError, RuntimeError, ValueError)
    try:
        with _memory_at_most(MOST_MEMORY):
            yield
    except failures as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BundleError(f"{path} cannot be run by onnxruntime ({reason}); export the bundle again") from error


@contextmanager
def _memory_at_most(more_bytes: int) -> Iterator[None]:
    """Address space of this process limited to what it has and so much more; where the system knows such limits."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + more_bytes
    known = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *known]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _faults(model: onnx.ModelProto, graph: Graph) -> Iterator[str]:
    """Sentences that begin after the file's name."""
    foreign = sorted({use.domain for use in model.opset_import} | {node.domain for node in model.graph.node})
    foreign = [domain for domain in foreign if domain not in DOMAINS]
    if foreign or model.functions or model.training_info:
        yield f"uses operators that are not ONNX's own ({', '.join(foreign) or 'functions'})"
    if model.graph.sparse_initializer or model.graph.quantization_annotation:
        yield "holds sparse or annotated tensors"
    for tensor in _tensors(model):
        yield from _tensor_faults(tensor)
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield f"has a graph inside the operator {node.op_type}"
    yield from _shape_faults(model)
    yield from _signature_faults(model, graph)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _tensor_faults(tensor: onnx.TensorProto) -> Iterator[str]:
    import onnx

    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield f"keeps the values of {tensor.name!r} in another file"
    if tensor.data_type not in _BYTES:
        yield f"holds {tensor.name!r} of a type that no graph of ours has"
        return
    if any(side < 0 for side in tensor.dims):
        yield f"holds {tensor.name!r} with a negative side"
        return
    claimed = math.prod(tensor.dims) * _BYTES[tensor.data_type]
    # Values stand in one field: raw, or a list by type, whose entries are at least as long as the type.
    held = len(tensor.raw_data) or _BYTES[tensor.data_type] * max(
        len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data)
    )
    if claimed != held:
        yield f"says that {tensor.name!r} is {' x '.join(map(str, tensor.dims))} and holds {held} of {claimed} bytes"


# TensorProto.DataType: float, uint8, int8, int32, int64, bool, double, bfloat16.
_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 11: 8, 16: 2}


def _shape_faults(model: onnx.ModelProto) -> Iterator[str]:
    import onnx

    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                known[node.output[0]] = attribute.t
    for node in model.graph.node:
        place = SHAPED_BY.get(node.op_type)
        if place is None or place >= len(node.input) or node.input[place] not in known:
            continue
        tensor = known[node.input[place]]
        sides = [abs(int(side)) for side in onnx.numpy_helper.to_array(tensor).ravel()] if len(tensor.dims) == 1 else []
        if len(sides) > 16 or math.prod(max(1, side) for side in sides) > MOST_ELEMENTS:
            yield f"makes a tensor of {' x '.join(map(str, sides[:16]))} by {node.op_type}"


def _signature_faults(model: onnx.ModelProto, graph: Graph) -> Iterator[str]:
    """Inputs and outputs by name, with the sides that are not free."""
    import onnx

    ours: dict[str, Any] = {"inputs": list(graph.inputs), "outputs": list(graph.outputs)}
    theirs = {"inputs": list(model.graph.input), "outputs": list(model.graph.output)}
    for what, values in theirs.items():
        names = [value.name for value in values]
        if names != ours[what]:
            yield f"has the {what} {', '.join(names)[:200]} and not {', '.join(ours[what])}"
            return
    for value in theirs["inputs"]:
        sides = [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
        wanted = _sides(graph, value.name)
        element = onnx.helper.np_dtype_to_tensor_dtype(graph.inputs[value.name].numpy().dtype)
        if value.type.tensor_type.elem_type != element or sides != wanted:
            there, here = (" x ".join(str(side or "any") for side in shape) for shape in (sides, wanted))
            yield f"takes {value.name} as {there} and not as {here}"


def _sides(graph: Graph, name: str) -> list[int | None]:
    """Sides of an input; None where they are free."""
    if graph.tape is not None:
        axes = next(axes for which, _, axes in graph.tape.inputs if which == name)
        return [axis if isinstance(axis, int) else None for axis in axes]
    first = graph.spatial.get(name, len(graph.inputs[name].shape))
    return [
        None if axis == 0 or first <= axis < first + 3 else int(side)
        for axis, side in enumerate(graph.inputs[name].shape)
    ]
