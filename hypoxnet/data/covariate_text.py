"""What a manifest may write for a covariate: a number in its unit, or the words clinics use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache, lru_cache

from hypoxnet.quantities import COVARIATE_ALIASES, COVARIATE_PREFIX, COVARIATES, READ_OUTS, Covariate, covariate

Fault = Callable[[str], None]

# Written by clinics for what they do not know; for covariates only, since a file may be called anything.
NOT_KNOWN = frozenset({"", "na", "n/a", "nan", "none", "unknown", "not known", "x", "tx", "nx", "ctx", "cnx", "?"})
MM3_PER_ML = 1000.0
BY_1000 = "divide by 1000"


def covariate_name(column: str) -> str:
    """The covariate that a column holds, by its name, an alias, or `x_NAME`; empty when it holds none.

    Example:
        >>> covariate_name("tumour_volume_ml"), covariate_name("site")
        ('gtv_ml', '')
    """
    if column in COVARIATES or column in READ_OUTS:
        return column
    if column.startswith(COVARIATE_PREFIX) and len(column) > len(COVARIATE_PREFIX):
        return column
    return COVARIATE_ALIASES.get(column.lower(), "")


def read_covariate(name: str, text: str, fault: Fault) -> float | None:
    """The value of a cell; None where it is not known or cannot be right, which `fault` is told.

    Args:
        name: Covariate, of the table or `x_NAME`.
        text: The cell.
        fault: Told one sentence about what is wrong.

    Example:
        >>> [read_covariate("t_stage", text, print) for text in ("T4a", "4a", "T2", "Tx")]
        [4.0, 4.0, 2.0, None]
        >>> read_covariate("sex", "Male", print), read_covariate("n_stage", "N2b", print)
        (1.0, 2.0)
    """
    value, wrong = _parsed(name, text)
    if wrong:
        fault(wrong)
    return value


# Large cohorts repeat their cells: most are looked up.
@lru_cache(maxsize=100_000)
def _parsed(name: str, text: str) -> tuple[float | None, str]:
    """The value, and what is wrong with it."""
    word = text.strip().lower()
    if word in NOT_KNOWN:
        return None, ""
    row = _row(name)
    value = _value(row, word)
    if value is None:
        return None, f"{name} is {text!r}, it must be {_allowed(row)}, or empty where it is not known"
    if not row.low <= value <= row.high:
        return (
            None,
            f"{name} is {text} {row.unit}, plausible is {row.low:g} to {row.high:g}; {_remedy(row, value)}",
        )
    if row.kind == "ordinal" and value != int(value):
        return (
            None,
            f"{name} is {text}, it must be a whole number from {row.low:g} to {row.high:g}; mend it or clear it",
        )
    return value, ""


def write_covariate(name: str, value: float) -> str:
    """The cell that `read_covariate` reads as this value.

    Example:
        >>> write_covariate("subsite", 1.0), write_covariate("age", 61.5)
        ('larynx', '61.5')
    """
    levels = _row(name).levels
    return levels[int(value)] if levels else repr(float(value)).removesuffix(".0")


@cache
def _row(name: str) -> Covariate:
    return covariate(name)


@cache
def _pattern(row_name: str) -> re.Pattern[str] | None:
    pattern = _row(row_name).pattern
    return re.compile(pattern) if pattern else None


def _value(row: Covariate, word: str) -> float | None:
    if row.levels:
        level = re.sub(r"[\s-]+", "_", word)
        return float(row.levels.index(level)) if level in row.levels else None
    if word in row.words:
        return row.words[word]
    pattern = _pattern(row.name)
    found = pattern.fullmatch(word) if pattern else None
    if found is not None:
        return float(found[1])
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _allowed(row: Covariate) -> str:
    if row.levels:
        return f"one of {', '.join(level.replace('_', ' ') for level in row.levels)}"
    meaning = "" if row.unit == "any" else f" ({row.meaning})"
    words = [*row.words, *_EXAMPLES.get(row.name, ())]
    return f"a number{meaning}" + (f" or one of {', '.join(words)}" if words else "")


_EXAMPLES = {"t_stage": ("T1", "T4a", "Tx"), "n_stage": ("N0", "N2b", "Nx")}


def _remedy(row: Covariate, value: float) -> str:
    if row.unit == "ml" and row.low <= value / MM3_PER_ML <= row.high:
        return f"it looks like mm3, which is {value / MM3_PER_ML:.4g} ml; {BY_1000}"
    return "mend it or clear it"
