"""What programs that do not know HypoxNet are to be given, and what must come out.

    foreign_expected.py BUNDLE MANIFEST FOLDER

Writes `trials.npz`, inputs and outputs of the bundle's graphs, and `cases.json`, the manifest as MONAI reads it. Runs
where HypoxNet is installed; `foreign_check.py` reads them where it is not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from hypoxnet.bundle.export.agreement import trials
from hypoxnet.bundle.export.graphs import graphs_of
from hypoxnet.data.manifest import read_manifest
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor

MOST_CASES = 4


def main(bundle: Path, manifest: Path, folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [
        {"case": record.key} | {name: str(path) for name, path in {**record.channels, **record.masks}.items()}
        for record in read_manifest(manifest)[:MOST_CASES]
    ]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))
    write_trials(bundle, folder / "trials.npz")


def write_trials(bundle: Path, output: Path) -> None:
    """Every trial of every graph as `<graph>/<trial>/in|out/<tensor>`."""
    predictor = load_predictor(bundle, InferenceConfig(device="cpu"))
    arrays: dict[str, np.ndarray] = {}
    for graph in graphs_of(predictor.spec, predictor.models):
        for place, inputs in enumerate(trials(predictor.spec, graph, seed=2)):
            with torch.no_grad():
                outputs = graph.module(**inputs)
            for side, tensors in (("in", inputs), ("out", outputs)):
                arrays |= {f"{graph.name}/{place}/{side}/{name}": t.numpy() for name, t in tensors.items()}
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
