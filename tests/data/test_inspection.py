import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from hypoxnet import cli
from hypoxnet.data.inspection import inspect_manifest

SHAPE = (8, 9, 10)


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0]) if affine is None else affine), path)
    return path


@pytest.fixture
def cohort(tmp_path):
    """Two good patients; the test spoils the second."""
    generator = np.random.default_rng(0)
    for case in ("P1", "P2"):
        save(tmp_path / f"{case}_pet.nii.gz", generator.gamma(2.0, 0.5, SHAPE).astype(np.float32))
        ball = np.zeros(SHAPE, np.uint8)
        ball[2:6, 2:6, 2:6] = 1
        save(tmp_path / f"{case}_gtv.nii.gz", ball)
        save(tmp_path / f"{case}_hsv.nii.gz", ball)
    path = tmp_path / "cohort.csv"
    header = "case_id,site,FMISO_SUV,GTVP,HYPOXIA,lrc_months,lrc_event,age\n"
    rows = [
        f"{c},north,{c}_pet.nii.gz,{c}_gtv.nii.gz,{c}_hsv.nii.gz,{m},{e},61\n"
        for c, m, e in (("P1", 12, 1), ("P2", 30, 0))
    ]
    path.write_text(header + "".join(rows))
    return path


def sheared(folder):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[0, 1] = 1.0
    save(folder / "P2_pet.nii.gz", np.ones(SHAPE, np.float32), affine)


def singular(folder):
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    nib.save(image, folder / "plain.nii")
    raw = bytearray((folder / "plain.nii").read_bytes())
    raw[280:296] = np.zeros(4, np.float32).tobytes()  # srow_x
    raw[254:256] = np.int16(2).tobytes()  # sform_code
    (folder / "P2_pet.nii.gz").write_bytes(gzip.compress(bytes(raw)))


def cut_short(folder):
    path = folder / "P2_pet.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def other_grid(folder):
    ball = np.zeros((8, 8, 8), np.uint8)
    ball[2:6, 2:6, 2:6] = 1
    save(folder / "P2_hsv.nii.gz", ball)


def apart(folder):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[0, 3] = 500.0
    save(folder / "P2_pet.nii.gz", np.random.default_rng(1).random(SHAPE).astype(np.float32), affine)


SPOILT = [
    (lambda f: (f / "P2_pet.nii.gz").unlink(), "FMISO_SUV: {f}/P2_pet.nii.gz does not exist; mend the path"),
    (
        lambda f: (f / "P2_pet.nii.gz").write_bytes(b"no image"),
        "FMISO_SUV: {f}/P2_pet.nii.gz cannot be read as an image",
    ),
    (cut_short, "FMISO_SUV: {f}/P2_pet.nii.gz is damaged or cut short"),
    (other_grid, "GTVP (8 x 9 x 10 at 4.00 mm) and HYPOXIA (8 x 8 x 8 at 4.00 mm, {f}/P2_hsv.nii.gz) lie on different"),
    (sheared, "FMISO_SUV: {f}/P2_pet.nii.gz: the affine is sheared by 14.04 degrees, at most 0.1 is rounding"),
    (singular, "FMISO_SUV: {f}/P2_pet.nii.gz: the affine is singular"),
    (
        lambda f: save(f / "P2_pet.nii.gz", np.linspace(0, 30000, 720, dtype=np.float32).reshape(SHAPE)),
        "FMISO_SUV: {f}/P2_pet.nii.gz has a maximum of 30,000, in g/ml at most 50 is plausible; it may be in Bq/ml",
    ),
    (
        lambda f: save(f / "P2_pet.nii.gz", np.linspace(-20, 3, 720, dtype=np.float32).reshape(SHAPE)),
        "FMISO_SUV: {f}/P2_pet.nii.gz has a minimum of -20, in g/ml at least 0 is plausible",
    ),
    (
        lambda f: save(f / "P2_pet.nii.gz", np.full(SHAPE, 2.0, np.float32)),
        "FMISO_SUV: {f}/P2_pet.nii.gz is 2 in every voxel",
    ),
    (
        lambda f: save(f / "P2_pet.nii.gz", np.full(SHAPE, np.nan, np.float32)),
        "FMISO_SUV: {f}/P2_pet.nii.gz has 720 of 720 voxels that are nan or infinite",
    ),
    (
        lambda f: save(f / "P2_gtv.nii.gz", np.zeros(SHAPE, np.uint8)),
        "GTVP: {f}/P2_gtv.nii.gz is empty (0 voxels of 720)",
    ),
    (
        lambda f: save(f / "P2_gtv.nii.gz", np.arange(720, dtype=np.int16).reshape(SHAPE) % 3),
        "GTVP: {f}/P2_gtv.nii.gz is a mask with the value 2, a mask holds 0 and 1 only",
    ),
    (
        lambda f: save(f / "P2_pet.nii.gz", np.ones((*SHAPE, 5), np.float32)),
        "FMISO_SUV: {f}/P2_pet.nii.gz has shape 8 x 9 x 10 x 5, one 3D volume is needed",
    ),
    (apart, "GTVP and FMISO_SUV do not overlap in space (first voxels at (0, 0, 0) and (500, 0, 0) mm)"),
]


@pytest.mark.parametrize(("spoil", "sentence"), SPOILT)
def test_each_kind_of_bad_file_is_a_sentence_with_line_case_and_file(cohort, spoil, sentence):
    spoil(cohort.parent)
    inspection = inspect_manifest(cohort, jobs=1)
    assert inspection.faults[0].startswith("line 3: P2: " + sentence.format(f=cohort.parent)), inspection.faults
    assert {fault.split(":")[0] for fault in inspection.faults} == {"line 3"}


def test_a_good_cohort_has_no_faults_and_a_table_of_what_is_there(cohort):
    inspection = inspect_manifest(cohort)
    assert inspection.faults == ()
    table = dict(inspection.table())
    assert table["patients"] == "2"
    assert table["sites"] == "north 2"
    assert table["channel FMISO_SUV"] == "2 of 2"
    assert table["mask GTVP"] == "2 of 2, median 4.1 mL (4.1 to 4.1)"
    assert table["locoregional failures"] == "1"
    assert table["follow-up"] == "median 30.0 months in the 1 censored; 12.0 to 30.0 months in all"


def test_an_empty_hypoxic_volume_is_no_fault(cohort):
    save(cohort.parent / "P2_hsv.nii.gz", np.zeros(SHAPE, np.uint8))
    assert inspect_manifest(cohort, jobs=1).faults == ()


def test_headers_only_reads_no_voxels_but_sees_grids(cohort):
    save(cohort.parent / "P2_pet.nii.gz", np.full(SHAPE, 30000.0, np.float32))
    assert inspect_manifest(cohort, headers_only=True, jobs=1).faults == ()
    other_grid(cohort.parent)
    assert "lie on different grids" in inspect_manifest(cohort, headers_only=True, jobs=1).faults[0]


def test_the_command_prints_the_table_and_ends_with_0_or_2(cohort, capsys):
    assert cli.main(["check", str(cohort)]) == 0
    assert "locoregional failures" in capsys.readouterr().out
    (cohort.parent / "P2_pet.nii.gz").unlink()
    assert cli.main(["check", str(cohort), "--headers-only"]) == 2
    said = capsys.readouterr()
    assert "line 3: P2: FMISO_SUV" in said.err
    assert f"{cohort}: 1 fault" in said.err
    assert cli.main(["check", str(cohort.parent / "none.csv")]) == 2
    assert "the file does not exist" in capsys.readouterr().err


def test_the_same_image_under_another_name_is_a_fault(cohort, capsys):
    (cohort.parent / "P2_pet.nii.gz").write_bytes((cohort.parent / "P1_pet.nii.gz").read_bytes())
    assert cli.main(["check", str(cohort), "--headers-only"]) == 2
    assert "line 3: P1 (line 2) and P2 (line 3) have the same image" in capsys.readouterr().err


def table_of_covariates(path, *, extra="", copied=False):
    """Forty patients without images, one of whom may stand there twice."""
    generator = np.random.default_rng(5)
    rows = [
        f"P{n},{generator.uniform(40, 80):.1f},{generator.uniform(9, 16):.1f},{generator.uniform(2, 60):.1f},{n % 2}"
        + (f",{n % 5}" if extra else "")
        for n in range(40)
    ]
    rows += ["COPY" + rows[7].removeprefix("P7")] if copied else []
    path.write_text(f"case_id,age,hb_g_dl,lrc_months,lrc_event{extra}\n" + "\n".join(rows) + "\n")
    return path


def test_the_same_row_under_another_name_is_a_fault_without_images_too(tmp_path, capsys):
    assert cli.main(["check", str(table_of_covariates(tmp_path / "honest.csv"))]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["check", str(table_of_covariates(tmp_path / "copied.csv", copied=True))]) == 2
    assert "line 42: P7 (line 9) and COPY (line 42) agree in the outcome and in 2 covariates" in capsys.readouterr().err


def test_a_column_that_training_would_refuse_is_a_warning(tmp_path, capsys):
    assert cli.main(["check", str(table_of_covariates(tmp_path / "cohort.csv", extra=",x_relapse"))]) == 0
    assert "warning: line 1: the covariate x_relapse is named after the follow-up" in capsys.readouterr().err


def test_the_command_loads_no_torch():
    code = (
        "import sys, hypoxnet.cli, hypoxnet.data.inspection; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
