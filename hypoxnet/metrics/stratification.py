"""From a read-out to two groups of patients, and what the groups differ by.

A cut-off that is chosen where the groups differ most makes them differ, so it is learnt on patients other than those
it divides, and its p-value counts the looks. A hypoxic volume is large in a large tumour, so a ratio of hazards never
stands without the one that is adjusted for the tumour's volume.

Axis legend: B patients. `event` is 0 censored, any other number a cause; any end point will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from hypoxnet.errors import ConfigError
from hypoxnet.metrics.hazard_ratio import HazardRatio, hazard_ratios
from hypoxnet.survival.estimators import still_followed

Array = NDArray[np.float64]
Events = NDArray[np.int64]
Mask = NDArray[np.bool_]

RULES = ("median", "log-rank", "gray")
# Groups smaller than a tenth are not looked at: there the statistic is largest by chance.
LEAST_SHARE = 0.1
FEWEST_PATIENTS = 10

GROUPS = ("not hypoxic, immune high", "not hypoxic, immune low", "hypoxic, immune high", "hypoxic, immune low")
# Combined positive score from which pembrolizumab was licensed (Burtness et al. 2019, Lancet 394:1915, KEYNOTE-048).
PD_L1_CPS = 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut-off of a read-out.

    Args:
        value: A patient with more than this is high.
        rule: How it was chosen, one of `RULES`.
        patients: Of whom it was learnt.
        events: Likewise.
        statistic: The largest standardised statistic; None for the median.
        p: Of no difference anywhere, corrected for the looks; None for the median.
    """

    value: float
    rule: str
    patients: int
    events: int
    statistic: float | None = None
    p: float | None = None

    def high(self, values: Array) -> Mask:
        """Who is high."""
        return np.asarray(values > self.value)

    def describe(self) -> str:
        """In words, for a report.

        Example:
            >>> Cut(4.2, "log-rank", 90, 27, 2.9, 0.0501).describe()
            'above 4.2 (log-rank, learnt of 90 patients with 27 events; p 0.05, corrected for the looks)'
        """
        p = "" if self.p is None else f"; p {self.p:.2g}, corrected for the looks"
        return f"above {self.value:.4g} ({self.rule}, learnt of {self.patients} patients with {self.events} events{p})"


def learn_cut(
    values: Array, months: Array, event: Events, *, rule: str, cause: int = 1, least_share: float = LEAST_SHARE
) -> Cut:
    """The cut-off of training patients.

    `log-rank` takes the value where the cause-specific log-rank statistic is largest (deaths leave the risk set),
    `gray` where the statistic of the incidence is (deaths stay in it, weighted by the probability of being followed),
    `median` looks at no outcome. Where no maximally selected cut can be looked for, the median is taken, and `rule`
    says so.

    Args:
        values: B, the read-out; without nan.
        months: B.
        event: B.
        rule: One of `RULES`.
        cause: Which event counts.
        least_share: Share of the patients that either group has at least.

    Raises:
        ConfigError: The rule is unknown, or there is no patient.

    Source:
        Lausen and Schumacher 1992, Biometrics 48:73. Gray 1988, Ann Stat 16:1141, in the weighted form of Fine and Gray
        1999, J Am Stat Assoc 94:496, at a coefficient of 0.
    """
    if rule not in RULES:
        raise ConfigError(f"the rule of a cut-off is {rule!r}, it must be one of {', '.join(RULES)}")
    if len(values) == 0:
        raise ConfigError("a cut-off cannot be learnt of no patient; give a read-out and an outcome")
    failed = int((event == cause).sum())
    median = Cut(float(np.median(values)), "median", len(values), failed)
    if rule == "median" or len(values) < FEWEST_PATIENTS or failed < 2:
        return median
    scores = _scores(months, event, cause) if rule == "log-rank" else _incidence_scores(months, event, cause)
    cuts, statistics = standardised(values, scores, least_share)
    if len(cuts) == 0:
        return median
    best = int(np.abs(statistics).argmax())
    largest = float(abs(statistics[best]))
    return Cut(float(cuts[best]), rule, len(values), failed, largest, corrected_p(largest, least_share))


def standardised(values: Array, scores: Array, least_share: float) -> tuple[Array, Array]:
    """Every cut-off that leaves both groups large enough, and the standardised sum of scores above it.

    Mean and variance are those over all ways to hand the values to the patients.

    Args:
        values: B.
        scores: B, of the patients' outcomes.
        least_share: Share of the patients in either group.

    Source:
        Hothorn and Lausen 2003, Comput Stat Data Anal 43:121, section 2.
    """
    order = np.argsort(values, kind="stable")
    sorted_values, count = values[order], len(values)
    below = np.arange(1, count)
    distinct = sorted_values[1:] > sorted_values[:-1]
    allowed = distinct & (below >= least_share * count) & (below <= (1 - least_share) * count)
    centred = scores - scores.mean()
    above = -np.cumsum(centred[order])[:-1]
    variance = below * (count - below) / (count * (count - 1)) * (centred**2).sum()
    if not variance.max(initial=0.0) > 0:
        return np.array([]), np.array([])
    return sorted_values[:-1][allowed], (above / np.sqrt(variance))[allowed]


def corrected_p(statistic: float, least_share: float = LEAST_SHARE) -> float:
    """Probability that the largest of all looks exceeds a value when there is no difference.

    Args:
        statistic: The largest absolute standardised statistic.
        least_share: Share of the patients in either group; below a half.

    Source:
        Lausen and Schumacher 1992, Biometrics 48:73 (Miller and Siegmund 1982, Biometrics 38:1011).

    Example:
        >>> round(corrected_p(3.054, 0.1), 3), round(corrected_p(2.829, 0.25), 3)
        (0.05, 0.05)
    """
    spread = 2 * log((1 - least_share) / least_share)

    def tail(b: float) -> float:
        return exp(-0.5 * b * b) / sqrt(2 * pi) * (4 / b + (b - 1 / b) * spread)

    # The approximation is made for the tail; towards the middle it turns around, and is held at its top.
    top = float(minimize_scalar(lambda b: -tail(b), bounds=(1.0, 2.0), method="bounded", options={"xatol": 1e-9}).x)
    one_look = 2 * float(norm.sf(statistic))
    return min(1.0, max(one_look, tail(max(statistic, top))))


def _scores(months: Array, event: Events, cause: int) -> Array:
    """Log-rank scores: the event minus the Nelson-Aalen hazard that was lived through; sum 0."""
    failed = event == cause
    times = np.unique(months[failed])
    at_risk = (months[None] >= times[:, None]).sum(axis=1)
    hazard = np.array([(failed & (months == time)).sum() for time in times]) / at_risk
    lived = np.concatenate([[0.0], np.cumsum(hazard)])
    return np.asarray(failed - lived[np.searchsorted(times, months, side="right")])


def _incidence_scores(months: Array, event: Events, cause: int) -> Array:
    """The same for the incidence: who had a competing event stays at risk, as far as he would have been followed."""
    failed, competing = event == cause, (event != 0) & (event != cause)
    times = np.unique(months[failed])
    follow_at, follow_own = still_followed(months, event, times), still_followed(months, event, months)
    ratio = follow_at[None] / np.maximum(follow_own[:, None], 1e-9)
    weight = np.where(months[:, None] >= times[None], 1.0, np.where(competing[:, None], ratio, 0.0))
    hazard = np.array([(failed & (months == time)).sum() for time in times]) / weight.sum(axis=0)
    return np.asarray(failed - weight @ hazard)


@dataclass(frozen=True, slots=True)
class Strata:
    """Patients divided by cut-offs that were learnt without them.

    Args:
        high: B.
        cuts: Fold to its cut-off.
    """

    high: Mask
    cuts: dict[int, Cut]


def stratify(values: Array, months: Array, event: Events, fold: Sequence[int], *, rule: str, cause: int = 1) -> Strata:
    """Each fold divided by the cut-off of the other folds.

    The read-out of a patient must come from a network that has not seen the patient, or from no network at all.

    Args:
        values: B, the read-out.
        months: B.
        event: B.
        fold: B, which fold withheld the patient.
        rule: One of `RULES`.
        cause: Which event counts.

    Raises:
        ConfigError: There is one fold only, or the rule is unknown.
    """
    folds = np.asarray(fold)
    names = np.unique(folds)
    if len(names) < 2:
        raise ConfigError(
            "a cut-off must be learnt on other patients than those it divides, and all are in one fold; give the "
            "training patients to learn_cut, or withhold by folds"
        )
    high, cuts = np.zeros(len(values), dtype=bool), {}
    for name in names:
        own, others = folds == name, folds != name
        cuts[int(name)] = learn_cut(values[others], months[others], event[others], rule=rule, cause=cause)
        high[own] = cuts[int(name)].high(values[own])
    return Strata(high, cuts)


@dataclass(frozen=True, slots=True)
class Contrast:
    """High against low, always both: as it is, and at the same tumour volume.

    Args:
        raw: Ratio of hazards.
        adjusted: The same adjusted for the logarithm of the tumour's volume.
        patients: Of whom both were made.
        high: How many are high.
        events: Likewise.
    """

    raw: HazardRatio
    adjusted: HazardRatio
    patients: int
    high: int
    events: int

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {
            "hazard_ratio": self.raw.to_json(),
            "hazard_ratio_given_volume": self.adjusted.to_json(),
            "patients": self.patients,
            "high": self.high,
            "events": self.events,
        }


def contrast(high: Mask, months: Array, event: Events, tumour_ml: Array, *, cause: int = 1) -> Contrast:
    """Ratio of the cause-specific hazards of high against low, raw and given the tumour's volume.

    Both are of the patients whose volume is known, so that they differ by the adjustment alone.

    Args:
        high: B.
        months: B.
        event: B.
        tumour_ml: B, nan where unknown.
        cause: Which event counts.
    """
    known = np.isfinite(tumour_ml) & (tumour_ml > 0)
    group, time, code = high[known].astype(float), months[known], event[known]
    volume = np.log(tumour_ml[known])
    counts = {"patients": int(known.sum()), "high": int(group.sum()), "events": int((code == cause).sum())}
    if not known.any():
        nothing = HazardRatio(None, reason="no patient has a tumour volume")
        return Contrast(nothing, nothing, **counts)
    raw = hazard_ratios({"high": group}, time, code, cause=cause)["high"]
    adjusted = hazard_ratios({"high": group, "log tumour volume": volume}, time, code, cause=cause)["high"]
    return Contrast(raw, adjusted, **counts)


def hypoxia_immune_groups(
    high: Mask, til_percent: Array, pd_l1_cps: Array, *, til_cut: float | Array, cps_cut: float = PD_L1_CPS
) -> list[str] | None:
    """Four groups of hypoxia and immune infiltration.

    A patient is immune high when the tumour is infiltrated and answers to it: lymphocytes above `til_cut` and a PD-L1
    score of at least `cps_cut`. Whoever lacks one of the two has no group.

    Args:
        high: B, hypoxic.
        til_percent: B, tumour-infiltrating lymphocytes, nan where unknown.
        pd_l1_cps: B, PD-L1 combined positive score, nan where unknown.
        til_cut: Learnt of other patients, by default their median; one for all, or B.
        cps_cut: Combined positive score.

    Returns:
        One of `GROUPS` per patient, empty where unknown; None when no patient has both.

    Source:
        The idea of one score of both is that of Brooks et al. 2019, Clin Cancer Res 25:5315 (gene expression); this
        rule takes the clinic's pathology in its place.

    Example:
        >>> hypoxia_immune_groups(np.array([True, False]), np.array([30.0, 5.0]), np.array([20.0, 20.0]), til_cut=10.0)
        ['hypoxic, immune high', 'not hypoxic, immune low']
    """
    known = np.isfinite(til_percent) & np.isfinite(pd_l1_cps)
    if not known.any():
        return None
    immune = (til_percent > til_cut) & (pd_l1_cps >= cps_cut)
    number = 2 * high.astype(int) + ~immune
    return [GROUPS[n] if there else "" for n, there in zip(number, known, strict=True)]
