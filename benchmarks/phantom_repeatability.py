"""Repeatability of hypoxia PET on a test-retest cohort of the digital reference object, beside published figures.

    hypoxnet phantom --preset test_retest --output retest
    python3 benchmarks/phantom_repeatability.py retest

Prints JSON: per tracer, relative repeatability coefficient and ICC of TBRmax, of the 1 mL peak and of the hypoxic
volume, and the correlation of the voxels of two scans.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hypoxnet.cases import CaseRecord
from hypoxnet.data.manifest import read_manifest
from hypoxnet.files import finite
from hypoxnet.hypoxia.repeatability import Scan, ScanPair, image_repeatability
from hypoxnet.images import read_channel, read_mask
from hypoxnet.maps.reference_region import reference_value
from hypoxnet.phantom.fields import resampled

TRACERS = ("FMISO_SUV", "FAZA_SUV", "HX4_SUV")
# A tumour of a few voxels has no correlation worth the name.
LEAST_ML = 3.0
PUBLISHED = {
    "HX4 (Zegers 2015, 19 patients)": {"relative RC of TBRmax, %": 17, "voxel r": "0.65 +- 0.14", "r of HV": 0.995},
    "EF5 (Silvoniemi 2018, 10 patients)": {"relative RC of TMR, %": 10, "ICC of TMR": 0.87, "voxel r": 0.65},
    "FMISO (Okamoto 2013, 11 patients; unconfirmed)": {"ICC of SUVmax": 0.96, "ICC of HV": 0.99},
}


def scan_of(record: CaseRecord, channel: str) -> Scan:
    """Ratio to blood, and the tumour, of one visit."""
    pet = read_channel(record.channels[channel], channel, case=record.key)
    blood = read_mask(record.masks["BLOOD"], case=record.key)
    tumour = read_mask(record.masks["GTVP"], case=record.key).array.copy()
    if "GTVN" in record.masks:
        tumour |= read_mask(record.masks["GTVN"], case=record.key).array
    return Scan(pet.array / reference_value(pet.array, blood.array, statistic="mean"), tumour, pet.grid)


def pairs_of(folder: Path) -> dict[str, list[ScanPair]]:
    """Both scans of every patient with a tumour of some size, by tracer."""
    records = {(r.case_id, r.visit): r for r in read_manifest(folder / "manifest.csv")}
    pairs: dict[str, list[ScanPair]] = {}
    for (case, visit), record in records.items():
        channel = next((name for name in TRACERS if name in record.channels), None)
        if visit != "baseline" or channel is None:
            continue
        first, second = scan_of(record, channel), scan_of(records[case, "retest"], channel)
        if float(first.tumour.sum()) * first.grid.voxel_ml >= LEAST_ML:
            registered = resampled(torch.from_numpy(second.ratio), second.grid, first.grid).numpy()
            pairs.setdefault(channel.removesuffix("_SUV"), []).append(ScanPair(first, second, registered))
    return pairs


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="folder of a cohort with the visits baseline and retest")
    parser.add_argument("--threshold", type=float, default=1.2, help="ratio to blood from which a voxel is hypoxic")
    options = parser.parse_args()
    report: dict[str, Any] = {"cohort": str(options.cohort), "published": PUBLISHED}
    for tracer, pairs in pairs_of(options.cohort).items():
        found = image_repeatability(pairs, threshold=options.threshold)
        report[tracer] = {"patients": len(pairs), **finite(asdict(found))}
    json.dump(report, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
