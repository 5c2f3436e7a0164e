"""A case from NIfTI files to NIfTI files: `infer.py` beside nnU-Net's predictor and MONAI's bundle runner.

    python benchmarks/inference_peers.py --nnunet-python ENV/bin/python --monai-python ENV/bin/python
    python benchmarks/inference_peers.py --kinds small --cases 30 --monai-python ENV/bin/python

Same network and weights (ours in its bundle, theirs as the TorchScript of `hypoxnet export --to monai`), same window
and spacing, windows that overlap by half, no mirroring, same cores, same files. What differs: `infer.py` also predicts
the outcome, checks and hashes its files; it and MONAI write probability and mask, nnU-Net a mask; nnU-Net normalises
and resamples by its own rules (cubic). `nnunet` is `predict_from_files` with one process that prepares and one that
writes; `nnunet_sequential` is all in one process, which tells its stages. `hypoxnet_bfloat16` is
`inference.precision=bfloat16`. These two are run once.

`whole` is a model of the whole image. `inside` is a model of inside the contour: `infer.py` and the export predict
round the tumour only; nnU-Net cannot, its `whole` stands beside it.

Programs run in turns, each in a process of its own on the first `threads` cores. `first_s` is from the start of the
process to the first case on disk, `following_s` the mean of the last two thirds, `cpu_s` the processor time of one of
these, which a busy machine changes least. Memory is watched in a run of its own: what the process and its children
hold, pages that they share counted once; `own` is without the files of libraries. Prints JSON; ratios below 1 are in
favour of HypoxNet. What is known so far is said on the way, on the standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from inference import processor
from inference_cases import KINDS, SETTINGS, make

ROOT = Path(__file__).resolve().parents[1]
OURS = ("hypoxnet", "hypoxnet_bfloat16")
# Programs that are run once for their stages, and otherwise only slow the others down.
ONCE = ("hypoxnet_bfloat16", "nnunet_sequential")
# Seconds between two looks at a process.
TICK_S = 0.05
PEAKS = ("peak_mib", "peak_own_mib")
TIMES = ("first_s", "following_s", "cpu_s", "total_s")


def main() -> None:
    """Make the cases, run everything in turns, print."""
    arguments = parse_arguments()
    report: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(arguments).items()}, "versions": {}}
    pythons = interpreters(arguments)
    report["versions"] = {name: versions(python) for name, python in pythons.items()}
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            make(folder, kind, arguments.cases, window=arguments.window)
            for threads in arguments.threads:
                report[f"{kind}, {threads} threads"] = measure(folder, threads, pythons, arguments)
    report["machine"] = {
        "processor": processor(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load": os.getloadavg(),
    }
    print(json.dumps(report, indent=2))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", type=Path, help="interpreter of an environment with nnunetv2")
    parser.add_argument("--monai-python", type=Path, help="interpreter with monai, nibabel, fire, pytorch-ignite")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1], help="threads of torch, and cores")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--folder", help="where the cases are made; a temporary folder by default")
    return parser.parse_args()


def interpreters(arguments: argparse.Namespace) -> dict[str, Path]:
    """Program to its interpreter; a program whose environment is not there is left out, which is said."""
    given = {
        "hypoxnet": Path(sys.executable),
        "hypoxnet_bfloat16": Path(sys.executable),
        "monai": arguments.monai_python,
        "nnunet": arguments.nnunet_python,
        "nnunet_sequential": arguments.nnunet_python,
    }
    for name, python in given.items():
        if python is None or not python.exists():
            print(f"{name} is left out: its interpreter is {python}", file=sys.stderr)
    return {name: python for name, python in given.items() if python is not None and python.exists()}


def versions(python: Path) -> dict[str, str]:
    """What an interpreter has of the packages that matter."""
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({d.name: d.version for d in distributions() if d.name in {'torch','monai','nnunetv2'}}))"
    )
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)
    return found


def measure(folder: Path, threads: int, pythons: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Every program in both settings, in turns, and what follows."""
    both = [(program, setting) for setting in SETTINGS for program in pythons]
    turns = [(program, setting) for program, setting in both if not (setting == "inside" and "nnunet" in program)]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
    load = []
    for number in range(arguments.runs + 1):
        for program, setting in turns:
            if program in ONCE and number > 1:
                continue
            load.append(os.getloadavg()[0])
            watch = Memory() if number == 0 else Processor()
            done = run(program, setting, folder, threads=threads, python=pythons[program], watch=watch)
            print(f"{threads} threads, load {load[-1]:.1f}: {program}, {setting}: {json.dumps(done)}", file=sys.stderr)
            runs[program, setting].append(done)
    found = {f"{program}, {setting}": summary(measured) for (program, setting), measured in runs.items()}
    return {
        "load": [round(min(load), 1), round(statistics.median(load), 1), round(max(load), 1)],
        "programs": found,
        "ratios": {
            f"{ours} over {program}, {setting}": ratios(found, runs, ours, (program, setting))
            for program, setting in both
            if program not in OURS
            for ours in OURS
        },
        "largest_difference_to_monai": differences(folder) if "monai" in pythons else None,
    }


def summary(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the timed runs, and the memory of the first."""
    memory, *timed = measured
    last = timed[-1]
    return {
        **{key: round(statistics.median(run[key] for run in timed), 3) for key in TIMES},
        **{key: memory[key] for key in PEAKS},
        "stages_s": {
            stage: round(statistics.median(run["stages_s"].get(stage, 0.0) for run in timed), 3)
            for stage in last["stages_s"]
        },
        **({"windows_per_case": last["windows_per_case"]} if "windows_per_case" in last else {}),
    }


def ratios(
    found: dict[str, Any], runs: dict[tuple[str, str], list[dict[str, Any]]], our: str, their: tuple[str, str]
) -> dict[str, Any]:
    """Ours over theirs."""
    program, setting = their
    their_setting = "whole" if "nnunet" in program else setting
    ours, theirs = found[f"{our}, {setting}"], found[f"{program}, {their_setting}"]
    pairs = zip(runs[our, setting][1:], runs[program, their_setting][1:], strict=False)
    return {
        **{key: round(ours[key] / theirs[key], 3) for key in (*TIMES, *PEAKS)},
        "following_s_of_each_run": [round(a["following_s"] / b["following_s"], 3) for a, b in pairs],
    }


def run(
    program: str, setting: str, folder: Path, *, threads: int, python: Path, watch: Memory | Processor
) -> dict[str, Any]:
    """One program over all cases in a new process."""
    output = folder / f"out_{program}_{setting}"
    shutil.rmtree(output, ignore_errors=True)
    if program in OURS:
        options = {
            "bundle": folder / setting,
            "manifest": folder / "cohort.csv",
            "output": output,
            "inference.device": "cpu",
            "inference.precision": "bfloat16" if "bfloat16" in program else "float32",
        }
        command = [python, ROOT / "infer.py", *(f"{k}={v}" for k, v in options.items())]
    else:
        command = [python, Path(__file__).with_name("inference_programs.py"), program, folder, setting, output]
    cores = sorted(os.sched_getaffinity(0))[:threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.time()
    with tempfile.TemporaryFile() as words:
        process = psutil.Popen(
            [str(part) for part in command],
            stdout=words,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        while process.poll() is None:
            watch.look(process)
            time.sleep(TICK_S)
        total_s = time.time() - begin
        words.seek(0)
        if process.returncode:
            raise SystemExit(f"{program}, {setting}: {words.read().decode(errors='replace')[-4000:]}")
    return {"total_s": total_s, **timeline(program, folder, output, begin, watch)}


def timeline(program: str, folder: Path, output: Path, begin: float, watch: Memory | Processor) -> dict[str, Any]:
    """When cases were on disk, by the times of their last files, and what the later ones took."""
    if isinstance(watch, Memory):
        return {"peak_mib": watch.peak_mib, "peak_own_mib": watch.peak_own_mib}
    ending = {"monai": "{0}/{0}_mask.nii.gz", **dict.fromkeys(OURS, "{0}/{0}.json")}.get(program, "{0}.nii.gz")
    names = [case["case"] for case in json.loads((folder / "cases.json").read_text(encoding="utf-8"))]
    times = sorted((output / ending.format(name)).stat().st_mtime for name in names)
    warm = len(times) // 3
    since, later = times[warm], len(times) - 1 - warm
    return {
        "first_s": times[0] - begin,
        "following_s": (times[-1] - since) / later,
        "cpu_s": (watch.at(times[-1]) - watch.at(since)) / later,
        **(our_stages(output, later) if program in OURS else their_stages(output, since, later)),
    }


def our_stages(output: Path, later: int) -> dict[str, Any]:
    """Seconds of each stage of the later cases, as `run.jsonl` has them."""
    lines = [json.loads(line) for line in (output / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if line["event"] == "case"][-later:]
    return {"stages_s": {stage: statistics.mean(case[stage] for case in seconds) for stage in seconds[0]}}


def their_stages(output: Path, since: float, later: int) -> dict[str, Any]:
    """The same by the clocks of `inference_programs.py`."""
    found = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    seconds: dict[str, float] = {}
    for stage, spent, ended in found["passed"]:
        if ended > since + spent / 2:
            seconds[stage] = seconds.get(stage, 0.0) + spent / later
    windows = {key: found[key] for key in ("windows_per_case",) if key in found}
    return {"stages_s": seconds, **windows}


class Processor:
    """Processor time of a process and its children, as it goes on."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def look(self, process: psutil.Process) -> None:
        """Once."""
        spent = [sum(times[:4]) for times in each(process, lambda one: one.cpu_times())]
        self.seen.append((time.time(), sum(spent)))

    def at(self, moment: float) -> float:
        """Seconds spent until a moment."""
        return max((spent for when, spent in self.seen if when <= moment), default=0.0)


class Memory:
    """The largest memory of a process and its children.

    Args:
        peak_own_mib: What no file backs: of a process that waits, little; of a case, everything.
        peak_mib: With the files (libraries) that one of them maps most of.
    """

    def __init__(self) -> None:
        self.peak_own_mib = self.peak_mib = 0.0

    def look(self, process: psutil.Process) -> None:
        """Once."""
        rollups = [fields(text) for text in each(process, read_rollup)]
        own = sum(found["Pss_Anon"] + found["Pss_Shmem"] for found in rollups) / 1024
        # Not their share: programs of others on this machine map the same libraries.
        files = max((found["Rss"] - found["Anonymous"] for found in rollups), default=0) / 1024
        self.peak_own_mib = max(self.peak_own_mib, round(own))
        self.peak_mib = max(self.peak_mib, round(own + files))


def each(process: psutil.Process, ask: Callable[[psutil.Process], Any]) -> Iterator[Any]:
    """What a process and its children answer, as long as they live."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for one in family:
        try:
            yield ask(one)
        except (psutil.Error, OSError):
            continue


def read_rollup(process: psutil.Process) -> str:
    """The kernel's sums over the memory of a process."""
    return Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")


def fields(rollup: str) -> dict[str, int]:
    """Name to KiB."""
    lines = [line.split() for line in rollup.splitlines()[1:]]
    return {words[0].removesuffix(":"): int(words[1]) for words in lines}


def differences(folder: Path) -> dict[str, dict[str, float]]:
    """How far our probabilities are from those of the export, and the share of voxels whose mask differs."""
    import nibabel as nib
    import numpy as np

    found = {}
    for setting in SETTINGS:
        ours, theirs = (folder / f"out_{program}_{setting}" for program in ("hypoxnet", "monai"))
        apart = {"probability": 0.0, "mask": 0.0}
        for path in ours.glob("*/*_hsv_probseg.nii.gz"):
            name = path.parent.name
            for what, kind in (("probability", "probseg"), ("mask", "mask")):
                mine = nib.load(path.with_name(f"{name}_hsv_{kind}.nii.gz")).get_fdata()
                other = nib.load(theirs / name / f"{name}_{kind}.nii.gz").get_fdata()
                difference = np.abs(mine - other)
                worst = float(difference.max() if kind == "probseg" else difference.mean())
                apart[what] = max(apart[what], worst)
        found[setting] = apart
    return found


if __name__ == "__main__":
    main()
