"""Weights of a bundle on disk: what a file says of itself is compared with the network before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hypoxnet.bundle.bounds import shortened
from hypoxnet.bundle.write import ALIASES
from hypoxnet.errors import BundleError

COPY_AGAIN = "copy the bundle again from where it came from"
# Names, shapes and offsets of ten thousand tensors; a network of ours has some hundred.
LARGEST_HEADER = 2**20
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a header says of one tensor.

    Args:
        shape: Its shape.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype


def read_header(path: Path) -> dict[str, Stored]:
    """Names, shapes and types in a safetensors file, aliases among them; no tensor is read.

    Raises:
        BundleError: Not a safetensors file, a header that does not fit the file, or a wrong alias.
    """
    with _opened(path) as stream:
        found = {}
        for name in stream.keys():  # noqa: SIM118 (not a mapping)
            part = stream.get_slice(name)
            kind = part.get_dtype()
            if kind not in TYPES:
                raise BundleError(f"{path}: {shortened(name)} is of type {kind}, which no bundle holds; {COPY_AGAIN}")
            found[name] = Stored(tuple(part.get_shape()), TYPES[kind])
        return found | {name: found[kept] for name, kept in _aliases(stream, found, path).items()}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dictionary from safetensors, with aliased names put back.

    Raises:
        BundleError: Not a safetensors file, an alias of a tensor that is not there, or a weight that is not finite.
    """
    with _opened(path) as stream:
        weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
        for name, tensor in weights.items():
            if not _finite(tensor):
                raise BundleError(f"{path}: {shortened(name)} holds values that are not finite; train the model again")
        return weights | {name: weights[kept] for name, kept in _aliases(stream, weights, path).items()}


def _finite(tensor: torch.Tensor) -> bool:
    """Whether every value is; one that is not spoils the sum, which is quicker than to ask each."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
        return True
    return bool(torch.isfinite(tensor).all())


def refuse_misfit(stored: Mapping[str, Stored], wanted: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Refuse weights that are not exactly those of a network.

    Args:
        stored: What a file holds.
        wanted: State dictionary of the network; may lie on the `meta` device.
        source: Name of the file, for the message.

    Raises:
        BundleError: Names are missing or unexpected, or a shape or type differs.
    """
    missing, unexpected = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    if missing or unexpected:
        raise BundleError(f"{source} does not fit its model: missing {_some(missing)}; unexpected {_some(unexpected)}")
    for name, tensor in wanted.items():
        there, here = stored[name], Stored(tuple(tensor.shape), tensor.dtype)
        if there.shape != here.shape:
            raise BundleError(
                f"{source} does not fit its model: {name} has shape {there.shape}, the model {here.shape}"
            )
        if there.dtype != here.dtype:
            raise BundleError(f"{source} does not fit its model: {name} is {there.dtype}, in the model {here.dtype}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; its header is measured before anything parses it."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length > LARGEST_HEADER:
            raise BundleError(
                f"{path} is not a readable safetensors file (its header would have {length} bytes, at most "
                f"{LARGEST_HEADER} are read); {COPY_AGAIN}"
            )
        with safe_open(path, framework="pt", device="cpu") as opened:
            yield opened
    except (SafetensorError, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = shortened(str(error), 200)
        raise BundleError(f"{path} is not a readable safetensors file ({reason}); {COPY_AGAIN}") from error


def _aliases(stream: Any, known: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Names that share the tensor of another, as `save_weights` wrote them into the header."""
    try:
        aliases = json.loads((stream.metadata() or {}).get(ALIASES, "{}"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: its aliases are not readable; {COPY_AGAIN}") from error
    if not isinstance(aliases, dict):
        raise BundleError(f"{path}: its aliases are not names by name; {COPY_AGAIN}")
    for name, kept in aliases.items():
        if not isinstance(kept, str) or kept not in known or name in known:
            shown = shortened(str(kept))
            raise BundleError(
                f"{path}: {shortened(name)} is declared an alias of {shown}, which cannot be; {COPY_AGAIN}"
            )
    return aliases


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(shortened(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
