"""Where inference runs."""

from __future__ import annotations

import torch

from hypoxnet.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is the first CUDA device, or the CPU where there is none.

    Raises:
        ConfigError: No device has this name, or this machine has no such device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"inference.device is {name!r}, which this machine or this build of torch does not have; use auto or cpu"
        ) from error
    return device
