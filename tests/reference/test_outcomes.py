"""298 real head-and-neck patients of four hospitals: locoregional control at two years as others computed it."""

import numpy as np
import pandas as pd
import pytest

from hypoxnet.survival.estimators import incidence_of_cohort, kaplan_meier

pytestmark = pytest.mark.reference
DAYS_PER_YEAR = 365.25


@pytest.fixture(scope="module")
def cohort(reference):
    table = pd.read_csv(reference / "hnc_outcomes" / "canada.csv", sep=";")
    event = (table["Locoregional"] == 1).to_numpy().astype(np.int64)
    followed = table["Time - diagnosis to last follow-up(days)"]
    days = table["Time - diagnosis to LR (days)"].where(event == 1, followed).to_numpy(float)
    return days, event


def test_locoregional_control_at_two_years(cohort):
    days, event = cohort
    assert (len(days), event.sum()) == (298, 43)
    curve = kaplan_meier(days, event)
    assert curve.at(2 * DAYS_PER_YEAR) == pytest.approx(0.8968, abs=2e-4)
    assert incidence_of_cohort(days, event, 2 * DAYS_PER_YEAR) == pytest.approx(1 - 0.8968, abs=2e-4)
