"""Exports read by the programs they are for, where HypoxNet is not installed; prints how far they are from it.

    foreign_check.py graphs EXPORTS EXPECTED     torch, ONNX and AOTInductor programs on the trials of EXPECTED
    foreign_check.py masks THEIRS OURS TRUTH     masks and probabilities of THEIRS (MONAI) beside those of infer.py

Exit status 1 when something differs by more than rounding, or when nothing was compared.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-4
PROBABILITY = 1e-3


def main() -> int:
    """Run one of the two checks."""
    if importlib.util.find_spec("hypoxnet") is not None:
        print("hypoxnet is installed here: this check says nothing")
        return 1
    what, *paths = sys.argv[1:]
    if what == "graphs":
        return check_graphs(Path(paths[0]), Path(paths[1]))
    return check_masks(Path(paths[0]), Path(paths[1]))


def check_graphs(exports: Path, expected: Path) -> int:
    """Every program below a folder of exports against the same trials."""
    trials = dict(read_trials(expected))
    compared, worst = 0, 0.0
    for path in sorted(p for p in exports.rglob("*") if p.suffix in {".onnx", ".pt2", ".ts"}):
        graph = path.stem
        run = runner(path)
        for name, place in trials:
            if name != graph:
                continue
            inputs, outputs = trials[name, place]
            found = run(inputs)
            apart = max(difference(key, outputs[key], found[key]) for key in outputs)
            shape = " x ".join(map(str, inputs["image"].shape)) if "image" in inputs else "no image"
            print(f"{path.relative_to(exports)}: {shape}: largest difference {apart:.1e}")
            compared, worst = compared + 1, max(worst, apart)
    print(f"{compared} comparisons, largest difference {worst:.1e}, allowed {TOLERANCE:g}")
    return 0 if compared and worst <= TOLERANCE else 1


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


def check_masks(theirs: Path, ours: Path) -> int:
    """Cases of another program beside those of infer.py."""
    import nibabel as nib

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
        apart = max(apart, float(np.abs(probability - probability_there).max()))
        low = int((probability >= half).sum())
        voxels = f"{int(mask.sum())} voxels here, {int(mask_there.sum())} there"
        print(f"{key}: {voxels}; {low} at half the highest probability")
        compared += 1
    print(f"{compared} cases, smallest Dice {dice:.6f}, largest difference of a probability {apart:.1e}")
    return 0 if compared and dice == 1.0 and apart <= PROBABILITY else 1


def dice_of(one: np.ndarray, two: np.ndarray) -> float:
    """Dice of two masks; 1 where both are empty."""
    sizes = int(one.sum() + two.sum())
    return 2 * int((one & two).sum()) / sizes if sizes else 1.0


if __name__ == "__main__":
    sys.exit(main())
