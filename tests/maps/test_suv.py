import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from hypoxnet.errors import MapError
from hypoxnet.maps.suv import (
    HALF_LIFE_S,
    Body,
    Injection,
    SuvKind,
    body_surface_cm2,
    decay_factor,
    frame_decay_correction,
    ideal_body_weight_devine_kg,
    ideal_body_weight_sugawara_kg,
    lean_body_mass_james_kg,
    lean_body_mass_janmahasatian_kg,
    mean_decay_time_s,
    suv_factor,
)

F18 = HALF_LIFE_S["F-18"]
MAN = Body(75.0, 185.0, "M")


def injection(**changes) -> Injection:
    return Injection(**{"dose_bq": 370e6, "half_life_s": F18, "injected_s": 0.0, "reference_s": 9000.0, **changes})


def printed(value: float, digits: int):
    """Equal to the printed number, half of its last digit allowed."""
    return pytest.approx(value, abs=0.5001 * 10.0**-digits)


# Body sizes of 75 kg and 1.85 m: unit tests of cornerstonejs/calculate-suv.
@pytest.mark.parametrize(("sex", "kg"), [("M", 62.77757487), ("F", 55.92567568)])
def test_lean_mass_after_james_matches_published_values(sex, kg):
    assert lean_body_mass_james_kg(75.0, 185.0, sex=sex) == printed(kg, 8)


@pytest.mark.parametrize(("sex", "kg"), [("M", 60.91533589), ("F", 49.21437997)])
def test_lean_mass_after_janmahasatian_matches_published_values(sex, kg):
    assert lean_body_mass_janmahasatian_kg(75.0, 185.0, sex=sex) == printed(kg, 8)


def test_surface_after_du_bois_matches_published_value():
    assert body_surface_cm2(75.0, 185.0) / 1e4 == printed(1.981375843, 9)


# The published doses of 100 Bq are taken times a million, as 100 Bq are refused.
@pytest.mark.parametrize(("kind", "factor"), [(SuvKind.BODY_WEIGHT, 750.0), (SuvKind.SURFACE, 198.1375843)])
def test_factors_match_published_values(kind, factor):
    assert suv_factor(kind, MAN, injection(dose_bq=100e6, reference_s=0.0)) * 1e6 == printed(factor, 7)


def test_counts_with_an_activity_scale_match_the_published_philips_factor():
    activity_per_count = 1.602563
    shot = injection(dose_bq=100e6, reference_s=0.0)
    assert activity_per_count * suv_factor(SuvKind.BODY_WEIGHT, Body(100.0), shot) * 1e6 == printed(1602.563, 3)


def test_dose_after_150_minutes_of_f18():
    assert decay_factor(150 * 60.0, F18) == printed(0.3878327, 7)
    assert injection().dose_at_reference_bq() / 1e6 == printed(143.498, 3)


@pytest.mark.parametrize(
    ("kind", "suv"),
    [(SuvKind.BODY_WEIGHT, 4.18124), (SuvKind.LEAN_JANMAHASATIAN, 3.39602), (SuvKind.SURFACE, 1.10461)],
)
def test_suv_of_8000_bq_per_ml(kind, suv):
    assert 8000.0 * suv_factor(kind, MAN, injection()) == printed(suv, 5)


def test_mean_decay_time_of_a_20_minute_frame():
    assert mean_decay_time_s(1200.0, F18) == printed(593.686, 3)


@given(st.floats(0.0, 1e5), st.floats(60.0, 1e5))
def test_mean_decay_time_lies_in_the_first_half_of_the_frame(duration, half_life):
    time = mean_decay_time_s(duration, half_life)
    assert 0 <= time <= duration / 2


def test_mean_decay_time_is_smooth_where_the_series_takes_over():
    rate = math.log(2.0) / F18
    below, above = (mean_decay_time_s(passed / rate, F18) * rate / passed for passed in (0.999e-3, 1.001e-3))
    assert below - above == pytest.approx(2e-6 / 24, rel=1e-3)


def test_corrected_mean_of_a_frame_is_the_activity_at_the_reference():
    rate = math.log(2.0) / F18
    mean = integrate.quad(lambda t: math.exp(-rate * t), 9000.0, 10200.0)[0] / 1200.0
    assert mean * frame_decay_correction(9000.0, 1200.0, half_life_s=F18) == pytest.approx(1.0, rel=1e-12)
    to_start = frame_decay_correction(9000.0, 1200.0, half_life_s=F18, reference_s=9000.0)
    assert mean * to_start == pytest.approx(decay_factor(9000.0, F18), rel=1e-12)


@given(st.floats(0.0, 4e4))
def test_suv_does_not_depend_on_the_reference_time(reference):
    activity = 3000.0 * decay_factor(reference, F18)
    suv = activity * suv_factor(SuvKind.BODY_WEIGHT, MAN, injection(reference_s=reference))
    assert suv == pytest.approx(3000.0 * 75e3 / 370e6, rel=1e-12)


def test_james_with_128_is_lighter_for_men_and_the_same_for_women():
    for sex, apart in (("M", 8.0 * (75.0 / 185.0) ** 2), ("F", 0.0)):
        body = Body(75.0, 185.0, sex)
        kinds = (SuvKind.LEAN_JAMES, SuvKind.LEAN_JAMES128)
        grams = [suv_factor(kind, body, injection()) * injection().dose_at_reference_bq() for kind in kinds]
        assert grams[0] - grams[1] == pytest.approx(1000.0 * apart, abs=1e-6)


@pytest.mark.parametrize(("sex", "dicom", "devine"), [("M", 48.0, 50.0), ("F", 45.5, 45.5)])
def test_ideal_weights_start_at_five_feet(sex, dicom, devine):
    assert ideal_body_weight_sugawara_kg(152.0, sex=sex) == dicom
    assert ideal_body_weight_devine_kg(152.4, sex=sex) == pytest.approx(devine)
    assert ideal_body_weight_devine_kg(154.94, sex=sex) == pytest.approx(devine + 2.3)


def test_suv_by_ideal_weight_is_that_of_dicom():
    grams = suv_factor(SuvKind.IDEAL, MAN, injection()) * injection().dose_at_reference_bq()
    assert grams == pytest.approx(1000.0 * (48.0 + 1.06 * 33.0))


def test_kinds_know_their_unit_and_dicom_type():
    assert {kind.unit for kind in SuvKind if kind is not SuvKind.SURFACE} == {"g/ml"}
    assert SuvKind("bsa").unit == "cm2/ml"
    assert [kind.dicom_type for kind in SuvKind] == ["BW", "LBMJANMA", "LBMJAMES128", "LBM", "IBW", "BSA"]


def test_dose_in_mbq_is_refused():
    with pytest.raises(MapError, match=r"dose 370 Bq looks like MBq.*give it in Bq"):
        injection(dose_bq=370.0)


def test_dose_that_is_nan_is_refused():
    with pytest.raises(MapError, match="dose nan"):
        injection(dose_bq=math.nan)


def test_reference_before_injection_is_refused():
    with pytest.raises(MapError, match=r"reference time \(0 s\) is 3600 s before the injection \(3600 s\)"):
        injection(injected_s=3600.0, reference_s=0.0)


def test_reference_a_day_off_is_refused():
    with pytest.raises(MapError, match=r"95400 s after the injection.*check the dates"):
        injection(reference_s=9000.0 + 86400.0)


def test_half_life_of_another_nuclide_is_refused():
    with pytest.raises(MapError, match=r"half-life of 4062\.6 s differs by more than 1% from the 6586\.2 s of F-18"):
        injection(half_life_s=4062.6)
    assert injection(half_life_s=4062.6, nuclide="Ga-68").half_life_s == 4062.6


def test_half_life_in_minutes_is_refused():
    with pytest.raises(MapError, match=r"109\.77 s differs"):
        injection(half_life_s=109.77)


def test_half_lives_that_scanners_round_are_taken():
    for nuclide, seconds in (("F-18", 6588.0), ("F-18", 6586.2), ("C-11", 1224.0), ("Ga-68", 4080.0), ("Cu-64", 45724)):
        assert injection(half_life_s=seconds, nuclide=nuclide, reference_s=0.0).nuclide == nuclide


def test_unknown_nuclide_is_refused_and_none_leaves_the_check_out():
    with pytest.raises(MapError, match=r"'F18' is not among F-18"):
        injection(nuclide="F18")
    assert injection(half_life_s=1e5, nuclide=None).half_life_s == 1e5
    with pytest.raises(MapError, match="not positive"):
        injection(half_life_s=0.0, nuclide=None)


def test_height_in_metres_is_refused():
    with pytest.raises(MapError, match=r"give height in cm, 1\.85 looks like metres"):
        Body(75.0, 1.85, "M")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((0.075,), "weight of 0.075 kg is outside 2 to 400 kg"),
        ((math.nan,), "weight of nan kg"),
        ((75.0, 1850.0), "1850 is outside 30 to 250 cm"),
        ((75.0, 185.0, "O"), "sex is 'O'"),
    ],
)
def test_implausible_bodies_are_refused(values, sentence):
    with pytest.raises(MapError, match=sentence):
        Body(*values)


@pytest.mark.parametrize("kind", [kind for kind in SuvKind if kind is not SuvKind.BODY_WEIGHT])
def test_missing_height_is_named(kind):
    with pytest.raises(MapError, match=f"SUV {kind.value} needs the height"):
        suv_factor(kind, Body(75.0, sex="M"), injection())


@pytest.mark.parametrize("kind", ["lbm", "lbmjames", "lbmjames128", "ibw"])
def test_missing_sex_is_named(kind):
    with pytest.raises(MapError, match=f"SUV {kind} needs the sex"):
        suv_factor(SuvKind(kind), Body(75.0, 185.0), injection())


def test_weight_and_surface_need_no_sex():
    assert suv_factor(SuvKind.BODY_WEIGHT, Body(75.0), injection()) > 0
    assert suv_factor(SuvKind.SURFACE, Body(75.0, 185.0), injection()) > 0


def test_james_refuses_the_very_obese_where_its_mass_is_negative():
    with pytest.raises(MapError, match=r"lbmjames: the formula gives -.* use bw or lbm"):
        suv_factor(SuvKind.LEAN_JAMES, Body(300.0, 160.0, "M"), injection())
