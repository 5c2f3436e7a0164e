import math

import numpy as np
import pytest
import torch

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import Status
from hypoxnet.maps.r2star import (
    check_echo_times,
    delta_r2star,
    near_air,
    r2star_arlo,
    r2star_log_linear,
    r2star_nonlinear,
    steep_field,
)

ECHOES = torch.arange(1, 9, dtype=torch.float64) * 0.005
METHODS = [r2star_log_linear, r2star_arlo, r2star_nonlinear]
RATES = torch.tensor([10.0, 25.0, 50.0, 80.0, 120.0], dtype=torch.float64)


def decays(rates: torch.Tensor = RATES, *, s0: float = 1000.0) -> torch.Tensor:
    return s0 * torch.exp(-ECHOES[:, None] * rates)


def noisy(sd: float, *, count: int = 500, rate: float = 50.0) -> torch.Tensor:
    """Magnitudes of a complex signal in noise."""
    parts = sd * torch.randn(2, 8, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = decays(torch.full((count,), rate, dtype=torch.float64))
    return ((clean + parts[0]) ** 2 + parts[1] ** 2).sqrt()


def test_arlo_without_noise_has_the_bias_of_the_rule_of_simpson():
    found = r2star_arlo(decays(torch.tensor([50.0]).double()), ECHOES)
    assert float(found.values["r2star"]) == pytest.approx(49.998923, abs=5e-7)


def test_arlo_of_the_other_published_form_is_the_same_number():
    m, step = decays(), 0.005
    delta = m[:-2] - m[2:]
    first, second = m[:-2] + 2 * m[1:-1], m[:-2] + 4 * m[1:-1] + m[2:]
    other = 3 / step * (delta * first).sum(0) / (second * first).sum(0)
    assert torch.allclose(r2star_arlo(m, ECHOES).values["r2star"], other, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "relative"), [(r2star_log_linear, 1e-9), (r2star_arlo, 1e-3), (r2star_nonlinear, 1e-5)]
)
def test_decay_without_noise_gives_back_its_rate(method, relative):
    found = method(decays(), ECHOES)
    assert torch.allclose(found.values["r2star"], RATES, rtol=relative)
    if "s0" in found.values:
        assert torch.allclose(found.values["s0"], torch.full_like(RATES, 1000.0), rtol=relative)


def test_log_linear_of_the_worked_decay_is_exact():
    found = r2star_log_linear(decays(torch.tensor([50.0]).double()), ECHOES)
    assert float(found.values["r2star"]) == pytest.approx(50.0, abs=5e-4)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_is_as_good_as_a_measurement(method):
    found = method(decays().float(), ECHOES)
    assert found.values["r2star"].dtype == torch.float32
    assert torch.allclose(found.values["r2star"].double(), RATES, rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_scale_of_the_signal_does_not_matter(method):
    small, large = (method(decays(s0=s0), ECHOES).values["r2star"] for s0 in (1e-3, 1e6))
    assert torch.allclose(small, large, rtol=1e-5)


# A floor cannot be below 0, so where there is none its fit takes a little of the decay.
@pytest.mark.parametrize(
    ("method", "relative"), [(r2star_log_linear, 0.01), (r2star_arlo, 0.01), (r2star_nonlinear, 0.03)]
)
def test_noise_leaves_the_rate_where_it_is(method, relative):
    rates = method(noisy(10.0), ECHOES).values["r2star"]
    assert float(rates.mean()) == pytest.approx(50.0, rel=relative)


def test_standard_error_of_the_line_is_the_scatter_of_repeated_scans():
    found = r2star_log_linear(noisy(5.0, count=2000), ECHOES)
    scatter = float(found.values["r2star"].std())
    assert float(found.errors["r2star"].square().mean().sqrt()) == pytest.approx(scatter, rel=0.1)


def test_echoes_below_the_noise_are_left_out():
    signal = decays(torch.tensor([150.0]).double())
    signal[4:] = 25.0  # the floor
    free = r2star_log_linear(signal, ECHOES, noise_sd=10.0)
    assert float(free.values["r2star"]) == pytest.approx(150.0, rel=1e-6)
    assert float(r2star_log_linear(signal, ECHOES).values["r2star"]) < 149.9


def test_voxel_with_fewer_than_two_echoes_above_the_noise_has_no_value():
    found = r2star_log_linear(decays(), ECHOES, noise_sd=1000.0)
    assert found.status.tolist() == [Status.NO_SIGNAL] * 5
    assert torch.isnan(found.values["r2star"]).all()


def test_noise_floor_is_fitted_where_the_line_is_misled():
    rate = 150.0
    clean = decays(torch.tensor([rate]).double())
    signal = (clean**2 + 60.0**2).sqrt()
    found = r2star_nonlinear(signal, ECHOES)
    assert float(found.values["r2star"]) == pytest.approx(rate, rel=1e-3)
    assert float(found.values["floor"]) == pytest.approx(60.0, rel=1e-3)
    assert float(r2star_log_linear(signal, ECHOES).values["r2star"]) < 0.98 * rate


@pytest.mark.parametrize("method", METHODS)
def test_voxels_without_signal_or_outside_have_no_value(method):
    signal = decays().clone()
    signal[:, 0], signal[:, 1] = 0.0, math.nan
    mask = torch.tensor([True, True, True, True, False])
    found = method(signal, ECHOES, mask=mask)
    assert torch.isfinite(found.values["r2star"]).tolist() == [False, False, True, True, False]
    assert found.status.tolist()[0] == Status.NO_SIGNAL
    assert found.status.tolist()[4] == Status.OUTSIDE


def test_echo_that_is_no_number_is_left_out_of_the_line_and_spoils_the_other_fits():
    signal = decays(RATES[2:3]).clone()
    signal[3] = math.nan
    assert float(r2star_log_linear(signal, ECHOES).values["r2star"]) == pytest.approx(50.0, rel=1e-9)
    for method in (r2star_arlo, r2star_nonlinear):
        assert method(signal, ECHOES).status.tolist() == [Status.NO_SIGNAL]


def test_signal_that_rises_has_no_rate():
    rising = decays().flip(0)
    for method in (r2star_log_linear, r2star_arlo):
        assert torch.isnan(method(rising, ECHOES).values["r2star"]).all()


@pytest.mark.parametrize(
    ("times", "least", "sentence"),
    [
        ((0.005,), 2, "1 echoes, 2 are needed; give the whole echo train"),
        ((0.005, 0.015, 0.010), 2, r"must increase, they are 0\.005, 0\.015, 0\.01 s; put the echoes in order"),
        ((0.005, 0.005), 2, "must increase"),
        ((0.005, math.nan), 2, "must increase"),
        ((5.0, 10.0), 2, "last echo is at 10 s; give seconds, not ms"),
        ((-0.005, 0.01), 2, "give seconds"),
    ],
)
def test_echo_times_that_cannot_be_are_refused(times, least, sentence):
    with pytest.raises(MapError, match=sentence):
        check_echo_times(torch.tensor(times, dtype=torch.float64), least=least)


@pytest.mark.parametrize("method", METHODS)
def test_more_volumes_than_echo_times_are_refused(method):
    with pytest.raises(MapError, match="8 echoes and 7 echo times; give one echo time per volume"):
        method(decays(), ECHOES[:7])


@pytest.mark.parametrize(("method", "least"), [(r2star_log_linear, 2), (r2star_arlo, 3), (r2star_nonlinear, 4)])
def test_each_method_says_how_many_echoes_it_needs(method, least):
    with pytest.raises(MapError, match=f"{least - 1} echoes, {least} are needed"):
        method(decays()[: least - 1], ECHOES[: least - 1])


def test_arlo_refuses_echoes_at_uneven_distances():
    uneven = torch.tensor([0.005, 0.010, 0.020, 0.025], dtype=torch.float64)
    with pytest.raises(
        MapError, match=r"equidistant echoes, the spacings are 0\.005 to 0\.01 s; choose the log-linear"
    ):
        r2star_arlo(decays()[:4], uneven)


def test_rate_that_falls_under_oxygen_is_negative():
    assert delta_r2star(torch.tensor(50.0), torch.tensor(45.0)) == -5.0


def ball(radius: float) -> np.ndarray:
    i, j, k = np.indices((15, 15, 15)) - 7
    return i**2 + j**2 + k**2 <= radius**2


def test_voxels_near_air_are_excluded_by_distance_in_mm():
    air = np.zeros((20, 5, 5), dtype=bool)
    air[0] = True
    for spacing, within, planes in ((2.0, 5.0, 2), (1.0, 5.0, 4), (2.0, 2.0, 0), (2.0, 2.1, 1)):
        found = near_air(air, ~air, spacing_mm=(spacing, 9.0, 9.0), within_mm=within)
        assert int(found.excluded.sum()) == planes * 25
        assert found.share == pytest.approx(planes / 19)
        assert found.reason == f"closer than {within:g} mm to air"


def test_region_far_from_air_or_without_air_is_kept():
    region = ball(3.0)
    assert near_air(np.zeros_like(region), region, spacing_mm=(1.0, 1.0, 1.0)).share == 0.0
    assert near_air(~ball(7.0), ball(1.0), spacing_mm=(1.0, 1.0, 1.0)).share == 0.0


def test_share_of_an_empty_region_is_nan():
    air = ball(2.0)
    assert math.isnan(near_air(air, np.zeros_like(air), spacing_mm=(1.0, 1.0, 1.0)).share)


def test_steep_field_is_excluded_with_its_neighbours():
    field = np.zeros((11, 5, 5))
    field[6:] = 100.0
    found = steep_field(field, np.ones(field.shape, dtype=bool), spacing_mm=(2.0, 2.0, 2.0), limit_hz_per_mm=20.0)
    assert sorted(set(np.nonzero(found.excluded)[0])) == [4, 5, 6, 7]
    assert found.reason == "field gradient above 20 Hz/mm"
    gentle = steep_field(field, np.ones(field.shape, dtype=bool), spacing_mm=(2.0, 2.0, 2.0), limit_hz_per_mm=30.0)
    assert gentle.share == 0.0
