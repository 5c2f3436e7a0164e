"""Bundles joined into one ensemble."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from hypoxnet.bundle.export.ensemble import join_bundles
from hypoxnet.bundle.read import read_bundle
from hypoxnet.errors import BundleError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor


def probability(bundle, record):
    return load_predictor(bundle, InferenceConfig(device="cpu")).predict(record).probability["hsv"]


def test_a_joined_bundle_predicts_the_mean_of_its_parts(tiny_spec, make_bundle, make_case, tmp_path):
    one, two = make_bundle(tiny_spec, seeds=(1,), name="one"), make_bundle(tiny_spec, seeds=(2,), name="two")
    joined = join_bundles([one, two], tmp_path / "joined")
    record = make_case()
    mean = (probability(one, record) + probability(two, record)) / 2
    assert abs(probability(joined, record) - mean).max() < 1e-6
    assert abs(probability(one, record) - mean).max() > 1e-3


def test_a_joined_bundle_claims_no_figures_and_says_where_it_comes_from(tiny_spec, make_bundle, tmp_path):
    spec = replace(tiny_spec, metrics={"dice": {"value": 0.5, "low": 0.4, "high": 0.6}})
    parts = [make_bundle(spec, seeds=(seed,), name=f"part{seed}") for seed in (1, 2)]
    joined, members = read_bundle(join_bundles(parts, tmp_path / "joined"))
    assert (joined.metrics, len(members), joined.members) == ({}, 2, 2)
    assert list(joined.provenance["joined_from"].values()) == [read_bundle(part)[0].digest for part in parts]


def test_one_bundle_alone_keeps_its_figures(tiny_spec, make_bundle, tmp_path):
    spec = replace(tiny_spec, metrics={"dice": {"value": 0.5, "low": 0.4, "high": 0.6}})
    written, _ = read_bundle(join_bundles([make_bundle(spec)], tmp_path / "again"))
    assert written.metrics["dice"]["value"] == 0.5


def test_a_bundle_that_would_count_twice_is_refused_with_both_names(tiny_spec, make_bundle, tmp_path):
    one, two = (make_bundle(tiny_spec, seeds=(seed,), name=f"part{seed}") for seed in (1, 2))
    copied = shutil.copytree(one, tmp_path / "copied")
    joined = join_bundles([one, two], tmp_path / "joined")
    for parts in ([one, two, copied], [joined, copied]):
        sentence = rf"{parts[0]} and {copied} hold the same bundle \([0-9a-f]{{12}}\), which would count twice"
        with pytest.raises(BundleError, match=sentence):
            join_bundles(parts, tmp_path / "again")
        assert not (tmp_path / "again").exists()


def test_bundles_of_two_kinds_are_refused_with_what_differs(tiny_spec, tiny_settings, make_spec, make_bundle, tmp_path):
    other = make_spec(replace(tiny_settings, window=(24, 24, 24)))
    parts = [make_bundle(tiny_spec, name="one"), make_bundle(other, name="two")]
    with pytest.raises(BundleError, match=r"settings\.window \(\[24, 24, 24\] and \[16, 16, 16\]\)"):
        join_bundles(parts, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_an_export_in_another_form_is_not_replaced(tiny_spec, make_bundle, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "export.json").write_text("{}")
    (folder / "checksums.json").write_text("{}")
    with pytest.raises(BundleError, match="holds an export in another form"):
        join_bundles([make_bundle(tiny_spec)], folder)
    assert (folder / "export.json").read_text() == "{}"
