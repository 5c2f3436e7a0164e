"""A MONAI bundle that runs without HypoxNet: `inference.json` repeats `prepare`, the network is TorchScript.

    configs/inference.json           transforms, windows, network, evaluator
    configs/metadata.json            what goes in and comes out
    configs/metadata_schema.json     required keys, for `verify_metadata` without a network
    models/model.ts                  the members, traced on windows; inside it the two configurations, for MONAI Deploy
    docs/README.md                   model card

Source:
    MONAI bundle specification, version 1.6; MONAI Label's `BundleInferTask` for the names it reads.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypoxnet.bundle.export.description import describe_export
from hypoxnet.bundle.export.folder import write_export
from hypoxnet.bundle.export.graphs import temperature_of
from hypoxnet.bundle.export.monai_transforms import constants, imports, postprocessing, preprocessing, sliding
from hypoxnet.bundle.metadata import REQUIRED, REQUIRED_OF_TENSOR, check_metadata, metadata
from hypoxnet.bundle.schema import METADATA, BundleSpec
from hypoxnet.errors import BundleError
from hypoxnet.files import write_json
from hypoxnet.models.joint import HypoxNet

KIND = "monai"
INFERENCE = "configs/inference.json"
SCHEMA = "configs/metadata_schema.json"
NETWORK = "models/model.ts"


class WindowLogits(nn.Module):
    """The segmentation networks alone, in one input and one output, as MONAI's tools want them.

    Args:
        models: Members of the ensemble.
        spec: The bundle: number of channels C, temperatures.
    """

    temperature: Tensor

    def __init__(self, models: Sequence[HypoxNet], spec: BundleSpec) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(_backbone(model) for model in models)
        self.channels = spec.model.channels
        self.calibrated = spec.calibrated
        # One axis of members and regions, as the logits have.
        self.register_buffer("temperature", temperature_of(spec).flatten(1, 2), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """B 2 C D H W, channels and then a plane of 0 or 1 each that says which were measured, to logits of each
        member, B R K D H W with R K in one axis, each divided by its temperature.
        """
        presence = image[:, self.channels :].amax(dim=(2, 3, 4))
        parts = [backbone(image[:, : self.channels], presence).segmentation for backbone in self.backbones]
        logits = torch.cat(parts, dim=1)
        return logits / self.temperature if self.calibrated else logits


def _backbone(model: HypoxNet) -> nn.Module:
    backbone: Any = model.backbone
    assert isinstance(backbone, nn.Module)
    return backbone


def export_monai(spec: BundleSpec, models: Sequence[HypoxNet], output: Path) -> Path:
    """Write a bundle for MONAI's own tools.

    Args:
        spec: The bundle; it reads images.
        models: Its members, on the CPU.
        output: Folder of the export.

    Raises:
        BundleError: The model reads no images, averages over mirrored images, or `output` cannot be used.
    """
    if not spec.settings.channels:
        raise BundleError(
            f"{spec.name} reads covariates and no image, a MONAI bundle segments; export it as onnx or torch"
        )
    if spec.inference.mirror:
        raise BundleError(
            f"{spec.name} averages over mirrored images, which a MONAI bundle does not; train or write it with "
            "inference.mirror=false"
        )

    def write(folder: Path) -> dict[str, Any]:
        about, configuration = monai_metadata(spec), inference_configuration(spec)
        check_metadata(about)
        write_json(folder / METADATA, about)
        write_json(folder / INFERENCE, configuration)
        write_json(folder / SCHEMA, metadata_schema())
        (folder / "models").mkdir()
        extra = {"metadata.json": json.dumps(about), "inference.json": json.dumps(configuration)}
        with warnings.catch_warnings():
            # TorchScript is what MONAI Label and MONAI Deploy load.
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            torch.jit.save(traced(spec, models), folder / NETWORK, _extra_files=extra)
        return describe_export(spec, (), kind=KIND, files={}, more={"network": NETWORK})

    return write_export(output, spec, write)


def traced(spec: BundleSpec, models: Sequence[HypoxNet]) -> torch.jit.ScriptModule:
    """The networks on windows of the bundle's size, any number of them at once.

    Raises:
        BundleError: Another number of windows gives other numbers.
    """
    network = WindowLogits(models, spec).eval()
    generator = torch.Generator().manual_seed(0)
    one, three = (_windows(spec, count, generator) for count in (1, 3))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        # Sizes of a window are constants of the trace, as they should be.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        script = torch.jit.trace(network, three, check_trace=False)  # type: ignore[no-untyped-call]
        for windows in (one, three):
            apart = float((script(windows) - network(windows)).abs().max())
            if not apart <= 1e-4 * max(1.0, float(network(windows).abs().max())):
                raise BundleError(f"{spec.name}: the traced network differs by {apart:.3g} on {len(windows)} windows")
    assert isinstance(script, torch.jit.ScriptModule)
    return script


def _windows(spec: BundleSpec, count: int, generator: torch.Generator) -> Tensor:
    channels = spec.model.channels
    presence = torch.ones(count, channels)
    presence[1:, 1:] = 0.0
    planes = presence[:, :, None, None, None].expand(-1, -1, *spec.settings.window)
    return torch.cat([torch.randn(planes.shape, generator=generator) * planes, planes], dim=1)


def inference_configuration(spec: BundleSpec) -> dict[str, Any]:
    """The content of `inference.json`."""
    return {
        **imports(),
        "bundle_root": ".",
        "datalist": "$@bundle_root + '/cases.json'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        **constants(spec),
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "network": "$@network_def.to(@device)",
        "cases": "$json.loads(open(@datalist).read())",
        "preprocessing": preprocessing(spec),
        "dataset": {"_target_": "Dataset", "data": "@cases", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": sliding(spec),
        "postprocessing": postprocessing(spec),
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def monai_metadata(spec: BundleSpec) -> dict[str, Any]:
    """`metadata.json` of one input, channels and planes of presence, and one output, the members' logits."""
    content = metadata(spec)
    formats = content["network_data_format"]
    image, pred, names = formats["inputs"]["image"], formats["outputs"]["pred"], spec.settings.channels
    measured = {
        str(len(names) + i): f"1 everywhere when {name} was measured, 0 when not" for i, name in enumerate(names)
    }
    regions = [
        f"{name}{f' by member {member}' if spec.members > 1 else ''}"
        for member in range(spec.members)
        for name in spec.settings.region_names
    ]
    inputs = image | {"num_channels": 2 * len(names), "channel_def": image["channel_def"] | measured}
    outputs = pred | {
        "num_channels": len(regions),
        "value_range": [],
        "channel_def": {str(place): f"log-odds of {name}" for place, name in enumerate(regions)},
    }
    packages = {name: content["required_packages_version"][name] for name in ("nibabel",)}
    return content | {
        "required_packages_version": packages | {"pytorch-ignite": "0.5"},
        "network_data_format": {"inputs": {"image": inputs}, "outputs": {"pred": outputs}},
    }


def metadata_schema() -> Mapping[str, Any]:
    """A JSON schema of the keys that MONAI's own schema requires, which can only be had from the network."""
    tensor = {"type": "object", "required": list(REQUIRED_OF_TENSOR)}
    side = {"type": "object", "minProperties": 1, "additionalProperties": tensor}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": list(REQUIRED),
        "properties": {
            "network_data_format": {
                "type": "object",
                "required": ["inputs", "outputs"],
                "properties": {"inputs": side, "outputs": side},
            }
        },
    }
