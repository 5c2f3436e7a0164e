"""Headers of a PET series to SUV: each way by which scanners write it, and each refusal with its remedy."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from hypoxnet.dicom.clock import combined
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.suv import PatientTable, decide_suv
from hypoxnet.maps.suv import mean_decay_time_s

HALF_LIFE_S = 6586.2
DOSE_BQ = 370e6
WEIGHT_KG = 75.0
AT_INJECTION = WEIGHT_KG * 1000.0 / DOSE_BQ
PHILIPS_SUV, PHILIPS_ACTIVITY = (0x7053, 0x1000), (0x7053, 0x1009)
GE_SCAN, GE_INJECTION = (0x0009, 0x100D), (0x0009, 0x103B)
DRUG = {
    "RadionuclideTotalDose": DOSE_BQ,
    "RadionuclideHalfLife": HALF_LIFE_S,
    "RadiopharmaceuticalStartTime": "080000",
    "RadiopharmaceuticalStartDateTime": "20240102080000",
}


def filled(dataset: Dataset, values: dict) -> Dataset:
    """None leaves an element out; pairs are private tags."""
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(key, tuple):
            dataset.add_new(key, "LO", value)
        else:
            setattr(dataset, key, value)
    return dataset


def pet(**changes) -> Dataset:
    """Injected at 8:00, scanned at 10:30, 150 minutes later; lower case names are of the radiopharmaceutical."""
    drug = filled(Dataset(), DRUG | changes.pop("drug", {}))
    nuclide = changes.pop("nuclide", "^18^Fluorine")
    if nuclide:
        drug.RadionuclideCodeSequence = [filled(Dataset(), {"CodeMeaning": nuclide})]
    plain = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "PatientWeight": WEIGHT_KG,
        "PatientSize": 1.85,
        "PatientSex": "M",
        "SeriesDate": "20240102",
        "SeriesTime": "103000",
        "AcquisitionDate": "20240102",
        "AcquisitionTime": "103000",
        "FrameReferenceTime": 593686,
        "ActualFrameDuration": 1200000,
        "RadiopharmaceuticalInformationSequence": [drug],
    }
    private = changes.pop("private", {})
    return filled(Dataset(), plain | changes | private)


def factor_of(*slices: Dataset, **given) -> float:
    return decide_suv(slices, given=PatientTable(**given)).factors[0]


def decayed(seconds: float, half_life_s: float = HALF_LIFE_S) -> float:
    """Factor when the voxels are given for so many seconds after the injection."""
    return AT_INJECTION * 2 ** (seconds / half_life_s)


def refusal(*slices: Dataset, **given) -> str:
    with pytest.raises(DicomError) as caught:
        decide_suv(slices, given=PatientTable(**given))
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


def test_worked_example_of_150_minutes():
    decision = decide_suv([pet()])
    assert 8000 * decision.factors[0] == pytest.approx(4.18124, rel=1e-5)
    assert decision.values["InjectionToReferenceS"] == 9000
    assert pytest.approx(143.498e6, rel=1e-5) == DOSE_BQ * 2 ** (-9000 / HALF_LIFE_S)
    assert "9000.000 s" in decision.steps[-1]


@pytest.mark.parametrize(("kind", "suv"), [("LBMJANMA", 3.39602), ("BSA", 1.10461)])
def test_suv_by_another_size_returns_to_body_weight(kind, suv):
    unit = "CM2ML" if kind == "BSA" else "GML"
    assert suv * factor_of(pet(Units=unit, SUVType=kind)) == pytest.approx(4.18124, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "sex", "mass_kg"),
    [
        ("LBM", "M", 62.77757487),
        ("LBM", "F", 55.92567568),
        ("LBMJANMA", "M", 60.91533589),
        ("LBMJANMA", "F", 49.21437997),
        ("LBMJAMES128", "M", 1.10 * 75 - 128 * (75 / 185) ** 2),
        ("IBW", "M", 48.0 + 1.06 * 33.0),
        ("IBW", "F", 45.5 + 0.91 * 33.0),
    ],
)
def test_lean_and_ideal_mass_of_each_type(kind, sex, mass_kg):
    assert factor_of(pet(Units="GML", SUVType=kind, PatientSex=sex)) == pytest.approx(75.0 / mass_kg, rel=1e-8)


@pytest.mark.parametrize("kind", ["BW", None])
def test_gml_by_body_weight_is_left_as_it_is(kind):
    """Neither dose nor weight are needed."""
    series = pet(Units="GML", SUVType=kind, PatientWeight=None, RadiopharmaceuticalInformationSequence=None)
    assert factor_of(series) == 1.0


def test_cm2ml_without_type_is_by_surface():
    assert factor_of(pet(Units="CM2ML")) == pytest.approx(75000 / 19813.75843, rel=1e-6)


def test_unknown_suv_type_is_refused():
    assert "SUV Type (0054,1006) is XYZ; known are BW, BSA, LBM" in refusal(pet(Units="GML", SUVType="XYZ"))


def test_lean_mass_below_zero_is_refused():
    heavy = pet(Units="GML", SUVType="LBM", PatientWeight=200.0, PatientSize=1.5, PatientSex="F")
    assert "out of its range" in refusal(heavy)


def test_decay_corrected_to_administration_takes_the_whole_dose():
    assert factor_of(pet(DecayCorrection="ADMIN")) == pytest.approx(AT_INJECTION, rel=1e-12)


def test_uncorrected_slices_are_given_for_their_mean_time_of_decay():
    decision = decide_suv([pet(DecayCorrection="NONE"), pet(DecayCorrection="NONE", AcquisitionTime="105000")])
    assert mean_decay_time_s(1200.0, HALF_LIFE_S) == pytest.approx(593.686, abs=1e-3)
    assert decision.factors == pytest.approx([decayed(9000 + 593.686), decayed(10200 + 593.686)], rel=1e-7)


@pytest.mark.parametrize("correction", [None, "OTHER"])
def test_unknown_decay_correction_is_refused(correction):
    assert "must be START, ADMIN or NONE" in refusal(pet(DecayCorrection=correction))


def test_series_time_before_all_slices_is_the_reference():
    slices = [pet(AcquisitionTime=time) for time in ("103500", "103000", "104000")]
    assert decide_suv(slices).factors == pytest.approx([decayed(9000)] * 3, rel=1e-12)


def test_late_series_time_is_replaced_by_what_the_frame_times_give():
    """A secondary series, written at noon: acquisition less reference time plus mean time of decay is the start."""
    slices = [
        pet(SeriesTime="120000"),
        pet(SeriesTime="120000", AcquisitionTime="105000", FrameReferenceTime=1793686),
    ]
    decision = decide_suv(slices)
    assert decision.factors == pytest.approx([decayed(9000)] * 2, rel=1e-6)
    assert any("computed back" in step for step in decision.steps)


def test_late_series_time_and_no_frame_reference_is_the_first_acquisition():
    slices = [pet(SeriesTime="120000", AcquisitionTime=t, FrameReferenceTime=0) for t in ("105000", "103000")]
    assert decide_suv(slices).factors == pytest.approx([decayed(9000)] * 2, rel=1e-12)


@pytest.mark.parametrize("written", ["20240102102500.00", b"20240102102500.00 "])
def test_late_series_time_gives_way_to_the_scan_time_of_ge(written):
    series = pet(SeriesTime="120000")
    series.add_new(GE_SCAN, "UN" if isinstance(written, bytes) else "DT", written)
    assert factor_of(series) == pytest.approx(decayed(8700), rel=1e-12)


def test_injection_time_of_ge_is_the_last_resort():
    nothing = {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": None}
    series = pet(drug=nothing, private={GE_INJECTION: "20240102080000.00"})
    assert factor_of(series) == pytest.approx(decayed(9000), rel=1e-12)


@pytest.mark.parametrize("missing", ["FrameReferenceTime", "ActualFrameDuration"])
def test_late_series_time_without_frame_times_is_refused(missing):
    assert missing in refusal(pet(SeriesTime="120000", **{missing: None}))


def test_missing_series_time_is_computed_back():
    assert factor_of(pet(SeriesTime=None)) == pytest.approx(decayed(9000), rel=1e-6)


def test_counts_with_the_suv_factor_of_philips():
    decision = decide_suv([pet(Units="CNTS", PatientWeight=None, private={PHILIPS_SUV: "0.000551"})])
    assert decision.factors == (0.000551,)


def test_counts_with_the_activity_factor_of_philips():
    series = pet(Units="CNTS", DecayCorrection="ADMIN", private={PHILIPS_SUV: "0", PHILIPS_ACTIVITY: "1.602563"})
    assert factor_of(series) == pytest.approx(1.602563 * AT_INJECTION, rel=1e-12)


def test_counts_with_a_factor_per_slice():
    slices = [pet(Units="CNTS", private={PHILIPS_SUV: value}) for value in ("0.001", "0.002")]
    assert decide_suv(slices).factors == (0.001, 0.002)


@pytest.mark.parametrize("private", [{}, {PHILIPS_SUV: "0"}, {PHILIPS_SUV: "x", PHILIPS_ACTIVITY: "0"}])
def test_counts_without_private_factors_are_refused(private):
    text = refusal(pet(Units="CNTS", private=private))
    assert "(7053,1000)" in text
    assert "export again with these private tags" in text


def test_proportional_counts_are_refused():
    assert "reconstruct in BQML" in refusal(pet(Units="PROPCPS"))


@pytest.mark.parametrize(("unit", "said"), [("CPS", "CPS"), (None, "missing")])
def test_unknown_unit_is_refused(unit, said):
    assert f"is {said}; SUV needs BQML, CNTS, GML or CM2ML" in refusal(pet(Units=unit))


def test_two_units_in_one_series_are_refused():
    assert "Units differs between slices (BQML, CNTS)" in refusal(pet(), pet(Units="CNTS"))


@pytest.mark.parametrize("unit", ["BQML", "CNTS", "GML"])
def test_series_without_attenuation_correction_is_refused(unit):
    series = pet(Units=unit, CorrectedImage=["DECY", "SCAT"], private={PHILIPS_SUV: "0.001"})
    assert "DECY, SCAT, without ATTN" in refusal(series)
    assert "choose the corrected series" in refusal(series)


def test_unsaid_corrections_are_assumed_and_noted():
    decision = decide_suv([pet(CorrectedImage=None)])
    assert decision.steps[0] == "CorrectedImage is missing: attenuation correction is assumed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drug": {"RadionuclideTotalDose": None}}, "dose (0018,1074) is missing"),
        ({"drug": {"RadionuclideTotalDose": 0}}, "dose (0018,1074) is 0"),
        ({"drug": {"RadionuclideTotalDose": -1.0}}, "dose (0018,1074) is -1"),
        ({"RadiopharmaceuticalInformationSequence": None}, "(0054,0016) is missing"),
        ({"RadiopharmaceuticalInformationSequence": []}, "(0054,0016) is missing"),
        (
            {"drug": {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": None}},
            "(0018,1078 and 0018,1072)",
        ),
        ({"PatientWeight": None}, "weight (0010,1030) is missing; give it in the patient table"),
        ({"PatientWeight": 0}, "weight (0010,1030) is missing; give it in the patient table"),
        ({"PatientWeight": 75000}, "give weight in kg"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSize": None}, "height (0010,1020) is missing; give it"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSex": None}, "sex (0010,0040) is missing; give M or F"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSex": "O"}, "sex (0010,0040) is O; give M or F"),
        ({"drug": {"RadionuclideHalfLife": None}, "nuclide": None}, "half-life (0018,1075) is missing"),
        ({"drug": {"RadionuclideHalfLife": 109.77}}, "is 109.77 s, that of ^18^Fluorine is 6586.2 s; mend"),
        ({"AcquisitionTime": None, "SeriesTime": None}, "neither AcquisitionTime (0008,0032) nor SeriesTime"),
    ],
)
def test_refusal_names_what_is_missing(changes, said):
    assert said in refusal(pet(**changes))


def test_no_slice_is_refused():
    assert refusal() == "the PET series has no slice"


def test_half_life_of_the_nuclide_fills_a_gap():
    assert factor_of(pet(drug={"RadionuclideHalfLife": None})) == pytest.approx(decayed(9000), rel=1e-12)


@pytest.mark.parametrize(("nuclide", "half_life_s"), [("^60^Copper", 1422.0), ("^15^Oxygen", 122.24), (None, 6600.0)])
def test_half_life_of_another_nuclide_is_taken_from_the_header(nuclide, half_life_s):
    """Cu-60 is no Cu-64."""
    times = {"RadiopharmaceuticalStartTime": "102900", "RadiopharmaceuticalStartDateTime": None}
    series = pet(nuclide=nuclide, drug={"RadionuclideHalfLife": half_life_s, **times})
    assert factor_of(series) == pytest.approx(decayed(60.0, half_life_s), rel=1e-9)


@pytest.mark.parametrize("meaning", ["^18^Fluorine", "F-18", "18F", "Fluorine^18^", "F^18^", "Fluorine-18", "FLUORINE"])
def test_fluorine_is_known_by_all_its_names(meaning):
    assert "that of" in refusal(pet(nuclide=meaning, drug={"RadionuclideHalfLife": 4062.0}))


def test_dose_in_mbq_is_recognised():
    decision = decide_suv([pet(drug={"RadionuclideTotalDose": 370.0})])
    assert decision.factors[0] == pytest.approx(decayed(9000), rel=1e-12)
    assert any("read as MBq" in step for step in decision.steps)


def test_height_in_cm_is_recognised():
    metres, centimetres = (pet(Units="GML", SUVType="LBM", PatientSize=size) for size in (1.85, 185))
    assert factor_of(metres) == pytest.approx(factor_of(centimetres), rel=1e-12)
    assert any("read as cm" in step for step in decide_suv([centimetres]).steps)


@pytest.mark.parametrize(
    "drug",
    [
        {"RadiopharmaceuticalStartDateTime": None},
        {"RadiopharmaceuticalStartTime": None},
        {"RadiopharmaceuticalStartDateTime": "20240102"},
        {"RadiopharmaceuticalStartDateTime": "20240102080000.000000+0100"},
    ],
)
def test_time_alone_and_date_time_alone_agree(drug):
    assert factor_of(pet(drug=drug)) == pytest.approx(decayed(9000), rel=1e-12)


def test_times_with_colons_and_dates_with_dots_are_read():
    assert combined("2024.01.02", "08:00:00.5") == combined("20240102", "080000.500000")


def test_injection_before_midnight():
    times = {"SeriesTime": "010000", "AcquisitionTime": "010000"}
    drug = {"RadiopharmaceuticalStartDateTime": None, "RadiopharmaceuticalStartTime": "230000"}
    decision = decide_suv([pet(**times, drug=drug)])
    assert decision.factors[0] == pytest.approx(decayed(7200), rel=1e-12)
    assert "the injection was before midnight, a day was taken off" in decision.steps


@pytest.mark.parametrize("date", ["19000101", "20231230", "20240301"])
def test_whole_days_of_deidentified_dates_are_dropped(date):
    decision = decide_suv([pet(drug={"RadiopharmaceuticalStartDateTime": f"{date}080000"})])
    assert decision.factors[0] == pytest.approx(decayed(9000), rel=1e-12)
    assert any("whole days apart, these were dropped" in step for step in decision.steps)


def test_scan_after_more_than_ten_half_lives_is_refused():
    series = pet(drug={"RadiopharmaceuticalStartDateTime": "20240101120000"})
    assert "81000 s after the injection, more than ten half-lives of 6586.2 s; check both" in refusal(series)


def test_slice_before_the_injection_is_refused():
    """Without a date of its own, a slice after midnight would lie a day early, with a hundredth of its SUV."""
    times = {"DecayCorrection": "NONE", "AcquisitionDate": None}
    slices = [pet(AcquisitionTime=time, **times) for time in ("235000", "001000")]
    injected = "20240102220000"
    for one in slices:
        one.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = injected
    assert "before the injection" in refusal(*slices)


def test_patient_table_goes_before_the_headers():
    assert factor_of(pet(), weight_kg=150.0) == pytest.approx(2 * decayed(9000), rel=1e-12)
    lean = pet(Units="GML", SUVType="LBM", PatientWeight=60, PatientSize=1.5, PatientSex="F")
    given = factor_of(lean, weight_kg=75.0, height_cm=185.0, sex="M")
    assert given == pytest.approx(75 / 62.77757487, rel=1e-8)
    assert factor_of(pet(PatientWeight=None), weight_kg=75.0) == pytest.approx(decayed(9000), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SeriesTime": "120000", "FrameReferenceTime": "1e300"}, "cannot compute its SUV"),
        (
            {"SeriesTime": "120000", "ActualFrameDuration": 2**31 - 1, "drug": {"RadionuclideHalfLife": "1e-300"}},
            "more than ten half-lives of 1e-300 s",
        ),
        (
            {
                **dict.fromkeys(("SeriesDate", "AcquisitionDate"), "00010101"),
                "drug": {"RadiopharmaceuticalStartDateTime": None, "RadiopharmaceuticalStartTime": "235900"},
            },
            "the time of injection is missing",
        ),
    ],
)
def test_absurd_times_are_refused_in_one_sentence(changes, said):
    assert said in refusal(pet(**changes, nuclide=None))
