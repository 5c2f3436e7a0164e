"""Read-outs of an object whose numbers are known."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.cases import CaseRecord
from hypoxnet.data.measured import ReadOutCache, is_measurable, measure, wanted_read_outs
from hypoxnet.errors import CaseError

TUMOUR = ("GTVP", "GTVN")
VOXEL_ML = 0.064
GTVP, GTVN, MUSCLE, BLOOD = np.s_[4:10, 4:10, 4:10], np.s_[9:12, 4:10, 4:10], np.s_[14:18, 2:6, 2:6], np.s_[14:18, 8, 8]


@pytest.fixture
def record(tmp_path):
    """SUV 1 in muscle, 2 in blood; 1.1 in the primary, of which 26 voxels have 3 and one has 6; nodes overlap it."""
    suv = np.full((20, 20, 20), 0.5, dtype=np.float32)
    suv[MUSCLE], suv[BLOOD], suv[GTVP] = 1.0, 2.0, 1.1
    suv[5:8, 5:8, 5:8] = 3.0
    suv[6, 6, 6] = 6.0
    masks = {}
    for name, where in (("GTVP", GTVP), ("GTVN", GTVN), ("MUSCLE", MUSCLE), ("BLOOD", BLOOD)):
        mask = np.zeros(suv.shape, dtype=np.uint8)
        mask[where] = 1
        masks[name] = save(mask, tmp_path / f"{name}.nii.gz")
    channels = {f"{tracer}_SUV": save(suv, tmp_path / f"{tracer}.nii.gz") for tracer in ("FMISO", "FAZA")}
    return CaseRecord("P1", channels=channels, masks=masks, line=2)


def save(array, path):
    nib.save(nib.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0])), path)
    return path


def test_volumes_are_of_the_union_of_the_contours(record):
    assert measure("gtvp_ml", record, TUMOUR) == pytest.approx(216 * VOXEL_ML)
    assert measure("gtv_ml", record, TUMOUR) == pytest.approx((216 + 2 * 36) * VOXEL_ML)
    assert measure("gtv_ml", replace(record, masks={}), TUMOUR) is None


def test_uptake_is_read_on_the_image_s_own_grid(record):
    primary = ("GTVP",)
    assert measure("FMISO_SUVMAX", record, primary) == pytest.approx(6.0)
    assert measure("FMISO_TMRMAX", record, primary) == pytest.approx(6.0)
    assert measure("FMISO_TBRMAX", record, primary) == pytest.approx(3.0)
    assert measure("FMISO_SUVMEAN", record, primary) == pytest.approx((189 * 1.1 + 26 * 3.0 + 6.0) / 216)
    assert 1.1 < measure("FMISO_SUVPEAK", record, primary) < 6.0


def test_hypoxia_is_what_reaches_the_published_threshold_of_the_tracer(record):
    # FMISO: 1.2 times blood is 2.4; FAZA: 1.4 times muscle is 1.4; both are reached by the 27 voxels alone.
    for tracer in ("FMISO", "FAZA"):
        assert measure(f"{tracer}_HV_ML", record, ("GTVP",)) == pytest.approx(27 * VOXEL_ML)
        assert measure(f"{tracer}_HF", record, ("GTVP",)) == pytest.approx(27 / 216)


@pytest.mark.parametrize(("name", "lacking"), [("FMISO_TMRMAX", "MUSCLE"), ("FMISO_HV_ML", "BLOOD")])
def test_what_needs_a_reference_region_is_not_known_without_it(record, name, lacking):
    without = replace(record, masks={mask: path for mask, path in record.masks.items() if mask != lacking})
    assert measure(name, without, TUMOUR) is None
    assert measure("FMISO_SUVMAX", without, TUMOUR) is not None


def test_a_value_of_the_manifest_is_kept_and_a_measured_one_is_marked(record, tmp_path):
    cache = ReadOutCache(tmp_path / "cache", ("gtv_ml", "FMISO_TMRMAX", "age"), TUMOUR)
    completed = cache.complete(replace(record, covariates={"gtv_ml": 17.0}))
    assert completed.covariates == {"gtv_ml": 17.0, "FMISO_TMRMAX": pytest.approx(6.0)}
    assert completed.measured == ("FMISO_TMRMAX",)


def test_measured_once_and_again_when_a_file_changes(record, tmp_path):
    cache = ReadOutCache(tmp_path / "cache", ("gtvp_ml",), TUMOUR)
    first = cache.complete(record).covariates["gtvp_ml"]
    (entry,) = (tmp_path / "cache").iterdir()
    written = entry.stat().st_mtime_ns
    assert cache.complete(record).covariates["gtvp_ml"] == first
    assert entry.stat().st_mtime_ns == written
    entry.write_text("{")  # a damaged entry is measured again
    assert cache.complete(record).covariates["gtvp_ml"] == first
    smaller = np.zeros((20, 20, 20), dtype=np.uint8)
    smaller[4:7, 4:7, 4:7] = 1
    save(smaller, record.masks["GTVP"])
    assert cache.complete(record).covariates["gtvp_ml"] == pytest.approx(27 * VOXEL_ML)


def test_a_file_that_is_gone_is_one_sentence(record, tmp_path):
    record.masks["GTVP"].unlink()
    with pytest.raises(CaseError, match=r"P1: gtv_ml cannot be measured: .*GTVP\.nii\.gz does not exist"):
        ReadOutCache(tmp_path / "cache", ("gtv_ml",), TUMOUR).complete(record)


def test_only_a_model_without_images_measures_the_volume_unasked(record):
    assert wanted_read_outs([record], None, alone=True) == ("gtv_ml",)
    assert wanted_read_outs([record], None, alone=False) == ()
    assert wanted_read_outs([record], ["age", "FMISO_HF"], alone=False) == ("FMISO_HF",)
    assert not is_measurable("hpv")
