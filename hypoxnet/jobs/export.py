"""Exports of bundles by name: of one, or of several that are averaged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hypoxnet.bundle.export.ensemble import join_bundles
from hypoxnet.bundle.export.monai_bundle import export_monai
from hypoxnet.bundle.export.torch_program import export_torch
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.errors import ConfigError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.models.joint import HypoxNet

Exporter = Callable[[BundleSpec, Sequence[HypoxNet], Path], Path]

EXPORTERS: Mapping[str, Exporter] = {"torch": export_torch, "monai": export_monai}
OWN = "safetensors"
FORMATS = (OWN, *EXPORTERS)


def export_bundles(bundles: Sequence[Path], kind: str, output: Path) -> Path:
    """Write a bundle, or several as one ensemble, in another program's form.

    Args:
        bundles: Folders of one or more bundles of one kind.
        kind: `safetensors`, our own form, or one of `EXPORTERS`.
        output: Folder of the export; made anew as a whole.

    Raises:
        BundleError: A bundle cannot be read, two differ, or the export does not say what the bundle says.
        ConfigError: No such format, or `output` lies inside a bundle.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--to is {kind!r}, it must be one of {', '.join(FORMATS)}")
    for bundle in bundles:
        if output.resolve() == bundle.resolve() or bundle.resolve() in output.resolve().parents:
            raise ConfigError(f"--output={output} lies inside {bundle}, whose files are checked; give another folder")
    if kind == OWN:
        return join_bundles(bundles, output)
    if len(bundles) == 1:
        return _exported(bundles[0], kind, output)
    with tempfile.TemporaryDirectory() as temporary:
        return _exported(join_bundles(bundles, Path(temporary) / "joined"), kind, output)


def _exported(bundle: Path, kind: str, output: Path) -> Path:
    predictor = load_predictor(bundle, InferenceConfig(device="cpu"))
    return EXPORTERS[kind](predictor.spec, predictor.models, output)
