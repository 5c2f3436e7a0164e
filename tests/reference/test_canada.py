"""The public cohort of four hospitals as a manifest without images."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from hypoxnet.data.manifest import read_manifest
from hypoxnet.survival.estimators import incidence_of_cohort

pytestmark = pytest.mark.reference
SCRIPT = Path(__file__).parents[2] / "data_manifests" / "make_canada_manifest.py"


@pytest.fixture
def records(reference, tmp_path, monkeypatch):
    table = tmp_path / "canada.csv"
    monkeypatch.setattr(sys, "argv", ["make", "--reference", str(reference), "--output", str(table)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return read_manifest(table, check_files=True)


def test_the_manifest_says_what_the_table_says(records):
    assert len(records) == 298
    assert {record.site for record in records} == {"CHUM", "CHUS", "HGJ", "HMR"}
    events = [record.outcome.event for record in records]
    assert (events.count(1), events.count(2)) == (43, 35)
    first = records[0]
    assert first.outcome.months == pytest.approx(1806 / 30.4375, abs=1e-3)
    assert first.covariates == {
        "age": 82.0, "sex": 1.0, "t_stage": 2.0, "n_stage": 2.0, "subsite": 0.0, "gtv_ml": 29.719, "chemo": 1.0
    }  # fmt: skip
    assert sum("hpv" in record.covariates for record in records) == 124
    assert sum("t_stage" not in record.covariates for record in records) == 10


def test_death_is_a_competing_risk_and_lowers_the_incidence(records):
    months = np.array([record.outcome.months for record in records])
    event = np.array([record.outcome.event for record in records])
    assert 0.09 < incidence_of_cohort(months, event, 24.0) < 1 - 0.8968


@pytest.mark.parametrize(("endpoint", "events"), [("dm", 38), ("os", 56)])
def test_other_end_points_are_read_from_the_same_table(endpoint, events, records, tmp_path):
    found = [record.outcome for record in read_manifest(tmp_path / "canada.csv", endpoint=endpoint)]
    assert sum(outcome is not None and outcome.event == 1 for outcome in found) == events
