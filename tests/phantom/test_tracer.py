from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.maps.input_functions import feng
from hypoxnet.maps.pet_kinetics import Frames, fit_kinetics, frame_weights, patlak
from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.parameters.base import described
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import FAZA, FDG, FMISO, HX4, TRACERS, NormalTissue, Tracer
from hypoxnet.phantom.pet import acquire_pet
from hypoxnet.phantom.tracer import (
    Kinetics,
    binding,
    dynamic_suv,
    extraction,
    input_function,
    kinetics,
    late_suv,
    patient_tracer,
    static_frame,
)
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature
from hypoxnet.quantities import TRACERS as NAMES

HYPOXIA = (FMISO, FAZA, HX4)


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1)


def row_of(tissues: list[Tissue]) -> Anatomy:
    tissue = torch.tensor([int(t) for t in tissues], dtype=torch.uint8).reshape(1, 1, -1)
    none = torch.zeros_like(tissue, dtype=torch.bool)
    grid = Grid.from_affine(tissue.shape, np.eye(4))
    return Anatomy(grid, tissue, tissue == 10, torch.zeros_like(tissue), none, none, none.float(), "oropharynx")


def vessels_of(radius_um: torch.Tensor, *, viable: torch.Tensor | float = 1.0) -> Vasculature:
    """Vessels whose flow falls with their distance as in tumours, 60 ml/100ml/min at 50 um."""
    none = torch.zeros_like(radius_um)
    return Vasculature(radius_um, 60.0 * (50.0 / radius_um) ** 1.5, torch.as_tensor(viable) + none, none, none)


def krogh(radius_um: torch.Tensor, *, count: int = 64) -> Oxygenation:
    """Oxygen round one vessel (40 mmHg, 5 um; 15 mmHg/s, 2000 um2/s, zero order), at nodes of equal area."""
    share = ((torch.arange(count) + 0.5) / count).reshape(-1, 1, 1, 1)
    square = 25.0 + share * (radius_um**2 - 25.0)
    fall = 15.0 / (4.0 * 2000.0) * (radius_um**2 * torch.log(square / 25.0) - (square - 25.0))
    nodes = (40.0 - fall).clamp(min=0.0)
    return Oxygenation(nodes.mean(0), nodes)


def rates(n: int, seed: int = 0) -> Kinetics:
    draw = np.random.default_rng(seed)
    k1, partition, k3, vb = (
        torch.from_numpy(draw.uniform(low, high, (1, 1, n)).astype(np.float32))
        for low, high in ((0.1, 0.5), (0.7, 1.1), (0.001, 0.02), (0.02, 0.1))
    )
    return Kinetics(k1, k1 / partition, k3, vb)


def protocol() -> Frames:
    """12 of 5 s, 6 of 10 s, 6 of 30 s, 5 of 1 min, 8 of 5 min and 10 of 10 min: 150 min."""
    seconds = np.repeat([5, 10, 30, 60, 300, 600], [12, 6, 6, 5, 8, 10])
    ends = torch.from_numpy(np.cumsum(seconds) / 60.0)
    return Frames(ends - torch.from_numpy(seconds / 60.0), ends)


def raw_input(tracer: Tracer, times: np.ndarray) -> np.ndarray:
    a = tracer.bolus * times - tracer.fast - tracer.slow
    phases = tracer.fast * np.exp(-tracer.fast_rate_per_min * times)
    phases += tracer.slow * np.exp(-tracer.slow_rate_per_min * times)
    return a * np.exp(-tracer.bolus_rate_per_min * times) + phases


def at(times: list[float]) -> Frames:
    return Frames(torch.tensor(times, dtype=torch.float64))


def unscaled(tracer: Tracer, frames: Frames) -> torch.Tensor:
    """Blood of the tracer over frames, SUV."""
    return dynamic_suv(Kinetics(line(0.0), line(0.0), line(0.0), line(1.0)), tracer, frames)[:, 0, 0, 0]


# ---- input


def test_fdg_has_fengs_curve():
    times = [0.1, 0.2895, 0.5, 1.0, 5.0, 10.0, 60.0, 120.0]
    blood = unscaled(FDG, at(times)).double()
    assert blood / blood[2] == pytest.approx(feng(torch.tensor(times)) / 89.779, rel=1e-5)


@pytest.mark.parametrize("tracer", TRACERS.values(), ids=TRACERS)
def test_blood_of_the_static_frame_has_the_stated_suv(tracer):
    assert float(unscaled(tracer, static_frame(tracer))) == pytest.approx(tracer.blood_suv, rel=1e-6)


@pytest.mark.parametrize("tracer", TRACERS.values(), ids=TRACERS)
def test_input_function_is_the_blood_that_voxels_see(tracer):
    given = input_function(tracer)
    times = [0.3, 1.7, 9.1, 64.3, 250.0]
    assert given.on(torch.tensor(times))[0] == pytest.approx(unscaled(tracer, at(times)).double(), rel=2e-4)
    assert torch.equal(given.plasma, given.blood)


def test_hypoxia_tracers_leave_blood_more_slowly_than_fdg():
    for tracer in HYPOXIA:
        kept, fdg = (unscaled(t, at([60.0, 150.0])) for t in (tracer, FDG))
        assert kept[1] / kept[0] > fdg[1] / fdg[0]


# ---- the closed form


@pytest.mark.parametrize(
    ("k1", "k2", "k3"),
    [
        (0.3, 0.5, 0.005),
        (0.05, 0.03, 0.02),
        (0.01, 0.0104, 0.0),  # leaves as fast as the slow phase of the input
        (0.2, 0.1091, 0.01),  # as the fast phase
        (1.5, 4.1339, 0.0),  # as the bolus: a double pole
        (0.1, 0.0, 0.0),  # all stays, free
    ],
)
def test_closed_form_solves_the_differential_equations(k1, k2, k3):
    frames = Frames(torch.tensor([0.1, 0.5, 20.0, 110.0]).double(), torch.tensor([0.2, 1.0, 25.0, 130.0]).double())
    scale = FDG.blood_suv / raw_mean(FDG, 60.0, 70.0)

    def slope(t, c):
        blood = scale * float(raw_input(FDG, np.array(t)))
        return [k1 * blood - (k2 + k3) * c[0], k3 * c[0], c[0] + c[1]]

    edges = np.unique(torch.cat([frames.starts_min, frames.ends_min]).numpy())
    solved = solve_ivp(slope, (0.0, 130.0), np.zeros(3), t_eval=edges, rtol=1e-9, atol=1e-10, max_step=1.0)
    integral = dict(zip(edges, solved.y[2], strict=True))
    expected = [
        (integral[e] - integral[b]) / (e - b)
        for b, e in zip(frames.starts_min.tolist(), frames.ends_min.tolist(), strict=True)
    ]
    reached = dynamic_suv(Kinetics(line(k1), line(k2), line(k3), line(0.0)), FDG, frames)[:, 0, 0, 0]
    assert reached.numpy() == pytest.approx(expected, rel=2e-5)


def raw_mean(tracer: Tracer, begin: float, end: float) -> float:
    times = np.linspace(begin, end, 20001)
    return float(np.trapezoid(raw_input(tracer, times), times) / (end - begin))


def test_ratio_to_blood_at_150_min_by_k3_is_that_of_the_worked_table():
    k3 = line(0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
    constant = torch.ones_like(k3)
    tissue = dynamic_suv(Kinetics(0.3 * constant, 0.5 * constant, k3, 0.0 * constant), FDG, at([150.0]))[0, 0, 0]
    ratio = tissue / unscaled(FDG, at([150.0]))
    assert ratio.numpy() == pytest.approx([0.613, 0.857, 1.101, 1.826, 3.015, 5.325], abs=6e-4)


def test_constant_input_gives_the_worked_uptake():
    constant = replace(FDG, bolus=0.0, fast=0.0, slow_rate_per_min=1e-9, bolus_rate_per_min=1e7, blood_suv=1.0)
    values = Kinetics(line(0.3, 0.3), line(0.5, 0.5), line(0.005, 0.005), line(0.0, 0.05))
    reached = dynamic_suv(values, constant, at([10.0, 60.0, 150.0]))[:, 0, 0]
    assert reached[:, 0].numpy() == pytest.approx([0.614111, 0.766395, 1.033722], abs=2e-6)
    assert float(reached[2, 1]) == pytest.approx(1.032036, abs=2e-6)
    assert float(values.ki[0, 0, 0]) == pytest.approx(0.00297030, abs=1e-8)


@given(st.floats(0.0, 200.0), st.floats(0.05, 40.0), st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_a_frame_is_the_mean_of_its_parts(begin, duration, part):
    cut, end = begin + part * duration, begin + duration
    three = Frames(torch.tensor([begin, begin, cut]).double(), torch.tensor([end, cut, end]).double())
    whole, first, second = dynamic_suv(rates(5), FMISO, three).double()
    assert part * first + (1 - part) * second == pytest.approx(whole, rel=1e-5, abs=1e-6)


@given(st.sampled_from(["bolus", "fast", "slow"]), st.floats(-3.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_uptake_is_smooth_where_a_rate_meets_one_of_the_input(phase, steps):
    rate = getattr(FDG, f"{phase}_rate_per_min")
    near = rate * (1.0 + 1e-4 * steps)
    values = Kinetics(line(0.2, 0.2), line(near, 1.001 * near), line(0.0, 0.0), line(0.0, 0.0))
    one, other = dynamic_suv(values, FDG, protocol()).double().reshape(-1, 2).unbind(1)
    assert one == pytest.approx(other, rel=1.5e-3, abs=1e-6)


# ---- what our own maps make of it


@pytest.mark.parametrize("tracer", [FMISO, FDG], ids=["FMISO", "FDG"])
def test_our_maps_find_the_rates_again(tracer):
    truth, frames = rates(60), protocol()
    series = dynamic_suv(truth, tracer, frames).reshape(len(frames.starts_min), -1)
    given = input_function(tracer)
    found = fit_kinetics("2t-irreversible", series, frames, given).values
    for name in ("k1", "k2", "k3"):
        assert found[name] == pytest.approx(getattr(truth, name).reshape(-1), rel=1e-3)
    assert found["vb"] == pytest.approx(truth.vb.reshape(-1), rel=0.02)
    assert found["ki"] == pytest.approx(truth.ki.reshape(-1), rel=1e-3)
    slope = patlak(series, frames, given, from_min=60.0).values["ki"]
    assert slope == pytest.approx(((1 - truth.vb) * truth.ki).reshape(-1), rel=0.02)


def test_our_maps_find_the_rates_of_a_noisy_scan_within_their_errors():
    frames, grid = protocol(), centred_grid([48.0] * 3, [3.0] * 3)
    truth = Kinetics(*(torch.full(grid.shape, v) for v in (0.3, 0.33, 0.008, 0.05)))
    generator = np.random.default_rng(3)
    series = acquire_pet(dynamic_suv(truth, FMISO, frames), grid, PetScanner(), grid, generator, frames)
    curves = series.reshape(len(series), -1)[:, ::12]
    weights = frame_weights(frames, curves.mean(1), half_life_min=109.77)
    found = fit_kinetics("2t-irreversible", curves, frames, input_function(FMISO), weights=weights)
    # Neighbours share their noise: 340 voxels of a 7 mm correlation are about 80 independent ones.
    for name, value in (("k1", 0.3), ("k3", 0.008)):
        values, error = found.values[name], float(found.errors[name].median())
        assert abs(float(values.mean()) - value) < 3.0 * float(values.std()) / 80**0.5
        assert float(values.std()) == pytest.approx(error, rel=0.25)
    slope = patlak(series.reshape(len(series), -1), frames, input_function(FMISO), from_min=60.0).values["ki"]
    assert float(slope.mean()) == pytest.approx(0.95 * 0.3 * 0.008 / 0.338, rel=0.02)


# ---- oxygen and vessels


def test_trapping_by_oxygen_has_the_worked_values():
    at_pressure = torch.tensor([1.0, 2.5, 5.0, 10.0])
    alive = at_pressure / (at_pressure + 1.2)
    assert (binding(at_pressure, FMISO) / alive).numpy() == pytest.approx([0.583, 0.359, 0.219, 0.123], abs=6e-4)


@given(st.floats(0.05, 20.0))
def test_trapping_at_a_point_is_largest_at_the_geometric_mean_of_the_half_maxima(po2):
    best = (FMISO.half_binding_mmhg * FMISO.half_viability_mmhg) ** 0.5
    assert float(binding(torch.tensor(po2), FMISO)) <= float(binding(torch.tensor(best), FMISO)) + 1e-7


@pytest.mark.parametrize("tracer", HYPOXIA, ids=[t.name for t in HYPOXIA])
def test_uptake_against_mean_po2_peaks_near_5_mmhg(tracer):
    radius = torch.linspace(20.0, 140.0, 400).reshape(1, 1, -1)
    oxygen = krogh(radius)
    anatomy = row_of([Tissue.TUMOUR] * 400)
    ratio = late_suv(kinetics(oxygen, vessels_of(radius), anatomy, tracer), tracer)[0, 0] / tracer.blood_suv
    peak = int(ratio.argmax())
    assert 4.0 < float(oxygen.po2[0, 0, peak]) < 7.0
    assert 1.5 < float(ratio[peak]) < 3.0
    below, above = ((oxygen.po2[0, 0] - p).abs().argmin() for p in (0.5, 30.0))
    assert ratio[below] < 0.75 * ratio[peak]
    assert 0.85 < float(ratio[above]) < 1.2


@pytest.mark.parametrize("tracer", HYPOXIA, ids=[t.name for t in HYPOXIA])
def test_muscle_takes_up_about_as_much_as_blood(tracer):
    anatomy = row_of([Tissue.MUSCLE])
    one = torch.full((1, 1, 1), 30.0)
    muscle = late_suv(kinetics(krogh(one), vessels_of(one), anatomy, tracer), tracer)
    assert 0.8 < float(muscle) / tracer.blood_suv < 1.2


def test_fdg_is_high_in_all_of_the_tumour_and_mildly_higher_where_oxygen_lacks():
    radius = line(45.0, 68.0)
    tumour = late_suv(kinetics(krogh(radius), vessels_of(radius), row_of([Tissue.TUMOUR] * 2), FDG), FDG)[0, 0]
    muscle = late_suv(kinetics(krogh(radius), vessels_of(radius), row_of([Tissue.MUSCLE] * 2), FDG), FDG)[0, 0]
    assert tumour.min() > 4.0 * muscle[0]
    assert 1.0 < float(tumour[1] / tumour[0]) < 1.4


def test_vessels_hold_blood_and_air_nothing():
    tissues = [Tissue.ARTERY, Tissue.VEIN, Tissue.AIRWAY, Tissue.OUTSIDE]
    one = torch.full((1, 1, 4), 30.0)
    values = dynamic_suv(kinetics(krogh(one), vessels_of(one), row_of(tissues), FMISO), FMISO, protocol())[:, 0, 0]
    blood = unscaled(FMISO, protocol())
    assert torch.equal(values[:, 0], blood)
    assert torch.equal(values[:, 1], blood)
    assert float(values[:, 2:].abs().max()) == 0.0


def test_every_tissue_has_rates_of_its_own():
    known = {"artery", "vein", "airway", "outside", "tumour", "node"}
    for tracer in TRACERS.values():
        assert {row.name for row in tracer.normal} | known == {tissue.name.lower() for tissue in Tissue}


def test_necrosis_takes_up_little_and_late():
    radius = line(60.0, 60.0)
    living_and_dead = vessels_of(radius, viable=line(1.0, 0.0))
    living_and_dead = replace(living_and_dead, flow=line(50.0, 2.0))
    found = kinetics(krogh(radius), living_and_dead, row_of([Tissue.TUMOUR] * 2), FMISO)
    assert float(found.k1[0, 0, 1]) == pytest.approx(0.02)
    assert float(found.k3[0, 0, 1]) == 0.0
    assert float(found.k1[0, 0, 1] / found.k2[0, 0, 1]) == pytest.approx(0.6 * 0.85)
    assert float(late_suv(found, FMISO)[0, 0, 1]) < 0.65 * FMISO.blood_suv


def test_the_distribution_inside_a_voxel_decides_not_its_mean():
    even = Oxygenation(line(5.0), torch.full((2, 1, 1, 1), 5.0))
    split = Oxygenation(line(5.0), torch.tensor([1.3, 8.7]).reshape(2, 1, 1, 1))
    one, two = (
        kinetics(o, vessels_of(line(60.0)), row_of([Tissue.NODE]), FMISO).k3.item() / FMISO.k3max_per_min
        for o in (even, split)
    )
    assert one == pytest.approx(1.4 / 6.4 * 5.0 / 6.2)
    assert two == pytest.approx(0.5 * (1.4 / 2.7 * 1.3 / 2.5 + 1.4 / 10.1 * 8.7 / 9.9))


def test_uptake_is_limited_by_flow_or_by_permeability():
    slow, fast = torch.tensor(0.01), torch.tensor(100.0)
    assert float(slow * extraction(slow, torch.tensor(0.6))) == pytest.approx(0.01)
    assert float(fast * extraction(fast, torch.tensor(0.6))) == pytest.approx(0.6, rel=0.01)
    assert float(extraction(torch.tensor(0.0), torch.tensor(0.6))) == 1.0


# ---- patients


def test_a_patient_is_the_same_whenever_drawn():
    radius = line(60.0)
    arguments = (krogh(radius), vessels_of(radius), row_of([Tissue.TUMOUR]), FMISO)
    one, two, other = (kinetics(*arguments, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.k3, two.k3)
    assert not torch.equal(one.k3, other.k3)
    assert torch.equal(one.k1, other.k1)


def test_patients_scatter_as_stated():
    radius = line(60.0)
    arguments = (krogh(radius), vessels_of(radius), row_of([Tissue.TUMOUR]), FMISO)
    middle = kinetics(*arguments)
    generator = np.random.default_rng(0)
    drawn = [kinetics(*arguments, generator) for _ in range(400)]
    partition = torch.log(torch.cat([(d.k1 / d.k2 / FMISO.partition).reshape(-1) for d in drawn]))
    trapping = torch.log(torch.cat([(d.k3 / middle.k3).reshape(-1) for d in drawn]))
    blood = np.log([patient_tracer(FMISO, generator).blood_suv / FMISO.blood_suv for _ in range(400)])
    for logs, spread in (
        (partition, FMISO.partition_spread),
        (trapping, FMISO.k3_spread),
        (torch.from_numpy(blood), FMISO.blood_spread),
    ):
        assert float(logs.std()) == pytest.approx(spread, rel=0.12)
        assert abs(float(logs.mean())) < 3.5 * spread / 20.0


# ---- parameters


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slow_rate_per_min": 0.2}, "slow_rate_per_min=0.2, fast_rate_per_min=0.1191 and .* must increase"),
        ({"vb": 0.3}, "vb=0.3 of tracer FMISO exceeds vb_high=0.15"),
        ({"half_binding_mmhg": 0.0}, "half_binding_mmhg=0 of the phantom .* must be above 0"),
        ({"necrotic_partition": 1.5}, "necrotic_partition=1.5 .* must be at most 1"),
        ({"k3max_per_min": -0.1}, "k3max_per_min=-0.1 .* must be at least 0"),
        ({"blood_suv": float("nan")}, "blood_suv=nan .* must be a finite number"),
    ],
)
def test_impossible_parameters_are_refused_by_name(change, said):
    with pytest.raises(ConfigError, match=said):
        replace(FMISO, **change)


def test_an_impossible_tissue_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"partition=0 of the phantom \(NormalTissue, 1\)"):
        NormalTissue("muscle", partition=0.0)


def test_every_number_has_a_unit_and_a_source():
    assert set(TRACERS) < set(NAMES)
    for tracer in TRACERS.values():
        rows = {row.name: row for row in described(tracer)}
        assert rows["normal.muscle.partition"].unit == "1"
        assert all(row.unit and row.meaning and row.source for row in rows.values())
