"""`metadata.json`: what MONAI's tools and its model zoo read about a model.

Source:
    MONAI bundle specification; keys as required by the model zoo's `meta_schema_20240725.json`. MONAI's own
    `verify_metadata` fetches that schema from the network, so the required keys are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from hypoxnet.bundle.bounds import shortened
from hypoxnet.bundle.schema import INTENDED_USE, METADATA, BundleSpec
from hypoxnet.errors import BundleError
from hypoxnet.quantities import covariate, quantity

SCHEMA_URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
REQUIRED = (
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
REQUIRED_OF_TENSOR = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")


def metadata(spec: BundleSpec) -> dict[str, Any]:
    """The content of `metadata.json`."""
    return {
        "schema": SCHEMA_URL,
        "version": spec.version,
        "changelog": {spec.version: "as trained"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("hypoxnet", "safetensors", "nibabel")},
        "name": spec.name,
        "task": _task(spec),
        "description": f"{_what(spec)} {spec.members} model{'s' if spec.members != 1 else ''}, averaged.",
        "authors": "The HypoxNet authors",
        "copyright": "Copyright (c) The HypoxNet authors, Apache-2.0",
        "data_type": "NIfTI" if spec.settings.channels else "table",
        "intended_use": INTENDED_USE,
        "eval_metrics": spec.to_json()["metrics"],
        "network_data_format": {"inputs": _inputs(spec), "outputs": _outputs(spec)},
    }


def _task(spec: BundleSpec) -> str:
    incidence = f"incidence of {', '.join(spec.causes)}" if spec.causes else ""
    if not spec.settings.channels:
        return f"{incidence[0].upper()}{incidence[1:]} from covariates of a patient"
    regions = ", ".join(spec.settings.region_names)
    return f"Segmentation of {regions}{' and ' if incidence else ''}{incidence} from PET and MRI of a tumour"


def _what(spec: BundleSpec) -> str:
    settings = spec.settings
    if not settings.channels:
        return f"Linear in {', '.join(settings.covariates)}, without images; any of these may be missing."
    return (
        f"3D network ({spec.model.backbone.backbone}) over {', '.join(settings.channels)}; any of these may be missing."
    )


def check_metadata(content: Mapping[str, Any]) -> None:
    """Refuse metadata that MONAI's schema would refuse for a missing key.

    Raises:
        BundleError: Names every key that is missing.
    """
    missing = [key for key in REQUIRED if key not in content]
    formats = content.get("network_data_format", {})
    for side in ("inputs", "outputs"):
        tensors = formats.get(side) if isinstance(formats, Mapping) else None
        if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Mapping) for tensor in tensors.values()):
            missing.append(f"network_data_format.{side}")
            continue
        for name, tensor in tensors.items():
            missing += [f"network_data_format.{side}.{name}.{key}" for key in REQUIRED_OF_TENSOR if key not in tensor]
    if missing:
        raise BundleError(f"{METADATA} lacks {shortened(', '.join(missing), 300)}")


def _inputs(spec: BundleSpec) -> dict[str, Any]:
    names = spec.settings.channels
    inputs: dict[str, Any] = {}
    if names:
        inputs |= _image_inputs(spec)
    columns = spec.settings.covariate_columns
    if columns:
        known = {str(i): f"1 when {name} is known, 0 when not" for i, name in enumerate(columns)}
        inputs["covariates"] = _vector(len(columns), []) | {"channel_def": _covariates(spec)}
        inputs["covariates_known"] = _vector(len(columns), [0, 1]) | {"channel_def": known}
    return inputs


def _image_inputs(spec: BundleSpec) -> dict[str, Any]:
    names = spec.settings.channels
    marks = {str(i): f"1 when {name} was measured, 0 when not" for i, name in enumerate(names)}
    return {
        "image": _volume(spec, len(names), "magnitude", []) | {"channel_def": _channels(spec)},
        "presence": _vector(len(names), [0, 1]) | {"channel_def": marks},
        "tumour": _volume(spec, 1, "segmentation", [0, 1])
        | {"channel_def": {"0": f"tumour contour, union of {', '.join(spec.settings.tumour)}"}},
        "tumour_known": _vector(1, [0, 1]) | {"channel_def": {"0": "1 when there is a tumour contour, 0 when not"}},
    }


def _outputs(spec: BundleSpec) -> dict[str, Any]:
    regions = {
        str(i): f"probability of {name}, dimensionless, 0 to 1" for i, name in enumerate(spec.settings.region_names)
    }
    outputs: dict[str, Any] = {}
    if regions:
        outputs["pred"] = _volume(spec, len(regions), "segmentation", [0, 1]) | {"channel_def": regions}
    if spec.causes:
        intervals = len(spec.model.edges_months)
        causes = {
            str(i): f"cumulative incidence of {cause} at the end of each interval, dimensionless, 0 to 1"
            for i, cause in enumerate(spec.causes)
        }
        outputs["incidence"] = {
            "type": "probabilities",
            "format": "sequence",
            "num_channels": len(causes),
            "spatial_shape": [intervals],
            "dtype": "float32",
            "value_range": [0, 1],
            "channel_def": causes,
            "edges_months": spec.model.to_json()["edges_months"],
        }
    return outputs


def _channels(spec: BundleSpec) -> dict[str, str]:
    """Meaning, unit and range of each channel, as it is before the normalisation that `settings` describes."""
    lines = {}
    for index, name in enumerate(spec.settings.channels):
        known = quantity(name)
        lines[str(index)] = f"{name}: {known.meaning}, {known.unit}, {known.low:g} to {known.high:g}, then normalised"
    return lines


def _covariates(spec: BundleSpec) -> dict[str, str]:
    """Meaning of each column, and how it is made of the covariate."""
    lines = []
    absent = "its mean given the others (`joint` of the settings)" if spec.settings.joint else "0"
    for term in spec.settings.terms:
        known = covariate(term.name)
        before = f"log({term.offset:g} + value), " if term.kind == "log" else ""
        for column, mean, sd in zip(term.columns, term.means, term.sds, strict=True):
            scaled = f"{before}minus {mean:.6g}, divided by {sd:.6g}; {absent} where not known"
            lines.append(
                f"{column}: {known.meaning}, {known.unit}, {term.low:g} to {term.high:g} in training; {scaled}"
            )
    return {str(index): line for index, line in enumerate(lines)}


def _volume(spec: BundleSpec, channels: int, kind: str, value_range: list[float]) -> dict[str, Any]:
    modalities = sorted({quantity(name).modality.value for name in spec.settings.channels})
    return {
        "type": "image",
        "format": kind,
        "modality": "/".join(modalities),
        "num_channels": channels,
        "spatial_shape": list(spec.settings.window),
        "spacing_mm": list(spec.model.spacing_mm),
        "dtype": "float32",
        "value_range": value_range,
        "is_patch_data": True,
    }


def _vector(length: int, value_range: list[float]) -> dict[str, Any]:
    return {
        "type": "tuples",
        "format": "sequence",
        "num_channels": length,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": value_range,
    }
