"""Welch's test of two groups of volumes in every voxel.

Axis legend: T volumes, voxels after them in any shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtr
from torch import Tensor

from hypoxnet.errors import MapError

# A variance of two volumes has one degree of freedom: its t distribution has no mean.
LEAST_VOLUMES = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """Mean and variance of some volumes, float64; nan where one of them is not finite.

    Args:
        mean: Voxels, in the unit of the series.
        variance: Voxels, in the square of that unit, with `count - 1` degrees of freedom.
        count: Number of volumes.
    """

    mean: Tensor
    variance: Tensor
    count: int

    @classmethod
    def of(cls, series: Tensor, chosen: Sequence[int], name: str) -> Sample:
        """Of the chosen volumes of a series T x voxels.

        Args:
            series: T x voxels of any shape.
            chosen: Indices of volumes.
            name: What they were measured on, for the message.

        Raises:
            MapError: Fewer than 3 volumes are chosen.
        """
        if len(chosen) < LEAST_VOLUMES:
            raise MapError(f"{len(chosen)} volumes on {name}, a test needs {LEAST_VOLUMES}; measure more of them")
        # One volume at a time in float64: the whole series would double the memory.
        mean = sum((series[i].double() for i in chosen), torch.zeros_like(series[0], dtype=torch.float64)) / len(chosen)
        squares = sum(((series[i].double() - mean) ** 2 for i in chosen), torch.zeros_like(mean))
        # What is left of rounding is no scatter; nan stays nan.
        squares = torch.where(
            squares > len(chosen) * (4 * torch.finfo(mean.dtype).eps * mean) ** 2, squares, 0 * squares
        )
        return cls(mean, squares / (len(chosen) - 1), len(chosen))


def welch(after: Sample, before: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the mean rose, variances not taken as equal.

    Args:
        after: Volumes expected to be higher.
        before: Volumes to compare with.

    Returns:
        t, degrees of freedom after Welch and Satterthwaite, and one-sided p: how often chance alone gives such an
        increase. Voxels each, float64; nan where nothing scatters.

    Source:
        Welch 1947, Biometrika 34:28.

    Example:
        >>> series = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
        >>> t, degrees, p = welch(Sample.of(series, [3, 4, 5], "oxygen"), Sample.of(series, [0, 1, 2], "air"))
        >>> round(t.item(), 4), round(degrees.item(), 1), round(p.item(), 4)
        (3.6742, 4.0, 0.0107)
    """
    parts = [sample.variance / sample.count for sample in (after, before)]
    total = parts[0] + parts[1]
    t = torch.where(total > 0, (after.mean - before.mean) / torch.sqrt(total), float("nan"))
    degrees = total**2 / (parts[0] ** 2 / (after.count - 1) + parts[1] ** 2 / (before.count - 1))
    p = torch.from_numpy(stdtr(degrees.cpu().reshape(-1).numpy(), -t.cpu().reshape(-1).numpy()))
    return t, degrees, p.reshape(t.shape).to(t.device)
