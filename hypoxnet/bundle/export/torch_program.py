"""`torch.export`: programs (`.pt2`) that plain PyTorch loads, for boxes of any size.

Source:
    PyTorch, torch.export: `Dim`, `ExportedProgram`; an exported program is a graph and its weights, not a pickle of
    our classes.
"""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hypoxnet.bundle.export.agreement import Runner
from hypoxnet.bundle.export.formats import Described, GraphFormat, as_text
from hypoxnet.bundle.export.graphs import Graph

# Of the text beside the program in its file.
DESCRIPTION = "hypoxnet_export.json"
MOST_PATIENTS = 4096
MOST_BLOCKS = 1024


def export_program(graph: Graph) -> torch.export.ExportedProgram:
    """A graph as a program whose batch is free, and its sides in whole blocks.

    Example:
        program = export_program(graphs_of(spec, models)[0])
    """
    with quiet_torch():
        return torch.export.export(graph.module, (), kwargs=graph.inputs, dynamic_shapes=dynamic_shapes(graph))


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Without what torch's exporters and loaders say of themselves: of what it deprecated and still uses, of
    packages that could be translated as well, and pages of hints before an error that is raised all the same.
    """
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated.*", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def dynamic_shapes(graph: Graph) -> dict[str, dict[int, Any]]:
    """Which axes of the inputs are free."""
    patients = torch.export.Dim("patients", min=1, max=MOST_PATIENTS)
    sides = [graph.multiple * torch.export.Dim(name, min=2, max=MOST_BLOCKS) for name in ("x", "y", "z")]
    shapes: dict[str, dict[int, Any]] = {}
    for name in graph.inputs:
        shapes[name] = {0: patients}
        if name in graph.spatial:
            shapes[name] |= {graph.spatial[name] + axis: side for axis, side in enumerate(sides)}
    return shapes


def write_program(graph: Graph, path: Path, description: Described) -> None:
    """Write a graph with its description, without the example and the lines of code it was made of."""
    program = export_program(graph)
    # The example is larger than the weights, and the lines name folders of this machine.
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    # By way of the memory: on a full disk torch's own file ends the process.
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={DESCRIPTION: as_text(description)})
    path.write_bytes(stream.getbuffer())


def program_runner(path: Path, graph: Graph) -> Runner:
    """A program on disk as a function of arrays.

    Raises:
        ValueError: The file is none.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive or was cut short")
    with quiet_torch():
        module = torch.export.load(path).module()

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: outputs[name].numpy() for name in graph.outputs}

    return run


TORCH = GraphFormat("torch", ".pt2", ("torch",), write_program, program_runner)
