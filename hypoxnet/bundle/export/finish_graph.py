"""`finish.onnx`: what windows add up to, to probabilities on the reference grid and the volumes that the outcome reads.

Axis legend: L looks (the case and its mirror images), R members, K regions, D H W voxels of the box with its margins,
d h w without them, i j k voxels of the reference grid.
"""

from __future__ import annotations

import numpy as np

from hypoxnet.bundle.export.onnx_grid import bounds, sampled
from hypoxnet.bundle.export.onnx_tape import Tape, Value
from hypoxnet.bundle.export.prepare_graph import looks_of
from hypoxnet.bundle.schema import BundleSpec

SPACE = ("x", "y", "z")


def finish_tape(spec: BundleSpec) -> Tape:
    """What `finish.onnx` does, of a bundle."""
    tape = Tape()
    looks, members, regions = len(looks_of(spec)), spec.members, len(spec.settings.region_names)
    logits = tape.input("logits_sum", "float32", (looks, members, regions, *SPACE))
    coverage = tape.input("coverage", "float32", (looks, *SPACE))
    layout = tape.input("layout", "int64", (4, 3))
    shape, begin, extent, margin = (layout.at(row) for row in range(4))
    upright = (logits / tape.Unsqueeze(coverage, [1, 2])).part(margin, margin + extent, (3, 4, 5))
    probability = tape.ReduceMean(tape.Sigmoid(upright), [0, 1], keepdims=0)
    _on_reference_grid(tape, spec, probability, begin, shape - begin - extent)
    if spec.causes:
        tumour = tape.input("tumour", "float32", (1, 1, *SPACE)).part(margin, margin + extent, (2, 3, 4))
        # The outcome was trained on probabilities as they were before the temperature.
        hot = np.array(spec.every_temperature, dtype=np.float32)[..., None, None, None]
        plain = tape.ReduceMean(tape.Sigmoid(upright * hot), [0], keepdims=0)
        _volumes(tape, spec, plain, tumour)
    return tape


def _on_reference_grid(tape: Tape, spec: BundleSpec, probability: Value, before: Value, after: Value) -> None:
    """K d h w to K i j k: beyond the working grid its border is repeated, outside of the contour there is nothing."""
    inside = tape.input("inside", "uint8", ("i", "j", "k"))
    into = tape.input("into_working", "float64", (4, 4))
    whole = tape.Pad(probability.cast("float64"), tape.Concat([0], before, [0], after, axis=0))
    # Only voxels in the bounding box of what may be anything.
    first, last = bounds(inside.cast("float32"))
    corner = tape.Concat(first.cast("float64"), [1.0], axis=0).reshaped(4, 1)
    there = tape.Concat(into.part([0], [3], (1,)), into @ corner, axis=1)
    native = sampled(whole, there, last - first, repeat_edge=tape.Identity(True))
    clipped = tape.Min(tape.Max(native, 0.0), 1.0) * inside.part(first, last, (0, 1, 2)).cast("float64")
    around = tape.Concat([0], first, [0], tape.Shape(inside) - last, axis=0)
    shape = (len(spec.settings.region_names), "i", "j", "k")
    tape.output("probability", tape.Pad(clipped.cast("float32"), around), "float32", shape)


def _volumes(tape: Tape, spec: BundleSpec, plain: Value, tumour: Value) -> None:
    """mL, of R K d h w; as `OutcomeGraph.volumes_ml`."""
    voxel_ml = np.float32(spec.model.voxel_ml)
    inside = plain.part([0], [1], (1,))
    if spec.model.outcome.pool == "contour":
        known = tape.Greater(tape.input("tumour_known", "float32", (1,)), np.float32(0))
        inside = tape.Where(known, tape.Expand(tumour, tape.Shape(inside)), inside)
        plain = plain * inside
    tumour_ml, region_ml = (tape.total(volume, (2, 3, 4)) * voxel_ml for volume in (inside, plain))
    tape.output("tumour_ml", tumour_ml.reshaped(1, -1), "float32", (1, spec.members))
    tape.output(
        "region_ml", tape.Unsqueeze(region_ml, [0]), "float32", (1, spec.members, len(spec.settings.region_names))
    )
