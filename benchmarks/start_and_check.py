"""How long help takes, and the headers of ten thousand manifest rows.

    python benchmarks/start_and_check.py              two minutes on two cores

The rows name distinct copies (hard links are not counted twice by any cache of ours) of small phantoms' files. Prints
JSON with medians of several runs.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypoxnet.jobs.run_folder import processor_name
from hypoxnet.phantom.cohort import make_cohort

ROOT = Path(__file__).parents[1]
FILES = ("FMISO_SUV", "GTVP", "HYPOXIA")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


def seconds(command: list[str], runs: int) -> list[float]:
    """Wall-clock seconds of a command that must succeed."""
    taken = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        taken.append(round(time.perf_counter() - begin, 3))
    return taken


def write_rows(folder: Path, rows: int) -> Path:
    """A manifest of many patients, each with files of its own name."""
    source = make_cohort("test", folder / "source", cases=2).parent / "P0001"
    path = folder / "cohort.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case_id", "site", *FILES, "lrc_months", "lrc_event"])
        for number in range(rows):
            case = folder / f"P{number:05d}"
            case.mkdir()
            for name in FILES:
                os.link(source / f"{name}.nii.gz", case / f"{name}.nii.gz")
            paths = [f"{case.name}/{name}.nii.gz" for name in FILES]
            writer.writerow([case.name, "north", *paths, 24, number % 2])
    return path


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    hypoxnet = shutil.which("hypoxnet") or str(Path(sys.executable).parent / "hypoxnet")
    result = {
        "train_help_s": seconds([sys.executable, "train.py", "--help"], arguments.runs),
        "infer_help_s": seconds([sys.executable, "infer.py", "--help"], arguments.runs),
        "hypoxnet_help_s": seconds([hypoxnet, "--help"], arguments.runs),
    }
    loads = "import sys, hypoxnet; sys.exit('torch' in sys.modules)"
    result["import_loads_torch"] = subprocess.run([sys.executable, "-c", loads], check=False).returncode != 0
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_rows(Path(folder), arguments.rows)
        result["check_headers_s"] = seconds([hypoxnet, "check", "--headers-only", str(manifest)], 3)
    medians = {f"{k}_median": statistics.median(v) for k, v in result.items() if isinstance(v, list)}
    result |= medians | {"rows": arguments.rows, "processor": processor_name(), "cores": os.cpu_count()}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
