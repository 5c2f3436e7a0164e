"""Outcome: frequencies against probabilities, incidence against integrals, and the same patient treated twice."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import chisquare, ks_2samp, norm, spearmanr

from hypoxnet.cases import CENSORED, DEATH, FAILURE, Outcome
from hypoxnet.errors import CaseError, ConfigError
from hypoxnet.files import finite
from hypoxnet.geometry import Grid
from hypoxnet.phantom.outcome import (
    NEVER,
    TrueOutcome,
    draw_fate,
    draw_outcome,
    failure_months,
    is_persistent,
    log_hazard_ratios,
    outcome_of,
)
from hypoxnet.phantom.parameters.patients import Population
from hypoxnet.phantom.parameters.treatment import FollowUp
from hypoxnet.phantom.patients import Patient, draw_patient
from hypoxnet.phantom.streams import Streams
from hypoxnet.phantom.words import Anatomy, Oxygenation
from hypoxnet.survival.estimators import aalen_johansen

# Nobody dies, nobody is lost, nothing spreads.
IMMORTAL = FollowUp(
    distant_24_months=0.0,
    death_per_year=0.0,
    death_after_locoregional_per_year=0.0,
    death_after_distant_per_year=0.0,
    lost_per_year=0.0,
    closing_months=(1000.0, 1000.0),
)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    """Twelve voxels of 1 ml: two outside the tumour, six of the primary, three and one of two nodes."""
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = (-50.0, 20.0, 5.0)
    grid = Grid.from_affine((12, 1, 1), affine)
    primary = torch.zeros(12, 1, 1, dtype=torch.bool)
    primary[2:8] = True
    nodes = torch.zeros(12, 1, 1, dtype=torch.uint8)
    nodes[8:11], nodes[11] = 1, 2
    nowhere = torch.zeros_like(primary)
    return Anatomy(grid, nodes, primary, nodes, nowhere, nowhere, torch.zeros(12, 1, 1), "oropharynx")


@pytest.fixture(scope="module")
def patient() -> Patient:
    one = draw_patient(Population(), np.random.default_rng(0)).staged(2, 1)
    return replace(one, age=63.0, smoking_pack_years=20.0, ecog=0)


def survivors_of(total: float, weights=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) -> torch.Tensor:
    """Survivors in the voxels of the tumour, in given proportions."""
    shares = np.array([0.0, 0.0, *weights]) / sum(weights)
    return torch.from_numpy(total * shares).reshape(12, 1, 1)


def cohort(anatomy, patient, total, number, follow_up, seed=1) -> list[TrueOutcome]:
    left = survivors_of(total)
    return [draw_outcome(left, anatomy, patient, follow_up, Streams(seed, n)("outcome")) for n in range(number)]


@pytest.mark.parametrize("total", [0.05, 0.7, 3.0])
def test_failures_are_as_frequent_as_poisson_has_it(anatomy, patient, total):
    number = 4000
    found = cohort(anatomy, patient, total, number, IMMORTAL)
    expected = 1.0 - math.exp(-total)
    assert found[0].control == pytest.approx(1.0 - expected)
    rate = np.mean([one.origin is not None for one in found])
    assert abs(rate - expected) < 3.0 * math.sqrt(expected * (1.0 - expected) / number)


def test_origins_are_as_frequent_as_their_survivors(anatomy, patient):
    found = [one.origin for one in cohort(anatomy, patient, 1.5, 5000, IMMORTAL) if one.origin is not None]
    counts = np.bincount([origin.voxel[0] for origin in found], minlength=12)
    assert counts[:2].sum() == 0
    expected = survivors_of(1.0)[2:, 0, 0].numpy() * len(found)
    assert chisquare(counts[2:], expected).pvalue > 0.01
    origin = next(origin for origin in found if origin.voxel[0] == 9)
    assert origin.ras_mm == (40.0, 20.0, 5.0)
    assert {origin.voxel[0]: origin.node for origin in found} == {
        v: 0 if v < 8 else 1 if v < 11 else 2 for v in range(2, 12)
    }


def test_place_of_a_failure_does_not_depend_on_its_time(anatomy, patient):
    found = [one for one in cohort(anatomy, patient, 1.5, 3000, IMMORTAL) if one.origin is not None]
    rank = spearmanr([one.origin.voxel[0] for one in found], [one.failure_months for one in found])
    assert rank.pvalue > 0.01


def test_expected_survivors_are_conserved(anatomy, patient):
    left = survivors_of(2.5)
    one = draw_outcome(left, anatomy, patient, IMMORTAL, np.random.default_rng(0))
    assert one.survivors == pytest.approx(float(left.sum()))
    assert one.control == pytest.approx(math.exp(-2.5))


def test_incidence_of_the_cohort_is_the_integral(anatomy, patient):
    follow_up = replace(IMMORTAL, death_per_year=0.12, lost_per_year=0.15, closing_months=(24.0, 72.0))
    total, number, month = 1.2, 5000, 24.0
    found = cohort(anatomy, patient, total, number, follow_up)
    present = total / (1.0 - math.exp(-total))
    middle = follow_up.regrowth_doubling_months * math.log2(follow_up.detectable_cells / present)
    hazard, spread = 0.12 / 12.0, follow_up.regrowth_spread

    def failing(score: float) -> float:
        at = max(follow_up.earliest_months, middle * math.exp(spread * score))
        return norm.pdf(score) * math.exp(-hazard * at) * (at <= month)

    last = math.log(month / middle) / spread
    incidence = (1.0 - math.exp(-total)) * quad(failing, -8.0, last)[0]
    months, event = np.array([one.lrc.months for one in found]), np.array([one.lrc.event for one in found])
    times, curve = aalen_johansen(months, event)
    reached = curve[np.searchsorted(times, month, side="right") - 1]
    # The error of Aalen-Johansen is at most a little above that of a proportion without censoring.
    assert abs(reached - incidence) < 4.0 * math.sqrt(incidence * (1.0 - incidence) / number)
    assert set(event) == {CENSORED, FAILURE, DEATH}


def test_deaths_follow_the_hazard_in_each_state(anatomy, patient):
    follow_up = replace(IMMORTAL, death_per_year=0.06, death_after_locoregional_per_year=0.5)
    found = cohort(anatomy, patient, 2.0, 4000, follow_up)
    failed = np.array([one.failure_months for one in found])
    death = np.array([one.death_months for one in found])
    before = np.minimum(death, failed).sum() / 12.0
    after = np.clip(death - failed, 0.0, None).sum() / 12.0
    early, late = (death <= failed).sum(), (death > failed).sum()
    assert early / before == pytest.approx(0.06, abs=4 * math.sqrt(early) / before)
    assert late / after == pytest.approx(0.56, abs=4 * math.sqrt(late) / after)


def test_metastases_are_weibull_with_the_published_ratio(anatomy, patient):
    follow_up = replace(IMMORTAL, distant_24_months=0.3, distant_shape=0.6)
    hypoxic = Oxygenation(torch.full((12, 1, 1), 3.0), torch.full((4, 12, 1, 1), 3.0))
    left = survivors_of(1e-6)
    expected = 0.3 * math.exp(follow_up.distant_per_log_ml * math.log(10.0 / 20.0))
    for oxygenations, ratio in (((), 1.0), ((hypoxic, hypoxic), 3.51)):
        found = [
            draw_outcome(left, anatomy, patient, follow_up, Streams(2, n)("x"), oxygenations=oxygenations)
            for n in range(3000)
        ]
        assert {one.persistent for one in found} == {ratio > 1}
        for month in (6.0, 24.0):
            rate = np.mean([one.distant_months <= month for one in found])
            wanted = 1.0 - math.exp(-expected * ratio * (month / 24.0) ** 0.6)
            assert abs(rate - wanted) < 4.0 * math.sqrt(wanted * (1.0 - wanted) / 3000)


def test_end_of_the_watch_knows_nothing_of_the_outcome(anatomy, patient):
    found = cohort(anatomy, patient, 0.7, 3000, FollowUp(), seed=3)
    end = np.array([one.end_months for one in found])
    failed = np.array([one.origin is not None for one in found])
    assert ks_2samp(end[failed], end[~failed]).pvalue > 0.01
    assert spearmanr(end, [one.death_months for one in found]).pvalue > 0.01
    other = cohort(anatomy, patient, 20.0, 50, FollowUp(), seed=3)
    assert [one.end_months for one in other] == [one.end_months for one in found[:50]]


@given(
    number=st.integers(0, 10_000),
    total=st.floats(1e-3, 1e6),
    left=st.lists(st.floats(0.0, 1.0), min_size=10, max_size=10),
)
@settings(max_examples=150, deadline=None)
def test_fewer_survivors_everywhere_can_only_help_the_same_patient(anatomy, patient, number, total, left):
    worse = survivors_of(total)
    better = worse * torch.tensor([0.0, 0.0, *left], dtype=torch.float64).reshape(12, 1, 1)
    fates = [Streams(5, number)("outcome") for _ in range(2)]
    one, other = (draw_outcome(s, anatomy, patient, FollowUp(), g) for s, g in zip((worse, better), fates, strict=True))
    assert other.control >= one.control
    assert one.origin is not None or other.origin is None
    assert other.failure_months >= one.failure_months
    assert other.death_months >= one.death_months
    assert (other.distant_months, other.end_months) == (one.distant_months, one.end_months)


def test_boost_cures_those_who_would_have_failed_inside_it(anatomy, patient):
    standard = survivors_of(1.5)
    boosted = standard.clone()
    boosted[2:8] = 0.0
    saved = kept = 0
    for number in range(1500):
        fate = draw_fate(10, Streams(6, number)("outcome"))
        one, other = (outcome_of(s, anatomy, patient, IMMORTAL, fate) for s in (standard, boosted))
        if one.origin is not None and one.origin.node > 0:
            # The first to fail lies outside the boost: nothing was gained, and it fails at the same place.
            assert other.origin == one.origin
            kept += 1
        elif one.origin is not None and other.origin is None:
            saved += 1
    assert min(saved, kept) > 50
    # Individual effects add up to the difference of the control probabilities.
    gain = math.exp(-float(boosted.sum())) - math.exp(-1.5)
    assert abs(saved / 1500 - gain) < 4.0 * math.sqrt(gain * (1.0 - gain) / 1500)


def test_time_of_failure_is_counted_in_doublings():
    follow_up = FollowUp(earliest_months=0.0)
    one, many = failure_months(1e-6, 0.0, follow_up), failure_months(1024.0, 0.0, follow_up)
    assert one == pytest.approx(0.65 * math.log2(1e9), rel=1e-5)
    assert one - many == pytest.approx(0.65 * 10.0, rel=1e-5)
    assert failure_months(1e12, 0.0, FollowUp()) == FollowUp().earliest_months
    assert failure_months(1e-6, 1.0, follow_up) / one == pytest.approx(math.exp(follow_up.regrowth_spread))


def test_what_came_first_is_what_is_seen(anatomy, patient):
    for one in cohort(anatomy, patient, 1.0, 400, FollowUp()):
        times = {FAILURE: one.failure_months, DEATH: one.death_months, CENSORED: one.end_months}
        assert times[one.lrc.event] == min(times.values())
        assert one.lrc.months == max(0.1, round(min(times.values()), 1))
        assert one.death.event == int(one.death_months < one.end_months)
        seen = min(one.distant_months, one.death_months, one.end_months)
        assert one.distant.months == max(0.1, round(seen, 1))


def test_metastasis_does_not_end_the_watch_for_a_failure(anatomy, patient):
    follow_up = replace(IMMORTAL, distant_24_months=50.0)
    found = cohort(anatomy, patient, 5.0, 50, follow_up)
    assert all(one.distant_months < one.failure_months for one in found if one.origin)
    assert {one.lrc.event for one in found} <= {FAILURE, CENSORED}
    assert sum(one.lrc.event == FAILURE for one in found) > 40


def test_persistence_needs_hypoxia_twice_and_living_tissue(anatomy):
    def oxygen(mmhg: float) -> Oxygenation:
        return Oxygenation(torch.full((12, 1, 1), mmhg), torch.full((4, 12, 1, 1), mmhg))

    hypoxic, well, dead = oxygen(5.0), oxygen(30.0), oxygen(0.5)
    assert is_persistent([hypoxic, hypoxic], anatomy, FollowUp())
    assert is_persistent([hypoxic, hypoxic, well], anatomy, FollowUp())
    for weeks in ([hypoxic, well], [well, hypoxic], [dead, dead], [hypoxic], []):
        assert not is_persistent(weeks, anatomy, FollowUp())
    assert not is_persistent([hypoxic, hypoxic], anatomy, FollowUp(persistent_ml=10.5))


def test_tables_hold_plain_values(anatomy, patient):
    oxygen = Oxygenation(torch.arange(12.0).reshape(12, 1, 1), torch.ones(4, 12, 1, 1))
    one = next(
        found
        for n in range(20)
        if (
            found := draw_outcome(
                survivors_of(2.0), anatomy, patient, FollowUp(), np.random.default_rng(n), oxygenations=[oxygen]
            )
        ).origin
    )
    assert set(one.observed()) == {"lrc_event", "lrc_months", "dm_event", "dm_months", "os_event", "os_months"}
    assert one.origin is not None
    assert one.origin.po2_mmhg == (float(one.origin.voxel[0]),)
    assert finite(one.truth())["origin_node"] == one.origin.node


def test_hazard_ratio_of_a_known_cohort_is_found():
    generator = np.random.default_rng(8)
    exposed = np.repeat([0.0, 1.0], 1500)
    months = generator.exponential(20.0 / np.where(exposed == 1, 2.0, 1.0))
    outcomes = [Outcome(FAILURE if m < 30.0 else CENSORED, float(min(m, 30.0))) for m in months]
    found = log_hazard_ratios(outcomes, {"exposed": exposed})["exposed"]
    assert abs(found.value - math.log(2.0)) < 3.0 * found.error
    low, high = found.interval
    assert low < found.ratio < high


def test_hazard_ratios_are_at_the_top_of_the_likelihood_though_months_are_rounded():
    """Efron's score, each failure of a tie by itself, is 0 to rounding; other causes censor."""
    generator = np.random.default_rng(12)
    x = np.stack([generator.normal(size=60), generator.random(60) < 0.3], axis=1).astype(np.float64)
    months = np.maximum(1.0, generator.exponential(12.0 * np.exp(-x @ [0.8, 1.5])).round())
    event = generator.choice([CENSORED, FAILURE, DEATH], size=60, p=[0.2, 0.6, 0.2])
    outcomes = [Outcome(int(e), float(m)) for e, m in zip(event, months, strict=True)]
    found = log_hazard_ratios(outcomes, {"log_ml": x[:, 0], "hpv": x[:, 1]})
    relative = np.exp(x @ [found["log_ml"].value, found["hpv"].value])
    score = np.zeros(2)
    for month in np.unique(months[event == FAILURE]):
        at_risk, tied = months >= month, (months == month) & (event == FAILURE)
        for gone in np.arange(tied.sum()) / tied.sum():
            mass = relative * (at_risk - gone * tied)
            score += x[tied].mean(axis=0) - mass @ x / mass.sum()
    np.testing.assert_allclose(score * [found["log_ml"].error, found["hpv"].error], 0.0, atol=1e-9)


def test_covariate_that_separates_who_failed_has_no_hazard_ratio():
    outcomes = [Outcome(FAILURE, float(m)) for m in range(1, 6)] + [Outcome(CENSORED, float(m)) for m in range(6, 11)]
    with pytest.raises(CaseError, match="10 patients with 5 events of the cause give no finite hazard ratio of hpv"):
        log_hazard_ratios(outcomes, {"hpv": np.repeat([1.0, 0.0], 5)})


def test_patient_without_a_stage_is_refused(anatomy):
    unstaged = draw_patient(Population(), np.random.default_rng(0))
    with pytest.raises(CaseError, match="no N category"):
        draw_outcome(survivors_of(1.0), anatomy, unstaged, FollowUp(), np.random.default_rng(0))


def test_sterile_tumour_never_fails(anatomy, patient):
    one = draw_outcome(torch.zeros(12, 1, 1), anatomy, patient, IMMORTAL, np.random.default_rng(0))
    assert one.origin is None
    assert one.control == 1.0
    assert one.failure_months == one.death_months == NEVER


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detectable_cells": 1.0}, "detectable_cells=1 "),
        ({"distant_shape": 0.0}, "distant_shape=0 "),
        ({"closing_months": (60.0, 24.0)}, "closing_months"),
        ({"lost_per_year": -0.1}, "lost_per_year=-0.1 "),
        ({"dead_mmhg": 10.0}, "dead_mmhg=10 "),
    ],
)
def test_bad_follow_up_is_refused_by_name(changes, said):
    with pytest.raises(ConfigError, match=said):
        FollowUp(**changes)
