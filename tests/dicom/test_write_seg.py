from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.sr._concepts_dict import concepts
from synthetic import ORIENTATIONS, onto, rotated, write_series

from hypoxnet.dicom import output, regions
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import Algorithm, OutputSeries
from hypoxnet.dicom.source import LPS_TO_RAS, read_source
from hypoxnet.dicom.write_seg import write_seg
from hypoxnet.geometry import Grid

OTHER = Grid.from_affine((10, 11, 9), [[2.5, 0, 0, 5], [0, 2, 0, -40], [0, 0, 2, 5], [0, 0, 0, 1]])
LEFT_HANDED = Grid.from_affine((10, 11, 9), [[-2.5, 0, 0, 25], [0, 2, 0, -40], [0, 0, 2, 5], [0, 0, 0, 1]])


def two_regions(shape):
    gtv = np.zeros(shape, dtype=bool)
    gtv[2:8, 3:9, 2:8] = True
    hypoxic = np.zeros(shape, dtype=bool)
    hypoxic[4:6, 4:7, 3:5] = True
    return {"GTVP": gtv, "hsv": hypoxic}


def read_back(path: Path, segment: int, grid: Grid) -> np.ndarray:
    volume = highdicom.seg.segread(path).get_volume(segment_numbers=[segment])
    return onto(volume.array[..., 0], LPS_TO_RAS @ volume.affine, grid)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("fractional", [False, True])
def test_segmentation_follows_the_standard(make_source, make_output, tmp_path, assert_valid, modality, fractional):
    source = make_source("oblique", modality=modality)
    masks = two_regions(source.grid.shape)
    arrays = {name: mask * 0.7 for name, mask in masks.items()} if fractional else masks
    write_seg(
        tmp_path / "seg.dcm", arrays, grid=source.grid, source=source, series=make_output(), fractional=fractional
    )
    assert_valid(tmp_path / "seg.dcm")


def test_synthetic_series_follow_the_standard(tmp_path, assert_valid):
    for modality in ("CT", "MR", "PT"):
        assert_valid(write_series(tmp_path / modality, modality=modality)[0])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_come_back_where_they_were(make_source, make_output, tmp_path, orientation):
    source = make_source(orientation)
    masks = two_regions(source.grid.shape)
    write_seg(tmp_path / "seg.dcm", masks, grid=source.grid, source=source, series=make_output())
    for number, mask in enumerate(masks.values(), start=1):
        assert np.array_equal(read_back(tmp_path / "seg.dcm", number, source.grid) > 0, mask)


@pytest.mark.parametrize("grid", [OTHER, LEFT_HANDED])
def test_masks_on_another_grid_keep_that_grid(make_source, make_output, tmp_path, assert_valid, grid):
    source = make_source("sagittal", modality="MR")
    masks = two_regions(grid.shape)
    path = tmp_path / "seg.dcm"
    write_seg(path, masks, grid=grid, source=source, series=make_output())
    assert np.array_equal(read_back(path, 2, grid) > 0, masks["hsv"])
    referenced = pydicom.dcmread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == {h.SOPInstanceUID for h in source.datasets}
    assert_valid(path)


angles = st.floats(-180, 180)
steps = st.floats(0.5, 6.0)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.tuples(angles, angles, angles), st.tuples(steps, steps, steps))
def test_any_orientation_and_spacing_comes_back_to_a_micrometre(tmp_path_factory, make_output, degrees, spacing_mm):
    folder = tmp_path_factory.mktemp("any")
    source = read_source(
        write_series(folder / "source", directions=rotated(degrees), spacing_mm=spacing_mm, shape=(6, 7, 4))
    )
    mask = np.zeros(source.grid.shape, dtype=bool)
    mask[1:4, 2:5, 1:3] = True
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    write_seg(folder / "seg.dcm", {"hsv": mask}, grid=source.grid, source=source, series=make_output())
    volume = highdicom.seg.segread(folder / "seg.dcm").get_volume(segment_numbers=[1])
    there = np.argwhere(volume.array[..., 0] > 0)
    lps = np.column_stack([there, np.ones(len(there))]) @ volume.affine.T
    expected = np.column_stack([np.argwhere(mask), np.ones(mask.sum())]) @ (LPS_TO_RAS @ source.grid.matrix).T
    apart = np.linalg.norm(lps[:, None, :3] - expected[None, :, :3], axis=-1)
    assert apart.shape == (mask.sum(), mask.sum())
    assert apart.min(axis=0).max() < 1e-3
    assert apart.min(axis=1).max() < 1e-3


def test_probabilities_come_back_to_half_a_step(make_source, make_output, tmp_path):
    source = make_source("coronal")
    chance = np.random.default_rng(0).random(source.grid.shape).astype(np.float32)
    path = tmp_path / "seg.dcm"
    write_seg(path, {"hsv": chance}, grid=source.grid, source=source, series=make_output(), fractional=True)
    assert np.abs(read_back(path, 1, source.grid) - chance).max() <= 0.5 / 255 + 1e-6
    assert pydicom.dcmread(path).SegmentationFractionalType == "PROBABILITY"


def test_header_is_of_the_same_patient_study_and_frame_of_reference(make_source, make_output, tmp_path):
    source = make_source(modality="PT")
    path = tmp_path / "seg.dcm"
    write_seg(path, two_regions(source.grid.shape), grid=source.grid, source=source, series=make_output())
    header = pydicom.dcmread(path)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "PatientBirthDate"):
        assert header[keyword].value == source.first[keyword].value
    assert str(header.PatientName) == "Müller^Ada"
    assert header.SeriesInstanceUID != source.first.SeriesInstanceUID
    assert "RESEARCH ONLY" in header.SeriesDescription
    assert "RESEARCH ONLY" in header.ContentDescription
    assert header.ContentCreatorName == ""


def test_segments_say_what_they_are_and_what_made_them(make_source, make_output, tmp_path):
    source = make_source()
    path = tmp_path / "seg.dcm"
    write_seg(path, two_regions(source.grid.shape), grid=source.grid, source=source, series=make_output())
    gtv, hypoxic = pydicom.dcmread(path).SegmentSequence
    assert gtv.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm, Primary"
    assert hypoxic.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert "hypoxic subvolume" in hypoxic.SegmentLabel
    assert (gtv.TrackingID, hypoxic.TrackingID) == ("GTVP", "hsv")
    assert gtv.TrackingUID != hypoxic.TrackingUID
    algorithm = hypoxic.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("head-neck", "1.2")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"


@pytest.mark.parametrize(
    "code", [value for room in (regions, output) for value in vars(room).values() if isinstance(value, regions.Code)]
)
def test_codes_mean_what_the_standard_says(code):
    known = [entry[code.value] for entry in concepts[code.scheme_designator].values() if code.value in entry]
    assert code.meaning in {meaning for meaning, _ in known}


def test_counted_uids_and_a_fixed_time_make_equal_files(make_source, make_output, tmp_path):
    source = make_source()
    for name in ("a", "b"):
        masks = two_regions(source.grid.shape)
        write_seg(tmp_path / name, masks, grid=source.grid, source=source, series=make_output())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dcmqi_reads_the_same_voxels(make_source, make_output, tmp_path, tool):
    source = make_source("oblique")
    masks = two_regions(source.grid.shape)
    write_seg(tmp_path / "seg.dcm", masks, grid=source.grid, source=source, series=make_output())
    done = tool("segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nii")
    assert done.returncode == 0, done.stderr
    for number, mask in enumerate(masks.values(), start=1):
        image = nib.load(tmp_path / f"{number}.nii.gz")
        assert np.array_equal(onto(np.asarray(image.dataobj), image.affine, source.grid) > 0, mask)


@pytest.mark.parametrize(
    ("array", "fractional", "message"),
    [
        (np.zeros((20, 18, 12), dtype=bool), False, "has no voxel"),
        (np.ones((20, 18, 12)), False, "holds float64, a mask holds bool"),
        (np.ones((20, 18, 12), dtype=bool), True, "holds bool, probabilities are floating-point"),
        (np.full((20, 18, 12), 1.5), True, "runs from 1.5 to 1.5"),
        (np.full((20, 18, 12), np.nan), True, "runs from nan"),
        (np.full((20, 18, 12), 0.001), True, "stored as 0 everywhere"),
        (np.ones((20, 18, 11), dtype=bool), False, "20 x 18 x 11, its grid 20 x 18 x 12"),
    ],
)
def test_what_cannot_be_said_is_refused_and_leaves_no_file(make_source, tmp_path, array, fractional, message):
    source = make_source()
    series = OutputSeries(Algorithm("head-neck", "1.2"))
    path = tmp_path / "seg.dcm"
    with pytest.raises(DicomError, match=message):
        write_seg(path, {"hsv": array}, grid=source.grid, source=source, series=series, fractional=fractional)
    assert not path.exists()


def test_no_region_a_long_name_and_a_series_number_of_zero_are_refused(make_source, make_output, tmp_path):
    source = make_source()
    with pytest.raises(DicomError, match="no region"):
        write_seg(tmp_path / "x", {}, grid=source.grid, source=source, series=make_output())
    mask = np.ones(source.grid.shape, dtype=bool)
    with pytest.raises(DicomError, match="70 characters"):
        write_seg(tmp_path / "x", {"h" * 70: mask}, grid=source.grid, source=source, series=make_output())
    with pytest.raises(DicomError, match="series number 0"):
        OutputSeries(Algorithm("head-neck", "1.2"), number=0)


def test_a_source_highdicom_cannot_use_is_named(make_source, make_output, tmp_path):
    source = make_source()
    for header in source.datasets:
        header.PatientSex = "X"
    mask = np.ones(source.grid.shape, dtype=bool)
    with pytest.raises(DicomError, match=r"cannot be made from series .*mend the headers"):
        write_seg(tmp_path / "x", {"hsv": mask}, grid=source.grid, source=source, series=make_output())
