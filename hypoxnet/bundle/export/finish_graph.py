"""`finish.onnx`: what windows add up to, to probabilities on the reference grid and the volumes that the outcome reads.

Axis legend: L looks (the case and its mirror images), R members, K regions, D H W voxels of the box with its margins,
d h w without them, i j k voxels of the reference grid.
"""

from __future__ import annotations

import numpy as np

from hypoxnet.bundle.export.onnx_grid import sampled
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
    native = sampled(whole, into, tape.Shape(inside), repeat_edge=tape.Identity(True))
    clipped = tape.Min(tape.Max(native, 0.0), 1.0) * inside.cast("float64")
    tape.output("probability", clipped, "float32", (len(spec.settings.region_names), "i", "j", "k"))


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
