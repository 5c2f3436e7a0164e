"""`torch.export`: programs (`.pt2`) that plain PyTorch loads, for boxes of any size.

Source:
    PyTorch, torch.export: `Dim`, `ExportedProgram`; an exported program is a graph and its weights, not a pickle of
    our classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hypoxnet.bundle.export.agreement import TOLERANCE, Agreement, Runner, agreement
from hypoxnet.bundle.export.description import describe_export
from hypoxnet.bundle.export.folder import write_export
from hypoxnet.bundle.export.graphs import Graph, graphs_of
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.models.joint import HypoxNet

KIND = "torch"
MOST_PATIENTS = 4096
MOST_BLOCKS = 1024


def export_program(graph: Graph) -> torch.export.ExportedProgram:
    """A graph as a program whose batch is free, and its sides in whole blocks.

    Example:
        program = export_program(graphs_of(spec, models)[0])
    """
    with warnings.catch_warnings():
        # torch's own use of a class that it has renamed.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        return torch.export.export(graph.module, (), kwargs=graph.inputs, dynamic_shapes=dynamic_shapes(graph))


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


def export_torch(spec: BundleSpec, models: Sequence[HypoxNet], output: Path) -> Path:
    """Write every graph of a bundle as `<graph>.pt2`, read back and compared with the bundle.

    Args:
        spec: The bundle.
        models: Its members, on the CPU.
        output: Folder of the export.

    Raises:
        BundleError: A program read back gives other numbers, or `output` cannot be used.
    """
    graphs = graphs_of(spec, models)
    files = {graph.name: f"{graph.name}.pt2" for graph in graphs}

    def write(folder: Path) -> dict[str, Any]:
        found: dict[str, Agreement] = {}
        for graph in graphs:
            path = folder / files[graph.name]
            torch.export.save(export_program(graph), path)
            found[graph.name] = agreement(spec, graph, program_runner(path))
            found[graph.name].refuse_worse_than(TOLERANCE, what=f"{output.name}/{path.name}")
        return describe_export(spec, graphs, kind=KIND, files=files, more={"agreement": agreement_json(found)})

    return write_export(output, spec, write)


def program_runner(path: Path) -> Runner:
    """A program on disk as a function of arrays."""
    module = torch.export.load(path).module()

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def agreement_json(found: dict[str, Agreement]) -> dict[str, Any]:
    """Agreement of each graph, for `export.json`."""
    return {
        name: {"largest_difference": part.differences, "image_shapes": [list(shape) for shape in part.sizes]}
        for name, part in found.items()
    }
