import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from hypoxnet.errors import MapError
from hypoxnet.maps.compartments import CompartmentModel, Timing, shifted
from hypoxnet.maps.convolution import running_integral
from hypoxnet.maps.dce import (
    DCE_MODELS,
    DELAY,
    ExtendedTofts,
    TwoCompartmentExchange,
    iauc,
    signal_to_concentration,
)
from hypoxnet.maps.fitting import Status, fit
from hypoxnet.maps.input_functions import InputFunction, bolus_arrival, feng, from_blood, parker, timing
from hypoxnet.maps.pet_kinetics import (
    Frames,
    build_model,
    choose_model,
    fit_delay,
    fit_kinetics,
    frame_weights,
    logan,
    patlak,
)
from hypoxnet.maps.pet_models import PET_MODELS
from hypoxnet.maps.relaxometry import spoiled_gradient_echo

NOTHING = torch.empty(0, 1, dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def printed(value: float, digits: int):
    """Equal to the printed number, half of its last digit allowed."""
    return pytest.approx(value, abs=0.5001 * 10.0**-digits)


def curve_of(model: CompartmentModel, *values: float) -> torch.Tensor:
    return model.evaluate(double(*values)[:, None], NOTHING)[0][:, 0]


def dce_model(name: str, times_min: list[float], *, step_min: float = 0.05, delay=None) -> CompartmentModel:
    fine = torch.linspace(0, 6, round(6 / step_min) + 1, dtype=torch.float64)
    grid, plasma, _ = timing(double(*times_min), None, from_blood(fine, parker(fine)))
    return DCE_MODELS[name](grid, plasma, delay=delay)


def feng_input(last_min: float, *, step_min: float = 0.01) -> InputFunction:
    times = torch.linspace(0, last_min, round(last_min / step_min) + 1, dtype=torch.float64)
    return from_blood(times, feng(times), haematocrit=0.0)


def sampled_input(last_min: float = 90.0) -> InputFunction:
    """As blood is drawn: every three seconds at first, then more rarely."""
    times = torch.cat([torch.arange(0, 3, 0.05), torch.arange(3, 10, 0.5), torch.arange(10, last_min + 1, 2)]).double()
    return from_blood(times, feng(times), haematocrit=0.0)


def pet_frames() -> Frames:
    ends = torch.cumsum(double(*[10] * 6, *[20] * 6, *[60] * 7, *[300] * 16), 0) / 60
    return Frames(torch.cat([double(0.0), ends[:-1]]), ends)


# Parker's input at a haematocrit of 0.42; Ktrans 0.25 /min, ve 0.30, vp 0.05.
@pytest.mark.parametrize(
    ("name", "values", "curve"),
    [
        ("tofts", (0.25, 0.30), (0.38091, 0.42592, 0.42112, 0.28783)),
        ("extended-tofts", (0.25, 0.30, 0.05), (0.48649, 0.50240, 0.48574, 0.32681)),
        ("patlak", (0.25, 0.05), (0.58564, 0.77325, 1.11331, 1.84854)),
    ],
)
def test_contrast_curves_match_worked_numbers(name, values, curve):
    found = curve_of(dce_model(name, [0.5, 1.0, 2.0, 5.0], step_min=5e-4), *values)
    assert found.tolist() == [printed(c, 5) for c in curve]


@pytest.mark.parametrize(
    ("name", "values", "area"), [("tofts", (0.25, 0.3), 19.501), ("extended-tofts", (0.25, 0.3, 0.05), 27.862)]
)
def test_initial_areas_match_worked_numbers(name, values, area):
    times = torch.linspace(0, 1.5, 3001, dtype=torch.float64)
    curve = curve_of(dce_model(name, times.tolist(), step_min=5e-4), *values)
    assert float(iauc(60 * times, curve[:, None], arrival_s=0.0)) == printed(area, 3)


def test_exchange_model_matches_worked_numbers():
    model = dce_model("2cxm", [0.5, 1.0, 5.0], step_min=5e-4)
    values = double(60.0, 0.2, 0.3, 0.05)[:, None]
    slow_part, fast_part, fast, slow = (
        float(x) for x in TwoCompartmentExchange.kinetics(model, values)[[1, 0, 2, 3], 0]
    )
    assert fast == printed(16.1720, 4)
    assert slow == printed(0.494683, 6)
    assert slow_part / (slow_part + fast_part) == printed(0.26612, 5)
    assert curve_of(model, 60.0, 0.2, 0.3, 0.05).tolist() == [printed(c, 5) for c in (0.32124, 0.37226, 0.34519)]


def test_trapping_model_matches_worked_numbers_for_a_constant_input():
    times = torch.linspace(0, 150, 151, dtype=torch.float64)
    given = InputFunction(times, torch.ones_like(times), torch.ones_like(times), "constant")
    frames = Frames(double(10, 60, 150))
    model = build_model("2t-irreversible", frames, given)
    tissue = curve_of(model, 0.30, 0.50, 0.005, 0.0)
    assert tissue.tolist() == [printed(c, 6) for c in (0.614111, 0.766395, 1.033722)]
    assert float(curve_of(model, 0.30, 0.50, 0.005, 0.05)[2]) == printed(1.032036, 6)


def test_influx_and_volume_match_worked_numbers():
    frames, given = pet_frames(), sampled_input()
    curve = curve_of(build_model("2t-irreversible", frames, given), 0.30, 0.50, 0.005, 0.05)
    found = fit_kinetics("2t-irreversible", curve[:, None], frames, given)
    assert float(found.values["ki"]) == printed(0.00297030, 8)
    assert float(found.values["v0"]) == printed(0.588178, 6)


def pet_frames_to(last_min: float) -> Frames:
    frames = pet_frames()
    keep = frames.ends_min <= last_min + 1e-9
    return Frames(frames.starts_min[keep], frames.ends_min[keep])


@pytest.mark.parametrize(
    ("k3", "ratio"), [(0, 0.613), (0.001, 0.857), (0.002, 1.101), (0.005, 1.826), (0.01, 3.015), (0.02, 5.325)]
)
def test_ratio_to_plasma_after_150_minutes_matches_worked_numbers(k3, ratio):
    tissue = curve_of(
        build_model("2t-irreversible", Frames(double(60, 150)), feng_input(150, step_min=0.05)), 0.3, 0.5, k3, 0.0
    )
    assert float(tissue[1]) / float(feng(double(150.0))) == printed(ratio, 3)


def test_patlak_line_of_a_simulated_curve_has_the_worked_slope_and_intercept():
    times = torch.linspace(0, 60, 6001, dtype=torch.float64)
    frames = Frames(times[1:])
    given = feng_input(60)
    tissue = curve_of(build_model("2t-irreversible", frames, given), 0.3, 0.5, 0.005, 0.0)
    found = patlak(tissue[:, None], frames, given, from_min=30.0)
    assert float(found.values["ki"]) == printed(0.002873, 6)
    assert float(found.values["ki"]) / 0.00297030 - 1 == printed(-0.033, 3)
    assert float(found.values["v0"]) == printed(0.610, 3)


def test_patlak_of_a_constant_input_in_frames_is_exact_once_in_equilibrium():
    times = torch.linspace(0, 150, 151, dtype=torch.float64)
    given = InputFunction(times, torch.ones_like(times), torch.ones_like(times), "constant")
    frames = Frames(torch.arange(0, 150, 10).double(), torch.arange(10, 151, 10).double())
    tissue = curve_of(build_model("2t-irreversible", frames, given), 0.30, 0.50, 0.005, 0.0)
    found = patlak(tissue[:, None], frames, given, from_min=60.0)
    assert float(found.values["ki"]) == pytest.approx(0.00297030, rel=1e-5)
    assert float(found.values["v0"]) == pytest.approx(0.588178, rel=1e-5)
    assert float(found.r2) > 1 - 1e-9


def test_logan_of_a_reversible_tracer_comes_within_two_percent_of_its_volume():
    frames, given = pet_frames_to(90), sampled_input()
    tissue = curve_of(build_model("1t", frames, given), 0.3, 0.2, 0.0)
    found = logan(tissue[:, None], frames, given, from_min=30.0)
    assert float(found.values["vt"]) == pytest.approx(0.3 / 0.2, rel=0.02)


def test_noise_makes_the_volume_of_logan_too_small():
    frames, given = pet_frames_to(90), sampled_input()
    tissue = curve_of(build_model("1t", frames, given), 0.3, 0.2, 0.0)
    noise = torch.randn(len(tissue), 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = logan(tissue[:, None] * (1 + 0.2 * noise), frames, given, from_min=30.0)
    assert float(found.values["vt"].nanmean()) < 1.48


def test_graphical_lines_refuse_what_they_cannot_use():
    frames, given = pet_frames_to(60), sampled_input()
    curve = torch.ones(len(frames.starts_min), 1, dtype=torch.float64)
    for line in (patlak, logan):
        with pytest.raises(MapError, match=r"2 frames of \d+ lie after 50 min, a line needs three; begin it earlier"):
            line(curve, frames, given, from_min=50.0)
    gone = InputFunction(given.times_min, (given.plasma - 15).clamp(min=0), given.blood, "gone")
    with pytest.raises(MapError, match="input is 0 at a frame after 30 min; it must be above 0"):
        patlak(curve, frames, gone, from_min=30.0)


def test_patlak_of_an_empty_voxel_has_no_value():
    frames, given = pet_frames_to(60), sampled_input()
    found = patlak(torch.zeros(len(frames.starts_min), 1), frames, given, from_min=30.0)
    assert found.status.tolist() == [Status.NO_SIGNAL]
    assert torch.isnan(found.values["ki"]).all()


# Right-hand sides from the definition of each model: state y, parameters p, plasma at the time.
def one_tissue(y, p, cp):
    return [p[0] * cp - p[1] * y[0]]


def two_tissues(y, p, cp):
    k1, k2, k3, k4 = p
    return [k1 * cp - (k2 + k3) * y[0] + k4 * y[1], k3 * y[0] - k4 * y[1]]


def three_tissues(y, p, cp):
    k1, k2, k3, k4, k5 = p
    first, second, _ = y
    return [k1 * cp - (k2 + k3) * first + k4 * second, k3 * first - (k4 + k5) * second, k5 * second]


def reduced_in_cells(y, p, cp):
    """Free tracer, bound product, diffusible product in cells and outside, of Casciari et al."""
    flow, ka, bound, kb, outside = p
    free, _, inside_cell, outside_cell = y
    return [
        flow * (cp - free) - (1 - outside) * ka * free,
        bound * ka * free,
        (1 - bound) * ka * free - kb * inside_cell,
        (1 - outside) / outside * kb * inside_cell - flow / outside * outside_cell,
    ]


def exchange(y, p, cp):
    """Concentrations in plasma and interstitium."""
    fp, ps, ve, vp = p[0] / 100, p[1], p[2], p[3]
    return [(fp * (cp - y[0]) - ps * (y[0] - y[1])) / vp, ps * (y[0] - y[1]) / ve]


def uptake(y, p, cp):
    """Concentration in plasma, amount in the interstitium."""
    fp, ps, vp = p[0] / 100, p[1], p[2]
    return [(fp * (cp - y[0]) - ps * y[0]) / vp, ps * y[0]]


def solved(equations, states: int, p, times, cp) -> np.ndarray:
    """States x times; the input is straight between its points, so each step is solved on its own."""
    y, out = np.zeros(states), [np.zeros(states)]
    for a, b, at_a, at_b in zip(times[:-1], times[1:], cp[:-1], cp[1:], strict=True):

        def rhs(t, y, a=a, b=b, at_a=at_a, at_b=at_b):
            return equations(y, p, at_a + (at_b - at_a) * (t - a) / (b - a))

        y = solve_ivp(rhs, (a, b), y, method="LSODA", rtol=1e-9, atol=1e-12).y[:, -1]
        out.append(y)
    return np.array(out).T


TIMES = torch.tensor([0, 0.2, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 90], dtype=torch.float64)
PLASMA = torch.tensor([0, 10, 60, 95, 60, 42, 37, 34, 32, 29, 27, 25, 22, 19, 16, 14, 11, 8], dtype=torch.float64)
BLOOD = 0.8 * PLASMA


ODES = {
    "1t": (one_tissue, 1, (0.3, 0.2, 0.05)),
    "2t-irreversible": (lambda y, p, cp: two_tissues(y, (*p, 0.0), cp), 2, (0.3, 0.5, 0.02, 0.05)),
    "2t-reversible": (two_tissues, 2, (0.3, 0.5, 0.05, 0.02, 0.05)),
    "3t-irreversible": (three_tissues, 3, (0.3, 0.5, 0.05, 0.04, 0.01, 0.05)),
}


def modelled(name: str, values, *, times=TIMES, plasma=PLASMA, blood=BLOOD) -> np.ndarray:
    models = {**PET_MODELS, **DCE_MODELS}
    return curve_of(models[name](Timing(times, times), plasma, blood=blood), *values).numpy()


@pytest.mark.parametrize("name", ODES)
def test_tracer_models_solve_their_differential_equations(name):
    equations, states, values = ODES[name]
    *rates, vb = values
    tissue = solved(equations, states, rates, TIMES.numpy(), PLASMA.numpy()).sum(0)
    wanted = (1 - vb) * tissue + vb * BLOOD.numpy()
    assert modelled(name, values) == pytest.approx(wanted, rel=1e-5)


# Equal rates are told apart by 1e-4 /min, at the price of some of the last digits.
@pytest.mark.parametrize(
    ("values", "relative"),
    [
        ((0.2, 0.02, 0.36, 0.013, 0.5, 0.05), 1e-5),
        ((0.5, 0.1, 0.6, 0.05, 0.3, 0.0), 1e-5),
        # The diffusible product leaves the cell as fast as free tracer leaves the tissue.
        ((0.1, 0.02, 0.36, 0.11, 0.5, 0.05), 1e-4),
        # It is washed out as fast as free tracer leaves the tissue.
        ((0.05, 0.1, 0.36, 0.013, 0.5, 0.05), 1e-4),
        # It is washed out as fast as it leaves the cell.
        ((0.05, 0.01, 0.36, 0.1, 0.5, 0.05), 1e-4),
        # All three at once.
        ((0.05, 0.1, 0.36, 0.1, 0.5, 0.05), 1e-3),
    ],
)
def test_reduction_model_solves_its_differential_equations(values, relative):
    *_, outside, vb = values
    free, bound, in_cell, out_of_cell = solved(reduced_in_cells, 4, values[:5], TIMES.numpy(), PLASMA.numpy())
    wanted = free + (1 - outside) * (bound + in_cell) + outside * out_of_cell + vb * BLOOD.numpy()
    assert modelled("casciari", values) == pytest.approx(wanted, rel=relative)


@pytest.mark.parametrize(
    ("name", "equations", "values"),
    [
        ("2cxm", exchange, (60.0, 0.2, 0.3, 0.05)),
        ("2cxm", exchange, (20.0, 0.01, 0.1, 0.1)),
        ("2cum", uptake, (60.0, 0.05, 0.05)),
    ],
)
def test_plasma_exchange_models_solve_their_differential_equations(name, equations, values):
    times = torch.linspace(0, 5, 101, dtype=torch.float64)
    plasma = parker(times)
    plasma[0] = 0.0
    y = solved(equations, 2, values, times.numpy(), plasma.numpy())
    vp = values[-1]
    wanted = vp * y[0] + (values[2] * y[1] if name == "2cxm" else y[1])
    assert modelled(name, values, times=times, plasma=plasma, blood=plasma) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("name", "values"), [("tofts", (0.25, 0.3)), ("extended-tofts", (0.25, 0.3, 0.05))])
def test_tofts_models_solve_their_differential_equation(name, values):
    y = solved(one_tissue, 1, (values[0], values[0] / values[1]), TIMES.numpy(), PLASMA.numpy())
    vp = values[2] if len(values) > 2 else 0.0
    wanted = y[0] + vp * PLASMA.numpy()
    assert modelled(name, values, blood=PLASMA) == pytest.approx(wanted, rel=1e-5)


def test_three_tissues_without_trapping_or_return_are_two():
    chain = modelled("3t-irreversible", (0.3, 0.5, 0.02, 0.0, 0.0, 0.05))
    assert chain == pytest.approx(modelled("2t-irreversible", (0.3, 0.5, 0.02, 0.05)), rel=1e-5)


def test_three_tissues_with_instant_trapping_are_two():
    chain = modelled("3t-irreversible", (0.3, 0.5, 0.02, 0.0, 0.5, 0.05))
    assert chain == pytest.approx(modelled("2t-irreversible", (0.3, 0.5, 0.02, 0.05)), rel=1e-6)


def test_reversible_model_without_release_is_irreversible():
    reversible = modelled("2t-reversible", (0.3, 0.5, 0.02, 0.0, 0.05))
    assert reversible == pytest.approx(modelled("2t-irreversible", (0.3, 0.5, 0.02, 0.05)), rel=1e-6)


def test_tissue_that_loses_nothing_holds_all_that_came_in():
    taken = modelled("3t-irreversible", (0.3, 0.0, 0.02, 0.01, 0.01, 0.0))
    assert taken == pytest.approx(0.3 * running_integral(TIMES, PLASMA).numpy(), rel=1e-6)


def test_exchange_with_all_flow_extracted_is_tofts():
    times = torch.linspace(0, 5, 101, dtype=torch.float64)
    plasma = parker(times)
    slow_leak = modelled("2cxm", (200.0, 0.01, 0.3, 0.002), times=times, plasma=plasma, blood=plasma)
    tofts = modelled("extended-tofts", (0.01, 0.3, 0.002), times=times, plasma=plasma, blood=plasma)
    assert slow_leak == pytest.approx(tofts, rel=0.02, abs=2e-4)


PET_TRUTH = {
    "1t": {"k1": 0.3, "k2": 0.2, "vb": 0.05},
    "2t-irreversible": {"k1": 0.3, "k2": 0.5, "k3": 0.02, "vb": 0.05},
    "2t-reversible": {"k1": 0.3, "k2": 0.5, "k3": 0.05, "k4": 0.02, "vb": 0.05},
    "3t-irreversible": {"k1": 0.3, "k2": 0.4, "k3": 0.1, "k4": 0.05, "k5": 0.02, "vb": 0.05},
    "casciari": {"flow": 0.2, "ka": 0.02, "vb": 0.05},
}


@pytest.mark.parametrize("name", PET_TRUTH)
def test_tracer_models_are_recovered_from_their_own_frames(name):
    frames, given = pet_frames(), sampled_input()
    model = build_model(name, frames, given)
    values = [PET_TRUTH[name].get(p.name, p.start) for p in model.parameters]
    found = fit_kinetics(name, curve_of(model, *values)[:, None], frames, given)
    for parameter, value in PET_TRUTH[name].items():
        assert float(found.values[parameter]) == pytest.approx(value, rel=1e-3), parameter


DCE_TRUTH = {
    "tofts": (0.25, 0.3),
    "extended-tofts": (0.25, 0.3, 0.05),
    "patlak": (0.1, 0.04),
    "2cxm": (60.0, 0.2, 0.3, 0.05),
    "2cum": (60.0, 0.05, 0.05),
}


@pytest.mark.parametrize("name", DCE_TRUTH)
def test_contrast_models_are_recovered_from_their_own_curves(name):
    model = dce_model(name, torch.linspace(0, 6, 181).tolist())
    found = fit(model, curve_of(model, *DCE_TRUTH[name])[:, None])
    assert [float(v) for v in found.values.values()] == pytest.approx(DCE_TRUTH[name], rel=1e-3)


@pytest.mark.parametrize("name", ["tofts", "extended-tofts", "2cxm"])
def test_contrast_models_are_recovered_with_their_delay(name):
    times = torch.arange(0, 5, 2 / 60, dtype=torch.float64)
    model = dce_model(name, times.tolist(), delay=DELAY)
    truth = (*DCE_TRUTH[name], 0.1)
    found = fit(model, curve_of(model, *truth)[:, None])
    assert [float(v) for v in found.values.values()] == pytest.approx(truth, rel=1e-2)
    assert float(found.values["delay"]) == pytest.approx(0.1, abs=1 / 600)


def test_delayed_response_is_the_response_later():
    times = torch.arange(0, 5, 0.1, dtype=torch.float64)
    model = dce_model("extended-tofts", times.tolist(), delay=DELAY)
    now, later = curve_of(model, 0.25, 0.3, 0.05, 0.0), curve_of(model, 0.25, 0.3, 0.05, 0.2)
    assert later[:2].tolist() == [0.0, 0.0]
    assert torch.allclose(later[2:], now[:-2], rtol=1e-6)


def test_tofts_fits_hold_on_noisy_voxels_within_the_tolerances_of_the_reference_fits():
    model = dce_model("extended-tofts", torch.linspace(0, 6, 121).tolist())
    clean = curve_of(model, 0.25, 0.3, 0.05)[:, None].expand(-1, 100)
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = fit(model, clean + 0.01 * noise)
    for name, truth, allowed in (("ktrans", 0.25, 0.005 + 0.025), ("ve", 0.3, 0.05), ("vp", 0.05, 0.025)):
        assert float((found.values[name] - truth).abs().max()) < allowed


def noisy_region(name: str, values, *, seed: int, share: float = 0.01) -> tuple[torch.Tensor, Frames, InputFunction]:
    frames, given = pet_frames_to(60), sampled_input()
    curve = curve_of(build_model(name, frames, given), *values)
    noise = torch.randn(len(curve), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    # The weights of a fit are the durations: counts of a frame that is four times longer scatter half as much.
    noise = noise / (frames.ends_min - frames.starts_min).sqrt()
    return curve + share * curve.mean() * noise, frames, given


@pytest.mark.parametrize(("name", "values"), [("1t", (0.3, 0.2, 0.05)), ("2t-irreversible", (0.3, 0.5, 0.02, 0.05))])
def test_chosen_model_is_mostly_the_one_that_made_the_curve(name, values):
    chosen = []
    for seed in range(5):
        curve, frames, given = noisy_region(name, values, seed=seed)
        ranked = choose_model(curve, frames, given, models=("1t", "2t-irreversible"))
        assert sum(row.share for row in ranked) == pytest.approx(1.0)
        assert ranked[0].aic <= ranked[1].aic
        chosen.append(ranked[0].model)
    assert chosen.count(name) >= 4


def test_criterion_of_a_model_is_that_of_hurvich_and_tsai():
    curve, frames, given = noisy_region("1t", (0.3, 0.2, 0.05), seed=1)
    (row,) = choose_model(curve, frames, given, models=("1t",))
    weights = frames.ends_min - frames.starts_min
    predicted = curve_of(build_model("1t", frames, given), *(row.values[n] for n in ("k1", "k2", "vb")))
    squares = float((weights / weights.mean() * (curve - predicted) ** 2).sum())
    n, k = len(curve), 4
    assert row.aic == pytest.approx(n * math.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1), rel=1e-6)


def test_choice_among_models_for_three_frames_is_refused():
    frames, given = Frames(double(0, 20, 40), double(20, 40, 60)), sampled_input()
    with pytest.raises(MapError, match="none of 1t, 2t-irreversible could be fitted to 3 frames; give more"):
        choose_model(double(1, 2, 3), frames, given, models=("1t", "2t-irreversible"))


@pytest.mark.parametrize("delay_s", [10.0, -10.0])
def test_delay_of_a_region_is_found_within_two_seconds(delay_s):
    frames, given = pet_frames_to(10), sampled_input(12.0).delayed(0.5)
    curve = curve_of(build_model("2t-irreversible", frames, given.delayed(delay_s / 60)), 0.3, 0.5, 0.02, 0.05)
    assert 60 * fit_delay(curve, frames, given) == pytest.approx(delay_s, abs=2.0)


def test_parameters_can_be_bound_and_fixed_by_name():
    frames, given = pet_frames(), sampled_input()
    curve = curve_of(build_model("2t-irreversible", frames, given), 0.3, 0.5, 0.02, 0.05)[:, None]
    found = fit_kinetics("2t-irreversible", curve, frames, given, bounds={"vb": (0.05, 0.05), "k3": (0.0, 0.01)})
    assert float(found.values["vb"]) == 0.05
    assert float(found.values["k3"]) == pytest.approx(0.01)
    assert found.status.tolist() == [Status.AT_BOUND]


def test_unknown_model_and_parameter_are_named():
    frames, given = pet_frames(), sampled_input()
    with pytest.raises(MapError, match="no PET model '4t'; there are 1t, 2t-irreversible"):
        build_model("4t", frames, given)
    with pytest.raises(MapError, match="1t has no parameter k3; it has k1, k2, vb"):
        build_model("1t", frames, given, bounds={"k3": (0.0, 0.1)})


def test_weights_of_frames_have_mean_one_and_follow_duration_decay_and_activity():
    frames = Frames(double(0, 10, 20, 40), double(10, 20, 40, 60))
    flat = frame_weights(frames, torch.ones(4, dtype=torch.float64), half_life_min=1e9)
    assert float(flat.mean()) == pytest.approx(1.0)
    assert (flat / flat[0]).tolist() == pytest.approx([1, 1, 2, 2])
    decaying = frame_weights(frames, torch.ones(4, dtype=torch.float64), half_life_min=10.0)
    assert float(decaying[1] / decaying[0]) == pytest.approx(0.5)
    busy = frame_weights(frames, double(1, 4, 1, 1), half_life_min=1e9)
    assert float(busy[1] / busy[0]) == pytest.approx(0.25)


def test_frame_before_the_tracer_arrives_has_a_finite_weight():
    frames = Frames(double(0, 1, 2), double(1, 2, 3))
    weights = frame_weights(frames, double(0.0, 10.0, 20.0), half_life_min=1e9)
    assert float(weights[0] / weights[2]) == pytest.approx(20.0)


def test_dispersion_conserves_area_and_delays_by_its_time_constant():
    given = feng_input(600, step_min=0.1)
    mixed = given.dispersed(0.5)
    area, later = (float(running_integral(g.times_min, g.plasma)[-1]) for g in (given, mixed))
    assert later == pytest.approx(area, rel=1e-3)
    moments = [float(running_integral(g.times_min, g.times_min * g.plasma)[-1]) for g in (given, mixed)]
    assert moments[1] / later - moments[0] / area == pytest.approx(0.5, abs=0.05)
    assert float(mixed.plasma.max()) < float(given.plasma.max())
    assert given.dispersed(0.0) is given


def test_shift_by_nothing_changes_nothing_and_there_and_back_is_the_same():
    times = torch.linspace(0, 10, 101, dtype=torch.float64)
    curve = feng(times)
    assert torch.allclose(shifted(times, curve, 0.0), curve)
    assert torch.allclose(shifted(times, shifted(times, curve, 0.5), -0.5)[:-5], curve[:-5], atol=1e-9)


def test_arrival_is_the_last_sample_before_the_rise():
    curve = double(0, 0.01, -0.01, 0, 0, 3, 6, 5, 4, 3)
    assert bolus_arrival(curve) == 4


@pytest.mark.parametrize("curve", [torch.zeros(20), torch.linspace(5, 0, 20), torch.sin(torch.arange(20.0) * 2)])
def test_curve_that_never_rises_has_no_arrival(curve):
    with pytest.raises(MapError, match=r"never rises.*name another region"):
        bolus_arrival(curve.double())


def test_area_beyond_the_end_of_the_series_is_refused():
    times = torch.arange(0, 50, 5).double()
    with pytest.raises(MapError, match=r"ends at 45\.0 s, the area is asked for until 70\.0 s \(arrival 10\.0 s\)"):
        iauc(times, torch.ones(10, 1).double(), arrival_s=10.0)


def test_concentration_comes_back_from_its_signal():
    concentration = torch.cat([torch.zeros(4), torch.linspace(0.1, 5, 20)]).double()[:, None].repeat(1, 3)
    t10 = double(0.8, 1.2, 1.6)
    flip = math.radians(20) * double(0.9, 1.0, 1.1)
    signal = spoiled_gradient_echo(double(1000.0), 1 / t10 + 4.5 * concentration, flip_rad=flip, tr_s=0.005)
    given = {"t10_s": t10, "flip_rad": flip, "tr_s": 0.005, "relaxivity_per_s_mm": 4.5}
    found = signal_to_concentration(signal, baseline=slice(1, 4), **given)
    assert torch.allclose(found, concentration, rtol=1e-9, atol=1e-9)
    with pytest.raises(MapError, match="baseline 30 to 40 has no volume of 24; name volumes before"):
        signal_to_concentration(signal, baseline=slice(30, 40), **given)


def test_signal_that_no_relaxation_gives_has_no_concentration():
    signal = double(100, 100, 100, 1e6, 0.0)[:, None]
    found = signal_to_concentration(
        signal, t10_s=double(1.0), flip_rad=0.3, tr_s=0.005, relaxivity_per_s_mm=4.5, baseline=slice(0, 3)
    )
    assert torch.isfinite(found[:, 0]).tolist() == [True, True, True, False, False]


def test_volume_of_blood_counts_once_when_nothing_leaks():
    model = dce_model("extended-tofts", [0.5, 1.0, 2.0])
    assert isinstance(model, ExtendedTofts)
    curve = curve_of(model, 0.0, 0.3, 0.05)
    assert curve.tolist() == pytest.approx((0.05 / 0.58 * parker(double(0.5, 1.0, 2.0))).tolist(), rel=1e-6)


def test_frame_times_rounded_to_float32_are_the_times_of_the_input():
    edges = torch.linspace(0.0, 61.3, 41, dtype=torch.float64)
    middles = 0.5 * (edges[:-1] + edges[1:])
    times = torch.cat([edges.new_zeros(1), middles - 3e-6, edges[-1:]])
    plasma = torch.exp(-0.02 * times)
    given = InputFunction(times, plasma, plasma, "made")
    activity = 0.01 * (1 - torch.exp(-0.02 * middles)) / 0.02 + 0.5 * torch.exp(-0.02 * middles)
    found = patlak(activity[:, None], Frames(edges[:-1], edges[1:]), given, from_min=20.0)
    assert float(found.values["ki"]) == pytest.approx(0.01, rel=1e-3)
