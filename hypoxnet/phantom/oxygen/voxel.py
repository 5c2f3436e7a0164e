"""Oxygen of the object's voxels: the closure gives the exchange of each, the solver joins them by diffusion.

Cycling supply lowers the pressure in the vessels, p_v (1 - loss); tissue follows within seconds (R^2 / D), so each
moment is a steady state. The mean over a cycle is taken over a few phases, by Gauss-Chebyshev quadrature in the loss.

Axis legend: D H W voxels, Q nodes; ... any axes of voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.oxygen.closure import Closure, Coefficients
from hypoxnet.phantom.oxygen.solver import Balance, local_balance, solve
from hypoxnet.phantom.parameters.oxygen import Oxygen
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature

UM_PER_MM = 1000.0


def oxygenation(
    vasculature: Vasculature,
    anatomy: Anatomy,
    oxygen: Oxygen,
    closure: Closure,
    *,
    vessel_mmhg: float | Tensor | None = None,
    minutes: float | None = None,
) -> Oxygenation:
    """Oxygen of every voxel.

    Air, bone and what lies outside are no tissue; their pO2 is 0. Arteries and veins hold blood of a given pO2. In a
    voxel that is partly necrotic, pO2 is that of the living tissue around its vessels.

    Args:
        vasculature: Vessels.
        anatomy: Where tissue is.
        oxygen: Diffusion, consumption, pressures.
        closure: Made for the same diffusion and consumption.
        vessel_mmhg: pO2 in the capillaries at the crest of a cycle, one or D H W, instead of that of `oxygen`:
            breathing oxygen raises it. Blood of the great vessels is raised by as much.
        minutes: A moment of the cycle; without it, the mean over the cycle, whose nodes are those of each phase.

    Returns:
        pO2 and nodes, Q of them at a moment, Q times `oxygen.cycle_phases` over the cycle.

    Raises:
        ConfigError: The closure was made for other parameters.
    """
    _check_closure(oxygen, closure)
    pressure = oxygen.vessel_mmhg if vessel_mmhg is None else vessel_mmhg
    blood = _blood(anatomy, artery=oxygen.artery_mmhg + pressure - oxygen.vessel_mmhg, vein=pressure)
    inside = ~anatomy.is_a(Tissue.OUTSIDE, Tissue.BONE, Tissue.AIRWAY)
    if minutes is None:
        losses = cycle_losses(vasculature.acute, oxygen)
    else:
        turn = 2.0 * math.pi * (minutes / oxygen.cycle_min + vasculature.phase)
        losses = [0.5 * vasculature.acute * (1.0 - torch.cos(turn))]
    phases = []
    for loss in losses:
        vessel = pressure * (1.0 - loss)
        local = closure.at(vasculature.radius_um, vessel)
        balance = Balance(
            spacing_um=[UM_PER_MM * mm for mm in anatomy.grid.spacing_mm],
            diffusion_um2_per_s=oxygen.diffusion_um2_per_s,
            supply_per_s=local.supply_per_s,
            vessel_mmhg=vessel,
            consumption_mmhg_per_s=torch.tensor(oxygen.consumption_mmhg_per_s),
            half_mmhg=local.half_mmhg,
            inside=inside,
            fixed_mmhg=blood,
        )
        local.nodes[torch.isfinite(blood)] = 1.0
        phases.append((solve(balance).po2, local))
    return _together(phases)


def local_oxygenation(
    radius_um: Tensor,
    *,
    oxygen: Oxygen,
    closure: Closure,
    vessel_mmhg: float | Tensor | None = None,
    acute: Tensor | None = None,
) -> Oxygenation:
    """Oxygen of voxels that exchange none with their neighbours; differentiable in `radius_um` and `acute`.

    Args:
        radius_um: ..., R.
        oxygen: Consumption and pressures.
        closure: Made for the same diffusion and consumption.
        vessel_mmhg: pO2 in the capillaries at the crest of a cycle, one or ..., instead of that of `oxygen`.
        acute: ..., share of the supply that is lost at the trough; without it, the supply does not cycle.

    Raises:
        ConfigError: The closure was made for other parameters.
    """
    _check_closure(oxygen, closure)
    pressure = oxygen.vessel_mmhg if vessel_mmhg is None else vessel_mmhg
    losses = [torch.zeros_like(radius_um)] if acute is None else cycle_losses(acute, oxygen)
    consumption = torch.tensor(oxygen.consumption_mmhg_per_s)
    phases = []
    for loss in losses:
        vessel = pressure * (1.0 - loss)
        local = closure.at(radius_um, vessel)
        phases.append((local_balance(local.supply_per_s, vessel, consumption, local.half_mmhg), local))
    return _together(phases)


def cycle_losses(acute: Tensor, oxygen: Oxygen) -> list[Tensor]:
    """Share of the supply that is lost in phases of equal weight, whose mean stands for that over the cycle.

    Args:
        acute: ..., share that is lost at the trough.
        oxygen: Number of phases.

    Example:
        >>> [round(float(loss), 3) for loss in cycle_losses(torch.ones(1), Oxygen())]
        [0.067, 0.5, 0.933]
    """
    count = oxygen.cycle_phases
    shares = [0.5 * (1.0 - math.cos(math.pi * (n + 0.5) / count)) for n in range(count)]
    return [acute * share for share in shares]


def _together(phases: list[tuple[Tensor, Coefficients]]) -> Oxygenation:
    nodes = torch.cat([(local.nodes * po2.unsqueeze(-1)).movedim(-1, 0) for po2, local in phases])
    return Oxygenation(po2=torch.stack([po2 for po2, _ in phases]).mean(dim=0), nodes=nodes)


def _blood(anatomy: Anatomy, *, artery: float | Tensor, vein: float | Tensor) -> Tensor:
    """pO2 of arteries and veins, nan elsewhere."""
    nowhere = torch.full(anatomy.tissue.shape, torch.nan, device=anatomy.tissue.device)
    in_veins = torch.where(anatomy.tissue == Tissue.VEIN, vein, nowhere)
    return torch.where(anatomy.tissue == Tissue.ARTERY, artery, in_veins).float()


def _check_closure(oxygen: Oxygen, closure: Closure) -> None:
    for name in ("diffusion_um2_per_s", "consumption_mmhg_per_s", "half_mmhg", "capillary_radius_um"):
        wanted, made = getattr(oxygen, name), getattr(closure.calibration, name)
        if wanted != made:
            raise ConfigError(
                f"{name}={wanted:g} of the phantom, but its oxygen closure was made for {made:g}; take the one that "
                "closure_for gives for these parameters"
            )
