"""Inference over a large cohort: memory over time, cases per minute, and how long a restart takes.

    python benchmarks/inference_cohort.py --cases 300                six minutes of two busy cores
    python benchmarks/inference_cohort.py --cases 10000 --known      no prediction: 10,000 finished cases are laid out
    python benchmarks/inference_cohort.py --cases 60 --size 64 --compare 0,1,2

A cohort of links to the images of three small cases, predicted by a small network with fresh weights. Each figure is
taken in a process of its own. `--known` copies one prediction into as many folders with their index, and times the
restart with the index, with the index lost, and the rewriting of the table. `--compare` predicts the same cohort with
several values of `inference.cases_ahead` in turns. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SPACING_MM = 3.0
MODELS = 3


def main() -> None:
    """Make the cohort and time what was asked for."""
    arguments = parse_arguments()
    if arguments.phase:
        print(json.dumps(PHASES[arguments.phase](arguments)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        arguments.folder = folder
        in_a_process("make", arguments)
        report = {
            "settings": {k: v for k, v in vars(arguments).items() if k not in {"phase", "folder"}},
            **(compare(arguments) if arguments.compare else known(arguments) if arguments.known else run(arguments)),
            "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()},
        }
    print(json.dumps(report, indent=2))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--size", type=int, default=24, help="voxels along each side of an image")
    parser.add_argument("--window", type=int, default=16, help="voxels along each side of the window")
    parser.add_argument("--ahead", type=int, default=1, help="inference.cases_ahead")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--known", action="store_true", help="lay out finished cases, time restarts only")
    parser.add_argument("--compare", default="", help="values of cases_ahead, with commas")
    parser.add_argument("--rounds", type=int, default=3, help="of --compare")
    parser.add_argument("--folder", help="where the cohort is made; a temporary folder by default")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Predict all, then restart."""
    return {"predict": in_a_process("predict", arguments), "restart": in_a_process("predict", arguments)}


def known(arguments: argparse.Namespace) -> dict[str, Any]:
    """Restart over finished cases, with their index and without."""
    in_a_process("lay_out", arguments)
    report = {"restart": in_a_process("predict", arguments)}
    (Path(arguments.folder) / "out" / ".index.jsonl").unlink()
    report["restart_without_index"] = in_a_process("predict", arguments)
    return report


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole cohort with each value of `cases_ahead`, in turns."""
    values = [int(value) for value in arguments.compare.split(",")]
    seconds: dict[int, list[float]] = {value: [] for value in values}
    for _ in range(arguments.rounds):
        for value in values:
            shutil.rmtree(Path(arguments.folder) / "out", ignore_errors=True)
            arguments.ahead = value
            seconds[value].append(in_a_process("predict", arguments)["seconds"])
    first = seconds[values[0]]
    return {
        "seconds": {value: [round(s, 2) for s in found] for value, found in seconds.items()},
        "median_ratio_to_first": {
            value: round(statistics.median(a / b for a, b in zip(found, first, strict=True)), 3)
            for value, found in seconds.items()
        },
    }


def in_a_process(phase: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One phase in a new process."""
    settings = [f"--{k}={v}" for k, v in vars(arguments).items() if k not in {"phase", "known", "compare", "rounds"}]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    command = [sys.executable, __file__, f"--phase={phase}", *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images of three cases, links to them for every case, a manifest and a bundle."""
    import nibabel as nib
    import numpy as np

    folder, size = Path(arguments.folder), arguments.size
    (folder / "images").mkdir()
    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM * 1.25, 1.0])
    axis = np.arange(size) - 0.45 * size
    ball = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) <= (size / 5) ** 2
    for number in range(MODELS):
        draw = np.random.default_rng(number)
        images = {
            "pet": (draw.gamma(2.0, 0.4, (size,) * 3) + 2.0 * ball).astype(np.float32),
            "mr": draw.normal(300.0, 60.0, (size,) * 3).astype(np.float32),
            "gtv": ball.astype(np.uint8),
        }
        for name, array in images.items():
            nib.save(nib.Nifti1Image(array, affine), folder / "images" / f"{name}{number}.nii.gz")
    lines = ["case_id,FMISO_SUV,T1W,GTVP,age"]
    for case in range(arguments.cases):
        names = [f"images/{case:06d}_{name}.nii.gz" for name in ("pet", "mr", "gtv")]
        for name, path in zip(("pet", "mr", "gtv"), names, strict=True):
            os.link(folder / "images" / f"{name}{case % MODELS}.nii.gz", folder / path)
        lines.append(",".join([f"P{case:06d}", *names, str(50 + case % 30)]))
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_small_bundle(folder / "bundle", arguments.window)
    return {}


def write_small_bundle(folder: Path, window: int) -> None:
    """A network of 4 and 8 features with fresh weights."""
    import torch

    from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults
    from hypoxnet.bundle.write import write_bundle
    from hypoxnet.models.build import build_model
    from hypoxnet.models.config import ModelConfig, OutcomeConfig
    from hypoxnet.models.spec import ModelSpec
    from hypoxnet.transforms.covariates import CovariateTerm
    from hypoxnet.transforms.normalise import norm_of
    from hypoxnet.transforms.settings import PrepareSettings, Region

    channels, outcome, spacing_mm = ("FMISO_SUV", "T1W"), OutcomeConfig(), (SPACING_MM,) * 3
    settings = PrepareSettings(
        channels=channels,
        norms=tuple(norm_of(name) for name in channels),
        reference=channels[0],
        spacing_mm=spacing_mm,
        window=(window,) * 3,
        tumour=("GTVP",),
        regions=(Region("hsv", ("HYPOXIA",)),),
        threshold=None,
        inside_tumour=True,
        terms=(CovariateTerm("age", "linear", (60.0,), (8.0,), low=40.0, high=90.0),),
        edges_months=tuple(outcome.edges_months),
    )
    backbone = ModelConfig(features=[4, 8], blocks=[1, 1], deep_supervision=0)
    columns = len(settings.covariate_columns)
    model = ModelSpec(backbone, outcome, len(channels), 1, columns, settings.edges_months, spacing_mm)
    torch.manual_seed(0)
    states = [build_model(model).state_dict()]
    write_bundle(folder, BundleSpec("benchmark", model, settings, InferenceDefaults()), states)


def predict(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run inference and watch this process; a second call is a restart."""
    import psutil

    begin = time.perf_counter()
    import torch

    from hypoxnet.data.manifest import read_manifest
    from hypoxnet.inference.config import InferenceConfig
    from hypoxnet.inference.predictor import load_predictor
    from hypoxnet.inference.run import run_inference

    torch.set_num_threads(arguments.threads)
    logging.getLogger("hypoxnet").setLevel(logging.ERROR)
    folder, process = Path(arguments.folder), psutil.Process()
    records = read_manifest(folder / "cohort.csv")
    predictor = load_predictor(folder / "bundle", InferenceConfig(device="cpu", cases_ahead=arguments.ahead))
    loaded, memory_mib = time.perf_counter(), [round(process.memory_info().rss / 2**20)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(timeout=max(1.0, arguments.cases / 500)):
            memory_mib.append(round(process.memory_info().rss / 2**20))

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = run_inference(predictor, records, folder / "out", progress=False)
    stop.set()
    watcher.join()
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    return {
        "seconds": time.perf_counter() - loaded,
        "seconds_to_load": loaded - begin,
        "predicted": len(done.predicted),
        "kept": len(done.kept),
        "failed": len(done.failed),
        "memory_mib": memory_mib[:: max(1, len(memory_mib) // 20)],
        "cases_per_minute": summary["cases_per_minute"],
        "device_busy": summary["device_busy"],
        "seconds_by_stage": summary["seconds"],
    }


def lay_out(arguments: argparse.Namespace) -> dict[str, Any]:
    """A folder and an index entry for every case, from predictions of the first three."""
    from hypoxnet.data.manifest import read_manifest
    from hypoxnet.inference.config import InferenceConfig
    from hypoxnet.inference.index import Index, fingerprint
    from hypoxnet.inference.one_case import predict_into
    from hypoxnet.inference.predictor import load_predictor
    from hypoxnet.inference.run import INDEX

    folder = Path(arguments.folder)
    logging.getLogger("hypoxnet").setLevel(logging.ERROR)
    predictor = load_predictor(folder / "bundle", InferenceConfig(device="cpu"))
    out, rows = folder / "out", []
    index = Index.open(out / INDEX)
    for number, record in enumerate(read_manifest(folder / "cohort.csv")):
        if number < MODELS:
            rows.append(predict_into(predictor, record, out))
        else:
            copy_prediction(out, f"P{number % MODELS:06d}", record.key, predictor.digest(record))
        row = {**rows[number % MODELS], "case_id": record.case_id}
        index.add(record.key, row, fingerprint(predictor, record), out / record.key)
    return {}


def copy_prediction(out: Path, source: str, key: str, digest: str) -> None:
    """The prediction of one case in the name of another."""
    (out / key).mkdir()
    for path in (out / source).iterdir():
        target = out / key / path.name.replace(source, key)
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8").replace(source, key)) | {"digest": digest}
            target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        else:
            os.link(path, target)


PHASES = {"make": make, "predict": predict, "lay_out": lay_out}

if __name__ == "__main__":
    main()
