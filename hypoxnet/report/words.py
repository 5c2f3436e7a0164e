"""Numbers as people read them, the same in every page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# A slope known no better than this may be right, or twice too extreme, or twice too timid.
WIDEST_SLOPE = 2.0


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


def slope_words(figure: Mapping[str, float | None]) -> str:
    """What a calibration slope far from 1 means, to be added to its definition; empty where nothing is to be said.

    Example:
        >>> slope_words({"value": -6.46, "low": -15.0, "high": 3.2})
        '. The interval holds both 0 (risks that do not order these patients) and 1: too few events to say'
        >>> slope_words({"value": 0.68, "low": 0.38, "high": 1.14})
        ''
    """
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return ""
    if high < 0:
        return ". Below 0: the risks order these patients the wrong way round"
    if low <= 0 and high < 1:
        return ". The interval holds 0 and not 1: the risks hardly order these patients, if at all"
    if low <= 0:
        return ". The interval holds both 0 (risks that do not order these patients) and 1: too few events to say"
    if high - low > WIDEST_SLOPE:
        return ". The interval is too wide to judge by: too few events to say"
    return ""


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
