"""Are probabilities right: of voxels said to be 0.8, are 8 in 10 in the region?

Axis legend: B bins of equal width from 0 to 1.

Source:
    Naeini et al. 2015, AAAI (expected calibration error); Guo et al. 2017, ICML; by patient: Mehrtash et al. 2020, IEEE
    Trans Med Imaging 39:3868.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.metrics.bootstrap import Index, Statistic, bootstrap

Array = NDArray[np.float64]

BINS = 10
# Where nothing confines the region, voxels that nobody would call it, and that are not it, would drown all others.
CONSIDERED = 0.01


@dataclass(frozen=True, slots=True)
class Reliability:
    """Voxels of one region in one case, by bin of their probability.

    Args:
        voxels: B, counts.
        said: B, sums of probabilities.
        true: B, how many are in the region.
    """

    voxels: tuple[float, ...]
    said: tuple[float, ...]
    true: tuple[float, ...]

    @property
    def error(self) -> float:
        """Expected calibration error of the case: mean over voxels of how far their bin is off."""
        return float(_error(np.array([self.voxels, self.said, self.true])))

    @property
    def shares(self) -> Array:
        """3 B, each voxel weighing one over the voxels of the case, so that patients count alike."""
        return np.array([self.voxels, self.said, self.true]) / sum(self.voxels)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A case before and after the temperature.

    Args:
        after: As the bundle says it.
        before: The same map with the temperature taken off.
        temperature: What log-odds were divided by.
    """

    after: Reliability
    before: Reliability
    temperature: float


def reliability(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> Reliability:
    """Count voxels by bin.

    Args:
        probability: n.
        truth: n.

    Example:
        >>> said = np.full(10, 0.75, dtype=np.float32)
        >>> reliability(said, np.arange(10) < 5).error
        0.25
    """
    place = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    columns = [
        np.bincount(place, weights=weights, minlength=BINS).tolist()
        for weights in (np.ones(len(place)), probability.astype(np.float64), truth.astype(np.float64))
    ]
    return Reliability(*(tuple(column) for column in columns))


def calibrated(
    probability: NDArray[np.float32],
    truth: NDArray[np.bool_],
    tumour: NDArray[np.bool_] | None,
    *,
    temperature: float = 1.0,
) -> Calibrated | None:
    """Reliability of one region in one case, on the patient's own grid.

    Args:
        probability: i j k, calibrated.
        truth: i j k.
        tumour: i j k, where the region is confined to; None considers voxels of a probability of `CONSIDERED` or more,
            before or after, and those of the region.
        temperature: Of the network; log-odds times this are what it was before. On a grid that is not the network's
            own, or of a mean over mirror images, that is so to interpolation.

    Returns:
        None when no voxel is to be considered.
    """
    kept = np.clip(probability, 1e-7, 1 - 1e-7).astype(np.float64)
    before = 1 / (1 + np.exp(-temperature * np.log(kept / (1 - kept))))
    inside = tumour if tumour is not None else (np.maximum(probability, before) >= CONSIDERED) | truth
    if not inside.any():
        return None
    after = reliability(probability[inside], truth[inside])
    return Calibrated(after, reliability(before[inside].astype(np.float32), truth[inside]), temperature)


def reliability_figures(cases: Sequence[Calibrated], patients: Sequence[str], *, resamplings: int) -> dict[str, Any]:
    """Figures of one region for `metrics.json`.

    Args:
        cases: Of withheld patients.
        patients: Whose each is.
        resamplings: Bootstrap samples.
    """

    def figure(statistic: Statistic) -> dict[str, float | None]:
        return bootstrap(statistic, patients, resamplings=resamplings).to_json()

    own = {name: np.array([getattr(case, name).error for case in cases]) for name in ("after", "before")}
    shares = {name: np.stack([getattr(case, name).shares for case in cases]) for name in ("after", "before")}

    def pooled(name: str, index: Index) -> float:
        return float(_error(shares[name][index].mean(axis=0)))

    return {
        "ece": figure(lambda index: float(own["after"][index].mean())),
        "ece_uncalibrated": figure(lambda index: float(own["before"][index].mean())),
        "ece_change": figure(lambda index: float((own["after"] - own["before"])[index].mean())),
        "pooled_ece": figure(lambda index: pooled("after", index)),
        "pooled_ece_uncalibrated": figure(lambda index: pooled("before", index)),
        "pooled_ece_change": figure(lambda index: pooled("after", index) - pooled("before", index)),
        "cases": len(cases),
        "temperatures": sorted({case.temperature for case in cases}),
        "bins": _bins(shares["after"]),
        "bins_uncalibrated": _bins(shares["before"]),
    }


def false_alarms(unlike: Mapping[str, float]) -> dict[str, Any] | None:
    """How many of the withheld patients, who are like those of training, were called unlike them.

    Args:
        unlike: Patient to 1 where he was called so, else 0; in repeated validation the share of the repeats.

    Returns:
        The share with its 95 % interval, and the counts; None when nobody was judged.

    Source:
        Wilson 1927, J Am Stat Assoc 22:209: of no alarm at all a bootstrap has no interval.

    Example:
        >>> false_alarms({"A": 0.0, "B": 0.0, "C": 1.0, "D": 0.0})["false_alarms"]
        {'value': 0.25, 'low': 0.045587, 'high': 0.699358}
    """
    n = len(unlike)
    if not n:
        return None
    p, z = sum(unlike.values()) / n, 1.959964
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return {
        "false_alarms": {"value": round(p, 6), "low": round(max(0.0, low), 6), "high": round(high, 6)},
        "called": round(sum(unlike.values()), 3),
        "patients": n,
    }


def _error(sums: Array) -> Array:
    """Of 3 B sums: voxels, said, true."""
    return np.asarray(np.abs(sums[1] - sums[2]).sum() / sums[0].sum())


def _bins(shares: Array) -> list[dict[str, float | None]]:
    """Mean probability and share in the region of each bin, patients counting alike."""
    voxels, said, true = shares.mean(axis=0)
    return [
        {
            "from": place / BINS,
            "to": (place + 1) / BINS,
            "share_of_voxels": round(float(voxels[place]), 6),
            "said": round(float(said[place] / voxels[place]), 6) if voxels[place] else None,
            "true": round(float(true[place] / voxels[place]), 6) if voxels[place] else None,
        }
        for place in range(BINS)
    ]
