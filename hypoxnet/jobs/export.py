"""Exports of a bundle by name, and the check of an export against the bundle it was made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hypoxnet.bundle.export.monai_bundle import export_monai
from hypoxnet.bundle.export.torch_program import export_torch
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.errors import ConfigError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.models.joint import HypoxNet

log = logging.getLogger(__name__)

Exporter = Callable[[BundleSpec, Sequence[HypoxNet], Path], Path]

EXPORTERS: Mapping[str, Exporter] = {"torch": export_torch, "monai": export_monai}


def export_bundle(bundle: Path, kind: str, output: Path) -> Path:
    """Write a bundle in another program's form.

    Args:
        bundle: Folder of the bundle.
        kind: One of `EXPORTERS`.
        output: Folder of the export; made anew as a whole.

    Raises:
        BundleError: The bundle cannot be read, or the export does not say what it says.
        ConfigError: No such format, or `output` lies inside the bundle.
    """
    if kind not in EXPORTERS:
        raise ConfigError(f"--to is {kind!r}, it must be one of {', '.join(EXPORTERS)}")
    if output.resolve() == bundle.resolve() or bundle.resolve() in output.resolve().parents:
        raise ConfigError(f"--output={output} lies inside the bundle, whose files are checked; give another folder")
    predictor = load_predictor(bundle, InferenceConfig(device="cpu"))
    return EXPORTERS[kind](predictor.spec, predictor.models, output)
