"""The words of the digital reference object: what one link of the chain hands to the next.

Axis legend: D H W voxels of the object's own grid (RAS+), Q nodes of the distribution of pO2 inside a voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from hypoxnet.cases import Outcome
from hypoxnet.geometry import Grid


class Tissue(IntEnum):
    """What a voxel of the object consists of."""

    OUTSIDE = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    AIRWAY = 4
    ARTERY = 5
    VEIN = 6
    CORD = 7
    GLAND = 8
    SOFT = 9
    TUMOUR = 10
    NODE = 11


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where everything is.

    Args:
        grid: Grid of the object.
        tissue: D H W, uint8, codes of `Tissue`.
        primary: D H W, bool, gross tumour volume of the primary.
        nodes: D H W, uint8, 0 outside, else the number of an involved node from 1 on.
        muscle_reference: D H W, bool: muscle away from tumour and vessels, for ratios.
        blood_reference: D H W, bool: inside of the great vessels, for ratios.
        depth_mm: D H W, distance from the rim of the tumour (primary or node) inwards, 0 outside.
        subsite: Place of the primary.
        dose_gy: D H W, planned dose where a real plan gives it.
    """

    grid: Grid
    tissue: Tensor
    primary: Tensor
    nodes: Tensor
    muscle_reference: Tensor
    blood_reference: Tensor
    depth_mm: Tensor
    subsite: str
    dose_gy: Tensor | None = None

    @property
    def tumour(self) -> Tensor:
        """Primary and nodes, D H W, bool."""
        return self.primary | (self.nodes > 0)

    @property
    def body(self) -> Tensor:
        """Everything but outside and airway, D H W, bool."""
        return (self.tissue != Tissue.OUTSIDE) & (self.tissue != Tissue.AIRWAY)

    def is_a(self, *tissues: Tissue) -> Tensor:
        """Voxels of these tissues, D H W, bool."""
        return torch.isin(self.tissue, torch.tensor([int(t) for t in tissues], dtype=torch.uint8))


@dataclass(frozen=True, slots=True)
class Vasculature:
    """Vessels that a voxel holds.

    Args:
        radius_um: D H W, half the distance between vessels (radius of the tissue cylinder of one), um.
        flow: D H W, blood flow, ml/100ml/min.
        viable: D H W, share of the tissue that is not necrotic, 0 to 1.
        acute: D H W, share of the supply that is lost at the trough of a cycle, 0 to 1.
        phase: D H W, place in the cycle at time 0, 0 to 1.
    """

    radius_um: Tensor
    flow: Tensor
    viable: Tensor
    acute: Tensor
    phase: Tensor


@dataclass(frozen=True, slots=True)
class Oxygenation:
    """Oxygen of every voxel, with its distribution inside.

    Args:
        po2: D H W, mean over the tissue of the voxel, mmHg.
        nodes: Q D H W, pO2 at nodes of equal weight; their mean is `po2`.
    """

    po2: Tensor
    nodes: Tensor

    def mean_of(self, response: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over each voxel's distribution of a response to local pO2, D H W.

        Example:
            >>> half = Oxygenation(torch.tensor([[[5.0]]]), torch.tensor([[[[0.0]]], [[[10.0]]]]))
            >>> float(half.mean_of(lambda p: p**2))
            50.0
        """
        return response(self.nodes).mean(dim=0)

    def share_below(self, mmhg: float) -> Tensor:
        """Share of each voxel's tissue below a pO2, D H W, 0 to 1.

        Example:
            >>> half = Oxygenation(torch.tensor([[[5.0]]]), torch.tensor([[[[0.0]]], [[[10.0]]]]))
            >>> float(half.share_below(2.5))
            0.5
        """
        return (self.nodes < mmhg).float().mean(dim=0)


@dataclass(frozen=True, slots=True)
class RawSeries:
    """Raw signal as a scanner hands it on.

    Args:
        name: Column of the manifest, `RAW_R2STAR` and so on.
        signal: T D H W, arbitrary scale.
        sidecar: How it was taken, keys of BIDS.
    """

    name: str
    signal: Tensor
    sidecar: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ImagedVisit:
    """What was imaged on one day.

    Args:
        name: Of the visit.
        images: Quantity to voxels (D H W) and grid; what was not measured is left out.
        masks: Mask to voxels and grid.
        raw: Raw series and their grids.
    """

    name: str
    images: Mapping[str, tuple[Tensor, Grid]]
    masks: Mapping[str, tuple[Tensor, Grid]]
    raw: Mapping[str, tuple[RawSeries, Grid]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phantom:
    """One patient: what was measured, and the truth.

    Args:
        case_id: Name.
        site: Hospital.
        visits: In the order of time.
        outcome: What was observed of locoregional control.
        outcomes: Every end point, one row of `outcomes.csv`.
        covariates: Those that are known.
        truth: Numbers behind everything, for `truth.json`.
        truth_maps: Maps of the truth on the object's own grid.
    """

    case_id: str
    site: str
    visits: tuple[ImagedVisit, ...]
    outcome: Outcome
    outcomes: Mapping[str, Any]
    covariates: Mapping[str, float]
    truth: Mapping[str, Any]
    truth_maps: Mapping[str, tuple[Tensor, Grid]]
