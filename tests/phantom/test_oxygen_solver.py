import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.oxygen.analytic import anoxia_distance_um, first_order_slab_mmhg, krogh_profile_mmhg
from hypoxnet.phantom.oxygen.solver import PERIODIC, Balance, local_balance, solve

D, M, K = 2000.0, 15.0, 2.0


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def balance(supply: Tensor, **changes: object) -> Balance:
    plain = {
        "spacing_um": (10.0, 10.0, 10.0),
        "diffusion_um2_per_s": D,
        "supply_per_s": supply,
        "vessel_mmhg": number(40.0),
        "consumption_mmhg_per_s": number(M),
        "half_mmhg": number(K),
    }
    return Balance(**{**plain, **changes})  # type: ignore[arg-type]


def manufactured(n: int) -> tuple[Tensor, Balance]:
    """p = 20 + 10 cos cos cos, which passes no border, and the vessels that keep it."""
    side = 200.0
    x, y, z = torch.meshgrid(*[(torch.arange(n, dtype=torch.float64) + 0.5) / n] * 3, indexing="ij")
    wave = torch.cos(math.pi * x) * torch.cos(2 * math.pi * y) * torch.cos(math.pi * z)
    exact = 20.0 + 10.0 * wave
    laplacian = -60.0 * (math.pi / side) ** 2 * wave
    supply = torch.full_like(exact, 3.0)
    vessel = exact + (M * exact / (exact + K) - D * laplacian) / supply
    return exact, balance(supply, spacing_um=(side / n,) * 3, vessel_mmhg=vessel)


def test_a_manufactured_solution_is_reached_with_second_order() -> None:
    errors = []
    for n in (8, 16, 32):
        exact, problem = manufactured(n)
        errors.append(float((solve(problem, tolerance=1e-10).po2 - exact).square().mean().sqrt()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2.0, 2.0], abs=0.01)


def test_oxygen_is_used_up_at_the_anoxia_distance_of_a_plane_of_vessels() -> None:
    n, h = 400, 0.5
    fixed = torch.full((n, 1, 1), math.nan, dtype=torch.float64)
    fixed[0] = 40.0
    none = torch.zeros_like(fixed)
    problem = balance(none, spacing_um=(h, 10.0, 10.0), half_mmhg=number(1e-3), fixed_mmhg=fixed)
    found = solve(problem, tolerance=1e-6).po2.flatten()
    far = anoxia_distance_um(vessel_mmhg=40.0, diffusion_um2_per_s=D, consumption=M)
    distance = h * torch.arange(n)
    exact = 40.0 * (1.0 - distance / far).clamp(min=0.0) ** 2
    assert far == pytest.approx(103.28, abs=0.01)
    assert float((found - exact).abs().max()) < 0.06
    # The half pressure of 0.001 mmHg leaves a tail; 0.01 mmHg is reached 2 um before the end of the zero-order profile.
    assert float(distance[found > 0.01].max()) == pytest.approx(far, abs=2.0)


def test_first_order_consumption_gives_the_hyperbolic_cosine() -> None:
    n, h, half = 200, 1.0, 1e6
    fixed = torch.full((1, n, 1), math.nan, dtype=torch.float64)
    fixed[:, 0] = 40.0
    problem = balance(
        torch.zeros_like(fixed),
        spacing_um=(10.0, h, 10.0),
        consumption_mmhg_per_s=number(2.0 * half),
        half_mmhg=number(half),
        fixed_mmhg=fixed,
    )
    found = solve(problem, tolerance=1e-8).po2.flatten()
    exact = first_order_slab_mmhg(
        h * torch.arange(n, dtype=torch.float64),
        depth_um=(n - 0.5) * h,
        vessel_mmhg=40.0,
        diffusion_um2_per_s=D,
        rate_per_s=2.0,
    )
    assert torch.allclose(found, exact, rtol=2e-3)


def test_a_resolved_cross_section_has_the_profile_of_krogh() -> None:
    radius, h = 60.0, 1.0
    axis = torch.arange(-62.0, 63.0, h, dtype=torch.float64)
    distance = torch.hypot(axis[:, None], axis[None, :])[..., None]
    wall = distance <= 5.0
    problem = balance(
        torch.zeros_like(distance),
        spacing_um=(h, h, 10.0),
        consumption_mmhg_per_s=number(5.0),
        half_mmhg=number(1e-3),
        inside=distance <= radius,
        fixed_mmhg=torch.where(wall, 40.0, torch.nan).double(),
    )
    found = solve(problem, tolerance=1e-6).po2
    profile = krogh_profile_mmhg(
        distance, radius_um=radius, capillary_radius_um=5.0, diffusion_um2_per_s=D, consumption=5.0
    )
    # Squares of 1 um give the wall a radius that is not quite 5 um: the drop from 15 um on does not depend on it.
    near = (distance - 15.0).abs() < 0.01
    ring = (distance > 20.0) & (distance < 55.0)
    beyond = (found[near].mean() - found) / (profile - profile[near].mean())
    assert float((beyond[ring] - 1.0).abs().max()) < 0.01


def test_supply_equals_consumption() -> None:
    generator = torch.Generator().manual_seed(3)
    supply = 2.0 * torch.rand(12, 10, 8, generator=generator, dtype=torch.float64)
    inside = torch.rand(12, 10, 8, generator=generator) < 0.8
    supply = torch.where(inside, supply + 0.01, supply)
    found = solve(balance(supply, inside=inside), tolerance=1e-9).po2
    given_off = (supply * (40.0 - found))[inside].sum()
    consumed = (M * found / (found + K))[inside].sum()
    assert float(given_off) == pytest.approx(float(consumed), rel=1e-8)


def test_uniform_tissue_is_in_local_balance_and_nothing_lies_outside() -> None:
    supply = torch.full((6, 5, 4), 0.7, dtype=torch.float64)
    inside = torch.ones(6, 5, 4, dtype=torch.bool)
    inside[0] = False
    found = solve(balance(supply, inside=inside), tolerance=1e-10).po2
    expected = float(local_balance(supply[0, 0, 0], number(40.0), number(M), number(K)))
    assert torch.allclose(found[inside], torch.full_like(found[inside], expected))
    assert float(found[~inside].abs().max()) == 0.0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    strength=st.floats(1e-3, 50.0),
    half=st.floats(0.01, 20.0),
    consumption=st.floats(0.0, 60.0),
    spacing=st.floats(3.0, 3000.0),
)
def test_oxygen_lies_between_nothing_and_the_vessels_and_is_in_balance(
    seed: int, strength: float, half: float, consumption: float, spacing: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    supply = strength * torch.rand(7, 6, 5, generator=generator, dtype=torch.float64)
    supply = supply * (torch.rand(7, 6, 5, generator=generator) < 0.5)
    supply[0, 0, 0] = strength
    vessel = 100.0 * torch.rand(7, 6, 5, generator=generator, dtype=torch.float64)
    problem = balance(
        supply,
        spacing_um=(spacing, 2 * spacing, spacing),
        vessel_mmhg=vessel,
        consumption_mmhg_per_s=number(consumption),
        half_mmhg=number(half),
    )
    state = solve(problem, tolerance=1e-7)
    assert float(state.po2.min()) >= 0.0
    assert float(state.po2.max()) <= float(vessel[supply > 0].max()) * (1 + 1e-6)
    assert state.relative <= 1e-7


def test_more_vessels_never_lower_oxygen_anywhere() -> None:
    supply = torch.zeros(16, 16, 1, dtype=torch.float64)
    supply[3, 4] = 20.0
    fewer = solve(balance(supply), tolerance=1e-8).po2
    supply[11, 9] = 20.0
    more = solve(balance(supply), tolerance=1e-8).po2
    assert bool((more >= fewer - 1e-6).all())


def test_order_of_axes_does_not_matter() -> None:
    _, problem = manufactured(8)
    supply = problem.supply_per_s + torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    one = balance(supply, spacing_um=(10.0, 20.0, 30.0))
    other = balance(supply.permute(2, 0, 1).contiguous(), spacing_um=(30.0, 10.0, 20.0))
    found = solve(one, tolerance=1e-9).po2.permute(2, 0, 1)
    assert torch.allclose(found, solve(other, tolerance=1e-9).po2, atol=1e-6)


def test_a_periodic_cell_is_a_lattice_of_cells() -> None:
    supply = torch.zeros(6, 5, 4, dtype=torch.float64)
    supply[0, 4, 3] = 30.0
    once = solve(balance(supply, border=PERIODIC), tolerance=1e-9).po2
    twice = solve(balance(supply.repeat(2, 2, 2), border=PERIODIC), tolerance=1e-9).po2
    moved = solve(balance(supply.roll((2, 1, 1), (0, 1, 2)), border=PERIODIC), tolerance=1e-9).po2
    assert torch.allclose(once.repeat(2, 2, 2), twice, atol=1e-6)
    assert torch.allclose(once.roll((2, 1, 1), (0, 1, 2)), moved, atol=1e-6)


def test_single_precision_agrees_with_double() -> None:
    _, problem = manufactured(16)
    single = balance(
        problem.supply_per_s.float(), spacing_um=problem.spacing_um, vessel_mmhg=problem.vessel_mmhg.float()
    )
    exact, rough = solve(problem, tolerance=1e-9).po2, solve(single, tolerance=1e-4)
    assert rough.po2.dtype == torch.float32
    assert float((rough.po2.double() - exact).abs().max()) < 2e-3


def test_a_start_far_off_leads_to_the_same_state() -> None:
    _, problem = manufactured(8)
    usual = solve(problem, tolerance=1e-9).po2
    for start in (0.0, 500.0):
        assert torch.allclose(solve(problem, tolerance=1e-9, start=torch.full_like(usual, start)).po2, usual, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"diffusion_um2_per_s": 0.0}, "diffusion_um2_per_s=0"),
        ({"diffusion_um2_per_s": math.nan}, "diffusion_um2_per_s=nan"),
        ({"spacing_um": (10.0, -1.0, 10.0)}, r"spacing_um\[1\]=-1"),
        ({"consumption_mmhg_per_s": number(-1.0)}, "consumption_mmhg_per_s"),
        ({"half_mmhg": number(0.0)}, "half_mmhg"),
        ({"vessel_mmhg": number(math.inf)}, "vessel_mmhg"),
        ({"border": "open"}, "border='open'"),
    ],
)
def test_an_impossible_balance_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        balance(torch.ones(3, 3, 3, dtype=torch.float64), **changes)


def test_supply_that_is_negative_is_refused() -> None:
    with pytest.raises(ConfigError, match="supply_per_s of the oxygen balance falls to -1"):
        balance(-torch.ones(3, 3, 3))


def test_tissue_that_no_vessel_reaches_is_refused_and_a_fixed_voxel_helps() -> None:
    supply = torch.ones(5, 3, 3, dtype=torch.float64)
    supply[3:] = 0.0
    inside = torch.ones(5, 3, 3, dtype=torch.bool)
    inside[2] = False
    with pytest.raises(ConfigError, match=r"connected region of 18 voxels round \(3, 0, 0\)"):
        balance(supply, inside=inside)
    fixed = torch.full((5, 3, 3), math.nan, dtype=torch.float64)
    fixed[4, 0, 0] = 30.0
    found = solve(balance(supply, inside=inside, fixed_mmhg=fixed), tolerance=1e-8).po2
    assert float(found[4, 0, 0]) == 30.0
    assert 0.0 < float(found[3].max()) < 30.0
    # Where the volume repeats itself, the last layer lies beside the first.
    assert solve(balance(supply, inside=inside, border=PERIODIC)).relative < 1e-4


def test_a_tolerance_out_of_reach_is_refused_with_both_numbers() -> None:
    _, problem = manufactured(8)
    single = balance(problem.supply_per_s.float(), vessel_mmhg=problem.vessel_mmhg.float())
    with pytest.raises(ConfigError, match=r"relative residual of .* tolerance=1e-12"):
        solve(single, tolerance=1e-12)


def test_voxels_of_two_millimetres_need_a_few_steps_only() -> None:
    supply = torch.from_numpy(np.exp(np.random.default_rng(0).standard_normal((96, 96, 96)))).float()
    state = solve(balance(supply, spacing_um=(2000.0,) * 3, **_single()))
    assert state.newton <= 6
    assert state.gradients <= 20


def _single() -> dict[str, object]:
    return {
        "vessel_mmhg": torch.tensor(40.0),
        "consumption_mmhg_per_s": torch.tensor(M),
        "half_mmhg": torch.tensor(K),
    }
