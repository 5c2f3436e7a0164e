"""TorchScript (`.ts`): for programs that load nothing newer. PyTorch has deprecated it; prefer another form."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hypoxnet.bundle.export.agreement import Runner
from hypoxnet.bundle.export.formats import Described, GraphFormat, as_text
from hypoxnet.bundle.export.graphs import Graph
from hypoxnet.bundle.export.torch_program import DESCRIPTION


@contextmanager
def without_deprecations() -> Iterator[None]:
    """TorchScript's own notices that it is deprecated, and that sizes of the trace could be constants: both known here,
    the second is what the comparison at several sizes is for.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def write_script(graph: Graph, path: Path, description: Described) -> None:
    """Trace a graph and write it with its description."""
    with without_deprecations(), torch.no_grad():
        script = torch.jit.trace(  # type: ignore[no-untyped-call]
            graph.module, example_kwarg_inputs=graph.inputs, strict=False, check_trace=False
        )
        # Into a file of Python: on a full disk torch's own ends the process.
        with path.open("wb") as stream:
            torch.jit.save(script, stream, _extra_files={DESCRIPTION: as_text(description)})


def script_runner(path: Path, graph: Graph) -> Runner:
    """A script on disk as a function of arrays."""
    with without_deprecations():
        script = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            outputs = script(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: outputs[name].numpy() for name in graph.outputs}

    return run


TORCHSCRIPT = GraphFormat("torchscript", ".ts", ("torch",), write_script, script_runner)
