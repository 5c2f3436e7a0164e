"""A network without the memory of its weights: their names, shapes and types."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from hypoxnet.errors import ConfigError
from hypoxnet.models.build import build_model
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.spec import ModelSpec

# Small whatever the spec. Networks of MONAI read rates of dropout from the first, one by one; the second, and a draw,
# would have torch import its compiler, which takes a second.
HERE = (torch.linspace, torch.eye)
DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


class _Bones(TorchFunctionMode):
    """Rows of numbers and unit matrices stay on the CPU, and nothing is drawn into a tensor that has no memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in DRAWS and args[0].is_meta:
            return args[0]
        if func in HERE:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def skeleton_of(spec: ModelSpec, *, most: int) -> HypoxNet:
    """A network on the `meta` device, where a tensor has a shape and no memory.

    Args:
        spec: The network.
        most: So many parameters at most; building stops at the first one more, whatever the spec asks for.

    Raises:
        ConfigError: The network has more parameters, its backbone is unknown or refuses its options.

    Example:
        >>> from hypoxnet.models.config import ModelConfig, OutcomeConfig
        >>> huge = ModelConfig(features=[4096, 4096], blocks=[1, 1], deep_supervision=0)
        >>> spec = ModelSpec(huge, OutcomeConfig(), 1, 1, 0, (12.0,), (3.0, 3.0, 3.0))
        >>> weights = skeleton_of(spec, most=100).state_dict()
        >>> weights["backbone.encoder.levels.1.0.second.weight"].shape
        torch.Size([4096, 4096, 3, 3, 3])
    """
    seen: dict[int, nn.Parameter] = {}

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        # By identity, and kept alive: initialisation assigns the same parameter again.
        seen[id(parameter)] = parameter
        if len(seen) > most:
            raise ConfigError(f"the network that is described has more than {most} parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), _Bones():
            return build_model(spec)
    finally:
        hook.remove()
