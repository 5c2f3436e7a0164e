from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.data.config import SplitConfig
from hypoxnet.data.splits import crossval_splits, holdout_split
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
