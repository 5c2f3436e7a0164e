"""RT Dose: both conventions of frame offsets, every orientation, and each refusal."""

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from hypoxnet.dicom.dose import RT_DOSE, read_dose
from hypoxnet.dicom.errors import DicomError

SHAPE = (4, 3, 5)  # columns, rows, planes
STORED = np.arange(np.prod(SHAPE), dtype=np.uint32).reshape(SHAPE[::-1]) * 70_000


def dose_set(**changes) -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = RT_DOSE, "1.2.3.4", "RTDOSE"
    made.FrameOfReferenceUID = "1.2.3"
    made.ImagePositionPatient, made.ImageOrientationPatient = [-10, -20, 30], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.GridFrameOffsetVector = [2.0, 1.5], [0, 2.5, 5, 7.5, 10]
    made.Columns, made.Rows, made.NumberOfFrames = SHAPE
    made.DoseUnits, made.DoseType, made.DoseSummationType, made.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.00001"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 32, 32, 31
    made.PixelData = STORED.tobytes()
    for name, value in changes.items():
        if value is None:
            del made[name]
        else:
            setattr(made, name, value)
    return made


def write(made, path):
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.save_as(path, enforce_file_format=True)
    return path


def place(grid, index):
    """LPS mm of a voxel."""
    return (grid.matrix @ [*index, 1])[:3] * [-1, -1, 1]


def test_dose_is_scaled_and_lies_where_the_header_says(tmp_path):
    found = read_dose(write(dose_set(), tmp_path / "a.dcm"))
    assert found.dose_gy.dtype == np.float32
    assert found.dose_gy.shape == found.grid.shape == SHAPE
    assert found.dose_gy[3, 1, 2] == pytest.approx(STORED[2, 1, 3] * 1e-5, rel=1e-6)
    assert (found.frame_of_reference_uid, found.summation_type, found.dose_type) == ("1.2.3", "PLAN", "PHYSICAL")
    np.testing.assert_allclose(place(found.grid, (3, 1, 2)), [-10 + 3 * 1.5, -20 + 2.0, 30 + 5])
    assert "PLAN PHYSICAL, 4 x 3 x 5" in repr(found)


@pytest.mark.parametrize(
    ("orientation", "offsets", "last"),
    [
        ([1, 0, 0, 0, 1, 0], [30, 32.5, 35, 37.5, 40], [-10, -20, 40]),  # z of the patient
        ([1, 0, 0, 0, 1, 0], [30, 27.5, 25, 22.5, 20], [-10, -20, 20]),
        ([1, 0, 0, 0, 1, 0], [0, -2.5, -5, -7.5, -10], [-10, -20, 20]),  # descending
        ([-1, 0, 0, 0, 1, 0], [0, 2.5, 5, 7.5, 10], [-10, -20, 20]),  # feet first: the normal points down
        ([-1, 0, 0, 0, 1, 0], [30, 32.5, 35, 37.5, 40], [-10, -20, 40]),
        ([0, 1, 0, 0, 0, -1], [0, 2.5, 5, 7.5, 10], [-20, -20, 30]),  # sagittal
        ([0.8, 0.6, 0, 0, 0, -1], [0, 2.5, 5, 7.5, 10], [-16, -12, 30]),  # oblique
    ],
)
def test_frame_offsets_of_both_conventions(tmp_path, orientation, offsets, last):
    made = dose_set(ImageOrientationPatient=orientation, GridFrameOffsetVector=offsets)
    found = read_dose(write(made, tmp_path / "a.dcm"))
    np.testing.assert_allclose(place(found.grid, (0, 0, 0)), [-10, -20, 30], atol=1e-9)
    np.testing.assert_allclose(place(found.grid, (0, 0, 4)), last, atol=1e-9)


def test_one_plane_takes_its_thickness(tmp_path):
    one = {"NumberOfFrames": 1, "GridFrameOffsetVector": None, "PixelData": STORED[0].tobytes()}
    found = read_dose(write(dose_set(SliceThickness=4, **one), tmp_path / "a.dcm"))
    assert (found.grid.shape, found.grid.spacing_mm[2]) == ((4, 3, 1), 4.0)
    with pytest.raises(DicomError, match="a dose of one plane: Slice Thickness is missing"):
        read_dose(write(dose_set(**one), tmp_path / "b.dcm"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "is RTDOSE, not an RT Dose"),
        ({"DoseUnits": "RELATIVE"}, "is RELATIVE, GY is needed; export the dose in Gy"),
        ({"DoseUnits": None}, "is missing, GY is needed"),
        ({"DoseGridScaling": "0"}, "is 0, it must be positive"),
        ({"DoseGridScaling": None}, "Dose Grid Scaling \\(3004,000E\\) is missing"),
        ({"GridFrameOffsetVector": [0, 2.5, 5, 9, 11.5]}, "unevenly spaced: a step of 4.000 mm where 2.875 mm"),
        ({"GridFrameOffsetVector": [0, 2.5]}, "5 finite numbers are needed"),
        ({"GridFrameOffsetVector": [7, 9.5, 12, 14.5, 17]}, "begins with 7, it must be 0, or on transverse planes"),
        ({"GridFrameOffsetVector": [0, 0, 0, 0, 0]}, "unevenly spaced"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "is no rotation"),
        ({"ImagePositionPatient": None}, "Image Position \\(Patient\\) is missing"),
        ({"PixelSpacing": [0, 1]}, "are no grid"),
        ({"Rows": 60_000, "Columns": 60_000}, "promises 67.06 GiB of pixels, at most 8.00 GiB are read"),
        ({"Rows": 30}, "holds 240 bytes of pixels, the header promises 2400"),
        ({"NumberOfFrames": -5}, "Number of Frames is -5"),
    ],
)
def test_doses_that_cannot_be_used_are_refused(tmp_path, changes, sentence):
    with pytest.raises(DicomError, match=sentence):
        read_dose(write(dose_set(**changes), tmp_path / "a.dcm"))


def test_mutated_doses_raise_nothing_but_dicom_errors(tmp_path):
    whole = write(dose_set(), tmp_path / "a.dcm").read_bytes()
    generator, sentences = np.random.default_rng(0), []
    for _ in range(100):
        broken = bytearray(whole)
        for at in generator.integers(128, len(broken) - 240, generator.integers(1, 8)):
            broken[at] = generator.integers(256)
        path = tmp_path / "b.dcm"
        path.write_bytes(broken if generator.random() < 0.7 else broken[: generator.integers(len(broken))])
        try:
            read_dose(path)
        except DicomError as error:
            sentences.append(str(error))
    assert len(sentences) > 30
    assert not any("\n" in sentence for sentence in sentences)
