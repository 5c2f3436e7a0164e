import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.data.covariate_text import covariate_name, read_covariate, write_covariate
from hypoxnet.data.inspection import inspect_manifest
from hypoxnet.data.manifest import parse_manifest, read_manifest, rows_without_images
from hypoxnet.quantities import COVARIATES


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("sex", "m", 1.0),
        ("sex", "F", 0.0),
        ("sex", "Male", 1.0),
        ("sex", "female", 0.0),
        ("sex", "1", 1.0),
        ("hpv", "positive", 1.0),
        ("hpv", "Neg", 0.0),
        ("hpv", "+", 1.0),
        ("hpv", "-", 0.0),
        ("hpv", "0", 0.0),
        ("hpv", "N/A", None),
        ("t_stage", "T4a", 4.0),
        ("t_stage", "4a", 4.0),
        ("t_stage", "cT2", 2.0),
        ("t_stage", "Tis", 0.0),
        ("t_stage", "Tx", None),
        ("n_stage", "N2b", 2.0),
        ("n_stage", "pN3", 3.0),
        ("n_stage", "Nx", None),
        ("subsite", "Oropharynx", 0.0),
        ("subsite", "oral cavity", 3.0),
        ("subsite", "Oral-Cavity", 3.0),
        ("subsite", "unknown", None),
        ("chemo", "yes", 1.0),
        ("gtv_ml", "29.7", 29.7),
    ],
)
def test_the_words_of_clinics_are_read(name, text, value):
    told = []
    assert read_covariate(name, text, told.append) == value
    assert told == []


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("sex", "w", "sex is 'w', it must be a number (0 female, 1 male) or one of f, female, m, male, or empty"),
        ("t_stage", "T5", "t_stage is 'T5', it must be a number (T category) or one of tis, is, T1, T4a, Tx"),
        ("t_stage", "2.5", "t_stage is 2.5, it must be a whole number from 0 to 4"),
        ("subsite", "throat", "subsite is 'throat', it must be one of oropharynx, larynx, hypopharynx, oral cavity"),
        (
            "gtv_ml",
            "29719.07",
            "gtv_ml is 29719.07 ml, plausible is 0.01 to 1500; it looks like mm3, which is 29.72 ml",
        ),
        ("gtv_ml", "0", "gtv_ml is 0 ml, plausible is 0.01 to 1500; mend it or clear it"),
        ("x_mine", "high", "x_mine is 'high', it must be a number, or empty where it is not known"),
    ],
)
def test_anything_else_is_one_sentence_that_names_what_is_allowed(name, text, sentence):
    told = []
    assert read_covariate(name, text, told.append) is None
    assert len(told) == 1
    assert told[0].startswith(sentence)


@given(st.sampled_from(sorted(COVARIATES)), st.text(max_size=12))
def test_every_text_is_a_value_in_range_or_unknown_or_one_sentence(name, text):
    told = []
    value = read_covariate(name, text, told.append)
    if value is None:
        assert len(told) <= 1
    else:
        assert COVARIATES[name].low <= value <= COVARIATES[name].high
        assert read_covariate(name, write_covariate(name, value), told.append) == value
        assert told == []


@pytest.mark.parametrize("alias", ["tumour_volume_ml", "tumor_volume_ml", "volume_ml", "gtv_volume_ml", "tumour_ml"])
def test_other_names_of_the_volume_are_understood(alias):
    assert covariate_name(alias) == "gtv_ml"


def test_no_alias_is_a_name_or_belongs_to_two():
    aliases = [alias for row in COVARIATES.values() for alias in row.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(COVARIATES)


def test_a_cohort_without_images_is_a_cohort(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text(
        "case_id,lrc_months,lrc_event,T,n_category,volume_ml,hpv,subsite,treated\n"
        "P1,31.5,0,T4a,N2b,21.4,+,larynx,2018-07\nP2,8.2,1,Tx,N0,,,,\n"
    )
    first, second = read_manifest(table, check_files=True)
    assert first.covariates == {"t_stage": 4.0, "n_stage": 2.0, "gtv_ml": 21.4, "hpv": 1.0, "subsite": 1.0}
    assert (first.treated, second.treated, second.covariates) == ("2018-07", "", {"n_stage": 0.0})
    inspection = inspect_manifest(table, jobs=1)
    assert inspection.faults == ()
    assert ("covariate hpv", "1 of 2") in inspection.table()


def test_a_row_without_an_image_among_others_is_named(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,FMISO_SUV,age\nP1,f.nii.gz,61\nP2,,57\n")
    records = read_manifest(table)
    sentence = "line 3: P2: no channel has a file; give at least one image, or delete the row"
    assert rows_without_images(records) == [sentence]
    assert sentence in inspect_manifest(table, jobs=1).faults


def test_two_columns_of_one_covariate_are_refused(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,gtv_ml,volume_ml\nP1,21.4,21.4\n")
    _, faults = parse_manifest(table)
    assert faults == ("line 1: gtv_ml and volume_ml are both gtv_ml; keep one",)


def test_times_in_days_are_said_once(tmp_path):
    table = tmp_path / "cohort.csv"
    rows = [f"P{i},{days},{i % 2}" for i, days in enumerate([412, 1204, 730, 2190, 95, 1530, 1311, 88])]
    table.write_text("case_id,lrc_months,lrc_event\n" + "\n".join(rows) + "\n")
    _, faults = parse_manifest(table)
    assert len(faults) == 1
    assert faults[0].startswith("line 1: lrc_months: times look like days, not months")


def test_a_date_that_is_none_is_refused(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,age,treated\nP1,61,01.07.2018\n")
    _, faults = parse_manifest(table)
    assert faults == ("line 2: P1: treated is '01.07.2018', it must be like 2018, 2018-07 or 2018-07-01, or empty",)
