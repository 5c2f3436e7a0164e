"""Dates as a manifest gives them: a year, a month or a day, since a year is all that many cohorts may hand out."""

from __future__ import annotations

import re
from datetime import date

PATTERN = re.compile(r"(19|20)\d\d(-\d\d(-\d\d)?)?")


def iso_date(text: str) -> str | None:
    """A date to the precision it was given in; None when it is no date.

    Args:
        text: `2018`, `2018-07` or `2018-07-01`.

    Example:
        >>> iso_date("2018-07"), iso_date("01.07.2018"), iso_date("2018-02-30")
        ('2018-07', None, None)
    """
    if not PATTERN.fullmatch(text):
        return None
    try:
        date.fromisoformat((text + "-01-01")[:10])
    except ValueError:
        return None
    return text


def is_from(when: str, threshold: str) -> bool | None:
    """Whether a date is the threshold or later; None when it is too coarse to tell.

    Args:
        when: As of `iso_date`.
        threshold: Likewise; a year means its first day.

    Example:
        >>> is_from("2018-07", "2018"), is_from("2017", "2018-07-01"), is_from("2018", "2018-07-01")
        (True, False, None)
    """
    if len(when) < len(threshold) and threshold.startswith(when):
        return None
    return when >= threshold
