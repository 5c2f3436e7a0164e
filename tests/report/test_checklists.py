import json
import re
from dataclasses import replace

import pytest

from hypoxnet.bundle.checklists import CHECKLISTS, read_checklist
from hypoxnet.report import answers_methods, answers_results
from hypoxnet.report.answers_methods import NO_OUTCOME
from hypoxnet.report.checklists import answer, fill, filled_checklists, write_checklists
from hypoxnet.report.run_facts import read_run

ANSWERS = sorted({name for known in CHECKLISTS for item in read_checklist(known).items for name in item.answers})
ABOUT_OUTCOME = ("outcome", "sample_size", "power", "measures", "output", "flow", "numbers", "performance", "compared")


@pytest.mark.parametrize("name", CHECKLISTS)
def test_every_item_has_a_number_of_its_own_a_section_and_somebody_who_answers(name):
    items = read_checklist(name).items
    assert len({item.number for item in items}) == len(items)
    for item in items:
        assert re.fullmatch(r"\d+[a-g]?", item.number)
        assert item.section
        assert item.topic
        assert item.answers or item.authors, item


@pytest.mark.parametrize(("name", "items", "last"), [("tripod_ai", 27, "27c"), ("claim", 44, "44")])
def test_the_numbers_run_from_one_to_the_last_without_a_gap(name, items, last):
    numbers = [item.number for item in read_checklist(name).items]
    assert sorted({int(number.rstrip("abcdefg")) for number in numbers}) == list(range(1, items + 1))
    assert numbers[-1] == last


def test_every_answer_that_an_item_names_exists_once():
    for name in ANSWERS:
        places = [room for room in (answers_methods, answers_results) if hasattr(room, name)]
        # A room may import an answer of the other; it is the same one then.
        assert len({id(getattr(room, name)) for room in places}) == 1, name


def test_ethics_funding_and_interpretation_are_left_to_people():
    tripod, claim = (read_checklist(name) for name in CHECKLISTS)
    assert {"3a", "17", "18a", "18b", "19", "25"} <= set(tripod.for_people)
    assert {"5", "16", "18", "44"} <= set(claim.for_people)
    assert "people must answer 2, 3a" in tripod.describe()


def test_a_run_with_an_outcome_answers_with_its_own_numbers(make_run):
    run = read_run(make_run())
    counts = run.counts
    assert "120 patients train, 60 are withheld" in answer("sample_size", run)
    assert f"{counts['failures']} failures" in answer("flow", run)
    assert "37.5 months" in answer("follow_up", run)
    assert "T1W in 3" in answer("missing", run)
    assert "113 of 120" in answer("missing", run)
    assert "77 steps" in answer("training", run)
    assert "seed 0" in answer("training", run)
    assert "2.13.0" in answer("software", run)
    assert "a hazard ratio of" in answer("power", run)
    value = run.outcome["c_index"]["value"]
    assert f"C-index {value:.2f}" in answer("performance", run)
    assert "Calibration slope" in answer("performance", run) or "calibration slope" in answer("performance", run)


def test_a_run_without_outcome_says_so_and_gives_no_number_of_failures(make_run):
    run = read_run(make_run(with_outcome=False))
    for name in ABOUT_OUTCOME:
        said = answer(name, run)
        assert NO_OUTCOME.rstrip(".") in said, name
        assert "C-index" not in said
        assert not re.search(r"\d+ failures?", said), said


def test_no_answer_has_a_number_that_the_run_folder_does_not_have(make_run):
    """Counts are looked up as they are, measured figures to the digits shown."""
    folder = make_run()
    run = read_run(folder)
    known = set(re.findall(r"\d+", json.dumps([run.metrics, run.spec.to_json(), run.provenance, run.config])))
    for name in ("flow", "numbers", "centres", "compared", "characteristics", "left_out", "software", "follow_up"):
        said = re.findall(r"\d+", answer(name, run).replace("95 %", ""))
        derived = {str(run.counts["outcome_known"] - run.counts["failures"] - run.counts["deaths_without_failure"])}
        assert set(said) <= known | derived | {str(len(run.metrics["left_out"]))}, (name, said)


def test_another_count_gives_another_answer(make_run):
    run = read_run(make_run())
    other = replace(run, metrics={**run.metrics, "counts": {**run.counts, "training_patients": 77}})
    assert "77 patients train" in answer("sample_size", other)
    assert answer("sample_size", other) != answer("sample_size", run)


def test_a_simulated_cohort_is_called_so_and_a_manifest_is_not(make_run):
    run = read_run(make_run())
    assert "Simulated" in answer("data_source", run)
    assert "No patient" in answer("limitations", run)
    real = replace(run, config={**run.config, "data": {**run.config["data"], "manifest": "cohort.csv"}})
    assert "Simulated" not in answer("data_source", real)
    assert "No patient" not in answer("limitations", real)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("holdout", "withheld once"),
        ("crossval", "5 folds"),
        ("leave_site_out", "Each site withheld"),
        ("external", "Another cohort"),
    ],
)
def test_the_partition_is_that_of_the_settings(make_run, kind, expected):
    run = read_run(make_run(split__kind=kind))
    assert expected in answer("partition", run)
    assert ("Not made" in answer("external_test", run)) == (kind in {"holdout", "crossval"})


def test_what_a_run_cannot_say_falls_to_the_authors(make_run):
    run = read_run(make_run())
    silent = replace(
        run,
        config={
            **run.config,
            "data": {**run.config["data"], "manifest": "x.csv"},
            "split": {**run.config["split"], "kind": "leave_site_out"},
            "training": {**run.config["training"], "start": "bundle"},
        },
    )
    filled = fill(read_checklist("tripod_ai"), silent)
    limits = next(one for one in filled.items if one.item.number == "26")
    assert limits.answer == ""
    assert limits.left
    assert not limits.is_done


def test_the_markdown_has_a_row_per_item_and_its_summary_counts_them(make_run):
    folder = make_run()
    run = read_run(folder)
    text = write_checklists(folder, run).read_text()
    for filled in filled_checklists(run):
        done, part, left = map(int, re.search(r"(\d+) answered.* (\d+) in part, (\d+) left", filled.summary()).groups())
        assert done + part + left == len(filled.items)
        assert filled.summary() in text
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 52 + 44
    assert all(line.count("|") == 5 for line in rows)


def test_the_model_card_says_in_short_what_is_left_to_people(make_run):
    card = (make_run() / "bundle/docs/README.md").read_text()
    assert "## Reporting" in card
    for name in CHECKLISTS:
        assert read_checklist(name).describe() in card


@pytest.mark.parametrize("missing", ["mean", "conditional", "indicator", "a later way"])
def test_every_way_with_missing_covariates_is_named(make_run, missing):
    run = read_run(make_run())
    settings = replace(run.spec.settings, missing="mean")
    object.__setattr__(settings, "missing", missing)  # whatever a later version knows
    said = answer("missing", replace(run, spec=replace(run.spec, settings=settings)))
    assert "a covariate that is not known is" in said.lower()
