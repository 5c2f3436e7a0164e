"""What training patients look like, learned from them, and how unusual validation patients are by it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from scipy import stats

from hypoxnet.bundle.levels import SMALLEST_EIGENVALUE, Levels
from hypoxnet.bundle.typical import (
    AROUND,
    FEATURES,
    IMAGE,
    MOST_COMPONENTS,
    TUMOUR,
    Appearance,
    Array,
    Part,
    Typical,
    levels_at,
)

# Of patients like those of training, this share is to be called unlike them.
FALSE_ALARMS = 0.05
FEWEST_PATIENTS = 10
# Directions of features are many more numbers than four.
FEWEST_FOR_FEATURES = 20
FEWEST_JUDGES = 8
# The 95 % order statistic of fewer values lies beyond the largest.
FEWEST_FOR_RANK = 19
FOLDS = 5
# Patients' logarithms of distances differ at least by this.
SMALLEST_SPREAD = 0.05

Scaled = TypeVar("Scaled", Part, Levels)
Taken = Callable[[Appearance], Array | None]


def fit_typical(training: Sequence[Appearance], validation: Sequence[Appearance]) -> Typical | None:
    """What training patients look like, with limits that call `FALSE_ALARMS` of the judging patients unlike.

    Validation patients judge, since the network has learned the training patients' features; with fewer than
    `FEWEST_JUDGES` of them training patients do, each by the others.

    Args:
        training: One case of each training patient.
        validation: One case of each patient who chose the checkpoint.

    Returns:
        None with fewer than `FEWEST_PATIENTS` training patients.
    """
    if len(training) < FEWEST_PATIENTS:
        return None
    known = _described(training)
    if len(validation) >= FEWEST_JUDGES:
        judged = [(known, list(validation))]
    else:
        judged = [_left_out(training, fold) for fold in range(FOLDS)]
    scaled = _scaled(known, judged)
    # The parts of the folds take the same centre and spread, so that limits hold for those that are kept.
    limits = {place: _limit(_largest(scaled, judged, place)) for place in scaled.channels}
    enough = {place: limit for place, limit in limits.items() if limit is not None}
    if not enough:
        return None
    own = len(validation) >= FEWEST_JUDGES
    fitted = replace(
        scaled,
        limits=enough,
        judges=len(validation) if own else len(training),
        judged_by="validation patients" if own else "training patients, each left out in turn",
    )
    # What is read back from the bundle, to the last digit.
    return Typical.from_json(fitted.to_json())


def fit_part(rows: Array) -> Part:
    """The normal distribution of patients' numbers, n x d: shrunk, of few directions.

    Example:
        >>> part = fit_part(np.random.default_rng(0).normal(size=(200, 3)))
        >>> len(part.variances), bool(abs(part.distance(np.zeros(3))) < 0.5)
        (3, True)
    """
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0, ddof=1), 1e-3)
    away = (rows - mean) / scale
    values, vectors = np.linalg.eigh(_shrunk(away))
    kept = min(MOST_COMPONENTS, len(values), max(1, len(rows) // 5))
    rest = values[: len(values) - kept]
    return Part(
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        directions=tuple(tuple(row) for row in vectors.T[::-1][:kept].tolist()),
        variances=tuple(np.maximum(values[::-1][:kept], 1e-3).tolist()),
        rest=max(float(rest.mean()), 1e-3) if len(rest) else 1.0,
    )


def fit_levels(cases: Sequence[Mapping[str, float]], names: Sequence[str]) -> Levels:
    """The normal distribution of the medians of all channels; each correlation is of the patients who have both.

    Args:
        cases: Of each patient, channel to median.
        names: Channels that two patients have at least.

    Source:
        Schaefer and Strimmer 2005, Stat Appl Genet Mol Biol 4:32 (correlations shrunk as far as they are not known).

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(500, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
        >>> fit_levels([{"T1W": a, "ADC": b} for a, b in rows.tolist()], ("T1W", "ADC")).correlation[0]
        (1.0, 0.80017...)
    """
    rows = np.array([[case.get(name, np.nan) for name in names] for case in cases], dtype=np.float64)
    mean, scale = np.nanmean(rows, axis=0), np.maximum(np.nanstd(rows, axis=0, ddof=1), 1e-3)
    there = (~np.isnan(rows)).astype(np.float64)
    away = np.nan_to_num((rows - mean) / scale)
    both = np.maximum(there.T @ there, 1.0)
    products = away.T @ away / both
    noise = ((away**2).T @ (away**2) / both - products**2) / both
    apart = ~np.eye(len(names), dtype=bool)
    known = float((products[apart] ** 2).sum())
    weight = min(1.0, float(noise[apart].sum()) / known) if known > 0 else 1.0
    values, vectors = np.linalg.eigh(np.where(apart, (1 - weight) * products, 1.0))
    covariance = (vectors * np.maximum(values, SMALLEST_EIGENVALUE)) @ vectors.T
    size = np.sqrt(np.diag(covariance))
    correlation = np.where(apart, (covariance + covariance.T) / 2 / np.outer(size, size), 1.0)
    return Levels(tuple(names), tuple(mean.tolist()), tuple(scale.tolist()), tuple(map(tuple, correlation.tolist())))


def _shrunk(away: Array) -> Array:
    """Covariance of n x d standardised numbers, drawn towards a sphere as far as it is not known."""
    n, d = away.shape
    covariance = away.T @ away / n
    level = float(np.trace(covariance)) / d
    apart = float(((covariance - level * np.eye(d)) ** 2).sum())
    noise = sum(float(((np.outer(row, row) - covariance) ** 2).sum()) for row in away) / n**2
    weight = min(1.0, noise / apart) if apart > 0 else 1.0
    return np.asarray((1 - weight) * covariance + weight * level * np.eye(d))


def _described(cases: Sequence[Appearance], *, share: float = 1.0) -> Typical:
    """The parts, without limits; of a share of the patients the least numbers are that share."""
    names = list(dict.fromkeys(name for case in cases for name in case.channels.get(IMAGE, {})))
    channels: dict[str, dict[str, Part]] = {}
    for place in (TUMOUR, IMAGE):
        for name in names:
            rows = _rows(cases, lambda case, p=place, n=name: case.channels.get(p, {}).get(n))  # type: ignore[misc]
            if len(rows) >= int(share * FEWEST_PATIENTS):
                channels.setdefault(place, {})[name] = fit_part(rows)
    levels = {place: _levels(cases, place, fewest=int(share * FEWEST_PATIENTS)) for place in (TUMOUR, AROUND, IMAGE)}
    patterns = [case.pattern for case in cases if case.features is not None]
    pattern = max(patterns, key=patterns.count, default=())
    rows = _rows(cases, lambda case: case.features if case.pattern == pattern else None)
    features = fit_part(rows) if len(rows) >= int(share * FEWEST_FOR_FEATURES) else None
    known = {place: each for place, each in levels.items() if each is not None}
    return Typical(channels, features, pattern, {}, len(cases), 0, "", known)


def _levels(cases: Sequence[Appearance], place: str, *, fewest: int) -> Levels | None:
    """Of the channels that so many patients have; None without any."""
    medians = [case.medians(place) for case in cases]
    counts = Counter(name for each in medians for name in each)
    names = tuple(name for name, count in counts.items() if count >= fewest)
    return fit_levels(medians, names) if names else None


def _rows(cases: Sequence[Appearance], taken: Taken) -> Array:
    rows = [row for row in map(taken, cases) if row is not None]
    return np.stack(rows) if rows else np.zeros((0, 0))


def _left_out(training: Sequence[Appearance], fold: int) -> tuple[Typical, list[Appearance]]:
    """The training patients without every fifth, and these."""
    others = [case for place, case in enumerate(training) if place % FOLDS != fold]
    return _described(others, share=1 - 1 / FOLDS), [
        case for place, case in enumerate(training) if place % FOLDS == fold
    ]


Judged = list[tuple[Typical, list[Appearance]]]


def _scaled(known: Typical, judged: Judged) -> Typical:
    """The parts with centre and spread of the judges; a part that too few of them have is left out."""
    channels = {
        place: {
            name: scaled
            for name, part in parts.items()
            if (scaled := _with_scale(part, _unscaled(judged, place, name)))
        }
        for place, parts in known.channels.items()
    }
    together = {
        place: _with_scale(levels, _unscaled(judged, IMAGE if place == IMAGE else TUMOUR, levels_at(place)))
        for place, levels in known.levels.items()
    }
    features = known.features and _with_scale(known.features, _unscaled(judged, TUMOUR, FEATURES))
    return replace(
        known,
        channels={place: parts for place, parts in channels.items() if parts},
        features=features,
        levels={place: levels for place, levels in together.items() if levels},
    )


def _with_scale(part: Scaled, surprises: Sequence[float]) -> Scaled | None:
    if len(surprises) < FEWEST_JUDGES:
        return None
    spread = max(float(np.std(surprises, ddof=1)), SMALLEST_SPREAD)
    return replace(part, centre=float(np.mean(surprises)), spread=spread)


def _unscaled(judged: Judged, place: str, name: str) -> list[float]:
    """The surprises of the judges by a part that has no scale yet."""
    surprises = [by.surprises(case, place) for by, cases in judged for case in cases]
    return [each[name] for each in surprises if name in each]


def _largest(scaled: Typical, judged: Judged, place: str) -> list[float]:
    """The largest surprise of each judge."""
    found = []
    for by, cases in judged:
        for case in cases:
            raw = by.surprises(case, place)
            parts = scaled.parts(place).items()
            rescaled = [(raw[name] - part.centre) / part.spread for name, part in parts if name in raw]
            found += [max(rescaled)] if rescaled else []
    return found


def _limit(surprises: Sequence[float]) -> float | None:
    """Above it lies a further patient with a probability of `FALSE_ALARMS`; None when too few judge.

    By rank where there are enough (Vovk et al. 2005, conformal prediction), else the limit of prediction of a normal
    distribution.
    """
    n = len(surprises)
    if n < FEWEST_JUDGES:
        return None
    if n >= FEWEST_FOR_RANK:
        return float(np.sort(surprises)[math.ceil((1 - FALSE_ALARMS) * (n + 1)) - 1])
    width = float(stats.t.ppf(1 - FALSE_ALARMS, n - 1)) * math.sqrt(1 + 1 / n)
    return float(np.mean(surprises) + width * np.std(surprises, ddof=1))
