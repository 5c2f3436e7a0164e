from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian
from synthetic import ORIENTATIONS, edit, onto, rotated, write_series

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.source import SourceSeries, read_source
from hypoxnet.dicom.write_rtstruct import write_rtstruct
from hypoxnet.geometry import LPS_TO_RAS, Grid


def shapes(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """What contours lose most easily."""
    centre = np.array([9, 8, 5.5])
    away = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) - centre
    radius = np.linalg.norm(away, axis=-1)
    out = {"ball": radius < 5, "shell": (radius < 5) & (radius >= 3)}
    names = ("islands", "nested", "single", "border", "thin")
    islands, nested, single, border, thin = (out.setdefault(n, np.zeros(shape, dtype=bool)) for n in names)
    islands[2:5, 2:6, 2:6] = islands[10:14, 9:12, 3:6] = True
    nested[2:16, 2:15, 3:8] = True
    nested[4:14, 4:13, 3:8] = False
    nested[7:10, 7:10, 3:8] = True
    for voxel in ((4, 4, 4), (5, 5, 4), (10, 3, 7), (0, 0, 0), (-1, -1, -1)):
        single[voxel] = True
    border[0:5, :, :4] = border[-2:, -3:, 5:] = True
    thin[3, 2:14, 2:9] = thin[3:15, 7, 4] = thin[np.arange(5, 15), np.arange(3, 13), 6] = True
    return {**out, "noise": np.random.default_rng(1).random(shape) < 0.6}


def drawn(path: Path, source: SourceSeries) -> dict[str, np.ndarray]:
    """Masks of a reader that fills each contour by the even-odd rule at pixel centres and unites them."""
    structures = pydicom.dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in structures.StructureSetROISequence}
    planes = {header.SOPInstanceUID: k for k, header in enumerate(source.datasets)}
    to_index = np.linalg.inv(source.grid.matrix) @ LPS_TO_RAS
    masks = {}
    for roi in structures.ROIContourSequence:
        mask = masks.setdefault(names[roi.ReferencedROINumber], np.zeros(source.grid.shape, dtype=bool))
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            index = (np.column_stack([points, np.ones(len(points))]) @ to_index.T)[:, :3]
            k = planes[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            off_plane_mm = np.abs(index[:, 2] - k).max() * source.grid.spacing_mm[2]
            assert off_plane_mm < 1e-3
            mask[:, :, k] |= _even_odd(index[:, :2], source.grid.shape[:2])
    return masks


def _even_odd(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    i, j = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    inside = np.zeros(shape, dtype=bool)
    for (i0, j0), (i1, j1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (j0 > j) != (j1 > j)
        if abs(j1 - j0) > 1e-3:
            inside ^= crosses & (i < i0 + (j - j0) * (i1 - i0) / (j1 - j0))
    return inside


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_structure_set_follows_the_standard(make_source, make_output, tmp_path, assert_valid, modality):
    source = make_source("oblique", modality=modality)
    write_rtstruct(
        tmp_path / "rt.dcm", shapes(source.grid.shape), grid=source.grid, source=source, series=make_output()
    )
    assert_valid(tmp_path / "rt.dcm")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_come_back_exactly(make_source, make_output, tmp_path, orientation):
    source = make_source(orientation)
    masks = shapes(source.grid.shape)
    write_rtstruct(tmp_path / "rt.dcm", masks, grid=source.grid, source=source, series=make_output())
    back = drawn(tmp_path / "rt.dcm", source)
    for name, mask in masks.items():
        assert np.array_equal(back[name], mask), name


@pytest.mark.parametrize("combined", ["united", "by exclusive or"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_plastimatch_gives_the_masks_back(make_source, make_output, tmp_path, tool, orientation, combined):
    source = make_source(orientation, modality="MR")
    masks = shapes(source.grid.shape)
    write_rtstruct(tmp_path / "rt.dcm", masks, grid=source.grid, source=source, series=make_output())
    command = ["plastimatch", "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", tmp_path / "source"]
    extra = ["--xor-contours"] if combined == "by exclusive or" else []
    done = tool(*command, "--output-prefix", tmp_path / "out", "--prefix-format", "nii.gz", *extra)
    assert done.returncode == 0, done.stdout
    for name, mask in masks.items():
        image = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        back = onto(np.asarray(image.dataobj), image.affine, source.grid) > 0
        assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) == 1.0, name


angles = st.floats(-180, 180)
steps = st.floats(0.5, 6.0)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.tuples(angles, angles, angles), st.tuples(steps, steps, steps), st.integers(0, 2**16))
def test_any_orientation_spacing_and_mask_comes_back(tmp_path_factory, make_output, degrees, spacing_mm, seed):
    folder = tmp_path_factory.mktemp("any")
    source = read_source(
        write_series(folder / "source", directions=rotated(degrees), spacing_mm=spacing_mm, shape=(7, 6, 4))
    )
    mask = np.random.default_rng(seed).random(source.grid.shape) < 0.6
    write_rtstruct(folder / "rt.dcm", {"hsv": mask}, grid=source.grid, source=source, series=make_output())
    assert np.array_equal(drawn(folder / "rt.dcm", source)["hsv"], mask)


def test_contours_refer_to_study_series_frame_and_every_plane(make_source, make_output, tmp_path):
    source = make_source("sagittal", modality="PT")
    masks = {"GTVP": shapes(source.grid.shape)["ball"]}
    write_rtstruct(tmp_path / "rt.dcm", masks, grid=source.grid, source=source, series=make_output())
    header = pydicom.dcmread(tmp_path / "rt.dcm")
    assert header.StudyInstanceUID == source.first.StudyInstanceUID
    assert str(header.PatientName) == "Müller^Ada"
    (frame,) = header.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == source.frame_of_reference == header.FrameOfReferenceUID
    assert header.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == source.frame_of_reference
    study = frame.RTReferencedStudySequence[0]
    assert study.ReferencedSOPInstanceUID == source.first.StudyInstanceUID
    series = study.RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.first.SeriesInstanceUID
    listed = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in series.ContourImageSequence]
    assert listed == [(h.SOPClassUID, h.SOPInstanceUID) for h in source.datasets]
    used = {
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        for contour in header.ROIContourSequence[0].ContourSequence
    }
    reached = masks["GTVP"].any(axis=(0, 1))
    assert used == {h.SOPInstanceUID for h, k in zip(source.datasets, reached, strict=True) if k}


def test_rois_say_what_they_are(make_source, make_output, tmp_path):
    source = make_source()
    ball = shapes(source.grid.shape)["ball"]
    write_rtstruct(
        tmp_path / "rt.dcm", {"GTVP": ball, "hsv": ball}, grid=source.grid, source=source, series=make_output()
    )
    header = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [roi.ROIName for roi in header.StructureSetROISequence] == ["GTVP", "hsv"]
    assert {roi.ROIGenerationAlgorithm for roi in header.StructureSetROISequence} == {"AUTOMATIC"}
    assert [item.RTROIInterpretedType for item in header.RTROIObservationsSequence] == ["GTV", ""]
    assert header.ROIContourSequence[0].ROIDisplayColor != header.ROIContourSequence[1].ROIDisplayColor
    assert header.ApprovalStatus == "UNAPPROVED"
    assert "RESEARCH ONLY" in header.SeriesDescription
    assert header.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


def test_mask_on_a_finer_grid_takes_the_nearest_voxel(make_source, make_output, tmp_path):
    source = make_source("oblique")
    mask = shapes(source.grid.shape)["shell"]
    fine = source.grid.matrix @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    fine[:3, 3] = (source.grid.matrix @ [-1 / 3, -1 / 3, -1 / 3, 1])[:3]
    repeated = mask.repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    grid = Grid.from_affine(repeated.shape, fine)
    write_rtstruct(tmp_path / "rt.dcm", {"hsv": repeated}, grid=grid, source=source, series=make_output())
    assert np.array_equal(drawn(tmp_path / "rt.dcm", source)["hsv"], mask)


def test_contours_of_a_tilted_gantry_lie_on_its_slices(tmp_path, make_output, make_source):
    paths = write_series(tmp_path / "source")
    for path in paths:
        x, y, z = (float(v) for v in pydicom.dcmread(path).ImagePositionPatient)
        edit(path, ImagePositionPatient=[str(x), str(y + 0.2 * (z - 7.0)), str(z)])
    source = read_source(paths)
    mask = shapes(source.grid.shape)["ball"]
    write_rtstruct(tmp_path / "rt.dcm", {"hsv": mask}, grid=source.grid, source=source, series=make_output())
    assert 0.8 < drawn(tmp_path / "rt.dcm", source)["hsv"].sum() / mask.sum() < 1.2
    for contour in pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence:
        plane = next(
            h for h in source.datasets if h.SOPInstanceUID == contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        )
        edges = (np.array(contour.ContourData[1::3], float) - float(plane.ImagePositionPatient[1])) / 2.0 + 0.5
        assert np.abs(edges - edges.round()).max() < 1e-3


def test_a_contour_of_more_points_than_explicit_vr_can_hold_comes_back(make_output, tmp_path):
    source = read_source(write_series(tmp_path / "source", shape=(120, 120, 1)))
    comb = np.zeros(source.grid.shape, dtype=bool)
    comb[:, ::2] = comb[:, 1::2][::2] = True
    write_rtstruct(tmp_path / "rt.dcm", {"hsv": comb}, grid=source.grid, source=source, series=make_output())
    assert (tmp_path / "rt.dcm").stat().st_size > 65536
    assert np.array_equal(drawn(tmp_path / "rt.dcm", source)["hsv"], comb)


def test_counted_uids_and_a_fixed_time_make_equal_files(make_source, make_output, tmp_path):
    source = make_source()
    for name in ("a", "b"):
        masks = shapes(source.grid.shape)
        write_rtstruct(tmp_path / name, masks, grid=source.grid, source=source, series=make_output())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_mask_between_the_slices_of_the_source_is_refused(make_source, make_output, tmp_path):
    source = make_source()
    affine = source.grid.matrix.copy()
    affine[:3, 2] /= 10
    affine[:3, 3] = (source.grid.matrix @ [0, 0, 0.5, 1])[:3]
    grid = Grid.from_affine((20, 18, 1), affine)
    mask = np.ones(grid.shape, dtype=bool)
    with pytest.raises(DicomError, match="360 voxels, none of which"):
        write_rtstruct(tmp_path / "rt.dcm", {"hsv": mask}, grid=grid, source=source, series=make_output())
    assert not (tmp_path / "rt.dcm").exists()


@pytest.mark.parametrize(
    ("array", "label", "message"),
    [
        (np.zeros((20, 18, 12), dtype=bool), "A", "has no voxel"),
        (np.ones((20, 18, 12)), "A", "holds float64"),
        (np.ones((20, 18, 12), dtype=bool), "A" * 17, "has 17 characters"),
        (np.ones((20, 18, 11), dtype=bool), "A", "20 x 18 x 11, its grid"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make_source, make_output, tmp_path, array, label, message):
    source = make_source()
    regions = {"hsv": array}
    with pytest.raises(DicomError, match=message):
        write_rtstruct(tmp_path / "rt.dcm", regions, grid=source.grid, source=source, series=make_output(), label=label)
