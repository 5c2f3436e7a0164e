"""Verification figures and timings of vessels and oxygen of the digital reference object, on one thread.

    python benchmarks/phantom_oxygen.py               about half a minute

Prints JSON: for each check what was expected and what was reached. Pressures in mmHg, times in seconds.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.anatomy import make_anatomy
from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.oxygen.analytic import (
    anoxia_distance_um,
    first_order_slab_mmhg,
    krogh_supply_per_s,
    square_array_supply_per_s,
)
from hypoxnet.phantom.oxygen.closure import shipped
from hypoxnet.phantom.oxygen.fine import Piece, place_capillaries, solve_fine, vessel_links_per_s
from hypoxnet.phantom.oxygen.solver import PERIODIC, Balance, solve
from hypoxnet.phantom.oxygen.voxel import local_oxygenation, oxygenation
from hypoxnet.phantom.parameters.anatomy import Neck
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels
from hypoxnet.phantom.vasculature import make_vasculature

D, M, K = 2000.0, 15.0, 2.0
OXYGEN = Oxygen()
ZERO_ORDER = replace(OXYGEN, half_mmhg=1e-4, consumption_mmhg_per_s=1.0)


def number(value: float) -> Tensor:
    """A double."""
    return torch.tensor(value, dtype=torch.float64)


def timed(make: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Shortest time of a few, and what was made."""
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        made = make()
        spent.append(time.perf_counter() - begin)
    return round(min(spent), 4), made


def manufactured(n: int) -> tuple[Tensor, Balance]:
    """p = 20 + 10 cos cos cos in a cube of 0.2 mm, and the vessels that keep it."""
    x, y, z = torch.meshgrid(*[(torch.arange(n, dtype=torch.float64) + 0.5) / n] * 3, indexing="ij")
    wave = torch.cos(math.pi * x) * torch.cos(2 * math.pi * y) * torch.cos(math.pi * z)
    exact, laplacian = 20.0 + 10.0 * wave, -60.0 * (math.pi / 200.0) ** 2 * wave
    supply = torch.full_like(exact, 3.0)
    vessel = exact + (M * exact / (exact + K) - D * laplacian) / supply
    return exact, Balance((200.0 / n,) * 3, D, supply, vessel, number(M), number(K))


def order() -> dict[str, Any]:
    """Root mean square error on four grids."""
    errors = []
    for n in (8, 16, 32, 64):
        exact, balance = manufactured(n)
        errors.append(float((solve(balance, tolerance=1e-10).po2 - exact).square().mean().sqrt()))
    orders = [round(math.log2(a / b), 4) for a, b in pairwise(errors)]
    return {"voxels": [8, 16, 32, 64], "rms_error": [float(f"{e:.4g}") for e in errors], "order": orders, "expected": 2}


def slabs() -> dict[str, Any]:
    """Zero and first order consumption beside a plane of vessels."""
    n, h = 400, 0.5
    fixed = torch.full((n, 1, 1), math.nan, dtype=torch.float64)
    fixed[0] = 40.0
    none, size, at = torch.zeros_like(fixed), (h, 10.0, 10.0), h * torch.arange(n, dtype=torch.float64)
    zero = solve(
        Balance(size, D, none, number(0.0), number(M), number(1e-3), fixed_mmhg=fixed), tolerance=1e-6
    ).po2.flatten()
    far = anoxia_distance_um(vessel_mmhg=40.0, diffusion_um2_per_s=D, consumption=M)
    first = solve(
        Balance(size, D, none, number(0.0), number(2e6), number(1e6), fixed_mmhg=fixed), tolerance=1e-8
    ).po2.flatten()
    exact = first_order_slab_mmhg(at, depth_um=(n - 0.5) * h, vessel_mmhg=40.0, diffusion_um2_per_s=D, rate_per_s=2.0)
    return {
        "anoxia_distance_um": {"expected": round(far, 2), "reached": float(at[zero > 0.01].max())},
        "zero_order_largest_error_mmhg": round(float((zero - 40.0 * (1 - at / far).clamp(min=0) ** 2).abs().max()), 4),
        "first_order_largest_relative_error": float(f"{float((first / exact - 1).abs().max()):.3g}"),
    }


def vessels() -> dict[str, Any]:
    """Exchange of explicit vessels one voxel thick, over the closed forms."""
    square = {}
    for voxels in (6, 10, 20, 40):
        capillaries = torch.zeros(1, voxels, voxels, dtype=torch.bool)
        capillaries[0, 0, 0] = True
        state = solve_fine(capillaries, ZERO_ORDER, vessel_mmhg=100.0, voxel_um=10.0)
        drop = (100.0 - state.mean_mmhg) * (state.po2.numel() + state.around) / voxels**2
        radius = 10.0 * voxels / math.sqrt(math.pi)
        exact = square_array_supply_per_s(radius, capillary_radius_um=5.0, diffusion_um2_per_s=D)
        square[f"R={radius:.0f}um"] = round(1.0 / drop / exact, 5)
    cylinder = {}
    for wide in (6, 10, 15):
        axis = torch.arange(-wide, wide + 1, dtype=torch.float64) * 10.0
        distance = torch.hypot(axis[:, None], axis[None, :])[None]
        middle = distance < 5.0
        inside = (distance <= 10.0 * wide + 0.5) & ~middle
        links = vessel_links_per_s(middle, OXYGEN, voxel_um=10.0)
        po2 = solve(
            Balance((10.0,) * 3, D, links, number(100.0), number(1.0), number(1e-4), inside=inside), tolerance=1e-7
        ).po2
        count = int(inside.sum())
        radius = math.sqrt((count + 1) * 100.0 / math.pi)
        drop = float((100.0 - po2)[inside].sum()) / (count + 1.0 - math.pi / 4.0)
        krogh = float(krogh_supply_per_s(number(radius), capillary_radius_um=5.0, diffusion_um2_per_s=D))
        cylinder[f"R={radius:.0f}um"] = round(1.0 / drop / krogh, 5)
    return {"square_array_over_drummond_and_tahir": square, "cylinder_over_krogh": cylinder, "expected": 1}


def fine_balance(radius_um: float, vessel_mmhg: float, side_um: float) -> Balance:
    """The fine model in float32, as a problem for the solver."""
    near = Piece.near(radius_um, OXYGEN)
    cells = max(1, round(side_um / (near.voxels * near.voxel_um / near.cells)))
    piece = Piece(10.0, round(side_um / 10.0), cells)
    capillaries = place_capillaries(piece, disorder=0.4, generator=np.random.default_rng(1))
    links = vessel_links_per_s(capillaries, OXYGEN, voxel_um=10.0).float()
    numbers = [torch.tensor(v) for v in (vessel_mmhg, M, K)]
    return Balance((10.0,) * 3, D, links, *numbers, inside=~capillaries, border=PERIODIC)


def coarse_balance() -> Balance:
    """A cube of 96 voxels of 2 mm with vessels 32 to 110 um apart."""
    exchange = torch.exp(0.7 * torch.randn(96, 96, 96, generator=torch.Generator().manual_seed(1)))
    return Balance((2000.0,) * 3, D, exchange, torch.tensor(40.0), torch.tensor(M), torch.tensor(K))


def least_residual(balance: Balance) -> float:
    """The smallest of a few tolerances that is reached."""
    reached = math.nan
    for tolerance in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7):
        try:
            solve(balance, tolerance=tolerance)
        except ConfigError:
            return reached
        reached = tolerance
    return reached


def solver_runs() -> dict[str, Any]:
    """Time and work of the production solver in float32, and the residual that it can reach."""
    found = {}
    problems = {
        "coarse_96_at_2mm": coarse_balance(),
        "fine_96_at_10um_R58_40mmhg": fine_balance(58.0, 40.0, 960.0),
        "fine_96_at_10um_R150_300mmhg": fine_balance(150.0, 300.0, 960.0),
    }
    for name, balance in problems.items():
        seconds, state = timed(lambda balance=balance: solve(balance), 2)
        found[name] = {
            "seconds": seconds,
            "newton": state.newton,
            "gradients": state.gradients,
            "relative_residual": float(f"{state.relative:.2g}"),
            "absolute_residual_mmhg_per_s": float(f"{state.absolute:.2g}"),
        }
    smaller = {
        "coarse": coarse_balance(),
        "fine_40mmhg": fine_balance(58.0, 40.0, 480.0),
        "fine_300mmhg": fine_balance(58.0, 300.0, 480.0),
    }
    found["float32_reaches_relative_residual"] = {name: least_residual(balance) for name, balance in smaller.items()}
    return found


def whole_object(voxels: int, spacing_mm: float) -> dict[str, Any]:
    """A neck: times, what diffusion between voxels changes, and what three phases leave out."""
    closure, grid = shipped(), centred_grid((voxels * spacing_mm,) * 3, (spacing_mm,) * 3)
    anatomy = make_anatomy(Neck(), grid, hpv=False, subsite="larynx", generator=np.random.default_rng(1))
    made, vasculature = timed(lambda: make_vasculature(anatomy, Vessels(), np.random.default_rng(1)))
    solved_in, solved = timed(lambda: oxygenation(vasculature, anatomy, OXYGEN, closure))
    snapshot_in, _ = timed(lambda: oxygenation(vasculature, anatomy, OXYGEN, closure, minutes=0.0))
    alone_in, alone = timed(
        lambda: local_oxygenation(vasculature.radius_um, oxygen=OXYGEN, closure=closure, acute=vasculature.acute)
    )
    many = local_oxygenation(
        vasculature.radius_um, oxygen=replace(OXYGEN, cycle_phases=16), closure=closure, acute=vasculature.acute
    )
    tumour = anatomy.tumour
    apart, phases = (solved.po2 - alone.po2)[tumour].abs(), (many.po2 - alone.po2)[tumour].abs()
    return {
        "voxels": voxels,
        "spacing_mm": spacing_mm,
        "seconds": {"vasculature": made, "oxygenation": solved_in, "snapshot": snapshot_in, "local": alone_in},
        "diffusion_between_voxels_mmhg": {
            "largest": round(float(apart.max()), 4),
            "mean": round(float(apart.mean()), 4),
        },
        "three_phases_instead_of_sixteen_mmhg": {
            "largest": round(float(phases.max()), 4),
            "mean": round(float(phases.mean()), 4),
        },
        "median_po2_of_tumour": round(float(solved.po2[tumour].median()), 2),
    }


def main() -> None:
    """Run every check."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found = {
        "manufactured_solution": order(),
        "slabs": slabs(),
        "vessels": vessels(),
        "solver_float32_one_thread": solver_runs(),
        "object": [whole_object(32, 3.0), whole_object(72, 2.0)],
    }
    print(json.dumps({**found, "seconds": round(time.perf_counter() - begin, 1)}, indent=1))


if __name__ == "__main__":
    main()
