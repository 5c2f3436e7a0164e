from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.data.config import SplitConfig
from hypoxnet.data.splits import crossval_splits, holdout_split, splits_of
from hypoxnet.errors import ConfigError


def cohort(patients=60, visits=1, seed=0):
    generator = np.random.default_rng(seed)
    records = []
    for number in range(patients):
        outcome = Outcome(int(generator.integers(0, 3)), 12.0)
        site = ["north", "south"][int(generator.integers(2))]
        for visit in ["baseline", "week2"][:visits]:
            records.append(CaseRecord(f"P{number:03d}", visit, site, outcome=outcome, line=len(records) + 2))
    return records


@given(st.integers(8, 60), st.integers(1, 2), st.integers(0, 5))
def test_no_patient_is_on_two_sides_and_none_is_lost(patients, visits, seed):
    records = cohort(patients, visits, seed)
    split = holdout_split(records, SplitConfig(validation_fraction=0.2, seed=seed))
    sides = [{r.case_id for r in side} for side in (split.train, split.validation, split.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == patients
    assert len(split.train) + len(split.validation) + len(split.test) == len(records)
    folds = crossval_splits(records, SplitConfig(kind="crossval", seed=seed))
    withheld = Counter(r.key for fold in folds for r in fold.test)
    assert withheld == Counter(r.key for r in records)
    for fold in folds:
        assert not {r.case_id for r in fold.train} & {r.case_id for r in fold.test}


def test_folds_have_their_share_of_sites_and_events():
    records = cohort(200)
    folds = crossval_splits(records, SplitConfig(kind="crossval"))
    for stratum in {(r.site, r.outcome.event) for r in records}:
        shares = [sum((r.site, r.outcome.event) == stratum for r in fold.test) for fold in folds]
        assert max(shares) - min(shares) <= 1


def test_a_split_does_not_depend_on_the_order_of_the_rows():
    records = cohort()
    one = holdout_split(records, SplitConfig())
    other = holdout_split(records[::-1], SplitConfig())
    assert {r.key for r in one.test} == {r.key for r in other.test}
    assert {r.key for r in holdout_split(records, SplitConfig(seed=1)).test} != {r.key for r in one.test}


def test_folds_of_the_manifest_are_kept_and_must_be_complete():
    records = [CaseRecord(f"P{n}", fold=n % 3, line=n + 2) for n in range(9)]
    folds = crossval_splits(records, SplitConfig(kind="crossval", folds=5))
    assert [{r.fold for r in fold.test} for fold in folds] == [{0}, {1}, {2}]
    with pytest.raises(ConfigError, match=r"9 of 10 rows have a fold, P9 \(line 11\) has none"):
        crossval_splits([*records, CaseRecord("P9", line=11)], SplitConfig(kind="crossval"))


def test_too_few_patients_are_one_sentence():
    with pytest.raises(ConfigError, match=r"split\.folds=5 for 3 patients leaves a fold empty"):
        crossval_splits(cohort(3), SplitConfig(kind="crossval"))
    with pytest.raises(ConfigError, match="withholds 0 and leaves 1"):
        holdout_split(cohort(1), SplitConfig())


def with_dates(records):
    return [replace(record, treated=str(2010 + int(record.case_id[1:]) % 8)) for record in records]


DESIGNS = [
    SplitConfig(kind="crossval", validation_fraction=0.2),
    SplitConfig(kind="repeated", repeats=3, folds=3, validation_fraction=0.2),
    SplitConfig(kind="leave_site_out", validation_fraction=0.2, smallest_site=2),
    SplitConfig(kind="temporal", test_from="2014", validation_fraction=0.2),
]


@pytest.mark.parametrize("config", DESIGNS, ids=lambda c: c.kind)
@given(patients=st.integers(40, 60), seed=st.integers(0, 5))
def test_every_design_keeps_patients_whole_and_ignores_the_order_of_rows(config, patients, seed):
    records = with_dates(cohort(patients, visits=2, seed=seed))
    parts = splits_of(records, replace(config, seed=seed))
    shuffled = [records[i] for i in np.random.default_rng(seed).permutation(len(records))]
    again = splits_of(shuffled, replace(config, seed=seed))
    assert list(parts) == list(again)
    for number, part in parts.items():
        sides = [{r.case_id for r in side} for side in (part.train, part.validation, part.test)]
        assert sum(map(len, sides)) == len(set.union(*sides)) == patients
        assert len(part.train) + len(part.validation) + len(part.test) == len(records)
        for side in ("train", "validation", "test"):
            assert {r.key for r in getattr(part, side)} == {r.key for r in getattr(again[number], side)}


def test_each_repeat_withholds_every_patient_once_and_deals_anew():
    records = cohort()
    config = SplitConfig(kind="repeated", repeats=3, folds=4)
    parts = splits_of(records, config)
    assert [part.name for part in parts.values()][3:5] == ["repeat 0, fold 3", "repeat 1, fold 0"]
    folds = [frozenset(r.key for r in part.test) for part in parts.values()]
    for repeat in range(3):
        assert Counter(k for fold in folds[4 * repeat : 4 * repeat + 4] for k in fold) == Counter(
            r.key for r in records
        )
    assert len(set(folds)) == len(folds)
    once = crossval_splits(records, SplitConfig(kind="crossval", folds=4))
    assert folds[:4] == [frozenset(r.key for r in part.test) for part in once]


def test_the_manifests_own_folds_cannot_be_repeated_and_one_fold_is_none():
    records = [CaseRecord(f"P{n}", fold=n % 3) for n in range(9)]
    with pytest.raises(ConfigError, match="deals the patients into folds anew"):
        splits_of(records, SplitConfig(kind="repeated"))
    with pytest.raises(ConfigError, match="every row of the manifest is in the same fold"):
        splits_of([replace(r, fold=0) for r in records], SplitConfig(kind="crossval"))


def of_sites(**sizes):
    return [CaseRecord(f"{site}{n:02d}", site=site) for site, size in sizes.items() for n in range(size)]


def test_every_site_is_withheld_once_and_the_small_ones_together_as_is_said():
    parts = splits_of(of_sites(north=12, south=15, coast=3, hills=2), SplitConfig(kind="leave_site_out"))
    assert [{r.site for r in part.test} for part in parts.values()] == [{"north"}, {"south"}, {"coast", "hills"}]
    assert [part.name for part in parts.values()] == ["site north", "site south", "sites coast, hills together"]
    assert parts[2].notes == (
        "coast (3), hills (2): fewer than split.smallest_site=10 patients each, withheld together",
    )
    assert all(not part.notes for part in (parts[0], parts[1]))


def test_a_site_without_failure_is_predicted_and_said():
    records = [
        replace(record, outcome=Outcome(int(record.site == "north"), 12.0)) for record in of_sites(north=12, south=12)
    ]
    parts = splits_of(records, SplitConfig(kind="leave_site_out"))
    assert len(parts[1].test) == 12
    assert parts[1].notes == (
        "the patients of south have no failure: they are predicted, but their concordance is not defined",
    )
    assert "that train without north have no failure: nothing can be learnt" in parts[0].notes[0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (of_sites(north=20), r"needs two sites of at least .*there are: north 20"),
        (of_sites(north=3, south=4), r"there are: north 3, south 4"),
        ([*of_sites(north=20), CaseRecord("X", line=22)], r"X \(line 22\) has no site"),
        (
            [*of_sites(north=20), CaseRecord("north00", "week2", "south", line=22)],
            r"north00_week2 \(line 22\) is of site south, another visit of the patient of north",
        ),
    ],
)
def test_sites_that_cannot_be_withheld_are_one_sentence(records, message):
    with pytest.raises(ConfigError, match=message):
        splits_of(records, SplitConfig(kind="leave_site_out"))


def test_a_date_divides_the_patients_by_their_earliest_visit():
    records = [
        CaseRecord("A", treated="2017-12-31"),
        CaseRecord("B", treated="2018-01"),
        CaseRecord("C", "baseline", treated="2017"),
        CaseRecord("C", "week2", treated="2018-02"),
    ]
    part = splits_of(records, SplitConfig(kind="temporal", test_from="2018"))[None]
    assert {r.key for r in part.test} == {"B"}
    assert {r.key for r in part.train} == {"A", "C", "C_week2"}


@pytest.mark.parametrize(
    ("dates", "test_from", "message"),
    [
        (["2017", ""], "2018", r"P1 \(line 3\): treated is empty, split\.test_from=2018 needs it"),
        (["2017", "2018"], "2018-07-01", r"P1 \(line 3\): treated is '2018', too coarse to tell"),
        (["2016", "2017"], "2018", r"withholds 0 of 2 patients, who were treated 2016 to 2017"),
        (["2018", "2019"], "2018", r"withholds 2 of 2 patients"),
    ],
)
def test_dates_that_do_not_divide_are_one_sentence(dates, test_from, message):
    records = [CaseRecord(f"P{n}", treated=when, line=n + 2) for n, when in enumerate(dates)]
    with pytest.raises(ConfigError, match=message):
        splits_of(records, SplitConfig(kind="temporal", test_from=test_from))


def test_another_cohort_is_only_predicted():
    config = SplitConfig(kind="external", test_manifest="other.csv", validation_fraction=0.25)
    ours = [CaseRecord(f"A{n}", channels={"T1W": Path("a")}, line=n + 2) for n in range(8)]
    theirs = [CaseRecord(f"B{n}", channels={"T1W": Path("b")}, line=n + 2) for n in range(3)]
    part = splits_of(ours, config, theirs)[None]
    assert part.test == tuple(theirs)
    assert len(part.train) == 6
    assert len(part.validation) == 2
    with pytest.raises(ConfigError, match=r"A1 is in line 3 of the training manifest and in line 9 of other\.csv"):
        splits_of(ours, config, [replace(ours[1], line=9)])
    with pytest.raises(ConfigError, match=r"has the channels ADC, the training cohort T1W: none in common"):
        splits_of(ours, config, [CaseRecord("C", channels={"ADC": Path("c")})])
    with pytest.raises(ConfigError, match="has no patient"):
        splits_of(ours, config)


def test_only_some_parts_can_be_asked_for():
    config = SplitConfig(kind="leave_site_out", only=[1])
    assert list(splits_of(of_sites(north=10, south=10), config)) == [1]
    with pytest.raises(ConfigError, match=r"split\.only names fold 2, the folds are 0 to 1"):
        splits_of(of_sites(north=10, south=10), replace(config, only=[2]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "loo"}, r"split\.kind is 'loo', it must be one of holdout"),
        ({"kind": "temporal"}, r"split\.kind=temporal needs split\.test_from"),
        ({"kind": "temporal", "test_from": "1.7.2018"}, r"split\.test_from is '1\.7\.2018'"),
        ({"kind": "external"}, r"needs split\.test_manifest"),
        ({"test_manifest": "b.csv"}, r"split\.test_manifest=b\.csv has no effect with split\.kind=holdout"),
        ({"smallest_site": 0}, r"split\.smallest_site is 0, it must be at least 1"),
        ({"allow_leakage": ["images"]}, r"split\.allow_leakage has 'images', it may hold same_patient"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplitConfig(**settings)
