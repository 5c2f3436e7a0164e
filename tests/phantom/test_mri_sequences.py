"""Signals are those of their equations: worked numbers, limits, and what a sidecar says."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mri_object import made, neck, random_properties, voxels

from hypoxnet.errors import MapError
from hypoxnet.maps.compartments import Timing
from hypoxnet.maps.dce import ExtendedTofts, TwoCompartmentExchange
from hypoxnet.maps.input_functions import parker
from hypoxnet.phantom.mri.acquire import mr_session
from hypoxnet.phantom.mri.contrast import arterial_input, concentration
from hypoxnet.phantom.mri.maps import MAKERS
from hypoxnet.phantom.mri.sequences import (
    NEEDS,
    SEQUENCES,
    contrast_enhanced,
    diffusion_signal,
    gas_of,
    multi_echo,
    oxygen_enhanced,
    oxygen_shares,
    raw_series,
    series_needed,
    t1_weighted,
    t2_weighted,
    variable_flip_angle,
)
from hypoxnet.phantom.parameters.mri import MrProtocol, MrScanner
from hypoxnet.phantom.words import Tissue
from hypoxnet.quantities import QUANTITIES


def voxel(**values):
    """One voxel, float64, with these properties."""
    base = random_properties(1)
    return replace(base, **{name: torch.full((1, 1, 1), v, dtype=torch.float64) for name, v in values.items()})


def test_flip_angles_give_the_worked_signals():
    protocol = MrProtocol(flips_deg=(2.0, 5.0, 12.0, 15.0), spoiled_te_s=0.0)
    series = variable_flip_angle(voxel(proton_density=1.0, r1=1.0), protocol)
    expected = [0.0311177, 0.0495440, 0.0387927, 0.0331912]
    assert series.signal.flatten().tolist() == pytest.approx(expected, abs=5e-8)


def test_diffusion_gives_the_worked_signals():
    one = voxel(proton_density=1.0, f=0.15, d=0.82, d_star=20.0)
    signal = [float(diffusion_signal(one, b, te_s=0.0)) for b in (0, 50, 100, 200, 400, 600, 800, 1000)]
    expected = [1, 0.87104, 0.80338, 0.72418, 0.61236, 0.51969, 0.44108, 0.37437]
    assert signal == pytest.approx(expected, abs=5e-6)


BOLUS = MrProtocol(bolus_s=20.0, contrast_volumes=60)
AFTER_MIN = (0.5, 1.0, 2.0, 5.0)
TIMES_S = [20.0 + 60.0 * t for t in AFTER_MIN]


@pytest.mark.parametrize(
    ("vp", "expected"),
    [(0.0, (0.38091, 0.42593, 0.42112, 0.28783)), (0.05, (0.48649, 0.50240, 0.48574, 0.32681))],
)
def test_tofts_gives_the_worked_concentrations(vp, expected):
    p = voxel(ktrans=0.25, ve=0.30, vp=vp).each(lambda m: m.flatten())
    found = [float(c) for c in concentration(p, BOLUS, TIMES_S)]
    assert found == pytest.approx(expected, rel=2e-3)


def test_the_exchange_model_gives_the_worked_concentrations():
    p = voxel(flow=60.0, ps=0.2, ve=0.3, vp=0.05).each(lambda m: m.flatten())
    found = [float(c) for c in concentration(p, replace(BOLUS, contrast_model="2cxm"), TIMES_S)]
    assert [found[0], found[1], found[3]] == pytest.approx((0.32125, 0.37226, 0.34519), rel=2e-3)


def test_the_table_of_responses_is_the_model_itself():
    p = random_properties(200).each(lambda m: m.flatten())
    given = arterial_input(20.0, 0.42, until_s=TIMES_S[-1])
    times = torch.tensor(TIMES_S, dtype=torch.float64) / 60
    timing = Timing(given.times_min, times)
    exact = ExtendedTofts(timing, given.plasma).evaluate(torch.stack([p.ktrans, p.ve, p.vp]), p.ve)[0]
    table = torch.stack(list(concentration(p, BOLUS, TIMES_S)))
    assert torch.allclose(table, exact, rtol=1e-4)
    exact = TwoCompartmentExchange(timing, given.plasma).evaluate(torch.stack([p.flow, p.ps, p.ve, p.vp]), p.ve)[0]
    table = torch.stack(list(concentration(p, replace(BOLUS, contrast_model="2cxm"), TIMES_S)))
    assert torch.allclose(table, exact, rtol=1e-4)


def test_an_artery_shows_whole_blood_and_a_delay_shows_it_later():
    blood = voxel(ktrans=0.0, vp=0.58).each(lambda m: m.flatten())
    late = replace(blood, delay_s=torch.full((1,), 5.0, dtype=torch.float64))
    times = [20.0 + 7.5 * n for n in range(20)]
    seen = torch.cat(list(concentration(blood, BOLUS, times)))
    expected = parker(torch.tensor([(t - 20.0) / 60 for t in times], dtype=torch.float64))
    assert torch.allclose(seen, expected, atol=2e-3)
    delayed = torch.cat(list(concentration(late, BOLUS, [t + 5.0 for t in times])))
    assert torch.allclose(seen, delayed, atol=1e-9)


def test_nothing_enhances_before_the_bolus():
    series = contrast_enhanced(random_properties(50), MrProtocol())
    times = np.array(series.sidecar["VolumeTiming"])
    before = series.signal[times < series.sidecar["BolusArrival"]]
    assert len(before) == 6
    assert torch.allclose(before, before[:1].expand_as(before), rtol=1e-12)
    assert bool((series.signal[-1] > before[0]).all())


def test_echoes_decay_with_r2star():
    p = random_properties(50)
    series = multi_echo(p, MrProtocol())
    te = series.sidecar["EchoTime"]
    rate = torch.log(series.signal[0] / series.signal[-1]) / (te[-1] - te[0])
    assert torch.allclose(rate, p.r2star, rtol=1e-12)


def test_oxygen_comes_after_the_change_of_gas_and_is_complete_at_the_end():
    protocol = MrProtocol()
    gas, shares = gas_of(protocol), oxygen_shares(protocol)
    assert [len([g for g in gas if g == name]) for name in ("air", "transition", "oxygen")] == [12, 9, 15]
    assert all(s == 0 for s, g in zip(shares, gas, strict=True) if g == "air")
    assert min(s for s, g in zip(shares, gas, strict=True) if g == "oxygen") > 0.98


def test_falling_r2star_alone_looks_like_a_rise_of_r1():
    p = replace(random_properties(20), dr1=torch.zeros(20, 1, 1, dtype=torch.float64))
    p = replace(p, r2star_oxygen=p.r2star - 2.0)
    series = oxygen_enhanced(p, MrProtocol())
    rise = series.signal[-1] / series.signal[0]
    assert torch.allclose(rise, torch.tensor(math.exp(0.0015 * 2.0), dtype=torch.float64), rtol=1e-4)


def test_weighted_images_have_their_contrast():
    p = made(voxels([Tissue.FAT, Tissue.MUSCLE, Tissue.TUMOUR, Tissue.AIRWAY]))
    fat, muscle, tumour, air = t1_weighted(p, MrProtocol()).signal.flatten().tolist()
    assert fat > tumour > 0
    assert fat > muscle > air == 0.0
    fat, muscle, tumour, air = t2_weighted(p, MrProtocol()).signal.flatten().tolist()
    assert tumour > 2 * muscle > air == 0.0


def test_a_wrong_transmitter_turns_by_another_angle():
    p = random_properties(20)
    low = replace(p, transmit=0.5 * p.transmit)
    nominal = variable_flip_angle(p, MrProtocol(flips_deg=(2.0, 4.0))).signal
    turned = variable_flip_angle(low, MrProtocol(flips_deg=(4.0, 8.0))).signal
    assert torch.allclose(nominal, turned, rtol=1e-12)


def test_every_sequence_has_a_sidecar_that_json_can_hold_and_one_entry_per_volume():
    p, protocol = random_properties(5), MrProtocol()
    for name, sequence in SEQUENCES.items():
        series = sequence(p, protocol)
        assert series.name == name
        assert bool(torch.isfinite(series.signal).all())
        read = json.loads(json.dumps(dict(series.sidecar)))
        assert all(len(v) == len(series.signal) for v in read.values() if isinstance(v, list))


def test_every_fitted_map_has_its_series_and_a_quantity():
    assert set(MAKERS) == set(NEEDS) - {"T1W", "T2W"}
    assert set(MAKERS) <= set(QUANTITIES)
    assert {series for needed in NEEDS.values() for series in needed} == set(SEQUENCES)
    assert series_needed(["VP", "T1W", "ADC"]) == ("T1W", "RAW_VFA", "RAW_DCE", "RAW_ADC")
    assert series_needed(["CT_HU"]) == ()


def test_series_of_a_session_show_its_fields():
    anatomy = neck()
    p = made(anatomy)
    session = mr_session(anatomy, MrScanner(), np.random.default_rng(0))
    (series,) = raw_series(p, MrProtocol(), ["T1W"], session)
    plain = t1_weighted(p, MrProtocol()).signal[0]
    body = anatomy.body
    assert torch.allclose(series.signal[0][body] / plain[body], session.receive[body], rtol=1e-5)
    with pytest.raises(MapError, match="no series 'T1C'"):
        list(raw_series(p, MrProtocol(), ["T1C"], session))
