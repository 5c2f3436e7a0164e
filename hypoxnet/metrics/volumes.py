"""Agreement of volumes over a cohort.

Axis legend: B cases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def volume_correlation(predicted: Array, true: Array) -> float | None:
    """Spearman's correlation of volumes; None when one does not vary.

    Example:
        >>> round(volume_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 40.0])), 6)
        1.0
    """
    if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return None
    return float(stats.spearmanr(predicted, true).statistic)


def partial_volume_correlation(predicted: Array, true: Array, tumour: Array) -> float | None:
    """Spearman's correlation of volumes given the tumour's: a large tumour has a large everything.

    Args:
        predicted: B, mL.
        true: B, mL.
        tumour: B, mL.

    Returns:
        Correlation of what is left of the ranks after regression on the rank of the tumour; None when nothing is left.

    Source:
        Kim 2015, Commun Stat Appl Methods 22:665 (semi-partial and partial rank correlation).
    """
    if len(predicted) < 4:
        return None
    both = volume_correlation(predicted, true)
    with_predicted, with_true = volume_correlation(predicted, tumour), volume_correlation(true, tumour)
    if both is None or with_predicted is None or with_true is None:
        return None
    left = (1.0 - with_predicted**2) * (1.0 - with_true**2)
    return float((both - with_predicted * with_true) / np.sqrt(left)) if left > 1e-12 else None
