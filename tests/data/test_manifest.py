import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.cases import Outcome
from hypoxnet.data.manifest import parse_manifest, read_manifest
from hypoxnet.errors import ManifestError

GOOD = "case_id,site,FMISO_SUV,T1W,GTVP,lrc_months,lrc_event,age,hpv,x_albumin\n"


def write(tmp_path, text, name="cohort.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def faults(tmp_path, text, **options):
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(tmp_path, textwrap.dedent(text)), **options)
    return caught.value.faults


def test_a_row_becomes_a_record_with_paths_relative_to_the_file(tmp_path):
    records = read_manifest(write(tmp_path, GOOD + "P1,north,p1/f.nii.gz,,p1/g.nii.gz,31.5,2,61,,4.1\n"))
    (record,) = records
    assert record.channels == {"FMISO_SUV": tmp_path / "p1/f.nii.gz"}
    assert record.masks == {"GTVP": tmp_path / "p1/g.nii.gz"}
    assert record.outcome == Outcome(2, 31.5)
    assert record.covariates == {"age": 61.0, "x_albumin": 4.1}
    assert (record.case_id, record.visit, record.site, record.line, record.fold) == ("P1", "baseline", "north", 2, None)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_spreadsheets_write_is_read(tmp_path, separator, newline, encoding):
    text = "# made by hand\ncase_id,FMISO_SUV,failed,,\n\nP1,a b.nii.gz,yes,,\nP2,c.nii.gz,0,,\n"
    path = write(tmp_path, text.replace(",", separator).replace("\n", newline), encoding=encoding)
    first, second = read_manifest(path)
    assert first.outcome == Outcome(1, None)
    assert first.channels["FMISO_SUV"].name == "a b.nii.gz"
    assert (second.outcome, second.line) == (Outcome(0, None), 5)


def test_visits_of_a_patient_are_cases_of_their_own(tmp_path):
    records = read_manifest(write(tmp_path, "case_id,visit,FMISO_SUV\nP1,,a.nii\nP1,week2,b.nii\n"))
    assert [record.key for record in records] == ["P1", "P1_week2"]


def test_a_fold_is_a_number_and_empty_outcomes_are_unknown(tmp_path):
    text = "case_id,fold,FMISO_SUV,lrc_months,lrc_event\nP1,3,a.nii,,\nP2,0,b.nii,NA,NA\n"
    records = read_manifest(write(tmp_path, text))
    assert [record.fold for record in records] == [3, 0]
    assert [record.outcome for record in records] == [None, None]


SENTENCES = [
    ("case_id,FMSIO_SUV\nP1,a.nii.gz\n", "line 1: FMSIO_SUV is not a known quantity or mask; did you mean FMISO_SUV?"),
    ("case_id,FMISO_SUV,agee\nP1,a.nii,61\n", "line 1: agee is not a known column; did you mean age?"),
    ("case_id,FMISO_SUV,age,age\nP1,a.nii,61,61\n", "line 1: the column age is there 2 times; keep one"),
    ("case_id,FMISO_SUV\nP1,a.nii\nP1,b.nii\n", "line 3: P1: the same case and visit stand in line 2"),
    (GOOD + "P1,n,a.nii,,,-3,1,61,1,\n", "line 2: P1: lrc_months is -3, a time must not be negative"),
    (GOOD + "P1,n,a.nii,,,,1,61,1,\n", "line 2: P1: lrc_event is 1, lrc_months is empty; give the months"),
    (GOOD + "P1,n,a.nii,,,12,,61,1,\n", "line 2: P1: lrc_months is 12, lrc_event is empty; give 0 censored"),
    (GOOD + "P1,n,a.nii,,,12,3,61,1,\n", "line 2: P1: lrc_event is '3', it must be 0 censored, 1 locoregional failure"),
    (GOOD + "P1,n,a.nii,,,912,0,61,1,\n", "line 2: P1: lrc_months is 912, more than 480; give months, not days"),
    (GOOD + "P1,n,a.nii,,,x,0,61,1,\n", "line 2: P1: lrc_months is 'x', it must be a number of months"),
    (GOOD + "P1,n,a.nii,,,9,0,610,1,\n", "line 2: P1: age is 610 years, plausible is 0 to 120"),
    (
        GOOD + "P1,n,a.nii,,,9,0,61,perhaps,\n",
        "line 2: P1: hpv is 'perhaps', it must be a number (HPV or p16 status, 0 negative, 1 positive) or one of "
        "positive, pos, +, negative, neg, -, or empty where it is not known",
    ),
    (GOOD + ",n,a.nii,,,9,0,61,1,\n", "line 2: case_id is empty; name the patient"),
    (GOOD + "P/1,n,a.nii,,,9,0,61,1,\n", "line 2: P/1: case_id 'P/1' holds / \\ or :"),
    (
        "case_id,fold,visit,FMISO_SUV\nP1,0,,a.nii\nP1,1,w2,b.nii\n",
        "line 3: P1_w2: the patient is in fold 1 here and in",
    ),
    ("case_id,fold,FMISO_SUV\nP1,two,a.nii\n", "line 2: P1: fold is 'two', it must be 0, 1, 2"),
    ("case_id,visit,FMISO_SUV,failed\nP1,,a.nii,1\nP1,w2,b.nii,0\n", "line 3: P1_w2: the outcome event 0 differs from"),
    ("case_id,FMISO_SUV,failed\nP1,a.nii,perhaps\n", "line 2: P1: failed is 'perhaps', it must be 1 or yes"),
    (
        "case_id,FMISO_SUV,failed,lrc_months,lrc_event\nP1,a.nii,1,2,1\n",
        "line 1: there are lrc_months and lrc_event as",
    ),
    ("case_id,FMISO_SUV,lrc_months\nP1,a.nii,2\n", "line 1: there is lrc_months without lrc_event; add it"),
    ("patient,FMISO_SUV\nP1,a.nii\n", "line 1: there is no column case_id"),
    ("case_id,FMISO_SUV\n", "line 1: there is no row below the header"),
    ("case_id,FMISO_SUV\nP1,a.nii,3\n", "line 2: has 3 cells, the header names 2 columns"),
]


@pytest.mark.parametrize(("text", "sentence"), SENTENCES)
def test_each_fault_is_a_sentence_with_its_line(tmp_path, text, sentence):
    found = faults(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].startswith(sentence)


def test_everything_wrong_is_told_at_once_in_the_order_of_the_lines(tmp_path):
    found = faults(tmp_path, GOOD + "P1,n,a.nii,,,9,,61,1,\nP2,n,b.nii,,,-1,1,200,1,\nP1,n,c.nii,,,9,0,61,1,\n")
    assert [fault.split(":")[0] for fault in found] == ["line 2", "line 3", "line 3", "line 4"]


def test_a_missing_file_is_named_with_its_channel(tmp_path):
    found = faults(tmp_path, "case_id,FMISO_SUV\nP1,gone.nii.gz\n", check_files=True)
    assert found[0].startswith(f"line 2: P1: FMISO_SUV: {tmp_path / 'gone.nii.gz'} does not exist")


def test_no_manifest_and_no_text_are_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match="the file does not exist"):
        read_manifest(tmp_path / "none.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ManifestError, match="cannot be read as text in UTF-8"):
        read_manifest(binary)


@given(st.text(max_size=400))
def test_no_text_ends_in_anything_but_faults(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        records, found = parse_manifest(path)
    except ManifestError:
        return
    assert len(records) > 0 or found


@given(st.lists(st.sampled_from(["", "0", "-1", "2", "1e400", "nan", "x", "3.5", "é", "yes"]), min_size=5, max_size=5))
def test_no_cell_ends_in_a_traceback(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_text("case_id,FMISO_SUV,lrc_months,lrc_event,age,fold\nP1," + ",".join(cells) + "\n", encoding="utf-8")
    records, found = parse_manifest(path)
    assert len(records) == 1
    assert all(fault.startswith("line 2: P1: ") for fault in found)


def test_a_decimal_comma_is_read_where_semicolons_separate(tmp_path):
    text = "case_id;FMISO_SUV;lrc_months;lrc_event;age\nP1;a.nii;36,4;1;61,5\n"
    (record,) = read_manifest(write(tmp_path, text))
    assert (record.outcome.months, record.covariates["age"]) == (36.4, 61.5)


OUTCOMES = "case_id,FMISO_SUV,lrc_months,lrc_event,dm_months,dm_event,os_months,os_event\n"


def test_each_end_point_is_read_from_its_own_columns(tmp_path):
    path = tmp_path / "cohort.csv"
    path.write_text(OUTCOMES + "P1,p1.nii.gz,8.5,1,20.0,2,20.0,1\n")
    found = {name: read_manifest(path, endpoint=name)[0].outcome for name in ("lrc", "dm", "os")}
    assert {name: (outcome.event, outcome.months) for name, outcome in found.items()} == {
        "lrc": (1, 8.5),
        "dm": (2, 20.0),
        "os": (1, 20.0),
    }


def test_nothing_competes_with_death_and_a_lone_column_is_named(tmp_path):
    path = tmp_path / "cohort.csv"
    path.write_text(OUTCOMES + "P1,p1.nii.gz,8.5,1,20.0,2,20.0,2\n")
    with pytest.raises(ManifestError, match=r"os_event is '2', it must be 0 censored or 1 death"):
        read_manifest(path, endpoint="os")
    path.write_text("case_id,FMISO_SUV,dm_months\nP1,p1.nii.gz,8.5\n")
    with pytest.raises(ManifestError, match="there is dm_months without dm_event"):
        read_manifest(path)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_few_volumes_in_mm3_are_one_line_and_not_one_each(tmp_path, rows):
    path = tmp_path / "cohort.csv"
    path.write_text("case_id,gtv_ml\nP0,21.5\n" + "".join(f"P{n},{20_000 + n}\n" for n in range(1, rows + 1)))
    with pytest.raises(ManifestError) as refused:
        read_manifest(path)
    (fault,) = refused.value.faults
    assert fault.startswith("line 3: P1: gtv_ml is 20001 ml")
    assert fault.endswith(f"divide by 1000 (and {rows - 1} more row{'s' if rows > 2 else ''} with such a value)")


def test_a_column_in_another_unit_is_said_once_and_slips_line_by_line(tmp_path):
    path = tmp_path / "cohort.csv"
    rows = [f"P{n},{20_000 + n},{200 if n < 2 else 60}" for n in range(9)]
    path.write_text("\n".join(["case_id,gtv_ml,age", *rows]) + "\n")
    with pytest.raises(ManifestError) as refused:
        read_manifest(path)
    volumes = [fault for fault in refused.value.faults if "gtv_ml" in fault]
    assert len(volumes) == 1
    assert volumes[0].startswith("line 2: P0: gtv_ml is 20000 ml")
    assert volumes[0].endswith("divide by 1000 (and 8 more rows with such a value)")
    assert sum("age is 200" in fault for fault in refused.value.faults) == 2
