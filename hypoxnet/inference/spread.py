"""How far the networks of an ensemble, and mirror images, are apart: what of a prediction is theirs and not the case's.

It is no confidence interval. Members differ by what they were shown and drawn; what all of them get wrong is not in it.

Axis legend: K regions, d h w voxels of the box, R members, J causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.inference.read_outs import native_values
from hypoxnet.inference.windows import Box
from hypoxnet.transforms.prepare import PreparedCase, onto
from hypoxnet.transforms.settings import PrepareSettings


@dataclass(slots=True)
class Passes:
    """Mean and standard deviation of the probabilities of all passes (members x mirror images), one after another.

    Args:
        mean: K d h w.
        squares: Sum of squared differences from the mean (Welford 1962), which small probabilities do not cancel.
        count: Passes so far.
    """

    mean: Tensor | None = None
    squares: Tensor | None = None
    count: int = 0

    def add(self, probability: Tensor) -> None:
        """Add a pass, K d h w.

        Example:
            >>> passes = Passes()
            >>> for level in (0.2, 0.4):
            ...     passes.add(torch.full((1, 1, 1, 1), level))
            >>> round(float(passes.deviation), 6)
            0.1
        """
        self.count += 1
        if self.mean is None or self.squares is None:
            self.mean, self.squares = probability.clone(), torch.zeros_like(probability)
            return
        away = probability - self.mean
        self.mean += away / self.count
        self.squares += away * (probability - self.mean)

    @property
    def deviation(self) -> Tensor | None:
        """Standard deviation over the passes, K d h w; None of a single one."""
        return None if self.squares is None or self.count < 2 else (self.squares / self.count).clamp(min=0).sqrt()


class Members:
    """Volumes that each member outlines by itself.

    Args:
        case: As prepared; its contour keeps its own voxels.
        settings: Names of regions.
        threshold: Probability at and above which a voxel belongs to a region.
        several: There are several members; the only one is the mean itself, and is not measured again.
    """

    def __init__(self, case: PreparedCase, settings: PrepareSettings, threshold: float, *, several: bool) -> None:
        self._case = case
        self._settings = settings
        self._threshold = threshold
        self._several = several
        inside = several and settings.inside_tumour and case.contour is not None
        self._within = onto(*case.contour, case.reference) if inside and case.contour is not None else None
        self._volumes_ml: list[list[float]] = []

    def add(self, probability: Tensor, box: Box) -> None:
        """Measure a member's regions on the reference grid, K d h w inside a box of the working grid."""
        if self._several:
            native = native_values(probability, box, self._case, within=self._within)
            voxels = (native >= self._threshold).sum(dim=(1, 2, 3))
            self._volumes_ml.append((voxels.double() * self._case.reference.voxel_ml).tolist())

    def describe(self, spec: BundleSpec, at_horizon: list[list[float]], *, passes: int) -> dict[str, Any] | None:
        """For the JSON of a case; None where one network looked once.

        Args:
            spec: The bundle.
            at_horizon: Per member, incidence of each cause at the horizon; empty without an outcome head.
            passes: Members x mirror images.
        """
        if passes < 2:
            return None
        content: dict[str, Any] = {"members": spec.members, "passes": passes}
        if self._several:
            content["volume_ml"] = _ranges(self._settings.region_names, self._volumes_ml)
            content["at_horizon"] = _ranges(spec.causes, at_horizon)
        return content


def no_spread() -> str:
    """Why a single network says nothing of its spread."""
    return (
        "one network without mirror images was applied: nothing is known of the spread of its prediction; an ensemble "
        "(split=crossval) or inference.mirror=true gives one"
    )


def _ranges(names: Sequence[str], by_member: list[list[float]]) -> dict[str, dict[str, float]]:
    """Of each name, from a list of members with a value per name."""
    return {
        name: {"lowest_of_members": round(min(values), 6), "highest_of_members": round(max(values), 6)}
        for name, values in zip(names, zip(*by_member, strict=True), strict=True)
    }
