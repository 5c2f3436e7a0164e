"""AOTInductor: graphs compiled to machine code (`.pt2`), loaded by C++ or Python without the network's classes.

Source:
    PyTorch, AOTInductor: `aoti_compile_and_package`, `AOTIModelPackageLoader`.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from hypoxnet.bundle.export.agreement import Runner
from hypoxnet.bundle.export.formats import Described, GraphFormat
from hypoxnet.bundle.export.graphs import Graph
from hypoxnet.bundle.export.torch_program import export_program, quiet_torch
from hypoxnet.errors import ConfigError

COMPILERS = ("g++", "clang++", "c++")


def compiler() -> str | None:
    """The C++ compiler that PyTorch will use; None without any."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((name for name in names if shutil.which(name)), None)


def need_compiler() -> None:
    """Refuse to go on without a C++ compiler.

    Raises:
        ConfigError: None is installed, or `CXX` names one that is not.
    """
    if compiler() is None:
        raise ConfigError(
            f"AOTInductor compiles C++ and found {os.environ.get('CXX') or 'no compiler'}"
            f"{', which is not there' if os.environ.get('CXX') else ''}; install g++, or export as torch or onnx"
        )


def write_package(graph: Graph, path: Path, description: Described) -> None:
    """Compile a graph for the CPU of this machine; the description stands beside it, in `export.json`."""
    with quiet_torch():
        torch._inductor.aoti_compile_and_package(export_program(graph), package_path=str(path))


def package_runner(path: Path, graph: Graph) -> Runner:
    """A package on disk as a function of arrays. Loading it runs the machine code in it."""
    with quiet_torch():
        package = torch._inductor.aoti_load_package(str(path))

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            outputs = package(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: outputs[name].numpy() for name in graph.outputs}

    return run


def machine() -> dict[str, Any]:
    """Where the machine code runs: nowhere else."""
    return {
        "compiled_for": {
            "device": "cpu",
            "architecture": platform.machine(),
            "system": platform.system(),
            "vector_instructions": torch.backends.cpu.get_cpu_capability(),
            "compiler": compiler(),
        }
    }


AOTINDUCTOR = GraphFormat(
    "aotinductor",
    ".pt2",
    ("torch",),
    write_package,
    package_runner,
    ready=need_compiler,
    about=machine,
)
