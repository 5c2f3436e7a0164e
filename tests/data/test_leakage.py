"""What makes figures too good is found; an honest cohort is silent."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest

from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.data.config import KINDS_OF_LEAK, SplitConfig
from hypoxnet.data.leak import Leak, refuse_leaks
from hypoxnet.data.leakage import find_leaks, leaks_of_manifest
from hypoxnet.data.splits import splits_of
from hypoxnet.errors import ConfigError
from hypoxnet.phantom.patients import draw_patient
from hypoxnet.phantom.presets import preset

CHANNELS = ("FMISO_SUV", "T1W", "ADC")


def honest(tmp_path, patients=120, seed=0):
    """Patients and sites of the demo cohort, with channels and covariates absent at random as there."""
    chosen = preset("demo")
    generator = np.random.default_rng(seed)
    records = []
    for number in range(patients):
        hospital = chosen.hospitals[number % 3]
        covariates = {
            name: round(value, 1)
            for name, value in draw_patient(hospital.population, generator).covariates().items()
            if generator.random() >= chosen.missing_covariate
        }
        months, event = round(float(generator.uniform(2, 60)), 1), int(generator.choice(3, p=[0.6, 0.25, 0.15]))
        outcome = Outcome(0, 60.1) if generator.random() < 0.3 else Outcome(event, months)
        channels = {}
        for name in CHANNELS:
            if name == "FMISO_SUV" or generator.random() >= chosen.without_mr + chosen.without_map:
                channels[name] = tmp_path / f"P{number}_{name}.nii"
        records.append(
            CaseRecord(
                f"P{number:04d}",
                site=hospital.name,
                channels=channels,
                covariates=covariates,
                outcome=outcome,
                line=number + 2,
            )
        )
    return records


def with_images(records):
    """Files of one size that begin alike, as uncompressed NIfTI does."""
    for number, record in enumerate(records):
        for path in record.channels.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(400) + np.random.default_rng([number, len(path.name)]).bytes(600))
    return records


def leaks(records, *, kind="crossval", covariates=None):
    names = sorted({name for record in records for name in record.covariates})
    return find_leaks(
        splits_of(records, SplitConfig(kind=kind)).values(),
        channels=CHANNELS,
        covariates=names if covariates is None else covariates,
        sites_withheld=kind == "leave_site_out",
    )


@pytest.mark.parametrize("kind", ["holdout", "crossval", "leave_site_out"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_honest_cohort_is_silent(tmp_path, kind, seed):
    assert leaks(with_images(honest(tmp_path, seed=seed)), kind=kind) == ()


def test_the_same_image_under_two_names_is_found_where_it_is_on_both_sides(tmp_path):
    records = with_images(honest(tmp_path))
    copy = tmp_path / "another_name.nii"
    copy.write_bytes(records[3].channels["FMISO_SUV"].read_bytes())
    records[50] = replace(records[50], channels={"FMISO_SUV": copy})
    (found,) = leaks(records)
    assert (found.kind, found.stops) == ("same_image", True)
    assert "P0003 (line 5) and P0050 (line 52)" in found.sentence
    assert "another_name.nii are identical" in found.sentence
    together = [replace(record, fold=0 if n in (3, 50) else n % 4 + 1) for n, record in enumerate(records)]
    assert leaks(together) == ()


def test_visits_of_one_patient_may_share_an_image(tmp_path):
    records = with_images(honest(tmp_path, patients=30))
    assert leaks([*records, replace(records[0], visit="week2")]) == ()


def test_the_same_patient_under_two_names_is_found_by_outcome_and_covariates(tmp_path):
    records = honest(tmp_path)
    twin = next(n for n, r in enumerate(records) if r.outcome.months < 50 and len(r.covariates) > 8)
    records.append(replace(records[twin], case_id="Q", line=200, channels={}))
    (found,) = leaks(records, covariates=[])
    assert found.kind == "same_patient"
    assert "Q (line 200)" in found.sentence
    assert "covariates, chance makes" in found.sentence


def test_two_patients_who_agree_in_a_few_codes_are_two_patients():
    records = [
        CaseRecord(f"P{n}", covariates={"hpv": n % 2, "t_stage": n % 3}, outcome=Outcome(0, 60.0)) for n in range(40)
    ]
    assert leaks(records, covariates=[]) == ()


def test_a_channel_of_one_site_stops_a_design_that_withholds_sites(tmp_path):
    records = [
        replace(r, channels={k: v for k, v in r.channels.items() if k != "ADC" or r.site == "north"})
        for r in honest(tmp_path)
    ]
    (found,) = leaks(records, kind="leave_site_out")
    assert (found.kind, found.stops) == ("site_code", True)
    assert "ADC is known at north (" in found.sentence
    assert "not at coast (0 of 40), south (0 of 40)" in found.sentence
    assert leaks(records, kind="holdout") == ()


def test_a_site_code_is_a_warning_elsewhere_when_the_sites_fail_at_different_rates(tmp_path):
    records = [
        replace(
            r,
            covariates={k: v for k, v in r.covariates.items() if k != "age" or r.site == "south"},
            outcome=Outcome(int(r.site == "south" and n % 2 == 0), 10.0 + 0.1 * n),
        )
        for n, r in enumerate(honest(tmp_path))
    ]
    (found,) = leaks(records, kind="holdout", covariates=["age"])
    assert (found.kind, found.stops) == ("site_code", False)
    assert "(20 of 40 failed, 0 of 80 failed)" in found.sentence


def test_a_covariate_that_is_the_outcome_is_found_in_either_direction(tmp_path):
    generator = np.random.default_rng(1)
    for sign in (1.0, -1.0):
        records = [
            replace(
                r,
                covariates=r.covariates
                | {"x_marker": sign * (r.outcome.event == 1) + 0.1 * generator.standard_normal()},
            )
            for r in honest(tmp_path)
        ]
        (found,) = leaks(records)
        assert found.kind == "label_input"
        assert "the covariate x_marker tells the" in found.sentence
        assert leaks(records, covariates=["age"]) == ()


def test_a_strong_but_honest_marker_is_no_leak(tmp_path):
    generator = np.random.default_rng(1)
    records = [
        replace(r, covariates=r.covariates | {"x_marker": (r.outcome.event == 1) + 0.5 * generator.standard_normal()})
        for r in honest(tmp_path)
    ]
    assert leaks(records) == ()


def test_a_covariate_that_is_the_follow_up_is_found_by_its_values(tmp_path):
    generator = np.random.default_rng(2)
    records = [
        replace(r, covariates=r.covariates | {"x_seen": r.outcome.months * 30.4 + generator.uniform(-20, 20)})
        for r in honest(tmp_path)
    ]
    (found,) = leaks(records)
    assert found.kind == "follow_up"
    assert "x_seen ranks all patients like their months" in found.sentence


def test_a_year_of_treatment_is_the_follow_up_of_whoever_was_censored_at_the_end_of_the_study(tmp_path):
    records = []
    for number, record in enumerate(honest(tmp_path)):
        year = 2010.0 + number % 9
        outcome = Outcome(0, 12 * (2020.5 - year)) if record.outcome.event == 0 else record.outcome
        records.append(replace(record, outcome=outcome, covariates=record.covariates | {"x_year": year}))
    (found,) = leaks(records)
    assert "x_year ranks the censored patients like their months" in found.sentence


@pytest.mark.parametrize(
    "name", ["x_follow_up_days", "x_os_months", "x_vital_status", "x_local_failure", "x_died", "x_Recurrence"]
)
def test_a_covariate_named_after_the_follow_up_is_found(tmp_path, name):
    records = [replace(r, covariates={name: float(n % 7)}) for n, r in enumerate(honest(tmp_path))]
    assert [leak.kind for leak in leaks(records)] == ["follow_up"]


@pytest.mark.parametrize("name", ["x_heart_failure", "x_5_fu", "x_dose_months", "x_cosmos", "x_performance_status"])
def test_honest_names_that_sound_alike_are_no_leak(tmp_path, name):
    records = [replace(r, covariates={name: float(n % 7)}) for n, r in enumerate(honest(tmp_path))]
    assert leaks(records) == ()


def test_a_leak_stops_the_run_until_it_is_allowed():
    found = [Leak("same_image", "A and B have the same image"), Leak("site_code", "ADC tells the site", stops=False)]
    with pytest.raises(ConfigError, match=r"same_image: A and B .*\n.*split\.allow_leakage .* kind \(same_image\)"):
        refuse_leaks(found, [])
    assert refuse_leaks(found, ["same_image"]) == ("A and B have the same image", "ADC tells the site")
    assert refuse_leaks([], []) == ()


def test_a_refusal_explains_and_gives_what_trains_without_before_it_names_the_last_resort(tmp_path):
    records = [replace(r, covariates=r.covariates | {"x_marker": float(r.outcome.event)}) for r in honest(tmp_path)]
    names = ["age", "x_marker", "hpv"]
    with pytest.raises(ConfigError) as refused:
        refuse_leaks(leaks(records, covariates=names), [], names)
    first, finding, remedy, last = str(refused.value).splitlines()
    assert first.startswith("nothing was trained: ")
    assert "the outcome in other words, or was written down after it" in finding
    assert remedy == "to train without: 'data.covariates=[age,hpv]'"
    assert "figures mean nothing" in last
    # Nothing that could be pasted.
    assert "allow_leakage=" not in str(refused.value)


def test_a_manifest_alone_shows_one_patient_under_two_names(tmp_path):
    records = with_images(honest(tmp_path))
    assert leaks_of_manifest(records) == ()
    twin = next(n for n, r in enumerate(records) if r.outcome.months < 50 and len(r.covariates) > 8)
    copies = [replace(records[twin], case_id="Q", line=200, channels={}), replace(records[0], case_id="R", line=201)]
    found = leaks_of_manifest([*records, copies[0], replace(copies[1], covariates={})])
    assert [(leak.kind, leak.line, leak.stops) for leak in found] == [
        ("same_image", 201, True),
        ("same_patient", 200, True),
    ]
    together = [replace(record, fold=0) for record in (*records, *copies)]
    assert leaks_of_manifest(together) == ()


def test_a_manifest_may_hold_an_outcome_among_its_covariates_but_is_told(tmp_path):
    records = [replace(r, covariates={"x_recurrence": float(n % 7)}) for n, r in enumerate(honest(tmp_path))]
    (found,) = leaks_of_manifest(records)
    assert (found.kind, found.stops, found.covariate) == ("follow_up", False, "x_recurrence")


def test_many_leaks_are_told_by_their_first_and_their_number():
    with pytest.raises(ConfigError, match=r"\(and 15 more\)"):
        refuse_leaks([Leak("same_image", f"pair {n}") for n in range(25)], [])


def test_every_kind_that_is_found_can_be_allowed(tmp_path):
    assert {"same_image", "same_patient", "site_code", "label_input", "follow_up"} == set(KINDS_OF_LEAK)


def test_ten_thousand_patients_take_seconds(tmp_path):
    few = honest(tmp_path, patients=500)
    generator = np.random.default_rng(0)
    records = [
        replace(
            few[n % 500],
            case_id=f"P{n}",
            channels={},
            outcome=Outcome(int(generator.integers(3)), float(generator.uniform(1, 60))),
        )
        for n in range(10_000)
    ]
    begun = perf_counter()
    assert leaks(records) == ()
    # Two seconds on an idle core; the limit is for a machine with other jobs.
    assert perf_counter() - begun < 20
