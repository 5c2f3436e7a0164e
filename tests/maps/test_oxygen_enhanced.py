import math

import numpy as np
import pytest
import torch
from scipy import stats

from hypoxnet.errors import MapError
from hypoxnet.maps.motion import displacement_voxels, moved_volumes
from hypoxnet.maps.oxygen_enhanced import (
    DynamicChange,
    OxygenClass,
    classify,
    delta_po2_mmhg,
    delta_r1,
    delta_r1_from_percent,
    delta_t1_percent,
    dynamic_change,
    hypoxic_fraction,
    perfused_voxels,
    unphysiological_share,
)

NAN, INF = float("nan"), float("inf")
GAS = ["air"] * 8 + ["transition"] * 3 + ["oxygen"] * 12


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def series(*, deltas, noise=0.01, seed=0):
    """R1 of 0.7 1/s with a step on oxygen, and wild values in between."""
    step = torch.tensor([{"air": 0.0, "oxygen": 1.0, "transition": 50.0}[name] for name in GAS], dtype=torch.float64)
    scatter = torch.randn(len(GAS), len(deltas), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.7 + step[:, None] * double(*deltas) + noise * scatter


# --- changes ---


def test_change_of_r1_is_that_worked_out_for_three_changes_of_t1():
    percent = double(-3.5, -7.0, -0.3)
    assert delta_r1_from_percent(double(1.0), percent).tolist() == pytest.approx([0.0363, 0.0753, 0.0030], abs=5e-5)


def test_four_hundred_mmhg_change_r1_of_plasma_by_that_worked_out():
    assert delta_po2_mmhg(double(0.0788)).item() == pytest.approx(400, abs=0.3)
    assert delta_po2_mmhg(double(0.0788 + 5e-5)).item() > 400


def test_both_ways_to_the_change_of_r1_agree():
    air = torch.linspace(0.8, 2.2, 15, dtype=torch.float64)[:, None]
    oxygen = air * torch.linspace(0.85, 1.15, 11, dtype=torch.float64)
    direct = delta_r1(air, oxygen)
    linked = delta_r1_from_percent(air.expand_as(oxygen), delta_t1_percent(air, oxygen))
    torch.testing.assert_close(linked, direct, rtol=1e-9, atol=1e-12)


def test_tissue_that_takes_up_oxygen_has_a_shorter_t1_and_a_higher_r1():
    assert delta_r1(double(1.2), double(1.1)).item() > 0
    assert delta_t1_percent(double(1.2), double(1.1)).item() < 0


@pytest.mark.parametrize(("air", "oxygen"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (NAN, 1.0), (1.0, INF)])
def test_an_impossible_t1_gives_no_change(air, oxygen):
    assert math.isnan(delta_r1(double(air), double(oxygen)).item())
    assert math.isnan(delta_t1_percent(double(air), double(oxygen)).item())


def test_a_t1_that_falls_by_all_of_it_gives_no_change():
    assert torch.isnan(delta_r1_from_percent(double(1.0, 1.0, 0.0), double(-100.0, NAN, 5.0))).all()


def test_oxygen_without_relaxivity_is_refused():
    with pytest.raises(MapError, match="must be positive"):
        delta_po2_mmhg(double(0.1), relaxivity=0.0)


# --- the test in every voxel ---


def test_t_and_p_are_those_of_scipy():
    r1 = series(deltas=(0.0, 0.005, 0.02, 0.1, -0.05) * 4)
    change = dynamic_change(r1, GAS)
    air, oxygen = (r1[[name == kind for name in GAS]].numpy() for kind in ("air", "oxygen"))
    expected = stats.ttest_ind(oxygen, air, equal_var=False, alternative="greater")
    np.testing.assert_allclose(change.t.numpy(), expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(change.degrees.numpy(), expected.df, rtol=1e-9)
    np.testing.assert_allclose(change.p.numpy(), expected.pvalue, rtol=1e-7)
    np.testing.assert_allclose(change.delta.numpy(), oxygen.mean(0) - air.mean(0), rtol=1e-9)
    np.testing.assert_allclose(change.mean_oxygen.numpy(), oxygen.mean(0), rtol=1e-12)


def test_of_tissue_that_does_not_answer_one_in_twenty_passes():
    p = dynamic_change(series(deltas=(0.0,) * 20000), GAS).p
    assert float((p < 0.05).double().mean()) == pytest.approx(0.05, abs=0.005)


def test_the_order_of_the_volumes_does_not_matter():
    r1, order = series(deltas=(0.01, 0.05)), torch.randperm(len(GAS), generator=torch.Generator().manual_seed(3))
    shuffled = dynamic_change(r1[order], [GAS[i] for i in order])
    torch.testing.assert_close(shuffled.p, dynamic_change(r1, GAS).p)


def test_maps_keep_the_shape_and_precision_of_the_series():
    r1 = series(deltas=(0.02,) * 24).float().reshape(len(GAS), 2, 3, 4)
    change = dynamic_change(r1, GAS)
    assert change.p.shape == (2, 3, 4)
    assert change.p.dtype == torch.float32


def test_one_volume_that_is_not_finite_makes_the_voxel_nan_unless_in_transition():
    r1 = series(deltas=(0.05,) * 4)
    r1[0, 0], r1[-1, 1], r1[9, 2] = NAN, INF, NAN
    change = dynamic_change(r1, GAS)
    for values in (change.mean_air, change.mean_oxygen, change.delta, change.t, change.degrees, change.p):
        assert torch.isfinite(values).tolist() == [False, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_r1_that_does_not_scatter_is_not_tested(dtype):
    """Rounding of the mean is not scatter: 0.1 is no binary fraction."""
    change = dynamic_change(torch.full((len(GAS), 1), 0.1, dtype=dtype), GAS)
    assert torch.isnan(change.p).all()
    assert change.mean_air.item() == pytest.approx(0.1)


def test_a_series_without_enough_of_a_gas_is_refused():
    r1 = series(deltas=(0.0,))
    with pytest.raises(MapError, match="2 volumes on oxygen, a test needs 3"):
        dynamic_change(r1[:13], GAS[:13])
    with pytest.raises(MapError, match="23 volumes and 22 gases"):
        dynamic_change(r1, GAS[1:])
    with pytest.raises(MapError, match="'carbogen' is no gas"):
        dynamic_change(r1, ["carbogen", *GAS[1:]])


# --- perfusion ---


def test_a_curve_that_rises_is_perfused_and_noise_is_not():
    curves = 0.02 * torch.randn(30, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curves[6:, :1000] += 0.2
    perfused = perfused_voxels(curves, slice(1, 6))
    assert float(perfused[:1000].mean()) == 1.0
    assert float(perfused[1000:].mean()) < 0.07


def test_a_fall_below_the_baseline_is_not_perfusion():
    curve = 0.01 * torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    curve[5:] -= 0.5
    assert perfused_voxels(curve, slice(0, 5)).item() == 0


def test_a_rise_that_ends_below_zero_is_not_perfusion():
    curve = 0.01 * torch.randn(20, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    curve[5:] += 0.3
    assert perfused_voxels(curve, slice(0, 5)).item() == 0


def test_enhancement_below_the_least_or_outside_the_window_does_not_count():
    curve = 0.001 * torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    curve[12:] += 0.05
    assert perfused_voxels(curve, slice(0, 5)).item() == 1
    assert perfused_voxels(curve, slice(0, 5), least_millimolar=0.1).item() == 0
    assert perfused_voxels(curve, slice(0, 5), contrast=slice(5, 10), alpha=0.001).item() == 0


def test_perfusion_of_a_voxel_without_a_curve_is_unknown():
    curve = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    curve[7, 0], curve[:, 1] = NAN, 0.0
    assert torch.isnan(perfused_voxels(curve, slice(0, 5))).all()


def test_perfusion_without_a_baseline_is_refused():
    with pytest.raises(MapError, match="0 volumes on the baseline"):
        perfused_voxels(torch.zeros(20, 1), slice(0, 0))
    with pytest.raises(MapError, match="1 volumes on the contrast agent"):
        perfused_voxels(torch.zeros(20, 1), slice(0, 19))
    with pytest.raises(MapError, match="between 0 and 1"):
        perfused_voxels(torch.zeros(20, 1), slice(0, 5), alpha=5.0)


# --- classes ---


def change_of(p, delta):
    empty = torch.zeros_like(p)
    return DynamicChange(empty, delta, delta, empty, empty, p)


# Answers, does not, unknown; each perfused, not perfused, unknown, and once outside the tumour.
P = double(0.01, 0.01, 0.01, 0.6, 0.6, 0.6, NAN, NAN, NAN, 0.01)
DELTA = double(0.05, 0.05, 0.05, 0.01, 0.01, 0.01, NAN, NAN, NAN, 0.05)
PERFUSED = double(1, 0, NAN, 1, 0, NAN, 1, 0, NAN, 1)
TUMOUR = torch.tensor([True] * 9 + [False])


def names(classes):
    return [OxygenClass(code).name for code in classes.tolist()]


def test_every_combination_has_its_class():
    classes = classify(change_of(P, DELTA), tumour=TUMOUR, perfused=PERFUSED)
    assert classes.dtype == torch.uint8
    assert names(classes) == [
        "PERFUSED_OXY_E",
        "NOT_PERFUSED",
        "UNKNOWN",
        "PERFUSED_OXY_R",
        "NOT_PERFUSED",
        "UNKNOWN",
        "UNKNOWN",
        "NOT_PERFUSED",
        "UNKNOWN",
        "OUTSIDE",
    ]


def test_without_perfusion_nothing_is_called_perfused():
    classes = classify(change_of(P, DELTA), tumour=TUMOUR)
    assert names(classes) == ["OXY_E"] * 3 + ["OXY_R"] * 3 + ["UNKNOWN"] * 3 + ["OUTSIDE"]
    for include in (True, False):
        fraction = hypoxic_fraction(classes, include_not_perfused=include)
        assert "perfused" not in fraction.numerator + fraction.denominator
        assert (fraction.numerator, fraction.denominator) == ("Oxy-R", "Oxy-E + Oxy-R")
        assert (fraction.fraction, fraction.voxels_numerator, fraction.voxels_denominator) == (0.5, 3, 6)


def test_a_boolean_map_of_perfusion_knows_every_voxel():
    classes = classify(change_of(P[:6], DELTA[:6]), tumour=TUMOUR[:6], perfused=torch.tensor([True, False] * 3))
    assert names(classes)[:2] == ["PERFUSED_OXY_E", "NOT_PERFUSED"]
    assert "UNKNOWN" not in names(classes)


def test_a_significant_fall_is_no_answer_at_any_level():
    classes = classify(change_of(double(0.6), double(-0.05)), tumour=torch.tensor([True]), alpha=0.9)
    assert names(classes) == ["OXY_R"]


def test_answering_and_refractory_tumour_are_told_apart_in_noise():
    change = dynamic_change(series(deltas=(0.04,) * 500 + (0.0,) * 500), GAS)
    classes = classify(change, tumour=torch.ones(1000, dtype=torch.bool))
    assert hypoxic_fraction(classes[:500], include_not_perfused=False).fraction < 0.01
    assert hypoxic_fraction(classes[500:], include_not_perfused=False).fraction == pytest.approx(0.95, abs=0.03)


def test_maps_of_another_shape_are_refused():
    with pytest.raises(MapError, match="resample the tumour onto R1"):
        classify(change_of(P, DELTA), tumour=TUMOUR[:3])
    with pytest.raises(MapError, match="resample the perfusion onto R1"):
        classify(change_of(P, DELTA), tumour=TUMOUR, perfused=PERFUSED[:3])
    with pytest.raises(MapError, match="between 0 and 1"):
        classify(change_of(P, DELTA), tumour=TUMOUR, alpha=0.0)


# --- hypoxic fraction ---


def test_the_denominator_says_whether_tumour_without_perfusion_counts():
    classes = torch.tensor([3] * 5 + [4] * 3 + [5] * 4 + [6] * 7 + [0] * 9, dtype=torch.uint8)
    without = hypoxic_fraction(classes, include_not_perfused=False)
    assert (without.fraction, without.voxels_numerator, without.voxels_denominator) == (3 / 8, 3, 8)
    assert without.denominator == "perfused Oxy-E + perfused Oxy-R"
    within = hypoxic_fraction(classes, include_not_perfused=True)
    assert (within.fraction, within.voxels_numerator, within.voxels_denominator) == (3 / 12, 3, 12)
    assert within.denominator == "perfused Oxy-E + perfused Oxy-R + not perfused"
    assert without.numerator == within.numerator == "perfused Oxy-R"


@pytest.mark.parametrize("codes", [[], [0, 0], [6, 6], [5, 5]])
def test_a_fraction_of_nothing_is_nan(codes):
    fraction = hypoxic_fraction(torch.tensor(codes, dtype=torch.uint8), include_not_perfused=False)
    assert math.isnan(fraction.fraction)
    assert (fraction.voxels_numerator, fraction.voxels_denominator) == (0, 0)


def test_classes_with_and_without_perfusion_do_not_mix():
    with pytest.raises(MapError, match="1 voxels are classified without perfusion, 2 with it"):
        hypoxic_fraction(torch.tensor([1, 3, 5]), include_not_perfused=False)


# --- checks ---


def test_changes_beyond_oxygen_are_counted_at_their_limits():
    r1 = double(0.19, 0.2, -0.2, 0.0, 0.0, 0.0, NAN, 0.9)
    percent = double(0.0, 0.0, 0.0, 14.9, 15.0, -15.0, 0.0, 0.0)
    mask = torch.tensor([True] * 7 + [False])
    assert unphysiological_share(r1, percent, mask=mask) == pytest.approx(4 / 6)
    assert math.isnan(unphysiological_share(r1, percent, mask=torch.zeros(8, dtype=torch.bool)))
    with pytest.raises(MapError, match="onto one grid"):
        unphysiological_share(r1, percent, mask=mask[:3])


def test_changes_of_head_and_neck_tumours_on_oxygen_are_physiological():
    """Medians of McCabe 2024 in tumours of T1 0.8 to 2.2 s."""
    percent = double(-3.5, -7.0, -0.3).expand(3, 3)
    r1 = delta_r1_from_percent(double(0.8, 1.5, 2.2)[:, None], percent)
    assert unphysiological_share(r1, percent, mask=torch.ones(3, 3)) == 0


def smooth_volume(shape=(20, 24, 28), shift=(0.0, 0.0, 0.0)):
    """Random blobs, some of them across the edge: what leaves on one side does not enter on the other."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    volume = torch.zeros(shape, dtype=torch.float64)
    for _ in range(150):
        centre = torch.rand(3, generator=generator, dtype=torch.float64) * (double(*shape) + 8) - 4 + double(*shift)
        square = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        volume += torch.rand(1, generator=generator).item() * torch.exp(-square / (2 * 1.5**2))
    return volume


SHIFTS = [(0, 0, 0), (1, 0, -2), (-3, 2, 1), (0.5, 0, 0), (0, -0.5, 1.5), (0.5, 0.5, -0.5), (0.25, -1.7, 0.1)]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_known_shifts_are_found_to_a_tenth_of_a_voxel(noise):
    moved = torch.stack([smooth_volume(shift=shift) for shift in SHIFTS])
    moved += noise * moved.std() * torch.randn(moved.shape, generator=torch.Generator().manual_seed(1)).double()
    found = displacement_voxels(moved)
    torch.testing.assert_close(found, torch.tensor(SHIFTS, dtype=torch.float64), rtol=0, atol=0.1)
    assert found[0].abs().max() < 1e-9


def test_a_brighter_volume_has_not_moved():
    volume = smooth_volume()
    found = displacement_voxels(torch.stack([volume, 3 * volume + 50]))
    assert float(found.abs().max()) < 1e-6


def test_float32_finds_the_same_displacement():
    volumes = torch.stack([smooth_volume(), smooth_volume(shift=(0.5, -1, 0.25))])
    single = displacement_voxels(volumes.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), displacement_voxels(volumes), rtol=0, atol=0.01)


def test_a_single_slice_cannot_move_across_itself():
    volumes = torch.stack([smooth_volume(), smooth_volume(shift=(0, 1, -0.5))])[:, 10:11]
    torch.testing.assert_close(displacement_voxels(volumes)[1], double(0, 1, -0.5), rtol=0, atol=0.1)


def test_a_volume_in_which_nothing_is_seen_counts_as_moved():
    volume = smooth_volume()
    broken = volume.clone()
    broken[0, 0, 0] = NAN
    found = displacement_voxels(torch.stack([volume, torch.ones_like(volume), broken, volume]))
    assert torch.isnan(found).all(1).tolist() == [False, True, True, False]
    assert moved_volumes(found).tolist() == [False, True, True, False]
    assert torch.isnan(displacement_voxels(torch.stack([broken, volume]))).all()


def test_half_a_voxel_passes_and_more_does_not():
    found = double(0.5, 0, 0, 0.3, 0.3, 0.3, 0, -2, 0).reshape(3, 3)
    assert moved_volumes(found).tolist() == [False, True, True]
    assert moved_volumes(found, limit_voxels=1.0).tolist() == [False, False, True]
    with pytest.raises(MapError, match="must be positive"):
        moved_volumes(found, limit_voxels=0.0)


def test_one_volume_is_no_series():
    with pytest.raises(MapError, match="give volumes x D x H x W"):
        displacement_voxels(torch.zeros(4, 4, 4))
