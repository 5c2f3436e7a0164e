"""A cohort of phantoms by workers of a cluster: one of two is killed, and one against two.

    python benchmarks/cluster_inference.py                 200 cases
    python benchmarks/cluster_inference.py --cases 40

Every process has one thread. `killed`: two workers, of which one is killed when a quarter of the cases is done; table
and folders are compared with those of one process, byte for byte. `one`, `two`: cases per second from the first to the
last finished case, so that starting is not counted. `bound`: the same of two processes that know nothing of each other
(`infer.py shard=1/2`, `2/2`), the most that two workers could reach on this machine. `start_s`: until the first case
is done. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
# What tells of times, or of parts.
OF_THE_RUN = {".index.jsonl", "run.jsonl", "summary.json", "run.log"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, arguments.cases)
        alone = measured(folder, "alone")
        killed = measured(folder, "killed", "cluster.workers=2", kill=True)
        killed["same_bytes"] = contents(folder / "killed") == contents(folder / "alone")
        runs = {
            "alone": alone,
            "killed": killed,
            "one": measured(folder, "one", "cluster.workers=1", "cluster.threads=1"),
            "two": measured(folder, "two", "cluster.workers=2", "cluster.threads=1"),
            "bound": measured(folder, "bound", ["shard=1/2"], ["shard=2/2"]),
        }
        ratio = {name: runs[name]["cases_per_s"] / runs["one"]["cases_per_s"] for name in ("two", "bound")}
    report = {"cases": arguments.cases, "runs": runs, "times_as_fast_as_one": ratio, "machine": machine()}
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
    records = read_manifest(folder / "cohort" / "manifest.csv")
    outcome, data = OutcomeConfig(), DataConfig(channels=["FMISO_SUV", "T1W", "ADC"], window=[32, 32, 32])
    settings = plan_settings(records[:30], data, LabelConfig(), edges_months=outcome.edges_months)
    columns = len(settings.covariate_columns)
    model = ModelSpec(ModelConfig(), outcome, 3, 1, columns, settings.edges_months, settings.spacing_mm)
    torch.manual_seed(0)
    spec = BundleSpec("benchmark", model, settings, InferenceDefaults(mirror=True))
    write_bundle(folder / "bundle", spec, [build_model(model).state_dict()])


def measured(folder: Path, name: str, *settings: str | list[str], kill: bool = False) -> dict[str, Any]:
    """A run of `infer.py`, or one for each list of settings at once."""
    several = [list(each) for each in settings if not isinstance(each, str)]
    each_has = [setting for setting in settings if isinstance(setting, str)]
    begin = time.time()
    processes = [start(folder, name, [*each_has, *own]) for own in several or [[]]]
    if kill:
        kill_a_worker(processes[0], folder / name, json.loads((folder / "alone.json").read_text())["cases"] // 4)
    for process in processes:
        if process.wait() != 0:
            raise SystemExit(f"{name} ended with {process.returncode}")
    seconds = time.time() - begin
    done = sorted(path.stat().st_mtime for path in (folder / name).glob("*/*.json"))
    if not (folder / "alone.json").exists():
        (folder / "alone.json").write_text(json.dumps({"cases": len(done)}))
    rate = (len(done) - 1) / (done[-1] - done[0])
    return {"seconds": round(seconds, 1), "start_s": round(done[0] - begin, 1), "cases_per_s": round(rate, 2)}


def start(folder: Path, name: str, settings: list[str]) -> subprocess.Popen[bytes]:
    """`infer.py`, one thread, one case after another."""
    command = [sys.executable, str(ROOT / "infer.py"), f"bundle={folder}/bundle", f"output={folder / name}"]
    command += [f"manifest={folder}/cohort/manifest.csv", "inference.device=cpu", "inference.cases_ahead=0"]
    command += ["inference.windows_per_batch=2"]
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
