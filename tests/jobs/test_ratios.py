from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import CaseRecord
from hypoxnet.data.config import DataConfig
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.plan import plan_settings
from hypoxnet.errors import CaseError, ConfigError
from hypoxnet.images import read_channel
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.inference.table import finished_row
from hypoxnet.jobs.derive import MapCache, complete_cohort
from hypoxnet.maps.config import MapsConfig
from hypoxnet.transforms.config import LabelConfig
from hypoxnet.transforms.normalise import norm_of
from hypoxnet.transforms.settings import PrepareSettings


def save(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0])), path)
    return path


@pytest.fixture
def record(tmp_path: Path) -> CaseRecord:
    suv = np.full((8, 8, 8), 2.4, np.float32)
    suv[:2], suv[2:4] = 1.2, 1.6
    muscle, blood = np.zeros((2, 8, 8, 8), np.uint8)
    muscle[:2], blood[2:4] = 1, 1
    return CaseRecord(
        "P1",
        channels={"FMISO_SUV": save(tmp_path / "suv.nii.gz", suv), "FDG_SUV": save(tmp_path / "fdg.nii.gz", suv)},
        masks={"MUSCLE": save(tmp_path / "m.nii.gz", muscle), "BLOOD": save(tmp_path / "b.nii.gz", blood)},
    )


def cache(tmp_path: Path, *wanted: str) -> MapCache:
    return MapCache(tmp_path / "maps", MapsConfig(), wanted)


def test_a_hypoxia_tracer_gets_its_ratio_to_muscle_and_fdg_none(record: CaseRecord, tmp_path: Path) -> None:
    found = cache(tmp_path).complete(record)
    assert set(found.channels) == {"FMISO_SUV", "FDG_SUV", "FMISO_TMR"}
    assert found.derived == ("FMISO_TMR",)
    ratio = read_channel(found.channels["FMISO_TMR"], "FMISO_TMR", case="P1")
    assert ratio.array[5, 0, 0] == pytest.approx(2.0)


def test_blood_takes_the_place_of_muscle_that_nobody_drew(record: CaseRecord, tmp_path: Path) -> None:
    without = replace(record, masks={"BLOOD": record.masks["BLOOD"]})
    found = cache(tmp_path).complete(without)
    ratio = read_channel(found.channels["FMISO_TBR"], "FMISO_TBR", case="P1")
    assert ratio.array[5, 0, 0] == pytest.approx(1.5)


def test_a_ratio_that_is_asked_for_is_made_of_any_tracer(record: CaseRecord, tmp_path: Path) -> None:
    found = cache(tmp_path, "FDG_TBR", "FMISO_SUV").complete(record)
    assert found.derived == ("FDG_TBR",)


def test_a_ratio_with_a_file_of_its_own_keeps_it(record: CaseRecord, tmp_path: Path) -> None:
    own = record.channels["FDG_SUV"]
    found = cache(tmp_path).complete(replace(record, channels={**record.channels, "FMISO_TMR": own}))
    assert found.channels["FMISO_TMR"] == own
    assert found.derived == ()


def test_a_ratio_that_is_absent_says_which_contour_it_lacks(record: CaseRecord) -> None:
    read_outs = {"channels": {"absent": ["FMISO_TMR", "T1W"]}, "notes": [], "risk": None}
    undrawn = replace(record, masks={})
    notes = finished_row(undrawn, read_outs)["notes"].split("; ")
    assert notes == [
        "FMISO_TMR absent (it is made of FMISO_SUV where the mask MUSCLE is given, and the case has no MUSCLE)",
        "T1W absent",
    ]
    assert "has no FMISO_SUV and no MUSCLE" in finished_row(replace(undrawn, channels={}), read_outs)["notes"]
    assert "run.log says why" in finished_row(record, read_outs)["notes"]
    with pytest.raises(ConfigError, match="FMISO_TMR is made of FMISO_SUV where the mask MUSCLE is given: contour it"):
        plan_settings([undrawn], DataConfig(channels=["FMISO_TMR"]), LabelConfig(), edges_months=[12.0])


def test_a_case_without_the_only_ratio_is_told_what_it_lacks(
    tiny_settings: PrepareSettings,
    make_spec: Callable[..., BundleSpec],
    make_bundle: Callable[..., Path],
    record: CaseRecord,
) -> None:
    settings = replace(tiny_settings, channels=("FMISO_TMR",), norms=(norm_of("FMISO_TMR"),), reference="FMISO_TMR")
    predictor = load_predictor(make_bundle(make_spec(settings)), InferenceConfig(device="cpu"))
    other = replace(record, channels={"FAZA_SUV": record.channels["FMISO_SUV"]})
    made = "FMISO_TMR is made of FMISO_SUV where the mask MUSCLE is given"
    failed = replace(record, not_made={"FMISO_TMR": "P1: FMISO_TMR: m.nii: the region is empty"})
    for case, sentence in (
        (other, f"{made}, and there is no FMISO_SUV$"),
        (replace(other, masks={}), f"{made}, and there is no FMISO_SUV and no MUSCLE$"),
        (replace(record, masks={}), f"{made}: contour it$"),
        (failed, "; FMISO_TMR: m.nii: the region is empty$"),
    ):
        with pytest.raises(CaseError, match=sentence):
            predictor.needed(case)


def test_a_redrawn_muscle_gives_another_file(record: CaseRecord, tmp_path: Path) -> None:
    before = cache(tmp_path).complete(record).channels["FMISO_TMR"]
    assert cache(tmp_path).complete(record).channels["FMISO_TMR"] == before
    other = np.zeros((8, 8, 8), np.uint8)
    other[6:] = 1
    save(record.masks["MUSCLE"], other)
    after = cache(tmp_path).complete(record).channels["FMISO_TMR"]
    assert after != before
    assert read_channel(after, "FMISO_TMR", case="P1").array[0, 0, 0] == pytest.approx(0.5)


def test_an_empty_reference_region_is_named_and_costs_the_ratio_only(
    record: CaseRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = save(tmp_path / "empty.nii.gz", np.zeros((8, 8, 8), np.uint8))
    bad = replace(record, case_id="P2", masks={"MUSCLE": empty})
    with caplog.at_level("WARNING"):
        done, reasons = complete_cohort([record, bad], cache(tmp_path))
    assert ["FMISO_TMR" in each.channels for each in done] == [True, False]
    assert reasons == {}
    for word in ("P2: FMISO_TMR", "empty.nii.gz", "draw it again", "FMISO_TMR is not made"):
        assert word in caplog.text


def test_a_label_by_threshold_takes_no_ratio_of_its_own_uptake_as_input(phantom_folder: Path, tmp_path: Path) -> None:
    records, _ = complete_cohort(read_manifest(phantom_folder / "manifest.csv"), cache(tmp_path))
    label = LabelConfig(kind="threshold", channel="FMISO_SUV", reference_mask="MUSCLE")
    with pytest.raises(ConfigError, match="FMISO_TMR is an input"):
        plan_settings(records, DataConfig(channels=["FMISO_TMR", "T1W"]), label, edges_months=[12.0])


@pytest.fixture
def predicting(
    tiny_settings: PrepareSettings,
    make_spec: Callable[..., BundleSpec],
    make_bundle: Callable[..., Path],
    make_case: Callable[..., CaseRecord],
    tmp_path: Path,
) -> tuple[Predictor, CaseRecord, MapCache]:
    """A bundle that reads FMISO_SUV and FMISO_TMR, and a case whose muscle is contoured nowhere."""
    channels = ("FMISO_SUV", "FMISO_TMR")
    settings = replace(tiny_settings, channels=channels, norms=tuple(norm_of(name) for name in channels))
    predictor = load_predictor(make_bundle(make_spec(settings)), InferenceConfig(device="cpu"))
    case = make_case("P3")
    empty = save(tmp_path / "empty.nii.gz", np.zeros((8, 8, 8), np.uint8))
    return predictor, replace(case, masks={**case.masks, "MUSCLE": empty}), cache(tmp_path, *channels)


def test_a_case_that_goes_on_without_a_ratio_says_so_once(
    predicting: tuple[Predictor, CaseRecord, MapCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, case, maps = predicting
    run = run_inference(predictor, [case], tmp_path / "out", complete=maps.complete)
    assert run.predicted == ("P3",)
    said = [message for message in caplog.messages if "goes on without" in message]
    assert len(said) == 1
    assert said[0].startswith("P3: FMISO_TMR: ")
    assert said[0].endswith("; the case goes on without FMISO_TMR")


def test_a_case_that_fails_is_not_said_to_go_on(
    predicting: tuple[Predictor, CaseRecord, MapCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, case, maps = predicting
    case.channels["FMISO_SUV"].write_bytes(b"damaged")
    run = run_inference(predictor, [case], tmp_path / "out", complete=maps.complete)
    assert run.failed["P3"].startswith("P3: FMISO_SUV")
    assert "goes on" not in caplog.text
