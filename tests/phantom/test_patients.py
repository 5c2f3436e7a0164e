"""Patients and stages, against the distributions they were fitted to."""

import csv
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import described, digest
from hypoxnet.phantom.parameters.patients import SITES, TRIAL_SITES, Population, Site, Staging
from hypoxnet.phantom.patients import Patient, draw_patient, sphere_mm, stage
from hypoxnet.phantom.streams import Streams
from hypoxnet.quantities import COVARIATES

NUMBER = 4000
CANADA = Path(os.environ.get("HYPOXNET_REFERENCE", "/nowhere")) / "hnc_outcomes" / "canada.csv"
EXACT = Staging(elongation=1.0, diameter_spread=0.0, invasion_mm=1e6)


def drawn(population: Population, number: int = NUMBER) -> list[Patient]:
    return [draw_patient(population, Streams(11, n)("patient")) for n in range(number)]


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return drawn(Population())


def column(patients: list[Patient], name: str) -> np.ndarray:
    return np.array([getattr(patient, name) for patient in patients], dtype=float)


def assert_share(found: np.ndarray, expected: float) -> None:
    """A share within four standard errors."""
    assert abs(found.mean() - expected) < 4.0 * math.sqrt(expected * (1.0 - expected) / len(found))


def test_subsites_and_hpv_have_their_shares(patients):
    subsites = np.array([patient.subsite for patient in patients])
    hpv = column(patients, "hpv")
    for site in SITES:
        assert_share(subsites == site.name, site.share / 261.0)
        assert_share(hpv[subsites == site.name] == 1, site.hpv_share)
    # Mortensen et al. 2012: 16 of 40.
    assert_share(column(drawn(Population(sites=TRIAL_SITES)), "hpv"), 0.40)


def test_age_and_sex_are_those_of_the_real_cohort(patients):
    age = column(patients, "age")
    assert age.mean() == pytest.approx(63.76, abs=4 * 9.6 / math.sqrt(NUMBER))
    assert age.std() == pytest.approx(9.58, abs=0.4)
    assert_share(column(patients, "sex"), 0.76)


def test_chemotherapy_falls_with_age_as_in_the_real_cohort(patients):
    age, chemo = column(patients, "age"), column(patients, "chemo")
    # 92 % between 50 and 60, 79 % between 70 and 80 of 83 and 68 real patients.
    assert chemo[(age >= 50) & (age < 60)].mean() == pytest.approx(0.92, abs=0.06)
    assert chemo[(age >= 70) & (age < 80)].mean() == pytest.approx(0.79, abs=0.08)


def test_smoking_has_the_published_medians(patients):
    hpv, pack_years = column(patients, "hpv"), column(patients, "smoking_pack_years")
    assert np.median(pack_years[hpv == 0]) == pytest.approx(40.0, rel=0.08)
    assert np.median(pack_years[hpv == 1]) == pytest.approx(10.0, rel=0.12)
    assert_share(pack_years[hpv == 1] == 0, 0.35)


def test_lymphocytes_have_the_published_grades(patients):
    hpv, til = column(patients, "hpv"), column(patients, "til")
    for status, low, high in ((0, 0.463, 0.157), (1, 0.15, 0.49)):
        assert_share(til[hpv == status] < 20.0, low)
        assert_share(til[hpv == status] > 80.0, high)


def test_pd_l1_has_the_published_shares(patients):
    cps = column(patients, "pd_l1_cps")
    assert_share(cps < 1.0, 128 / 882)
    assert_share(cps >= 20.0, 381 / 882)


def test_haemoglobin_and_performance_have_their_parameters(patients):
    sex, hb = column(patients, "sex"), column(patients, "hb_g_dl")
    assert hb[sex == 1].mean() - hb[sex == 0].mean() == pytest.approx(1.0, abs=0.25)
    age, ecog = column(patients, "age"), column(patients, "ecog")
    assert ecog[age > 75].mean() > ecog[age < 55].mean() + 0.2
    assert set(ecog) == {0.0, 1.0, 2.0}


def test_hpv_chemotherapy_and_lymphocytes_make_curable(patients):
    hpv, chemo = column(patients, "hpv"), column(patients, "chemo")
    alpha, clonogens = column(patients, "alpha_per_gy"), column(patients, "clonogens_per_ml")
    base = alpha[(hpv == 0) & (chemo == 0)].mean()
    assert base == pytest.approx(Population().alpha_per_gy, rel=0.02)
    both = Population().alpha_hpv_ratio * Population().alpha_chemo_ratio
    assert alpha[(hpv == 1) & (chemo == 1)].mean() / base == pytest.approx(both, rel=0.02)
    til = column(patients, "til")
    slope = np.polyfit(til / 100.0, np.log10(clonogens), 1)[0]
    assert slope == pytest.approx(Population().til_log10_clonogens, abs=0.1)
    assert clonogens.max() <= 1e9


def test_reoxygenation_has_the_moments_of_its_beta_distribution(patients):
    share = column(patients, "reoxygenation")
    assert share.min() >= 0.0
    assert share.max() <= 1.0
    assert share.mean() == pytest.approx(Population().reoxygenation, abs=0.02)
    mean, total = Population().reoxygenation, Population().reoxygenation_concentration
    assert share.std() == pytest.approx(np.sqrt(mean * (1.0 - mean) / (total + 1.0)), rel=0.05)


def test_anaemia_and_smoking_lower_the_pressure_of_the_vessels(patients):
    factor = column(patients, "oxygen_factor")
    hb, pack_years = column(patients, "hb_g_dl"), column(patients, "smoking_pack_years")
    assert factor.max() <= 1.0
    assert factor.min() >= Population().oxygen_least
    assert factor[hb < 11].mean() < factor[hb > 13].mean()
    assert factor[pack_years > 40].mean() < factor[pack_years == 0].mean()


def test_covariates_are_known_quantities_in_range(patients):
    staged = patients[0].staged(2, 1).covariates()
    assert set(patients[0].covariates()) == set(staged) - {"t_stage", "n_stage"}
    for patient in patients[:500]:
        for name, value in patient.staged(4, 3).covariates().items():
            assert COVARIATES[name].low <= value <= COVARIATES[name].high


def test_same_stream_gives_the_same_patient():
    assert draw_patient(Population(), Streams(1, 2)("patient")) == draw_patient(Population(), Streams(1, 2)("patient"))
    assert draw_patient(Population(), Streams(1, 2)("patient")) != draw_patient(Population(), Streams(1, 3)("patient"))


def test_another_parameter_leaves_the_rest_of_the_patient_alone():
    for number in range(50):
        one = draw_patient(Population(), Streams(1, number)("patient"))
        other = draw_patient(Population(alpha_per_gy=0.25, reoxygenation=0.3), Streams(1, number)("patient"))
        assert other.covariates() == one.covariates()
        assert other.alpha_per_gy < one.alpha_per_gy
        assert other.reoxygenation < one.reoxygenation


@pytest.mark.parametrize(
    ("primary_mm", "nodes_mm", "expected"),
    [
        (19.9, (), (1, 0)),
        (20.1, (29.0,), (2, 1)),
        (40.1, (31.0,), (3, 2)),
        (39.9, (10.0, 12.0), (2, 2)),
        (39.9, (61.0,), (2, 3)),
        (39.9, (61.0, 10.0), (2, 3)),
    ],
)
def test_stage_follows_the_edges_where_nothing_scatters(primary_mm, nodes_mm, expected):
    def ml(mm: float) -> float:
        return math.pi / 6.0 * mm**3 / 1000.0

    found = stage(ml(primary_mm), [ml(mm) for mm in nodes_mm], np.random.default_rng(0), staging=EXACT)
    assert found == expected


@given(ml=st.floats(0.01, 500.0))
def test_sphere_has_its_volume(ml):
    assert math.pi / 6.0 * (sphere_mm(ml) / 10.0) ** 3 == pytest.approx(ml)


def test_larger_tumours_have_higher_stages():
    generator = np.random.default_rng(0)
    mean = [np.mean([stage(ml, [ml / 4], generator)[0] for _ in range(400)]) for ml in (1.0, 5.0, 20.0, 80.0)]
    assert mean == sorted(mean)
    assert mean[0] < 1.3
    assert mean[-1] > 3.3


def test_half_of_the_tumours_invade_at_the_invasion_diameter():
    staging = replace(EXACT, invasion_mm=50.0)
    generator = np.random.default_rng(4)
    at = math.pi / 6.0 * 50.0**3 / 1000.0
    assert_share(np.array([stage(at, [], generator, staging=staging)[0] == 4 for _ in range(2000)]), 0.5)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Population(male_share=1.2), "male_share=1.2"),
        (lambda: Population(alpha_per_gy=0.0), "alpha_per_gy=0"),
        (lambda: Population(ecog_shares=(0.5, 0.3, 0.1)), "ecog_shares"),
        (lambda: Population(sites=(Site("larynx", share=0.0),)), "shares of the 1 sites"),
        (lambda: Population(sites=()), "shares of the 0 sites"),
        (lambda: Site("larynx", hpv_share=-0.1), "hpv_share=-0.1"),
        (lambda: Staging(t_edges_mm=(40.0, 20.0)), "t_edges_mm"),
        (lambda: Staging(elongation=0.9), "elongation=0.9"),
    ],
)
def test_bad_parameters_are_refused_by_name(build, said):
    with pytest.raises(ConfigError, match=said):
        build()


def test_every_number_has_unit_meaning_and_source():
    rows = list(described(Population()))
    assert {"sites.oropharynx.share", "staging.elongation", "alpha_per_gy"} <= {one.name for one in rows}
    assert all(one.unit and one.meaning and len(one.source) > 5 for one in rows)
    assert digest(Population()) != digest(Population(male_share=0.7))


@pytest.mark.reference
@pytest.mark.skipif(not CANADA.is_file(), reason="HYPOXNET_REFERENCE names no folder with hnc_outcomes")
def test_fitted_numbers_are_those_of_the_real_patients():
    with CANADA.open(encoding="utf-8-sig", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter=";") if row["site"].lower() in {s.name for s in SITES}]
    assert len(rows) == sum(site.share for site in SITES)
    age = np.array([float(row["age"]) for row in rows])
    men = np.mean([row["sex"].upper() == "M" for row in rows])
    assert men == pytest.approx(Population().male_share, abs=0.005)
    for site in SITES:
        here = np.array([row["site"].lower() == site.name for row in rows])
        assert here.sum() == site.share
        assert age[here].mean() == pytest.approx(site.age_years, abs=0.05)
    residual = age - np.array([{s.name: s.age_years for s in SITES}[row["site"].lower()] for row in rows])
    assert residual.std() == pytest.approx(Population().age_spread_years, abs=0.1)
    tested = [
        (row["site"] == "Oropharynx", row["overall_hpv_status"] == "+")
        for row in rows
        if row["overall_hpv_status"] in "+-"
    ]
    assert np.mean([positive for inside, positive in tested if inside]) == pytest.approx(0.80, abs=0.005)
    assert np.mean([positive for inside, positive in tested if not inside]) == pytest.approx(0.06, abs=0.005)
