"""Symmetric systems of a few unknowns, one per voxel, solved for all voxels at once.

`torch.linalg` solves batches of tiny matrices one by one on a CPU; unrolled over the unknowns instead, every step is a
sweep over voxels.

Axis legend: P unknowns, N voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cholesky(matrix: Tensor) -> Tensor:
    """Lower factor of P x P x N positive definite matrices; a pivot that is not positive is lifted to a tiny one."""
    size = matrix.shape[0]
    tiny = torch.finfo(matrix.dtype).eps
    lower = torch.zeros_like(matrix)
    for column in range(size):
        pivot = matrix[column, column] - (lower[column, :column] ** 2).sum(0)
        floor = (tiny * matrix[column, column]).clamp(min=torch.finfo(matrix.dtype).tiny)
        lower[column, column] = torch.sqrt(torch.maximum(pivot, floor))
        for row in range(column + 1, size):
            inner = (lower[row, :column] * lower[column, :column]).sum(0)
            lower[row, column] = (matrix[row, column] - inner) / lower[column, column]
    return lower


def solve_factored(lower: Tensor, right: Tensor) -> Tensor:
    """Solution of L L^T x = right.

    Args:
        lower: P x P x N, from `cholesky`.
        right: P x N.

    Returns:
        P x N.
    """
    size = lower.shape[0]
    solution = torch.empty_like(right)
    for row in range(size):
        solution[row] = (right[row] - (lower[row, :row] * solution[:row]).sum(0)) / lower[row, row]
    for row in reversed(range(size)):
        below = (lower[row + 1 :, row] * solution[row + 1 :]).sum(0)
        solution[row] = (solution[row] - below) / lower[row, row]
    return solution


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution of P x P x N systems with right sides P x N, after scaling to a unit diagonal.

    Example:
        >>> matrix = torch.tensor([[4.0, 2.0], [2.0, 3.0]])[..., None]
        >>> [round(x, 4) for x in solve(matrix, torch.tensor([[8.0], [7.0]]))[:, 0].tolist()]
        [1.25, 1.5]
    """
    scale = diagonal(matrix).clamp(min=torch.finfo(matrix.dtype).tiny).rsqrt()
    scaled = matrix * scale[:, None] * scale[None]
    return solve_factored(cholesky(scaled), right * scale) * scale


def inverse_diagonal(matrix: Tensor) -> Tensor:
    """Diagonal of the inverse, P x N."""
    size = matrix.shape[0]
    unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    columns = [solve(matrix, unit[row][:, None].expand(-1, matrix.shape[2]))[row] for row in range(size)]
    return torch.stack(columns)


def diagonal(matrix: Tensor) -> Tensor:
    """P x N view of the diagonal of P x P x N."""
    return torch.diagonal(matrix).movedim(-1, 0)
