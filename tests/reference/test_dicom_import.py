"""Import of DICOM that others wrote: PET reference objects, and a real patient beside the published NIfTI."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.dicom.rules import default_rules
from hypoxnet.dicom.suv import PatientTable
from hypoxnet.jobs.import_dicom import ImportRequest, import_folder

OBJECTS = ["DRO_0_0", "DRO_1_0", "DRO_2_0", "DRO_2_3", "DRO_2_4", "DRO_3_0", "DRO_3_1", "DRO_4_1", "DRO_5_0"]


def imported(folder, output, **settings):
    run = import_folder(ImportRequest(folder, output, default_rules(), None, register=False, **settings))
    assert not run.failed
    row = next(csv.DictReader((output / "manifest.csv").read_text().splitlines()))
    return run, row


@pytest.mark.parametrize("name", OBJECTS)
def test_every_reference_object_has_its_suv(reference, tmp_path, name):
    _, row = imported(reference / "ibsi_suv_dro" / name, tmp_path, patients={})
    channel = "PET_SUV" if name == "DRO_5_0" else "FDG_SUV"
    image = nib.load(tmp_path / row[channel])
    mask = nib.load(reference / "ibsi_suv_dro" / name / "mask" / "DRO_mask.nii.gz")
    assert np.allclose(image.affine, mask.affine, atol=1e-2)
    inside = image.get_fdata()[mask.get_fdata() > 0]
    found = np.array([inside.min(), np.median(inside), inside.max()])
    if name == "DRO_2_3":
        # Stored as 5, 26 and 105 hundredths of cm2/ml: cut off, not rounded, to steps of 0.038 in SUV by weight.
        step = 0.01 * 70000 / 18481
        assert (found <= [0.2, 1.0, 4.0]).all()
        assert (found > np.array([0.2, 1.0, 4.0]) - step).all()
    else:
        assert np.allclose(found, [0.2, 1.0, 4.0], rtol=0.005)


def test_a_real_patient_is_the_published_one(reference, tmp_path):
    run, row = imported(reference / "sts_dicom", tmp_path)
    suv, mask = (nib.load(tmp_path / row[name]) for name in ("FDG_SUV", "GTVP"))
    inside = suv.get_fdata()[mask.get_fdata() > 0]
    assert 7.9 <= inside.max() <= 8.0
    assert 0.15 <= inside.min() <= 0.20
    published, contour = (
        nib.load(reference / "sts_petmr" / "STS_001" / f"PET_{what}.nii.gz") for what in ("image", "mask")
    )
    # The published volume is a part of the imported one, on the same lattice.
    offset = np.linalg.inv(suv.affine) @ published.affine
    first = np.rint(offset[:3, 3]).astype(int)
    assert np.allclose(offset[:3, :3], np.eye(3), atol=1e-3)
    part = tuple(slice(f, f + n) for f, n in zip(first, published.shape, strict=True))
    theirs, ours = contour.get_fdata() > 0, mask.get_fdata()[part] > 0
    assert ours.sum() == mask.get_fdata().sum()
    assert 2 * (theirs & ours).sum() / (theirs.sum() + ours.sum()) >= 0.97
    assert np.allclose(suv.get_fdata()[part][theirs], published.get_fdata()[theirs], rtol=0.01)
    sidecar = json.loads((tmp_path / row["FDG_SUV"].replace(".nii.gz", ".json")).read_text())
    assert sidecar["Suv"]["Units"] == "BQML"
    assert any("left out, in another frame of reference" in note for note in run.notes)


def test_a_table_of_the_user_goes_before_the_header(reference, tmp_path):
    folder = reference / "ibsi_suv_dro" / "DRO_0_0"
    _, row = imported(folder, tmp_path / "one")
    identity = row["case_id"]
    patient = (
        import_folder(ImportRequest(folder, tmp_path / "two", default_rules(), None, register=False))
        .index.series[0]
        .patient
    )
    _, heavier = imported(folder, tmp_path / "three", patients={patient: PatientTable(weight_kg=140.0)})
    one = nib.load(tmp_path / "one" / row["FDG_SUV"]).get_fdata().max()
    two = nib.load(tmp_path / "three" / heavier["FDG_SUV"]).get_fdata().max()
    assert identity == heavier["case_id"]
    assert np.isclose(two, 2 * one, rtol=1e-5)
