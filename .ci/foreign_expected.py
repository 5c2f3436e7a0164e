"""What programs that do not know HypoxNet are to be given, and what must come out.

    foreign_expected.py BUNDLE MANIFEST FOLDER

Writes `trials.npz`, inputs and outputs of the bundle's graphs and of its encoder, `trials_bfloat16.npz` and
`trials_int8.npz`, the same of the graphs with rounded weights, and `cases.json`, the manifest as MONAI reads it;
`without_reference.json` and `without_reference.csv` are the same cases without the reference channel, where the grid of
another channel is the reference grid. Runs where HypoxNet is installed; `foreign_check.py` reads them where it is not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hypoxnet.bundle.export.agreement import trials
from hypoxnet.bundle.export.encoder import encoder_graph
from hypoxnet.bundle.export.graphs import Graph, graphs_of
from hypoxnet.bundle.export.onnx_program import ONNX
from hypoxnet.bundle.export.precision import BFLOAT16, INT8, with_stored_weights
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import CaseRecord
from hypoxnet.data.manifest import read_manifest
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.models.encoders import encoder_of

MOST_CASES = 4


def main(bundle: Path, manifest: Path, folder: Path) -> None:
    """Write every file."""
    folder.mkdir(parents=True, exist_ok=True)
    predictor = load_predictor(bundle, InferenceConfig(device="cpu"))
    spec, models = predictor.spec, predictor.models
    records = read_manifest(manifest)[:MOST_CASES]
    write_cases(records, folder / "cases.json")
    table = pd.read_csv(manifest, dtype=str)
    table[spec.settings.reference] = ""
    table.to_csv(folder / "without_reference.csv", index=False)
    write_cases(read_manifest(folder / "without_reference.csv")[:MOST_CASES], folder / "without_reference.json")
    encoder = encoder_graph(spec, encoder_of(models[0]))
    write_trials(spec, (*ONNX.graphs(spec, models), encoder), folder / "trials.npz")
    for precision in (BFLOAT16, INT8):
        rounded = graphs_of(spec, with_stored_weights(models, precision))
        write_trials(spec, rounded, folder / f"trials_{precision}.npz")


def write_cases(records: Iterable[CaseRecord], output: Path) -> None:
    """The files of each case by name."""
    cases = [
        {"case": record.key} | {name: str(path) for name, path in {**record.channels, **record.masks}.items()}
        for record in records
    ]
    output.write_text(json.dumps(cases, indent=1))


def write_trials(spec: BundleSpec, graphs: Sequence[Graph], output: Path) -> None:
    """Every trial of every graph as `<graph>/<trial>/in|out/<tensor>`."""
    arrays: dict[str, np.ndarray] = {}
    for graph in graphs:
        for place, inputs in enumerate(trials(spec, graph, seed=2)):
            with torch.no_grad():
                outputs = graph.module(**inputs)
            for side, tensors in (("in", inputs), ("out", outputs)):
                arrays |= {f"{graph.name}/{place}/{side}/{name}": t.numpy() for name, t in tensors.items()}
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
