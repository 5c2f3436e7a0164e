"""Inference beside MONAI: time and peak memory of one case, same network, windows and overlap.

    python benchmarks/inference.py                        two minutes on one core
    python benchmarks/inference.py --size 128 --runs 7

Each pass runs in a process of its own, in turns, so that peak memory is its own and a busy machine slows both alike.
`hypoxnet` is `Predictor.apply`: segmentation and outcome of the whole volume. `monai` is `sliding_window_inference`
over the same segmentation network and its sigmoid, without an outcome. `hypoxnet_inside` predicts round a tumour
contour only, which is what happens for a model of inside a contour. Prints JSON; ratios below 1 are in favour of
HypoxNet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

MODES = ("hypoxnet", "monai", "hypoxnet_inside")
CHANNELS = ("FMISO_SUV", "T1W")


def main() -> None:
    """Run the modes in turns and print medians and ratios."""
    arguments = parse_arguments()
    if arguments.mode:
        print(json.dumps(measure(arguments.mode, arguments)))
        return
    runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for _ in range(arguments.runs):
        for mode in MODES:
            runs[mode].append(in_a_process(mode, arguments))
    medians = {
        mode: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        for mode, measured in runs.items()
    }
    print(json.dumps(report(medians, runs, arguments), indent=2))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="voxels along each side of the case")
    parser.add_argument("--window", type=int, default=32, help="voxels along each side of the window")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=4, help="windows per batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(mode: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One pass of a mode in a new process."""
    settings = [f"--{key}={value}" for key, value in vars(arguments).items() if key != "mode"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    command = [sys.executable, __file__, f"--mode={mode}", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure(mode: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak memory of one pass, after a pass over one window that loads what is loaded lazily."""
    import torch

    torch.set_num_threads(arguments.threads)
    predictor = make_predictor(arguments, inside=mode == "hypoxnet_inside")
    run_pass(mode, predictor, make_sample(predictor, arguments.window), arguments)
    sample = make_sample(predictor, arguments.size)
    before = peak_mib()
    begin = time.perf_counter()
    run_pass(mode, predictor, sample, arguments)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_mib": peak_mib(), "rise_mib": peak_mib() - before}


def run_pass(mode: str, predictor: Any, sample: Any, arguments: argparse.Namespace) -> None:
    """Predict a sample, by us or by MONAI alone."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    with torch.inference_mode():
        if mode != "monai":
            predictor.apply(sample)
            return
        backbone, presence = predictor.models[0].backbone, sample.presence[None]
        logits = sliding_window_inference(
            sample.images[None],
            (arguments.window,) * 3,
            arguments.batch,
            lambda windows: backbone(windows, presence.expand(len(windows), -1)).segmentation,
            overlap=arguments.overlap,
            mode="gaussian",
        )
        logits.sigmoid_()


def make_predictor(arguments: argparse.Namespace, *, inside: bool) -> Any:
    """The default network with fresh weights."""
    import torch

    from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults
    from hypoxnet.inference.config import InferenceConfig
    from hypoxnet.inference.predictor import Predictor
    from hypoxnet.models.build import build_model
    from hypoxnet.models.config import ModelConfig, OutcomeConfig
    from hypoxnet.models.spec import ModelSpec
    from hypoxnet.transforms.normalise import norm_of
    from hypoxnet.transforms.settings import PrepareSettings, Region

    outcome, spacing_mm = OutcomeConfig(), (3.0, 3.0, 3.0)
    settings = PrepareSettings(
        channels=CHANNELS,
        norms=tuple(norm_of(name) for name in CHANNELS),
        reference=CHANNELS[0],
        spacing_mm=spacing_mm,
        window=(arguments.window,) * 3,
        tumour=("GTVP",),
        regions=(Region("hsv", ("HYPOXIA",)),),
        threshold=None,
        inside_tumour=inside,
        terms=(),
        edges_months=tuple(outcome.edges_months),
    )
    model = ModelSpec(ModelConfig(), outcome, len(CHANNELS), 1, 0, settings.edges_months, spacing_mm)
    spec = BundleSpec("benchmark", model, settings, InferenceDefaults(overlap=arguments.overlap))
    torch.manual_seed(0)
    config = InferenceConfig(windows_per_batch=arguments.batch, device="cpu")
    return Predictor(spec, [build_model(model)], config)


def make_sample(predictor: Any, size: int) -> Any:
    """A cube of noise with a ball-shaped tumour of 20 mL (or as much as fits) in its middle."""
    import torch

    from hypoxnet.cases import Sample
    from hypoxnet.geometry import Grid

    axis = torch.arange(size) - size / 2
    distance = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
    tumour = (distance * 3.0 <= 16.8)[None].to(torch.uint8)
    spacing = [[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1.0]]
    return Sample(
        key="benchmark",
        images=torch.randn(len(CHANNELS), size, size, size, generator=torch.Generator().manual_seed(1)),
        presence=torch.ones(len(CHANNELS)),
        label=torch.zeros_like(tumour),
        label_known=torch.zeros(1),
        tumour=tumour,
        tumour_known=torch.tensor(1.0),
        months=torch.tensor(float("nan")),
        event=torch.tensor(0),
        outcome_known=torch.tensor(0.0),
        covariates=torch.zeros(0),
        covariates_known=torch.zeros(0),
        grid=Grid((size, size, size), tuple(tuple(row) for row in spacing)),
    )


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(
    medians: dict[str, dict[str, float]], runs: dict[str, list[dict[str, float]]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """What is printed."""
    ours, peer, inside = (medians[mode] for mode in MODES)
    pairs = zip(runs["hypoxnet"], runs["monai"], strict=True)
    return {
        "settings": {key: value for key, value in vars(arguments).items() if key != "mode"},
        "medians": {mode: {key: round(v, 3) for key, v in values.items()} for mode, values in medians.items()},
        "ratio_time": round(ours["seconds"] / peer["seconds"], 3),
        "ratio_time_of_each_run": [round(a["seconds"] / b["seconds"], 3) for a, b in pairs],
        "ratio_peak": round(ours["peak_mib"] / peer["peak_mib"], 3),
        "ratio_time_inside_contour": round(inside["seconds"] / peer["seconds"], 3),
        "ratio_peak_inside_contour": round(inside["peak_mib"] / peer["peak_mib"], 3),
        "versions": {name: version(name) for name in ("torch", "monai")},
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
    }


def processor() -> str:
    """The processor's model name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 (not a file one configures)
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
