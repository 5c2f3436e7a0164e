from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.parameters.base import described
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels
from hypoxnet.phantom.vasculature import another_day, make_vasculature, reoxygenated, viable_share
from hypoxnet.phantom.words import Anatomy, Tissue, Vasculature

VESSELS = Vessels()


def neck(side: int = 32, spacing_mm: float = 3.0) -> Anatomy:
    """A spherical primary of 15 mm radius and two nodes, in muscle with a layer of fat and of air."""
    shape = (side, side, side)
    axes = [(torch.arange(side) - (side - 1) / 2) * spacing_mm] * 3
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    tissue = torch.full(shape, int(Tissue.MUSCLE), dtype=torch.uint8)
    tissue[0], tissue[1], tissue[-1] = int(Tissue.OUTSIDE), int(Tissue.FAT), int(Tissue.ARTERY)
    depth = torch.zeros(shape)
    inside = [15.0 - (x**2 + y**2 + z**2).sqrt()]
    inside += [8.0 - ((x - 26.0) ** 2 + (y - sign * 22.0) ** 2 + z**2).sqrt() for sign in (-1, 1)]
    nodes = torch.zeros(shape, dtype=torch.uint8)
    for number, distance in enumerate(inside):
        depth = torch.where(distance > 0, distance, depth)
        tissue[distance > 0] = int(Tissue.NODE if number else Tissue.TUMOUR)
        if number:
            nodes[distance > 0] = number
    none = torch.zeros(shape, dtype=torch.bool)
    grid = centred_grid([side * spacing_mm] * 3, [spacing_mm] * 3)
    return Anatomy(grid, tissue, inside[0] > 0, nodes, none, none, depth, "oropharynx")


NECK = neck()


def made(seed: int = 0, **changes: float) -> Vasculature:
    return make_vasculature(NECK, replace(VESSELS, **changes), np.random.default_rng(seed))


def test_a_seed_gives_the_same_vessels_and_another_gives_others() -> None:
    one, again, other = made(1), made(1), made(2)
    for entry in fields(Vasculature):
        assert torch.equal(getattr(one, entry.name), getattr(again, entry.name))
    assert not torch.equal(one.radius_um, other.radius_um)


def test_every_map_is_finite_and_within_its_bounds() -> None:
    for seed in range(5):
        one = made(seed, tumour_spread=0.6, texture=0.6)
        assert float(one.radius_um.min()) >= 16.0
        assert float(one.radius_um.max()) <= 200.0
        assert float(one.acute.max()) <= 0.9
        for share in (one.viable, one.acute, one.phase):
            assert float(share.min()) >= 0.0
            assert float(share.max()) <= 1.0
        assert all(bool(torch.isfinite(getattr(one, entry.name)).all()) for entry in fields(Vasculature))
        assert float(one.flow.min()) >= 0.0


def test_levels_of_patients_and_of_their_nodes_are_spread_and_correlated_as_said() -> None:
    flat = {"texture": 0.0, "core_growth": 0.0, "most_um": 1000.0, "least_um": 1.0}
    levels = torch.stack([_levels_of(made(seed, **flat)) for seed in range(400)])
    assert levels.std(dim=0).tolist() == pytest.approx([VESSELS.tumour_spread] * 3, rel=0.1)
    assert float(levels.mean()) == pytest.approx(np.log(VESSELS.tumour_um), abs=0.03)
    correlation = torch.corrcoef(levels.T)
    # Standard error of a correlation of 0.36 in 400 patients: 0.044.
    assert float(correlation[0, 1]) == pytest.approx(VESSELS.node_correlation, abs=0.13)
    assert float(correlation[1, 2]) == pytest.approx(VESSELS.node_correlation**2, abs=0.15)


def _levels_of(one: Vasculature) -> Tensor:
    masks = (NECK.primary, NECK.nodes == 1, NECK.nodes == 2)
    return torch.stack([one.radius_um[mask].log().mean() for mask in masks])


def test_vessels_are_further_apart_in_the_core_than_at_the_rim() -> None:
    one = made(3, texture=0.0, tumour_spread=0.0)
    rim = one.radius_um[NECK.primary & (NECK.depth_mm < 2.0)].mean()
    core = one.radius_um[NECK.primary & (NECK.depth_mm > 12.0)].mean()
    expected = np.exp(VESSELS.core_growth * (np.exp(-1.0 / VESSELS.rim_mm) - np.exp(-13.5 / VESSELS.rim_mm)))
    assert float(core / rim) == pytest.approx(expected, rel=0.03)


def test_texture_has_its_spread_and_its_correlation_length() -> None:
    log = torch.stack(
        [
            made(seed, tumour_spread=0.0, core_growth=0.0, most_um=1e4, least_um=1.0).radius_um.log()
            for seed in range(60)
        ]
    )
    inside = log[:, NECK.primary]
    assert float(inside.std()) == pytest.approx(VESSELS.texture, rel=0.08)
    both = NECK.primary[:, :, 2:] & NECK.primary[:, :, :-2]
    pair = torch.stack([log[..., 2:][:, both].flatten(), log[..., :-2][:, both].flatten()])
    # Two voxels of 3 mm are one correlation length: exp(-1/2).
    assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(np.exp(-0.5), abs=0.06)


def test_normal_tissues_have_their_own_vessels_and_flow() -> None:
    one = made(0, normal_texture=0.0)
    for tissue, radius, flow in ((Tissue.FAT, 45.0, 4.0), (Tissue.MUSCLE, 32.0, 5.0)):
        assert torch.allclose(one.radius_um[NECK.is_a(tissue)], torch.tensor(radius))
        assert torch.allclose(one.flow[NECK.is_a(tissue)], torch.tensor(flow))
    assert float(one.flow[NECK.is_a(Tissue.OUTSIDE, Tissue.ARTERY)].max()) == 0.0
    assert bool((one.viable[~NECK.tumour] == 1.0).all())


def test_tissue_far_from_vessels_is_necrotic() -> None:
    shares = viable_share(torch.tensor([60.0, 125.0, 180.0]), VESSELS)
    assert float(shares[0]) > 0.999
    assert float(shares[1]) == pytest.approx(0.5)
    assert float(shares[2]) < 0.01


def test_flow_follows_the_number_of_vessels() -> None:
    one = made(4, flow_texture=0.0, flow_spread=0.0)
    living = NECK.tumour & (one.viable > 0.999)
    expected = VESSELS.tumour_flow * VESSELS.tumour_um / one.radius_um[living]
    assert torch.allclose(one.flow[living], expected, rtol=2e-3)
    scattered = made(4)
    pair = torch.stack([scattered.flow[living].log(), scattered.radius_um[living].log()])
    assert -1.0 < float(torch.corrcoef(pair)[0, 1]) < 0.0


def test_supply_cycles_more_where_vessels_are_few() -> None:
    one = made(5, acute_spread=0.0)
    poor, rich = (one.acute[NECK.tumour & side] for side in (one.radius_um > 65.0, one.radius_um < 50.0))
    assert float(poor.min()) > float(rich.max())
    assert float(one.acute[NECK.is_a(Tissue.MUSCLE)].max()) == pytest.approx(VESSELS.acute_normal)
    phases = torch.cat([made(seed).phase.flatten() for seed in range(20)])
    assert torch.histc(phases, 4, 0.0, 1.0).tolist() == pytest.approx([phases.numel() / 4] * 4, rel=0.1)


def test_another_day_changes_vessels_by_what_is_said_and_leaves_the_rest() -> None:
    before = made(6)
    changes = []
    for seed in range(40):
        after = another_day(before, NECK, VESSELS, np.random.default_rng(seed))
        changes.append((after.radius_um / before.radius_um).log()[NECK.tumour])
        assert torch.equal(after.radius_um[~NECK.tumour], before.radius_um[~NECK.tumour])
        assert torch.equal(after.viable, before.viable)
    assert float(torch.stack(changes).square().mean().sqrt()) == pytest.approx(VESSELS.day_change, rel=0.1)
    assert not torch.equal(after.phase, before.phase)
    same = another_day(before, NECK, replace(VESSELS, day_change=0.0), np.random.default_rng(0))
    assert torch.allclose(same.radius_um, before.radius_um)
    assert torch.allclose(same.flow, before.flow)


def test_reoxygenation_draws_vessels_nearer_up_to_those_of_muscle() -> None:
    before = made(7)
    half, whole = (reoxygenated(before, NECK, share) for share in (0.5, 1.0))
    poor = NECK.tumour & (before.radius_um > VESSELS.muscle_um)
    middle = (before.radius_um[poor] * VESSELS.muscle_um).sqrt()
    assert torch.allclose(half.radius_um[poor], middle)
    assert torch.allclose(whole.radius_um[poor], torch.tensor(VESSELS.muscle_um))
    assert torch.equal(half.radius_um[~poor], before.radius_um[~poor])
    assert bool((half.flow >= before.flow)[NECK.tumour].all())
    assert bool((half.acute <= before.acute).all())
    assert torch.equal(half.viable, before.viable)
    assert torch.allclose(reoxygenated(before, NECK, 0.0).radius_um, before.radius_um)


def test_reoxygenation_may_differ_between_voxels_and_be_differentiated() -> None:
    before = made(8)
    share = torch.full(before.radius_um.shape, 0.3, requires_grad=True)
    after = reoxygenated(before, NECK, share)
    assert torch.allclose(after.radius_um, reoxygenated(before, NECK, 0.3).radius_um)
    (slope,) = torch.autograd.grad(after.radius_um.sum(), share)
    assert bool((slope <= 0).all())
    assert float(slope.min()) < 0.0


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_reoxygenation_beyond_all_or_nothing_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"share=.* of reoxygenation must lie between 0 and 1"):
        reoxygenated(made(0), NECK, share)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tumour_um": 10.0}, "tumour_um=10 of the phantom's vessels lies outside"),
        ({"least_um": 300.0}, "least_um=300 of the phantom's vessels is not below most_um=200"),
        ({"acute_share": 0.95}, "acute_share=0.95 of the phantom's vessels exceeds acute_most=0.9"),
        ({"disorder": -1.0}, "disorder=-1"),
        ({"rim_mm": 0.0}, "rim_mm=0"),
        ({"node_correlation": 1.5}, "node_correlation=1.5"),
    ],
)
def test_impossible_vessels_are_refused_by_name(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Vessels(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["diffusion_um2_per_s", "consumption_mmhg_per_s", "half_mmhg", "vessel_mmhg", "cycle_min"]
)
def test_oxygen_that_is_no_positive_number_is_refused_by_name(name: str) -> None:
    for value in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=name):
            Oxygen(**{name: value})  # type: ignore[arg-type]


def test_every_parameter_has_a_unit_a_meaning_and_a_source() -> None:
    for owner in (Oxygen(), VESSELS):
        lines = list(described(owner))
        assert len(lines) == len(fields(owner))
        assert all(line.unit and line.meaning and line.source for line in lines)
