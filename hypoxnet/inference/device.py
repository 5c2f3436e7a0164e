"""Where inference runs."""

from __future__ import annotations

import os

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


# A GPU predicts a case faster than one thread prepares it; more cases than this in memory are no faster.
MOST_AHEAD = 4


def cases_ahead_on(device: torch.device) -> int:
    """How many cases are prepared ahead: one where the CPU predicts, on a GPU as many as there are cores for it.

    Example:
        >>> cases_ahead_on(torch.device("cpu"))
        1
    """
    return 1 if device.type == "cpu" else max(1, min(MOST_AHEAD, (os.cpu_count() or 1) // 2))
