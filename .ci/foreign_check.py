"""Exports read by the programs they are for, where HypoxNet is not installed; prints how far they are from it.

    foreign_check.py graphs EXPORTS EXPECTED     torch, ONNX and AOTInductor programs on the trials of EXPECTED
    foreign_check.py masks THEIRS OURS           masks and probabilities of THEIRS (MONAI) beside those of infer.py
    foreign_check.py cases EXPORT CASES OURS     an ONNX export on whole cases, by `onnx_case.py`, beside infer.py
    foreign_check.py rounded EXPORT CASES OURS   the same of one with rounded weights: no further than it says itself

Exit status 1 when something differs by more than rounding, or more than was said, or when nothing was compared.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-4
PROBABILITY = 1e-3
# Below the Dice that an export says it has: a voxel may cross the threshold where sums are rounded in another order.
DICE = 0.005
# At half the highest probability, where a network that hardly learnt marks a few dozen voxels: two or three of them.
LOW_DICE = 0.95


def main() -> int:
    """Run one of the checks."""
    if importlib.util.find_spec("hypoxnet") is not None:
        print("hypoxnet is installed here: this check says nothing")
        return 1
    what, *paths = sys.argv[1:]
    if what == "graphs":
        return check_graphs(Path(paths[0]), Path(paths[1]))
    if what == "cases":
        return check_cases(Path(paths[0]), Path(paths[1]), Path(paths[2]))
    if what == "rounded":
        return check_rounded(Path(paths[0]), Path(paths[1]), Path(paths[2]))
    return check_masks(Path(paths[0]), Path(paths[1]))


def check_graphs(exports: Path, expected: Path) -> int:
    """Every program below a folder of exports against the same trials."""
    trials = dict(read_trials(expected))
    compared, worst, missing = 0, 0.0, {name for name, _ in trials}
    for path in sorted(p for p in exports.rglob("*") if p.suffix in {".onnx", ".pt2", ".ts"}):
        graph = path.stem
        run = runner(path)
        for name, place in trials:
            if name != graph:
                continue
            inputs, outputs = trials[name, place]
            found = run(inputs)
            apart = largest(difference(key, outputs[key], found[key]) for key in outputs)
            shape = " x ".join(map(str, inputs["image"].shape)) if "image" in inputs else "no image"
            print(f"{path.relative_to(exports)}: {shape}: largest difference {apart:.1e}")
            compared, worst = compared + 1, largest([worst, apart])
            missing.discard(graph)
    print(f"{compared} comparisons, largest difference {worst:.1e}, allowed {TOLERANCE:g}")
    if missing:
        print(f"no program of {', '.join(sorted(missing))} was found below {exports}")
    return 0 if not missing and worst <= TOLERANCE else 1


def read_trials(path: Path) -> Iterator[tuple[tuple[str, str], tuple[Arrays, Arrays]]]:
    """(graph, trial) to its inputs and outputs."""
    with np.load(path) as stored:
        keys = [key.split("/") for key in stored.files]
        for graph, place in dict.fromkeys((key[0], key[1]) for key in keys):
            sides = [
                {key[3]: stored["/".join(key)] for key in keys if key[:3] == [graph, place, side]}
                for side in ("in", "out")
            ]
            yield (graph, place), (sides[0], sides[1])


def runner(path: Path) -> Callable[[Arrays], Arrays]:
    """A program on disk as a function of arrays."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))
    import torch

    if path.suffix == ".ts":
        module = torch.jit.load(path)
    elif "aotinductor" in path.parts:
        module = torch._inductor.aoti_load_package(str(path))
    else:
        module = torch.export.load(path).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def difference(name: str, here: np.ndarray, there: np.ndarray) -> float:
    """Absolute for probabilities and incidences, else relative to the largest."""
    if here.shape != there.shape:
        return float("inf")
    scale = 1.0 if name in {"pred", "incidence"} else max(1.0, float(np.abs(here).max(initial=0.0)))
    return float(np.abs(here - there).max(initial=0.0)) / scale


def largest(differences: Iterable[float]) -> float:
    """The largest; nan where one is, which max() may pass over."""
    return float(np.max(list(differences)))


def check_masks(theirs: Path, ours: Path) -> int:
    """Cases of another program beside those of infer.py."""
    compared, dice, apart = 0, 1.0, 0.0
    for folder in sorted(path for path in theirs.iterdir() if path.is_dir()):
        key = folder.name
        pairs = []
        for what in ("mask", "probseg"):
            own = sorted((ours / key).glob(f"{key}_*_{what}.nii.gz"))
            other = nib.load(folder / f"{key}_{what}.nii.gz").get_fdata()
            other = other[..., None] if other.ndim == 3 else other
            stacked = np.stack([nib.load(path).get_fdata() for path in own], axis=-1)
            pairs.append((stacked, other))
        (mask, mask_there), (probability, probability_there) = pairs
        # A network that hardly learnt marks nothing at its threshold: half of its highest probability marks something.
        half = probability.max() / 2
        dice = min(dice, dice_of(mask > 0, mask_there > 0), dice_of(probability >= half, probability_there >= half))
        apart = largest([apart, float(np.abs(probability - probability_there).max())])
        low = int((probability >= half).sum())
        voxels = f"{int(mask.sum())} voxels here, {int(mask_there.sum())} there"
        print(f"{key}: {voxels}; {low} at half the highest probability")
        compared += 1
    print(f"{compared} cases, smallest Dice {dice:.6f}, largest difference of a probability {apart:.1e}")
    return 0 if compared and dice == 1.0 and apart <= PROBABILITY else 1


def check_cases(export: Path, cases: Path, ours: Path) -> int:
    """An export by the script of the page about ONNX, beside infer.py."""
    dice, apart = [], []
    for case in json.loads(cases.read_text()):
        for (mask, probability), (mask_there, there) in by_script(export, case, ours):
            half = probability.max() / 2
            dice += [dice_of(mask > 0, mask_there > 0), dice_of(probability >= half, there >= half)]
            apart.append(float(np.abs(probability - there).max()))
            print(f"{case['case']}: {int(mask.sum())} voxels, {int((probability >= half).sum())} at half the highest")
    smallest, most = min(dice, default=0.0), largest(apart or [np.inf])
    print(f"{len(apart)} masks, smallest Dice {smallest:.6f}, largest difference of a probability {most:.1e}")
    return 0 if smallest == 1.0 and most <= TOLERANCE else 1


def check_rounded(export: Path, cases: Path, ours: Path) -> int:
    """An export of rounded weights by the script of the page about ONNX, beside infer.py with all bits."""
    weights = json.loads((export / "export.json").read_text())["weights"]
    loss, dice, low, apart = weights["loss"], [], [], []
    for case in json.loads(cases.read_text()):
        for (mask, probability), (mask_there, there) in by_script(export, case, ours):
            half = probability.max() / 2
            dice.append(dice_of(mask > 0, mask_there > 0))
            low.append(dice_of(probability >= half, there >= half))
            apart.append(float(np.abs(probability - there).max()))
            voxels = f"{int((mask > 0).sum())} voxels with all bits, {int((mask_there > 0).sum())} with rounded weights"
            print(f"{case['case']}: {voxels}; Dice {dice[-1]:.4f}, and {low[-1]:.4f} at half the highest probability")
    said, most = loss["dice"], loss["probability"]["largest"]
    print(
        f"{weights['precision']}: {len(dice)} masks of {loss['cases']} cases: Dice {said['mean']:.4f} said and "
        f"{np.mean(dice):.4f} found, lowest {said['lowest']:.4f} and {min(dice):.4f}, at half the highest probability "
        f"{min(low):.4f}; probabilities differ by {most:.2e} said and {largest(apart):.2e} found, at most"
    )
    kept = np.mean(dice) >= said["mean"] - DICE and min(dice) >= said["lowest"] - DICE and min(low) >= LOW_DICE
    return 0 if kept and largest(apart) <= most + TOLERANCE else 1


Pair = tuple[np.ndarray, np.ndarray]


def by_script(export: Path, case: dict[str, str], ours: Path) -> Iterator[tuple[Pair, Pair]]:
    """Mask and probability of each region, of infer.py and of the script."""
    key, output = case["case"], Path("by_script") / export.name / case["case"]
    files = json.loads((export / "export.json").read_text())["files"]
    given = [f"{name}={case[name]}" for name in files if name in case]
    subprocess.run([sys.executable, "onnx_case.py", str(export), str(output), *given], check=True)  # noqa: S603
    for path in sorted(output.glob("*_mask.nii.gz")):
        region = path.name.removesuffix("_mask.nii.gz")
        here = (ours / key / f"{key}_{region}_{what}.nii.gz" for what in ("mask", "probseg"))
        there = (output / f"{region}_{what}.nii.gz" for what in ("mask", "probability"))
        mask, probability, mask_there, probability_there = (nib.load(one).get_fdata() for one in (*here, *there))
        yield (mask, probability), (mask_there, probability_there)


def dice_of(one: np.ndarray, two: np.ndarray) -> float:
    """Dice of two masks; 1 where both are empty."""
    sizes = int(one.sum() + two.sum())
    return 2 * int((one & two).sum()) / sizes if sizes else 1.0


if __name__ == "__main__":
    sys.exit(main())
