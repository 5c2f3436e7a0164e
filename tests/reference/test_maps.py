"""Maps against reference data: every curve of every file inside its tolerance."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reference_maps.py"


def test_every_reference_curve_is_inside_its_tolerance(reference):
    environment = {**os.environ, "HYPOXNET_REFERENCE": str(reference)}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    counted = re.findall(r"^(\S.*): (\d+) of (\d+)$", done.stdout, flags=re.MULTILINE)
    assert len(counted) == 23
    assert sum(int(count) for _, _, count in counted) > 15_000
    assert [line for line in counted if line[1] != line[2]] == [], done.stdout
    assert done.returncode == 0, done.stderr
