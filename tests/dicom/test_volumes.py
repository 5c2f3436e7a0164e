"""Slices to volumes: where each voxel lies, against SimpleITK; and what is refused, with its numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.ndimage import map_coordinates
from synthetic import ORIENTATIONS, edit, rotated, write_series

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.volumes import read_stack

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (9, 7, 5)
OBLIQUE = ORIENTATIONS["oblique"]


def write_noise(folder: Path, **settings) -> list[Path]:
    """A series whose every voxel differs, files in the order of the slices."""
    paths = sorted(write_series(folder, **{"shape": SHAPE, **settings}), reverse=True)
    generator = np.random.default_rng(1)
    for path in paths:
        dataset = pydicom.dcmread(path)
        pixels = generator.integers(0, 4000, (dataset.Rows, dataset.Columns), dtype=np.uint16)
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(path, enforce_file_format=True)
    return paths


def by_simple_itk(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Array i j k and affine to RAS."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def assert_as_simple_itk(paths: list[Path]) -> None:
    found = read_stack(paths, name="series")
    array, affine = by_simple_itk(paths)
    assert np.abs(found.grid.matrix - affine).max() < 1e-3
    assert np.array_equal(found.array, array.astype(np.float32))
    assert len(found.headers) == array.shape[2]


def refusal(paths: list[Path]) -> str:
    with pytest.raises(DicomError) as caught:
        read_stack(paths, name="series")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_voxels_lie_where_simple_itk_puts_them(tmp_path, orientation, modality):
    paths = write_noise(tmp_path, modality=modality, directions=ORIENTATIONS[orientation], spacing_mm=(1.5, 0.8, 3.27))
    assert_as_simple_itk(paths)


def test_order_of_files_does_not_matter(tmp_path):
    paths = write_noise(tmp_path, directions=OBLIQUE)
    expected = read_stack(paths, name="series")
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        found = read_stack([paths[i] for i in order], name="series")
        assert np.array_equal(found.array, expected.array)
        assert found.grid.same_as(expected.grid)
        assert [h.InstanceNumber for h in found.headers] == [h.InstanceNumber for h in expected.headers]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.3, 8.0)] * 3),
    order=st.permutations(range(SHAPE[2])),
)
def test_any_orientation_and_spacing_comes_back(degrees, spacing_mm, order):
    with tempfile.TemporaryDirectory() as folder:
        paths = write_noise(Path(folder), directions=rotated(degrees), spacing_mm=spacing_mm)
        assert_as_simple_itk(paths)
        found = read_stack([paths[i] for i in order], name="series")
    along, down = rotated(degrees)
    columns = np.stack([along, down, np.cross(along, down)], axis=1) * spacing_mm
    assert np.abs(LPS_TO_RAS[:3, :3] @ found.grid.matrix[:3, :3] - columns).max() < 1e-4


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_rounded_cosines_keep_the_spacing(tmp_path, digits):
    along, down = rotated((31.0, -17.0, 12.0))
    paths = write_noise(tmp_path, directions=(np.round(along, digits), np.round(down, digits)))
    grid = read_stack(paths, name="series").grid
    assert np.allclose(np.linalg.norm(grid.matrix[:3, :3], axis=0), (2, 2, 3), atol=2e-3)
    columns = np.stack([along, down, np.cross(along, down)], axis=1) * (2, 2, 3)
    assert np.abs(LPS_TO_RAS[:3, :3] @ grid.matrix[:3, :3] - columns).max() < 10**-digits * 5


def test_cosines_of_other_slices_may_be_rounded_otherwise(tmp_path):
    paths = write_noise(tmp_path, directions=OBLIQUE)
    edit(paths[2], ImageOrientationPatient=[0.8004, 0.3597, -0.4802, 0.0003, 0.7999, 0.6002])
    assert read_stack(paths, name="series").grid.shape == SHAPE


def test_wrong_length_of_cosines_does_not_stretch_the_volume(tmp_path):
    """Up to a hundredth is taken for rounding, of direction only."""
    paths = write_noise(tmp_path)
    for path in paths:
        edit(path, ImageOrientationPatient=[1.008, 0, 0, 0, 1.008, 0])
    grid = read_stack(paths, name="series").grid
    assert np.allclose(np.linalg.norm(grid.matrix[:3, :3], axis=0), (2, 2, 3), atol=1e-6)


def test_missing_slice_is_refused_with_its_place(tmp_path):
    paths = write_noise(tmp_path)
    text = refusal([paths[0], *paths[2:]])
    assert "1 of 5 slices are missing, between 7.000 mm" in text
    assert "and 13.000 mm" in text
    assert "at a spacing of 3.000 mm; export the whole series" in text


def test_repeated_slice_is_refused(tmp_path):
    paths = write_noise(tmp_path)
    text = refusal([*paths, paths[1]])
    assert "2 slices share a place" in text
    assert "10.000 mm; remove the duplicates" in text


def test_slices_all_at_one_place_are_refused(tmp_path):
    paths = write_noise(tmp_path)
    for path in paths:
        edit(path, ImagePositionPatient=[0, 0, 7])
    assert "5 slices share a place" in refusal(paths)


def test_uneven_spacing_is_refused_with_both_numbers(tmp_path):
    paths = write_noise(tmp_path)
    edit(paths[4], ImagePositionPatient=[-31.5, 12.25, 20.2])
    text = refusal(paths)
    assert "4.200 mm" in text
    assert "3.000 mm elsewhere; resample" in text


def test_rounded_positions_are_even(tmp_path):
    paths = write_noise(tmp_path, spacing_mm=(2.0, 2.0, 1.25))
    for k, path in enumerate(paths):
        edit(path, ImagePositionPatient=[-31.5, 12.25, [7.0, 8.2, 9.5, 10.8, 12.0][k]])
    grid = read_stack([*paths], name="series").grid
    assert np.linalg.norm(grid.matrix[:3, 2]) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "are oriented differently; these are two series"),
        ({"PixelSpacing": [2.5, 2.5]}, "pixels of 001.dcm are 2.5 mm wide, those of 002.dcm 2 mm"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient (0020,0032) is missing or no number"),
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient (0020,0037) is missing or no number"),
        ({"PixelSpacing": None}, "PixelSpacing (0028,0030) is missing or no number"),
        ({"PixelSpacing": [0, 2]}, "PixelSpacing is 0 x 2 mm, it must be positive"),
        ({"ImagePositionPatient": [0, 0]}, "3 finite numbers are needed"),
        ({"ImagePositionPatient": [0, 0, 1e9]}, "3 finite numbers are needed"),
        ({"PixelData": None}, "has no pixels (CT); it is not an image"),
        ({"Rows": 8}, "header promises 144"),
        ({"Rows": 60000, "Columns": 60000}, "header promises"),
        ({"NumberOfFrames": 2_000_000_000}, "header promises"),
        ({"NumberOfFrames": -3}, "Number of Frames is -3"),
    ],
)
def test_refusal_of_one_bad_slice(tmp_path, changes, said):
    paths = write_noise(tmp_path)
    edit(paths[4], **changes)
    assert said in refusal(list(reversed(paths)))


def test_two_sizes_are_refused_with_both(tmp_path):
    paths = write_noise(tmp_path)
    edit(paths[3], Rows=9, Columns=7)
    assert "001.dcm has 9 x 7 pixels, 002.dcm 7 x 9" in refusal(list(reversed(paths)))


def test_skewed_cosines_are_refused(tmp_path):
    paths = write_noise(tmp_path)
    for path in paths:
        edit(path, ImageOrientationPatient=[1, 0, 0, 0.5, 0.866, 0])
    assert "no pair of unit vectors at a right angle" in refusal(paths)


def test_colour_is_refused(tmp_path):
    paths = write_noise(tmp_path)
    colour = np.zeros((SHAPE[1], SHAPE[0], 3), dtype=np.uint8)
    changes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0}
    edit(paths[0], SamplesPerPixel=3, PhotometricInterpretation="RGB", PixelData=colour.tobytes() + b"\0", **changes)
    assert "3 samples per pixel; colour images are no quantity" in refusal(paths)


def test_frames_without_functional_groups_are_refused(tmp_path):
    paths = write_noise(tmp_path)
    pixels = pydicom.dcmread(paths[0]).PixelData
    edit(paths[0], NumberOfFrames=2, PixelData=2 * pixels)
    assert "has 2 frames without functional groups" in refusal(paths[:1])


def test_no_slice_is_refused():
    assert refusal([]) == "series: there is no slice"


def test_each_slice_has_its_own_rescale(tmp_path):
    paths = write_noise(tmp_path, modality="PT")
    for k, path in enumerate(paths):
        edit(path, RescaleSlope=0.001 * (k + 1), RescaleIntercept=-0.5 * k)
    found = read_stack(paths, name="series")
    for k, path in enumerate(paths):
        stored = pydicom.dcmread(path).pixel_array.T
        assert np.allclose(found.array[..., k], stored * 0.001 * (k + 1) - 0.5 * k, rtol=1e-6)


def test_factors_are_asked_in_the_order_of_the_slices(tmp_path):
    paths = write_noise(tmp_path, modality="PT")
    found = read_stack(list(reversed(paths)), name="series", factors=lambda hs: [float(h.ImageIndex) for h in hs])
    for k, path in enumerate(paths):
        assert np.array_equal(found.array[..., k], pydicom.dcmread(path).pixel_array.T * np.float32(k + 1))


def test_slope_that_is_no_number_gives_no_number(tmp_path):
    """It stays visible for whoever makes a channel of it."""
    paths = write_noise(tmp_path)
    edit(paths[2], RescaleSlope=float("nan"))
    found = read_stack(paths, name="series").array
    assert np.isnan(found[..., 2]).all()
    assert np.isfinite(found[..., [0, 1, 3, 4]]).all()


def test_one_slice_takes_its_thickness(tmp_path):
    path = write_noise(tmp_path)[0]
    assert read_stack([path], name="series").grid.spacing_mm[2] == pytest.approx(3.0)
    for value in (0, -2, float("nan"), float("inf")):
        edit(path, SliceThickness=value)
        assert read_stack([path], name="series").grid.spacing_mm[2] == 1.0


def phantom(points: np.ndarray) -> np.ndarray:
    """A smooth blob about the middle of the volume, by LPS."""
    return 3000 * np.exp(-(((points - np.array([-8.0, 34.0, 34.0])) / np.array([6.0, 6.0, 8.0])) ** 2).sum(axis=-1))


@pytest.mark.parametrize("degrees", [-12.0, 5.0, 20.0])
def test_tilted_gantry_gives_the_object_back(tmp_path, degrees):
    """Slices tilted about x, the table moved along z."""
    turn = np.radians(degrees)
    along, down = np.array([1.0, 0, 0]), np.array([0, np.cos(turn), np.sin(turn)])
    shape = (24, 24, 19)
    paths = sorted(write_series(tmp_path, directions=(along, down), shape=shape), reverse=True)
    rows, columns = np.meshgrid(np.arange(24), np.arange(24), indexing="ij")
    for k, path in enumerate(paths):
        position = np.array([-31.5, 12.25, 7.0 + 3.0 * k])
        points = position + 2.0 * rows[..., None] * down + 2.0 * columns[..., None] * along
        pixels = np.round(phantom(points)).astype(np.uint16)
        edit(path, ImagePositionPatient=[round(float(x), 6) for x in position], PixelData=pixels.tobytes())
    found = read_stack(paths, name="series")
    assert f"tilted by {abs(degrees):.2f} degrees" in found.notes[0]
    assert found.grid.spacing_mm[2] == pytest.approx(3.0 * np.cos(turn))
    index = np.argwhere(np.ones(shape, dtype=bool))
    points = (index @ found.grid.matrix[:3, :3].T + found.grid.matrix[:3, 3]) * np.array([-1.0, -1.0, 1.0])
    expected = phantom(points).reshape(shape)
    assert np.abs(found.array + 1024 - expected).max() < 0.04 * 3000
    centre = map_coordinates(found.array + 1024, (index.T * 1.0), order=1).reshape(shape)
    assert np.average(points, axis=0, weights=centre.ravel()) == pytest.approx([-8.0, 34.0, 34.0], abs=0.3)


def enhanced(path: Path, *, order: list[int], shared: bool) -> np.ndarray:
    """An enhanced object of five frames in the given order; returns k rows columns."""
    slices = write_noise(path.parent / "classic", modality="MR", directions=OBLIQUE)
    datasets = [pydicom.dcmread(p) for p in slices]
    made = datasets[0]
    stored = np.stack([d.pixel_array for d in datasets])
    places = [list(d.ImagePositionPatient) for d in datasets]
    measures, plane, scale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, plane.ImageOrientationPatient = made.PixelSpacing, made.ImageOrientationPatient
    scale.RescaleSlope, scale.RescaleIntercept = 2.0, -10.0
    common = {
        "PixelMeasuresSequence": [measures],
        "PlaneOrientationSequence": [plane],
        "PixelValueTransformationSequence": [scale],
    }
    made.SharedFunctionalGroupsSequence = [Dataset()]
    made.PerFrameFunctionalGroupsSequence = [Dataset() for _ in order]
    for group, k in zip(made.PerFrameFunctionalGroupsSequence, order, strict=True):
        place = Dataset()
        place.ImagePositionPatient = places[k]
        group.PlanePositionSequence = [place]
    for group in made.SharedFunctionalGroupsSequence if shared else made.PerFrameFunctionalGroupsSequence:
        for keyword, items in common.items():
            setattr(group, keyword, items)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del made[keyword]
    made.NumberOfFrames, made.PixelData = len(order), stored[order].tobytes()
    made.save_as(path, enforce_file_format=True)
    return stored


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_object_equals_its_classic_series(tmp_path, shared):
    stored = enhanced(tmp_path / "enhanced.dcm", order=[3, 0, 4, 1, 2], shared=shared)
    found = read_stack([tmp_path / "enhanced.dcm"], name="series")
    classic = read_stack(list((tmp_path / "classic").glob("*.dcm")), name="series")
    assert found.grid.same_as(classic.grid)
    assert np.array_equal(found.array, 2.0 * stored.transpose(2, 1, 0) - 10.0)


def test_enhanced_object_without_a_group_per_frame_is_refused(tmp_path):
    path = tmp_path / "enhanced.dcm"
    enhanced(path, order=[0, 1, 2, 3, 4], shared=True)
    dataset = pydicom.dcmread(path)
    edit(path, PerFrameFunctionalGroupsSequence=list(dataset.PerFrameFunctionalGroupsSequence)[:3])
    assert "has 5 frames and 3 functional groups" in refusal([path])


def test_enhanced_object_without_positions_is_refused(tmp_path):
    path = tmp_path / "enhanced.dcm"
    enhanced(path, order=[0, 1, 2, 3, 4], shared=True)
    edit(path, PerFrameFunctionalGroupsSequence=[Dataset() for _ in range(5)])
    assert "frame 1: ImagePositionPatient is missing" in refusal([path])
