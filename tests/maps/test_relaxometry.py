import math

import pytest
import torch

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import Status
from hypoxnet.maps.inversion import InversionRecovery, LookLocker, corrected_t1, t1_from_inversions, t1_from_look_locker
from hypoxnet.maps.relaxometry import (
    check_tr,
    ernst_angle_deg,
    spoiled_gradient_echo,
    spoiled_signal_to_r1,
    t1_from_flips,
    t1_from_flips_nonlinear,
)

METHODS = [t1_from_flips, t1_from_flips_nonlinear]
FLIPS = torch.tensor([2.0, 5.0, 12.0, 15.0], dtype=torch.float64)
NOTHING = torch.empty(0, 1, dtype=torch.float64)
# Inversion times on both sides of the null of every T1 below, and some far beyond.
TIMES = torch.tensor([0.05, 0.15, 0.3, 0.6, 0.9, 1.5, 2.5, 4.0], dtype=torch.float64)
MOLLI = torch.tensor([0.10, 0.18, 0.26, 1.0, 1.08, 1.16, 1.9, 2.0, 2.8, 3.6, 4.4], dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def printed(value: float, digits: int):
    """Equal to the printed number, half of its last digit allowed."""
    return pytest.approx(value, abs=0.5001 * 10.0**-digits)


def flip_series(t1: torch.Tensor, *, b1: float | torch.Tensor = 1.0, m0: float = 1000.0) -> torch.Tensor:
    """T x N signals at the flip angles as they were."""
    flips = torch.deg2rad(FLIPS)[:, None] * b1
    return spoiled_gradient_echo(double(m0), 1 / t1[None], flip_rad=flips, tr_s=0.005)


@pytest.mark.parametrize(("flip", "signal"), [(2, 0.0311177), (5, 0.0495440), (12, 0.0387927), (15, 0.0331912)])
def test_spoiled_gradient_echo_matches_worked_numbers(flip, signal):
    found = spoiled_gradient_echo(double(1.0), double(1.0), flip_rad=math.radians(flip), tr_s=0.005)
    assert float(found) == printed(signal, 7)


def test_ernst_angle_matches_its_worked_number_and_gives_the_largest_signal():
    angle = ernst_angle_deg(0.005, 1.0)
    assert angle == printed(5.7248, 4)
    around = torch.deg2rad(double(angle - 0.1, angle, angle + 0.1))
    signal = spoiled_gradient_echo(double(1.0), double(1.0), flip_rad=around, tr_s=0.005)
    assert int(signal.argmax()) == 1


@pytest.mark.parametrize("method", METHODS)
def test_two_flips_return_a_thousand_milliseconds_exactly(method):
    signal = double(0.0311177, 0.0387927)[:, None]
    rough = method(signal, double(2, 12), tr_s=0.005)
    assert float(rough.values["t1"]) == pytest.approx(1.0, rel=1e-4)
    exact = spoiled_gradient_echo(double(1.0), double(1.0), flip_rad=torch.deg2rad(double(2, 12)), tr_s=0.005)
    assert float(method(exact[:, None], double(2, 12), tr_s=0.005).values["t1"]) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_flips_without_noise_give_back_t1_and_m0(method, dtype, relative):
    t1 = torch.linspace(0.2, 4.0, 24, dtype=torch.float64)
    found = method(flip_series(t1).to(dtype).reshape(4, 2, 3, 4), FLIPS, tr_s=0.005)
    assert bool((found.status == Status.CONVERGED).all())
    assert torch.allclose(found.values["t1"].double().reshape(-1), t1, rtol=relative)
    assert torch.allclose(found.values["m0"].double(), double(1000.0), rtol=relative)


@pytest.mark.parametrize("method", METHODS)
def test_map_of_b1_takes_the_error_of_the_flip_angle_out(method):
    t1 = double(0.8, 1.2, 1.6)
    b1 = double(0.85, 1.0, 1.1)
    with_map = method(flip_series(t1, b1=b1), FLIPS, tr_s=0.005, b1=b1)
    assert torch.allclose(with_map.values["t1"], t1, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_map_t1_is_off_by_twice_the_error_of_b1(method):
    found = method(flip_series(double(1.2), b1=1.01), FLIPS, tr_s=0.005)
    assert float(found.values["t1"]) / 1.2 - 1 == pytest.approx(2 * 0.01, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_standard_error_of_t1_is_the_scatter_of_repeated_scans(method):
    signal = flip_series(double(1.2)).expand(-1, 2000)
    noise = torch.randn(4, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = method(signal + 0.1 * noise, FLIPS, tr_s=0.005)
    scatter = float(found.values["t1"].std())
    assert float(found.errors["t1"].square().mean().sqrt()) == pytest.approx(scatter, rel=0.5)


def test_signal_that_no_t1_gives_has_no_value():
    rising = double(10, 40, 160, 640)[:, None]
    found = t1_from_flips(torch.cat([rising, flip_series(double(1.0))], 1), FLIPS, tr_s=0.005)
    assert torch.isnan(found.values["t1"]).tolist() == [True, False]
    assert found.status.tolist() == [Status.NO_SIGNAL, Status.CONVERGED]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"flips_deg": double(2, 5, 12)}, "4 volumes and 3 flip angles; give one angle per volume"),
        ({"flips_deg": double(5, 5, 5, 5)}, "at least two different angles"),
        ({"flips_deg": double(0, 5, 12, 15)}, "flip angles of 0 to 15 degrees; give degrees between 0 and 180"),
        ({"flips_deg": double(2, 5, 12, 200)}, "flip angles of 2 to 200 degrees"),
        ({"flips_deg": double(2, 5, 12, math.nan)}, "flip angles of nan to nan degrees"),
        ({"tr_s": 5.0}, r"repetition time is 5 s; spoiled .* give seconds, not ms"),
        ({"tr_s": 0.0}, "repetition time is 0 s"),
        ({"b1": torch.ones(4).double()}, "B1 map has 4 voxels, the series 3; resample it"),
        ({"b1": torch.full((3,), 95.0).double()}, r"B1 map has a median of 95, .*; divide % by 100"),
        ({"b1": torch.zeros(3).double()}, "B1 map has a median of 0"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, "mask has 4 voxels, the series 3; resample the mask"),
    ],
)
def test_flips_that_cannot_be_are_refused(method, changes, sentence):
    given = {"flips_deg": FLIPS, "tr_s": 0.005, **changes}
    with pytest.raises(MapError, match=sentence):
        method(flip_series(double(0.8, 1.2, 1.6)), given.pop("flips_deg"), **given)


@pytest.mark.parametrize("tr_s", [5.0, -0.005, math.nan])
def test_repetition_times_that_are_not_seconds_are_refused(tr_s):
    with pytest.raises(MapError, match="give seconds, not ms"):
        check_tr(tr_s)


def test_rate_during_a_series_comes_back_from_its_signal():
    r1 = torch.linspace(0.6, 3.0, 12, dtype=torch.float64)[:, None].repeat(1, 2)
    r1[:4] = double(1 / 1.2, 1 / 0.9)
    flip = math.radians(18) * double(0.9, 1.1)
    signal = spoiled_gradient_echo(double(700.0), r1, flip_rad=flip, tr_s=0.0045)
    found = spoiled_signal_to_r1(signal, t10_s=double(1.2, 0.9), flip_rad=flip, tr_s=0.0045, baseline=slice(0, 4))
    assert torch.allclose(found, r1, rtol=1e-9)


def test_signal_beyond_full_relaxation_has_no_rate():
    full = spoiled_gradient_echo(double(1.0), double(1.0), flip_rad=0.3, tr_s=0.005)
    top = math.sin(0.3)
    signal = torch.cat([full, full, double(0.99 * top, 1.01 * top, 3 * top, 0.0)])
    found = spoiled_signal_to_r1(signal[:, None], t10_s=double(1.0), flip_rad=0.3, tr_s=0.005, baseline=slice(0, 2))
    assert torch.isfinite(found[:, 0]).tolist() == [True, True, True, False, False, False]
    assert float(found.nan_to_num().min()) >= 0


@pytest.mark.parametrize(("ms", "signal"), [(100, -0.84009), (400, -0.43306), (1000, 0.13080), (2500, 0.75097)])
def test_inversion_recovery_matches_worked_numbers(ms, signal):
    model = InversionRecovery(double(ms / 1000, 9.0), magnitude=False)
    assert float(model.evaluate(double(1.2, 1.0)[:, None], NOTHING)[0][0]) == printed(signal, 5)


def test_look_locker_correction_matches_its_worked_number():
    assert float(corrected_t1(double(1.050), double(1.0), double(1.9))) == pytest.approx(0.945)


T1 = torch.linspace(0.15, 3.0, 40, dtype=torch.float64)


def recoveries(times: torch.Tensor, *, efficiency: float = 1.0) -> torch.Tensor:
    return 800 * (1 - 2 * efficiency * torch.exp(-times[:, None] / T1))


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_inversion_recovery_gives_back_t1_with_and_without_its_sign(magnitude, dtype, relative):
    signal = recoveries(TIMES).to(dtype)
    found = t1_from_inversions(signal.abs() if magnitude else signal, TIMES, magnitude=magnitude)
    assert bool((found.status == Status.CONVERGED).all())
    assert torch.allclose(found.values["t1"].double(), T1, rtol=relative)
    assert torch.allclose(found.values["m0"].double(), double(800.0), rtol=relative)


def test_magnitudes_have_inversion_times_on_both_sides_of_the_null():
    negative = (recoveries(TIMES) < 0).sum(0)
    assert int(negative.min()) >= 1
    assert int(negative.max()) >= 5


def test_times_out_of_order_make_no_difference():
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    found = t1_from_inversions(recoveries(TIMES).abs()[order], TIMES[order])
    assert torch.allclose(found.values["t1"], T1, rtol=1e-6)


def test_imperfect_inversion_is_taken_into_account():
    signal = recoveries(TIMES, efficiency=0.95).abs()
    assert torch.allclose(t1_from_inversions(signal, TIMES, efficiency=0.95).values["t1"], T1, rtol=1e-6)
    wrong = t1_from_inversions(signal, TIMES).values["t1"]
    assert float((wrong / T1 - 1).abs().median()) > 0.02


def test_noisy_magnitudes_find_their_sign_again():
    noise = torch.randn(8, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = t1_from_inversions((recoveries(TIMES) + 8 * noise).abs(), TIMES)
    assert float((found.values["t1"] / T1 - 1).abs().max()) < 0.08


def molli(times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals of a train, and the T1 that belongs to them."""
    a, b, apparent = 300.0, 300.0 * torch.linspace(1.75, 1.95, 40).double(), T1 * 0.9
    return a - b * torch.exp(-times[:, None] / apparent), apparent * (b / a - 1)


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_look_locker_gives_back_t1_with_and_without_its_sign(magnitude, shuffled):
    times = MOLLI[torch.tensor([0, 3, 6, 8, 9, 10, 1, 4, 7, 2, 5])] if shuffled else MOLLI
    signal, t1 = molli(times)
    found = t1_from_look_locker(signal.abs() if magnitude else signal, times, magnitude=magnitude)
    kept = t1 > 0.25  # of shorter ones, the first inversion time lies beyond the null
    assert bool((found.status == Status.CONVERGED)[kept].all())
    assert torch.allclose(found.values["t1"][kept], t1[kept], rtol=1e-5)


def test_error_of_a_corrected_t1_is_that_of_the_apparent_one_times_the_correction():
    signal, _ = molli(MOLLI)
    noise = torch.randn(signal.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = t1_from_look_locker((signal + noise).abs(), MOLLI)
    ratio = found.errors["t1"] / found.errors["t1_apparent"]
    assert torch.allclose(ratio, found.values["b"] / found.values["a"] - 1, equal_nan=True)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: InversionRecovery(double(0.1), magnitude=False), "1 different inversion times, 2 are needed"),
        (lambda: InversionRecovery(double(0.1, 1), magnitude=True), "2 different inversion times, 3 are needed"),
        (lambda: LookLocker(double(0.1, 0.4, 0.4), magnitude=True), "2 different inversion times, 3 are needed"),
        (
            lambda: InversionRecovery(double(100, 400, 2500), magnitude=True),
            "of 100 to 2500 s; .* give seconds, not ms",
        ),
        (lambda: LookLocker(double(-0.1, 1, 2), magnitude=True), r"of -0\.1 to 2 s; none is negative"),
        (lambda: LookLocker(double(0.1, math.nan, 2), magnitude=True), "of nan to nan s"),
        (
            lambda: InversionRecovery(double(0.1, 0.4, 1), magnitude=True, efficiency=95.0),
            r"efficiency is 95; give a share between 0\.5 and 1",
        ),
    ],
)
def test_inversions_that_cannot_be_are_refused(build, sentence):
    with pytest.raises(MapError, match=sentence):
        build()


def test_more_volumes_than_inversion_times_are_refused():
    with pytest.raises(MapError, match="series has 8 volumes, its timing names 3 samples"):
        t1_from_inversions(recoveries(TIMES), TIMES[:3])
