from pathlib import Path

import numpy as np
import pytest
from synthetic import ORIENTATIONS, edit, write_series

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.source import read_source
from hypoxnet.geometry import LPS_TO_RAS


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_grid_is_where_the_headers_say(make_source, orientation):
    source = make_source(orientation)
    for k, header in enumerate(source.datasets):
        for i, j in ((0, 0), (19, 17)):
            along, down = np.array(header.ImageOrientationPatient[:3]), np.array(header.ImageOrientationPatient[3:])
            lps = np.array(header.ImagePositionPatient, float) + along * i * 2.0 + down * j * 2.0
            ras = (LPS_TO_RAS @ [*lps, 1.0])[:3]
            assert (source.grid.matrix @ [i, j, k, 1.0])[:3] == pytest.approx(ras, abs=1e-5)


def test_slices_are_in_the_order_of_their_place_whatever_the_files_are_called(make_source):
    assert [int(header.InstanceNumber) for header in make_source().datasets] == list(range(1, 13))


def test_headers_come_without_pixels(make_source):
    assert all("PixelData" not in header for header in make_source().datasets)


def test_one_slice_is_as_thick_as_it_says(tmp_path):
    assert read_source(write_series(tmp_path, shape=(6, 6, 1))).grid.spacing_mm == pytest.approx((2.0, 2.0, 3.0))


def test_what_an_export_lost_of_patient_and_study_is_there_but_empty(tmp_path):
    paths = write_series(tmp_path)
    for path in paths:
        edit(path, AccessionNumber=None, ReferringPhysicianName=None)
    assert read_source(paths).first.AccessionNumber == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SeriesInstanceUID": "1.2.3"}, "2 series are mixed"),
        ({"FrameOfReferenceUID": "1.2.3"}, "2 frames of reference are mixed"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"FrameOfReferenceUID": None}, "has no FrameOfReferenceUID"),
        ({"NumberOfFrames": "4"}, "multi-frame"),
        ({"PixelSpacing": ["1", "1"]}, "PixelSpacing is"),
        ({"ImagePositionPatient": ["-31.5", "12.25", "100"]}, "add the missing slices"),
        ({"ImagePositionPatient": ["-31.5", "12.25", "7"]}, "two slices lie at 7.000 mm"),
    ],
)
def test_what_is_not_one_stack_is_refused(tmp_path: Path, values, message):
    paths = write_series(tmp_path)
    edit(paths[3], **values)
    if "NumberOfFrames" in values:
        edit(paths[3], PixelData=bytes(4 * 20 * 18 * 2))
    with pytest.raises(DicomError, match=message):
        read_source(paths)


def test_no_files_are_refused():
    with pytest.raises(DicomError, match="has no files"):
        read_source([])
