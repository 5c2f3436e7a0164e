"""Where each voxel of a fit stands: its parameters, the squares that are left, and the damping of its next step.

Axis legend: P parameters, T samples, N voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hypoxnet.maps.small_matrices import solve


@dataclass(slots=True)
class VoxelState:
    """The voxels still in work.

    Args:
        values: P x N.
        cost: N, weighted sum of squares.
        gradient: P x N, the direction of descent: half the negative gradient of the cost.
        curvature: P x P x N, products of the Jacobian.
        damping: N, relative to the diagonal of the curvature.
        growth: N, by which the damping grows when a step fails.
    """

    values: Tensor
    cost: Tensor
    gradient: Tensor
    curvature: Tensor
    damping: Tensor
    growth: Tensor
    finished: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.finished = torch.zeros_like(self.cost, dtype=torch.bool)

    def select(self, index: Tensor) -> VoxelState:
        """Some of the voxels, none of them finished."""
        return VoxelState(
            self.values[:, index],
            self.cost[index],
            self.gradient[:, index],
            self.curvature[:, :, index],
            self.damping[index],
            self.growth[index],
        )

    def write_into(self, whole: VoxelState, index: Tensor) -> None:
        """Put these voxels back where they were selected from."""
        whole.values[:, index] = self.values
        whole.cost[index] = self.cost
        whole.gradient[:, index] = self.gradient
        whole.curvature[:, :, index] = self.curvature
        whole.finished[index] = self.finished

    def held(self, low: Tensor, high: Tensor) -> Tensor:
        """P x N, parameters that are fixed, or stand on a bound and would go beyond it."""
        beyond = ((self.values <= low) & (self.gradient < 0)) | ((self.values >= high) & (self.gradient > 0))
        return beyond | (low >= high)

    def damped_step(self, held: Tensor) -> Tensor:
        """P x N, the step of Levenberg and Marquardt; 0 for what is held."""
        curvature = without_held(self.curvature, held)
        tiny = torch.finfo(curvature.dtype).tiny
        for row in range(len(held)):
            curvature[row, row] += self.damping * curvature[row, row].clamp(min=tiny)
        return solve(curvature, torch.where(held, 0.0, self.gradient))

    def accept(self, trial: VoxelState, better: Tensor, gain: Tensor) -> None:
        """Go where the trial is better, and ease the damping there by Nielsen's rule; elsewhere raise it."""
        self.values = torch.where(better, trial.values, self.values)
        self.cost = torch.where(better, trial.cost, self.cost)
        self.gradient = torch.where(better, trial.gradient, self.gradient)
        self.curvature = torch.where(better, trial.curvature, self.curvature)
        eased = self.damping * (1 - (2 * gain.clamp(0, 1) - 1) ** 3).clamp(min=1 / 3)
        self.damping = torch.where(better, eased, self.damping * self.growth).clamp(min=1e-12)
        self.growth = torch.where(better, torch.full_like(self.growth, 2.0), 2 * self.growth)


def sums_of_products(left: Tensor, right: Tensor) -> Tensor:
    """P x P x N sums over samples of the products of rows, P x T x N each; symmetric, so half is computed."""
    size = len(left)
    out = left.new_empty(size, size, left.shape[2])
    for row in range(size):
        for column in range(row + 1):
            torch.sum(left[row] * right[column], 0, out=out[row, column])
            if column < row:
                out[column, row] = out[row, column]
    return out


def without_held(curvature: Tensor, held: Tensor) -> Tensor:
    """The curvature with held parameters cut out: zero rows and columns, 1 on the diagonal.

    Example:
        >>> without_held(torch.ones(2, 2, 1), torch.tensor([[False], [True]]))[..., 0].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    free = (~held).to(curvature.dtype)
    cut = curvature * free[:, None] * free[None]
    for row in range(len(held)):
        cut[row, row] += held[row].to(curvature.dtype)
    return cut
