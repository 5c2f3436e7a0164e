"""Calibration errors of probabilities whose error is known."""

import numpy as np
import pytest

from hypoxnet.metrics.reliability import BINS, calibrated, false_alarms, reliability, reliability_figures


def voxels(*, seed: int, sharpened: float = 1.0, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and truths drawn from what they are when sharpening is taken off."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=n)
    truth = generator.random(n) < 1 / (1 + np.exp(-logits))
    return (1 / (1 + np.exp(-sharpened * logits))).astype(np.float32), truth


def test_right_probabilities_have_a_small_error_and_sharpened_ones_a_large_one():
    assert reliability(*voxels(seed=0)).error < 0.03
    assert reliability(*voxels(seed=0, sharpened=4.0)).error > 0.12


def test_the_error_of_certainty_is_the_share_of_wrong_voxels():
    said, truth = np.ones(20, dtype=np.float32), np.arange(20) < 17
    assert reliability(said, truth).error == pytest.approx(0.15)


def test_taking_the_temperature_off_gives_the_map_as_it_was():
    said, truth = voxels(seed=1, sharpened=3.0)
    logits = np.log(said.astype(np.float64) / (1 - said))
    after = (1 / (1 + np.exp(-logits / 3.0))).astype(np.float32)
    found = calibrated(after[None, None], truth[None, None], np.ones((1, 1, len(said)), dtype=bool), temperature=3.0)
    assert found.before.error == pytest.approx(reliability(said, truth).error, abs=2e-3)
    assert found.after.error == pytest.approx(reliability(after, truth).error)
    assert found.after.error < found.before.error


def test_only_voxels_inside_the_contour_count():
    said, truth = voxels(seed=2)
    inside = np.arange(len(said)) < 500
    found = calibrated(said[None, None], truth[None, None], inside[None, None])
    assert sum(found.after.voxels) == 500
    assert found.after == found.before, "a temperature of 1 changes nothing"


def test_without_a_contour_background_that_nobody_would_call_is_left_out():
    said, truth = np.zeros((1, 1, 1000), dtype=np.float32), np.zeros((1, 1, 1000), dtype=bool)
    said[..., :10], truth[..., 5:12] = 0.6, True
    assert sum(calibrated(said, truth, None).after.voxels) == 12
    assert calibrated(said * 0, truth & False, None) is None


def test_patients_count_alike_whatever_their_size():
    large = calibrated(*(one[None, None] for one in voxels(seed=3, n=20_000)), None)
    small = calibrated(*(one[None, None] for one in voxels(seed=4, sharpened=6.0, n=800)), None)
    found = reliability_figures([large, small], ["A", "B"], resamplings=20)
    assert found["ece"]["value"] == pytest.approx((large.after.error + small.after.error) / 2, abs=1e-6)
    half = sum(one["share_of_voxels"] for one in found["bins"])
    assert half == pytest.approx(1.0, abs=1e-4)
    assert len(found["bins"]) == BINS
    assert found["ece_change"]["value"] == 0


def test_no_alarm_at_all_still_has_an_interval():
    assert false_alarms({}) is None
    found = false_alarms(dict.fromkeys("ABCDEFGHIJKLMNOPQRST", 0.0))
    assert (found["false_alarms"]["value"], found["called"], found["patients"]) == (0.0, 0, 20)
    # Wilson 1927: z^2 / (n + z^2)
    assert found["false_alarms"]["high"] == pytest.approx(3.8415 / 23.8415, abs=1e-4)
