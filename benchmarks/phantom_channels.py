"""What each channel is worth: a network trained on all of them, given the withheld patients with one of them missing.

    python3 train.py data=phantom_standard name=all output=runs/all
    python3 benchmarks/phantom_channels.py runs/all COHORT/manifest.csv --output runs/all_without

Prints JSON: Dice and C-index with 95 % intervals over the withheld patients for everything, and without each channel,
as well as the paired difference in Dice. Patients who lack the channel anyway are counted too: so it would be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.data.cache import default_cache_folder
from hypoxnet.data.manifest import read_manifest
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.jobs.derive import MapCache
from hypoxnet.jobs.scoring import Baselines, score_case
from hypoxnet.maps.config import MapsConfig
from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.metrics.evaluate import Evaluator
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.quantities import HYPOXIA_TRACERS

GROUPS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "hypoxia PET": tuple(f"{tracer}_{kind}" for tracer in HYPOXIA_TRACERS for kind in ("SUV", "TMR", "TBR")),
    "FDG PET": ("FDG_SUV",),
    "T1W and T2W": ("T1W", "T2W"),
    "R2*": ("R2STAR",),
    "dR1": ("DR1",),
    "Ktrans and ve": ("KTRANS", "VE"),
    "ADC": ("ADC",),
    "all MR": ("T1W", "T2W", "R2STAR", "DR1", "KTRANS", "VE", "ADC"),
}


def without(record: CaseRecord, names: Collection[str]) -> CaseRecord:
    """The same case with some channels not measured."""
    return replace(record, channels={n: path for n, path in record.channels.items() if n not in names})


def scores_without(
    predictor: Predictor, records: list[CaseRecord], names: tuple[str, ...], output: Path
) -> dict[str, CaseScore]:
    """Predict and score everyone who still has a channel."""
    left = [without(record, names) for record in records]
    usable = [record for record in left if set(record.channels) & set(predictor.spec.settings.channels)]
    run_inference(predictor, usable, output)
    scores = {}
    for record in usable:
        score = score_case(record, output / record.key, predictor.spec.settings, Baselines(None, None), fold=None)
        if score is not None:
            scores[record.key] = score
    return scores


def main() -> int:
    """Predict without each, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a training on all channels")
    parser.add_argument("manifest", type=Path, help="of the cohort, with outcomes")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    withheld = {record.key for record in read_manifest(options.run / "manifest.csv")}
    records = [record for record in read_manifest(options.manifest) if record.key in withheld]
    predictor = load_predictor(options.run / "bundle", InferenceConfig())
    spec = predictor.spec
    ratios = MapCache(default_cache_folder() / "maps", MapsConfig.from_json(spec.maps), spec.settings.channels)
    records = [ratios.complete(record) for record in records]
    region = spec.settings.region_names[0]
    report: dict[str, Any] = {"withheld": len(records), "without": {}}
    whole: dict[str, CaseScore] = {}
    for number, (group, names) in enumerate(GROUPS.items()):
        found = scores_without(predictor, records, names, options.output / f"{number}")
        whole = whole or found
        keys = [key for key in found if key in whole]
        change = [found[key].regions[region].dice - whole[key].regions[region].dice for key in keys]
        metrics = Evaluator(list(found.values()), horizon_months=24.0, resamplings=1000).metrics()
        report["without"][group] = {
            "patients": len(found),
            "dice": metrics["segmentation"]["dice"],
            "difference": bootstrap(
                lambda index, c=change: sum(c[i] for i in index) / len(index), keys, resamplings=1000
            ).to_json(),
            "c_index": metrics.get("outcome", {}).get("c_index"),
        }
    json.dump(report, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
