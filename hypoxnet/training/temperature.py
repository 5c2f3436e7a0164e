"""One number per region by which log-odds are divided, so that a probability of 0.8 is right in 8 voxels of 10.

Source:
    Guo et al. 2017, ICML, On calibration of modern neural networks (temperature scaling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Array = NDArray[np.float64]

# Log-odds are counted in bins this wide: a cohort of whole bodies need not be kept.
LARGEST_LOGIT = 30.0
BINS = 6000
FEWEST_PATIENTS = 5
COLDEST, HOTTEST = 0.1, 10.0


@dataclass(slots=True)
class LogitCounts:
    """Log-odds of a region in validation patients, each patient with the same weight.

    Args:
        positive: Share of voxels by bin, of voxels of the region.
        negative: Likewise, of the others.
        patients: How many were added.
    """

    positive: Array = field(default_factory=lambda: np.zeros(BINS))
    negative: Array = field(default_factory=lambda: np.zeros(BINS))
    patients: int = 0

    def add(self, logits: NDArray[np.float32], truth: NDArray[np.bool_]) -> None:
        """Add a patient's voxels; a patient without any is passed over.

        Args:
            logits: n.
            truth: n.
        """
        if not logits.size:
            return
        place = np.floor((np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT) / LARGEST_LOGIT + 1) * BINS / 2)
        index = np.minimum(place.astype(np.int64), BINS - 1)
        self.positive += np.bincount(index[truth], minlength=BINS) / logits.size
        self.negative += np.bincount(index[~truth], minlength=BINS) / logits.size
        self.patients += 1

    def cross_entropy(self, temperature: float) -> float:
        """Mean over patients of the mean over voxels, in nats."""
        logits = ((np.arange(BINS) + 0.5) * 2 / BINS - 1) * LARGEST_LOGIT / temperature
        total = self.positive @ np.logaddexp(0.0, -logits) + self.negative @ np.logaddexp(0.0, logits)
        return float(total) / max(1, self.patients)


def fit_temperature(counts: LogitCounts) -> float:
    """The temperature of least cross-entropy; 1 with fewer than `FEWEST_PATIENTS`, or where voxels are all alike.

    Example:
        >>> counts, generator = LogitCounts(), np.random.default_rng(0)
        >>> for _ in range(10):
        ...     logits = generator.normal(size=4000)
        ...     counts.add(3.0 * logits, generator.random(4000) < 1 / (1 + np.exp(-logits)))
        >>> round(fit_temperature(counts), 1)
        3.0
    """
    if counts.patients < FEWEST_PATIENTS or not (counts.positive.any() and counts.negative.any()):
        return 1.0
    found = minimize_scalar(
        lambda log_temperature: counts.cross_entropy(math.exp(log_temperature)),
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(f"{math.exp(float(found.x)):.6g}")
