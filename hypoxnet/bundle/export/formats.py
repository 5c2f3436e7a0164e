"""A form in which graphs are written, and the one way in which all of them are: write, read back, compare, describe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hypoxnet.bundle.export.agreement import TOLERANCE, Agreement, Runner, agreement
from hypoxnet.bundle.export.description import describe_export
from hypoxnet.bundle.export.folder import write_export
from hypoxnet.bundle.export.graphs import Graph, graphs_of
from hypoxnet.bundle.export.precision import FLOAT32, with_stored_weights
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.errors import BundleError, HypoxNetError
from hypoxnet.models.encoders import has_free_sides
from hypoxnet.models.joint import HypoxNet

Described = Mapping[str, Any]


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class GraphFormat:
    """How graphs are written in one form, and run again.

    Args:
        kind: Name of the form.
        suffix: Of its files.
        packages: Whose versions are written down.
        write: Writes a graph to a path; the description is for forms that can hold it.
        runner: A written graph as a function of arrays, refused first if it cannot be that graph.
        ready: Raises a `ConfigError` with the remedy when something it needs is not installed.
        about: What it adds to the description.
        beside: Graphs besides the networks that it writes.
    """

    kind: str
    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Graph, Path, Described], None]
    runner: Callable[[Path, Graph], Runner]
    ready: Callable[[], None] = lambda: None
    about: Callable[[], Described] = _nothing
    beside: Callable[[BundleSpec], tuple[Graph, ...]] = lambda _: ()

    def graphs(self, spec: BundleSpec, models: Sequence[HypoxNet]) -> tuple[Graph, ...]:
        """Every graph of a bundle that is written in this form."""
        return (*graphs_of(spec, models), *self.beside(spec))

    def file_of(self, graph: str) -> str:
        """Name of the file of a graph."""
        return f"{graph}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Precision:
    """In how many bits weights are kept, and what that costs.

    Args:
        weights: One of `precision.PRECISIONS`.
        loss: Differences from the float32 model on cases; empty for float32.
    """

    weights: str = FLOAT32
    loss: Mapping[str, Any] | None = None


def export_graphs(
    spec: BundleSpec,
    models: Sequence[HypoxNet],
    output: Path,
    *,
    form: GraphFormat,
    precision: Precision | None = None,
) -> Path:
    """Write every graph of a bundle in a form, read back by the form's own library and compared.

    Args:
        spec: The bundle.
        models: Its members, on the CPU.
        output: Folder of the export.
        form: The form.
        precision: Of the weights; float32 when None. What is compared is the file with the rounded model.

    Raises:
        BundleError: The network has another graph for every size, what was read back gives other numbers, or `output`
            cannot be used.
        ConfigError: Something that the form needs is not installed.
    """
    form.ready()
    if not has_free_sides(models[0]):
        raise BundleError(
            f"{spec.name}: the operations of {spec.model.backbone.backbone} depend on the sides of a box, so that no "
            f"{form.kind} file can hold it for every size; export it --to monai, whose windows have one size"
        )
    precision = precision or Precision()
    graphs = form.graphs(spec, with_stored_weights(models, precision.weights))
    weights = {"precision": precision.weights} | ({"loss": precision.loss} if precision.loss else {})
    versions = {name: version(name) for name in form.packages}
    more = {"weights": weights, "packages": versions, **form.about()}
    files = {graph.name: form.file_of(graph.name) for graph in graphs}

    def write(folder: Path) -> dict[str, Any]:
        description = describe_export(spec, graphs, kind=form.kind, files=files, more=more)
        found: dict[str, Agreement] = {}
        for graph in graphs:
            path = folder / files[graph.name]
            with in_one_sentence(f"{spec.name}: {graph.name} cannot be written as {form.kind}", "choose another form"):
                form.write(graph, path, description)
            found[graph.name] = compared(spec, graph, path, form=form)
        return description | {"agreement": agreement_json(found)}

    return write_export(output, spec, write)


def compared(spec: BundleSpec, graph: Graph, path: Path, *, form: GraphFormat) -> Agreement:
    """A written graph beside our own.

    Raises:
        BundleError: It cannot be read or run, or gives other numbers.
    """
    with in_one_sentence(f"{path} cannot be run as {form.kind}", "export the bundle again"):
        found = agreement(spec, graph, form.runner(path, graph))
    found.refuse_worse_than(TOLERANCE, what=path.name)
    return found


@contextmanager
def in_one_sentence(what: str, remedy: str) -> Iterator[None]:
    """Errors of other people's exporters and runtimes, which are pages long, as one of ours; ours as they are.

    Raises:
        BundleError: `what`, the first line of the error, `remedy`.
    """
    try:
        yield
    except HypoxNetError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, EOFError, AssertionError) as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        raise BundleError(f"{what} ({reason}); {remedy}") from error


def agreement_json(found: Mapping[str, Agreement]) -> dict[str, Any]:
    """Agreement of each graph, for `export.json`."""
    return {
        name: {"largest_difference": part.differences, "image_shapes": [list(shape) for shape in part.sizes]}
        for name, part in found.items()
    }


def as_text(description: Described) -> str:
    """A description in one line, for files that hold it as text."""
    return json.dumps(description, allow_nan=False)
