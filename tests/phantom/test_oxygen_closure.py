import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.oxygen.closure import (
    Calibration,
    closure_for,
    coefficients_of,
    equal_shares,
    fine_states,
    from_json,
    shipped,
    to_json,
)
from hypoxnet.phantom.oxygen.fine import Piece
from hypoxnet.phantom.oxygen.solver import local_balance
from hypoxnet.phantom.parameters.base import digest
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels

CLOSURE = shipped()
M = torch.tensor(15.0)


def mean_po2(radius_um: Tensor, vessel_mmhg: Tensor) -> Tensor:
    local = CLOSURE.at(radius_um, vessel_mmhg)
    return local_balance(local.supply_per_s, vessel_mmhg, M.to(radius_um), local.half_mmhg)


def test_the_shipped_closure_belongs_to_the_default_parameters() -> None:
    assert CLOSURE.calibration == Calibration.of(Oxygen(), Vessels())
    assert closure_for(Oxygen(), Vessels()) is CLOSURE
    # Pressure and cycles are no part of it.
    assert closure_for(Oxygen(vessel_mmhg=60.0, cycle_min=30.0), Vessels(tumour_um=70.0)) is CLOSURE


@pytest.mark.parametrize(("radius_um", "vessel_mmhg"), [(40.0, 20.0), (50.0, 40.0), (63.0, 40.0)])
def test_other_placements_of_the_vessels_give_the_tabulated_point(radius_um: float, vessel_mmhg: float) -> None:
    row = CLOSURE.calibration.radius_um.index(radius_um)
    column = CLOSURE.calibration.vessel_mmhg.index(vessel_mmhg)
    piece = Piece.near(radius_um, Oxygen())
    states = [
        fine_states(
            piece, CLOSURE.calibration, vessel_mmhg=[vessel_mmhg], generator=np.random.default_rng([99, row, number])
        )[0]
        for number in range(2)
    ]
    supply, half, nodes, _ = coefficients_of(states, vessel_mmhg=vessel_mmhg, calibration=CLOSURE.calibration)
    mean = float(np.mean([state.mean_mmhg for state in states]))
    # Of the mean of two placements beside that of six: three standard deviations of the difference, 2.5 % at most.
    allowed = 3.0 * float(CLOSURE.spread_mmhg[row, column]) * (1 / 2 + 1 / CLOSURE.calibration.placements) ** 0.5
    tabulated = float(mean_po2(CLOSURE.radius_um[row], CLOSURE.vessel_mmhg[column]))
    assert abs(mean - tabulated) <= max(allowed, 0.025 * tabulated)
    assert supply == pytest.approx(float(CLOSURE.supply_per_s[row, column]), rel=0.06)
    assert half == pytest.approx(float(CLOSURE.half_mmhg[row, column]), rel=0.12)
    assert np.abs(nodes - CLOSURE.nodes[row, column].numpy()).max() < 0.2


def test_at_its_points_the_closure_returns_the_table() -> None:
    radius = CLOSURE.radius_um[:, None].expand(-1, 8)
    local = CLOSURE.at(radius, CLOSURE.vessel_mmhg)
    assert torch.allclose(local.supply_per_s, CLOSURE.supply_per_s, rtol=1e-4)
    assert torch.allclose(local.half_mmhg, CLOSURE.half_mmhg, rtol=1e-4)
    assert torch.allclose(local.nodes, CLOSURE.nodes, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(radius=st.floats(5.0, 400.0), vessel=st.floats(0.5, 600.0))
def test_nodes_rise_from_at_least_nothing_and_have_mean_one(radius: float, vessel: float) -> None:
    local = CLOSURE.at(torch.tensor([radius]), torch.tensor(vessel))
    assert float(local.nodes.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(local.nodes.min()) >= 0.0
    assert bool((local.nodes.diff(dim=-1) >= 0).all())
    assert float(local.half_mmhg) >= 1.99


def test_oxygen_falls_with_distance_and_rises_with_pressure() -> None:
    radius = torch.linspace(16.0, 200.0, 300)[:, None]
    vessel = torch.linspace(5.0, 300.0, 200)[None, :]
    po2 = mean_po2(*torch.broadcast_tensors(radius, vessel))
    assert bool((po2.diff(dim=0) < 0).all())
    assert bool((po2.diff(dim=1) > 0).all())


def test_no_node_exceeds_the_pressure_of_the_vessels() -> None:
    radius, vessel = CLOSURE.radius_um[:, None].expand(-1, 8), CLOSURE.vessel_mmhg.expand(12, 8)
    highest = mean_po2(radius, vessel) * CLOSURE.nodes[..., -1]
    assert bool((highest <= vessel * 1.0001).all())


def test_gradients_are_those_of_finite_differences() -> None:
    radius = torch.tensor([18.3, 47.1, 90.2, 140.0], dtype=torch.float64, requires_grad=True)
    vessel = torch.tensor([35.0, 12.0, 33.0, 50.0], dtype=torch.float64, requires_grad=True)

    def read(radius: Tensor, vessel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        local = CLOSURE.at(radius, vessel)
        return local.supply_per_s, local.half_mmhg, local.nodes

    assert torch.autograd.gradcheck(read, (radius, vessel))
    _, slope = torch.func.jvp(
        lambda r: CLOSURE.at(r, vessel.detach()).supply_per_s, (radius.detach(),), (radius.detach(),)
    )
    assert bool((slope < 0).all())


def test_equal_shares_keep_the_mean_and_the_order() -> None:
    values = np.random.default_rng(0).gamma(0.5, 10.0, 1001)
    shares = equal_shares(values, top=200.0, top_weight=30.5, count=12)
    mean = (values.sum() + 30.5 * 200.0) / (1001 + 30.5)
    assert shares.mean() == pytest.approx(mean)
    assert (np.diff(shares) > 0).all()


def test_a_closure_survives_its_file_and_one_that_was_tampered_with_does_not() -> None:
    content = json.loads(json.dumps(to_json(CLOSURE)))
    again = from_json(content)
    assert again.calibration == CLOSURE.calibration
    assert torch.equal(again.supply_per_s, CLOSURE.supply_per_s)
    assert torch.allclose(again.nodes, CLOSURE.nodes, atol=1e-6)
    content["calibration"]["disorder"] = 0.1
    with pytest.raises(ConfigError, match="belongs to other parameters"):
        from_json(content)


def test_a_closure_that_was_made_before_is_taken_from_its_folder(tmp_path: Path) -> None:
    vessels = Vessels(disorder=0.2)
    calibration = Calibration.of(Oxygen(), vessels)
    kept = replace(CLOSURE, calibration=calibration, supply_per_s=CLOSURE.supply_per_s * 1.25)
    (tmp_path / f"closure-{digest(calibration)}.json").write_text(json.dumps(to_json(kept)), encoding="utf-8")
    found = closure_for(Oxygen(), vessels, folder=tmp_path)
    assert torch.allclose(found.supply_per_s, kept.supply_per_s)
    assert found.calibration.disorder == 0.2


def test_a_closure_is_made_where_none_fits_and_then_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Calibration(
        2000.0, 15.0, 2.0, 5.0, 0.2, radius_um=(30.0, 40.0), vessel_mmhg=(20.0, 40.0), placements=1, nodes=4
    )
    monkeypatch.setattr("hypoxnet.phantom.oxygen.fine.SIDE_UM", 200.0)
    monkeypatch.setattr(Calibration, "of", classmethod(lambda cls, oxygen, vessels: small))
    made = closure_for(Oxygen(), Vessels(disorder=0.2), folder=tmp_path)
    assert made.nodes.shape == (2, 2, 4)
    local = made.at(made.radius_um, torch.tensor(40.0))
    krogh_like = local_balance(local.supply_per_s, torch.tensor(40.0), M, local.half_mmhg)
    assert 20.0 < float(krogh_like[1]) < float(krogh_like[0]) < 38.0
    assert [path.name for path in tmp_path.iterdir()] == [f"closure-{digest(small)}.json"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"radius_um": (10.0, 20.0)}, "radius_um=10"), ({"vessel_mmhg": (40.0, 40.0)}, "vessel_mmhg=")],
)
def test_an_impossible_calibration_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Calibration(2000.0, 15.0, 2.0, 5.0, 0.2, **changes)  # type: ignore[arg-type]
