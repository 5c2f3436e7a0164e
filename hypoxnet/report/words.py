"""Numbers as people read them, the same in every page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def interval(figure: Mapping[str, float | None], digits: int = 2) -> str:
    """A figure with its interval, in words where there is none.

    Example:
        >>> interval({"value": 0.714, "low": 0.66, "high": 0.76})
        '0.71 (0.66 to 0.76)'
    """
    if figure["value"] is None:
        return "not defined"
    value = f"{figure['value']:.{digits}f}"
    if figure["low"] is None or figure["high"] is None:
        return f"{value} (no interval)"
    return f"{value} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    Example:
        >>> count(1, "failure"), count(2, "failure"), count(0, "case")
        ('1 failure', '2 failures', '0 cases')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Iterable[str]) -> str:
    """Names with commas and an `and`; `none` when there are none.

    Example:
        >>> listed(["a", "b", "c"]), listed([])
        ('a, b and c', 'none')
    """
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
