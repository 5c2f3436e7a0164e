"""Which series becomes which channel, which region which mask, and what a file of rules may contain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypoxnet.dicom.headers import Header
from hypoxnet.dicom.index import SeriesEntry
from hypoxnet.dicom.places import Place
from hypoxnet.dicom.rules import default_rules, read_rules
from hypoxnet.dicom.rules_file import RulesError
from hypoxnet.dicom.stacks import Stack
from hypoxnet.dicom.tracers import recognise_tracer, tracer_of
from hypoxnet.quantities import TRACERS

RULES = default_rules()


def series(uid: str = "1", *, moments: int = 1, slices: int = 5, volumes: tuple[dict, ...] = ({},), **values):
    """A series of volumes that differ as said, each at several moments."""
    stacks = []
    for number, volume in enumerate(volumes):
        for moment in range(moments):
            first = replace(Header(Place("1"), "1.2", f"{uid}.{number}.{moment}", series_uid=uid), **values, **volume)
            stacks.append(Stack((first,) * slices, split_by="acquisition time" if moments > 1 else "", moment=moment))
    first = stacks[0].first
    description = first.series_description or first.protocol_name
    return SeriesEntry("P1", "study", uid, "1.9", first.modality, description, tuple(stacks))


def pet(uid: str = "1", **values):
    plain = {"modality": "PT", "radiopharmaceutical": "FMISO", "corrected_image": ("DECY", "ATTN")}
    return series(uid, **{**plain, **values})


def mr(description: str, uid: str = "1", **values):
    return series(uid, modality="MR", series_description=description, **values)


def varied(field: str, values: tuple[float, ...]) -> tuple[dict, ...]:
    return tuple({field: (value,)} for value in values)


# As eight scanners write it: radiopharmaceutical, codes, description.
SCANNERS = [
    ("FDG -- fluorodeoxyglucose", (("Y-X1743", "99SDM", "FDG -- fluorodeoxyglucose"),), "PET AC", "FDG"),
    ("Fluorodeoxyglucose", (("C-B1031", "SRT", "Fluorodeoxyglucose F^18^"),), "WB 3D MAC", "FDG"),
    ("FDG (fluorodeoxyglucose)", (("35321007", "SCT", "Fluorodeoxyglucose F^18^"),), "[WB_CTAC] Body", "FDG"),
    ("Fluoromisonidazole", (("422598008", "SCT", "Fluoromisonidazole F^18^"),), "HN PET 3h", "FMISO"),
    ("F-Miso", (("126708", "DCM", "Fluoromisonidazole (FMISO) F^18^"),), "", "FMISO"),
    ("[18F]FAZA", (), "FAZA_2h_AC", "FAZA"),
    ("18F-HX4", (), "Thorax", "HX4"),
    ("Solution", (), "EF5 3h p.i.", "EF5"),
]


@pytest.mark.parametrize(("name", "codes", "description", "expected"), SCANNERS)
def test_tracers_of_eight_scanners(name, codes, description, expected):
    first = pet(radiopharmaceutical=name, radiopharmaceutical_codes=codes, series_description=description).first
    assert tracer_of(first) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18F-FMISO", "FMISO"),
        ("F18-FMISO", "FMISO"),
        ("18F-fluoromisonidazole", "FMISO"),
        ("Fluoroazomycin arabinoside", "FAZA"),
        ("flortanidazole (HX4)", "HX4"),
        ("18FEF5", "EF5"),
        ("F18FDG", "FDG"),
        ("fludeoxyglucose F 18", "FDG"),
        ("FDGal", None),
        ("FET", None),
        ("FETNIM", None),
        ("FLT", None),
        ("Ga-68 PSMA", None),
        ("Flumazenil F^18^", None),
        ("EF50", None),
        ("", None),
    ],
)
def test_names_of_tracers(text, expected):
    assert tracer_of(pet(radiopharmaceutical=text).first) == expected


def test_a_description_is_believed_last_and_said_so():
    found = recognise_tracer(pet(radiopharmaceutical="F-18", series_description="FAZA 2h").first)
    assert found.tracer == "FAZA"
    assert found.why == "only the description names the tracer"
    other = recognise_tracer(pet(radiopharmaceutical="Ga-68 DOTATATE", series_description="after FDG").first)
    assert other.tracer is None


def test_a_hypoxia_tracer_entered_as_fdg_is_not_decided():
    found = recognise_tracer(pet(radiopharmaceutical="FDG", series_description="HN FMISO 3h").first)
    assert found.tracer is None
    assert "says FDG, the description says FMISO" in found.why


@pytest.mark.parametrize("tracer", TRACERS)
def test_static_pet_becomes_the_suv_of_its_tracer(tracer):
    match = RULES.channel_of(pet(radiopharmaceutical=tracer))
    assert (match.channel, match.tracer, match.rule) == (f"{tracer}_SUV", tracer, "static PET")


ECHOES, FLIPS = varied("echo_times_ms", (2.3, 4.6, 6.9, 9.2)), varied("flip_angles_deg", (5.0, 15.0))
FEW_B, MANY_B = (varied("b_values_s_per_mm2", b) for b in ((0.0, 800.0), (0.0, 10.0, 20.0, 50.0, 100.0, 400.0, 800.0)))
MAPPED = [
    (pet(moments=30), "RAW_PET"),
    (pet(moments=3), None),
    (pet(corrected_image=("DECY",)), None),
    (pet(corrected_image=(), series_description="HN NAC"), None),
    (pet(radiopharmaceutical="FLT"), "PET_SUV"),
    (pet(radiopharmaceutical="FDG", series_description="HN FMISO 3h"), None),
    (series(modality="CT", series_description="CT 3.0 B30f"), "CT_HU"),
    (series(modality="CT", series_description="Topogram", slices=1), None),
    (series(modality="RTSTRUCT", series_description="T1"), None),
    (mr("gre multi echo", volumes=ECHOES), "RAW_R2STAR"),
    (mr("VFA fl3d", volumes=FLIPS), "RAW_VFA"),
    (mr("ep2d_diff", volumes=FEW_B), "RAW_ADC"),
    (mr("ep2d_diff", volumes=MANY_B), "RAW_IVIM"),
    (mr("ep2d_diff_ADC", image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND")), "ADC"),
    (mr("dADC", image_type=("DERIVED", "PRIMARY")), "ADC"),
    (mr("eADC", image_type=("DERIVED", "PRIMARY")), None),
    (mr("ep2d_diff_TRACEW", volumes=varied("b_values_s_per_mm2", (800.0,))), None),
    (mr("TIR", volumes=varied("inversion_times_ms", (50.0, 400.0, 2000.0))), "RAW_INVERSION"),
    (mr("t1_twist_dyn", moments=40), "RAW_DCE"),
    (mr("ep2d_bold", moments=40), None),
    (mr("AXIAL SE T1 - RESEARCH"), "T1W"),
    (mr("AXIAL SE T2 FAT SAT - RESEARCH"), "T2WFS"),
    (mr("t1_tse_tra"), "T1W"),
    (mr("t1_tse_tra_+C"), "T1WGD"),
    (mr("t1_vibe_fs_post_GD"), "T1WGD"),
    (mr("T1 KM tra"), "T1WGD"),
    (mr("t1_tse_tra", contrast_agent="Gadovist"), "T1WGD"),
    (mr("t1_tse_pre contrast"), "T1W"),
    (mr("t1_tse_tra", contrast_agent="NONE"), "T1W"),
    (mr("t2_tse_tra"), "T2W"),
    (mr("t2_tse_fs_tra"), "T2WFS"),
    (mr("STIR cor"), "T2WFS"),
    (mr("T2 tse", scan_options=("FS",)), "T2WFS"),
    (mr("T2* gre"), None),
    (mr("T1 map"), None),
    (mr("t1_sub"), None),
    (mr("localizer t1"), None),
    (mr("t2_tse", image_type=("DERIVED", "SECONDARY", "PROJECTION IMAGE")), None),
]


@pytest.mark.parametrize(("entry", "channel"), MAPPED, ids=lambda x: getattr(x, "description", x))
def test_default_rules_for_series(entry, channel):
    match = RULES.channel_of(entry)
    assert (match.channel if match else None) == channel


def test_a_match_says_why_and_scales_the_adc_of_the_scanner():
    match = RULES.channel_of(mr("ADC", image_type=("DERIVED", "PRIMARY", "ADC")))
    assert match.scale == 0.001
    assert match.why == "MR, DERIVED\\PRIMARY\\ADC"


ROIS = {
    "GTVP": "GTV|GTVp|GTV-T|GTVp_70Gy|gtv_mass|GTV primary|GTV_PET|GTV (PET)|GTV 70 Gy|GTV_70|GTVt|GTVnx|Primary Tumor|"
    "Tumour|GTV_final|GTVp1",
    "GTVN": "GTV-N|GTVn_R|GTV_N1|GTVnd|gtv nodal left|GTVln_left|GTV_LN_boost|LN_R_IIa|LN left|Node 1|Nodes_R|"
    "Lymph node R|Lymphknoten links|GTV_neck_node|GTVn1_L",
    "HYPOXIA": "Hypoxia FMISO 1.4|GTV_hypoxia|HSV|HV_1.4|hypoxic volume|HV",
    "MUSCLE": "Muscle|muscle_ref|Neck muscle L",
    "BLOOD": "Aorta|aortic_arch|blood pool|BloodPool",
    "BODY": "BODY|External|Skin|Body outline",
    None: "GTV+1cm|GTV + 5mm|GTVp+n|CTV|CTVp|CTVn|CTV_70|PTV70|PTV_GTVp|PTV hypoxia boost|ITV|GTV_Edema|GTV-HV|"
    "GTV minus hypoxia|nonhypoxic GTV|GTV1|z_GTV_opt|zGTVring|GTV_T_old|elective nodes|node_level_II|Musc_Constrict_S|"
    "Body-PTV|Parotid_L|SpinalCord|SpinalCord_PRV|Mandible|Brainstem|Lens_R|Larynx|Oral_Cavity|Couch|Lunge|Anode|Skin_5mm|",
}
NAMES = [(name, mask) for mask, names in ROIS.items() for name in names.split("|")]


@pytest.mark.parametrize(("name", "mask"), NAMES)
def test_names_of_regions(name, mask):
    assert RULES.mask_of(name) == mask
    assert RULES.mask_of(name.upper()) == mask
    assert RULES.mask_of(f" {name.replace(' ', '_')} ") == mask


def test_pet_that_says_it_is_corrected_wins_over_pet_that_does_not_say():
    said, silent = pet("1"), pet("2", corrected_image=())
    assignment = RULES.assign([silent, said])
    (match,), (conflict,) = assignment.matches, assignment.conflicts
    assert match.series is said
    assert conflict.chosen is match
    assert "corrected for attenuation" in str(conflict)


CHOICES = {"refuse": None, "first": "1", "last": "3", "most_slices": "2"}


@pytest.mark.parametrize("on_conflict", CHOICES)
def test_a_choice_between_series_is_the_files_to_make(on_conflict):
    times = [("1", "20240102100000.000000", 5), ("2", "20240102110000.000000", 9), ("3", "20240102120000.000000", 5)]
    three = [series(uid, modality="CT", series_time=time, slices=slices) for uid, time, slices in times]
    assignment = replace(RULES, on_conflict=on_conflict).assign(three[::-1])
    (conflict,) = assignment.conflicts
    chosen = CHOICES[on_conflict]
    assert [m.series.series_uid for m in conflict.matches] == ["1", "2", "3"]
    assert [m.series.series_uid for m in assignment.matches] == ([] if chosen is None else [chosen])
    assert on_conflict in conflict.why


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_series_does_not_matter(order):
    entries = [replace(entry, series_uid=str(k)) for k, (entry, _) in enumerate(MAPPED[8:20])]
    expected = RULES.assign(entries)
    assert RULES.assign([entries[k] for k in order]) == expected


def test_every_fault_of_a_file_is_told_with_its_line(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        "on_conflict: newest\n"
        "serie: []\n"
        "series:\n"
        "  - {name: a, modalty: CT, channel: CT_HU}\n"
        "  - {name: b, modality: PT, tracer: FMSIO, channel: FMISO_SUV}\n"
        "  - {name: c, text: '(', channel: T1W}\n"
        "  - {name: d, modality: MR, channel: T1WDG}\n"
        "  - {name: e, modality: MR}\n"
        "  - {name: f, channel: T1W}\n"
        "  - {name: g, modality: MR, times: many, channel: RAW_DCE, scale: -1}\n"
        "  - {name: h, modality: PT, channel: '{tracer}_SUVV'}\n"
        "  - {name: i, modality: MR, modality: CT, channel: CT_HU}\n"
        "  - 7\n"
        "regions:\n"
        "  - {mask: GTVX, pattern: gtv}\n"
        "  - {mask: GTVP, patern: gtv}\n",
        encoding="utf-8",
    )
    with pytest.raises(RulesError) as caught:
        read_rules(path)
    expected = [
        "line 1: on_conflict is 'newest'",
        "line 2: unknown key 'serie'; did you mean series?",
        "line 4: a: unknown key 'modalty'; did you mean modality?",
        "line 5: b: tracer names FMSIO, which is not a known tracer; did you mean FMISO?",
        "line 6: c: text is '(', which is no regular expression",
        "line 7: d: channel 'T1WDG' is not a known quantity or raw series; did you mean T1WGD?",
        "line 8: e: has no result",
        "line 9: f: has no condition",
        "line 10: g: scale is -1",
        "line 10: g: times is 'many'",
        "line 11: h: channel '{tracer}_SUVV' is not a known quantity",
        "line 12: the key 'modality' comes twice",
        "line 13: series: a rule is a mapping",
        "line 15: regions: mask is 'GTVX', which is not a known mask; did you mean GTV",
        "line 16: regions: pattern is None",
        "line 16: regions: unknown key 'patern'; did you mean pattern?",
    ]
    assert len(caught.value.faults) == len(expected)
    for fault, begin in zip(caught.value.faults, expected, strict=True):
        assert fault.startswith(begin)


@pytest.mark.parametrize(("text", "fault"), [("a: [", "no YAML"), ("- 1", "a mapping"), ("", "a mapping")])
def test_a_file_that_is_no_rules_is_refused(tmp_path, text, fault):
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RulesError, match=fault):
        read_rules(path)
    with pytest.raises(RulesError, match="cannot read"):
        read_rules(Path(tmp_path / "none.yaml"))
