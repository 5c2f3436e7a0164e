"""The programs that `inference_peers.py` runs, each in a process of its own, with a clock for each stage.

    python benchmarks/inference_programs.py nnunet FOLDER SETTING OUTPUT

is for `inference_peers.py` alone, which writes FOLDER. `monai` is `python -m monai.bundle run`, called in this process
so that a clock can be set round its transforms. `nnunet` is `nnUNetPredictor.predict_from_files` with one process that
prepares and one that writes; `nnunet_sequential` is `predict_from_files_sequential`, which is one process. This file
imports nothing of HypoxNet: it runs in the environments of the others.
"""

# nnU-Net's environment variables are in mixed case.
# ruff: noqa: SIM112

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Clock:
    """Stages as they go by; what a stage calls that is a stage of its own is counted there alone.

    Args:
        passed: Stage, its seconds, and when they ended.
    """

    def __init__(self) -> None:
        self.passed: list[tuple[str, float, float]] = []
        self._open: list[str] = []
        self._since = time.time()

    def _tick(self) -> None:
        now = time.time()
        if self._open:
            self.passed.append((self._open[-1], now - self._since, now))
        self._since = now

    def around(self, owner: Any, name: str, stage: str | Callable[..., str]) -> None:
        """Count every call of a function or method as a stage, which may depend on its arguments."""
        inner = getattr(owner, name)

        def outer(*arguments: Any, **named: Any) -> Any:
            self._tick()
            self._open.append(stage if isinstance(stage, str) else stage(*arguments, **named))
            try:
                return inner(*arguments, **named)
            finally:
                self._tick()
                self._open.pop()

        setattr(owner, name, outer)


def run_monai(folder: Path, setting: str, output: Path) -> dict[str, Any]:
    """The bundle runner over the export of a setting."""
    import monai.transforms
    from monai.inferers.inferer import SlidingWindowInferer

    clock = Clock()

    def side(_: Any, case: Any, *others: Any, **named: Any) -> str:
        return "predict" if isinstance(case, dict) and "pred" in case else "prepare"

    clock.around(monai.transforms.Compose, "__call__", side)
    clock.around(monai.transforms.LoadImage, "__call__", "read")
    clock.around(monai.transforms.SaveImage, "__call__", "write")
    clock.around(SlidingWindowInferer, "__call__", "predict")
    bundle = folder / f"{setting}_monai"
    options = {
        "config_file": bundle / "configs" / "inference.json",
        "bundle_root": bundle,
        "datalist": folder / "cases.json",
        "output_dir": output,
    }
    sys.argv = ["monai.bundle", "run", *(str(part) for key, value in options.items() for part in (f"--{key}", value))]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    return {"passed": clock.passed}


def run_nnunet(folder: Path, setting: str, output: Path, *, sequential: bool) -> dict[str, Any]:
    """nnU-Net's predictor with the network of a setting."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(folder)  # nnU-Net warns without them, and uses none of them here
    os.environ["nnUNet_compile"] = "f"
    os.environ["nnUNet_def_n_proc"] = os.environ["OMP_NUM_THREADS"]
    import torch
    from nnunetv2.inference import predict_from_raw_data
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    predictor, network = make_predictor(folder, setting, plans)
    clock = Clock()
    clock.around(predictor, "predict_logits_from_preprocessed_data", "predict")
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    channels = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["channel_names"].values()
    images = [[case[channel] for channel in channels] for case in cases]
    outputs = [str(output / case["case"]) for case in cases]
    output.mkdir()
    if sequential:
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        clock.around(SimpleITKIO, "read_images", "read")
        clock.around(SimpleITKIO, "write_seg", "write")
        clock.around(DefaultPreprocessor, "run_case", "prepare")
        # As ours: prediction ends when the mask lies on the grid of the files.
        clock.around(predict_from_raw_data, "export_prediction_from_logits", "predict")
        predictor.predict_from_files_sequential(images, outputs, save_probabilities=False, overwrite=True)
    else:
        predictor.predict_from_files(
            images,
            outputs,
            save_probabilities=False,
            overwrite=True,
            num_processes_preprocessing=1,
            num_processes_segmentation_export=1,
        )
    return {"passed": clock.passed, "windows_per_case": network.windows / len(cases)}


def make_predictor(folder: Path, setting: str, plans: dict[str, Any]) -> tuple[Any, Any]:
    """nnU-Net's predictor on the CPU round the network that MONAI runs too, mirroring off."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    class Network(torch.nn.Module):
        """Every channel was measured."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.jit.load(folder / f"{setting}_monai" / "models" / "model.ts")
            self.windows = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.windows += len(images)
            logits: torch.Tensor = self.inner(torch.cat([images, torch.ones_like(images)], dim=1))
            return logits

    network = Network().eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    manager = PlansManager(plans)
    predictor.manual_initialization(
        network,
        manager,
        manager.get_configuration("3d_fullres"),
        [network.state_dict()],
        json.loads((folder / "dataset.json").read_text(encoding="utf-8")),
        "nnUNetTrainer",
        None,
    )
    return predictor, network


def main() -> None:
    """Run one program and leave its seconds beside its output."""
    program, folder, setting, output = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    if program == "monai":
        found = run_monai(folder, setting, output)
    else:
        found = run_nnunet(folder, setting, output, sequential=program == "nnunet_sequential")
    output.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
