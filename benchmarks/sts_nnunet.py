"""Peer measurement: what nnU-Net v2 reaches on the soft-tissue sarcoma PET/MR cohort on a small, fixed budget of time.

Measures the Dice coefficient of the tumour mask in five-fold cross-validation on the 41 patients of `sts_petmr`
(FDG PET in SUV and T1-weighted MR), with nnU-Net's default planner, `3d_fullres` plan, augmentation, loss, optimiser
and mirrored sliding-window prediction. Everything is brought onto one grid of 4 mm per patient that covers the PET; the
probability is carried back linearly and scored at 0.5 against the original mask on the original PET grid.

Only the length of training differs from nnU-Net: each fold trains for a given wall-clock time, and the polynomial
learning rate falls to zero over that time instead of over 1000 epochs of 250 iterations. Augmentation is part of that
time and runs in the training process. No validation takes place during training and nothing is chosen by it.

Folds: patients sorted by (lung_metastasis, patient id), fold = rank modulo 5; one fold is scored, four train.
nnU-Net has no notion of a missing channel: patients without MR get an MR volume of zeros, and the result names them.

Needs an environment of its own with `nnunetv2` (2.8) and SimpleITK. On one core, in about 80 minutes:

    taskset -c 1 python benchmarks/sts_nnunet.py --reference ../reference --work /tmp/nnunet --output nnunet.json

The result is written after each fold, so that a run that was cut off still says what it found, and printed at the end.
"""

# nnU-Net's environment variables are in mixed case, and `sitk` is how SimpleITK is imported everywhere
# ruff: noqa: N813, SIM112

import argparse
import csv
import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATASET_ID = 501
DATASET = f"Dataset{DATASET_ID:03d}_StsPetMr"
CONFIGURATION = "3d_fullres"
SPACING_MM = 4.0
FOLDS = 5


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `--reference` falls back on the environment variable HYPOXNET_REFERENCE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=os.environ.get("HYPOXNET_REFERENCE"), help="holds sts_petmr/")
    parser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's files, about 200 MB a fold")
    parser.add_argument("--minutes", type=float, default=12.0, help="training time of each fold")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, SimpleITK and the preprocessing")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the result")
    arguments = parser.parse_args()
    if arguments.reference is None or not (Path(arguments.reference) / "sts_petmr").is_dir():
        parser.error(f"no folder sts_petmr in {arguments.reference}; name its parent by --reference")
    if arguments.minutes <= 0 or arguments.threads < 1:
        parser.error(f"--minutes is {arguments.minutes}, --threads {arguments.threads}; both must be positive")
    return arguments


def configure_environment(work: Path, *, threads: int) -> None:
    """Set the variables that nnU-Net, OpenMP and torch read once, when first imported: call before any of them."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(work.resolve() / name)
        (work / name).mkdir(parents=True, exist_ok=True)
    # the planner passes this number on to torch and crashes at 0; `make_trainer` sets 0 afterwards
    os.environ["nnUNet_n_proc_DA"] = str(threads)
    os.environ["nnUNet_def_n_proc"] = str(threads)
    os.environ["nnUNet_compile"] = "f"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def assign_folds(cohort: Path) -> dict[str, int]:
    """Validation fold of each patient: rank by (lung_metastasis, patient id), modulo 5."""
    with (cohort / "lung_metastasis.csv").open(newline="", encoding="utf-8") as table:
        outcomes = sorted((int(row["lung_metastasis"]), row["patient_id"]) for row in csv.DictReader(table))
    return {patient: rank % FOLDS for rank, (_, patient) in enumerate(outcomes)}


def working_grid(pet: Any) -> Any:
    """Empty image of 4 mm spacing, parallel to `pet`, with the same centre, that covers all of its voxels."""
    import SimpleITK as sitk

    extent_mm = [count * spacing for count, spacing in zip(pet.GetSize(), pet.GetSpacing(), strict=True)]
    size = [-int(-length // SPACING_MM) for length in extent_mm]
    centre = pet.TransformContinuousIndexToPhysicalPoint([(count - 1) / 2 for count in pet.GetSize()])
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([SPACING_MM] * 3)
    grid.SetDirection(pet.GetDirection())
    shift = grid.TransformContinuousIndexToPhysicalPoint([(count - 1) / 2 for count in size])
    grid.SetOrigin([middle - moved for middle, moved in zip(centre, shift, strict=True)])
    return grid


def resample(image: Any, grid: Any, *, extend: bool) -> Any:
    """Linear interpolation of `image` on `grid`; beyond the field of view the edge value (`extend`) or zero."""
    import SimpleITK as sitk

    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    resampler.SetUseNearestNeighborExtrapolator(extend)
    return resampler.Execute(sitk.Cast(image, sitk.sitkFloat32))


def write_cases(cohort: Path, folds: dict[str, int]) -> list[str]:
    """Write the cohort in nnU-Net's raw layout at 4 mm; return the patients whose MR is a volume of zeros."""
    import SimpleITK as sitk
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    raw = Path(os.environ["nnUNet_raw"]) / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    without_mr = []
    for patient in folds:
        pet = sitk.ReadImage(cohort / patient / "PET_image.nii.gz", sitk.sitkFloat32)
        mask = sitk.ReadImage(cohort / patient / "PET_mask.nii.gz", sitk.sitkFloat32)
        grid = working_grid(pet)
        mr_path = cohort / patient / "MR_T1_image.nii.gz"
        if mr_path.is_file():
            mr = resample(sitk.ReadImage(mr_path, sitk.sitkFloat32), grid, extend=False)
        else:
            mr, without_mr = grid, [*without_mr, patient]  # the empty grid is zero everywhere
        sitk.WriteImage(resample(pet, grid, extend=True), raw / "imagesTr" / f"{patient}_0000.nii.gz")
        sitk.WriteImage(mr, raw / "imagesTr" / f"{patient}_0001.nii.gz")
        tumour = sitk.Cast(resample(mask, grid, extend=False) >= 0.5, sitk.sitkUInt8)
        sitk.WriteImage(tumour, raw / "labelsTr" / f"{patient}.nii.gz")
    channels, labels = {0: "PET_SUV", 1: "MR_T1"}, {"background": 0, "tumour": 1}
    generate_dataset_json(str(raw), channels, labels, len(folds), ".nii.gz", license="CC BY 3.0")
    return without_mr


def plan_and_preprocess(folds: dict[str, int], *, threads: int) -> dict[str, Any]:
    """Run nnU-Net's fingerprint, default planner and `3d_fullres` preprocessing, write the splits; return the plans."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    nnunet.extract_fingerprints([DATASET_ID], num_processes=threads, show_progress_bar=False)
    nnunet.plan_experiments([DATASET_ID])
    nnunet.preprocess([DATASET_ID], configurations=(CONFIGURATION,), num_processes=(threads,), show_progress_bar=False)
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / DATASET
    splits = [
        {
            "train": [patient for patient, fold in folds.items() if fold != validation],
            "val": [patient for patient, fold in folds.items() if fold == validation],
        }
        for validation in range(FOLDS)
    ]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits, indent=1), encoding="utf-8")
    return json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))


def make_trainer(plans: dict[str, Any], *, fold: int) -> Any:
    """nnU-Net's default trainer for one fold, on the CPU; augmentation runs in its process, so that it is paid for."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    os.environ["nnUNet_n_proc_DA"] = "0"
    description = Path(os.environ["nnUNet_raw"]) / DATASET / "dataset.json"
    dataset_json = json.loads(description.read_text(encoding="utf-8"))
    # the trainer takes `continue_training` out of the plans it is given
    settings = json.loads(json.dumps(plans)) | {"continue_training": False}
    return nnUNetTrainer(settings, CONFIGURATION, fold, dataset_json, torch.device("cpu"))


def train_by_the_clock(trainer: Any, *, seconds: float) -> tuple[int, float]:
    """Train until `seconds` have passed, with nnU-Net's polynomial learning rate as a function of the time elapsed.

    Returns:
        Number of iterations, and the seconds they took (the last one may end a little late).
    """
    trainer.on_train_start()
    trainer.network.train()
    iterations, started, recent_losses = 0, time.monotonic(), []
    while (elapsed := time.monotonic() - started) < seconds:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - elapsed / seconds) ** 0.9
        recent_losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        iterations += 1
        if iterations % 10 == 0:
            mean = sum(recent_losses) / len(recent_losses)
            trainer.print_to_log_file(f"{iterations} iterations, {elapsed:.0f} s, mean training loss {mean:.4f}")
            recent_losses.clear()
    elapsed = time.monotonic() - started
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return iterations, elapsed


def make_predictor(trainer: Any) -> Any:
    """nnU-Net's default predictor (half-overlapping Gaussian windows, mirroring on all axes) of a trained fold."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


def score_patient(predictor: Any, cohort: Path, *, patient: str) -> float:
    """Dice of a patient's predicted tumour with the original mask, on the original PET grid."""
    import numpy as np
    import SimpleITK as sitk
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    images = Path(os.environ["nnUNet_raw"]) / DATASET / "imagesTr"
    channels = [images / f"{patient}_{channel:04d}.nii.gz" for channel in range(2)]
    volume, properties = SimpleITKIO().read_images([str(path) for path in channels])
    _, probability = predictor.predict_single_npy_array(volume, properties, save_or_return_probabilities=True)
    tumour_probability = sitk.GetImageFromArray(np.asarray(probability[1], dtype=np.float32))
    tumour_probability.CopyInformation(sitk.ReadImage(channels[0]))
    truth_image = sitk.ReadImage(cohort / patient / "PET_mask.nii.gz")
    predicted = sitk.GetArrayFromImage(resample(tumour_probability, truth_image, extend=True)) >= 0.5
    truth = sitk.GetArrayFromImage(truth_image) > 0
    # every patient of the cohort has a tumour, so the denominator is never zero
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def describe_machine() -> str:
    """Processor model and number of cores, by `lscpu` where there is one."""
    try:
        listing = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    fields = dict(line.split(":", 1) for line in listing.splitlines() if ":" in line)
    return f"{fields.get('Model name', 'unknown model').strip()}, {os.cpu_count()} cores"


def describe_run(plans: dict[str, Any], without_mr: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about the measurement that is known before the first fold."""
    configuration = plans["configurations"][CONFIGURATION]
    architecture = configuration["architecture"]["arch_kwargs"]
    return {
        "peer": f"nnU-Net v2 {version('nnunetv2')}",
        "plan": {
            "configuration": CONFIGURATION,
            "patch_size": configuration["patch_size"],
            "batch_size": configuration["batch_size"],
            "spacing_mm": configuration["spacing"],
            "features": architecture["features_per_stage"],
            "strides": architecture["strides"],
            "normalisation": configuration["normalization_schemes"],
        },
        "minutes_per_fold": arguments.minutes,
        "threads": arguments.threads,
        "machine": describe_machine(),
        "torch": version("torch"),
        "zero_mr_volume": without_mr,
        "iterations": [],
        "training_seconds": [],
        "prediction_seconds": [],
        "dice": {},
        "fold": {},
        "mean_dice": None,
    }


def write_atomically(result: dict[str, Any], path: Path) -> None:
    """Replace `path` by the JSON of `result` in one step, so that a reader never meets half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def measure_fold(result: dict[str, Any], trainer: Any, cohort: Path, *, patients: list[str], seconds: float) -> None:
    """Train one fold, score its patients, and add both to `result`."""
    iterations, training_seconds = train_by_the_clock(trainer, seconds=seconds)
    started = time.monotonic()
    predictor = make_predictor(trainer)
    for patient in patients:
        result["dice"][patient] = round(score_patient(predictor, cohort, patient=patient), 4)
        result["fold"][patient] = trainer.fold
        trainer.print_to_log_file(f"{patient}: Dice {result['dice'][patient]:.4f}")
    result["iterations"].append(iterations)
    result["training_seconds"].append(round(training_seconds, 1))
    result["prediction_seconds"].append(round(time.monotonic() - started, 1))
    result["mean_dice"] = round(sum(result["dice"].values()) / len(result["dice"]), 4)


def main() -> None:
    """Prepare the cohort, measure the five folds one after another, write and print the result."""
    arguments = parse_arguments()
    configure_environment(arguments.work, threads=arguments.threads)
    cohort = Path(arguments.reference) / "sts_petmr"
    folds = assign_folds(cohort)
    without_mr = write_cases(cohort, folds)
    plans = plan_and_preprocess(folds, threads=arguments.threads)
    result = describe_run(plans, without_mr, arguments)
    for fold in range(FOLDS):
        patients = [patient for patient, validation in folds.items() if validation == fold]
        trainer = make_trainer(plans, fold=fold)
        measure_fold(result, trainer, cohort, patients=patients, seconds=60 * arguments.minutes)
        write_atomically(result, arguments.output)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
