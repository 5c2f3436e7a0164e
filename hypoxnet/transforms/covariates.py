"""Covariates enter here and nowhere else: from what a manifest says of a patient to the columns a model reads.

Each covariate is a term, fitted to the training patients and written into the bundle. A term gives one column, a
category one per level besides the most frequent. Every column is standardised over the training patients who have
it, so that 0 is their mean; what is not known is 0 with a flag beside it.

Axis legend: B patients, P columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet.quantities import Covariate, covariate

Array = NDArray[np.float64]
Known = NDArray[np.bool_]

KINDS = ("linear", "log", "category", "ordinal")
# A volume or an uptake of 0 has no logarithm; this is below anything that is measured.
SMALLEST = 1e-3
# Of fewer patients a level says who they were, not what it does.
ENOUGH_OF_A_LEVEL = 5


@dataclass(frozen=True, slots=True)
class CovariateTerm:
    """How one covariate becomes columns.

    Args:
        name: Covariate.
        kind: `linear`, standardised; `log`, the logarithm of `offset` + value, standardised; `ordinal`, steps of a code
            taken as equally far apart, standardised; `category`, one 0/1 column per level besides the first,
            standardised.
        means: Of each column before it is standardised, over the training patients.
        sds: Likewise.
        low: Smallest value of the training patients, in the covariate's own unit.
        high: Largest value.
        offset: Added before the logarithm.
        levels: Codes of a category in the training patients, the most frequent first.
    """

    name: str
    kind: str
    means: tuple[float, ...]
    sds: tuple[float, ...]
    low: float
    high: float
    offset: float = 0.0
    levels: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CovariateTerm:
        """From plain values, whose lists were tuples.

        Raises:
            TypeError: A key is unknown or missing.
        """
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
        return cls(**values)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns.

        Example:
            >>> CovariateTerm("subsite", "category", (0.2,), (0.4,), 0, 1, levels=(0, 1)).columns
            ('subsite=larynx',)
        """
        if self.kind == "category":
            return tuple(f"{self.name}={level_name(self.name, level)}" for level in self.levels[1:])
        return (self.name,)

    def column_values(self, values: Array) -> tuple[Array, Known]:
        """The columns of some patients, standardised, and who has them.

        Args:
            values: B, in the covariate's own unit; nan where not known.

        Returns:
            B P', 0 where not known, and B. A level that the training patients lack is not known.
        """
        known = np.isfinite(values) if self.kind != "category" else np.isin(values, self.levels)
        raw = _raw(values, self.kind, offset=self.offset, levels=self.levels)
        scaled = (raw - np.array(self.means)) / np.array(self.sds)
        return np.where(known[:, None], scaled, 0.0), known

    def note(self, value: float) -> str:
        """What is to be said of a value that the training patients did not have; empty when there is nothing."""
        if self.kind == "category":
            if value in self.levels:
                return ""
            names = ", ".join(level_name(self.name, level) for level in self.levels)
            return f"{self.name} is {level_name(self.name, value)}, the model knows {names}: it is taken as not known"
        if self.low <= value <= self.high:
            return ""
        unit = covariate(self.name).unit
        shown = "" if unit in {"code", "1", "any"} else f" {unit}"
        return (
            f"{self.name} is {value:.4g}{shown}, the training patients had {self.low:.4g} to {self.high:.4g}: "
            "the risk is an extrapolation"
        )


def level_name(name: str, code: float) -> str:
    """The word for a code of a category; the number where the table has no word.

    Example:
        >>> level_name("subsite", 1.0)
        'larynx'
    """
    levels = covariate(name).levels
    return levels[int(code)] if code == int(code) and 0 <= code < len(levels) else f"{code:g}"


def encode(covariates: Mapping[str, float], terms: Sequence[CovariateTerm]) -> tuple[Array, Array]:
    """The columns of one patient.

    Args:
        covariates: Name to value; missing ones are not in the mapping.
        terms: How each becomes columns.

    Returns:
        values, P, standardised, 0 where missing; known, P, 1 where not missing.

    Example:
        >>> age = CovariateTerm("age", "linear", (60.0,), (8.0,), 40.0, 80.0)
        >>> encode({"age": 68.0}, [age])
        (array([1.]), array([1.]))
    """
    table = {term.name: np.array([covariates.get(term.name, math.nan)]) for term in terms}
    values, known = encode_table(table, terms, patients=1)
    return values[0], known[0]


def encode_table(table: Mapping[str, Array], terms: Sequence[CovariateTerm], *, patients: int) -> tuple[Array, Array]:
    """The columns of a whole cohort at once.

    Args:
        table: Name to B values, nan where not known; a covariate without an entry is not known of anybody.
        terms: How each becomes columns.
        patients: B.

    Returns:
        values, B P, and known, B P, as in `encode`.
    """
    values, known = [np.zeros((patients, 0))], [np.zeros((patients, 0))]
    for term in terms:
        own = np.asarray(table.get(term.name, np.full(patients, np.nan)), dtype=np.float64)
        columns, has = term.column_values(own)
        values.append(columns)
        known.append(np.repeat(has[:, None].astype(np.float64), columns.shape[1], axis=1))
    return np.concatenate(values, axis=1), np.concatenate(known, axis=1)


def table_of(patients: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, Array]:
    """The covariates of several patients by name; nan where not known, B each."""
    return {
        name: np.fromiter((covariates.get(name, math.nan) for covariates in patients), np.float64, len(patients))
        for name in names
    }


def extrapolations(covariates: Mapping[str, float], terms: Sequence[CovariateTerm]) -> Iterator[str]:
    """Sentences about values that the training patients did not have."""
    for term in terms:
        if term.name in covariates:
            sentence = term.note(covariates[term.name])
            if sentence:
                yield sentence


def fit_term(name: str, values: Array) -> CovariateTerm | str:
    """The term of a covariate, or the sentence that says why there is none.

    Args:
        name: Covariate; its kind is that of the table.
        values: B, of the training patients who have it.
    """
    row = covariate(name)
    levels: tuple[float, ...] = ()
    if row.kind == "category":
        counts = Counter(values.tolist())
        levels = tuple(
            level for level, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if count >= ENOUGH_OF_A_LEVEL
        )
        values = values[np.isin(values, levels)]
    if len(values) == 0 or np.ptp(values) == 0:
        return _nothing_to_learn(row, values)
    raw = _raw(values, row.kind, offset=row.offset, levels=levels)
    means, sds = raw.mean(axis=0), raw.std(axis=0)
    return CovariateTerm(
        name=name,
        kind=row.kind,
        means=tuple(float(mean) for mean in means),
        sds=tuple(float(sd) for sd in sds),
        low=float(values.min()),
        high=float(values.max()),
        offset=row.offset,
        levels=levels,
    )


def _nothing_to_learn(row: Covariate, values: Array) -> str:
    if len(values) == 0:
        return f"{row.name} is left out: no level of it is that of {ENOUGH_OF_A_LEVEL} training patients"
    value = level_name(row.name, float(values[0])) if row.kind == "category" else f"{values[0]:g}"
    return f"{row.name} is left out: it is {value} in all {len(values)} training patients who have it"


def _raw(values: Array, kind: str, *, offset: float, levels: Sequence[float]) -> Array:
    """The columns before they are standardised, B P'."""
    if kind == "category":
        return np.asarray(values[:, None] == np.array(levels[1:])[None], dtype=np.float64)
    if kind == "log":
        logs = np.log(np.maximum(values + offset, SMALLEST))
        return np.asarray(logs[:, None], dtype=np.float64)
    return np.asarray(values[:, None], dtype=np.float64)
