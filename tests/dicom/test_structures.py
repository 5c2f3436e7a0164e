"""Structure sets: what is read, and what is refused in one sentence."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.rasterise import mask_of
from hypoxnet.dicom.reading import read_dataset
from hypoxnet.dicom.structures import RT_STRUCTURE_SET, area_mm2, read_structures
from hypoxnet.geometry import Grid

FRAME, SERIES, STUDY, IMAGE = "1.2.3.4", "1.2.3.5", "1.2.3.6", "1.2.3.7"
SQUARE = np.array([[-10.0, -10, 0], [10, -10, 0], [10, 10, 0], [-10, 10, 0]])
ABOVE = SQUARE + np.array([0.0, 0, 3])


def item(**values) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def contour_item(points, kind="CLOSED_PLANAR", image="") -> Dataset:
    flat = [f"{x:.6g}" for x in np.asarray(points, dtype=float).ravel()]
    made = item(ContourGeometricType=kind, NumberOfContourPoints=len(flat) // 3, ContourData=flat)
    if image:
        made.ContourImageSequence = Sequence([item(ReferencedSOPInstanceUID=image)])
    return made


def series_item(uid=SERIES, image=IMAGE) -> Dataset:
    images = Sequence([item(ReferencedSOPInstanceUID=image)])
    return item(SeriesInstanceUID=uid, ContourImageSequence=images)


def structure_set(rois, *, series=(SERIES,)) -> Dataset:
    """`rois`: name to list of contour items."""
    listed = Sequence([series_item(uid, f"{IMAGE}.{n}") for n, uid in enumerate(series)])
    study = item(RTReferencedSeriesSequence=listed)
    frame = item(FrameOfReferenceUID=FRAME, RTReferencedStudySequence=Sequence([study]))
    made = item(SOPClassUID=RT_STRUCTURE_SET, SOPInstanceUID="1.2.3.8", Modality="RTSTRUCT", StudyInstanceUID=STUDY)
    made.StructureSetLabel = "drawn"
    made.ReferencedFrameOfReferenceSequence = Sequence([frame])
    made.StructureSetROISequence = Sequence(
        item(ROINumber=n, ROIName=name, ReferencedFrameOfReferenceUID=FRAME) for n, name in enumerate(rois, 1)
    )
    made.ROIContourSequence = Sequence(
        item(ReferencedROINumber=n, ContourSequence=Sequence(items)) for n, items in enumerate(rois.values(), 1)
    )
    made.RTROIObservationsSequence = Sequence([item(ReferencedROINumber=1, RTROIInterpretedType="GTV")])
    return made


def write(dataset: Dataset, path: Path, syntax=ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_what_was_written_is_read(tmp_path, syntax):
    made = structure_set({"GTV": [contour_item(SQUARE), contour_item(ABOVE)], "empty": []})
    found = read_structures(write(made, tmp_path / "a.dcm", syntax))
    assert (found.label, found.study_uid, found.for_uid) == ("drawn", STUDY, FRAME)
    assert found.referenced_series_uids == (SERIES,)
    gtv, empty = found.rois
    assert (gtv.number, gtv.name, gtv.interpreted_type, gtv.referenced_series_uid) == (1, "GTV", "GTV", SERIES)
    np.testing.assert_array_equal(gtv.contours[1], ABOVE)
    assert empty.contours == ()
    assert found.roi("GTV") is gtv
    assert area_mm2(gtv.contours[0]) == pytest.approx(400)
    with pytest.raises(DicomError, match="no regions are called 'gtv'; the structure set has 'GTV', 'empty'"):
        found.roi("gtv")


def test_of_two_series_the_one_whose_image_a_contour_names_counts(tmp_path):
    rois = {"a": [contour_item(SQUARE, image=f"{IMAGE}.1")], "b": [contour_item(SQUARE)]}
    found = read_structures(write(structure_set(rois, series=("1.5.0", "1.5.1")), tmp_path / "a.dcm"))
    assert [roi.referenced_series_uid for roi in found.rois] == ["1.5.1", ""]


def _break(dataset: Dataset, name: str) -> None:
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    roi = dataset.StructureSetROISequence[0]
    if name == "class":
        dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.128", "PT"
    elif name == "length":
        contour.NumberOfContourPoints = 5
    elif name == "rest":
        del contour.NumberOfContourPoints
        contour.ContourData = [*contour.ContourData, "1"]
    elif name == "no data":
        contour.ContourData = None
    elif name == "type":
        contour.ContourGeometricType = "SPLINE"
    elif name == "twice":
        dataset.StructureSetROISequence.append(item(ROINumber=1, ROIName="again"))
    elif name == "unnumbered":
        del roi.ROINumber
    elif name == "undefined":
        dataset.ROIContourSequence[0].ReferencedROINumber = 7
    elif name == "none":
        dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(), Sequence()
    else:
        contour.ContourData = ["1", "2", name, *contour.ContourData[3:]]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("class", "is PT, not an RT Structure Set; name the RTSTRUCT file"),
        ("length", "region 1 'GTV', contour 1: Contour Data holds 12 numbers, 5 points are announced"),
        ("rest", "Contour Data holds 13 numbers, the number of points is not said; three make a point"),
        ("no data", "Contour Data holds 0 numbers, 4 points are announced"),
        ("type", "Contour Geometric Type is 'SPLINE', known are CLOSED_PLANAR"),
        ("twice", "ROI Number 1 is defined twice"),
        ("unnumbered", "a region has no ROI Number"),
        ("undefined", "contours belong to ROI Number 7, which is not defined"),
        ("none", "defines no region"),
        ("1e30", "a coordinate is 1e\\+30 mm, at most 100000 mm is read"),
    ],
)
def test_broken_structure_sets_are_refused(tmp_path, name, sentence):
    made = structure_set({"GTV": [contour_item(SQUARE)]})
    _break(made, name)
    with pytest.raises(DicomError, match=sentence):
        read_structures(write(made, tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("nan", "1 of 12 coordinates are not finite"), ("inf", "not finite"), ("x.y", "holds what is no number")],
)
def test_coordinates_that_are_no_numbers_are_refused(tmp_path, text, sentence):
    path = write(structure_set({"GTV": [contour_item(SQUARE)]}), tmp_path / "a.dcm")
    # pydicom would not write it.
    path.write_bytes(path.read_bytes().replace(b"-10\\-10\\0", text.encode() + b"\\-10\\0", 1))
    with pytest.raises(DicomError, match=sentence):
        read_structures(path)


def test_what_is_not_dicom_is_refused(tmp_path):
    with pytest.raises(DicomError, match="no such file"):
        read_dataset(tmp_path / "none.dcm")
    (tmp_path / "text.dcm").write_text("DICM it is not")
    with pytest.raises(DicomError, match="not a DICOM file"):
        read_dataset(tmp_path / "text.dcm")


def test_a_file_cut_short_is_refused(tmp_path):
    path = write(structure_set({"GTV": [contour_item(SQUARE)]}), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DicomError, match="ends before its last element does"):
        read_structures(path)


def test_contours_beyond_64_kb_are_read_though_their_type_is_lost(tmp_path):
    made = structure_set({"GTV": [contour_item(np.full((20_000, 3), 1.5))]})
    with pytest.warns(UserWarning, match="exceeds the size of 64 kByte"):
        path = write(made, tmp_path / "a.dcm")
    assert read_structures(path).roi("GTV").contours[0].shape == (20_000, 3)


def test_a_deflated_file_may_not_grow_beyond_the_limit(tmp_path):
    made = structure_set({"GTV": [contour_item(np.zeros((2_000, 3)))] * 20})
    path = write(made, tmp_path / "a.dcm", pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert len(read_structures(path).roi("GTV").contours) == 20
    with pytest.raises(DicomError, match="when inflated"):
        read_dataset(path, largest_pixels_bytes=100_000)


def test_mutated_structure_sets_raise_nothing_but_dicom_errors(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    u, v = 9 * np.cos(angles), 9 * np.sin(angles)
    circles = [np.stack([u, v, np.full(20, z)], axis=1) for z in (0.0, 3.0, 6.0, 9.0)]
    rois = {name: [contour_item(circle) for circle in circles] for name in ("GTV", "node")}
    whole = write(structure_set(rois), tmp_path / "a.dcm").read_bytes()
    grid = Grid.from_affine((12, 12, 6), np.diag([3.0, 3, 3, 1]))
    generator, sentences = np.random.default_rng(0), []
    for _ in range(120):
        broken = bytearray(whole)
        for at in generator.integers(128, len(broken), generator.integers(1, 12)):
            broken[at] = generator.integers(256)
        path = tmp_path / "b.dcm"
        path.write_bytes(broken if generator.random() < 0.7 else broken[: generator.integers(len(broken))])
        try:
            for roi in read_structures(path).rois:
                mask_of(roi, grid, frame_of_reference_uid=FRAME)
        except DicomError as error:
            sentences.append(str(error))
    assert len(sentences) > 30
    assert not any("\n" in sentence for sentence in sentences)
