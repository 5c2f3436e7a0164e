"""Temperatures fitted on log-odds whose right temperature is known."""

import numpy as np
import pytest

from hypoxnet.training.temperature import BINS, LARGEST_LOGIT, LogitCounts, fit_temperature


def counted(*, patients: int, stretched: float, seed: int = 0) -> LogitCounts:
    """Voxels that are in the region as often as unstretched log-odds say."""
    generator, counts = np.random.default_rng(seed), LogitCounts()
    for _ in range(patients):
        logits = generator.normal(0.4, 1.5, size=3000)
        counts.add((stretched * logits).astype(np.float32), generator.random(3000) < 1 / (1 + np.exp(-logits)))
    return counts


@pytest.mark.parametrize("stretched", [0.5, 1.0, 2.5])
def test_stretched_log_odds_get_their_stretch_back(stretched):
    assert fit_temperature(counted(patients=20, stretched=stretched)) == pytest.approx(stretched, rel=0.05)


def test_the_fitted_temperature_has_the_least_cross_entropy():
    counts = counted(patients=10, stretched=2.0)
    fitted = fit_temperature(counts)
    assert counts.cross_entropy(fitted) < min(
        counts.cross_entropy(fitted * factor) for factor in (0.9, 1.1, 1 / fitted)
    )


def test_cross_entropy_of_counts_is_that_of_the_voxels():
    generator, counts = np.random.default_rng(3), LogitCounts()
    logits, truth = generator.normal(size=500).astype(np.float32), generator.random(500) < 0.4
    counts.add(logits, truth)
    exact = np.logaddexp(0, np.where(truth, -logits, logits)).mean()
    assert counts.cross_entropy(1.0) == pytest.approx(exact, abs=LARGEST_LOGIT / BINS)


def test_a_patient_counts_once_however_large():
    """One patient of a hundred times as many voxels, whose log-odds are right, does not outvote nine."""
    few, many = counted(patients=9, stretched=3.0), counted(patients=9, stretched=3.0)
    generator = np.random.default_rng(1)
    for counts, voxels in ((few, 3000), (many, 300_000)):
        logits = generator.normal(0.4, 1.5, size=voxels)
        counts.add(logits.astype(np.float32), generator.random(voxels) < 1 / (1 + np.exp(-logits)))
    assert fit_temperature(few) == pytest.approx(fit_temperature(many), rel=0.05)


def test_too_few_patients_leave_probabilities_as_they_are():
    assert fit_temperature(counted(patients=4, stretched=3.0)) == 1.0


def test_a_region_that_no_patient_has_leaves_probabilities_as_they_are():
    counts = LogitCounts()
    for _ in range(10):
        counts.add(np.full(50, -3.0, dtype=np.float32), np.zeros(50, dtype=bool))
    assert fit_temperature(counts) == 1.0
