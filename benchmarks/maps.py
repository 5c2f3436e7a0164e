"""Quantitative maps: speed beside named peers, share of the memory bandwidth, peak memory, and growth with size.

    python benchmarks/maps.py --quick                  a minute, small sizes, to see that it works
    python benchmarks/maps.py                          ten minutes on two cores
    python benchmarks/maps.py --peer-python dcmri=/path/to/python --peer-python osipy=/path/to/python
    python benchmarks/maps.py --only memory

`speed`: extended Tofts at 60 times in float32, the same noisy voxels for all. Peers run in a process of their own, in
turns with HypoxNet, with as many worker processes as HypoxNet has threads; `scipy_one_process` is the plain loop.
Ratios above 1 are in favour of HypoxNet; errors are medians of the absolute difference from the truth. `scipy` is
`curve_fit` with the bounds and start of the OSIPI reference fits; `dcmri` its model function `conc_tissue` under
`curve_fit` (its `TissueArray`, `dcmri_tissue_array`, fits signals, is slower, and its option `parallel` loses what the
workers fitted); `osipy` its batched Levenberg-Marquardt fit.

`memory_bound`: bytes of the series that a closed-form map reads, by its time, as a share of the bandwidth of a copy.
The copy is `Tensor.copy_` of a large float32 array, counted as the bytes copied (each read once and written once,
counted once). Prints JSON: medians of several rounds.
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
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.jobs.run_folder import processor_name
from hypoxnet.maps.compartments import Timing
from hypoxnet.maps.dce import ExtendedTofts
from hypoxnet.maps.diffusion import adc_log_linear
from hypoxnet.maps.fitting import fit
from hypoxnet.maps.input_functions import HAEMATOCRIT, feng, from_blood, parker
from hypoxnet.maps.pet_kinetics import Frames, patlak
from hypoxnet.maps.r2star import r2star_log_linear
from hypoxnet.maps.relaxometry import t1_from_flips

# Runs in the environment of a peer, which has neither torch nor HypoxNet.
PEERS = Path(__file__).with_name("maps_peers.py")
NAMES = ("ktrans", "ve", "vp")
# Of head and neck tumours: Ktrans 1/min, ve, vp.
TRUTH_LOW, TRUTH_HIGH = (0.05, 0.1, 0.01), (0.6, 0.6, 0.15)
# mM; a signal-to-noise ratio of about 15 before contrast.
NOISE_MM = 0.02
SPAN_MIN, ARRIVAL_MIN = 5.0, 20 / 60
# Voxels that each peer fits; enough for a second or more on two cores.
PEER_VOXELS = {
    "scipy": 600,
    "scipy_one_process": 300,
    "dcmri": 600,
    "dcmri_tissue_array": 60,
    "osipy": 20000,
}
# Run by this Python; the others by their own.
SCIPY = ("scipy", "scipy_one_process")
ONE_PROCESS = ("scipy_one_process",)
VOLUME = (192, 192, 96)
MAP_VOXELS = 3_000_000
COPY_BYTES = 2**29
# A volume is made in pieces: the noise-free curves of all of it would take the memory that is measured.
PIECE = 16384
GIB = 2**30


def main() -> None:
    """Measure the parts asked for, and print."""
    arguments = parse_arguments()
    if arguments.memory_only:
        print(json.dumps(peak_of_a_volume(arguments)))
        return
    measured = {part: PARTS[part](arguments) for part in arguments.only}
    if arguments.device == "cuda":
        measured["full_volume_on_the_gpu"] = speed_of_a_volume(arguments)
    print(json.dumps({**measured, "machine": machine(arguments)}, indent=1))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--voxels", type=int, default=400_000, help="of the extended Tofts fits")
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds; figures mean little")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="PEER=PATH", help="Python that has dcmri, or osipy"
    )
    parser.add_argument("--memory-only", action="store_true", help="fit the large volume in this process and print")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.voxels = 2, min(arguments.voxels, 20_000)
    return arguments


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What it ran on."""
    return {
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scipy": version("scipy"),
    }


# Extended Tofts: voxels, and the fit of them.


def tofts(times: int = 60) -> ExtendedTofts:
    """The model at so many times of five minutes, with the population curve of Parker."""
    at = torch.arange(times, dtype=torch.float64) * SPAN_MIN / times
    return ExtendedTofts(Timing(at, at), parker(at - ARRIVAL_MIN) / (1 - HAEMATOCRIT))


def draw_truth(voxels: int, seed: int = 0) -> Tensor:
    """Parameters 3 x voxels."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(TRUTH_LOW)[:, None], torch.tensor(TRUTH_HIGH)[:, None]
    return low + (high - low) * torch.rand(3, voxels, generator=generator)


def noisy_pieces(model: ExtendedTofts, truth: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The series in pieces, each with its place."""
    generator = torch.Generator().manual_seed(1)
    for begin in range(0, truth.shape[1], PIECE):
        part = slice(begin, min(begin + PIECE, truth.shape[1]))
        clean = model.evaluate(truth[:, part], torch.empty(0, 1))[0]
        yield part, clean + NOISE_MM * torch.randn(clean.shape, generator=generator)


def noisy_series(model: ExtendedTofts, truth: Tensor, device: str = "cpu") -> Tensor:
    """The series T x voxels."""
    series = torch.empty(model.samples, truth.shape[1], device=device)
    for part, piece in noisy_pieces(model, truth):
        series[:, part] = piece.to(device)
    return series


def seconds(work: Callable[[], Any], device: str = "cpu") -> float:
    """How long it takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def median_errors(found: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Median absolute error of each parameter; voxels without an answer count as off by the whole."""
    difference = np.where(np.isfinite(found), np.abs(found - truth), truth)
    return {name: round(float(np.median(row)), 6) for name, row in zip(NAMES, difference, strict=True)}


# Speed beside peers.


def measure_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Voxels per second of HypoxNet and of each peer, in turns, and the errors on the voxels that both fitted."""
    model, truth = tofts(), draw_truth(arguments.voxels)
    series = noisy_series(model, truth)
    there = series.to(arguments.device)
    found = fit(model, there).values
    values = torch.stack([found[name] for name in NAMES]).cpu().numpy()
    own: list[float] = []
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in peer_pythons(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            own.append(arguments.voxels / seconds(lambda: fit(model, there), arguments.device))
            for name, python in peer_pythons(arguments).items():
                size = min(arguments.voxels, PEER_VOXELS[name] // (4 if arguments.quick else 1))
                answers[name].append(ask_peer(name, python, model, series[:, :size], Path(folder)))
    rows = {name: beside(own, values, answer, truth.numpy()) for name, answer in answers.items()}
    return {
        "voxels": arguments.voxels,
        "times": model.samples,
        "noise_mm": NOISE_MM,
        "voxels_per_s": round(statistics.median(own)),
        "rounds": [round(speed) for speed in own],
        "errors": median_errors(values, truth.numpy()),
        "peers": rows,
    }


def beside(
    own: list[float], values: NDArray[Any], answers: list[dict[str, Any]], truth: NDArray[Any]
) -> dict[str, Any]:
    """A peer's speed and errors, and those of HypoxNet on the same voxels."""
    size = answers[0]["values"].shape[1]
    speeds = [size / answer["seconds"] for answer in answers]
    theirs = median_errors(answers[0]["values"], truth[:, :size])
    ours = median_errors(values[:, :size], truth[:, :size])
    return {
        "versions": answers[0]["versions"],
        "processes": answers[0]["processes"],
        "voxels": size,
        "voxels_per_s": round(statistics.median(speeds), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(own, speeds, strict=True)), 1),
        "errors": theirs,
        "errors_of_hypoxnet": ours,
        "error_ratio": {name: round(ours[name] / theirs[name], 3) for name in NAMES},
    }


def peer_pythons(arguments: argparse.Namespace) -> dict[str, str]:
    """The peers that can be run here, each with its Python."""
    given = dict(item.split("=", 1) for item in arguments.peer_python)
    pythons = {name: given.get(name.split("_")[0], "") for name in PEER_VOXELS}
    return {name: path for name, path in {**pythons, **dict.fromkeys(SCIPY, sys.executable)}.items() if path}


def ask_peer(name: str, python: str, model: ExtendedTofts, series: Tensor, folder: Path) -> dict[str, Any]:
    """One pass of a peer in a process of its own."""
    given, answer = folder / "given.npz", folder / "answer.npz"
    processes = 1 if name in ONE_PROCESS else torch.get_num_threads()
    curves = np.ascontiguousarray(series.numpy().T)
    times, plasma = model.timing.grid.numpy(), model.plasma.numpy()
    np.savez(given, times=times, plasma=plasma, haematocrit=HAEMATOCRIT, curves=curves, processes=processes)
    command = [python, str(PEERS), name, str(given), str(answer)]
    # One thread in each worker: they are as many as there are cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    with np.load(answer) as stored:
        return {
            "seconds": stored["seconds"].item(),
            "values": stored["values"],
            "versions": stored["versions"].item(),
            "processes": processes,
        }


# Maps that are bound by memory.


def measure_memory_bound(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes per second of the closed-form maps, as a share of a copy in the same round."""
    voxels = MAP_VOXELS // (10 if arguments.quick else 1)
    source = torch.rand(COPY_BYTES // 4, device=arguments.device)
    copy = torch.empty_like(source)
    copies: list[float] = []
    speeds: dict[str, list[float]] = {}
    works = closed_forms(voxels, arguments.device)
    for number in range(arguments.rounds + 1):
        copied = source.nbytes / seconds(lambda: copy.copy_(source), arguments.device)
        copies += [copied] if number else []  # the first round warms up
        for name, (read, work) in works.items():
            speed = read / seconds(work, arguments.device)
            speeds.setdefault(name, []).extend([speed] if number else [])
    rows = {
        name: {
            "gb_per_s": round(statistics.median(row) / 1e9, 3),
            "share_of_copy": round(statistics.median(a / b for a, b in zip(row, copies, strict=True)), 3),
            "voxels_per_s": round(statistics.median(row) / works[name][0] * voxels),
        }
        for name, row in speeds.items()
    }
    return {"voxels": voxels, "copy_gb_per_s": round(statistics.median(copies) / 1e9, 3), **rows}


def closed_forms(voxels: int, device: str) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Each map with the bytes of the series that it reads; Patlak reads the frames from its begin on."""
    generator = torch.Generator().manual_seed(0)
    rate = 0.5 + torch.rand(voxels, generator=generator)
    echoes, b_values = torch.arange(1, 13) * 0.0046, torch.tensor([0.0, 200.0, 400.0, 800.0])
    flips = torch.tensor([2.0, 5.0, 12.0])
    lost = -torch.expm1(-0.005 / rate)
    starts = torch.arange(60, dtype=torch.float64)
    frames = Frames(starts, starts + 1)
    times = torch.arange(0, 60.25, 0.25, dtype=torch.float64)
    given = from_blood(times, feng(times), haematocrit=0.0)

    def noisy(rows: Iterable[Tensor]) -> Tensor:
        # Without noise the scatter about the line would be 0, and its square root would take another path.
        return torch.stack([row * (1 + 0.01 * torch.randn(voxels, generator=generator)) for row in rows]).to(device)

    decay = noisy(1000 * torch.exp(-40 * te * rate) for te in echoes)
    diffusion = noisy(1000 * torch.exp(-1e-3 * b * rate) for b in b_values)
    spoiled = noisy(1e4 * torch.sin(a) * lost / (1 - torch.cos(a) * (1 - lost)) for a in torch.deg2rad(flips))
    uptake = noisy(rate * (3 + 0.1 * minute) for minute in range(60))
    return {
        "patlak_last_15_of_60": (uptake.nbytes // 4, lambda: patlak(uptake, frames, given, from_min=45)),
        "patlak_all_60": (uptake.nbytes, lambda: patlak(uptake, frames, given, from_min=0)),
        "adc_4_b_values": (diffusion.nbytes, lambda: adc_log_linear(diffusion, b_values)),
        "r2star_log_linear_12_echoes": (decay.nbytes, lambda: r2star_log_linear(decay, echoes)),
        "t1_linear_3_flips": (spoiled.nbytes, lambda: t1_from_flips(spoiled, flips, tr_s=0.005)),
    }


# Memory, and a whole volume.


def measure_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a process that fits a large volume, its series mapped from a file."""
    command = [sys.executable, __file__, "--memory-only", "--device", arguments.device]
    done = subprocess.run(
        command + ["--quick"] * arguments.quick, capture_output=True, text=True, check=True, env={**os.environ}
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def peak_of_a_volume(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the series, map it, fit it; the peak counts the mapped pages too."""
    model = tofts()
    shape = tuple(side // 4 for side in VOLUME) if arguments.quick else VOLUME
    voxels = int(np.prod(shape))
    with tempfile.TemporaryDirectory() as folder:
        mapped = np.lib.format.open_memmap(
            Path(folder) / "series.npy", mode="w+", dtype=np.float32, shape=(model.samples, voxels)
        )
        for part, piece in noisy_pieces(model, draw_truth(voxels)):
            mapped[:, part] = piece.numpy()
        before = peak_gib()
        series = torch.from_numpy(mapped).reshape(model.samples, *shape)
        passed = seconds(lambda: fit(model, series.to(arguments.device)), arguments.device)
    return {
        "shape": [*shape, model.samples],
        "series_gib": round(mapped.nbytes / GIB, 3),
        "peak_gib": round(peak_gib(), 3),
        "peak_before_the_fit_gib": round(before, 3),
        "fit_s": round(passed, 2),
        "voxels_per_s": round(voxels / passed),
    }


def peak_gib() -> float:
    """Peak resident memory of this process; what the system counts since the start of this program, if it tells."""
    status = Path("/proc/self/status")
    if status.exists():
        for row in status.read_text(encoding="utf-8").splitlines():
            if row.startswith("VmHWM"):
                return int(row.split()[1]) * 1024 / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB


def speed_of_a_volume(arguments: argparse.Namespace) -> dict[str, Any]:
    """Voxels per second of the full volume, the series on the device."""
    model = tofts()
    voxels = int(np.prod(VOLUME)) // (64 if arguments.quick else 1)
    series = noisy_series(model, draw_truth(voxels), arguments.device)
    speeds = [voxels / seconds(lambda: fit(model, series), arguments.device) for _ in range(arguments.rounds + 1)][1:]
    peak = torch.cuda.max_memory_allocated() / GIB
    return {"voxels": voxels, "voxels_per_s": round(statistics.median(speeds)), "gpu_peak_gib": round(peak, 3)}


# Growth with size.


def measure_linearity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds against voxels and against times, with the exponents of a fit of a power law; 1 is linear."""
    base = arguments.voxels // 4
    by_voxels = [(base * factor, 60) for factor in (1, 2, 4)]
    by_times = [(2 * base, times) for times in (30, 60, 120)]
    passed: dict[tuple[int, int], list[float]] = {}
    cases = {case: tofts(case[1]) for case in {*by_voxels, *by_times}}
    series = {case: noisy_series(model, draw_truth(case[0])).to(arguments.device) for case, model in cases.items()}
    for number in range(arguments.rounds + 1):
        for case, model in cases.items():
            took = seconds(partial(fit, model, series[case]), arguments.device)
            passed.setdefault(case, []).extend([took] if number else [])  # the first round warms up
    return {
        "voxels": growth([n for n, _ in by_voxels], [statistics.median(passed[case]) for case in by_voxels]),
        "times": growth([t for _, t in by_times], [statistics.median(passed[case]) for case in by_times]),
    }


def growth(sizes: list[int], took: list[float]) -> dict[str, Any]:
    """Sizes, seconds and the slope of one logarithm against the other."""
    slope = np.polyfit(np.log(sizes), np.log(took), 1)[0]
    return {"sizes": sizes, "seconds": [round(t, 3) for t in took], "exponent": round(float(slope), 3)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "speed": measure_speed,
    "memory_bound": measure_memory_bound,
    "memory": measure_memory,
    "linearity": measure_linearity,
}


if __name__ == "__main__":
    main()
