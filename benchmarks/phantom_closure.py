"""Makes the closure of oxygen that comes along with the digital reference object, and says how well it does.

    python benchmarks/phantom_closure.py --write      makes hypoxnet/phantom/tables/closure.json again (about 3 minutes)
    python benchmarks/phantom_closure.py              tells how exact the one that is there is (about 1 minute)

Prints JSON: the coefficient of exchange beside Krogh's, the scatter between placements of the capillaries, the error of
interpolation in the middles between the points of the table, and that of the resolution of the fine model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hypoxnet.phantom
from hypoxnet.files import write_text
from hypoxnet.phantom.oxygen.analytic import krogh_supply_per_s
from hypoxnet.phantom.oxygen.closure import SHIPPED, Calibration, calibrate, to_json
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels


def table_text(content: dict[str, Any]) -> str:
    """JSON with one line per row of a table, so that a change can be read."""
    lines = []
    for name, value in content.items():
        nested = isinstance(value, list) and isinstance(value[0], list)
        rows = ",\n  ".join(json.dumps(row) for row in value) if nested else ""
        lines.append(f" {json.dumps(name)}: " + (f"[\n  {rows}\n ]" if nested else json.dumps(value)))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Make the table, or measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    begin = time.perf_counter()
    if parser.parse_args().write:
        closure = calibrate(Calibration.of(Oxygen(), Vessels()))
        path = Path(hypoxnet.phantom.__file__).with_name("tables") / Path(SHIPPED).name
        write_text(path, table_text(to_json(closure)))
    print(json.dumps({"seconds": round(time.perf_counter() - begin, 1)}, indent=2))


if __name__ == "__main__":
    main()
