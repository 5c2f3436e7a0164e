"""Cases, bundles and descriptions of the same network for `inference_peers.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Voxels and their size in mm: a PET/MR of head and neck; a case of the embedded cohort.
KINDS = {"clinical": ((200, 200, 100), (2.0, 2.0, 3.0)), "small": ((32, 32, 32), (3.0, 3.0, 3.0))}
CHANNELS = ("FMISO_SUV", "T1W")
SETTINGS = ("whole", "inside")
SPACING_MM = (3.0, 3.0, 3.0)
# Patients that are made; more cases are links to their files.
PATIENTS = 3
TUMOUR_MM = 18.0


def make(folder: Path, kind: str, cases: int, *, window: int) -> None:
    """Images, a manifest, a list for MONAI, a plan for nnU-Net, and per setting a bundle and its export."""
    (folder / "images").mkdir()
    for patient in range(PATIENTS):
        write_patient(folder / "images", patient, kind)
    rows = [link_case(folder / "images", case) for case in range(cases)]
    (folder / "cases.json").write_text(json.dumps(rows), encoding="utf-8")
    columns = list(rows[0])
    lines = [",".join(row[column] for column in columns) for row in rows]
    (folder / "cohort.csv").write_text("\n".join([",".join(["case_id", *columns[1:]]), *lines]) + "\n", "utf-8")
    (folder / "plans.json").write_text(json.dumps(nnunet_plans(window)), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(nnunet_dataset()), encoding="utf-8")
    for setting in SETTINGS:
        write_network(folder, setting, window)


def write_patient(folder: Path, patient: int, kind: str) -> None:
    """A body of smooth uptake with noise, nothing exactly 0, and a tumour; images in 16 bits with a scale."""
    import nibabel as nib
    from scipy.ndimage import gaussian_filter

    shape, voxel_mm = KINDS[kind]
    draw = np.random.default_rng(patient)
    body = distance(shape, voxel_mm, (0.0, 0.0, 0.0), scale=(0.45, 0.38, 0.7)) <= min(shape[0] * voxel_mm[0], 420.0)
    tumour = distance(shape, voxel_mm, (12.0, -9.0, 6.0)) <= TUMOUR_MM
    texture = gaussian_filter(draw.normal(size=shape), [8.0 / side for side in voxel_mm])
    texture /= texture.std()
    noise = gaussian_filter(draw.normal(size=shape), [2.5 / side for side in voxel_mm])
    suv = np.abs(body * (1.0 + 0.15 * texture) + tumour * (1.0 + 0.4 * texture) + 0.3 * noise * (0.1 + body)) + 1e-3
    weighted = np.abs(body * (300.0 + 40.0 * texture + 50.0 * tumour) + 8.0 * draw.normal(size=shape)) + 1.0
    affine = np.diag([-voxel_mm[0], -voxel_mm[1], voxel_mm[2], 1.0])
    for name, values in zip(CHANNELS, (suv, weighted), strict=True):
        image = nib.Nifti1Image(values.astype(np.float32), affine)
        image.set_data_dtype(np.int16)
        nib.save(image, folder / f"{name}{patient}.nii.gz")
    nib.save(nib.Nifti1Image(tumour.astype(np.uint8), affine), folder / f"GTVP{patient}.nii.gz")


def distance(
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    *,
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float64]:
    """Millimetres from a point that is so far from the middle of the image, each axis divided by its scale."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * side - middle) / factor
        for n, side, middle, factor in zip(shape, voxel_mm, centre_mm, scale, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(np.sqrt(x**2 + y**2 + z**2))


def link_case(folder: Path, case: int) -> dict[str, str]:
    """A case of the files of a patient, by name."""
    name, row = f"P{case:03d}", {"case": f"P{case:03d}"}
    for column in (*CHANNELS, "GTVP"):
        path = folder / f"{name}_{column}.nii.gz"
        os.link(folder / f"{column}{case % PATIENTS}.nii.gz", path)
        row[column] = str(path)
    return row


def write_network(folder: Path, setting: str, window: int) -> None:
    """The network of `train.py` with fresh weights, as our bundle and as MONAI's."""
    import torch

    from hypoxnet.bundle.export.monai_bundle import export_monai
    from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults
    from hypoxnet.bundle.write import write_bundle
    from hypoxnet.inference.config import InferenceConfig
    from hypoxnet.inference.predictor import load_predictor
    from hypoxnet.models.build import build_model
    from hypoxnet.models.config import ModelConfig, OutcomeConfig
    from hypoxnet.models.spec import ModelSpec
    from hypoxnet.transforms.normalise import norm_of
    from hypoxnet.transforms.settings import PrepareSettings, Region

    outcome = OutcomeConfig()
    settings = PrepareSettings(
        channels=CHANNELS,
        norms=tuple(norm_of(name) for name in CHANNELS),
        reference=CHANNELS[0],
        spacing_mm=SPACING_MM,
        window=(window,) * 3,
        tumour=("GTVP",),
        regions=(Region("hsv", ("HYPOXIA",)),),
        threshold=None,
        inside_tumour=setting == "inside",
        terms=(),
        edges_months=tuple(outcome.edges_months),
    )
    backbone = ModelConfig(features=[24, 48, 96], blocks=[1, 1, 1], deep_supervision=1, fold=2)
    model = ModelSpec(backbone, outcome, len(CHANNELS), 1, 0, settings.edges_months, SPACING_MM)
    spec = BundleSpec("benchmark", model, settings, InferenceDefaults(overlap=0.5, mirror=False))
    torch.manual_seed(0)
    network = build_model(model)
    torch.nn.init.zeros_(network.backbone.decoder.heads[0].bias)  # half of the voxels are inside, not none
    write_bundle(folder / setting, spec, [network.state_dict()])
    loaded = load_predictor(folder / setting, InferenceConfig(device="cpu"))
    export_monai(loaded.spec, loaded.models, folder / f"{setting}_monai")


def nnunet_plans(window: int) -> dict[str, Any]:
    """A plan for this spacing and window, the rest as nnU-Net's planner writes it."""
    data = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    probabilities = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [window] * 3,
        "spacing": list(SPACING_MM),
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "architecture": {"network_class_name": "ours", "arch_kwargs": {}, "_kw_requires_import": []},
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**probabilities, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": probabilities,
    }
    intensity = {"mean": 1.0, "std": 0.5, "percentile_00_5": 0.0, "percentile_99_5": 20.0}
    return {
        "dataset_name": "benchmark",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {str(place): intensity for place in range(len(CHANNELS))},
    }


def nnunet_dataset() -> dict[str, Any]:
    """One region, which makes nnU-Net take the one logit by a sigmoid, as the network was made for."""
    return {
        "channel_names": {str(place): name for place, name in enumerate(CHANNELS)},
        "labels": {"background": 0, "hsv": [1, 2]},
        "regions_class_order": [1],
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
