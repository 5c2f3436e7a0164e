"""What is known of one withheld case: what was said, what was true, and what the baselines say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hypoxnet.cases import Outcome
from hypoxnet.metrics.reliability import Calibrated
from hypoxnet.metrics.segmentation import RegionScore

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RiskCurve:
    """Predicted incidence over time.

    Args:
        months: Ascending; (inf,) for a yes/no end point.
        failure: Incidence of failure by each of them.
        death: Likewise of death without failure; zeros where it is not predicted.
    """

    months: tuple[float, ...]
    failure: tuple[float, ...]
    death: tuple[float, ...]

    def failure_at(self, month: Array | float) -> Array:
        """Incidence of failure, linear between the months and constant after the last.

        Example:
            >>> float(RiskCurve((6.0, 12.0), (0.2, 0.4), (0.0, 0.1)).failure_at(9.0).round(6))
            0.3
        """
        return self._at(self.failure, month)

    def free_at(self, month: Array | float) -> Array:
        """Probability of being free of failure and death."""
        return np.asarray(np.clip(1.0 - self.failure_at(month) - self._at(self.death, month), 0.0, 1.0))

    def _at(self, incidence: tuple[float, ...], month: Array | float) -> Array:
        if np.isinf(self.months[-1]):
            return np.full_like(np.asarray(month, dtype=np.float64), incidence[-1])
        return np.asarray(np.interp(month, (0.0, *self.months), (0.0, *incidence)))


@dataclass(frozen=True, slots=True)
class ReferenceRisk:
    """What a baseline says of a patient.

    Args:
        score: Linear predictor of failure; larger is worse.
        curve: Predicted incidence.
    """

    score: float
    curve: RiskCurve


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One withheld case: what was said, and what was true.

    Args:
        key: Name of the case.
        patient: Whose it is.
        site: Hospital.
        fold: Fold that withheld it; None for a single split.
        regions: Region to its scores; regions that nobody contoured are left out.
        threshold_dice: Dice of the threshold baseline for the first region.
        conventional_dice: Dice of 41 % of SUVmax, for a tumour label.
        tumour_ml: Volume of the tumour contour.
        risk: Predicted incidence of failure at the horizon.
        death: Predicted incidence of death without failure at the horizon.
        outcome: What happened.
        volume_risk: Linear predictor of the volume baseline.
        curve: Predicted incidence over time.
        references: Name of a baseline (`volume`, `clinical`) to what it says.
        training_median: Median risk of the patients who trained the model; None where it was not recorded.
        risk_interval: 95 % interval of `risk`, where the model gives one.
        contributions: Covariate to its part in the patient's risk, where the model can tell.
        covariates: Those that are known, the volume of the contour under `gtv_ml`.
        reliability: Region to how its probabilities were before and after calibration.
        unlike_training: 1 where the case was called unlike the training patients, else 0; of repeats the mean; None
            where nobody judged.
    """

    key: str
    patient: str
    site: str = ""
    fold: int | None = None
    regions: Mapping[str, RegionScore] = field(default_factory=dict)
    threshold_dice: float | None = None
    conventional_dice: float | None = None
    tumour_ml: float | None = None
    risk: float | None = None
    death: float | None = None
    outcome: Outcome | None = None
    volume_risk: float | None = None
    curve: RiskCurve | None = None
    references: Mapping[str, ReferenceRisk] = field(default_factory=dict)
    training_median: float | None = None
    risk_interval: tuple[float, float] | None = None
    contributions: Mapping[str, float] = field(default_factory=dict)
    covariates: Mapping[str, float] = field(default_factory=dict)
    reliability: Mapping[str, Calibrated] = field(default_factory=dict)
    unlike_training: float | None = None
