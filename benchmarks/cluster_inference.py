"""A cohort of phantoms by workers of a cluster: one of two is killed, and one against two.

    python benchmarks/cluster_inference.py                             200 cases, three rounds of 40
    python benchmarks/cluster_inference.py --cases 24 --rounds 1

Every process has one thread. `killed`: two workers, of which one is killed when a quarter of the cases is done; table
and folders are compared with those of one process, byte for byte. `one`, `two`: workers, in turns; cases per second
from the first to the last finished case, so that starting is not counted. `bound`: the same of two processes that know
nothing of each other (`infer.py shard=1/2`, `2/2`), the most that two workers can reach on this machine. `busy`: share
of the workers' time that goes into cases, the rest is waiting for the next. `start_s`: until the first case is done.
Prints JSON; of ratios the median over rounds first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

FEW = 40
ROOT = Path(__file__).parents[1]
# What tells of times, or of parts.
OF_THE_RUN = {".index.jsonl", "run.jsonl", "summary.json", "run.log"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of one against two workers, on 40 cases at most")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, arguments.cases)
        alone = measured(folder, "alone", [])
        killed = measured(folder, "killed", ["cluster.workers=2"], kill_after=arguments.cases // 4)
        killed["same_bytes"] = contents(folder / "killed") == contents(folder / "alone")
        few = [f"manifest={folder}/cohort/few.csv"]
        rounds = [
            {
                "one": measured(folder, f"one{number}", [*few, "cluster.workers=1"]),
                "two": measured(folder, f"two{number}", [*few, "cluster.workers=2"]),
                "bound": measured(folder, f"bound{number}", [*few, "shard=1/2"], [*few, "shard=2/2"]),
            }
            for number in range(arguments.rounds)
        ]
    ratios = {
        name: [round(each[name]["cases_per_s"] / each["one"]["cases_per_s"], 2) for each in rounds]
        for name in ("two", "bound")
    }
    report = {
        "cases": arguments.cases,
        "alone": alone,
        "killed": killed,
        "rounds": rounds,
        "times_as_fast_as_one": {name: [statistics.median(found), *found] for name, found in ratios.items()},
        "machine": machine(),
    }
    print(json.dumps(report, indent=2))


def make(folder: Path, cases: int) -> None:
    """Phantoms, and a bundle of the default network with fresh weights."""
    import torch

    from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults
    from hypoxnet.bundle.write import write_bundle
    from hypoxnet.data.config import DataConfig
    from hypoxnet.data.manifest import read_manifest
    from hypoxnet.data.plan import plan_settings
    from hypoxnet.models.build import build_model
    from hypoxnet.models.config import ModelConfig, OutcomeConfig
    from hypoxnet.models.spec import ModelSpec
    from hypoxnet.phantom.cohort import make_cohort
    from hypoxnet.phantom.presets import preset
    from hypoxnet.transforms.config import LabelConfig

    make_cohort(replace(preset("demo"), cases=cases), folder / "cohort")
    manifest = folder / "cohort" / "manifest.csv"
    records = read_manifest(manifest)
    (folder / "cohort" / "few.csv").write_text("".join(manifest.open().readlines()[: FEW + 1]))
    outcome, data = OutcomeConfig(), DataConfig(channels=["FMISO_SUV", "T1W", "ADC"], window=[32, 32, 32])
    settings = plan_settings(records[:30], data, LabelConfig(), edges_months=outcome.edges_months)
    columns = len(settings.covariate_columns)
    model = ModelSpec(ModelConfig(), outcome, 3, 1, columns, settings.edges_months, settings.spacing_mm)
    torch.manual_seed(0)
    spec = BundleSpec("benchmark", model, settings, InferenceDefaults(mirror=True))
    write_bundle(folder / "bundle", spec, [build_model(model).state_dict()])


def measured(folder: Path, name: str, *settings: list[str], kill_after: int = 0) -> dict[str, Any]:
    """A run of `infer.py` for each list of settings, at once."""
    begin = time.time()
    processes = [start(folder, name, own) for own in settings]
    if kill_after:
        kill_a_worker(processes[0], folder / name, kill_after)
    for process in processes:
        if process.wait() != 0:
            raise SystemExit(f"{name} ended with {process.returncode}")
    seconds = time.time() - begin
    done = sorted(path.stat().st_mtime for path in (folder / name).glob("*/*.json"))
    rate = (len(done) - 1) / (done[-1] - done[0])
    lines = [json.loads(line) for log in (folder / name).rglob("run.jsonl") for line in log.read_text().splitlines()]
    spent = [sum(line["seconds"].values()) for line in lines if line["event"] == "case"]
    workers = 2 if len(settings) == 2 or "cluster.workers=2" in settings[0] else 1
    return {
        "seconds": round(seconds, 1),
        "start_s": round(done[0] - begin, 1),
        "cases_per_s": round(rate, 2),
        "busy": round(rate * statistics.mean(spent) / workers, 2),
    }


def start(folder: Path, name: str, settings: list[str]) -> subprocess.Popen[bytes]:
    """`infer.py`, one thread, one case after another."""
    command = [sys.executable, str(ROOT / "infer.py"), f"bundle={folder}/bundle", f"output={folder / name}"]
    command += (
        [f"manifest={folder}/cohort/manifest.csv"] if not any(s.startswith("manifest=") for s in settings) else []
    )
    command += ["inference.device=cpu", "inference.cases_ahead=0", "inference.windows_per_batch=2"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([*command, *settings], env={**os.environ, **threads}, stdout=log)


def kill_a_worker(process: subprocess.Popen[bytes], output: Path, cases: int) -> None:
    """Kill the busier of the workers when so many cases are done."""
    while len(list(output.glob("*/*.json"))) < cases:
        if process.poll() is not None:
            raise SystemExit("the run ended before a worker could be killed")
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    busiest = max(workers, key=lambda child: child.cpu_times().user)
    os.kill(busiest.pid, signal.SIGKILL)


def contents(folder: Path) -> dict[str, bytes]:
    """What a run says of the patients."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in OF_THE_RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def machine() -> dict[str, Any]:
    """Where this was measured."""
    from hypoxnet.jobs.run_folder import processor_name

    return {
        "processor": processor_name(),
        "cores": psutil.cpu_count(),
        "load": [round(load, 1) for load in psutil.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in ("hypoxnet", "torch", "distributed")},
    }


if __name__ == "__main__":
    main()
