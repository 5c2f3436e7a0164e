"""Every estimate beside that of R's survival and cmprsk, on real cohorts and on one whose times tie heavily."""

import numpy as np
import pytest
from r_figures import asked_r, cohorts, r_is_here, recorded

from hypoxnet.metrics.calibration import calibration_intercept, calibration_slope
from hypoxnet.metrics.discrimination import harrell_c, uno_c
from hypoxnet.metrics.pseudo_values import pseudo_values
from hypoxnet.survival.comparison import gray_test, logrank_test
from hypoxnet.survival.estimators import incidence_curve, incidence_of_cohort, kaplan_meier
from hypoxnet.survival.fine_gray import fine_gray
from hypoxnet.survival.regression import cause_specific_cox
from hypoxnet.survival.restricted_mean import restricted_mean_free, time_lost

FIGURES = recorded()
COMPETING = ["bmt", "cgvhd", "ties"]
ALL = [*COMPETING, "lung"]


class Cohort:
    def __init__(self, name):
        frame = cohorts()[name]
        self.r = {key: np.array(value, dtype=float) for key, value in FIGURES[name].items()}
        self.months, self.risk = frame["months"].to_numpy(), frame["risk"].to_numpy()
        self.event = frame["event"].to_numpy().astype(np.int64)
        self.group, self.x = frame["group"].to_numpy(), frame[["x1", "x2"]].to_numpy()
        self.weight = frame["weight"].to_numpy()
        self.horizon = float(frame["horizon"].iloc[0])
        self.times = np.unique(self.months)


def close(value, expected, tolerance=1e-6):
    np.testing.assert_allclose(value, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.skipif(not r_is_here(), reason="R with survival and cmprsk is not installed")
def test_the_recorded_figures_are_those_of_r():
    for name, figures in asked_r(["bmt"]).items():
        assert figures.keys() == FIGURES[name].keys()
        for key, value in figures.items():
            close(np.array(value, dtype=float), np.array(FIGURES[name][key], dtype=float), 1e-9)


@pytest.mark.parametrize("name", COMPETING)
def test_incidence_error_and_band_are_those_of_survfit(name):
    cohort = Cohort(name)
    curve = incidence_curve(cohort.months, cohort.event)
    close(cohort.times, cohort.r["times"], 1e-9)
    at = np.searchsorted(curve.months, cohort.times, side="right") - 1
    close(curve.value[at], cohort.r["incidence"])
    close(curve.value[at], cohort.r["cuminc"])
    close(curve.standard_error[at], cohort.r["standard_error"])
    inside = np.isfinite(cohort.r["low"]) & (cohort.r["incidence"] > 0)
    close(curve.low[at][inside], cohort.r["low"][inside])
    close(curve.high[at][inside], cohort.r["high"][inside])
    assert inside.sum() > 10


@pytest.mark.parametrize("name", ALL)
def test_kaplan_meier_error_and_band_are_those_of_survfit(name):
    cohort = Cohort(name)
    curve = kaplan_meier(cohort.months, cohort.event)
    at = np.searchsorted(curve.months, cohort.times, side="right") - 1
    inside = np.isfinite(cohort.r["km_low"]) & (cohort.r["km"] < 1)
    for ours, theirs in (("value", "km"), ("standard_error", "km_error"), ("low", "km_low"), ("high", "km_high")):
        close(getattr(curve, ours)[at][inside], cohort.r[theirs][inside])


@pytest.mark.parametrize("name", ALL)
def test_restricted_mean_times_are_those_of_survfit(name):
    cohort = Cohort(name)
    free = restricted_mean_free(cohort.months, cohort.event, until=cohort.horizon)
    close([free.months, free.standard_error], cohort.r["free"])
    if name in COMPETING:
        lost = time_lost(cohort.months, cohort.event, until=cohort.horizon)
        close([lost.months, lost.standard_error], cohort.r["lost"])


@pytest.mark.parametrize("name", ALL)
def test_logrank_is_that_of_survdiff_and_gray_that_of_cuminc(name):
    cohort = Cohort(name)
    test = logrank_test(cohort.months, cohort.event, cohort.group)
    close([test.statistic, test.p_value], cohort.r["logrank"])
    if name in COMPETING:
        test = gray_test(cohort.months, cohort.event, cohort.group)
        close([test.statistic, test.p_value], cohort.r["gray"])


@pytest.mark.parametrize("name", ALL)
def test_cause_specific_regression_is_that_of_coxph(name):
    cohort = Cohort(name)
    fit = cause_specific_cox(cohort.months, cohort.event, cohort.x)
    close(fit.coefficients, cohort.r["cox"])
    close(fit.standard_errors, cohort.r["cox_error"])
    close(fit.log_likelihood, cohort.r["cox_loglik"])


@pytest.mark.parametrize("name", ALL)
def test_weighted_regression_has_the_robust_errors_of_coxph_also_where_times_tie(name):
    cohort = Cohort(name)
    fit = cause_specific_cox(cohort.months, cohort.event, cohort.x, weights=cohort.weight)
    close(fit.coefficients, cohort.r["weighted"])
    close(fit.standard_errors, cohort.r["weighted_error"])


@pytest.mark.parametrize("name", ALL)
def test_a_ridge_is_that_of_coxph(name):
    cohort = Cohort(name)
    fit = cause_specific_cox(cohort.months, cohort.event, cohort.x, ridge=0.01)
    close(fit.coefficients, cohort.r["ridged"])
    close(fit.standard_errors, cohort.r["ridged_error"])


@pytest.mark.parametrize("name", COMPETING)
def test_fine_and_gray_is_that_of_crr_where_events_and_censorings_do_not_tie(name):
    cohort = Cohort(name)
    moved = cohort.months + np.where(cohort.event == 0, 1e-3, 0.0)
    fit = fine_gray(moved, cohort.event, cohort.x)
    close(fit.coefficients, cohort.r["crr"])
    close(fit.standard_errors, cohort.r["crr_error"])
    close(fit.log_likelihood, cohort.r["crr_loglik"])
    close(fit.incidence(cohort.x[:5], cohort.horizon), cohort.r["crr_predicted"])


@pytest.mark.parametrize("name", COMPETING)
def test_fine_and_gray_is_that_of_finegray_with_all_ties(name):
    cohort = Cohort(name)
    fit = fine_gray(cohort.months, cohort.event, cohort.x)
    close(fit.coefficients, cohort.r["finegray"])
    close(fit.log_likelihood, cohort.r["finegray_loglik"])


@pytest.mark.parametrize("name", ALL)
def test_concordances_are_those_of_survival(name):
    cohort = Cohort(name)
    close(harrell_c(cohort.risk, cohort.months, cohort.event), cohort.r["harrell"])
    death_censors = np.where(cohort.event == 2, 0, cohort.event)
    close(uno_c(cohort.risk, cohort.months, death_censors, until=np.inf), cohort.r["uno_cause_specific"])


@pytest.mark.parametrize("name", ALL)
def test_pseudo_values_and_calibration_regression_are_those_of_r(name):
    cohort = Cohort(name)
    close(pseudo_values(cohort.months, cohort.event, month=cohort.horizon), cohort.r["pseudo"])
    close(calibration_slope(cohort.risk, cohort.months, cohort.event, month=cohort.horizon), cohort.r["slope"])
    close(calibration_intercept(cohort.risk, cohort.months, cohort.event, month=cohort.horizon), cohort.r["intercept"])


def test_incidence_by_the_horizon_is_on_the_curve():
    cohort = Cohort("ties")
    curve = incidence_curve(cohort.months, cohort.event)
    assert incidence_of_cohort(cohort.months, cohort.event, cohort.horizon) == curve.at(cohort.horizon)
