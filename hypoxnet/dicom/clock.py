"""Dates and times of DICOM, by the rules that de-identified and old files ask for."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

DATE = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")
TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?")
DAY = timedelta(days=1)


def moment(text: str) -> datetime | None:
    """A DICOM date-time; an offset from UTC is left out, since no other time of the object has one.

    Example:
        >>> moment("20201217104830.351370+0100")
        datetime.datetime(2020, 12, 17, 10, 48, 30, 351370)
    """
    text = re.sub(r"[+-]\d{4}$", "", text.strip())
    return combined(text[:8], text[8:]) if len(text) >= 10 else None


def combined(date: str, time: str) -> datetime | None:
    """A date and a time of day; None when one of them is missing or is none.

    Example:
        >>> combined("20201217", "0830")
        datetime.datetime(2020, 12, 17, 8, 30)
    """
    found_date, found_time = DATE.fullmatch(date.strip()), TIME.fullmatch(time.strip())
    if found_date is None or found_time is None:
        return None
    hour, minute, second, fraction = found_time.groups()
    try:
        year, month, day = (int(part) for part in found_date.groups())
        microsecond = int((fraction or "0").ljust(6, "0"))
        return datetime(year, month, day, int(hour), int(minute or 0), min(59, int(second or 0)), microsecond)
    except ValueError:
        return None


def same_day(earlier: datetime, later: datetime, *, drop_days: bool = True) -> tuple[datetime, str]:
    """The injection brought within the day before the scan, and what was done to it.

    Dates of de-identified files may be shifted apart, and a time without a date may lie before midnight.

    Args:
        earlier: The injection.
        later: The scan.
        drop_days: Whole days between them are an error of dates; not so for a nuclide that is imaged on the next day.

    Example:
        >>> same_day(datetime(2020, 1, 1, 23, 30), datetime(2020, 1, 1, 1, 0))[0]
        datetime.datetime(2019, 12, 31, 23, 30)
    """
    note = ""
    apart = later - earlier
    if abs(apart) >= DAY and (drop_days or apart < -DAY):
        whole = apart // DAY
        earlier += whole * DAY
        note = f"the dates of injection and scan are {whole} whole days apart, these were dropped"
    if earlier > later:
        earlier -= DAY
        note = note or "the injection was before midnight, a day was taken off"
    return earlier, note
