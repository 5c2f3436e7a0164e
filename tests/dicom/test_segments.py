"""Segmentation objects, written by highdicom and read without it."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentationTypeValues
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.segments import read_seg

ROWS, COLUMNS, PLANES = 6, 8, 7
STEP = 2.5
STRAIGHT = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", [20, -10, 15], degrees=True).as_matrix()


def source_images(rotation) -> list[Dataset]:
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": "1.2.3"}
    images = []
    for plane in range(PLANES):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for name, value in common.items():
            setattr(image, name, value)
        image.SOPClassUID, image.SOPInstanceUID, image.Modality = "1.2.840.10008.5.1.4.1.1.2", generate_uid(), "CT"
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "P", "P^Q", "", ""
        image.StudyID, image.StudyDate, image.StudyTime, image.AccessionNumber = "", "", "", ""
        image.ReferringPhysicianName = ""
        image.Rows, image.Columns, image.PixelSpacing, image.SliceThickness = ROWS, COLUMNS, [1.5, 1.25], STEP
        image.BitsAllocated = image.BitsStored = 16
        image.ImageOrientationPatient = [round(float(x), 9) for x in rotation[:, :2].T.ravel()]
        where = rotation @ [0, 0, STEP * plane] + [-5, -7, 11]
        image.ImagePositionPatient = [round(float(x), 9) for x in where]
        images.append(image)
    return images


def segment(number):
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"part {number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def write_seg(path, pixels, kind, *, rotation=STRAIGHT, segments=2, **options):
    made = hd.seg.Segmentation(
        source_images=source_images(rotation),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[segment(n + 1) for n in range(segments)],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    made.save_as(path)
    return path


@pytest.fixture
def masks() -> np.ndarray:
    """Two parts that overlap, planes x rows x columns x 2; the first plane, the last and one between are empty."""
    drawn = np.random.default_rng(0).random((PLANES, ROWS, COLUMNS, 2)) < 0.4
    drawn[[0, 3, 6]] = False
    drawn[1, 0, 0] = drawn[5, 0, 0] = True
    return drawn


def _agrees_with_highdicom(path, found, *, combine=False):
    volume = hd.seg.segread(path).get_volume(combine_segments=combine, allow_missing_positions=True)
    theirs = np.diag([-1, -1, 1, 1]) @ volume.affine
    ours = found.grid.matrix
    # Theirs is planes x rows x columns, its planes may run the other way: the same voxel must be at the same place.
    for index in ((0, 0, 0), (COLUMNS - 1, 2, found.grid.shape[2] - 1)):
        at = np.linalg.inv(theirs) @ ours @ [*index, 1]
        where = tuple(np.rint(at[:3]).astype(int))
        np.testing.assert_allclose(at[:3], where, atol=1e-4)
        for part in found.segments:
            expected = volume.array[where] == part.number if combine else volume.array[where][part.number - 1]
            assert part.array[index] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rotation", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("omit", [True, False])
def test_binary_segments_come_back_and_missing_frames_are_zero(tmp_path, masks, rotation, omit):
    kind = SegmentationTypeValues.BINARY
    path = write_seg(tmp_path / "a.dcm", masks.astype(np.uint8), kind, rotation=rotation, omit_empty_frames=omit)
    found = read_seg(path)
    first, last = (1, 5) if omit else (0, 6)
    assert (found.type, found.frame_of_reference_uid) == ("BINARY", "1.2.3")
    assert found.grid.shape == (COLUMNS, ROWS, last - first + 1)
    np.testing.assert_allclose(found.grid.spacing_mm, [1.25, 1.5, STEP], atol=1e-6)
    origin = rotation @ [0, 0, STEP * first] + [-5, -7, 11]
    np.testing.assert_allclose(found.grid.matrix[:3, 3] * [-1, -1, 1], origin, atol=1e-6)
    for number, part in enumerate(found.segments):
        assert part.array.dtype == np.bool_
        np.testing.assert_array_equal(part.array, masks[first : last + 1, :, :, number].transpose(2, 1, 0))
        assert (part.number, part.label, part.kind.meaning) == (number + 1, f"part {number + 1}", "Neoplasm")
        assert (part.category.value, part.category.scheme) == ("49755003", "SCT")
    _agrees_with_highdicom(path, found)


def test_fractional_segments_are_scaled_to_one(tmp_path, masks):
    fractions = np.where(masks[..., :1], np.random.default_rng(1).random((PLANES, ROWS, COLUMNS, 1)), 0.0)
    kind = SegmentationTypeValues.FRACTIONAL
    path = write_seg(tmp_path / "a.dcm", fractions, kind, segments=1, max_fractional_value=200)
    (part,) = read_seg(path).segments
    assert part.array.dtype == np.float32
    np.testing.assert_allclose(part.array, fractions[1:6, ..., 0].transpose(2, 1, 0), atol=0.5 / 200 + 1e-6)


def test_a_label_map_is_taken_apart(tmp_path, masks):
    labels = np.where(masks[..., 0], 1, np.where(masks[..., 1], 2, 0)).astype(np.uint8)
    path = write_seg(tmp_path / "a.dcm", labels, SegmentationTypeValues.LABELMAP, omit_empty_frames=False)
    found = read_seg(path)
    assert [part.number for part in found.segments] == [1, 2]
    for part in found.segments:
        np.testing.assert_array_equal(part.array, (labels == part.number).transpose(2, 1, 0))
    _agrees_with_highdicom(path, found, combine=True)


def _break(made, name):
    frame = made.PerFrameFunctionalGroupsSequence[1]
    position = frame.PlanePositionSequence[0]
    if name == "class":
        made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    elif name == "type":
        made.SegmentationType = "SURFACE"
    elif name == "frames":
        made.PerFrameFunctionalGroupsSequence = made.PerFrameFunctionalGroupsSequence[:-1]
    elif name == "segment":
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9
    elif name == "owner":
        del frame.SegmentIdentificationSequence
    elif name == "place":
        position.ImagePositionPatient = (
            made.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
        )
    elif name == "lattice":
        position.ImagePositionPatient = [-5, -7, 14.1]
        del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
        del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    elif name == "shift":
        position.ImagePositionPatient = [-4, -7, 16]
    elif name == "no place":
        del frame.PlanePositionSequence
    elif name == "twice":
        made.SegmentSequence[1].SegmentNumber = 1
    elif name == "undescribed":
        made.SegmentSequence = []
    elif name == "far":
        position.ImagePositionPatient = [-5, -7, 900_011]
    else:
        made.Rows = 600


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("class", "is SEG, not a segmentation"),
        ("type", "is SURFACE; BINARY, FRACTIONAL or LABELMAP is read"),
        ("frames", "8 frames are announced, 7 are described"),
        ("segment", "frames belong to segment 9, which is not described"),
        ("owner", "does not say to which segment it belongs"),
        ("place", "two frames of one segment lie at one place"),
        ("lattice", "off the lattice of"),
        ("shift", "shifted in plane by up to 1.000 mm"),
        ("no place", "ImagePositionPatient of a frame is missing"),
        ("twice", "Segment Number 1 is described twice"),
        ("undescribed", "no segment is described"),
        ("far", "GiB, at most 0.01 GiB are read"),
        ("rows", "bytes of pixels, the header promises"),
    ],
)
def test_broken_segmentations_are_refused(tmp_path, masks, name, sentence):
    path = write_seg(tmp_path / "a.dcm", masks.astype(np.uint8), SegmentationTypeValues.BINARY)
    made = pydicom.dcmread(path)
    _break(made, name)
    made.save_as(path)
    with pytest.raises(DicomError, match=sentence):
        read_seg(path, largest_pixels_bytes=10_000_000)


def test_mutated_segmentations_raise_nothing_but_dicom_errors(tmp_path, masks):
    whole = write_seg(tmp_path / "a.dcm", masks.astype(np.uint8), SegmentationTypeValues.BINARY).read_bytes()
    generator, sentences = np.random.default_rng(0), []
    for _ in range(100):
        broken = bytearray(whole)
        for at in generator.integers(128, len(broken), generator.integers(1, 30)):
            broken[at] = generator.integers(256)
        path = tmp_path / "b.dcm"
        path.write_bytes(broken if generator.random() < 0.7 else broken[: generator.integers(len(broken))])
        try:
            read_seg(path, largest_pixels_bytes=100_000_000)
        except DicomError as error:
            sentences.append(str(error))
    assert len(sentences) > 30
    assert not any("\n" in sentence for sentence in sentences)
