import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.oxygen.closure import shipped
from hypoxnet.phantom.oxygen.voxel import cycle_losses, local_oxygenation, oxygenation
from hypoxnet.phantom.parameters.oxygen import Oxygen
from hypoxnet.phantom.words import Anatomy, Tissue, Vasculature

OXYGEN, CLOSURE = Oxygen(), shipped()
SHAPE = (12, 10, 8)


def block(spacing_mm: float = 2.0) -> Anatomy:
    """Muscle with a tumour, and a layer of everything else."""
    tissue = torch.full(SHAPE, int(Tissue.MUSCLE), dtype=torch.uint8)
    for layer, kind in enumerate((Tissue.OUTSIDE, Tissue.BONE, Tissue.AIRWAY, Tissue.ARTERY, Tissue.VEIN)):
        tissue[layer, :2] = int(kind)
    primary = torch.zeros(SHAPE, dtype=torch.bool)
    primary[4:10, 4:8, 2:6] = True
    tissue[primary] = int(Tissue.TUMOUR)
    none = torch.zeros(SHAPE, dtype=torch.bool)
    grid: Grid = centred_grid([n * spacing_mm for n in SHAPE], [spacing_mm] * 3)
    return Anatomy(grid, tissue, primary, none.to(torch.uint8), none, none, none.float(), "larynx")


def vessels(radius: float | Tensor = 55.0, acute: float = 0.0, phase: float = 0.0) -> Vasculature:
    full = torch.ones(SHAPE)
    return Vasculature(full * radius, full, full, full * acute, full * phase)


def textured(spread: float = 0.4, acute: float = 0.0) -> Vasculature:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    return vessels((55.0 * torch.exp(spread * noise)).clamp(16.0, 200.0), acute)


def test_air_bone_and_outside_hold_no_oxygen_and_great_vessels_hold_blood() -> None:
    found = oxygenation(vessels(), block(), OXYGEN, CLOSURE)
    anatomy = block()
    for kind in (Tissue.OUTSIDE, Tissue.BONE, Tissue.AIRWAY):
        assert float(found.nodes[:, anatomy.is_a(kind)].abs().max()) == 0.0
    for kind, expected in ((Tissue.ARTERY, 95.0), (Tissue.VEIN, 40.0)):
        assert bool((found.po2[anatomy.is_a(kind)] - expected).abs().max() < 1e-4)
        assert bool((found.nodes[:, anatomy.is_a(kind)] - expected).abs().max() < 1e-3)


def test_nodes_have_the_mean_of_the_voxel_and_stay_below_the_vessels() -> None:
    anatomy = block()
    found = oxygenation(textured(acute=0.4), anatomy, OXYGEN, CLOSURE)
    assert found.nodes.shape == (36, *SHAPE)
    assert torch.allclose(found.nodes.mean(dim=0), found.po2, rtol=1e-4, atol=1e-4)
    away = anatomy.is_a(Tissue.MUSCLE, Tissue.TUMOUR)
    assert float(found.nodes[:, away].max()) <= 40.2
    assert float(found.nodes.min()) >= 0.0


def test_two_millimetres_are_too_far_for_oxygen_to_diffuse() -> None:
    anatomy, uneven = block(), textured()
    tumour = anatomy.tumour
    solved = oxygenation(uneven, anatomy, OXYGEN, CLOSURE, minutes=0.0)
    alone = local_oxygenation(uneven.radius_um, oxygen=OXYGEN, closure=CLOSURE)
    between = (solved.po2 - alone.po2)[tumour].abs()
    # Neighbours differ by 40 % in R, far more than in the object, and yet exchange less than 0.1 mmHg.
    assert 1e-4 < float(between.max()) < 0.1
    closer = oxygenation(uneven, block(spacing_mm=0.2), OXYGEN, CLOSURE, minutes=0.0)
    assert float((closer.po2 - alone.po2)[tumour].abs().max()) > 1.0


def test_the_cycle_takes_supply_away_and_brings_it_back() -> None:
    cycling = vessels(acute=0.6)
    inside = (6, 6, 4)
    at = [
        float(oxygenation(cycling, block(), OXYGEN, CLOSURE, minutes=minutes).po2[inside])
        for minutes in (0.0, 3.75, 7.5, 15.0)
    ]
    steady = float(oxygenation(vessels(), block(), OXYGEN, CLOSURE, minutes=0.0).po2[inside])
    assert at[0] == pytest.approx(steady, rel=1e-5)
    assert at[0] > at[1] > at[2]
    assert at[3] == pytest.approx(at[0], rel=1e-5)
    trough = oxygenation(vessels(), block(), OXYGEN, CLOSURE, vessel_mmhg=0.4 * 40.0, minutes=0.0)
    assert at[2] == pytest.approx(float(trough.po2[inside]), rel=1e-4)
    shifted = oxygenation(vessels(acute=0.6, phase=0.5), block(), OXYGEN, CLOSURE, minutes=0.0)
    assert float(shifted.po2[inside]) == pytest.approx(at[2], rel=1e-5)


def test_three_phases_stand_for_the_whole_cycle() -> None:
    cycling = vessels(acute=0.6)
    many = [oxygenation(cycling, block(), OXYGEN, CLOSURE, minutes=15.0 * n / 32).po2[6, 6, 4] for n in range(32)]
    few = oxygenation(cycling, block(), OXYGEN, CLOSURE).po2[6, 6, 4]
    assert float(few) == pytest.approx(float(torch.stack(many).mean()), rel=0.01)


def test_phases_are_those_of_gauss_and_chebyshev() -> None:
    losses = torch.stack(cycle_losses(torch.tensor(0.8), replace(OXYGEN, cycle_phases=4)))
    assert float(losses.mean()) == pytest.approx(0.4)
    # The mean over a cycle of ((1 - cos) / 2)^3 is 5/16.
    assert float((losses / 0.8).pow(3).mean()) == pytest.approx(5 / 16)


def test_breathing_oxygen_raises_tissue_and_blood() -> None:
    anatomy = block()
    air = oxygenation(textured(), anatomy, OXYGEN, CLOSURE)
    rich = oxygenation(textured(), anatomy, OXYGEN, CLOSURE, vessel_mmhg=180.0)
    tissue = anatomy.is_a(Tissue.MUSCLE, Tissue.TUMOUR)
    assert bool((rich.po2 > air.po2)[tissue].all())
    assert float(rich.po2[anatomy.is_a(Tissue.ARTERY)].max()) == pytest.approx(95.0 + 140.0)


def test_the_pressure_of_vessels_may_differ_between_voxels() -> None:
    anatomy, half = block(), torch.full(SHAPE, 40.0)
    half[:, :6] = 20.0
    found = oxygenation(vessels(), anatomy, OXYGEN, CLOSURE, vessel_mmhg=half).po2
    for pressure, place in ((20.0, (6, 4, 4)), (40.0, (6, 7, 4))):
        same = oxygenation(vessels(), anatomy, OXYGEN, CLOSURE, vessel_mmhg=pressure).po2
        assert float(found[place]) == pytest.approx(float(same[place]), abs=0.05)
    alone = local_oxygenation(vessels().radius_um, oxygen=OXYGEN, closure=CLOSURE, vessel_mmhg=half).po2
    assert torch.allclose(alone[anatomy.primary], found[anatomy.primary], atol=0.05)


def test_the_local_variant_averages_the_cycle_as_the_solved_one_does() -> None:
    anatomy, uneven = block(), textured(spread=0.2, acute=0.5)
    solved = oxygenation(uneven, anatomy, OXYGEN, CLOSURE)
    alone = local_oxygenation(uneven.radius_um, oxygen=OXYGEN, closure=CLOSURE, acute=uneven.acute)
    tumour = anatomy.tumour
    assert alone.nodes.shape == solved.nodes.shape
    assert torch.allclose(alone.po2[tumour], solved.po2[tumour], atol=0.05)
    assert torch.allclose(alone.nodes[:, tumour], solved.nodes[:, tumour], rtol=0.02, atol=0.1)


def test_the_local_variant_can_be_differentiated() -> None:
    radius = torch.tensor([33.0, 58.0, 120.0], dtype=torch.float64, requires_grad=True)
    acute = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64, requires_grad=True)

    def read(radius: Tensor, acute: Tensor) -> tuple[Tensor, Tensor]:
        found = local_oxygenation(radius, oxygen=OXYGEN, closure=CLOSURE, acute=acute)
        return found.po2, found.nodes

    assert torch.autograd.gradcheck(read, (radius, acute))
    po2, _ = read(radius, acute)
    slope_radius, slope_acute = torch.autograd.grad(po2.sum(), (radius, acute))
    assert bool((slope_radius < 0).all())
    assert bool((slope_acute < 0).all())


def test_a_closure_of_another_tissue_is_refused() -> None:
    hungry = replace(OXYGEN, consumption_mmhg_per_s=20.0)
    with pytest.raises(
        ConfigError, match="consumption_mmhg_per_s=20 of the phantom, but its oxygen closure was made for 15"
    ):
        oxygenation(vessels(), block(), hungry, CLOSURE)
    with pytest.raises(ConfigError, match="closure_for"):
        local_oxygenation(torch.tensor([50.0]), oxygen=hungry, closure=CLOSURE)


def test_the_hypoxic_share_grows_with_the_distance_between_vessels() -> None:
    radius = torch.linspace(20.0, 150.0, 40)
    shares = local_oxygenation(radius, oxygen=OXYGEN, closure=CLOSURE).share_below(10.0)
    assert bool((shares.diff() >= 0).all())
    assert float(shares[0]) == 0.0
    assert float(shares[-1]) > 0.7
    assert math.isfinite(float(shares.mean()))
