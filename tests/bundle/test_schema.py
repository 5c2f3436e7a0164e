import json
from dataclasses import replace
from math import inf, nan

import pytest

from hypoxnet.bundle.schema import MOST_TYPICAL, BundleSpec, InferenceDefaults, cohort_counts, of_all_members
from hypoxnet.bundle.typical import Part, Typical
from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.errors import BundleError, ConfigError


def through_json(spec):
    return BundleSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))


def test_a_description_survives_json(tiny_spec):
    spec = replace(
        tiny_spec, members=3, cohort={"patients": 40}, metrics={"dice": {"value": 0.8, "low": 0.7, "high": 0.9}}
    )
    assert through_json(spec) == spec


@pytest.fixture
def typical() -> Typical:
    part = Part((0.5, -1.0), (1.0, 0.25), ((1.0, 0.0),), (2.0,), rest=0.5, centre=0.25, spread=0.125)
    return Typical(
        {"tumour": {"FMISO_SUV": part}}, part, ("FMISO_SUV",), {"tumour": 2.5}, 30, 12, "validation patients"
    )


def test_temperatures_and_what_is_typical_survive_json(tiny_spec, typical):
    spec = replace(tiny_spec, members=2, temperatures=((1.5,), (0.75,)), typical=(typical, None))
    assert through_json(spec) == spec
    assert spec.calibrated


def test_a_bundle_from_before_there_were_temperatures_has_temperature_1(tiny_spec):
    content = tiny_spec.to_json()
    del content["temperatures"], content["typical"]
    spec = BundleSpec.from_json(content)
    assert spec.every_temperature == ((1.0,),)
    assert not spec.calibrated
    assert spec.typical == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperatures": [[1.0], [1.0]]}, "temperatures are of 2 members, there are 1"),
        ({"temperatures": [[1.0, 2.0]]}, "a member has the temperatures"),
        ({"temperatures": [[0.0]]}, r"temperatures\[0\]\[0\] is 0.0, it must be a number from 0.001"),
        ({"typical": [{"channels": {}}]}, "lacks 'features'"),
        ({"typical": ["him"]}, r"typical\[0\] is 'him', it must be an object"),
    ],
)
def test_temperatures_that_cannot_be_are_one_sentence(tiny_spec, change, sentence):
    with pytest.raises(BundleError, match=sentence):
        BundleSpec.from_json({**tiny_spec.to_json(), **change})


def test_a_typical_patient_whose_numbers_do_not_fit_is_refused(tiny_spec, typical):
    content = typical.to_json()
    content["features"]["mean"] = [0.0]
    with pytest.raises(BundleError, match="has 1 means and does not fit them"):
        BundleSpec.from_json({**tiny_spec.to_json(), "typical": [content]})


def test_members_of_several_bundles_keep_their_own_temperature(tiny_spec, typical):
    fitted = replace(tiny_spec, temperatures=((2.0,),), typical=(typical,))
    joined = of_all_members([fitted, tiny_spec])
    assert joined == {"members": 2, "temperatures": ((2.0,), (1.0,)), "typical": (typical, None)}
    assert of_all_members([tiny_spec, tiny_spec]) == {"members": 2, "temperatures": (), "typical": ()}


def test_a_large_ensemble_keeps_what_is_typical_of_its_first_members_only(tiny_spec, typical):
    joined = of_all_members([replace(tiny_spec, typical=(typical,))] * 20)
    assert sum(one is not None for one in joined["typical"]) == MOST_TYPICAL


def test_a_yes_no_end_point_survives_json(tiny_settings, make_spec):
    spec = make_spec(replace(tiny_settings, edges_months=(inf,)))
    assert through_json(spec) == spec
    assert spec.causes == ("locoregional failure",)


def test_a_figure_that_is_not_finite_is_written_as_none(tiny_spec):
    spec = replace(tiny_spec, metrics={"c_index": {"value": nan, "low": -inf, "high": 1.0}})
    assert spec.to_json()["metrics"] == {"c_index": {"value": None, "low": None, "high": 1.0}}


def test_a_model_that_does_not_fit_its_preparation_is_refused(tiny_spec, tiny_settings):
    with pytest.raises(BundleError, match="the model has 2 channels, its preparation 1"):
        replace(tiny_spec, settings=replace(tiny_settings, channels=("FMISO_SUV",)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "zip"}, "not a description of a HypoxNet bundle"),
        ({"format_version": 2}, "has format version 2, this HypoxNet reads 1 to 1"),
        ({"format_version": "1"}, "has format version '1'"),
        ({"members": "many"}, "cannot be used: members is 'many'"),
        ({"members": 0}, "members is 0, it must be a whole number from 1 to 100"),
        ({"model": None}, "model is None, it must be an object"),
        ({"inference": {"overlap": 1.5}}, "overlap is 1.5"),
        ({"inference": {"run": "code"}}, "unexpected keyword argument 'run'"),
    ],
)
def test_a_description_that_cannot_be_is_one_sentence(tiny_spec, change, sentence):
    with pytest.raises(BundleError, match=sentence):
        BundleSpec.from_json({**tiny_spec.to_json(), **change})


@pytest.mark.parametrize("key", ["name", "model", "settings", "inference", "members"])
def test_a_missing_key_is_named(tiny_spec, key):
    content = tiny_spec.to_json()
    del content[key]
    with pytest.raises(BundleError, match=f"lacks '{key}'"):
        BundleSpec.from_json(content)


@pytest.mark.parametrize(("threshold", "overlap"), [(0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, -0.1)])
def test_choices_out_of_range_are_refused(threshold, overlap):
    with pytest.raises(ConfigError, match=r"inference\.(threshold|overlap) is"):
        InferenceDefaults(overlap=overlap, threshold=threshold)


def test_counts_of_a_cohort_hold_no_name_of_a_patient_or_hospital(tmp_path):
    records = [
        CaseRecord("secret-1", site="Hospital A", channels={"FMISO_SUV": tmp_path}, outcome=Outcome(1, 8.0)),
        CaseRecord("secret-1", visit="week2", site="Hospital A", channels={"FMISO_SUV": tmp_path, "T1W": tmp_path}),
        CaseRecord("secret-2", site="Hospital B", masks={"GTVP": tmp_path}, outcome=Outcome(0, 31.0)),
        CaseRecord("secret-3", outcome=Outcome(2, 12.0)),
    ]
    counts = cohort_counts(records)
    assert counts == {
        "patients": 3,
        "cases": 4,
        "sites": 2,
        "channels": {"FMISO_SUV": 2, "T1W": 1},
        "masks": {"GTVP": 1},
        "outcome_known": 3,
        "failures": 1,
        "deaths_without_failure": 1,
        "median_follow_up_months": 31.0,
    }


def test_follow_up_of_a_cohort_without_times_is_none():
    assert cohort_counts([CaseRecord("a", outcome=Outcome(0, None))])["median_follow_up_months"] is None
