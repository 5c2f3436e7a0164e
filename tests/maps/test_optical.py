import math

import pytest
import torch

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import Status
from hypoxnet.maps.optical import (
    OXYPHOR_R2,
    PROBES,
    PTG4,
    PhosphorescenceDecay,
    Probe,
    contralateral_z,
    lifetime_map,
    po2_error_mmhg,
    ratiometric,
    ratiometric_po2,
    stern_volmer_lifetime_us,
    stern_volmer_po2,
    two_gate_lifetime_us,
)

NAN, INF = float("nan"), float("inf")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- lifetimes ---


@pytest.mark.parametrize(
    ("probe", "lifetimes"),
    [(OXYPHOR_R2, (433.03, 208.36, 67.75, 18.32)), (PTG4, (45.61, 41.90, 31.61, 15.94))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_lifetimes_at_four_pressures_are_those_worked_out(probe, lifetimes):
    found = stern_volmer_lifetime_us(double(2.5, 10, 40, 160), probe)
    assert found.tolist() == pytest.approx(lifetimes, abs=0.005)


def test_pressure_is_the_inverse_of_lifetime_for_every_probe():
    pressures = torch.linspace(0, 200, 41, dtype=torch.float64)
    for probe in PROBES.values():
        back = stern_volmer_po2(stern_volmer_lifetime_us(pressures, probe), probe)
        torch.testing.assert_close(back, pressures, rtol=0, atol=1e-9)


def test_a_lifetime_beyond_that_of_anoxia_is_a_negative_pressure_not_zero():
    assert stern_volmer_po2(double(700.0), OXYPHOR_R2).item() < 0


@pytest.mark.parametrize("lifetime", [0.0, -5.0, NAN, INF])
def test_no_lifetime_gives_no_pressure(lifetime):
    assert math.isnan(stern_volmer_po2(double(lifetime), PTG4).item())


def test_a_pressure_too_negative_for_any_decay_gives_no_lifetime():
    assert math.isnan(stern_volmer_lifetime_us(double(-100.0), PTG4).item())


def test_ptg4_changes_by_eleven_percent_over_the_first_ten_mmhg():
    at_10 = stern_volmer_lifetime_us(double(10.0), PTG4).item()
    assert 1 - at_10 / PTG4.tau0_us == pytest.approx(0.11, abs=0.005)


def test_ptg4_needs_better_than_one_percent_for_one_mmhg_below_ten():
    """A lifetime known to 1 % leaves 0.8 to 0.9 mmHg between 0 and 10 mmHg."""
    lifetimes = stern_volmer_lifetime_us(double(0.0, 10.0), PTG4)
    errors = po2_error_mmhg(lifetimes, 0.01 * lifetimes, probe=PTG4)
    assert errors.tolist() == pytest.approx([0.82, 0.92], abs=0.005)


def test_propagated_error_is_the_slope_of_the_pressure():
    lifetime, step = double(100.0), 1e-4
    slope = (stern_volmer_po2(lifetime - step, OXYPHOR_R2) - stern_volmer_po2(lifetime + step, OXYPHOR_R2)) / (2 * step)
    assert po2_error_mmhg(lifetime, double(3.0), probe=OXYPHOR_R2).item() == pytest.approx(3 * slope.item(), rel=1e-6)


def test_no_lifetime_or_no_error_of_it_gives_no_error():
    errors = po2_error_mmhg(double(0.0, -5.0, NAN, 40.0, 40.0), double(1.0, 1.0, 1.0, NAN, -1.0), probe=PTG4)
    assert torch.isnan(errors).all()


def test_a_probe_without_quenching_is_refused():
    with pytest.raises(MapError, match="both must be positive"):
        Probe("dead", 50.0, 0.0, "none")


# --- two gates ---


def test_two_equal_gates_of_any_width_give_the_lifetime_exactly():
    lifetimes = double(18.32, 67.75, 433.03)
    delay, width = 50.0, 80.0
    first = lifetimes * (1 - torch.exp(-width / lifetimes))
    second = first * torch.exp(-delay / lifetimes)
    torch.testing.assert_close(two_gate_lifetime_us(first, second, delay_us=delay), lifetimes)


def test_light_that_does_not_fall_has_no_lifetime():
    first, second = double(1.0, 1.0, 1.0, 0.0, -1.0, NAN, INF), double(1.0, 2.0, 0.0, 0.0, -2.0, 1.0, 1.0)
    assert torch.isnan(two_gate_lifetime_us(first, second, delay_us=10.0)).all()


def test_gates_without_a_delay_are_refused():
    with pytest.raises(MapError, match="must begin later"):
        two_gate_lifetime_us(double(2.0), double(1.0), delay_us=0.0)


# --- the whole decay ---

TIMES = torch.linspace(0, 300, 40, dtype=torch.float64)


def decays(lifetimes, amplitude=100.0, offset=7.0):
    return amplitude * torch.exp(-TIMES[:, None] / lifetimes) + offset


def test_the_jacobian_of_the_decay_is_its_derivative():
    model = PhosphorescenceDecay(TIMES)
    values = double(3.0, 60.0, 0.5)[:, None]
    empty = values[:0]
    _, jacobian = model.evaluate(values, empty)
    for row, step in enumerate((1e-6, 1e-5, 1e-6)):
        nudge = torch.zeros_like(values)
        nudge[row] = step
        slope = (model.evaluate(values + nudge, empty)[0] - model.evaluate(values - nudge, empty)[0]) / (2 * step)
        torch.testing.assert_close(jacobian[row], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_noiseless_decays_come_back_in_any_unit(scale):
    lifetimes = double(5.0, 18.32, 67.75, 208.36, 433.03)
    result = lifetime_map(scale * decays(lifetimes), TIMES)
    assert (result.status == Status.CONVERGED).all()
    torch.testing.assert_close(result.values["lifetime"], lifetimes, rtol=1e-5, atol=0)
    torch.testing.assert_close(result.values["amplitude"], torch.full_like(lifetimes, 100.0 * scale), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.values["offset"], torch.full_like(lifetimes, 7.0 * scale), rtol=1e-4, atol=0)


def test_lifetimes_are_unbiased_under_noise_and_scatter_as_their_errors_say():
    truth = torch.full((4000,), 41.90, dtype=torch.float64)
    noisy = decays(truth) + torch.randn(40, 4000, generator=seeded(), dtype=torch.float64)
    result = lifetime_map(noisy, TIMES)
    found, error = result.values["lifetime"], result.errors["lifetime"]
    assert found.mean().item() == pytest.approx(41.90, abs=4 * float(error.mean()) / math.sqrt(4000) + 0.02)
    assert float(found.std() / error.mean()) == pytest.approx(1, abs=0.05)


def test_float32_finds_the_same_lifetime():
    lifetimes = double(18.32, 67.75)
    found = lifetime_map(decays(lifetimes).float(), TIMES).values["lifetime"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), lifetimes, rtol=1e-3, atol=0)


def test_voxels_outside_or_without_light_stay_nan():
    signal = decays(double(40.0, 40.0, 40.0)).reshape(40, 3, 1)
    signal[:, 1] = 0
    result = lifetime_map(signal, TIMES, mask=torch.tensor([[True], [True], [False]]))
    assert result.status[:, 0].tolist() == [Status.CONVERGED, Status.NO_SIGNAL, Status.OUTSIDE]
    assert torch.isnan(result.values["lifetime"][1:]).all()


@pytest.mark.parametrize("times", [double(0.0, 1.0, 2.0), double(0.0, 2.0, 1.0, 3.0), double(0.0, 1.0, 1.0, 2.0)])
def test_too_few_or_unordered_times_are_refused(times):
    with pytest.raises(MapError, match="at least four, increasing"):
        PhosphorescenceDecay(times)


# --- ratio and z-score ---


def test_a_ratio_goes_to_a_pressure_and_back():
    pressure = double(0.0, 5.0, 40.0)
    reference = double(100.0, 200.0, 50.0)
    sensitive = 0.8 * reference / (1 + 0.05 * pressure)
    ratio = ratiometric(sensitive + 3, reference + 2, background_sensitive=3.0, background_reference=2.0)
    torch.testing.assert_close(ratiometric_po2(ratio, ratio_anoxic=0.8, k_sv_per_mmhg=0.05), pressure)


def test_no_reference_light_gives_no_ratio_and_no_pressure():
    ratio = ratiometric(double(1.0, 1.0, 1.0), double(2.0, 1.0, NAN), background_reference=2.0)
    assert torch.isnan(ratio).all()
    assert torch.isnan(ratiometric_po2(double(NAN, 0.0, -1.0), ratio_anoxic=1.0, k_sv_per_mmhg=0.1)).all()


def test_a_quencher_without_constants_is_refused():
    with pytest.raises(MapError, match="must be positive"):
        ratiometric_po2(double(1.0), ratio_anoxic=1.0, k_sv_per_mmhg=0.0)


def test_z_of_a_tumour_does_not_depend_on_the_scale_of_the_light():
    signal = torch.rand(4, 5, 6, generator=seeded(), dtype=torch.float64)
    tumour = torch.zeros(4, 5, 6, dtype=torch.bool)
    tumour[:2], other = True, torch.zeros(4, 5, 6, dtype=torch.bool)
    other[3] = True
    z = contralateral_z(signal, tumour, contralateral=other)
    torch.testing.assert_close(contralateral_z(50 * signal + 9, tumour, contralateral=other), z, equal_nan=True)
    assert torch.isfinite(z).equal(tumour)
    by_hand = (signal[0, 0, 0] - signal[3].mean()) / signal[3].std()
    assert z[0, 0, 0].item() == pytest.approx(by_hand.item())


def test_contralateral_regions_that_cannot_serve_are_refused():
    tumour = torch.tensor([True, False, False])
    with pytest.raises(MapError, match="share 1 voxels"):
        contralateral_z(double(1.0, 2.0, 3.0), tumour, contralateral=torch.tensor([True, True, False]))
    with pytest.raises(MapError, match="2 finite voxels that scatter by 0"):
        contralateral_z(double(1.0, 2.0, 2.0), tumour, contralateral=~tumour)
    with pytest.raises(MapError, match="onto one grid"):
        contralateral_z(double(1.0, 2.0), tumour, contralateral=~tumour)
