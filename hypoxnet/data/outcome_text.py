"""The outcome as a manifest writes it: months with a code of the event, or a plain yes or no."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hypoxnet.cases import CENSORED, DEATH, END_POINTS, FAILURE, Outcome

Fault = Callable[[str], None]

# Nobody is followed for longer; a larger number is days.
LONGEST_MONTHS = 480.0
NOT_DAYS = "give months, not days"

YES = {"1", "yes", "true", "y"}
NO = {"0", "no", "false", "n"}
NOT_KNOWN = {"", "na", "n/a", "nan", "none"}


def read_outcome(cells: Mapping[str, str], endpoint: str, fault: Fault) -> Outcome | None:
    """The outcome of a row, for one end point.

    Args:
        cells: The row by column; times as `lrc_months` with `lrc_event`, or `failed` for a plain yes/no.
        endpoint: `lrc`, `dm` or `os`, the prefix of the columns.
        fault: Is told what is wrong.

    Returns:
        None where it is not known, or wrong.
    """
    failed = cells.get("failed", "").lower()
    if failed not in NOT_KNOWN and endpoint == "lrc":
        if failed not in YES | NO:
            fault(f"failed is {cells['failed']!r}, it must be 1 or yes, 0 or no, or empty")
            return None
        return Outcome(FAILURE if failed in YES else CENSORED, None)
    time_column, event_column = f"{endpoint}_months", f"{endpoint}_event"
    if not {time_column, event_column} <= set(cells):
        return None  # the header has been told of
    months, event = cells[time_column], cells[event_column]
    unknown_months, unknown_event = months.lower() in NOT_KNOWN, event.lower() in NOT_KNOWN
    if unknown_months and unknown_event:
        return None
    if unknown_months:
        fault(f"{event_column} is {event}, {time_column} is empty; give the months to the event or to the last visit")
        return None
    if unknown_event:
        fault(f"{time_column} is {months}, {event_column} is empty; give {_codes(endpoint)}")
        return None
    return _timed(months, event, endpoint, fault)


def _codes(endpoint: str) -> str:
    """The codes of an event in words."""
    event, competing = END_POINTS[endpoint]
    return f"0 censored or 1 {event}" if endpoint == "os" else f"0 censored, 1 {event} or 2 {competing}"


def _timed(months: str, event: str, endpoint: str, fault: Fault) -> Outcome | None:
    time, code = number_of(months), number_of(event)
    possible = (CENSORED, FAILURE) if endpoint == "os" else (CENSORED, FAILURE, DEATH)
    if time is None:
        fault(f"{endpoint}_months is {months!r}, it must be a number of months")
    elif time < 0:
        fault(f"{endpoint}_months is {months}, a time must not be negative; count from the start of radiotherapy")
    elif time > LONGEST_MONTHS:
        fault(f"{endpoint}_months is {months}, more than {LONGEST_MONTHS:g}; {NOT_DAYS}")
    if code not in possible:
        fault(f"{endpoint}_event is {event!r}, it must be {_codes(endpoint)}")
    if time is None or code is None or not 0 <= time <= LONGEST_MONTHS or code not in possible:
        return None
    return Outcome(int(code), time)


def number_of(text: str) -> float | None:
    """The finite number that a cell holds; None where it holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
