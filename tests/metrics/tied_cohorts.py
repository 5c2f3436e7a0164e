"""Small drawn cohorts whose times and risks tie, for property tests."""

import numpy as np
from hypothesis import strategies as st

ROWS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 7), st.integers(0, 2)), min_size=1, max_size=24)


def arrays(rows):
    """Risk in tenths, months and event."""
    risk, months, event = (np.array(column) for column in zip(*rows, strict=True))
    return (risk + 1) / 10, months.astype(float), event


def events_first(months, event):
    """The same times with events a little earlier: other programs then have no tie of event and censoring to break."""
    return months - 1e-6 * (event > 0)
