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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypoxnet.bundle.export.agreement import TOLERANCE, Agreement, Arrays, Runner, agreement_on
from hypoxnet.bundle.export.description import describe_export
from hypoxnet.bundle.export.folder import write_export
from hypoxnet.bundle.export.formats import agreement_json, in_one_sentence
from hypoxnet.bundle.export.graphs import example_inputs, graphs_of, temperature_of
from hypoxnet.bundle.export.monai_transforms import constants, imports, postprocessing, preprocessing, sliding
from hypoxnet.bundle.export.torchscript import without_deprecations
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
        BundleError: The model reads no images, averages over mirrored images, `output` cannot be used, or what was
            read back gives other numbers.
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
        # TorchScript is what MONAI Label and MONAI Deploy load.
        # Into a file of Python: on a full disk torch's own ends the process.
        with without_deprecations(), (folder / NETWORK).open("wb") as stream:
            torch.jit.save(traced(spec, models), stream, _extra_files=extra)
        more = {"network": NETWORK, "agreement": agreement_json(compared_monai(spec, models, folder))}
        return describe_export(spec, (), kind=KIND, files={}, more=more)

    return write_export(output, spec, write)


def traced(spec: BundleSpec, models: Sequence[HypoxNet]) -> torch.jit.ScriptModule:
    """The networks on windows of the bundle's size, any number of them at once."""
    network = WindowLogits(models, spec).eval()
    example = example_inputs(spec, spec.settings.window, patients=3)
    windows = with_planes(example["image"], example["presence"])
    # Sizes of a window are constants of the trace, as they should be.
    with without_deprecations(), torch.no_grad():
        script = torch.jit.trace(network, windows, check_trace=False)  # type: ignore[no-untyped-call]
    assert isinstance(script, torch.jit.ScriptModule)
    return script


def with_planes(image: Tensor, presence: Tensor) -> Tensor:
    """B C D H W and B C to B 2 C D H W: channels, then a plane of 0 or 1 each."""
    return torch.cat([image, presence[:, :, None, None, None].expand_as(image)], dim=1)


def compared_monai(spec: BundleSpec, models: Sequence[HypoxNet], folder: Path) -> dict[str, Agreement]:
    """A MONAI bundle on disk beside our own: what its configurations say, then what MONAI makes its network compute.

    Args:
        spec: The bundle.
        models: Its members, on the CPU.
        folder: The MONAI bundle. Its expressions run only when they are, word for word, those of this bundle.

    Returns:
        `network` to how far probabilities and log-odds of single windows are from the bundle's.

    Raises:
        BundleError: A configuration says something else, the network cannot be run, or it gives other numbers.
    """
    _refuse_other_words(spec, folder)
    graph = graphs_of(spec, models)[0]
    generator = torch.Generator().manual_seed(1)
    windows = [example_inputs(spec, spec.settings.window, patients=n, generator=generator) for n in (1, 3)]
    with in_one_sentence(f"{NETWORK} cannot be run by MONAI", "export the bundle again"), without_deprecations():
        found = agreement_on(windows, replace(graph, outputs=("pred", "logits")), _runner(spec, folder))
    found.refuse_worse_than(TOLERANCE, what=NETWORK)
    return {graph.name: found}


def _refuse_other_words(spec: BundleSpec, folder: Path) -> None:
    """The configurations, and the copies of them in the archive of the network that MONAI Deploy reads.

    Raises:
        BundleError: One of them is not what this bundle would be written with.
    """
    expected = {INFERENCE: inference_configuration(spec), METADATA: monai_metadata(spec), SCHEMA: metadata_schema()}
    inside = {Path(name).name: b"" for name in (INFERENCE, METADATA)}
    with in_one_sentence(f"{folder.name} is no MONAI bundle", "export the bundle again"):
        with without_deprecations():
            torch.jit.load(folder / NETWORK, map_location="cpu", _extra_files=inside)  # type: ignore[no-untyped-call]
        texts = {(name, name): (folder / name).read_bytes() for name in expected}
        texts |= {(f"{NETWORK} ({name})", f"configs/{name}"): text for name, text in inside.items()}
        found = {place: json.loads(text) for place, text in texts.items()}
    for (place, name), content in found.items():
        if _without_versions(content) != _without_versions(json.loads(json.dumps(expected[name]))):
            raise BundleError(
                f"{place} says something else than this HypoxNet writes for {spec.name}; export the bundle again"
            )


def _without_versions(content: Any) -> Any:
    """A configuration without the versions of packages, which are those of the machine that wrote it."""
    if not isinstance(content, Mapping):
        return content
    return {name: value for name, value in content.items() if not name.endswith("_version")}


def _runner(spec: BundleSpec, folder: Path) -> Runner:
    """The network as `inference.json` has it, as a function of the inputs of `CaseGraph`."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(folder / INFERENCE)
    parser["bundle_root"], parser["device"] = str(folder), "cpu"
    network = parser.get_parsed_content("network").eval()

    def run(inputs: Arrays) -> Arrays:
        windows = with_planes(torch.from_numpy(inputs["image"]), torch.from_numpy(inputs["presence"]))
        with torch.no_grad():
            logits = network(windows).unflatten(1, (spec.members, -1))
        return {"pred": torch.sigmoid(logits).mean(dim=1).numpy(), "logits": logits.numpy()}

    return run


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
