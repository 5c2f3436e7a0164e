"""Levels of all channels as one distribution: which do not go together, and what a bundle must not say of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, norm

from hypoxnet.bundle.levels import Levels
from hypoxnet.bundle.typical import TUMOUR, Appearance, Typical
from hypoxnet.errors import BundleError

LEVELS = Levels(
    names=("FMISO_SUV", "FMISO_TMR", "ADC"),
    mean=(0.5, 0.25, 1.0),
    scale=(0.25, 0.125, 0.5),
    correlation=((1.0, 0.9, 0.25), (0.9, 1.0, 0.25), (0.25, 0.25, 1.0)),
)


def test_a_surprise_is_the_normal_score_of_the_distance_for_any_number_of_channels():
    generator = np.random.default_rng(0)
    for names in (LEVELS.names, LEVELS.names[:2], LEVELS.names[2:]):
        away = generator.normal(scale=1.5, size=3)
        medians = {n: m + s * a for n, m, s, a in zip(LEVELS.names, LEVELS.mean, LEVELS.scale, away, strict=True)}
        there = [LEVELS.names.index(name) for name in names]
        block = np.array(LEVELS.correlation)[np.ix_(there, there)]
        squared = away[there] @ np.linalg.solve(block, away[there])
        exact = norm.ppf(chi2.cdf(squared, len(names)))
        assert LEVELS.surprise({name: medians[name] for name in names}) == pytest.approx(exact, abs=0.1)


def test_usual_levels_that_do_not_go_together_are_a_surprise_and_named():
    apart = {"FMISO_SUV": 0.75, "FMISO_TMR": 0.125, "ADC": 1.0}
    alone = [LEVELS.surprise({name: value}) for name, value in apart.items()]
    assert max(alone) < 1.1
    assert LEVELS.surprise(apart) > 3.5
    name, usual = LEVELS.oddest(apart)
    assert name in {"FMISO_SUV", "FMISO_TMR"}
    assert abs(usual - apart[name]) > 0.2


def test_a_channel_that_training_did_not_have_does_not_count():
    known = {"FMISO_SUV": 0.7, "ADC": 1.2}
    assert LEVELS.surprise({**known, "T1W": 40.0}) == LEVELS.surprise(known)
    assert LEVELS.surprise({"T1W": 40.0}) is None


def test_levels_survive_json():
    assert Levels.from_json(json.loads(json.dumps(LEVELS.to_json()))) == LEVELS


def test_a_bundle_from_before_there_were_levels_judges_as_it_did():
    old = {"channels": {}, "features": None, "pattern": [], "limits": {TUMOUR: 2.5}}
    typical = Typical.from_json({**old, "patients": 30, "judges": 12, "judged_by": "validation patients"})
    case = Appearance({TUMOUR: {"FMISO_SUV": np.zeros(4)}}, around={"FMISO_SUV": 9.0})
    assert typical.surprises(case, TUMOUR) == {}
    new = replace(typical, levels={TUMOUR: LEVELS})
    assert list(new.surprises(case, TUMOUR)) == ["levels (tumour)"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mean": [0.0]}, "3 channels of training patients have numbers that do not fit"),
        ({"names": ["ADC", "ADC", "T1W"]}, "numbers that do not fit"),
        ({"scale": [1.0, 0.0, 1.0]}, "numbers that do not fit"),
        ({"correlation": [[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]}, "correlations that cannot be"),
        ({"correlation": [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]}, "correlations that cannot be"),
        ({"names": [], "mean": [], "scale": [], "correlation": []}, "0 channels"),
    ],
)
def test_levels_that_cannot_be_are_refused(change, sentence):
    with pytest.raises(BundleError, match=sentence):
        Levels.from_json({**LEVELS.to_json(), **change})
