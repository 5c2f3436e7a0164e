"""A tree of DICOM becomes a cohort, and predictions go back as DICOM."""

import csv
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "dicom"))
from synthetic import ORIENTATIONS, edit, write_series

from hypoxnet.cli import main
from hypoxnet.dicom.rasterise import mask_of
from hypoxnet.dicom.segments import read_seg
from hypoxnet.dicom.structures import read_structures
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.infer import run_inference_job

SHAPE = (24, 22, 16)


def write_pet(folder, *, patient="HN0042", series="7", study="1", date="20240102", **changes):
    """An FMISO PET with a hot ball; voxels in Bq/ml."""
    axes = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    ball = sum((a - n / 2) ** 2 for a, n in zip(axes, SHAPE, strict=True)) < 16
    values = (1500 + 3000 * ball).astype(np.uint16)
    for path in write_series(folder, modality="PT", shape=SHAPE, spacing_mm=(4.0, 4.0, 4.0)):
        dataset = pydicom.dcmread(path)
        k = int(dataset.InstanceNumber) - 1
        dataset.PixelData = np.ascontiguousarray(values[:, :, k].T).tobytes()
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = f"1.2.3.{series}", f"1.2.4.{study}"
        dataset.SOPInstanceUID = f"1.2.3.{series}.{k + 1}"
        dataset.PatientID, dataset.PatientWeight, dataset.SeriesDescription = patient, "75", "FMISO 2h"
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = date
        dataset.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = "Fluoromisonidazole F^18^"
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path, enforce_file_format=True)
    return ball


def run(*arguments, capsys):
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def tree(tmp_path):
    """One patient with PET."""
    write_pet(tmp_path / "dicom" / "a")
    return tmp_path / "dicom"


def test_a_pet_becomes_suv_with_its_steps_and_no_name(tree, tmp_path, capsys):
    status, out, err = run("import", tree, "--output", tmp_path / "cohort", "--key", tmp_path / "key", capsys=capsys)
    assert (status, err) == (0, "")
    row = next(csv.DictReader((tmp_path / "cohort" / "manifest.csv").read_text().splitlines()))
    assert row["case_id"].startswith("HN")
    assert row["case_id"] != "HN0042"
    image = nib.load(tmp_path / "cohort" / row["FMISO_SUV"])
    # Injected at 08:00, series at 10:20: 8,400 s.
    factor = 75000 / (3.7e8 * 2 ** (-8400 / 6586.2))
    assert np.isclose(image.get_fdata().max(), 4500 * factor, rtol=1e-5)
    sidecar = json.loads((tmp_path / "cohort" / row["FMISO_SUV"].replace(".nii.gz", ".json")).read_text())
    assert any("START" in step for step in sidecar["SuvSteps"])
    everything = "".join(path.read_text(errors="replace") for path in (tmp_path / "cohort").rglob("*.json"))
    everything += (tmp_path / "cohort" / "manifest.csv").read_text() + out
    for secret in ("Müller", "Ada", "HN0042", "19600101", "20240102", "1.2.3.7"):
        assert secret not in everything
    assert run("check", tmp_path / "cohort" / "manifest.csv", capsys=capsys)[0] == 0


def test_the_same_key_gives_the_same_name_and_another_key_another(tree, tmp_path, capsys):
    names = []
    for output, key in (("one", "key"), ("two", "key"), ("three", "other")):
        run("import", tree, "--output", tmp_path / output, "--key", tmp_path / key, capsys=capsys)
        names.append((tmp_path / output / "manifest.csv").read_text().splitlines()[1].split(",")[0])
    assert names[0] == names[1] != names[2]


def test_identifiers_stay_only_when_asked(tree, tmp_path, capsys):
    run("import", tree, "--output", tmp_path / "cohort", "--keep-identifiers", capsys=capsys)
    assert "HN0042" in (tmp_path / "cohort" / "manifest.csv").read_text()


def test_a_dry_run_says_what_would_become_what_and_writes_nothing(tree, tmp_path, capsys):
    status, out, _ = run(
        "import", tree, "--output", tmp_path / "cohort", "--key", tmp_path / "key", "--dry-run", capsys=capsys
    )
    assert status == 0
    assert "FMISO_SUV" in out
    assert not (tmp_path / "cohort").exists()


def test_a_patient_without_weight_fails_and_the_others_are_done(tree, tmp_path, capsys):
    write_pet(tree / "b", patient="HN0043", series="8", study="2", PatientWeight=None)
    output = tmp_path / "cohort"
    status, _, err = run("import", tree, "--output", output, "--key", tmp_path / "key", capsys=capsys)
    assert status == 2
    assert "weight (0010,1030) is missing; give it in the patient table" in err
    assert len((output / "manifest.csv").read_text().splitlines()) == 2
    table = tmp_path / "patients.csv"
    table.write_text("patient_id,weight_kg,height_cm,sex\nHN0043,60,,\n")
    arguments = ("import", tree, "--output", output, "--key", tmp_path / "key", "--patients", table)
    assert run(*arguments, capsys=capsys)[0] == 0
    assert len((output / "manifest.csv").read_text().splitlines()) == 3


def test_a_later_study_is_a_visit_named_by_its_days(tree, tmp_path, capsys):
    write_pet(tree / "b", series="8", study="2", date="20240116", FrameOfReferenceUID="1.2.3.99")
    run("import", tree, "--output", tmp_path / "cohort", "--key", tmp_path / "key", capsys=capsys)
    rows = list(csv.DictReader((tmp_path / "cohort" / "manifest.csv").read_text().splitlines()))
    assert [row["visit"] for row in rows] == ["baseline", "day014"]


def test_a_missing_slice_is_refused_with_its_place(tree, tmp_path, capsys):
    next((tree / "a").glob("008.dcm")).unlink()
    status, _, err = run("import", tree, "--output", tmp_path / "cohort", "--key", tmp_path / "key", capsys=capsys)
    assert status == 2
    assert "1 of 16 slices are missing" in err


def test_a_folder_without_dicom_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("hello")
    status, _, err = run(
        "import", tmp_path / "empty", "--output", tmp_path / "cohort", "--key", tmp_path / "key", capsys=capsys
    )
    assert status == 2
    assert "none of its 1 files is a DICOM image or contour" in err


def test_masks_go_to_dicom_and_come_back(tree, tmp_path, capsys):
    run("import", tree, "--output", tmp_path / "cohort", "--key", tmp_path / "key", capsys=capsys)
    row = next(csv.DictReader((tmp_path / "cohort" / "manifest.csv").read_text().splitlines()))
    image = nib.load(tmp_path / "cohort" / row["FMISO_SUV"])
    mask = image.get_fdata() > 1.1 * np.median(image.get_fdata())
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), image.affine), tmp_path / "hsv.nii.gz")
    arguments = (
        "--mask",
        f"HYPOXIA={tmp_path / 'hsv.nii.gz'}",
        "--map",
        f"FMISO_SUV={tmp_path / 'cohort'}/{row['FMISO_SUV']}",
    )
    status, out, err = run("to-dicom", *arguments, "--source", tree / "a", "--output", tmp_path / "out", capsys=capsys)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 3
    source = pydicom.dcmread(next((tree / "a").glob("*.dcm")))
    structures = read_structures(tmp_path / "out" / "regions_rtstruct.dcm")
    from hypoxnet.geometry import Grid

    grid = Grid.from_affine(mask.shape, image.affine)
    back = mask_of(structures.rois[0], grid, frame_of_reference_uid=source.FrameOfReferenceUID).mask
    assert np.array_equal(back, mask)
    assert int(read_seg(tmp_path / "out" / "regions_seg.dcm").segments[0].array.sum()) == int(mask.sum())


def test_dicom_goes_in_and_contours_come_out(tree, tmp_path, make_bundle, tiny_spec, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    config = InferJobConfig(
        bundle=str(make_bundle(tiny_spec)),
        input="dicom",
        folder=str(tree),
        output=str(tmp_path / "predictions"),
        output_format=["nifti", "seg", "probability", "rtstruct"],
        inference=InferenceConfig(device="cpu", threshold=0.5),
    )
    assert run_inference_job(config) == 0
    row = next(csv.DictReader((tmp_path / "predictions" / "predictions.csv").read_text().splitlines()))
    key = row["case_id"]
    mask = nib.load(next((tmp_path / "predictions" / key).glob("*_mask.nii.gz"))).get_fdata()
    assert 0 < mask.sum() < mask.size
    seg = read_seg(tmp_path / "predictions" / "dicom" / f"{key}_seg.dcm")
    assert int(seg.segments[0].array.sum()) == int(mask.sum())
    written = pydicom.dcmread(tmp_path / "predictions" / "dicom" / f"{key}_rtstruct.dcm")
    assert written.PatientID == "HN0042"
    assert "RESEARCH ONLY" in written.SeriesDescription


def test_dicom_out_without_dicom_in_is_refused():
    with pytest.raises(ValueError, match="DICOM can be written only of cases that came as DICOM"):
        InferJobConfig(output_format=["seg"])


def test_an_mr_of_another_frame_is_left_out_when_not_registered(tree, tmp_path, capsys):
    for path in write_series(tree / "mr", modality="MR", directions=ORIENTATIONS["axial"]):
        edit(
            path,
            StudyInstanceUID="1.2.4.1",
            SeriesInstanceUID="1.2.3.9",
            FrameOfReferenceUID="1.2.3.77",
            SeriesDescription="T1 TSE",
            SOPInstanceUID=f"1.2.3.9.{int(path.stem)}",
        )
    output = tmp_path / "cohort"
    arguments = ("import", tree, "--output", output, "--key", tmp_path / "key", "--no-register")
    status, out, _ = run(*arguments, capsys=capsys)
    assert status == 0
    assert "T1W: left out, in another frame of reference than FMISO_SUV and not registered" in out
    assert "T1W" not in (output / "manifest.csv").read_text().splitlines()[0]


def test_a_planned_dose_lies_beside_the_channels_in_gray(tree, tmp_path, capsys):
    from test_dose import dose_set, write

    frame = f"{pydicom.dcmread(next((tree / 'a').glob('*.dcm'))).FrameOfReferenceUID}"
    identity = {"PatientID": "HN0042", "StudyInstanceUID": "1.2.4.1", "SeriesInstanceUID": "1.2.3.5"}
    write(dose_set(FrameOfReferenceUID=frame, StudyDate="20240102", **identity), tree / "dose.dcm")
    output = tmp_path / "cohort"
    status, _, err = run("import", tree, "--output", output, "--key", tmp_path / "key", capsys=capsys)
    assert (status, err) == (0, "")
    dose = next(output.rglob("DOSE_GY.nii.gz"))
    assert nib.load(dose).get_fdata().max() == pytest.approx(59 * 0.7, rel=1e-5)
    assert json.loads(dose.with_name("DOSE_GY.json").read_text())["InOneSpace"] is True
    assert "DOSE" not in (output / "manifest.csv").read_text().splitlines()[0]


def test_two_patients_of_one_name_do_not_overwrite_each_other(tree, tmp_path, capsys):
    write_pet(tree / "b", patient="HN 0042", series="8", study="2")
    write_pet(tree / "c", patient="HN_0042", series="9", study="3")
    output = tmp_path / "cohort"
    status, _, err = run("import", tree, "--output", output, "--keep-identifiers", capsys=capsys)
    assert status == 2
    assert "would both be called HN_0042; import with pseudonyms" in err
    assert len((output / "manifest.csv").read_text().splitlines()) == 3


def test_a_broken_structure_set_leaves_the_images(tree, tmp_path, capsys):
    source = pydicom.dcmread(next((tree / "a").glob("*.dcm")), stop_before_pixels=True)
    source.Modality, source.SOPClassUID, source.SOPInstanceUID = "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.5"
    source.SeriesInstanceUID = "1.2.3.11"
    source.file_meta.MediaStorageSOPClassUID, source.file_meta.MediaStorageSOPInstanceUID = source.SOPClassUID, "1.2.5"
    source.save_as(tree / "rs.dcm", enforce_file_format=True)
    output = tmp_path / "cohort"
    status, out, _ = run("import", tree, "--output", output, "--key", tmp_path / "key", capsys=capsys)
    assert status == 0
    assert "contours are left out" in out
    assert len((output / "manifest.csv").read_text().splitlines()) == 2


def test_an_import_of_a_part_does_not_take_away_what_is_there(tree, tmp_path, capsys):
    output = tmp_path / "cohort"
    arguments = ("import", tree, "--output", output, "--key", tmp_path / "key")
    assert run(*arguments, capsys=capsys)[0] == 0
    table = (output / "manifest.csv").read_text().splitlines()
    (output / "manifest.csv").write_text(f"{table[0]},lrc_months,lrc_event\n{table[1]},31.5,0\n")
    assert run(*arguments, capsys=capsys)[0] == 0
    kept = next(csv.DictReader((output / "manifest.csv").read_text().splitlines()))
    assert (kept["lrc_months"], kept["lrc_event"]) == ("31.5", "0")
    for path in (tree / "a").glob("*.dcm"):
        edit(path, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2", SeriesDescription="CT neck")
    status, _, err = run(*arguments, capsys=capsys)
    assert status == 2
    assert "already holds FMISO_SUV, which this import has not" in err
    assert next(output.rglob("FMISO_SUV.nii.gz")).exists()


def test_places_that_cannot_be_written_are_one_sentence(tree, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for arguments in (
        ("import", tree, "--output", tmp_path / "file", "--key", tmp_path / "key"),
        ("import", tree, "--output", tmp_path / "cohort", "--key", tmp_path / "file" / "key"),
    ):
        status, _, err = run(*arguments, capsys=capsys)
        assert status == 2
        assert len(err.strip().splitlines()) == 1


def test_a_mask_of_another_place_is_refused(tree, tmp_path, capsys):
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:15, 5:15, 5:15] = 1
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    affine[:3, 3] = [500.0, 0.0, 0.0]
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "m.nii.gz")
    arguments = ("to-dicom", "--mask", f"GTVP={tmp_path / 'm.nii.gz'}", "--source", tree / "a")
    status, _, err = run(*arguments, "--output", tmp_path / "out", capsys=capsys)
    assert status == 2
    assert "100 % of its voxels lie outside of the source series" in err
