"""Times of follow-up that are not months, noticed by what no cohort of patients looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Fewer times than this show no pattern.
FEWEST = 8
# Months. In no cohort is a quarter of the patients followed for 25 years. One long time is a slip of the pen in its own
# line, not the unit of the column.
LONGEST_QUARTER = 300.0
# Whole numbers with a median of 15 years as months, half a year as days.
COUNTED_MEDIAN = 180.0
# Months. Times of which none passes a year, and most have decimals, are years: a cohort in months that is this young
# has no outcome to learn from, and is usually written in whole months.
SHORTEST_LONGEST, SHORTEST_MEDIAN, FRACTIONS = 12.0, 1.0, 0.6
DAYS_PER_MONTH = 365.25 / 12.0


def suspect_unit(months: Sequence[float], event: Sequence[int]) -> str | None:
    """What speaks against times being months.

    Args:
        months: Times of event or censoring, as given; those that are not finite are passed over.
        event: 0 censored, any other number an event.

    Returns:
        One sentence with the evidence and the remedy; None when nothing speaks against months, or when there are fewer
        than `FEWEST` times.

    Example:
        >>> print(suspect_unit([412, 1204, 730, 2190, 95, 1530, 1311, 88], [1, 0, 1, 0, 1, 0, 0, 1]))
        times look like days, not months: the median is 967 and the longest 2,190, all whole numbers; as months that \
would be 81 and 182 years; divide them by 30.44
        >>> suspect_unit([14.2, 40.0, 24.0, 72.0, 3.1, 50.3, 9.0, 33.0], [1, 0, 1, 0, 1, 0, 1, 0]) is None
        True
    """
    given = np.asarray(months, dtype=np.float64)
    finite = np.isfinite(given)
    times, events = given[finite], np.asarray(event)[finite]
    if len(times) < FEWEST:
        return None
    return _days(times) or _years(times, events > 0)


def _days(times: NDArray[np.float64]) -> str | None:
    median, longest = float(np.median(times)), float(times.max())
    whole = bool((times == np.round(times)).all())
    if not (float(np.quantile(times, 0.75)) > LONGEST_QUARTER or (whole and median > COUNTED_MEDIAN)):
        return None
    return (
        f"times look like days, not months: the median is {median:,.0f} and the longest {longest:,.0f}"
        f"{', all whole numbers' if whole else ''}; as months that would be {median / 12:,.0f} and {longest / 12:,.0f} "
        f"years; divide them by {DAYS_PER_MONTH:.2f}"
    )


def _years(times: NDArray[np.float64], struck: NDArray[np.bool_]) -> str | None:
    median, longest = float(np.median(times)), float(times.max())
    fractions = float((times != np.round(times)).mean())
    if struck.all() or longest >= SHORTEST_LONGEST or median <= SHORTEST_MEDIAN or fractions < FRACTIONS:
        return None
    return (
        f"times look like years, not months: the longest of {len(times)} is {longest:.1f} and {fractions:.0%} have "
        f"decimals; as months none of the {int((~struck).sum())} patients without an event was followed for a year, as "
        f"years the longest is {12 * longest:.0f} months; multiply them by 12"
    )
