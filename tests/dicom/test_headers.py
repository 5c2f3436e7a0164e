"""Headers: what is kept of one instance, and what broken files do."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import NotDicomError, read_header, read_headers
from hypoxnet.dicom.places import Place

REFERENCE = Path(os.environ.get("HYPOXNET_REFERENCE", "/nowhere"))


def instance(**attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.PatientID, dataset.Modality = "P1", "MR"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.SamplesPerPixel = 4, 4, 16, 1
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.arange(16, dtype=np.uint16).tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def write(dataset: Dataset, path: Path, *, implicit: bool = False) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("implicit", [False, True])
def test_values_are_the_same_in_both_encodings(tmp_path, implicit):
    dataset = instance(
        EchoTime="4.60001",
        FlipAngle="12",
        ImageType=["ORIGINAL", "PRIMARY", "M"],
        SeriesDescription="T1 Kopf/Hals ",
        ImagePositionPatient=[1, -2, 3.5],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        AcquisitionDate="20240102",
        AcquisitionTime="0903",
        PixelSpacing=[0.5, 0.75],
        InstanceNumber="7",
        BurnedInAnnotation="NO",
    )
    header = read_header(write(dataset, tmp_path / "a", implicit=implicit))
    assert header.echo_time_ms == 4.6
    assert header.flip_angles_deg == (12.0,)
    assert header.image_type == ("ORIGINAL", "PRIMARY", "M")
    assert header.series_description == "T1 Kopf/Hals"
    assert header.position_mm == (1.0, -2.0, 3.5)
    assert header.pixel_spacing_mm == (0.5, 0.75)
    assert header.acquisition_time == "20240102090300.000000"
    assert (header.rows, header.columns, header.instance_number, header.frames) == (4, 4, 7, 1)
    assert header.temporal_position is None
    assert pickle.loads(pickle.dumps(header)) == header


def test_text_in_another_character_set_is_decoded(tmp_path):
    dataset = instance(SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel", PatientName="Müller^Jörg")
    header = read_header(write(dataset, tmp_path / "a"))
    assert (header.series_description, header.patient_name) == ("Schädel", "Müller^Jörg")


@pytest.mark.parametrize(
    ("manufacturer", "group", "creator", "element", "representation", "value", "expected"),
    [
        ("SIEMENS", 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "800", 800),
        ("SIEMENS", 0x0019, "SIEMENS MR HEADER", 0x0C, "UN", b"800 ", 800),
        ("GE MEDICAL SYSTEMS", 0x0043, "GEMS_PARM_01", 0x39, "IS", ["1000001000", "8", "0", "0"], 1000),
        ("GE MEDICAL SYSTEMS", 0x0043, "GEMS_PARM_01", 0x39, "IS", ["400", "8", "0", "0"], 400),
        ("GE MEDICAL SYSTEMS", 0x0043, "GEMS_PARM_01", 0x39, "UN", rb"1000000050\8\0\0", 50),
        ("Philips Medical Systems", 0x2001, "Philips Imaging DD 001", 0x03, "FL", 600.0, 600),
        ("Philips Medical Systems", 0x2001, "Philips Imaging DD 001", 0x03, "UN", struct.pack("<f", 600.0), 600),
        ("Canon", 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "800", None),
    ],
)
def test_b_value_stands_where_its_scanner_puts_it(
    tmp_path, manufacturer, group, creator, element, representation, value, expected
):
    dataset = instance(Manufacturer=manufacturer)
    dataset.private_block(group, creator, create=True).add_new(element, representation, value)
    assert read_header(write(dataset, tmp_path / "a")).b_value_s_per_mm2 == expected


def test_the_standard_b_value_wins_over_the_private_one(tmp_path):
    dataset = instance(Manufacturer="SIEMENS", DiffusionBValue=50.0)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "800")
    assert read_header(write(dataset, tmp_path / "a")).b_value_s_per_mm2 == 50


def test_a_value_that_is_no_number_is_absent(tmp_path):
    path = write(instance(EchoTime="12", FlipAngle="25"), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"12", b"a,"))
    header = read_header(path)
    assert header.echo_time_ms is None
    assert header.flip_angle_deg == 25


def test_frames_of_an_enhanced_object_are_counted_by_what_they_differ_in(tmp_path):
    frames = []
    for echo in (2.3, 4.6, 6.9):
        for _ in range(2):
            frame, group = Dataset(), Dataset()
            group.EffectiveEchoTime = echo
            frame.MREchoSequence = [group]
            frames.append(frame)
    shared, timing = Dataset(), Dataset()
    timing.FlipAngle = 20.0
    shared.MRTimingAndRelatedParametersSequence = [timing]
    dataset = instance(NumberOfFrames=6, PixelData=bytes(4 * 4 * 2 * 6))
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    header = read_header(write(dataset, tmp_path / "a"))
    assert header.echo_times_ms == (2.3, 4.6, 6.9)
    assert header.flip_angles_deg == (20.0,)
    assert (header.frames, header.volumes, header.times) == (6, 3, 1)


@pytest.mark.parametrize("left", [60, 140, 300, -20, -1])
def test_a_file_cut_short_is_refused(tmp_path, left):
    path = write(instance(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DicomError, match=r"a\.dcm.*(cut short|copy it again|export it again)") as caught:
        read_header(path)
    assert not isinstance(caught.value, NotDicomError)


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", b"seen by Dr. X\n"), ("empty", b""), ("._1.dcm", bytes(4096)), ("a.png", b"\x89PNG" + bytes(500))],
)
def test_other_files_are_told_apart_from_broken_ones(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotDicomError):
        read_header(tmp_path / name)


def test_a_file_of_zeros_named_dcm_is_a_fault(tmp_path):
    (tmp_path / "1.dcm").write_bytes(bytes(4096))
    with pytest.raises(DicomError, match="named as DICOM but holds 4096 bytes"):
        read_header(tmp_path / "1.dcm")


def test_an_instance_without_preamble_is_read(tmp_path):
    path = write(instance(), tmp_path / "a", implicit=True)
    content = path.read_bytes()
    (length,) = struct.unpack("<L", content[140:144])
    path.write_bytes(content[144 + length :])
    assert read_header(path).patient_id == "P1"


def test_a_missing_series_uid_is_a_fault(tmp_path):
    dataset = instance()
    del dataset.SeriesInstanceUID
    with pytest.raises(DicomError, match="has no SeriesInstanceUID"):
        read_header(write(dataset, tmp_path / "a"))


@pytest.mark.reference
@pytest.mark.skipif(not (REFERENCE / "sts_dicom").is_dir(), reason="HYPOXNET_REFERENCE names no folder with sts_dicom")
def test_real_structure_sets_name_their_series_and_regions():
    place = Place(str(REFERENCE / "sts_dicom/FDG_PET/mask/1-1.dcm"))
    structures, image = read_headers([place, Place(str(REFERENCE / "sts_dicom/FDG_PET/image/1-001.dcm"))])
    assert structures.roi_names == ("GTV_Mass", "GTV_Edema")
    assert structures.referenced_series_uids == (image.series_uid,)
    assert structures.frame_of_reference_uid == image.frame_of_reference_uid
    assert image.radiopharmaceutical_codes == (("Y-X1743", "99SDM", "FDG -- fluorodeoxyglucose"),)
