"""Weights that other programs saved: state dictionaries of PyTorch, read without running what a pickle may ask for."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypoxnet.bundle.bounds import shortened
from hypoxnet.bundle.weights import read_weights
from hypoxnet.errors import ConfigError

# In folders of MONAI bundles, and of a fold of nnU-Net.
IN_FOLDERS = ("models/model.safetensors", "models/model.pt", "checkpoint_final.pth", "checkpoint_best.pth")
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
# Under which programs keep the weights beside the state of an optimiser.
WITHIN = ("network_weights", "state_dict", "model_state_dict", "model", "network", "net")
# What wrappers (several devices, a compiler, a Lightning module) put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
LARGEST_PICKLE = 64 * 2**20

# Everything that a pickle of tensors, numbers and words asks for.
HARMLESS = re.compile(
    r"collections OrderedDict|_codecs encode|__builtin__ set|builtins set|torch Size|torch device|"
    r"torch\._utils _rebuild_(tensor_v2|parameter)|torch\.nn\.parameter Parameter|"
    r"torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage|torch\.storage UntypedStorage|"
    r"torch (float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)|"
    r"numpy\.(_core|core)\.multiarray scalar|numpy dtype"
)
PROGRAMS = ("INST", "OBJ", "STACK_GLOBAL", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")


class _Forgotten:
    """Stands for a number of numpy: nnU-Net keeps figures of each epoch, which nobody needs here."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


FORGOTTEN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Forgotten, name) for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a file of PyTorch or safetensors, or in a folder of MONAI or nnU-Net.

    Args:
        path: The file or the folder.

    Returns:
        Name to tensor, without the prefixes of wrappers, on the CPU; only floating and whole numbers.

    Raises:
        ConfigError: No such file, one that asks for more than tensors, numbers and words, or that holds no weights.
        BundleError: A safetensors file that is none.
    """
    path = _file_of(path)
    if path.suffix == ".safetensors":
        weights: Mapping[str, Any] = read_weights(path)
    else:
        _refuse_programs(path)
        weights = _weights_within(_loaded(path), path)
    tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise ConfigError(f"training.start={path} holds no weights by name; give a state dictionary")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"training.start={path}: {shortened(name)} is not finite; that training has diverged")
    return _without_prefixes(tensors)


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        if found is None:
            raise ConfigError(
                f"training.start={path} is neither a bundle (no checksums.json) nor a folder with "
                f"{' or '.join(IN_FOLDERS)}"
            )
        return found
    if not path.is_file():
        raise ConfigError(f"training.start={path} does not exist; give a bundle, or a file of weights")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"training.start={path} must end in {', '.join(SUFFIXES)}, or be a folder")
    return path


def _refuse_programs(path: Path) -> None:
    """Refuse a file that asks for anything but tensors, and one that unpacks to more than it is.

    The pickle is parsed and not run; PyTorch's loader for weights only then refuses a second time.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(re.search(r"(^|/)code/|constants\.pkl$", part.filename) for part in parts):
                raise ConfigError(f"training.start={path} is TorchScript, a program; give its state dictionary")
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise ConfigError(
                    f"training.start={path} is packed, which PyTorch does not do; give the file as it was saved"
                )
            pickles = [part for part in parts if part.filename.endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
                raise ConfigError(f"training.start={path} is not one state dictionary that torch.save wrote")
            asked = _asked_for(archive.read(pickles[0]))
    except (zipfile.BadZipFile, OSError, ValueError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"training.start={path} is not a file that torch.save writes since PyTorch 1.6 "
            f"({shortened(str(error), 100)}); load it where it comes from and save its state dictionary again"
        ) from error
    strange = [name for name in asked if not HARMLESS.fullmatch(name)]
    if strange:
        raise ConfigError(
            f"training.start={path} asks for {shortened(strange[0].replace(' ', '.'))}, which weights do not need; "
            "nothing of it was run; load it where it comes from and save its state dictionary alone"
        )


def _asked_for(content: bytes) -> list[str]:
    """Functions and classes that a pickle names."""
    asked = []
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL":
            asked.append(str(argument))
        elif operation.name in PROGRAMS:
            asked.append(f"pickle {operation.name}")
    return asked


def _loaded(path: Path) -> Any:
    try:
        # Mapped, so that what is not used is never read.
        with torch.serialization.safe_globals(FORGOTTEN):
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a hostile file may fail anywhere in the loader
        reason = shortened(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
        raise ConfigError(f"training.start={path} cannot be read as weights ({reason})") from error


def _weights_within(content: Any, path: Path) -> Mapping[str, Any]:
    for key in WITHIN:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"training.start={path} holds a {type(content).__name__}, not weights by name")
    return content


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what every one of them begins with."""
    found = dict(tensors)
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            return found
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
