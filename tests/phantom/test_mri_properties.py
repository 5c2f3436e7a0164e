"""What MRI sees of tissue follows from vessels and oxygen, by its equations and inside published ranges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mri_object import PLAIN, made, neck, neck_properties, voxels

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.mri.properties import (
    blood_saturation,
    draw_patient,
    r2prime_per_s,
    saturation_under_oxygen,
    vessel_pressure_under_oxygen,
)
from hypoxnet.phantom.parameters.base import described
from hypoxnet.phantom.parameters.mri import MrProtocol, MrScanner, MrTissue
from hypoxnet.phantom.words import Tissue

ALL = list(Tissue)


def at(properties, name, which):
    """The value of one tissue."""
    return float(getattr(properties, name)[ALL.index(which), 0, 0])


def test_r2prime_of_five_percent_blood_is_the_worked_number():
    blood, y = torch.tensor(0.05, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    assert float(r2prime_per_s(blood, y, MrTissue(haematocrit=0.4))) == pytest.approx(7.0995, abs=5e-5)


def test_arterial_blood_gains_400_mmhg_and_its_r1_as_plasma_does():
    assert at(made(voxels(ALL)), "dr1", Tissue.ARTERY) == pytest.approx(0.0788, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(rise=st.floats(0, 300), flow=st.floats(5, 300))
def test_dr1_is_that_of_tissue_and_of_the_blood_inside_by_their_shares(rise, flow):
    tissue = MrTissue(**PLAIN)
    properties = made(voxels([Tissue.TUMOUR]), rise=rise, flow=flow)
    blood = float(properties.vp) / (1 - tissue.haematocrit)
    in_vessels = float(vessel_pressure_under_oxygen(torch.tensor(flow), tissue)) - tissue.vessel_air_mmhg
    expected = tissue.r1_oxygen_per_s_mmhg * ((1 - blood) * rise + blood * in_vessels)
    assert float(properties.dr1) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_tissue_that_takes_up_nothing_changes_only_by_its_blood():
    tissue = MrTissue(**PLAIN)
    properties = made(voxels([Tissue.TUMOUR]), po2=1.0, rise=0.0)
    assert torch.equal(properties.r2star, properties.r2star_oxygen)
    assert float(properties.dr1) == pytest.approx(
        tissue.r1_oxygen_per_s_mmhg * tissue.tumour_blood_volume * 140.0, rel=1e-5
    )


def test_pressure_under_oxygen_never_rises_by_more_than_that_of_arteries():
    tissue = MrTissue()
    pressure = vessel_pressure_under_oxygen(torch.linspace(0, 2000, 200), tissue)
    assert bool((torch.diff(pressure) >= 0).all())
    assert float(pressure.max()) == tissue.vessel_air_mmhg + 400.0


def test_oxygen_raises_saturation_by_what_is_dissolved_and_never_above_one():
    tissue = MrTissue()
    y = torch.linspace(0, 1, 50)
    full = saturation_under_oxygen(y, torch.ones(50), tissue)
    assert torch.allclose((full - y)[:40], torch.tensor(400 * 1.55e-4), atol=1e-6)
    assert float(full.max()) == 1.0
    assert torch.equal(saturation_under_oxygen(y, torch.zeros(50), tissue), y)


def test_blood_is_less_saturated_where_tissue_has_less_oxygen():
    saturation = blood_saturation(torch.tensor([1.0, 10.0, 40.0]), MrTissue())
    assert bool((torch.diff(saturation) > 0).all())
    assert float(saturation[-1]) == pytest.approx(0.7495, abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(radius=st.floats(20, 150), flow=st.floats(1, 300), viable=st.floats(0.01, 1))
def test_ktrans_is_flow_times_extraction_and_below_both_flow_and_permeability(radius, flow, viable):
    p = made(voxels([Tissue.TUMOUR]), radius_um=radius, flow=flow, viable=viable)
    plasma, ps = float(p.flow) / 100, float(p.ps)
    assert float(p.ktrans) == pytest.approx(plasma * ps / (plasma + ps), rel=1e-5)
    assert float(p.ktrans) <= min(plasma, ps) * (1 + 1e-6)


def test_ktrans_is_the_flow_of_plasma_when_vessels_leak_freely():
    p = made(voxels([Tissue.TUMOUR]), tissue=MrTissue(**PLAIN, permeability_um_per_s=100.0), radius_um=20.0, flow=10.0)
    assert float(p.ktrans) == pytest.approx(0.1 * (1 - 0.42), rel=0.01)


def test_surface_of_vessels_halves_when_their_distance_grows_by_the_root_of_two():
    near = made(voxels([Tissue.TUMOUR]), radius_um=50.0)
    far = made(voxels([Tissue.TUMOUR]), radius_um=50.0 * math.sqrt(2))
    assert float(near.ps / far.ps) == pytest.approx(2.0, rel=1e-5)
    assert float(near.ps) == pytest.approx(60 * 2.5 * 2 * 5 / 50**2, rel=1e-5)


def test_necrosis_diffuses_more_holds_more_and_is_reached_less():
    alive, half, dead = (made(voxels([Tissue.TUMOUR]), viable=v) for v in (1.0, 0.5, 0.0))
    for name, rises in (("d", True), ("ve", True), ("ktrans", False), ("vp", False), ("r1", False), ("f", False)):
        values = [float(getattr(p, name)) for p in (alive, half, dead)]
        assert values == sorted(values, reverse=not rises), name
        assert values[0] != values[2], name
    assert float(dead.ktrans) == 0.0


def test_ordinary_tissue_has_the_published_values_at_3_t():
    p = made(voxels(ALL))
    assert 1 / at(p, "r1", Tissue.MUSCLE) == pytest.approx(0.898, rel=1e-5)
    assert 1 / at(p, "r1", Tissue.FAT) == pytest.approx(0.382, rel=1e-5)
    assert 1 / at(p, "r2", Tissue.MUSCLE) == pytest.approx(0.029, rel=1e-5)
    assert at(p, "d", Tissue.MUSCLE) == pytest.approx(1.46)
    assert at(p, "d", Tissue.CORD) == pytest.approx(0.83)
    assert at(p, "vp", Tissue.ARTERY) == pytest.approx(0.58)
    assert at(p, "ktrans", Tissue.ARTERY) == at(p, "ktrans", Tissue.CORD) == 0.0


def test_airway_and_outside_give_no_signal_and_no_nan():
    p = made(voxels(ALL))
    for which in (Tissue.OUTSIDE, Tissue.AIRWAY):
        assert at(p, "proton_density", which) == 0.0
        assert at(p, "dr1", which) == 0.0
    assert all(bool(torch.isfinite(getattr(p, name)).all()) for name in p.__slots__)


def test_t1_is_a_fifth_longer_at_3_t_than_at_1_5_t_and_r2prime_twice_as_large():
    high, low = (made(voxels(ALL), tissue=MrTissue(**PLAIN, field_t=b)) for b in (3.0, 1.5))
    assert torch.allclose(low.r1[1:4] / high.r1[1:4], torch.tensor(1.21), rtol=1e-3)
    assert torch.equal(high.r2, low.r2)
    body = high.proton_density > 0
    assert torch.allclose((high.r2star - high.r2)[body], 2 * (low.r2star - low.r2)[body], rtol=1e-4)


def test_tumours_lie_inside_published_ranges():
    anatomy = neck()
    inside = {"d": [], "f": [], "t2star": [], "ktrans": [], "ve": [], "dt1": []}
    for seed in range(60):
        p = neck_properties(anatomy, seed=seed)
        tumour = anatomy.tumour
        inside["d"].append(float(p.d[tumour].median()))
        inside["f"].append(float(p.f[tumour].median()))
        inside["t2star"].append(1000 * float((1 / p.r2star[tumour]).median()))
        inside["ktrans"].append(float(p.ktrans[tumour].median()))
        inside["ve"].append(float(p.ve[tumour].median()))
        inside["dt1"].append(100 * float((p.r1 / (p.r1 + p.dr1) - 1)[tumour].median()))
        assert 10 < float(p.r2star[tumour].min()) <= float(p.r2star[tumour].max()) < 120
    medians = {name: float(np.median(values)) for name, values in inside.items()}
    # D 0.82 (0.17) and f 0.15 (0.04): PMC7965088. T2* 15 (5) to 18 (3) ms: Wiedenmann 2018.
    assert medians["d"] == pytest.approx(0.82, abs=0.06)
    assert np.std(inside["d"]) == pytest.approx(0.17, abs=0.06)
    assert medians["f"] == pytest.approx(0.15, abs=0.03)
    assert 14 < medians["t2star"] < 19
    assert all(0.05 < value < 1.0 for value in inside["ktrans"])
    assert all(0.1 < value < 0.7 for value in inside["ve"])
    # Primary tumours: median -3.5 % (-7.0 to -0.3), McCabe 2024.
    assert all(-7.0 < value < -0.3 for value in inside["dt1"])


def test_hypoxic_tumour_has_a_shorter_t2star_and_answers_less_to_oxygen():
    anatomy = neck()
    tissue = replace(MrTissue(), **PLAIN)
    p = neck_properties(anatomy, tissue=tissue)
    deep, rim = anatomy.tumour & (anatomy.depth_mm > 8), anatomy.tumour & (anatomy.depth_mm < 3)
    assert float(p.r2star[deep].mean()) > float(p.r2star[rim].mean())
    assert float(p.dr1[deep].mean()) < 0.7 * float(p.dr1[rim].mean())
    assert float(p.ktrans[deep].mean()) < float(p.ktrans[rim].mean())


def test_the_same_stream_makes_the_same_patient_and_another_one_another():
    anatomy = neck()
    one, again, other = (neck_properties(anatomy, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.d, again.d)
    assert not torch.equal(one.d, other.d)


def test_factors_of_patients_have_median_one_and_their_spread():
    tissue = MrTissue()
    factors = np.log([draw_patient(tissue, np.random.default_rng(n)).permeability for n in range(4000)])
    assert np.median(factors) == pytest.approx(0.0, abs=0.03)
    assert factors.std() == pytest.approx(tissue.permeability_spread, rel=0.05)


@pytest.mark.parametrize("kind", [MrTissue, MrProtocol, MrScanner])
def test_every_number_has_a_unit_a_meaning_and_a_source(kind):
    rows = list(described(kind()))
    assert len(rows) > 20
    for row in rows:
        assert row.unit, row.name
        assert row.meaning, row.name
        assert row.source, row.name


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (MrTissue, {"tumour_d": -1.0}, "tumour_d=-1"),
        (MrTissue, {"t1_s": (1.0, 2.0)}, "t1_s of the phantom has 2 values; give 8"),
        (MrTissue, {"vessel_oxygen_mmhg": 30.0}, "vessel_oxygen_mmhg=30 of the phantom must exceed vessel_air_mmhg=40"),
        (MrTissue, {"field_t": math.nan}, "field_t=nan"),
        (MrProtocol, {"flips_deg": (5.0, 5.0)}, "flips_deg"),
        (MrProtocol, {"adc_b_values": (800.0,)}, "adc_b_values"),
        (MrProtocol, {"contrast_model": "patlak"}, "choose extended-tofts or 2cxm"),
        (MrProtocol, {"bolus_s": 2.0}, "bolus_s=2 .* move it or take more volumes"),
        (MrProtocol, {"spoiled_te_s": 0.01}, "spoiled_te_s=0.01 .* spoiled_tr_s=0.005"),
        (MrProtocol, {"echo_tr_s": 0.02}, "echo_times_s, 0.0276 s, .* echo_tr_s=0.02"),
        (MrProtocol, {"air_volumes": 2}, "air_volumes=2"),
        (MrScanner, {"voxel_mm": (2.0, 2.0)}, "voxel_mm of the phantom has 2 values"),
        (MrScanner, {"snr_echoes": 0.0}, "snr_echoes=0"),
        (MrScanner, {"misregistration_mm": 3.0}, "largest_misregistration_mm=2 .* misregistration_mm=3"),
    ],
)
def test_impossible_parameters_are_refused_by_name(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        kind(**values)
