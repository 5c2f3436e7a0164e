"""ONNX: one file per graph that onnxruntime, OpenVINO and others run, with its description inside.

Source:
    PyTorch, torch.onnx: the exporter on top of torch.export. ONNX 1.23: IR, `ModelProto.metadata_props`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hypoxnet.bundle.export.agreement import Runner
from hypoxnet.bundle.export.case_graphs import case_graphs
from hypoxnet.bundle.export.description import AXES, MEANING, meaning_of
from hypoxnet.bundle.export.formats import Described, GraphFormat, as_text
from hypoxnet.bundle.export.graphs import Graph
from hypoxnet.bundle.export.torch_program import export_program, quiet_torch
from hypoxnet.bundle.schema import INTENDED_USE
from hypoxnet.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# A protobuf of more cannot be read.
LARGEST_BYTES = 2**31 - 1
# Keys of `metadata_props`.
DESCRIPTION = "hypoxnet_export"
USE = "intended_use"


def need_onnx() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        ConfigError: One is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}; install with: pip install 'hypoxnet[onnx]'")


def write_onnx(graph: Graph, path: Path, description: Described) -> None:
    """Write a graph with names of its axes, the meaning of its inputs and outputs, and the description.

    Raises:
        BundleError: More than one file of ONNX can hold.
    """
    import onnx

    model = _traced(graph, path) if graph.tape is None else graph.tape.model(graph.name, meaning_of)
    model.producer_name = "hypoxnet"
    model.doc_string = INTENDED_USE
    onnx.helper.set_model_props(model, {USE: INTENDED_USE, DESCRIPTION: as_text(description)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _traced(graph: Graph, path: Path) -> onnx.ModelProto:
    with quiet_torch():
        program = torch.onnx.export(
            export_program(graph), dynamo=True, output_names=list(graph.outputs), verbose=False, external_data=False
        )
    assert program is not None
    model = program.model_proto
    refuse_too_large(model.ByteSize(), path)
    _forget_source(model)
    _name_axes(model, graph)
    return model


def refuse_too_large(size_bytes: int, path: Path) -> None:
    """One file holds a graph with its weights, or there is none.

    Raises:
        BundleError: More than one file of ONNX can hold.
    """
    if size_bytes > LARGEST_BYTES:
        raise BundleError(
            f"{path.name} would have {size_bytes / 2**30:.1f} GiB, one file of ONNX holds 2; export fewer members, "
            "with --weights int8, or --to torch"
        )


def onnx_runner(path: Path, graph: Graph) -> Runner:
    """A file of ONNX as a function of arrays, checked before anything runs.

    Raises:
        BundleError: It cannot be this graph, see `onnx_check`.
    """
    from hypoxnet.bundle.export.onnx_check import checked_bytes, refusing_unusable

    content = checked_bytes(path, graph)
    with refusing_unusable(path):
        session = _session(content)

    def run(inputs: Any) -> Any:
        with refusing_unusable(path):
            values = session.run(list(graph.outputs), dict(inputs))
        return dict(zip(graph.outputs, values, strict=True))

    return run


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _forget_source(model: onnx.ModelProto) -> None:
    """Take out the lines of code, with folders of this machine, that each node was made of."""
    del model.graph.value_info[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    del model.metadata_props[:]


def _name_axes(model: onnx.ModelProto, graph: Graph) -> None:
    """Names of free axes, for whoever looks at the file; what each input and output means, with its unit."""
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = MEANING[value.name]
        for name, axis in zip(AXES[value.name], value.type.tensor_type.shape.dim, strict=True):
            if axis.dim_param:
                axis.dim_param = name if graph.multiple == 1 or name == "patient" else f"{graph.multiple} * {name}"


ONNX = GraphFormat("onnx", ".onnx", ("torch", *PACKAGES), write_onnx, onnx_runner, need_onnx, beside=case_graphs)
