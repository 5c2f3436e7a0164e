import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.special import hyp1f1

from hypoxnet.maps.convolution import SERIES_BELOW, Convolution, Readout, running_integral

UNEVEN = (0.0, 0.05, 0.1, 0.3, 0.35, 1.0, 1.7, 2.0, 5.0, 9.0)
RATES = (0.0, 1e-6, 0.02, 0.3, 1.0, 4.0)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def convolve(times, curve, rates) -> tuple[np.ndarray, np.ndarray]:
    response, slope = Convolution(double(*times), double(*curve))(double(*rates))
    return response.numpy(), slope.numpy()


def by_quadrature(times, curve, rate, at) -> float:
    """The integral itself, of the input drawn straight from point to point."""
    inner = [t for t in times if 0 < t < at]
    whole = integrate.quad(
        lambda s: float(np.interp(s, times, curve)) * math.exp(-rate * (at - s)),
        times[0],
        at,
        points=inner or None,
        limit=200,
        epsabs=1e-13,
        epsrel=1e-12,
    )
    return whole[0]


@pytest.mark.parametrize("rate", RATES)
def test_response_to_a_constant_input_is_that_of_the_textbook(rate):
    response, _ = convolve(UNEVEN, [1.0] * len(UNEVEN), [rate])
    times = np.array(UNEVEN)
    wanted = -np.expm1(-rate * times) / rate if rate else times
    assert response[:, 0] == pytest.approx(wanted, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("rate", [0.02, 0.3, 1.0, 4.0])
def test_response_to_a_ramp_is_that_of_the_textbook(rate):
    response, _ = convolve(UNEVEN, UNEVEN, [rate])
    times = np.array(UNEVEN)
    wanted = times / rate + np.expm1(-rate * times) / rate**2
    assert response[:, 0] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rate", RATES)
def test_response_to_a_step_is_the_integral_over_its_straight_rise(rate):
    curve = [0.0, 0.0, 3.0] + [3.0] * (len(UNEVEN) - 3)
    response, _ = convolve(UNEVEN, curve, [rate])
    assert np.all(response[:2] == 0)
    for index in (2, 4, 9):
        wanted = by_quadrature(UNEVEN, curve, rate, UNEVEN[index])
        assert response[index, 0] == pytest.approx(wanted, rel=1e-10)


@given(
    st.lists(st.floats(0.01, 3.0), min_size=2, max_size=8),
    st.lists(st.floats(-2.0, 5.0), min_size=9, max_size=9),
    st.floats(0.0, 5.0),
)
@settings(max_examples=30, deadline=None)
def test_response_at_uneven_times_is_the_integral_itself(steps, curve, rate):
    times = [0.0, *np.cumsum(steps).tolist()]
    used = curve[: len(times)]
    response, _ = convolve(times, used, [rate])
    assert response[-1, 0] == pytest.approx(by_quadrature(times, used, rate, times[-1]), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.29, 0.31, 2.0, 30.0])
def test_derivative_by_the_rate_agrees_with_finite_differences(rate):
    curve = [0.0, 1.0, 7.0, 4.0, 3.0, 2.0, 1.5, 1.4, 1.0, 0.5]
    _, slope = convolve(UNEVEN, curve, [rate])
    step = 1e-5 * max(rate, 0.1)
    beside, _ = convolve(UNEVEN, curve, [rate - step, rate + step])
    assert slope[:, 0] == pytest.approx((beside[:, 1] - beside[:, 0]) / (2 * step), rel=1e-6, abs=1e-8)


# With one step of length 1, the weights of the input at its begin and end are phi1 - phi2 and phi2 of the rate;
# phi_n is a confluent hypergeometric function, which scipy knows on either side of the switch.
@pytest.mark.parametrize("x", [1e-9, 1e-6, 1e-3, 0.1, SERIES_BELOW * (1 - 1e-12), SERIES_BELOW, 0.31, 1.0, 5.0])
def test_weights_of_a_step_keep_their_digits_from_tiny_to_large_rates(x):
    rising, rising_slope = convolve([0.0, 1.0], [0.0, 1.0], [x])
    falling, falling_slope = convolve([0.0, 1.0], [1.0, 0.0], [x])
    phi1, phi2 = hyp1f1(1, 2, -x), hyp1f1(1, 3, -x) / 2
    by_x1, by_x2 = -hyp1f1(2, 3, -x) / 2, -hyp1f1(2, 4, -x) / 6
    assert rising[1, 0] == pytest.approx(phi2, rel=2e-11)
    assert falling[1, 0] == pytest.approx(phi1 - phi2, rel=2e-11)
    assert rising_slope[1, 0] == pytest.approx(by_x2, rel=1e-9)
    assert falling_slope[1, 0] == pytest.approx(by_x1 - by_x2, rel=1e-9)


def test_response_is_smooth_where_the_series_takes_over():
    below, above = SERIES_BELOW * (1 - 1e-9), SERIES_BELOW * (1 + 1e-9)
    response, slope = convolve([0.0, 1.0, 2.0], [0.0, 1.0, 3.0], [below, above])
    assert response[:, 0] == pytest.approx(response[:, 1], rel=2e-9)
    assert slope[:, 0] == pytest.approx(slope[:, 1], rel=2e-9)


def test_single_precision_keeps_six_digits_at_every_rate():
    times, curve = double(*UNEVEN), double(0, 1, 7, 4, 3, 2, 1.5, 1.4, 1, 0.5)
    rates = torch.logspace(-9, 1.5, 200, dtype=torch.float64)
    exact = Convolution(times, curve)(rates)
    single = Convolution(times, curve)(rates.float())
    assert single[0].dtype == torch.float32
    for found, wanted in zip(single, exact, strict=True):
        assert torch.allclose(found.double(), wanted, rtol=2e-5, atol=1e-6)


def test_equal_steps_that_differ_by_rounding_share_their_exponentials():
    times = torch.arange(0, 50, dtype=torch.float64) * 0.1
    assert len(Convolution(times, torch.ones_like(times)).steps) == 1


def test_rectangle_equals_a_discrete_convolution_times_the_interval():
    step = 0.5
    times = torch.arange(0, 20, dtype=torch.float64) * step
    curve = torch.sin(times) + 2
    response, slope = Convolution(times, curve, rectangle=True)(double(0.3, 2.0))
    for column, rate in enumerate((0.3, 2.0)):
        lags = times.numpy()
        whole = np.convolve(curve.numpy(), np.exp(-rate * lags))[: len(lags)] * step
        by_rate = np.convolve(curve.numpy(), -lags * np.exp(-rate * lags))[: len(lags)] * step
        assert response[:, column].numpy() == pytest.approx(whole, rel=1e-12)
        assert slope[:, column].numpy() == pytest.approx(by_rate, rel=1e-12, abs=1e-15)


def test_running_integral_of_a_straight_line_is_exact_at_uneven_times():
    times = double(*UNEVEN)
    assert torch.allclose(running_integral(times, 2 * times), times**2, rtol=1e-14)


def test_running_integral_of_many_curves_is_that_of_each():
    times = double(*UNEVEN)
    curves = torch.stack([torch.sin(times), torch.cos(times)], 1)
    together = running_integral(times, curves)
    for column in range(2):
        assert torch.equal(together[:, column], running_integral(times, curves[:, column]))


def test_samples_are_read_at_their_own_times():
    grid = double(*UNEVEN)
    response = torch.stack([grid, grid**2], 1)
    starts = double(0.1, 1.0, 9.0)
    read = Readout(grid, starts)(response, response)
    assert torch.equal(read, torch.stack([starts, starts**2], 1))


# The trapezoid rule with end correction: its error grows with the fourth power of rate times step.
@pytest.mark.parametrize(("rate", "relative"), [(0.01, 2e-6), (0.2, 2e-6), (1.5, 5e-5)])
def test_mean_of_a_frame_equals_the_average_of_a_fine_curve(rate, relative):
    starts, ends = double(0.0, 1.0, 4.0, 10.0), double(1.0, 4.0, 10.0, 30.0)
    grid = torch.linspace(0, 30, 121, dtype=torch.float64)
    plasma = 5 * torch.exp(-0.05 * grid)
    # The input is straight between the points, so a finer grid with the same points has the same response.
    fine = torch.linspace(0, 30, 120 * 50 + 1, dtype=torch.float64)
    fine_plasma = torch.from_numpy(np.interp(fine.numpy(), grid.numpy(), plasma.numpy()))
    response, _ = Convolution(grid, plasma)(double(rate))
    fine_response, _ = Convolution(fine, fine_plasma)(double(rate))
    found = Readout(grid, starts, ends)(response, plasma[:, None] - rate * response)[:, 0]
    for frame, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = (fine >= start - 1e-9) & (fine <= end + 1e-9)
        average = torch.trapezoid(fine_response[inside, 0], fine[inside]) / (end - start)
        assert float(found[frame]) == pytest.approx(float(average), rel=relative)


def test_mean_of_a_frame_is_exact_for_a_cubic():
    grid = double(0.0, 0.7, 1.0, 2.5, 4.0)
    found = Readout(grid, double(0.0, 1.0), double(1.0, 4.0))(grid[:, None] ** 3, 3 * grid[:, None] ** 2)
    assert found[:, 0].tolist() == pytest.approx([0.25, (4**4 - 1) / 12], rel=1e-12)
