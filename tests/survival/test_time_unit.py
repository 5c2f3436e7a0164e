import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.survival.time_unit import DAYS_PER_MONTH, suspect_unit


def cohort(median, *, seed=0, n=120, longest=90.0):
    """Times in months to a tenth, exponential with an end of follow-up, and events."""
    generator = np.random.default_rng(seed)
    event_at = generator.exponential(median / np.log(2), n)
    months = np.minimum(event_at, generator.uniform(min(12.5, longest), longest, n))
    return np.round(months, 1), (months == event_at).astype(int)


@given(st.floats(2.0, 120.0), st.integers(0, 1000), st.booleans())
def test_honest_months_are_not_refused(median, seed, whole):
    months, event = cohort(median, seed=seed, longest=240.0)
    months[0] = max(months[0], 14.0)  # somebody is followed for more than a year
    assert suspect_unit(np.round(months) if whole else months, event) is None


@given(st.floats(15.0, 80.0), st.integers(0, 1000))
def test_days_are_noticed(median, seed):
    months, event = cohort(median, seed=seed)
    assert "look like days" in suspect_unit(np.round(months * DAYS_PER_MONTH), event)


@given(st.floats(20.0, 80.0), st.integers(0, 1000), st.sampled_from([1, 2, 4]))
def test_years_are_noticed(median, seed, decimals):
    months, event = cohort(median, seed=seed)
    event[0] = 0
    assert "look like years" in suspect_unit(np.round(months / 12, decimals), event)


def test_the_evidence_is_in_the_sentence():
    months = [6.2, 3.1, 4.4, 2.5, 0.7, 5.0, 3.3, 1.9]
    sentence = suspect_unit(months, [0, 0, 1, 0, 1, 0, 0, 2])
    for evidence in ("the longest of 8 is 6.2", "88% have decimals", "none of the 5 patients", "74 months"):
        assert evidence in sentence


@pytest.mark.parametrize(
    "months",
    [
        [1204.0, 900.0],
        [np.nan] * 20,
        [3, 6, 9, 11, 2, 4, 6, 8, 10],
        [0.0] * 10,
        [0.5] * 10,
    ],
    ids=["few", "unknown", "young in whole months", "all at zero", "all within a month"],
)
def test_what_shows_no_pattern_is_left(months):
    assert suspect_unit(months, [0] * len(months)) is None


def test_one_long_time_is_a_slip_in_its_line_and_not_the_unit_of_the_column():
    months = [14.2, 40.0, 24.0, 72.0, 3.1, 50.3, 9.0, 33.0, 1200.0]
    assert suspect_unit(months, [1, 0, 1, 0, 1, 0, 1, 0, 0]) is None
