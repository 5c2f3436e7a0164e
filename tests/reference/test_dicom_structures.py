"""Structure sets of real scanners and planning systems, against masks that others made of them."""

import nibabel as nib
import numpy as np
import pydicom
import pytest

from hypoxnet.dicom.rasterise import mask_of
from hypoxnet.dicom.structures import area_mm2, read_structures
from hypoxnet.geometry import Grid

pytestmark = pytest.mark.reference
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid_of_series(folder) -> tuple[Grid, str]:
    """From the headers alone: first and last plane, and their number."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    row, column = np.array(headers[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    places = np.array([h.ImagePositionPatient for h in headers], dtype=float)
    places = places[np.argsort(places @ np.cross(row, column))]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * headers[0].PixelSpacing[1], column * headers[0].PixelSpacing[0]
    affine[:3, 2], affine[:3, 3] = (places[-1] - places[0]) / (len(places) - 1), places[0]
    return Grid.from_affine((headers[0].Columns, headers[0].Rows, len(places)), LPS @ affine), str(
        headers[0].FrameOfReferenceUID
    )


def one_file(folder):
    (path,) = folder.iterdir()
    return path


def dice(a, b) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture(scope="module")
def sarcoma(reference):
    """Volumes in mL and masks of STS_001 by series and region."""
    found = {}
    for series in ("FDG_PET", "MR_T1", "MR_T2"):
        folder = reference / "sts_dicom" / series
        grid, frame = grid_of_series(folder / "image")
        for roi in read_structures(one_file(folder / "mask")).rois:
            found[series, roi.name] = mask_of(roi, grid, frame_of_reference_uid=frame), grid
    return found


def test_the_sarcoma_on_pet_is_the_published_mask_to_the_voxel(reference, sarcoma):
    found, grid = sarcoma["FDG_PET", "GTV_Mass"]
    published = nib.load(reference / "sts_petmr" / "STS_001" / "PET_mask.nii.gz")
    cropped = np.argwhere(np.asarray(published.dataobj) > 0)
    index = nib.affines.apply_affine(np.linalg.inv(grid.matrix) @ published.affine, cropped)
    expected = np.zeros(grid.shape, dtype=bool)
    expected[tuple(np.rint(index).astype(int).T)] = True
    assert expected.sum() == 5095
    np.testing.assert_array_equal(found.mask, expected)
    assert found.notes == ()


@pytest.mark.parametrize(("region", "ml"), [("GTV_Mass", 366.1), ("GTV_Edema", 579.0)])
def test_the_sarcoma_has_one_volume_on_pet_and_both_mr(sarcoma, region, ml):
    for series in ("FDG_PET", "MR_T1", "MR_T2"):
        found, grid = sarcoma[series, region]
        assert found.mask.sum() * grid.voxel_ml == pytest.approx(ml, rel=0.01)
        assert not any("tilted" in note for note in found.notes)


@pytest.mark.parametrize("name", ["0_0", "1_0", "2_0", "2_3", "2_4", "3_0", "3_1", "4_1", "5_0"])
def test_the_digital_reference_object_keeps_the_area_of_its_contours(reference, name):
    # Its mask is not made of these contours: that has 18 planes of radius 60 voxels, these are 16 of 58.9.
    folder = reference / "ibsi_suv_dro" / f"DRO_{name}"
    grid, frame = grid_of_series(folder / "PT")
    (roi,) = read_structures(one_file(folder / "RS")).rois
    found = mask_of(roi, grid, frame_of_reference_uid=frame)
    drawn = sum(area_mm2(contour) for contour in roi.contours) / 16.0
    assert found.mask.sum() == pytest.approx(drawn, rel=0.003)
    truth = np.asarray(nib.load(folder / "mask" / "DRO_mask.nii.gz").dataobj) > 0
    assert not (found.mask & ~truth).any()
    assert dice(found.mask, truth) > 0.92
    assert found.notes == ()
