"""Pseudonyms, intervals and what may be handed on."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import Header
from hypoxnet.dicom.places import Place
from hypoxnet.dicom.pseudonyms import (
    days_from,
    keyed_uid,
    pseudonym,
    read_or_make_key,
    refuse_burned_in,
    scrub,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(32)


def test_a_pseudonym_is_the_hmac_of_the_id():
    digest = hmac.new(KEY, b"patient\x000042", hashlib.sha256).digest()
    assert pseudonym("0042", KEY) == "HN" + base64.b32encode(digest)[:10].decode()


@given(st.text(min_size=1).filter(str.strip))
def test_a_pseudonym_depends_on_the_key_and_not_on_blanks_around_the_id(patient_id):
    name = pseudonym(patient_id, KEY)
    assert len(name) == 12
    assert name == pseudonym(f" {patient_id} ", KEY)
    assert name != pseudonym(patient_id, OTHER_KEY)


def test_ten_thousand_patients_have_ten_thousand_names():
    assert len({pseudonym(str(k), KEY) for k in range(10_000)}) == 10_000


def test_an_empty_id_is_refused():
    with pytest.raises(DicomError, match="patient id is empty"):
        pseudonym("  ", KEY)


def test_a_key_is_made_once_and_only_for_its_owner(tmp_path):
    path = tmp_path / "safe" / "key"
    key = read_or_make_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_make_key(path) == key
    assert read_or_make_key(tmp_path / "other") != key


def test_a_key_that_others_can_read_is_refused(tmp_path):
    read_or_make_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(DicomError, match="mode 644"):
        read_or_make_key(tmp_path / "key")


@pytest.mark.parametrize("content", ["", "no key", "abcd"])
def test_a_file_without_a_key_is_refused_and_kept(tmp_path, content):
    (tmp_path / "key").write_text(content, encoding="utf-8")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(DicomError, match="holds"):
        read_or_make_key(tmp_path / "key")
    assert (tmp_path / "key").read_text(encoding="utf-8") == content


def test_a_key_inside_of_the_cohort_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "cohort")
    for place in (tmp_path / "cohort" / "key", tmp_path / "link" / "key"):
        with pytest.raises(DicomError, match="handed on"):
            read_or_make_key(place, cohort=tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_intervals_are_days():
    assert days_from("20231231", "20240101") == 1
    assert days_from("20240101", "20231231") == -1
    assert days_from("2024.01.01", "20250101") == 366


@pytest.mark.parametrize("text", ["", "2024", "20241301", "20240102 10", "２０２４０１０２"])
def test_a_date_that_is_none_is_refused(text):
    with pytest.raises(DicomError, match="YYYYMMDD"):
        days_from("20240101", text)


# Of PS3.15 table E.1-1, and of private groups.
_MUST_GO = """PatientName PatientID PatientBirthDate PatientAge PatientSex PatientWeight PatientSize PatientAddress
OtherPatientIDs InstitutionName InstitutionAddress InstitutionalDepartmentName ReferringPhysicianName
PerformingPhysicianName OperatorsName StationName DeviceSerialNumber AccessionNumber StudyID StudyDate SeriesDate
AcquisitionDate ContentDate AcquisitionDateTime StudyTime SeriesTime AcquisitionTime ContentTime
RadiopharmaceuticalStartTime RadiopharmaceuticalStartDateTime PatientComments ImageComments
EthnicGroup MedicalAlerts StructureSetLabel ReviewerName ClinicalTrialSubjectID UnknownTag00191010 Private_0019_100c
SeriesDescription StudyDescription ProtocolName ContrastBolusAgent Radiopharmaceutical ROIName"""
MUST_GO = _MUST_GO.split()


def test_only_what_is_listed_stays():
    values = dict.fromkeys(MUST_GO, "Doe") | {"EchoTime": 4.6, "StudyInstanceUID": "1.2.3"}
    kept = scrub(values, key=KEY)
    assert kept == {"EchoTime": 4.6, "StudyInstanceUID": keyed_uid("1.2.3", KEY)}
    assert "1.2.3" not in str(kept.values())


def test_descriptions_stay_only_when_asked_for():
    values = {"SeriesDescription": "t1 tra", "PatientName": "Doe"}
    assert scrub(values, key=KEY) == {}
    assert scrub(values, key=KEY, keep_descriptions=True) == {"SeriesDescription": "t1 tra"}


def test_uids_stay_consistent_and_valid():
    one = scrub({"SeriesInstanceUID": "1.2.3"}, key=KEY)["SeriesInstanceUID"]
    many = scrub({"ReferencedSeriesInstanceUID": ["1.2.3", "1.2.4"]}, key=KEY)["ReferencedSeriesInstanceUID"]
    assert many[0] == one != many[1]
    assert UID(one).is_valid
    assert one != keyed_uid("1.2.3", OTHER_KEY)


@pytest.mark.parametrize("flag", ["YES", "yes"])
def test_writing_in_the_pixels_is_refused_unless_allowed(flag):
    header = Header(Place("1.dcm"), "", "", burned_in_annotation=flag)
    with pytest.raises(DicomError, match=r"1\.dcm: Burned In Annotation"):
        refuse_burned_in(header)
    refuse_burned_in(header, allowed=True)


@pytest.mark.parametrize("flag", ["NO", ""])
def test_without_writing_the_pixels_pass_as_the_flag_says(flag):
    header = Header(Place("1.dcm"), "", "", burned_in_annotation=flag)
    refuse_burned_in(header)
    with pytest.raises(DicomError) as caught:
        refuse_burned_in(replace(header, burned_in_annotation="YES"))
    assert "Burned In Annotation" in str(caught.value)
