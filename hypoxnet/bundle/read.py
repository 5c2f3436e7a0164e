"""Reading a bundle: checksums first, then JSON and safetensors; nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hypoxnet.bundle.metadata import check_metadata
from hypoxnet.bundle.schema import CHECKSUMS, METADATA, SPEC, BundleSpec, weights_name
from hypoxnet.bundle.write import ALIASES
from hypoxnet.errors import BundleError
from hypoxnet.files import sha256_of

COPY_AGAIN = "copy the bundle again from where it came from"


def read_bundle(folder: Path) -> tuple[BundleSpec, tuple[dict[str, torch.Tensor], ...]]:
    """The description and the weights of a bundle, on the CPU.

    Args:
        folder: The bundle.

    Returns:
        The description with its `digest`, and one state dictionary per member of the ensemble.

    Raises:
        BundleError: No bundle, a file that is missing, changed or not listed, a newer format, or values that no
            bundle has. The sentence names the file.
    """
    listed = _listed_files(folder)
    _verify(folder, listed)
    check_metadata(_read_json(folder, METADATA))
    spec = BundleSpec.from_json(_read_json(folder, SPEC), digest=_digest(listed))
    names = [weights_name(member) for member in range(spec.members)]
    unlisted = sorted(set(names) ^ {name for name in listed if name.startswith("models/")})
    if unlisted:
        raise BundleError(
            f"{folder}: {SPEC} names {spec.members} models, which does not fit {unlisted[0]}; {COPY_AGAIN}"
        )
    return spec, tuple(read_weights(folder / name) for name in names)


def load_strictly(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load a state dictionary that must fit exactly.

    Args:
        model: Receives the weights.
        weights: As `read_bundle` returns them.
        source: Name of the weights' file, for the message.

    Raises:
        BundleError: Names are missing or unexpected, or a shape differs.
    """
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(weights))
    unexpected = sorted(set(weights) - set(wanted))
    if missing or unexpected:
        raise BundleError(f"{source} does not fit its model: missing {_some(missing)}; unexpected {_some(unexpected)}")
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            there, here = tuple(weights[name].shape), tuple(tensor.shape)
            raise BundleError(f"{source} does not fit its model: {name} has shape {there}, the model {here}")
    model.load_state_dict(dict(weights), strict=True)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dictionary from safetensors, with aliased names put back.

    Raises:
        BundleError: Not a safetensors file, or an alias of a tensor that is not there.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
            aliases = json.loads((stream.metadata() or {}).get(ALIASES, "{}"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not a readable safetensors file ({error}); {COPY_AGAIN}") from error
    for name, kept in aliases.items():
        if kept not in weights or name in weights:
            raise BundleError(f"{path}: {name} is declared an alias of {kept}, which cannot be; {COPY_AGAIN}")
        weights[name] = weights[kept]
    return weights


def _listed_files(folder: Path) -> dict[str, str]:
    if not (folder / CHECKSUMS).is_file():
        raise BundleError(f"{folder} is not a bundle: it holds no {CHECKSUMS}")
    content = _read_json(folder, CHECKSUMS)
    listed = content.get("sha256")
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        raise BundleError(f"{folder / CHECKSUMS} does not list checksums; {COPY_AGAIN}")
    for name in listed:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
            raise BundleError(f"{folder / CHECKSUMS} lists {name!r}, which is not a file inside the bundle")
    missing = [name for name in (METADATA, SPEC) if name not in listed]
    if missing:
        raise BundleError(f"{folder / CHECKSUMS} does not list {missing[0]}; {COPY_AGAIN}")
    return listed


def _verify(folder: Path, listed: Mapping[str, str]) -> None:
    """Every listed file is there, unchanged and not a link; nothing else lies beside the settings and weights."""
    for name, expected in listed.items():
        path = folder / name
        inside = path.resolve() == folder.resolve() / name
        if not path.is_file() or not inside:
            raise BundleError(f"{path} is missing{'' if inside else ' (a link stands there)'}; {COPY_AGAIN}")
        found = sha256_of(path)
        if found != expected:
            raise BundleError(f"{path} was changed (sha256 {found[:12]}, written as {expected[:12]}); {COPY_AGAIN}")
    for room in ("configs", "models"):
        for path in sorted((folder / room).rglob("*")):
            if not path.is_dir() and path.relative_to(folder).as_posix() not in listed:
                raise BundleError(f"{path} does not belong to the bundle (not in {CHECKSUMS}); remove it")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing; {COPY_AGAIN}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({error}); {COPY_AGAIN}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} does not hold a JSON object; {COPY_AGAIN}")
    return content


def _digest(listed: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(listed.items()))).encode()).hexdigest()


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
