from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from synthetic import onto

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.rasterise import mask_of
from hypoxnet.dicom.rules import default_rules
from hypoxnet.dicom.scans import MrScan, PetScan, StudyIdentity
from hypoxnet.dicom.structures import read_structures
from hypoxnet.dicom.write_map import PADDING
from hypoxnet.dicom.write_study import write_study
from hypoxnet.errors import QuantityError
from hypoxnet.geometry import LPS_TO_RAS, Grid
from hypoxnet.jobs.import_dicom import ImportRequest, import_folder

STUDY = StudyIdentity("HN001", "tests, seed 1", 72.5)
SCANS = (
    PetScan("FMISO", 370e6, uptake_s=14400.0, duration_s=600.0),
    PetScan("FDG", 350e6, uptake_s=3600.0, duration_s=300.0),
    MrScan("T1W", echo_time_ms=9.2, repetition_time_ms=550.0),
)
PET = Grid.from_affine((16, 14, 10), [[3.0, 0, 0, -24], [0, 3.0, 0, -20], [0, 0, 3.0, -14], [0, 0, 0, 1]])
CT = Grid.from_affine((24, 21, 10), [[2.0, 0, 0, -24], [0, 2.0, 0, -20], [0, 0, 3.0, -14], [0, 0, 0, 1]])
# Turned by 20 degrees about x, as the plane of an MR often is.
C, S = np.cos(np.radians(20)), np.sin(np.radians(20))
MR = Grid.from_affine((20, 18, 8), [[2.0, 0, 0, -20], [0, 2 * C, -3 * S, -12], [0, 2 * S, 3 * C, -18], [0, 0, 0, 1]])


def ball(grid: Grid, centre_mm=(-2.0, 0.0, 1.0), radius_mm=9.0) -> np.ndarray:
    index = np.argwhere(np.ones(grid.shape, dtype=bool))
    places = (np.column_stack([index, np.ones(len(index))]) @ grid.matrix.T)[:, :3]
    return (np.linalg.norm(places - centre_mm, axis=1) < radius_mm).reshape(grid.shape)


def images_of(day: int = 0) -> dict:
    generator = np.random.default_rng(day)
    images = {name: (generator.gamma(2.0, 1.0, PET.shape), PET) for name in ("FMISO_SUV", "FDG_SUV")}
    images["CT_HU"] = (generator.normal(0.0, 300.0, CT.shape), CT)
    images |= {name: (generator.gamma(2.0, 90.0, MR.shape), MR) for name in ("T1W", "T2W")}
    for name, typical in (("R2STAR", 40.0), ("KTRANS", 0.2), ("ADC", 1.2), ("DR1", 0.03)):
        values = generator.normal(typical, typical / 5, MR.shape).astype(np.float32)
        values[0] = np.nan
        images[name] = (values, MR)
    return images


def masks_of() -> dict:
    masks = {name: (ball(PET), PET) for name in ("GTVP", "HYPOXIA", "MUSCLE", "BLOOD")}
    return masks | {"GTVN": (ball(CT, radius_mm=6.0), CT)}


def write(folder: Path, study: StudyIdentity = STUDY, **settings):
    return write_study(
        folder, study, **{"images": images_of(study.day), "masks": masks_of(), "scans": SCANS, **settings}
    )


def test_import_gives_the_visits_back(tmp_path):
    for day in (0, 14):
        write(tmp_path / "dicom" / f"day{day}", StudyIdentity("HN001", "tests, seed 1", 72.5, day=day))
    run = import_folder(ImportRequest(tmp_path / "dicom", tmp_path / "cohort", default_rules(), None, jobs=1))
    assert not run.failed
    # Import brings all masks onto the grid of the hypoxia PET, and says so; nothing else is to be said.
    assert all("GTVN: brought from 24 x 21 x 10" in note for note in run.notes)
    rows = list(csv.DictReader((tmp_path / "cohort" / "manifest.csv").read_text().splitlines()))
    assert [(row["case_id"], row["visit"]) for row in rows] == [("HN001", "baseline"), ("HN001", "day014")]
    for row, day in zip(rows, (0, 14), strict=True):
        images = images_of(day)
        for name, most in (("FMISO_SUV", 1e-4), ("FDG_SUV", 1e-4), ("CT_HU", 0.5), ("T1W", 0.01), ("T2W", 0.01)):
            read = nib.load(tmp_path / "cohort" / row[name])
            assert np.abs(read.affine - images[name][1].matrix).max() < 1e-5
            assert np.abs(read.get_fdata() - images[name][0]).max() <= most
        for name in ("GTVP", "HYPOXIA", "MUSCLE", "BLOOD", "GTVN"):
            read = nib.load(tmp_path / "cohort" / row[name])
            assert np.abs(read.affine - PET.matrix).max() < 1e-5
            if name != "GTVN":
                assert np.array_equal(read.get_fdata() > 0.5, ball(PET))


def test_masks_come_back_exactly_on_the_grid_of_their_series(tmp_path):
    written = write(tmp_path / "dicom")
    for name, (mask, grid) in masks_of().items():
        (roi,) = [roi for roi in read_structures(written.contours[name]).rois if roi.name == name]
        found = mask_of(roi, grid, frame_of_reference_uid=STUDY.uid("frame of reference"))
        assert np.array_equal(found.mask, mask)


def test_mask_without_a_series_on_its_grid_is_drawn_on_the_pet(tmp_path):
    fine = Grid.from_affine((48, 42, 30), [[1.0, 0, 0, -25], [0, 1.0, 0, -21], [0, 0, 1.0, -15], [0, 0, 0, 1]])
    write(tmp_path / "dicom", masks={"GTVP": (ball(fine), fine)})
    run = import_folder(ImportRequest(tmp_path / "dicom", tmp_path / "cohort", default_rules(), None, jobs=1))
    back = nib.load(tmp_path / "cohort" / run.rows[0]["GTVP"]).get_fdata() > 0.5
    # Each PET pixel takes the voxel at its centre: the same ball on the grid of the PET.
    assert np.array_equal(back, ball(PET))


def test_maps_hold_their_values_in_their_places(tmp_path):
    images = images_of()
    written = write(tmp_path / "dicom")
    for name in ("R2STAR", "KTRANS", "ADC", "DR1"):
        (path,) = written.images[name]
        volume = highdicom.imread(path).get_volume(apply_real_world_transform=False)
        values, grid = images[name]
        back = onto(volume.array, LPS_TO_RAS @ volume.affine, grid)
        assert np.array_equal(back, np.where(np.isnan(values), np.float32(PADDING), values))


def test_maps_and_contours_refer_to_the_series_on_their_grid(tmp_path):
    written = write(tmp_path / "dicom")
    series = {
        name: pydicom.dcmread(written.images[name][0]).SeriesInstanceUID for name in ("FMISO_SUV", "CT_HU", "T1W")
    }
    for region, name in (("GTVP", "FMISO_SUV"), ("HYPOXIA", "FMISO_SUV"), ("GTVN", "CT_HU")):
        frame = pydicom.dcmread(written.contours[region]).ReferencedFrameOfReferenceSequence[0]
        (referred,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
        assert referred.SeriesInstanceUID == series[name]
    (path,) = written.images["KTRANS"]
    assert pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID == series["T1W"]


def test_all_objects_are_of_one_patient_study_and_frame_of_reference(tmp_path):
    write(tmp_path / "dicom")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (tmp_path / "dicom").rglob("*.dcm")]
    assert len({h.SOPInstanceUID for h in headers}) == len(headers) == 2 * 10 + 10 + 2 * 8 + 4 + 2
    assert len({h.SeriesInstanceUID for h in headers}) == len({h.SeriesNumber for h in headers}) == 5 + 4 + 2
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDescription", "FrameOfReferenceUID"):
        assert len({str(h[keyword].value) for h in headers}) == 1
    assert all(h.PatientIdentityRemoved == "YES" and "no person" in h.DeidentificationMethod for h in headers)


def test_every_kind_of_object_follows_the_standard(tmp_path, assert_valid):
    written = write(tmp_path / "dicom")
    for path in [paths[0] for paths in written.images.values()] + list(written.contours.values()):
        assert_valid(path)


def test_same_seed_gives_the_same_bytes(tmp_path):
    digests = []
    for name in ("a", "b"):
        write(tmp_path / name)
        paths = sorted((tmp_path / name).rglob("*.dcm"))
        digests.append([(p.relative_to(tmp_path / name), hashlib.sha256(p.read_bytes()).hexdigest()) for p in paths])
    assert digests[0] == digests[1]


def test_empty_mask_is_left_out_with_a_sentence(tmp_path):
    written = write(tmp_path / "dicom", masks=masks_of() | {"HYPOXIA": (np.zeros(PET.shape, dtype=bool), PET)})
    assert "HYPOXIA" not in written.contours
    assert "GTVP" in written.contours
    assert written.left_out == ("HYPOXIA has no voxel: contours cannot say that, it is left out",)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"images": {}}, DicomError, "HN001: there is no PET, CT or MR series"),
        ({"scans": SCANS[:1]}, DicomError, "FDG_SUV: dose and times of its scan are not given; add a PetScan"),
        ({"images": images_of() | {"ADCC": (np.ones(MR.shape), MR)}}, QuantityError, "ADCC .* did you mean ADC"),
        ({"masks": {"GTVP": (np.ones(PET.shape), PET)}}, DicomError, "GTVP holds float64, a mask holds bool"),
        ({"masks": {"GTVP": (ball(CT), PET)}}, DicomError, "GTVP is 24 x 21 x 10, its grid 16 x 14 x 10"),
        ({"images": {"T1W": (np.full(MR.shape, np.nan), MR)}}, DicomError, "T1W: 2880 of 2880 voxels are nan"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "dicom", **settings)
    assert not list(tmp_path.iterdir())
