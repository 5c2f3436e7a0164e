"""Derivatives of a model that has none written out, by forward-mode differentiation.

Axis legend: P parameters, Q values, N voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

# Torch keeps the level of forward-mode differentiation for the whole process: one block at a time may differentiate.
FORWARD_MODE = Lock()


def forward_jacobian(function: Callable[[Tensor], Tensor], values: Tensor) -> tuple[Tensor, Tensor]:
    """A function of P x N values that is separate in each voxel, and its Jacobian by forward-mode differentiation.

    Args:
        function: P x N to Q x N (or T x N), each voxel from its own values only.
        values: P x N.

    Returns:
        Q x N, and P x Q x N.

    Example:
        >>> value, jacobian = forward_jacobian(lambda p: p[:1] * p[1:], torch.tensor([[2.0], [3.0]]))
        >>> value.item(), jacobian[:, 0, 0].tolist()
        (6.0, [3.0, 2.0])
    """
    rows = []
    with FORWARD_MODE:
        for parameter in range(len(values)):
            tangent = torch.zeros_like(values)
            tangent[parameter] = 1.0
            result, row = torch.func.jvp(function, (values,), (tangent,))  # type: ignore[misc]
            rows.append(row)
    return result, torch.stack(rows)
