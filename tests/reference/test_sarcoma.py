"""Forty-one real patients that nobody here made."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypoxnet.data.config import DataConfig
from hypoxnet.data.inspection import inspect_manifest
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.plan import plan_settings
from hypoxnet.metrics.baselines import UptakeThreshold, read_uptake, true_region
from hypoxnet.metrics.segmentation import dice
from hypoxnet.transforms.config import LabelConfig
from hypoxnet.transforms.prepare import prepare

pytestmark = pytest.mark.reference
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("sts") / "sts.csv"
    script = ROOT / "data_manifests" / "make_sts_petmr_manifest.py"
    subprocess.run(
        [sys.executable, script, "--reference", reference, "--output", path], check=True, capture_output=True
    )
    return path


@pytest.fixture(scope="module")
def settings(manifest):
    label = LabelConfig(regions={"gtv": ["GTVP"]}, inside_tumour=False)
    data = DataConfig(spacing_mm=[4.0, 4.0, 4.0], tumour=["GTVP"])
    return plan_settings(read_manifest(manifest), data, label, edges_months=[12.0])


def test_the_manifest_of_real_patients_has_no_faults_and_its_known_counts(manifest):
    inspection = inspect_manifest(manifest)
    assert inspection.faults == ()
    table = dict(inspection.table())
    assert table["patients"] == "41"
    assert table["channel T1W"] == "39 of 41"
    assert table["failed (yes/no)"] == "14 yes, 27 no"
    without = {record.case_id for record in read_manifest(manifest) if "T1W" not in record.channels}
    assert without == {"STS_009", "STS_020"}


def test_41_per_cent_of_suvmax_reaches_what_others_found(manifest, settings):
    """The published plain figure on this cohort is a mean Dice of about 0.36 on ten of the patients."""
    threshold = UptakeThreshold("FDG_SUV", "share_of_max", "", 0.41)
    scores = []
    for record in read_manifest(manifest):
        uptake = read_uptake(record, settings, "FDG_SUV", "")
        scores.append(dice(threshold.mask(uptake), true_region(record, settings, "gtv", uptake.grid)))
    assert 0.25 < np.mean(scores) < 0.45


def test_contours_keep_their_volume_and_channels_overlap_on_the_working_grid(manifest, settings):
    """At 4 mm single ragged contours lose some of their volume; over the patients there is no bias of a per cent."""
    changes = []
    for record in read_manifest(manifest)[:20]:
        prepared = prepare(record, settings)
        truth = true_region(record, settings, "gtv", prepared.reference)
        expected = truth.sum() * prepared.reference.voxel_ml
        changes.append(float(prepared.sample.label.sum()) * prepared.sample.grid.voxel_ml / expected - 1.0)
        if "T1W" in record.channels:
            inside = prepared.sample.images[1][prepared.sample.label[0] > 0]
            assert float((inside != 0).float().mean()) > 0.9, record.key
    assert abs(np.mean(changes)) < 0.01
