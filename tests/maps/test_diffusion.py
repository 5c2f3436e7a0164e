import math

import pytest
import torch

from hypoxnet.errors import MapError
from hypoxnet.maps.diffusion import IntravoxelIncoherentMotion, adc_log_linear, adc_nonlinear, adc_two_point, ivim
from hypoxnet.maps.fitting import Status

IVIM_B = torch.tensor([0, 50, 100, 200, 400, 600, 800, 1000], dtype=torch.float64)
NOTHING = torch.empty(0, 1, dtype=torch.float64)
WORKED = (1.0, 0.87104, 0.80338, 0.72418, 0.61236, 0.51969, 0.44108, 0.37437)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def printed(value: float, digits: int):
    """Equal to the printed number, half of its last digit allowed."""
    return pytest.approx(value, abs=0.5001 * 10.0**-digits)


def perfused(b: torch.Tensor = IVIM_B, *, d=0.82, f=0.15, d_star=20.0, s0=1.0) -> torch.Tensor:
    values = torch.stack(
        [x.double().reshape(-1) for x in torch.broadcast_tensors(*map(torch.as_tensor, (d, f, d_star, s0)))]
    )
    return IntravoxelIncoherentMotion(b).evaluate(values, NOTHING)[0]


def decays(adc: torch.Tensor, b: torch.Tensor, *, s0: float = 500.0) -> torch.Tensor:
    return s0 * torch.exp(-1e-3 * b[:, None] * adc)


def test_perfused_signal_matches_worked_numbers():
    assert perfused()[:, 0].tolist() == [printed(s, 5) for s in WORKED]


def test_adc_of_two_b_values_matches_its_worked_number():
    signal = perfused()[:, 0]
    assert float(adc_two_point(signal[0], signal[-1], b_low=0, b_high=1000)) == printed(0.98252, 5)


def test_slope_between_200_and_1000_matches_its_worked_number():
    signal = perfused()[:, 0]
    assert float(adc_two_point(signal[3], signal[7], b_low=200, b_high=1000)) == printed(0.82475, 5)
    line = adc_log_linear(signal[[3, 7], None], double(200, 1000))
    assert float(line.values["adc"]) == printed(0.82475, 5)


def test_segmented_fit_with_two_far_b_values_matches_its_worked_numbers():
    b = double(0, 50, 100, 200, 1000)
    found = ivim(perfused(b), b)
    assert float(found.values["d"]) == printed(0.82475, 5)
    assert float(found.values["f"]) == printed(0.14595, 5)
    assert float(found.values["d_star"]) == pytest.approx(20.0, rel=0.1)


def test_segmented_fit_with_all_b_values_comes_near_the_truth():
    found = ivim(perfused(), IVIM_B)
    assert float(found.values["f"]) == pytest.approx(0.15, abs=5e-3)
    assert float(found.values["d"]) == pytest.approx(0.82, rel=0.01)
    assert float(found.values["d_star"]) == pytest.approx(20.0, rel=0.1)


@pytest.mark.parametrize("method", [adc_log_linear, adc_nonlinear])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_adc_without_noise_is_given_back(method, dtype, relative):
    b = double(0, 400, 800)
    adc = torch.linspace(0.4, 2.5, 12, dtype=torch.float64)
    found = method(decays(adc, b).to(dtype).reshape(3, 2, 2, 3), b)
    assert torch.allclose(found.values["adc"].double().reshape(-1), adc, rtol=relative)
    assert torch.allclose(found.values["s0"].double(), double(500.0), rtol=relative)


def test_order_of_b_values_does_not_matter():
    b = double(800, 0, 400)
    assert float(adc_log_linear(decays(double(1.1), b), b).values["adc"]) == pytest.approx(1.1)


def test_weights_keep_the_noise_of_dark_volumes_out():
    b = double(0, 200, 500, 1000, 2000)
    clean = decays(torch.full((3000,), 1.5).double(), b)
    noise = 10 * torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weighted, plain = (adc_log_linear((clean + noise).abs(), b, weighted=w).values["adc"] for w in (True, False))
    assert float(weighted.std()) < 0.7 * float(plain.std())
    assert float(weighted.mean()) == pytest.approx(1.5, rel=0.01)


def test_samples_below_the_noise_are_left_out():
    b = double(0, 500, 1000, 3000)
    signal = decays(double(1.5), b)
    signal[3] = 20.0
    assert float(adc_log_linear(signal, b, noise_sd=10.0).values["adc"]) == pytest.approx(1.5, rel=1e-6)


def test_signal_that_does_not_fall_has_no_adc():
    b = double(0, 400, 800)
    found = adc_log_linear(torch.stack([double(100, 110, 120), double(0, 0, 0), double(100, 80, 64)], 1), b)
    assert found.status.tolist() == [Status.NO_SIGNAL, Status.NO_SIGNAL, Status.CONVERGED]
    two = adc_two_point(double(100, 0, 100, 100), double(110, 10, 0, 50), b_low=0, b_high=800)
    assert torch.isfinite(two).tolist() == [False, False, False, True]


D = torch.linspace(0.5, 1.5, 5).double()
F = torch.linspace(0.1, 0.3, 5).double()
DENSE_B = double(0, 10, 20, 30, 50, 80, 120, 200, 400, 600, 800, 1000)


def test_all_at_once_gives_back_every_parameter_without_noise():
    signal = perfused(DENSE_B, d=D, f=F, d_star=20.0, s0=800.0)
    found = ivim(signal, DENSE_B, segmented=False)
    assert bool((found.status == Status.CONVERGED).all())
    for name, truth in (("d", D), ("f", F), ("d_star", double(20.0)), ("s0", double(800.0))):
        assert torch.allclose(found.values[name], truth.expand(5), rtol=1e-4), name
        assert bool((found.errors[name] >= 0).all())


def test_segmented_fit_is_near_the_truth_in_noise():
    clean = perfused(DENSE_B, d=torch.full((500,), 0.82), s0=100.0)
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = ivim(clean + noise, DENSE_B)
    assert float(found.values["d"].median()) == pytest.approx(0.82, rel=0.03)
    assert float(found.values["f"].median()) == pytest.approx(0.15, abs=0.01)
    assert bool(((found.values["d_star"] >= 3) & (found.values["d_star"] <= 150)).all())


def test_segmented_fit_knows_the_error_of_the_pseudo_diffusion_only():
    found = ivim(perfused(DENSE_B, d=D) + 1e-3, DENSE_B)
    assert torch.isnan(found.errors["d"]).all()
    assert torch.isnan(found.errors["f"]).all()
    assert torch.isfinite(found.errors["d_star"]).all()


def test_voxels_outside_and_without_signal_have_no_value():
    signal = perfused(DENSE_B, d=D).reshape(12, 5, 1)
    signal[:, 1] = 0
    signal[2, 2] = math.nan
    mask = torch.tensor([False, True, True, True, True])[:, None]
    for segmented in (True, False):
        found = ivim(signal, DENSE_B, segmented=segmented, mask=mask)
        assert found.status[:, 0].tolist()[:2] == [Status.OUTSIDE, Status.NO_SIGNAL]
        for each in (found.values["d"], found.values["f"], found.values["d_star"]):
            assert torch.isfinite(each[:, 0]).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("b", "sentence"),
    [
        (double(0, 400), "3 volumes and 2 b-values; give one b-value per volume"),
        (double(400, 400, 400), "1 different b-values, 2 are needed"),
        (double(-1, 400, 800), "b-values of -1 to 800; none is negative"),
        (double(0, 0.4, 0.8), r"b-values of 0 to 0\.8; .*s/mm2 \(50 to 3000\)"),
        (double(0, math.nan, 800), "b-values of nan"),
    ],
)
@pytest.mark.parametrize("method", [adc_log_linear, adc_nonlinear])
def test_b_values_that_cannot_be_are_refused(method, b, sentence):
    with pytest.raises(MapError, match=sentence):
        method(torch.ones(3, 4), b)


def test_two_points_in_the_wrong_order_are_refused():
    with pytest.raises(MapError, match="b-values are 800 and 0, the second must be larger; exchange the volumes"):
        adc_two_point(torch.ones(2), torch.ones(2), b_low=800, b_high=0)


@pytest.mark.parametrize(
    ("b", "sentence"),
    [
        ((0, 400, 800), "3 different b-values, 4 are needed"),
        ((0, 50, 100, 300), "two from 200 s/mm2 on; there are 3 below and 1 above, the smallest 0; choose an ADC"),
        ((0, 300, 600, 900), "there are 1 below and 3 above"),
        ((50, 100, 300, 900), "the smallest 50; choose an ADC"),
    ],
)
def test_b_values_that_cannot_tell_perfusion_apart_are_refused(b, sentence):
    with pytest.raises(MapError, match=sentence):
        ivim(torch.ones(len(b), 4), double(*b))
