"""Uptake relative to a reference region: tumour-to-blood and tumour-to-muscle ratios."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hypoxnet.errors import CaseError


def reference_value(suv: NDArray[np.floating], region: NDArray[np.bool_], *, statistic: str = "median") -> float:
    """Uptake of a reference region.

    Args:
        suv: i j k, g/ml.
        region: i j k, muscle or blood.
        statistic: `median` (FAZA to muscle) or `mean` (FMISO to blood).

    Returns:
        Reference uptake, g/ml.

    Raises:
        CaseError: The region is empty, or its uptake is not positive.

    Source:
        Median of muscle: Mortensen et al. 2012, Radiother Oncol. Mean of blood: Muzi et al. 2015, J Nucl Med.

    Example:
        >>> reference_value(np.array([[[1.0, 2.0, 4.0]]]), np.array([[[True, True, True]]]))
        2.0
    """
    if not region.any():
        raise CaseError("the reference region is empty; draw it again or leave the ratio out")
    value = float(np.median(suv[region]) if statistic == "median" else suv[region].mean())
    if value <= 0:
        raise CaseError(f"the reference region has an uptake of {value:.3g} g/ml; draw it in muscle or blood")
    return value
