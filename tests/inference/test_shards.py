import json

import pytest

from hypoxnet.cli import main
from hypoxnet.errors import ConfigError
from hypoxnet.inference.cluster.config import Shard
from hypoxnet.inference.cluster.shards import SHARDS, merge, run_shard, shard_folder, unfinished
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.inference.tally import TABLE

CPU = InferenceConfig(device="cpu", windows_per_batch=2)
OF_THE_RUN = {".index.jsonl", "run.jsonl", "summary.json"}


@pytest.fixture
def predictor(tiny_spec, make_bundle):
    return load_predictor(make_bundle(tiny_spec), CPU)


@pytest.fixture
def cohort(make_case):
    """Five cases, of which one cannot be read and one has a name that a table must quote."""
    records = [make_case(name, seed=seed) for seed, name in enumerate(['a "quoted", name', "P1", "P2", "P3", "P4"])]
    records[3].channels["FMISO_SUV"].write_bytes(b"damaged")
    return records


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_THE_RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if SHARDS not in path.parts}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_end_as_one_process_does_byte_for_byte(predictor, cohort, tmp_path, order):
    run_inference(predictor, cohort, tmp_path / "alone")
    output = tmp_path / "parts"
    for done, number in enumerate(order):
        assert (output / TABLE).exists() is False, f"merged after {done} of 3 parts"
        run = run_shard(predictor, cohort, output, shard=Shard(number, 3))
        assert {*run.predicted, *run.failed} == {record.key for record in Shard(number, 3).part(cohort)}
    assert contents(output) == contents(tmp_path / "alone")


def test_a_part_that_runs_again_keeps_what_is_finished(predictor, cohort, tmp_path):
    for number in (1, 2):
        run_shard(predictor, cohort, tmp_path / "parts", shard=Shard(number, 2))
    before = contents(tmp_path / "parts")
    run = run_shard(predictor, cohort, tmp_path / "parts", shard=Shard(1, 2))
    assert (len(run.kept), run.predicted) == (3, ())
    assert contents(tmp_path / "parts") == before


def test_merged_parts_have_a_summary_that_names_failures_and_cases_of_other_manifests(predictor, cohort, tmp_path):
    output = tmp_path / "out"
    run_inference(predictor, cohort, output)
    assert (output / "summary.json").exists()
    run_shard(predictor, cohort[:4], output, shard=Shard(1, 2))
    assert not (output / "summary.json").exists()
    part = json.loads((output / SHARDS / "1-of-2" / "summary.json").read_text())
    assert (part["shard"], "not_in_manifest" in part) == ("1/2", False)
    run_shard(predictor, cohort[:4], output, shard=Shard(2, 2))
    summary = json.loads((output / "summary.json").read_text())
    assert (list(summary["failed"]), summary["cases"], summary["parts"]) == ([cohort[3].key], 4, 2)
    assert summary["not_in_manifest"]["first"] == [record.key for record in cohort[4:]]


def test_what_one_process_finished_a_part_keeps(predictor, cohort, tmp_path):
    run_inference(predictor, cohort, tmp_path / "out")
    run = run_shard(predictor, cohort, tmp_path / "out", shard=Shard(1, 2))
    assert (len(run.kept), run.predicted) == (3, ())


def test_an_unfinished_part_is_named_and_nothing_is_merged(predictor, cohort, tmp_path, capsys):
    output = tmp_path / "parts"
    run_shard(predictor, cohort, output, shard=Shard(2, 3))
    assert unfinished(output) == ["shard=1/3 has not finished", "shard=3/3 has not finished"]
    assert main(["merge", str(output)]) == 2
    assert "shard=1/3 has not finished; shard=3/3 has not finished; run these parts again" in capsys.readouterr().err
    assert not (output / TABLE).exists()


def test_a_part_of_another_cohort_or_bundle_is_not_mixed_in(predictor, cohort, tmp_path):
    output = tmp_path / "parts"
    run_shard(predictor, cohort, output, shard=Shard(1, 2))
    run_shard(predictor, cohort[:4], output, shard=Shard(2, 2))
    with pytest.raises(ConfigError, match="the parts are of different cohorts, bundles or settings"):
        merge(output)
    run_shard(predictor, cohort, output, shard=Shard(2, 2))
    assert len((output / TABLE).read_text().splitlines()) == 6


def test_parts_of_two_ways_to_cut_are_refused(predictor, cohort, tmp_path):
    output = tmp_path / "parts"
    for shard in (Shard(1, 1), Shard(2, 3)):
        shard_folder(output, shard).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cut into 1 and into 3; remove .*\.shards"):
        merge(output)
    with pytest.raises(ConfigError, match="holds no parts of a cohort"):
        merge(tmp_path)


def test_merging_says_which_cases_failed_and_ends_with_2(predictor, cohort, tmp_path, capsys):
    for number in (1, 2):
        run_shard(predictor, cohort, tmp_path / "parts", shard=Shard(number, 2))
    (tmp_path / "parts" / TABLE).unlink()
    assert main(["merge", str(tmp_path / "parts")]) == 2
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'parts' / TABLE}\n"
    assert told.err.startswith("failed: P3: FMISO_SUV")
    assert (tmp_path / "parts" / TABLE).exists()


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "a/b", "-1/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ConfigError, match="it must be a part and the number of parts, for example 2/4"):
        Shard.parse(text)
