"""Writing a bundle: all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from hypoxnet.bundle.card import model_card
from hypoxnet.bundle.foreign import refuse_foreign
from hypoxnet.bundle.metadata import metadata
from hypoxnet.bundle.schema import CARD, CHECKSUMS, METADATA, SPEC, BundleSpec, weights_name
from hypoxnet.errors import BundleError
from hypoxnet.files import replacing_folder, sha256_of, write_json, write_text

# Key in the header of a weights file under which the names of aliased tensors stand.
ALIASES = "aliases"


def write_bundle(folder: Path, spec: BundleSpec, state_dicts: Sequence[Mapping[str, torch.Tensor]]) -> Path:
    """Write a bundle in the place of `folder`, replacing a bundle that is there.

    Args:
        folder: Where the bundle is to stand.
        spec: What it says about itself; `members` is set to the number of state dictionaries.
        state_dicts: One per member of the ensemble.

    Returns:
        `folder`.

    Raises:
        BundleError: No member, a weight that is not finite, or `folder` holds something that is no bundle, or a file
            that does not belong to the bundle.

    Example:
        write_bundle(Path("runs/a/bundle"), spec, [model.state_dict()])
    """
    if not state_dicts:
        raise BundleError(f"{folder}: a bundle needs at least one model, none was given")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CHECKSUMS).is_file():
        raise BundleError(f"{folder} is not empty and holds no bundle (no {CHECKSUMS}); choose another folder")
    refuse_foreign(folder)
    for member, weights in enumerate(state_dicts):
        _refuse_not_finite(weights, member)
    spec = replace(spec, members=len(state_dicts))
    with replacing_folder(folder) as temporary:
        write_json(temporary / METADATA, metadata(spec))
        write_json(temporary / SPEC, spec.to_json())
        write_text(temporary / CARD, model_card(spec))
        for member, weights in enumerate(state_dicts):
            save_weights(weights, temporary / weights_name(member))
        write_json(temporary / CHECKSUMS, {"sha256": dict(_checksums(temporary))})
    return folder


def save_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state dictionary as safetensors, exactly.

    Names that share one tensor (weights that are tied, or reached by two paths) are stored once and listed in the
    header; a tensor that is only part of another's memory is copied.
    """
    kept: dict[tuple[object, ...], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in weights.items():
        memory = _memory(tensor)
        if memory in kept and tensor.numel():
            aliases[name] = kept[memory]
            continue
        kept[memory] = name
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes several entries in an order drawn at random; with one, the same weights give the same bytes.
    save_file(tensors, path, metadata={ALIASES: json.dumps(aliases)} if aliases else {"format": "pt"})


def _memory(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are the same view of the same memory."""
    pointer = tensor.untyped_storage().data_ptr()
    return pointer, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _refuse_not_finite(weights: Mapping[str, torch.Tensor], member: int) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"model {member}: weight {name} is not finite; the training has diverged")


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield path.relative_to(folder).as_posix(), sha256_of(path)
