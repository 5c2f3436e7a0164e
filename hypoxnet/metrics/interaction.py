"""Whether a treatment helps the hypoxic more than the others: one ratio of hazards per group, and the ratio of the two.

That a treatment works in one group and not in the other, each by its own p, is no interaction; the ratio of the two
ratios is. Where the arm was chosen and not drawn, patients are weighted by the inverse probability of the arm they got.

Axis legend: B patients, P covariates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from hypoxnet.errors import ConfigError
from hypoxnet.metrics.hazard_ratio import HazardRatio, hazard_ratios

Array = NDArray[np.float64]
Events = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Keeps the propensity finite where a covariate separates the arms; on standardised covariates it moves nothing else.
RIDGE = 1e-2
# A patient who counts for more than this share of all decides the result alone.
LARGEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Weights:
    """What the weighting did.

    Args:
        weight: B, stabilised; mean near 1.
        effective_patients: Patients without weights that would know as much (Kish).
        imbalance_before: Largest standardised difference of a covariate between the arms.
        imbalance_after: The same with the weights; below 0.1 is called balanced.
    """

    weight: Array
    effective_patients: float
    imbalance_before: float
    imbalance_after: float

    @property
    def largest_share(self) -> float:
        """Share of all weight that one patient has."""
        return float(self.weight.max() / self.weight.sum())


@dataclass(frozen=True, slots=True)
class Interaction:
    """Treatment against control, in the low and in the high group.

    Args:
        low: Ratio of hazards among the low.
        high: Ratio of hazards among the high.
        ratio: Ratio of the high over that of the low; below 1 the treatment helps the high more.
        patients: Low control, low treated, high control, high treated.
        events: Likewise.
        weights: None for a randomised arm, and where there is nothing to weight.
        left_out: Patients of whom a covariate of the propensity is not known.
        drawn: Arms were drawn by lot.
    """

    low: HazardRatio
    high: HazardRatio
    ratio: HazardRatio
    patients: tuple[int, int, int, int]
    events: tuple[int, int, int, int]
    weights: Weights | None = None
    left_out: int = 0
    drawn: bool = True

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`."""
        content: dict[str, Any] = {
            "hazard_ratio_low": self.low.to_json(),
            "hazard_ratio_high": self.high.to_json(),
            "interaction": self.ratio.to_json(),
            "patients": list(self.patients),
            "events": list(self.events),
            "arms": "randomised" if self.drawn else "observational, inverse-probability weights",
        }
        if not self.drawn:
            content["left_out"] = self.left_out
        if self.weights is not None:
            content |= {
                "effective_patients": round(self.weights.effective_patients, 1),
                "largest_share_of_weight": round(self.weights.largest_share, 4),
                "imbalance_before": round(self.weights.imbalance_before, 4),
                "imbalance_after": round(self.weights.imbalance_after, 4),
            }
        return content


def treatment_interaction(
    high: Mask, treated: Mask, months: Array, event: Events, *, cause: int = 1, covariates: Array | None = None
) -> Interaction:
    """Does the treatment do more for the high?

    Args:
        high: B, hypoxic.
        treated: B, arm.
        months: B.
        event: B, 0 censored, any other number a cause.
        cause: Which event counts.
        covariates: B P, what the arm may have been chosen by, nan where unknown; None says that it was drawn by lot.

    Returns:
        The ratios; without value and with the reason where a group of one arm has no patient, or, weighted, no event.

    Raises:
        ConfigError: One patient has more than a tenth of all weight: the arms do not overlap.

    Source:
        Robins et al. 2000, Epidemiology 11:550, and Cole and Hernan 2008, Am J Epidemiol 168:656 (stabilised weights);
        Austin 2016, Stat Med 35:5642 (robust variance).
    """
    known = np.ones(len(high), dtype=bool) if covariates is None else np.isfinite(covariates).all(axis=1)
    group, arm, time, code = high[known], treated[known], months[known], event[known]
    cells = [(group == h) & (arm == t) for h in (False, True) for t in (False, True)]
    patients = tuple(int(cell.sum()) for cell in cells)
    events = tuple(int((code[cell] == cause).sum()) for cell in cells)
    left_out, drawn = int((~known).sum()), covariates is None
    if min(patients) == 0:
        nothing = HazardRatio(None, reason="a group of one arm has no patient")
        return Interaction(nothing, nothing, nothing, patients, events, None, left_out, drawn)  # type: ignore[arg-type]
    weights = None if covariates is None else propensity_weights(arm, np.column_stack([group, covariates[known]]))
    if weights is not None and weights.largest_share > LARGEST_SHARE:
        raise ConfigError(
            f"one patient has {100 * weights.largest_share:.0f} % of the weight of all {len(arm)}: covariates tell the "
            "arms apart and the weighted comparison rests on that patient; leave out patients or covariates that only "
            "one arm has"
        )
    h, t = group.astype(float), arm.astype(float)
    weight = None if weights is None else weights.weight
    by_group = {"treated, low": t * (1 - h), "treated, high": t * h, "high": h}
    crossed = {"treated": t, "high": h, "treated x high": t * h}
    separated = min(events) == 0
    found, product = (
        hazard_ratios(columns, time, code, cause=cause, weights=weight, separated=separated)
        for columns in (by_group, crossed)
    )
    return Interaction(
        found["treated, low"],
        found["treated, high"],
        product["treated x high"],
        patients,  # type: ignore[arg-type]
        events,  # type: ignore[arg-type]
        weights,
        left_out,
        drawn,
    )


def propensity_weights(treated: Mask, covariates: Array) -> Weights:
    """Stabilised weights: the share of the arm over the probability of the arm that the patient got.

    Args:
        treated: B.
        covariates: B P.

    Source:
        Rosenbaum and Rubin 1983, Biometrika 70:41. Kish 1965, Survey Sampling (effective number). Austin 2009, Stat Med
        28:3083 (standardised difference).
    """
    varying = covariates[:, np.ptp(covariates, axis=0) > 0].astype(float)
    x = np.column_stack([np.ones(len(treated)), (varying - varying.mean(axis=0)) / varying.std(axis=0)])
    sign = np.where(treated, -1.0, 1.0)

    def loss(beta: Array) -> tuple[float, Array]:
        logit = sign * (x @ beta)
        gradient = (sign * expit(logit)) @ x
        penalty = np.concatenate([[0.0], beta[1:]])
        return float(np.logaddexp(0.0, logit).sum() + 0.5 * RIDGE * penalty @ penalty), gradient + RIDGE * penalty

    beta = minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS").x
    probability = expit(x @ beta)
    share = treated.mean()
    weight = np.where(treated, share / probability, (1 - share) / (1 - probability))
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    even = np.ones(len(treated))
    return Weights(weight, effective, _imbalance(treated, varying, even), _imbalance(treated, varying, weight))


def _imbalance(treated: Mask, covariates: Array, weight: Array) -> float:
    """Largest difference of means between the arms, in the spread within them without weights."""
    if covariates.shape[1] == 0:
        return 0.0
    means = [np.average(covariates[arm], axis=0, weights=weight[arm]) for arm in (treated, ~treated)]
    spread = np.sqrt((covariates[treated].var(axis=0) + covariates[~treated].var(axis=0)) / 2)
    return float((np.abs(means[0] - means[1]) / np.maximum(spread, 1e-12)).max())
