"""How far a foreign program's numbers are from the bundle's own, for several sizes and patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hypoxnet.bundle.export.graphs import Graph, example_inputs
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.errors import BundleError

Arrays = Mapping[str, NDArray[np.float32]]
Runner = Callable[[Arrays], Arrays]

# Of probabilities and incidences; of logits and sums, relative to the largest.
TOLERANCE = 1e-4
# Numbers of blocks along each side, and patients: none is that of the example, the first is the smallest box.
SIZES = (((2, 2, 2), 1), ((4, 3, 2), 1), ((2, 3, 5), 3))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Largest differences found.

    Args:
        differences: Output to its largest difference over all sizes; absolute for `pred` and `incidence`, else relative
            to the largest value.
        sizes: Shape of the images of each trial; empty without images.
    """

    differences: dict[str, float]
    sizes: tuple[tuple[int, ...], ...]

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max(self.differences.values())

    def refuse_worse_than(self, tolerance: float, *, what: str) -> None:
        """Refuse an export that does not say what the bundle says.

        Raises:
            BundleError: A difference is above `tolerance` or not a number.
        """
        for name, difference in self.differences.items():
            if not difference <= tolerance:
                raise BundleError(
                    f"{what}: {name} differs from the bundle's by {difference:.3g}, at most {tolerance:g} is rounding"
                )


def agreement(spec: BundleSpec, graph: Graph, run: Runner, *, seed: int = 1) -> Agreement:
    """Run a graph here and there, on `trials`.

    Args:
        spec: The bundle.
        graph: The module, whose numbers are right.
        run: The other program: arrays by name to arrays by name.
        seed: Of the noise.
    """
    return agreement_on(trials(spec, graph, seed=seed), graph, run)


def agreement_on(chosen: Iterable[Mapping[str, torch.Tensor]], graph: Graph, run: Runner) -> Agreement:
    """Run a graph here and there.

    Args:
        chosen: Inputs by name, several times.
        graph: The module, whose numbers are right; only its `outputs` are looked at.
        run: The other program: arrays by name to arrays by name.
    """
    worst: dict[str, float] = dict.fromkeys(graph.outputs, 0.0)
    shapes = []
    for inputs in chosen:
        with torch.no_grad():
            here = graph.module(**inputs)
        there = run({name: tensor.numpy() for name, tensor in inputs.items()})
        for name in graph.outputs:
            apart = _difference(name, here[name].numpy(), np.asarray(there[name]))
            # Not max, which takes 0 of 0 and nan: a program that gives no number would agree.
            worst[name] = float(np.maximum(worst[name], apart))
        if "image" in inputs:
            shapes.append(tuple(inputs["image"].shape))
    return Agreement(worst, tuple(shapes))


def trials(spec: BundleSpec, graph: Graph, *, seed: int) -> list[dict[str, torch.Tensor]]:
    """Inputs to compare on: boxes of several sizes, several patients, absent channels, no contour. A graph without
    free sides gets boxes of its example's sides.
    """
    if graph.trials:
        return list(graph.trials)
    generator = torch.Generator().manual_seed(seed)
    if "image" not in graph.inputs:
        return [{name: tensor[:count] for name, tensor in graph.inputs.items()} for count in (1, 2)]
    found = []
    for blocks, patients in SIZES:
        sizes = [graph.multiple * n for n in blocks] if graph.spatial else list(graph.inputs["image"].shape[2:])
        found.append(example_inputs(spec, sizes, patients=patients, generator=generator))
    found[1]["tumour_known"] = torch.zeros(len(found[1]["tumour_known"]))
    found[1]["tumour"] = torch.zeros_like(found[1]["tumour"])
    return [{name: inputs[name] for name in graph.inputs} for inputs in found]


def _difference(name: str, here: NDArray[np.float32], there: NDArray[np.float32]) -> float:
    if here.shape != there.shape:
        raise BundleError(f"{name} has shape {there.shape} there and {here.shape} here")
    scale = 1.0 if name in {"pred", "incidence"} else max(1.0, float(np.abs(here).max(initial=0.0)))
    return float(np.abs(here - there).max(initial=0.0)) / scale
