import json

import pytest

from hypoxnet.report.outcome_section import outcome_rows
from hypoxnet.report.page import write_report
from hypoxnet.report.treatment_section import interaction_tables, not_asked, training_lines


@pytest.fixture
def metrics(make_run):
    return json.loads((make_run() / "metrics.json").read_text())


def test_the_page_shows_interaction_immune_groups_and_figures_on_training(make_run):
    page = write_report(make_run()).read_text()
    for text in (
        "Interaction: ratio of the two",
        "By contoured hypoxia and immune infiltration",
        "hypoxic, immune low against the others",
        "Risk beyond log GTV volume, age",
        "The clinical baselines on the patients they were fitted to",
        "0.53 (0.46 to 0.61)",
        "arm_drawn",
    ):
        assert text in page, text


def test_an_interaction_tells_how_the_arms_came_about_and_what_could_be_seen(metrics):
    tables = list(interaction_tables(metrics["outcome"]))
    assert [table.title for table in tables] == ["By predicted hypoxia", "By contoured hypoxia"]
    found = metrics["outcome"]["interaction"]["predicted_hypoxia"]
    assert "inverse probability of their arm given hypoxia, log GTV volume and age" in tables[0].about
    assert f"With {sum(found['events'])} failures an interaction of" in tables[0].about
    assert sum(int(patients) for _, patients, _ in tables[0].groups) == 60
    value = found["interaction"]["value"]
    assert tables[0].compared[2][1].startswith(f"{value:.2f} (")


def test_a_drawn_arm_is_not_said_to_be_weighted(metrics):
    found = metrics["outcome"]["interaction"]["true_hypoxia"]
    drawn = {name: found[name] for name in found if "imbalance" not in name and name != "effective_patients"}
    outcome = {"interaction": {"arm": "arm", "true_hypoxia": {**drawn, "arms": "randomised", "left_out": 0}}}
    (table,) = interaction_tables(outcome)
    assert "Arms were drawn by lot." in table.about
    assert "weighted" not in table.about


def test_what_cannot_be_answered_is_one_sentence_each():
    outcome = {
        "interaction": {"arm": "chemo", "reason": "a yes/no end point has no hazards to compare"},
        "immune": {"reason": "fewer than six withheld patients have til, pd_l1_cps and a hypoxic share"},
    }
    assert list(not_asked(outcome)) == [
        "No interaction of chemo and hypoxia: a yes/no end point has no hazards to compare.",
        "No groups of hypoxia and immune infiltration: fewer than six withheld patients have til, pd_l1_cps and a "
        "hypoxic share.",
    ]
    (table,) = interaction_tables(
        {"interaction": {"arm": "arm", "true_hypoxia": {"cut": "c", "reason": "none treated"}}}
    )
    assert (table.about, table.groups) == ("No interaction of arm and hypoxia: none treated.", ())
    assert list(not_asked({})) == list(interaction_tables({})) == []


def test_the_row_of_the_added_risk_says_ratio_p_and_counts(metrics):
    beyond = metrics["outcome"]["beyond_clinical"]
    (row,) = [row for row in outcome_rows(metrics["outcome"]) if row.name.startswith("Risk beyond")]
    assert row.value.endswith(f"p {beyond['p']:.2g}")
    assert row.value.startswith(f"{beyond['hazard_ratio']['value']:.2f} (")
    assert "60 patients" in row.meaning
    assert "1999 permutations" in row.meaning


def test_figures_on_training_name_the_fold_where_there_are_several(metrics):
    (line,) = training_lines(metrics["baselines"])
    assert line == ("", "volume", "113", "31", "0.56", "0.029", "0.53 (0.46 to 0.61)")
    assert [line[0] for line in training_lines(2 * metrics["baselines"])] == ["0", "1"]
