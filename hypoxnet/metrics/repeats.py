"""Repeated cross-validation: one prediction per patient, and how much a figure owes to how the patients were dealt.

A patient is withheld once per repeat. Figures and their intervals are those of the mean prediction, so that a patient
counts once; the figure of each repeat stands beside them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from hypoxnet.metrics.discrimination import harrell_c
from hypoxnet.metrics.scores import CaseScore


def mean_of_repeats(scores: Sequence[CaseScore]) -> tuple[CaseScore, ...]:
    """One score per case, the mean of its repeats; what a repeat lacks, the mean lacks.

    Args:
        scores: Of every repeat.

    Example:
        >>> twice = [CaseScore("P1", "P1", fold=0, risk=0.25), CaseScore("P1", "P1", fold=4, risk=0.75)]
        >>> mean_of_repeats(twice)[0].risk
        0.5
    """
    by_key: dict[str, list[CaseScore]] = defaultdict(list)
    for score in scores:
        by_key[score.key].append(score)
    return tuple(replace(_mean(same), fold=None) for same in by_key.values())


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, and of everything that is made of numbers."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if all(value == first for value in values[1:]):
        return first
    if is_dataclass(first):
        parts = {f.name: _mean([getattr(value, f.name) for value in values]) for f in fields(first)}
        return replace(first, **parts)  # type: ignore[type-var]
    if isinstance(first, Mapping):
        common = [key for key in first if all(key in value for value in values)]
        return {key: _mean([value[key] for value in values]) for key in common}
    if isinstance(first, tuple):
        return tuple(_mean(part) for part in zip(*values, strict=True))
    return float(np.mean(values)) if isinstance(first, float | int) else first


def figures_of_repeats(scores: Sequence[CaseScore], folds: int) -> dict[str, list[float | None]]:
    """Concordance and mean Dice of each repeat, without intervals: their spread is that of dealing, not of patients.

    Args:
        scores: Of every repeat, with the number of their part.
        folds: Parts per repeat.
    """
    by_repeat: dict[int, list[CaseScore]] = defaultdict(list)
    for score in scores:
        by_repeat[(score.fold or 0) // folds].append(score)
    ordered = [by_repeat[repeat] for repeat in sorted(by_repeat)]
    return {"c_index": [_concordance(own) for own in ordered], "dice": [_dice(own) for own in ordered]}


def _concordance(scores: Sequence[CaseScore]) -> float | None:
    known = {score.patient: score for score in scores if score.outcome is not None and score.risk is not None}
    rows = [(score.risk, score.outcome) for score in known.values()]
    if not rows:
        return None
    event = np.array([outcome.event for _, outcome in rows if outcome is not None], dtype=np.int64)
    times = [outcome.months for _, outcome in rows if outcome is not None]
    months = None if None in times else np.array(times, dtype=float)
    found = harrell_c(np.array([risk for risk, _ in rows], dtype=float), months, event)
    return None if found is None else round(found, 6)


def _dice(scores: Sequence[CaseScore]) -> float | None:
    found = [next(iter(score.regions.values())).dice for score in scores if score.regions]
    return round(float(np.mean(found)), 6) if found else None
