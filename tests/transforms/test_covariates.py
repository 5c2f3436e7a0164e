import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoxnet.errors import BundleError
from hypoxnet.quantities import COVARIATES
from hypoxnet.transforms.covariates import CovariateTerm, encode, encode_table, extrapolations, fit_term, table_of
from hypoxnet.transforms.prepare import covariate_inputs
from hypoxnet.transforms.settings import PrepareSettings

AGE = CovariateTerm("age", "linear", (60.0,), (8.0,), 40.0, 80.0)
OROPHARYNX, LARYNX, ORAL = 0.0, 1.0, 3.0
SUBSITES = np.array([OROPHARYNX] * 12 + [LARYNX] * 8)


def test_the_kind_of_a_covariate_is_that_of_the_table():
    values = np.array([5.0, 10.0, 20.0, 40.0])
    assert fit_term("gtv_ml", values).kind == "log"
    assert fit_term("age", values).kind == "linear"
    assert fit_term("t_stage", np.array([1.0, 2.0, 4.0])).kind == "ordinal"
    assert fit_term("x_mine", values).kind == "linear"
    assert {name for name, row in COVARIATES.items() if row.kind == "log"} == {
        "gtv_ml", "gtvp_ml", "smoking_pack_years", "pd_l1_cps"
    }  # fmt: skip


def test_doubling_a_volume_moves_its_column_by_the_same_step_everywhere():
    term = fit_term("gtv_ml", np.array([5.0, 10.0, 20.0, 80.0]))
    small, large = (encode({"gtv_ml": 2 * v}, [term])[0] - encode({"gtv_ml": v}, [term])[0] for v in (1.0, 100.0))
    assert small == pytest.approx(large)
    assert small[0] == pytest.approx(math.log(2.0) / np.log([5.0, 10.0, 20.0, 80.0]).std())


def test_nobody_who_never_smoked_is_at_minus_infinity():
    term = fit_term("smoking_pack_years", np.array([0.0, 0.0, 10.0, 40.0]))
    assert term.offset == 1.0
    assert np.isfinite(encode({"smoking_pack_years": 0.0}, [term])[0]).all()


@given(st.lists(st.floats(1.0, 110.0), min_size=2, max_size=30), st.lists(st.booleans(), min_size=30, max_size=30))
def test_columns_of_the_training_patients_have_mean_0_and_spread_1(ages, known):
    has = np.array(known[: len(ages)])
    values = np.where(has, np.array(ages), np.nan)
    term = fit_term("age", values[has])
    if isinstance(term, str):
        assert has.sum() == 0 or np.ptp(values[has]) == 0
        return
    encoded, flags = encode_table({"age": values}, [term], patients=len(values))
    assert flags[:, 0].tolist() == has.astype(float).tolist()
    assert (encoded[~has] == 0).all()
    if term.sds[0] > 1e-6:
        assert encoded[has].mean() == pytest.approx(0.0, abs=1e-6)
        assert encoded[has].std() == pytest.approx(1.0, abs=1e-6)


@given(st.lists(st.dictionaries(st.sampled_from(["age", "gtv_ml", "subsite"]), st.integers(0, 3)), max_size=8))
def test_a_patient_alone_is_encoded_as_in_a_table(patients):
    terms = [AGE, fit_term("gtv_ml", np.array([5.0, 10.0, 20.0])), fit_term("subsite", SUBSITES)]
    table = table_of(patients, [term.name for term in terms])
    values, known = encode_table(table, terms, patients=len(patients))
    for row, patient in enumerate(patients):
        alone, flags = encode(patient, terms)
        assert values[row].tolist() == alone.tolist()
        assert known[row].tolist() == flags.tolist()


def test_a_category_is_read_against_its_most_frequent_level():
    term = fit_term("subsite", SUBSITES)
    assert (term.levels, term.columns) == ((OROPHARYNX, LARYNX), ("subsite=larynx",))
    there, base = (encode({"subsite": level}, [term])[0][0] for level in (LARYNX, OROPHARYNX))
    assert there - base == pytest.approx(1.0 / SUBSITES.std())
    assert encode({}, [term])[0].tolist() == [0.0]


def test_a_level_that_training_did_not_have_is_not_known_and_said():
    term = fit_term("subsite", SUBSITES)
    values, known = encode({"subsite": ORAL}, [term])
    assert (values.tolist(), known.tolist()) == ([0.0], [0.0])
    (sentence,) = extrapolations({"subsite": ORAL}, [term])
    assert sentence == "subsite is oral_cavity, the model knows oropharynx, larynx: it is taken as not known"


def test_a_rare_level_gets_no_column():
    term = fit_term("subsite", np.concatenate([SUBSITES, [ORAL] * 4]))
    assert term.levels == (OROPHARYNX, LARYNX)


def test_a_value_outside_the_training_range_is_used_and_said():
    assert encode({"age": 92.0}, [AGE])[0].tolist() == [4.0]
    (sentence,) = extrapolations({"age": 92.0}, [AGE])
    assert sentence == "age is 92 years, the training patients had 40 to 80: the risk is an extrapolation"
    assert list(extrapolations({"age": 80.0}, [AGE])) == []


def test_a_constant_covariate_is_left_out_with_a_sentence():
    assert fit_term("sex", np.ones(12)) == "sex is left out: it is 1 in all 12 training patients who have it"


def settings_with(settings, **changes):
    return PrepareSettings(**{name: getattr(settings, name) for name in settings.__slots__} | changes)


def test_what_is_missing_is_told_only_when_asked_for(tiny_settings):
    told = settings_with(tiny_settings, missing="indicator")
    silent = settings_with(tiny_settings, missing="mean")
    assert [part[0].tolist() for part in covariate_inputs([{}], told)] == [[0.0], [0.0]]
    assert [part[0].tolist() for part in covariate_inputs([{}], silent)] == [[0.0], [1.0]]
    assert [part[0].tolist() for part in covariate_inputs([{"age": 68.0}], silent)] == [[1.0], [1.0]]


def test_settings_with_every_kind_of_term_survive_json(tiny_settings):
    terms = (AGE, fit_term("gtv_ml", np.array([5.0, 10.0])), fit_term("subsite", SUBSITES))
    settings = settings_with(tiny_settings, terms=terms)
    assert PrepareSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.covariates == ("age", "gtv_ml", "subsite")
    assert settings.covariate_columns == ("age", "gtv_ml", "subsite=larynx")


def test_settings_of_an_earlier_version_are_refused(tiny_settings):
    with pytest.raises(BundleError, match="have version 1, this HypoxNet prepares by version 2"):
        PrepareSettings.from_json(tiny_settings.to_json() | {"version": 1})
