import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hypoxnet.phantom.oxygen.analytic import krogh_supply_per_s, square_array_supply_per_s
from hypoxnet.phantom.oxygen.fine import BESIDE, Piece, place_capillaries, solve_fine, vessel_links_per_s
from hypoxnet.phantom.oxygen.solver import Balance, solve
from hypoxnet.phantom.parameters.oxygen import Oxygen

OXYGEN = Oxygen()
# Consumption that does not depend on oxygen, as in the closed forms.
ZERO_ORDER = replace(OXYGEN, half_mmhg=1e-4, consumption_mmhg_per_s=1.0)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def random_piece(radius_um: float, disorder: float, seed: int = 0) -> tuple[Piece, Tensor]:
    piece = Piece.near(radius_um, OXYGEN)
    return piece, place_capillaries(piece, disorder=disorder, generator=np.random.default_rng(seed))


@pytest.mark.parametrize("radius_um", [16.0, 25.0, 58.0, 100.0, 200.0])
def test_a_piece_has_the_wanted_density_of_vessels(radius_um: float) -> None:
    piece, capillaries = random_piece(radius_um, 0.0)
    volume = (piece.voxels * piece.voxel_um) ** 3
    length = float(capillaries.sum()) * piece.voxel_um
    assert length / volume == pytest.approx(1.0 / (math.pi * piece.radius_um**2), rel=1e-9)
    assert piece.radius_um == pytest.approx(radius_um, rel=0.01)


def test_regular_vessels_never_touch_and_random_ones_seldom_cross() -> None:
    piece, regular = random_piece(58.0, 0.0)
    assert int(regular.sum()) == 3 * piece.cells**2 * piece.voxels
    beside = vessel_links_per_s(regular, OXYGEN, voxel_um=piece.voxel_um)
    link = 0.5 * math.pi / math.log(BESIDE * 2.0) * OXYGEN.diffusion_um2_per_s / piece.voxel_um**2
    assert float(beside.max()) == pytest.approx(link)
    _, random = random_piece(58.0, 0.5)
    assert 0.99 < float(random.sum()) / float(regular.sum()) <= 1.0


def test_disorder_moves_vessels_and_the_seed_decides_where() -> None:
    _, one = random_piece(58.0, 0.3, seed=1)
    assert torch.equal(one, random_piece(58.0, 0.3, seed=1)[1])
    assert not torch.equal(one, random_piece(58.0, 0.3, seed=2)[1])


def test_three_directions_have_as_many_vessels_each() -> None:
    piece, capillaries = random_piece(80.0, 0.5)
    along = [int((capillaries.sum(dim=axis) == piece.voxels).sum()) for axis in range(3)]
    assert along == [piece.cells**2] * 3


@pytest.mark.parametrize(("voxels", "within"), [(6, 0.021), (10, 0.006), (20, 0.001), (40, 0.0003)])
def test_a_square_array_supplies_as_drummond_and_tahir_say(voxels: int, within: float) -> None:
    capillaries = torch.zeros(1, voxels, voxels, dtype=torch.bool)
    capillaries[0, voxels // 2, 1] = True
    state = solve_fine(capillaries, ZERO_ORDER, vessel_mmhg=100.0, voxel_um=10.0)
    radius = 10.0 * voxels / math.sqrt(math.pi)
    # The closed form counts the vessel as tissue with the vessel's pressure that consumes as well.
    drop = (100.0 - state.mean_mmhg) * (state.po2.numel() + state.around) / voxels**2
    exact = square_array_supply_per_s(radius, capillary_radius_um=5.0, diffusion_um2_per_s=2000.0)
    assert 1.0 / drop == pytest.approx(exact, rel=within)


def test_a_single_fixed_voxel_would_be_a_vessel_of_a_fifth_of_the_voxel() -> None:
    # Peaceman 1978: without the corrected links, h = 10 um stands for r = 1.98 um.
    voxels = 40
    fixed = torch.full((1, voxels, voxels), torch.nan, dtype=torch.float64)
    fixed[0, 20, 20] = 100.0
    balance = Balance(
        (10.0,) * 3, 2000.0, torch.zeros_like(fixed), number(0.0), number(1.0), number(1e-4),
        fixed_mmhg=fixed, border="periodic",
    )  # fmt: skip
    drop = 100.0 - float(solve(balance, tolerance=1e-7).po2.mean())
    radius = 10.0 * voxels / math.sqrt(math.pi)
    # From 1 / drop = 4 D / (R^2 (2 ln(R/r) - 1.476)).
    acts_as = radius * math.exp(-0.5 * (4.0 * 2000.0 * drop / radius**2 + 1.476))
    assert acts_as == pytest.approx(1.98, abs=0.02)


def test_one_vessel_in_the_middle_of_a_cylinder_supplies_as_krogh_says() -> None:
    radius = 58.0
    axis = torch.arange(-6, 7, dtype=torch.float64) * 10.0
    distance = torch.hypot(axis[:, None], axis[None, :])[None]
    capillaries = distance < 5.0
    links = vessel_links_per_s(capillaries, OXYGEN, voxel_um=10.0)
    inside = (distance <= 60.5) & ~capillaries
    balance = Balance((10.0,) * 3, 2000.0, links, number(100.0), number(1.0), number(1e-4), inside=inside)
    po2 = solve(balance, tolerance=1e-7).po2
    # Voxels of 10 um make a circle of 113 squares, of the area of R = 60.0 um; what the vessel's voxel has beside the
    # vessel is tissue at its pressure.
    squares = int(inside.sum()) + 1
    radius = math.sqrt(squares * 100.0 / math.pi)
    around = 1.0 - math.pi / 4.0
    drop = float((100.0 - po2)[inside].sum()) / (squares - 1 + around)
    krogh = krogh_supply_per_s(number(radius), capillary_radius_um=5.0, diffusion_um2_per_s=2000.0)
    assert 1.0 / drop == pytest.approx(float(krogh), rel=0.012)


def test_what_vessels_give_off_is_consumed() -> None:
    piece, capillaries = random_piece(58.0, 0.4)
    state = solve_fine(capillaries, OXYGEN, vessel_mmhg=40.0, voxel_um=piece.voxel_um)
    assert state.supply_mmhg_per_s == pytest.approx(state.consumption_mmhg_per_s, rel=1e-4)
    assert 0.0 < state.mean_mmhg < 40.0


def test_disorder_costs_oxygen() -> None:
    means = []
    for disorder in (0.0, 0.2, 0.5):
        piece, capillaries = random_piece(50.0, disorder, seed=4)
        means.append(solve_fine(capillaries, OXYGEN, vessel_mmhg=40.0, voxel_um=piece.voxel_um).mean_mmhg)
    assert means[0] > means[1] + 1.0 > means[2] + 2.0
