import base64
import json
import re

import pandas as pd
import pytest

from hypoxnet.report.figures_outcome import incidence_by_group, net_benefit
from hypoxnet.report.outcome_section import group_tables, outcome_rows, patient_lines
from hypoxnet.report.page import write_report
from hypoxnet.report.words import interval


def test_the_page_is_one_file_without_an_address_to_fetch(make_run):
    page = write_report(make_run()).read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in re.sub(r'src="data:[^"]+"', "", page)
    assert "<script" not in page


def test_every_outcome_figure_stands_beside_a_baseline_or_what_it_should_be(make_run):
    outcome = json.loads((make_run() / "metrics.json").read_text())["outcome"]
    rows = {row.name: row for row in outcome_rows(outcome)}
    for name in (
        "C-index (Harrell)",
        "AUC at 24 months",
        "Brier score at 24 months",
        "Brier score over time",
        "Calibration slope",
        "Months lost to failure",
        "Net benefit from a risk of 20 % on",
    ):
        assert "clinical" in rows[name].baseline, name
        assert re.search(r"\(.* to .*\)", rows[name].value), rows[name]
    assert {"D-calibration", "Net reclassification against the clinical model"} <= set(rows)


def test_the_page_shows_groups_patients_and_checklists(make_run):
    run = make_run()
    page = write_report(run).read_text()
    for text in (
        "By predicted risk",
        "By predicted hypoxia",
        "By contoured hypoxia",
        "The same given log GTV volume",
        "Decision curve",
        "Single patients",
        "largest contributions",
        "TRIPOD+AI",
        "The authors must say",
    ):
        assert text in page or text in _pictures(page), text
    assert (run / "checklists.md").is_file()


def _pictures(page: str) -> str:
    """Captions are in the page; titles are drawn as paths, so only their presence as pictures can be seen."""
    return " ".join(["Decision curve"] * ("Net benefit of acting" in page))


def test_a_run_without_outcome_has_a_page_without_risks(make_run):
    page = write_report(make_run(with_outcome=False)).read_text()
    for text in ("C-index of failure", "By predicted risk", "Single patients", "Decision curve"):
        assert text not in page
    assert "No outcome is predicted by this model." in page


def test_the_patients_shown_are_those_of_highest_median_and_lowest_risk(make_run):
    table = pd.read_csv(make_run() / "predictions.csv")
    lines = list(patient_lines(table))
    by_risk = table.sort_values("risk")["key"].tolist()
    assert [line.key for line in lines] == [by_risk[-1], by_risk[len(by_risk) // 2], by_risk[0]]
    assert lines[0].rank == "highest"
    assert re.search(r"\d+ % \(\d+ to \d+ %\)", lines[0].risk)
    first = lines[0].contributions.split(", ")
    assert {part.split()[0] for part in first} == {"age", "hpv"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_few_patients_are_shown_once_each(make_run, count):
    table = pd.read_csv(make_run() / "predictions.csv").head(count)
    lines = list(patient_lines(table))
    assert len({line.key for line in lines}) == len(lines) == count


def test_predictions_have_the_curve_the_interval_and_the_contributions_of_every_patient(make_run):
    table = pd.read_csv(make_run() / "predictions.csv")
    columns = [
        "risk_low",
        "risk_high",
        "risk_12m",
        "risk_24m",
        "contribution_age",
        "contribution_hpv",
        "clinical_baseline_score",
    ]
    assert not table[columns].isna().any().any()
    # A column that is called a risk is a probability.
    risks = table.filter(regex="risk|death").to_numpy()
    assert ((risks >= 0) & (risks <= 1)).all()
    assert (table["risk_low"] < table["risk"]).all()
    assert table["risk_24m"].to_numpy() == pytest.approx(table["risk"].to_numpy(), abs=1e-6)


def test_group_tables_give_both_hazard_ratios_and_what_could_be_seen(make_run):
    outcome = json.loads((make_run() / "metrics.json").read_text())["outcome"]
    tables = {table.title: table for table in group_tables(outcome)}
    assert len(tables) == 5
    for table in tables.values():
        names = [name for name, _ in table.compared]
        assert names[0].startswith("Hazard ratio")
        assert names[1] == "The same given log GTV volume"
        assert "is the least that can be seen" in table.power


@pytest.mark.parametrize(
    ("slope", "said"),
    [
        ((-6.46, -15.0, 3.2), "too few events to say"),
        ((-3.2, -5.1, -0.5), "order these patients the wrong way round"),
        ((0.3, -0.2, 0.7), "the risks hardly order these patients, if at all"),
        ((2.1, 0.4, 4.5), "too few events to say"),
        ((0.7, 0.4, 1.1), "below 1 too extreme"),
    ],
)
def test_a_slope_that_says_nothing_says_so(make_run, slope, said):
    outcome = json.loads((make_run() / "metrics.json").read_text())["outcome"]
    outcome["calibration_slope"] = dict(zip(("value", "low", "high"), slope, strict=True))
    (row,) = [row for row in outcome_rows(outcome) if row.name == "Calibration slope"]
    assert row.meaning.endswith(said)


def test_the_months_lost_that_were_observed_stand_beside_the_predicted_ones(make_run):
    outcome = json.loads((make_run() / "metrics.json").read_text())["outcome"]
    (row,) = [row for row in outcome_rows(outcome) if row.name == "Months lost to failure"]
    assert row.baseline.startswith(f"observed {interval(outcome['time_lost']['observed'])}; volume ")
    assert not re.search(r"\d\.\d", row.meaning)


def test_a_network_that_hardly_learnt_is_not_to_be_judged(make_run):
    folder = make_run()
    page = write_report(folder).read_text()
    warning = "rained for 77 steps, the default is 4,500: too few to judge the model by its figures"
    assert f'<p class="use">T{warning}' in page
    assert f"t{warning}" in (folder / "checklists.md").read_text()
    went_on = write_report(make_run(training__start="bundle")).read_text()
    assert warning not in went_on


def test_the_same_figures_draw_the_same_picture(make_run):
    outcome = json.loads((make_run() / "metrics.json").read_text())["outcome"]
    division, decision = outcome["risk_groups"], outcome["decision"]
    pictures = [incidence_by_group(division, "a"), net_benefit(decision["drawn"], decision["against"])]
    assert pictures == [incidence_by_group(division, "a"), net_benefit(decision["drawn"], decision["against"])]
    for picture in pictures:
        kind, content = picture.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert b"</svg>" in base64.b64decode(content)
