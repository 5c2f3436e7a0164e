"""The script of the page about ONNX, run as it is printed and without HypoxNet, beside our own inference."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.bundle.export.onnx_program import ONNX
from hypoxnet.cases import CaseRecord
from hypoxnet.inference.predictor import Predictor
from hypoxnet.models.config import ModelConfig

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "docs" / "how-to" / "onnx_case.py"
BLOCKED = ("hypoxnet", "torch", "monai", "scipy", "onnx")
OBLIQUE = np.array([[3.2, 1.1, 0.0, -40.0], [-1.1, 3.2, 0.0, -30.0], [0.0, 0.0, 5.0, -55.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def model(onnx_model) -> tuple[Predictor, Path]:
    """Two members, covariates of every kind."""
    return onnx_model


@pytest.fixture
def case(make_case):
    return replace(make_case(), covariates={"age": 66.0, "gtv_ml": 21.0, "subsite": 1.0})


def by_script(export: Path, output: Path, record: CaseRecord) -> None:
    """What the script makes of a case."""
    done = run_script(export, output, {**record.channels, **record.masks, **record.covariates})
    assert done.returncode == 0, done.stderr


def run_script(export: Path, output: Path, given: Mapping[str, object]) -> subprocess.CompletedProcess[str]:
    """Run the script where none of the big packages can be imported."""
    arguments = [str(SCRIPT), str(export), str(output), *(f"{name}={value}" for name, value in given.items())]
    block = f"import sys, runpy; sys.modules.update(dict.fromkeys({BLOCKED})); sys.argv = {arguments}"
    return subprocess.run(
        [sys.executable, "-c", f"{block}; runpy.run_path(sys.argv[0], run_name='__main__')"],
        capture_output=True,
        text=True,
        check=False,
    )


def assert_same(model: tuple[Predictor, Path], record: CaseRecord, output: Path) -> None:
    predictor, export = model
    ours = predictor.predict(record)
    by_script(export, output, record)
    for name, mask in ours.mask.items():
        image = nib.load(output / f"{name}_mask.nii.gz")
        assert np.allclose(image.affine, ours.grid.matrix, atol=1e-4)
        assert (np.asarray(image.dataobj) == mask).all(), "Dice 1.000"
        probability = nib.load(output / f"{name}_probability.nii.gz").get_fdata()
        assert np.abs(probability - ours.probability[name]).max() < 1e-4
        assert 0 < mask.sum() < mask.size, "a mask of nothing would agree by itself"
    risk = json.loads((output / "risk.json").read_text())["incidence"]
    for cause, row in ours.incidence.items():
        assert np.abs(np.array(risk[cause][:-1]) - row).max() < 1e-4
        assert max(row) > 1e-3


def test_the_page_prints_the_script_that_is_tested_here():
    page = (ROOT / "docs" / "how-to" / "onnx.md").read_text(encoding="utf-8")
    assert f"```python\n{SCRIPT.read_text(encoding='utf-8')}```" in page


def test_the_script_has_at_most_fifty_lines_of_code():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    words = (ast.Module, ast.FunctionDef)
    texts = [node.body[0] for node in ast.walk(tree) if isinstance(node, words) and ast.get_docstring(node)]
    of_texts = {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    assert len([line for place, line in enumerate(lines, start=1) if line.strip() and place not in of_texts]) <= 50


def test_the_short_example_of_the_page_runs(model, tmp_path):
    page = (ROOT / "docs" / "how-to" / "onnx.md").read_text(encoding="utf-8")
    section = page[page.index("## One window") : page.index("## A whole case")]
    code = section[section.index("```python\n") + 10 : section.rindex("```")]
    (tmp_path / "exported").symlink_to(model[1])
    shown = "print(pred.shape, incidence.shape, float(pred.max()) <= 1)"
    done = subprocess.run(
        [sys.executable, "-c", code + shown], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(1, 1, 16, 16, 16) (1, 2, 4) True"


def test_a_model_of_covariates_alone(clinical_spec, opened, exported, tmp_path):
    model = replace(clinical_spec.model, backbone=ModelConfig(backbone="none"), channels=0, regions=0)
    settings = replace(clinical_spec.settings, channels=(), norms=(), regions=())
    predictor = opened(replace(clinical_spec, model=model, settings=settings))
    export = exported(predictor, ONNX)
    assert sorted(path.name for path in export.glob("*.onnx")) == ["covariates.onnx", "prepare.onnx"]
    assert_same((predictor, export), CaseRecord("P1", covariates={"age": 71.0, "subsite": 3.0}), tmp_path)


def test_a_case_of_two_channels_on_two_grids(model, case, tmp_path):
    assert_same(model, case, tmp_path)


def test_a_channel_that_is_absent_and_covariates_that_are_not_known(model, case, without_t1w, tmp_path):
    assert_same(model, replace(without_t1w(case), covariates={"gtv_ml": 3.0}), tmp_path)


def test_the_grid_of_the_other_channel_without_the_reference(model, case, tmp_path):
    record = replace(case, channels={"T1W": case.channels["T1W"]}, covariates={"subsite": 2.0})
    assert_same(model, record, tmp_path)


def test_without_a_contour_windows_cover_everything(model, make_case, tmp_path):
    assert_same(model, make_case(contour=False), tmp_path)


def test_a_tumour_larger_than_a_window_on_an_oblique_anisotropic_grid(model, case, tmp_path):
    generator = np.random.default_rng(7)
    pet, large, node = (tmp_path / f"{name}.nii.gz" for name in ("pet", "large", "node"))
    nib.save(nib.Nifti1Image(generator.gamma(2.0, 0.6, (30, 28, 24)).astype(np.float32), OBLIQUE), pet)
    contours = {large: np.s_[2:26, 4:24, 3:20], node: np.s_[26:29, 24:27, 20:23]}
    for path, voxels in contours.items():
        array = np.zeros((30, 28, 24), np.uint8)
        array[voxels] = 1
        nib.save(nib.Nifti1Image(array, OBLIQUE), path)
    record = replace(case, channels={**case.channels, "FMISO_SUV": pet}, masks={"GTVP": large, "GTVN": node})
    assert_same(model, record, tmp_path / "out")


def test_names_that_the_model_does_not_know_are_refused(model, case, tmp_path):
    done = run_script(model[1], tmp_path / "out", {"FMSIO_SUV": case.channels["FMISO_SUV"], "aeg": 66.0})
    reads = "FMISO_SUV, T1W, GTVP, GTVN, age, gtv_ml, subsite"
    assert done.stderr == f"the model does not read FMSIO_SUV, aeg, but {reads}\n"
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_contours_on_two_grids(model, case, tmp_path):
    array = np.zeros((22, 20, 18), np.uint8)
    array[9:13, 8:12, 7:11] = 1
    node = tmp_path / "node.nii.gz"
    nib.save(nib.Nifti1Image(array, nib.load(case.channels["T1W"]).affine), node)
    assert_same(model, replace(case, masks={**case.masks, "GTVN": node}), tmp_path / "out")


@pytest.mark.slow
def test_mirrored_images_outside_of_contours_with_flags_of_what_is_known(
    tiny_settings, make_spec, opened, exported, make_case, tmp_path
):
    # Of 23 voxels an odd number is missing along two axes, and mirror images are not padded as the case is.
    spec = make_spec(replace(tiny_settings, inside_tumour=False, window=(26, 16, 24)))
    spec = replace(spec, inference=replace(spec.inference, mirror=True, threshold=0.4))
    predictor = opened(spec)
    model = predictor, exported(predictor, ONNX)
    assert_same(model, make_case(), tmp_path / "one")
    assert_same(model, replace(make_case("P002", contour=False, voxels=23), covariates={}), tmp_path / "two")


@pytest.mark.slow
def test_phantoms_of_the_reference_object(model, phantom_records, tmp_path):
    predictor, _ = model
    for record in phantom_records[:3]:
        assert_same(model, predictor.needed(record), tmp_path / record.case_id)
