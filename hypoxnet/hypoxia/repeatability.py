"""How well a measurement repeats: two scans of each patient between which nothing was done.

Axis legend: N patients, K scans of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.hypoxia.uptake import suv_max, suv_mean, suv_peak
from hypoxnet.hypoxia.volumes import volume_ml

Array = NDArray[np.float64]
# 95 % of differences of two scans lie within this many standard deviations of one.
PER_SD = 1.96 * math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic with its confidence interval, nan where the patients are too few or all alike."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """The same in another unit; the factor counts as known."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Agreement of first and second scan.

    Args:
        patients: N with both values.
        mean: Of all values.
        wsd: Standard deviation within a patient, in the unit of the values.
        rc: Repeatability coefficient, 2.77 wsd: 95 % of differences are smaller.
        relative_rc: `rc` over `mean`, a fraction.
        icc: Intraclass correlation for agreement of single scans, ICC(2,1).
        bias: Mean of second less first.
        lower_limit: Lower limit of agreement.
        upper_limit: Upper limit of agreement.
    """

    patients: int
    mean: float
    wsd: Estimate
    rc: Estimate
    relative_rc: Estimate
    icc: Estimate
    bias: Estimate
    lower_limit: Estimate
    upper_limit: Estimate


def repeatability(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Repeatability:
    """Statistics of test and retest.

    Args:
        first: N, value of each patient's first scan; a patient without both values (nan) is left out.
        second: N, value of the second.
        confidence: Of the intervals.

    Raises:
        CaseError: The lengths differ, fewer than three patients have both, or `confidence` is not between 0 and 1.

    Source:
        Bland and Altman 1999, Stat Methods Med Res 8:135 (limits, their standard errors, and within-subject SD).

    Example:
        >>> r = repeatability([1.0, 2.0, 3.0, 4.0], [1.2, 1.8, 3.2, 3.8])
        >>> round(r.wsd.value, 4), round(r.rc.value, 3), round(r.relative_rc.value, 4)
        (0.1414, 0.392, 0.1568)
    """
    both = _paired(first, second, confidence)
    count, mean = len(both), float(both.mean())
    apart = both[:, 1] - both[:, 0]
    wsd = within_sd(apart, confidence=confidence)
    rc = wsd.times(PER_SD)
    bias, sd = float(apart.mean()), float(apart.std(ddof=1))
    t = float(stats.t.ppf(0.5 + 0.5 * confidence, count - 1))
    of_bias, of_limit = t * sd / math.sqrt(count), t * sd * math.sqrt(1.0 / count + 1.96**2 / (2.0 * (count - 1)))
    low, high = bias - 1.96 * sd, bias + 1.96 * sd
    return Repeatability(
        patients=count,
        mean=mean,
        wsd=wsd,
        rc=rc,
        relative_rc=rc.times(1.0 / mean) if mean > 0 else Estimate(math.nan, math.nan, math.nan),
        icc=agreement_icc(both, confidence=confidence),
        bias=Estimate(bias, bias - of_bias, bias + of_bias),
        lower_limit=Estimate(low, low - of_limit, low + of_limit),
        upper_limit=Estimate(high, high - of_limit, high + of_limit),
    )


def within_sd(differences: Array, *, confidence: float = 0.95) -> Estimate:
    """Standard deviation within a patient, sqrt(sum d^2 / 2 N), with the interval of chi-squared with N degrees.

    The mean difference counts as noise: between scans in random order nothing changes.

    Args:
        differences: N, second less first.
        confidence: Of the interval.

    Example:
        >>> round(within_sd(np.array([0.2, -0.2])).value, 4)
        0.1414
    """
    count = len(differences)
    squares = float((np.asarray(differences, dtype=np.float64) ** 2).sum()) / 2.0
    tail = 0.5 * (1.0 - confidence)
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(p, count))) for p in (1.0 - tail, tail))
    return Estimate(math.sqrt(squares / count), low, high)


def agreement_icc(scores: NDArray[np.floating], *, confidence: float = 0.95) -> Estimate:
    """Intraclass correlation ICC(2,1): two-way random effects, absolute agreement, single scans.

    Args:
        scores: N x K.
        confidence: Of the interval.

    Returns:
        nan when all scores are equal; below 0 when patients differ less than their scans do.

    Source:
        Shrout and Fleiss 1979, Psychol Bull 86:420; interval of McGraw and Wong 1996, Psychol Methods 1:30, table 7.

    Example:
        >>> round(agreement_icc(np.array([[1.0, 1.2], [2.0, 1.8], [3.0, 3.2], [4.0, 3.8]])).value, 4)
        0.9871
    """
    values = np.asarray(scores, dtype=np.float64)
    n, k = values.shape
    mean = values.mean()
    rows, columns = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    left = values - mean - rows[:, None] - columns
    between, scans = k * float((rows**2).sum()) / (n - 1), n * float((columns**2).sum()) / (k - 1)
    error = float((left**2).sum()) / ((n - 1) * (k - 1))
    whole = between + (k - 1) * error + k * (scans - error) / n
    if not whole > 0:
        return Estimate(math.nan, math.nan, math.nan)
    icc = (between - error) / whole
    if icc >= 1.0 - 1e-12:
        return Estimate(1.0, 1.0, 1.0)
    low, high = _icc_interval(icc, (between, scans, error), (n, k), confidence)
    return Estimate(icc, low, high)


def _icc_interval(
    icc: float, squares: tuple[float, float, float], shape: tuple[int, int], confidence: float
) -> tuple[float, float]:
    between, scans, error = squares
    n, k = shape
    a = k * icc / (n * (1.0 - icc))
    b = 1.0 + k * icc * (n - 1) / (n * (1.0 - icc))
    below = (a * scans) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    degrees = (a * scans + b * error) ** 2 / below
    p = 0.5 + 0.5 * confidence
    lower, upper = float(stats.f.ppf(p, n - 1, degrees)), float(stats.f.ppf(p, degrees, n - 1))
    within = k * scans + (k * n - k - n) * error
    low = n * (between - lower * error) / (lower * within + n * between)
    high = n * (upper * between - error) / (within + n * upper * between)
    return low, high


def voxel_correlation(first: NDArray[np.floating], second: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Pearson's correlation of two registered scans over the voxels of a tumour.

    Args:
        first: i j k.
        second: i j k, on the grid of the first.
        mask: i j k; voxels that are not finite in both are left out.

    Returns:
        nan when fewer than three voxels remain, or one scan is the same everywhere.

    Raises:
        CaseError: The shapes differ.

    Example:
        >>> a = np.array([[[1.0, 2.0, 3.0, 4.0]]])
        >>> round(voxel_correlation(a, np.array([[[1.0, 3.0, 2.0, 4.0]]]), a > 0), 6)
        0.8
    """
    if not first.shape == second.shape == mask.shape:
        raise CaseError(
            f"the scans are {first.shape} and {second.shape}, the mask {mask.shape}; resample them to one grid"
        )
    one, two = (np.asarray(scan[mask], dtype=np.float64) for scan in (first, second))
    known = np.isfinite(one) & np.isfinite(two)
    one, two = one[known], two[known]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return math.nan
    return float(np.corrcoef(one, two)[0, 1])


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one tumour.

    Args:
        ratio: i j k, TBR or TMR (or SUV).
        tumour: i j k.
        grid: Where both lie.
    """

    ratio: NDArray[np.floating]
    tumour: NDArray[np.bool_]
    grid: Grid


@dataclass(frozen=True, slots=True)
class ScanPair:
    """Two scans of one tumour.

    Args:
        first: The first.
        second: The second, on its own grid: interpolation would lower its maximum.
        registered: i j k, the second on the grid of the first.
    """

    first: Scan
    second: Scan
    registered: NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class ImageRepeatability:
    """What two scans of each tumour agree on.

    Args:
        maximum: Of the highest ratio of a tumour.
        peak: Of the highest 1 mL sphere; None where fewer than three tumours hold one.
        mean: Of the mean ratio.
        hypoxic_ml: Of the volume at or above the threshold.
        voxel_r: Mean over tumours of the voxels' correlation.
        voxel_r_sd: Its standard deviation between tumours.
        dice: Mean overlap of the volumes at or above the threshold, over the tumours of which a scan has one.
    """

    maximum: Repeatability
    peak: Repeatability | None
    mean: Repeatability
    hypoxic_ml: Repeatability
    voxel_r: float
    voxel_r_sd: float
    dice: float


def image_repeatability(pairs: Sequence[ScanPair], *, threshold: float, confidence: float = 0.95) -> ImageRepeatability:
    """Repeatability of what is read from ratio images.

    Args:
        pairs: N, one tumour each.
        threshold: Ratio at and above which a voxel counts as hypoxic.
        confidence: Of the intervals.

    Raises:
        CaseError: Fewer than three pairs, or shapes of a pair that differ.
    """
    scans = [(pair.first, pair.second) for pair in pairs]

    def of(values: list[tuple[float, float]]) -> Repeatability:
        return repeatability([v[0] for v in values], [v[1] for v in values], confidence=confidence)

    peaks = [(_peak(a), _peak(b)) for a, b in scans]
    correlations = np.array([voxel_correlation(p.first.ratio, p.registered, p.first.tumour) for p in pairs])
    known = correlations[np.isfinite(correlations)]
    overlaps = np.array([_overlap(pair, threshold) for pair in pairs])
    overlaps = overlaps[np.isfinite(overlaps)]
    return ImageRepeatability(
        maximum=of([(suv_max(a.ratio, a.tumour), suv_max(b.ratio, b.tumour)) for a, b in scans]),
        peak=of(peaks) if np.isfinite(peaks).all(axis=1).sum() >= 3 else None,
        mean=of([(suv_mean(a.ratio, a.tumour), suv_mean(b.ratio, b.tumour)) for a, b in scans]),
        hypoxic_ml=of([(_hypoxic_ml(a, threshold), _hypoxic_ml(b, threshold)) for a, b in scans]),
        voxel_r=float(known.mean()) if len(known) else math.nan,
        voxel_r_sd=float(known.std(ddof=1)) if len(known) > 1 else math.nan,
        dice=float(overlaps.mean()) if len(overlaps) else math.nan,
    )


def _paired(first: Sequence[float], second: Sequence[float], confidence: float) -> Array:
    if len(first) != len(second):
        raise CaseError(f"{len(first)} first scans and {len(second)} second ones; give both of each patient")
    if not 0 < confidence < 1:
        raise CaseError(f"a confidence of {confidence:g} is not between 0 and 1; 0.95 is usual")
    both = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)], axis=1)
    both = both[np.isfinite(both).all(axis=1)]
    if len(both) < 3:
        raise CaseError(f"{len(both)} patients have both scans; three is the least, ten are useful")
    return both


def _peak(scan: Scan) -> float:
    return suv_peak(scan.ratio, scan.tumour, scan.grid).value


def _hypoxic_ml(scan: Scan, threshold: float) -> float:
    return volume_ml(scan.tumour & (scan.ratio >= threshold), scan.grid)


def _overlap(pair: ScanPair, threshold: float) -> float:
    """Dice of both hypoxic volumes in the first scan's tumour; nan when both are empty."""
    inside = pair.first.tumour
    one, two = (scan[inside] >= threshold for scan in (pair.first.ratio, pair.registered))
    whole = int(one.sum()) + int(two.sum())
    return 2.0 * int((one & two).sum()) / whole if whole else math.nan
