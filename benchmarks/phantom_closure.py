"""Makes the closure of oxygen that comes along with the digital reference object, and says how exact it is.

    python benchmarks/phantom_closure.py              measures the one that is there, about a minute on one core
    python benchmarks/phantom_closure.py --write      makes hypoxnet/phantom/tables/closure.json again first, 3 minutes

Prints JSON, pressures in mmHg:
    mean_po2                the table's mean pO2, one row per R
    supply_over_krogh       exchange G over that of Krogh's cylinder. Random vessels leave gaps, which are far from any:
                            that lowers G by up to half. Where tissue is anoxic it consumes nothing, vessels feed less
                            than their share of the volume, and G, the consumption per mean drop, exceeds Krogh's
    spread                  standard deviation of mean pO2 between random placements, in pieces of about 0.8 mm; a voxel
                            of 2 mm holds fifteen of them
    between_pressures       interpolated minus solved mean pO2 at pressures between those of the table, same placements
    between_radii           the same at R between those of a table of regular vessels, which have no scatter
    resolution              mean pO2 of regular vessels in voxels of 6.7, 10 and 12.5 um
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hypoxnet.phantom
from hypoxnet.files import write_text
from hypoxnet.phantom.oxygen.analytic import krogh_supply_per_s
from hypoxnet.phantom.oxygen.closure import SHIPPED, Calibration, Closure, calibrate, fine_states, shipped, to_json
from hypoxnet.phantom.oxygen.fine import Piece, place_capillaries, solve_fine
from hypoxnet.phantom.oxygen.solver import local_balance
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels

OXYGEN = Oxygen()
RADII_BETWEEN_UM = ((32.0, 40.0), (50.0, 63.0), (63.0, 80.0), (80.0, 100.0), (100.0, 126.0))


def table_text(content: dict[str, Any]) -> str:
    """JSON with one line per row of a table, so that a change can be read."""
    lines = []
    for name, value in content.items():
        nested = isinstance(value, list) and isinstance(value[0], list)
        rows = ",\n  ".join(json.dumps(row) for row in value) if nested else ""
        lines.append(f" {json.dumps(name)}: " + (f"[\n  {rows}\n ]" if nested else json.dumps(value)))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def mean_po2(closure: Closure, radius_um: float, vessel_mmhg: float) -> float:
    """Mean pO2 as the closure has it."""
    radius, vessel = torch.tensor([radius_um]), torch.tensor([vessel_mmhg])
    local = closure.at(radius, vessel)
    return float(local_balance(local.supply_per_s, vessel, torch.tensor(15.0), local.half_mmhg))


def between_pressures(closure: Closure) -> list[dict[str, float]]:
    """Error of interpolation in p_v: fine solutions with the placements of the table."""
    calibration, found = closure.calibration, []
    pressures = [math.sqrt(a * b) for a, b in pairwise(calibration.vessel_mmhg)]
    for radius in (40.0, 50.0, 63.0, 80.0):
        row = calibration.radius_um.index(radius)
        piece = Piece.near(radius, OXYGEN)
        means = [
            [
                state.mean_mmhg
                for state in fine_states(
                    piece,
                    calibration,
                    vessel_mmhg=pressures,
                    generator=np.random.default_rng([calibration.seed, row, placement]),
                )
            ]
            for placement in range(calibration.placements)
        ]
        for pressure, mean in zip(pressures, np.mean(means, axis=0), strict=True):
            error = mean_po2(closure, piece.radius_um, pressure) - float(mean)
            found.append(
                {
                    "radius_um": radius,
                    "vessel_mmhg": round(pressure, 1),
                    "solved": round(float(mean), 3),
                    "error": round(error, 3),
                }
            )
    return found


def between_radii() -> list[dict[str, float]]:
    """Error of interpolation in R, with regular vessels."""
    found = []
    plain = replace(Calibration.of(OXYGEN, Vessels(disorder=0.0)), vessel_mmhg=(20.0, 40.0, 150.0), placements=1)
    for ends in RADII_BETWEEN_UM:
        closure = calibrate(replace(plain, radius_um=ends))
        middle = Piece.near(math.sqrt(ends[0] * ends[1]), OXYGEN)
        states = fine_states(middle, plain, vessel_mmhg=plain.vessel_mmhg, generator=np.random.default_rng(0))
        for pressure, state in zip(plain.vessel_mmhg, states, strict=True):
            error = mean_po2(closure, middle.radius_um, pressure) - state.mean_mmhg
            found.append(
                {
                    "radius_um": round(middle.radius_um, 1),
                    "vessel_mmhg": pressure,
                    "solved": round(state.mean_mmhg, 3),
                    "error": round(error, 3),
                }
            )
    return found


def resolution() -> list[dict[str, float]]:
    """Mean pO2 of regular vessels at three resolutions of the fine model, p_v = 40."""
    found = []
    for cells, side_um in ((8, 800.0), (5, 800.0), (3, 800.0)):
        line: dict[str, float] = {"radius_um": round(side_um / (cells * math.sqrt(3.0 * math.pi)), 1)}
        for voxels in (120, 80, 64):
            piece = Piece(side_um / voxels, voxels, cells)
            capillaries = place_capillaries(piece, disorder=0.0, generator=np.random.default_rng(0))
            state = solve_fine(capillaries, OXYGEN, vessel_mmhg=40.0, voxel_um=piece.voxel_um)
            line[f"at_{piece.voxel_um:.3g}_um"] = round(state.mean_mmhg, 3)
        found.append(line)
    return found


def measured(closure: Closure) -> dict[str, Any]:
    """All figures of a closure."""
    vessel = closure.vessel_mmhg.expand(closure.supply_per_s.shape)
    mean = local_balance(closure.supply_per_s, vessel, torch.tensor(15.0), closure.half_mmhg)
    krogh = krogh_supply_per_s(closure.radius_um, capillary_radius_um=5.0, diffusion_um2_per_s=2000.0)
    rounded = {
        "mean_po2": mean,
        "supply_over_krogh": closure.supply_per_s / krogh[:, None],
        "spread": closure.spread_mmhg,
    }
    tables = {name: [[round(v, 3) for v in row] for row in table.tolist()] for name, table in rounded.items()}
    pressures, radii = between_pressures(closure), between_radii()
    return {
        "radius_um": [round(r, 2) for r in closure.radius_um.tolist()],
        "vessel_mmhg": closure.vessel_mmhg.tolist(),
        **tables,
        "largest_error_between_pressures": max(abs(one["error"]) for one in pressures),
        "between_pressures": pressures,
        "largest_error_between_radii": max(abs(one["error"]) for one in radii),
        "between_radii": radii,
        "resolution": resolution(),
    }


def main() -> None:
    """Make the table, if wanted, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    begin = time.perf_counter()
    if parser.parse_args().write:
        made = calibrate(Calibration.of(OXYGEN, Vessels()), progress=True)
        path = Path(hypoxnet.phantom.__file__).with_name("tables") / Path(SHIPPED).name
        write_text(path, table_text(to_json(made)))
    found = measured(shipped())
    print(json.dumps({**found, "seconds": round(time.perf_counter() - begin, 1)}, indent=1))


if __name__ == "__main__":
    main()
