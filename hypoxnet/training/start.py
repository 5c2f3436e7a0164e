"""Weights to begin with, and layers that stay: few events learn on features that many outlines have made."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hypoxnet.bundle.read import read_bundle
from hypoxnet.bundle.schema import CHECKSUMS
from hypoxnet.errors import ConfigError
from hypoxnet.files import write_json
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.translate import NO_PLACE, Translated, translate
from hypoxnet.training.checkpoint_file import read_checkpoint

log = logging.getLogger(__name__)

# So many names of layers fit into a log line.
SHOWN = 5
# Reads the images; with other channels than before it begins with the mean over those.
FIRST = "backbone.stem.convolution.weight"


@dataclass(frozen=True, slots=True)
class Start:
    """Which layers begin with which weights; all names are ours, but those of `unused`.

    Args:
        source: Where the weights come from.
        kind: What network they are of.
        loaded: Our name to theirs.
        adapted: Our name to what was done.
        another_shape: Our name to both shapes; drawn at random.
        missing: Parameters that the source lacks; drawn at random.
        unused: Names of the source without a place here, and why.
    """

    source: str
    kind: str
    loaded: Mapping[str, str]
    adapted: Mapping[str, str]
    another_shape: Mapping[str, str]
    missing: tuple[str, ...]
    unused: Mapping[str, str]

    @property
    def fresh(self) -> tuple[str, ...]:
        """Parameters that stay as they were drawn."""
        return (*self.another_shape, *self.missing)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "source": self.source,
            "kind": self.kind,
            "loaded": dict(self.loaded),
            "adapted": dict(self.adapted),
            "another_shape": dict(self.another_shape),
            "missing": list(self.missing),
            "unused": dict(self.unused),
        }


def start_from(model: HypoxNet, source: Path, *, report: Path | None = None) -> Start:
    """Take over weights wherever the same place of the same structure has the same shape.

    Patients who trained these weights must not be withheld now: files of weights hold no names, so this cannot be
    checked here.

    Args:
        model: Changed in place.
        source: A bundle, whose first model is taken; or a state dictionary of MONAI or nnU-Net v2, see
            `read_checkpoint`.
        report: JSON file for the full list of names.

    Raises:
        BundleError: The bundle is incomplete or was changed.
        ConfigError: A file that asks for more than weights, another structure, or nothing of it fits.
    """
    translated = _translated(model, source)
    own = dict([*model.named_parameters(), *model.named_buffers()])
    weights, adapted = _adapted(translated, own)
    # The outcome model's own tables belong to its settings, not to what was learnt.
    ours = {name: tensor for name, tensor in weights.items() if name in own and not name.startswith("head.time.")}
    taken = {name: tensor for name, tensor in ours.items() if own[name].shape == tensor.shape}
    start = Start(
        source=str(source),
        kind=translated.kind,
        loaded={name: translated.names[name] for name in taken if name not in adapted},
        adapted=adapted,
        another_shape={
            name: f"{tuple(tensor.shape)} there, {tuple(own[name].shape)} here"
            for name, tensor in ours.items()
            if name not in taken
        },
        missing=tuple(name for name, _ in model.named_parameters() if name not in ours),
        unused={**translated.unused, **_without_place(translated, model)},
    )
    layers = [name for name, _ in model.named_parameters()]
    if not any(name in taken for name in layers):
        raise ConfigError(
            f"training.start={source} ({start.kind}) has no layer in common with this network "
            f"({model.spec.backbone.backbone}); give the same model settings"
        )
    model.load_state_dict(taken, strict=False)
    if report is not None:
        write_json(report, start.to_json())
    _tell(start, report, layers=len(layers))
    return start


def _without_place(translated: Translated, model: HypoxNet) -> dict[str, str]:
    """Names of the source that the network does not have, second names of its layers among them."""
    known = model.state_dict()
    return {translated.names[name]: NO_PLACE for name in translated.weights if name not in known}


def _translated(model: HypoxNet, source: Path) -> Translated:
    """Weights by our names."""
    if (source / CHECKSUMS).is_file():
        spec, members = read_bundle(source)
        weights = members[0]
        kind = f"HypoxNet's {spec.model.backbone.backbone}"
        return Translated(kind, dict(weights), {name: name for name in weights})
    return translate(read_checkpoint(source), model)


def _adapted(translated: Translated, own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The first convolution for other channels: each begins with the mean of those that the source knew.

    An instance norm follows, so that the sum over more or fewer channels needs no scale.
    """
    weights = dict(translated.weights)
    first, here = weights.get(FIRST), own.get(FIRST)
    same = first is not None and here is not None and first.shape == here.shape
    if first is None or here is None or same or first.ndim != here.ndim or translated.kind.startswith("HypoxNet"):
        return weights, {}
    if first.shape[0] != here.shape[0] or first.shape[2:] != here.shape[2:]:
        return weights, {}
    weights[FIRST] = first.float().mean(dim=1, keepdim=True).expand_as(here).contiguous()
    return weights, {FIRST: f"each of {here.shape[1]} channels begins with the mean of the source's {first.shape[1]}"}


def _tell(start: Start, report: Path | None, *, layers: int) -> None:
    log.info(
        "%d of %d layers begin with the weights of %s (%s)", layers - len(start.fresh), layers, start.source, start.kind
    )
    for name, done in start.adapted.items():
        log.info("%s: %s", name, done)
    where = "" if report is None else f"; all names in {report}"
    for names, what in (
        (tuple(start.another_shape), "of another shape there, and drawn at random"),
        (start.missing, "not in it, and drawn at random"),
        (tuple(start.unused), "in it, and not used"),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            log.warning("%d layers %s: %s%s%s", len(names), what, ", ".join(names[:SHOWN]), more, where)


def freeze(model: HypoxNet) -> list[Tensor]:
    """Let only the outcome head learn.

    Returns:
        The parameters that do.

    Raises:
        ConfigError: There is no outcome head, so that nothing would learn.
    """
    if model.head is None or model.backbone is None:
        raise ConfigError("training.freeze=backbone leaves nothing to train: the network has no outcome head")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
