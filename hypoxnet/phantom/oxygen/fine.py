"""The fine model: a piece of tissue with every capillary in it, which calibrates the model of whole voxels.

Straight capillaries run along the three axes, in a cell that repeats itself. Regular, they form the cubic packing of
rods in which no two touch; disorder moves each of them at random. A capillary is one voxel thick, and the voxel is as
wide as the capillary, twice its radius. The links from it to the four voxels around it carry pi/2 / ln(0.955 h/r)
instead of 1: then the logarithmic profile around a vessel of radius r is met exactly, where a plain fixed voxel would
act as a vessel of 0.198 h. (Ding and Renard have h/r; on a grid, the four neighbours lie on the profile at 0.955 h.
The difference is 1.5 to 5 % of the exchange.)
Vessel walls and plasma put up no resistance, and a vessel has one pressure along its way.

Axis legend: D H W voxels, all axes equally long.

Source:
    Peaceman 1978, SPE J 18:183 (the radius that a fixed voxel has). Ding and Renard 1994, ECMOR IV (the links).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.phantom.oxygen.solver import PERIODIC, Balance, Steady, solve
from hypoxnet.phantom.parameters.oxygen import Oxygen

# Side of a piece of tissue that is aimed at; two cells of the lattice at least, so that disorder has its way.
SIDE_UM = 800.0
FEWEST_CELLS = 2
# In float64: what is tabulated should not carry the rounding of float32.
TOLERANCE = 1e-4
# The logarithm around a line source on a square grid: its four neighbours have the value that the exact profile has at
# this many voxels, e^(pi/2 - gamma) / sqrt(8) = 0.955, and not at 1.
BESIDE = math.exp(0.5 * math.pi - np.euler_gamma) / math.sqrt(8.0)


@dataclass(frozen=True, slots=True)
class Piece:
    """The measures of a piece of tissue.

    Args:
        voxel_um: Twice the radius of a capillary.
        voxels: Along each side.
        cells: Of the lattice along each side; each holds one capillary of each direction.
    """

    voxel_um: float
    voxels: int
    cells: int

    @classmethod
    def near(cls, radius_um: float, oxygen: Oxygen) -> Piece:
        """The piece whose R is nearest to a wanted one.

        Example:
            >>> round(Piece.near(58.0, Oxygen()).radius_um, 1)
            57.8
        """
        # Three capillaries per cell and square of its side: 3 / a^2 = 1 / (pi R^2).
        cell_um = radius_um * math.sqrt(3.0 * math.pi)
        cells = max(FEWEST_CELLS, round(SIDE_UM / cell_um))
        voxel_um = 2.0 * oxygen.capillary_radius_um
        return cls(voxel_um, round(cells * cell_um / voxel_um), cells)

    @property
    def radius_um(self) -> float:
        """R: the length of capillaries per volume is 1 / (pi R^2)."""
        return self.voxels * self.voxel_um / (self.cells * math.sqrt(3.0 * math.pi))


@dataclass(frozen=True, slots=True)
class FineState:
    """Oxygen of a piece of tissue.

    Args:
        po2: Of every voxel without a capillary, flat, mmHg.
        around: Volume of tissue in the voxels of capillaries, which has their pressure, in voxels.
        mean_mmhg: Mean pO2 of tissue.
        consumption_mmhg_per_s: Mean consumption of tissue.
        supply_mmhg_per_s: What the vessels give off, per volume of tissue.
        steady: As solved.
    """

    po2: Tensor
    around: float
    mean_mmhg: float
    consumption_mmhg_per_s: float
    supply_mmhg_per_s: float
    steady: Steady


def place_capillaries(piece: Piece, *, disorder: float, generator: np.random.Generator) -> Tensor:
    """Voxels of capillaries.

    Args:
        piece: Measures of the tissue.
        disorder: SD of a capillary's distance from its place in the lattice along each axis, in cells.
        generator: Source of randomness.

    Returns:
        D H W, bool. No two capillaries of one direction share a place; those of different directions may cross.
    """
    capillaries = torch.zeros((piece.voxels,) * 3, dtype=torch.bool)
    for axis in range(3):
        taken = torch.zeros((piece.voxels,) * 2, dtype=torch.bool)
        for cell in np.ndindex(piece.cells, piece.cells):
            site = np.add(cell, (0.25, 0.75))
            place = _place(site, piece, disorder=disorder, generator=generator)
            while taken[place]:
                place = _place(site, piece, disorder=disorder, generator=generator)
            taken[place] = True
        # Rods along an axis lie at 1/4 of a cell along the next axis and at 3/4 along the one after: none touch.
        across = taken if axis != 1 else taken.T
        capillaries |= across.unsqueeze(axis)
    return capillaries


def _place(
    site: NDArray[np.float64], piece: Piece, *, disorder: float, generator: np.random.Generator
) -> tuple[int, int]:
    moved = site + disorder * generator.standard_normal(2)
    row, column = (int(n) % piece.voxels for n in np.floor(moved * piece.voxels / piece.cells))
    return row, column


def vessel_links_per_s(capillaries: Tensor, oxygen: Oxygen, *, voxel_um: float) -> Tensor:
    """Exchange of every voxel of tissue with the capillaries beside it, 1/s.

    Args:
        capillaries: D H W, bool, straight ones; the volume repeats itself.
        oxygen: D and the radius of a capillary.
        voxel_um: Voxel, wider than the radius.
    """
    link = 0.5 * math.pi / math.log(BESIDE * voxel_um / oxygen.capillary_radius_um)
    beside = torch.zeros(capillaries.shape, dtype=torch.float64)
    for axis in range(3):
        for shift in (-1, 1):
            beside += torch.roll(capillaries, shift, axis)
    return beside * ~capillaries * (link * oxygen.diffusion_um2_per_s / voxel_um**2)


def solve_fine(
    capillaries: Tensor, oxygen: Oxygen, *, vessel_mmhg: float, voxel_um: float, start: Tensor | None = None
) -> FineState:
    """Oxygen of tissue with explicit capillaries.

    Args:
        capillaries: D H W, bool.
        oxygen: Diffusion and consumption.
        vessel_mmhg: pO2 in the capillaries.
        voxel_um: Voxel.
        start: D H W, pO2 to start from.
    """
    consumption, half = oxygen.consumption_mmhg_per_s, oxygen.half_mmhg
    links = vessel_links_per_s(capillaries, oxygen, voxel_um=voxel_um)
    vessel, largest, at_half = (
        torch.tensor(float(value), dtype=torch.float64) for value in (vessel_mmhg, consumption, half)
    )
    balance = Balance(
        spacing_um=(voxel_um,) * 3,
        diffusion_um2_per_s=oxygen.diffusion_um2_per_s,
        supply_per_s=links,
        vessel_mmhg=vessel,
        consumption_mmhg_per_s=largest,
        half_mmhg=at_half,
        inside=~capillaries,
        border=PERIODIC,
    )
    steady = solve(balance, tolerance=TOLERANCE, start=start)
    po2 = steady.po2[~capillaries]
    # A voxel is wider than the capillary in it; the rest of it is tissue at the wall.
    around = int(capillaries.sum()) * (1.0 - math.pi * oxygen.capillary_radius_um**2 / voxel_um**2)
    volume = po2.numel() + around
    consumed_around = consumption * vessel_mmhg / (vessel_mmhg + half) * around
    given = float((links * (vessel_mmhg - steady.po2)).sum())
    return FineState(
        po2=po2,
        around=around,
        mean_mmhg=(float(po2.sum()) + around * vessel_mmhg) / volume,
        consumption_mmhg_per_s=(float((consumption * po2 / (po2 + half)).sum()) + consumed_around) / volume,
        supply_mmhg_per_s=(given + consumed_around) / volume,
        steady=steady,
    )
