"""Reading a bundle: checksums first, then JSON and safetensors; nothing in it is ever executed.

A bundle may come from anywhere. Nothing is allocated because a file says so: files have a largest size, values in JSON
are bounded, and the network is laid out without memory and compared with the headers of the weights before either is
made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from hypoxnet.bundle.bounds import DEEPEST, finite_float, shortened, walk
from hypoxnet.bundle.metadata import check_metadata
from hypoxnet.bundle.schema import CHECKSUMS, METADATA, SPEC, BundleSpec, weights_name
from hypoxnet.bundle.weights import COPY_AGAIN, Stored, read_header, read_weights, refuse_misfit
from hypoxnet.errors import BundleError, HypoxNetError
from hypoxnet.files import sha256_of
from hypoxnet.models.backbones import others_backbones
from hypoxnet.models.build import build_model
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.skeleton import skeleton_of

log = logging.getLogger(__name__)

# A description is some 10 kB, with the figures of a run some 100 kB.
LARGEST_TEXT = 4 * 2**20
MOST_FILES = 1000
SHA256 = re.compile(r"[0-9a-f]{64}")
# Besides the description: the weights, and text for people.
BELONGS = re.compile(r"models/model_(0|[1-9]\d{0,3})\.safetensors|docs/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.(md|txt|png)")
# Files that some program would run or unpickle; a bundle has no use for them, wherever they lie.
PROGRAMS = {
    *(".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".ts", ".npy", ".npz"),
    *(".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1"),
}


def read_bundle(folder: Path) -> tuple[BundleSpec, tuple[dict[str, torch.Tensor], ...]]:
    """The description and the weights of a bundle, on the CPU.

    Args:
        folder: The bundle.

    Returns:
        The description with its `digest`, and one state dictionary per member of the ensemble; each fits the network
        that the description says, name by name, shape by shape.

    Raises:
        BundleError: No bundle, a file that is missing, changed or not listed, a newer format, values that no bundle
            has, or weights of another network. The sentence names the file.
    """
    listed = _listed_files(folder)
    _verify(folder, listed)
    _refuse_strangers(folder, listed)
    about, content = _read_json(folder, METADATA), _read_json(folder, SPEC)
    try:
        check_metadata(about)
        spec = BundleSpec.from_json(content, digest=_digest(listed))
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    names = [weights_name(member) for member in range(spec.members)]
    unlisted = sorted(set(names) ^ {name for name in listed if name.startswith("models/")})
    if unlisted:
        raise BundleError(
            f"{folder}: {SPEC} names {spec.members} models, which does not fit {unlisted[0]}; {COPY_AGAIN}"
        )
    _refuse_misfits(spec, [folder / name for name in names])
    return spec, tuple(read_weights(folder / name) for name in names)


def read_networks(folder: Path) -> tuple[BundleSpec, tuple[HypoxNet, ...]]:
    """The description and the networks of a bundle, on the CPU, in evaluation mode and without gradients.

    Raises:
        BundleError: As `read_bundle`.

    Example:
        spec, models = read_networks(Path("runs/a/bundle"))
    """
    spec, members = read_bundle(folder)
    models = []
    for member, weights in enumerate(members):
        # Fresh weights are drawn and then replaced: the draw must not disturb the caller's random state.
        with torch.random.fork_rng(devices=[]):
            model = build_model(spec.model)
        load_strictly(model, weights, source=str(folder / weights_name(member)))
        models.append(model.requires_grad_(False).eval())
    return spec, tuple(models)


def load_strictly(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load a state dictionary that must fit exactly.

    Args:
        model: Receives the weights.
        weights: As `read_bundle` returns them.
        source: Name of the weights' file, for the message.

    Raises:
        BundleError: Names are missing or unexpected, or a shape or type differs.
    """
    stored = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
    refuse_misfit(stored, model.state_dict(), source=source)
    model.load_state_dict(dict(weights), strict=True)


def _refuse_misfits(spec: BundleSpec, paths: Sequence[Path]) -> None:
    """Compare what the weights' headers say with the network, while neither takes memory."""
    headers = {path: read_header(path) for path in paths}
    others = others_backbones()
    if spec.model.backbone.backbone in others:
        package = others[spec.model.backbone.backbone].value
        log.warning(
            "the backbone %s of this bundle is code of %s, which is run now", spec.model.backbone.backbone, package
        )
    try:
        # Some networks of MONAI make layers that they replace at once.
        wanted = skeleton_of(spec.model, most=2 * max(map(len, headers.values())) + 100).state_dict()
    except Exception as error:  # whatever MONAI or another package says to options that nobody has tried
        reason = str(error) if isinstance(error, HypoxNetError) else f"{type(error).__name__}: {error}"
        raise BundleError(f"{paths[0]} does not fit its model: {shortened(reason, 300)}") from error
    for path, header in headers.items():
        refuse_misfit(header, wanted, source=str(path))


def _listed_files(folder: Path) -> dict[str, str]:
    if not (folder / CHECKSUMS).is_file():
        raise BundleError(f"{folder} is not a bundle: it holds no {CHECKSUMS}")
    if (folder / CHECKSUMS).is_symlink():
        raise BundleError(f"{folder / CHECKSUMS} is missing (a link stands there); {COPY_AGAIN}")
    content = _read_json(folder, CHECKSUMS)
    listed = content.get("sha256")
    if not isinstance(listed, dict) or not all(isinstance(v, str) and SHA256.fullmatch(v) for v in listed.values()):
        raise BundleError(f"{folder / CHECKSUMS} does not list checksums; {COPY_AGAIN}")
    if len(listed) > MOST_FILES:
        raise BundleError(f"{folder / CHECKSUMS} lists {len(listed)} files, no bundle has more than {MOST_FILES}")
    for name in listed:
        parts, shown = PurePosixPath(name).parts, shortened(repr(name))
        if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
            raise BundleError(f"{folder / CHECKSUMS} lists {shown}, which is not a file inside the bundle")
        if name not in (METADATA, SPEC) and not BELONGS.fullmatch(name):
            raise BundleError(f"{folder / CHECKSUMS} lists {shown}, which no bundle holds")
    missing = [name for name in (METADATA, SPEC) if name not in listed]
    if missing:
        raise BundleError(f"{folder / CHECKSUMS} does not list {missing[0]}; {COPY_AGAIN}")
    return listed


def _verify(folder: Path, listed: Mapping[str, str]) -> None:
    """Every listed file is there, unchanged, not a link, and no larger than such files are."""
    for name, expected in listed.items():
        path = folder / name
        inside = path.resolve() == folder.resolve() / name
        if not path.is_file() or not inside:
            raise BundleError(f"{path} is missing{'' if inside else ' (a link stands there)'}; {COPY_AGAIN}")
        if not name.startswith("models/"):
            _refuse_large(path)
        found = sha256_of(path)
        if found != expected:
            raise BundleError(f"{path} was changed (sha256 {found[:12]}, written as {expected[:12]}); {COPY_AGAIN}")


def _refuse_strangers(folder: Path, listed: Mapping[str, str]) -> None:
    """Nothing that is not listed lies beside the settings and weights, and nowhere a file that is a program."""
    for count, name in enumerate(_files_below(folder)):
        if count > MOST_FILES:
            raise BundleError(f"{folder} holds more than {MOST_FILES} files, which no bundle does; give its own folder")
        beside = name.startswith(("configs/", "models/"))
        if name not in listed and (beside or Path(name).suffix.lower() in PROGRAMS):
            raise BundleError(f"{folder / name} does not belong to the bundle (not in {CHECKSUMS}); remove it")


def _files_below(folder: Path) -> Iterator[str]:
    """Names of everything below that is no folder, one at a time; links are named and not followed."""
    waiting = [""]
    while waiting:
        within = waiting.pop()
        with os.scandir(folder / within) as entries:
            for entry in entries:
                name = f"{within}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    yield name


def _refuse_large(path: Path) -> None:
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise BundleError(f"{path} has {size} bytes, in a bundle it has at most {LARGEST_TEXT}; {COPY_AGAIN}")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        _refuse_large(path)
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_float=finite_float, parse_constant=finite_float)
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing; {COPY_AGAIN}") from error
    except RecursionError as error:
        raise BundleError(f"{path} is nested more than {DEEPEST} deep, which no bundle is; {COPY_AGAIN}") from error
    except BundleError:
        raise
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({shortened(str(error), 200)}); {COPY_AGAIN}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} does not hold a JSON object; {COPY_AGAIN}")
    if any(depth > DEEPEST for depth, _ in walk(content)):
        raise BundleError(f"{path} is nested more than {DEEPEST} deep, which no bundle is; {COPY_AGAIN}")
    return content


def _digest(listed: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(listed.items()))).encode()).hexdigest()
