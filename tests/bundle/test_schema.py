import json
from dataclasses import replace
from math import inf, nan

import pytest

from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults, cohort_counts
from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.errors import BundleError, ConfigError


def through_json(spec):
    return BundleSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))


def test_a_description_survives_json(tiny_spec):
    spec = replace(
        tiny_spec, members=3, cohort={"patients": 40}, metrics={"dice": {"value": 0.8, "low": 0.7, "high": 0.9}}
    )
    assert through_json(spec) == spec


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
