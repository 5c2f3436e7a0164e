"""The outcome in the report: lines of the table of figures, drawings, groups, and single patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hypoxnet.cases import DEATH, FAILURE
from hypoxnet.report import figures_outcome
from hypoxnet.report.words import interval, slope_words

DIVISIONS = {
    "risk_groups": "By predicted risk",
    "predicted_hypoxia": "By predicted hypoxia",
    "true_hypoxia": "By contoured hypoxia",
    "predicted_immune": "By predicted hypoxia and immune infiltration",
    "true_immune": "By contoured hypoxia and immune infiltration",
}
TERM_WORDS = {"gtv_ml": "log GTV volume", "t_stage": "T", "n_stage": "N"}
BASELINE_WORDS = {"volume": "volume", "clinical": "clinical"}
# As many contributions as one can take in.
SHOWN_CONTRIBUTIONS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table of figures."""

    name: str
    meaning: str
    value: str
    baseline: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image of the page with the sentence below it."""

    source: str
    caption: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class GroupTable:
    """One division of the withheld patients.

    Args:
        title: By what.
        cut: How they were divided.
        groups: Name, patients, failures, incidence, months lost, of each.
        compared: Lines of the comparison: what, and its value.
        power: What could be seen.
    """

    title: str
    cut: str
    groups: tuple[tuple[str, ...], ...]
    compared: tuple[tuple[str, str], ...]
    power: str


@dataclass(frozen=True, slots=True)
class PatientLine:
    """One patient: why chosen, key, risk, what happened, and what speaks for and against."""

    rank: str
    key: str
    risk: str
    death: str
    happened: str
    contributions: str


def outcome_rows(outcome: Mapping[str, Any]) -> Iterator[Row]:
    """Lines of the table of figures.

    Args:
        outcome: As in `metrics.json`; empty without one.
    """
    if not outcome:
        return
    horizon = outcome["horizon_months"]
    when = "" if horizon is None else f" at {horizon:g} months"
    yield Row(
        "C-index (Harrell)",
        "0.5 is chance; death without failure is a competing risk",
        interval(outcome["c_index"]),
        "; ".join(_baselines(outcome, "c_index") or [f"log GTV volume {interval(outcome['volume_c_index'])}"]),
    )
    if "c_index_within" in outcome:
        yield _row(outcome, "c_index_within", "C-index within folds", "pairs that the same model was asked about")
    for site, room in outcome.get("by_site", {}).items():
        counts = f"{room['patients']} patients, {room['failures']} failures"
        yield Row(f"C-index, {site}", counts, interval(room["c_index"]))
    yield Row("C-index above volume", "difference, same patients", interval(outcome["c_index_difference"]))
    if "c_index_above_clinical" in outcome:
        yield Row(
            "C-index above the clinical model", "difference, same patients", interval(outcome["c_index_above_clinical"])
        )
    if "beyond_clinical" in outcome:
        yield _beyond_row(outcome["beyond_clinical"])
    if "uno_c" in outcome:
        yield _row(outcome, "uno_c", "C-index (Uno)", "weighted for censoring")
    yield from _auc_rows(outcome, when)
    without = f"same risk for all {interval(outcome['brier_without_model'], 3)}"
    yield _row(outcome, "brier", f"Brier score{when}", "0 is perfect", digits=3, extra=without)
    if "integrated_brier" in outcome:
        span = f"{outcome['integrated_brier']['from_months']:g} to {outcome['integrated_brier']['to_months']:g} months"
        yield _row(outcome, "integrated_brier", "Brier score over time", f"mean of {span}", digits=3)
    yield _row(outcome, "calibration", f"Observed over expected{when}", "1 is right")
    yield from _calibration_rows(outcome)
    yield from _benefit_rows(outcome)


def _beyond_row(beyond: Mapping[str, Any]) -> Row:
    """What the risk says among patients of the same volume, stage and age."""
    given = ", ".join(TERM_WORDS.get(name, name) for name in beyond["given"])
    p = "not defined" if beyond["p"] is None else f"p {beyond['p']:.2g}"
    ratio = beyond["hazard_ratio"]
    value = p if ratio["value"] is None else f"{interval(ratio)}, {p}"
    counts = f"{beyond['patients']} patients, {beyond['failures']} failures"
    meaning = f"hazard ratio per SD of the risk; p of {beyond['permutations']} permutations; {counts}"
    return Row(f"Risk beyond {given}", meaning, value)


def _row(outcome: Mapping[str, Any], key: str, name: str, meaning: str, *, digits: int = 2, extra: str = "") -> Row:
    beside = [*([extra] if extra else []), *_baselines(outcome, key, digits)]
    return Row(name, meaning, interval(outcome[key], digits), "; ".join(beside))


def _baselines(outcome: Mapping[str, Any], key: str, digits: int = 2) -> list[str]:
    """The same figure of each baseline."""
    rooms = outcome.get("baselines", {})
    return [
        f"{BASELINE_WORDS[n]} {interval(room[key], digits)}, {room['patients']} patients"
        for n, room in rooms.items()
        if key in room
    ]


def _auc_rows(outcome: Mapping[str, Any], when: str) -> Iterator[Row]:
    by_month = outcome.get("auc_over_time", [])
    if outcome["horizon_months"] not in [row["month"] for row in by_month]:
        yield _row(outcome, "auc", f"AUC{when}", "failed by then against not failed")
    for row in by_month:
        beside = "; ".join(f"{BASELINE_WORDS[n]} {interval(row[n])}" for n in BASELINE_WORDS if n in row)
        name = f"AUC at {row['month']:g} months"
        yield Row(name, "failed by then against not failed", interval(row["model"]), beside)


def _calibration_rows(outcome: Mapping[str, Any]) -> Iterator[Row]:
    if "calibration_slope" in outcome:
        said = slope_words(outcome["calibration_slope"])
        yield _row(outcome, "calibration_slope", "Calibration slope", f"1 is right, below 1 too extreme{said}")
        yield _row(outcome, "calibration_intercept", "Calibration intercept", "0 is right, above 0 the risk is too low")
    if "d_calibration" in outcome:
        p = outcome["d_calibration"]["p"]
        yield Row("D-calibration", "p; small where whole curves are wrong", f"p {p:.2f}" if p >= 0.01 else f"p {p:.1g}")
    lost = outcome.get("time_lost")
    if lost:
        beside = [f"observed {interval(lost['observed'])}"]
        beside += [f"{BASELINE_WORDS[n]} {interval(lost[n])}" for n in BASELINE_WORDS if n in lost]
        yield Row(
            "Months lost to failure",
            f"predicted, within {lost['until_months']:g} months; as observed is right",
            interval(lost["predicted"]) if "predicted" in lost else "",
            "; ".join(beside),
        )


def _benefit_rows(outcome: Mapping[str, Any]) -> Iterator[Row]:
    decision = outcome.get("decision")
    name = decision["against"] if decision else ""
    for row in decision["net_benefit"] if decision else []:
        beside = f"everybody {interval(row['treat_all'], 3)}" + (f"; {name} {interval(row[name], 3)}" if name else "")
        yield Row(
            f"Net benefit from a risk of {100 * row['threshold']:.0f} % on",
            "true positives per patient; nobody is 0",
            interval(row["model"], 3),
            beside,
        )
    moved = outcome.get("reclassification")
    if moved:
        yield Row(
            f"Net reclassification against the {moved['against']} model",
            f"-2 to 2; failures {interval(moved['of_failures'])}, others {interval(moved['of_others'])}",
            interval(moved["total"]),
        )
        yield Row(
            f"Discrimination improvement over the {moved['against']} model",
            "gain in mean risk between who fails and who does not",
            interval(moved["discrimination_improvement"], 3),
        )


def outcome_drawings(outcome: Mapping[str, Any]) -> Iterator[Drawing]:
    """Incidence by group, calibration and decision curve."""
    if not outcome:
        return
    for key, title in DIVISIONS.items():
        division = outcome.get(key)
        if division:
            yield Drawing(
                figures_outcome.incidence_by_group(division, title),
                f"Aalen-Johansen incidence of failure (death without it is a competing risk) with 95 % bands. "
                f"Cut: {division['cut']}.",
            )
    yield Drawing(
        figures_outcome.calibration(outcome["calibration_groups"], horizon=outcome["horizon_months"]),
        "Groups of increasing predicted risk; observed share with bootstrap interval"
        + ("." if outcome["horizon_months"] is None else " (Aalen-Johansen, which counts death as a competing risk)."),
    )
    decision = outcome.get("decision")
    if decision:
        yield Drawing(
            figures_outcome.net_benefit(decision["drawn"], decision["against"]),
            "Net benefit of acting on a predicted risk; a model helps where its line is the highest. Intervals at four "
            "risks stand in the table.",
        )


def group_tables(outcome: Mapping[str, Any]) -> Iterator[GroupTable]:
    """Each division with its comparison."""
    for key, title in DIVISIONS.items():
        division = outcome.get(key)
        if division:
            yield GroupTable(
                title,
                division["cut"],
                tuple(_group_cells(group) for group in division["groups"]),
                tuple(_comparison(division)),
                division["power"],
            )


def _group_cells(group: Mapping[str, Any]) -> tuple[str, ...]:
    lost = "not followed so far" if group["months_lost"] is None else f"{group['months_lost']:.1f}"
    counts = (str(group["patients"]), str(group["failures"]))
    return (group["name"], *counts, interval(group["incidence"]), lost)


def _comparison(division: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    compared = division["compared"]
    yield f"Hazard ratio, {compared}", hazard_ratio_words(division["hazard_ratio"])
    yield "The same given log GTV volume", hazard_ratio_words(division["hazard_ratio_given_volume"])
    for name, key in (("Log-rank test of the hazard", "logrank_p"), ("Gray's test of the incidence", "gray_p")):
        p = division[key]
        yield name, "not defined" if p is None else f"p {p:.3f}"


def hazard_ratio_words(ratio: Mapping[str, Any]) -> str:
    """A ratio with interval, p and method, or why there is none."""
    if ratio["value"] is None:
        return f"not defined: {ratio['reason']}"
    p = "" if ratio["p"] is None else f", p {ratio['p']:.3f}"
    return f"{interval(ratio)}{p}; {ratio['method']}"


def patient_lines(scored: pd.DataFrame) -> Iterator[PatientLine]:
    """A few patients: the highest, the median and the lowest risk.

    Args:
        scored: `predictions.csv`, the cases that were predicted.
    """
    if "risk" not in scored:
        return
    known = scored.dropna(subset=["risk"]).drop_duplicates("case_id").sort_values("risk", kind="stable")
    places = dict.fromkeys((len(known) - 1, len(known) // 2, 0)) if len(known) else {}
    for place, rank in zip(places, ("highest", "median", "lowest"), strict=False):
        yield _patient(rank, known.iloc[place])


def _patient(rank: str, row: pd.Series[Any]) -> PatientLine:
    risk = f"{100 * row['risk']:.0f} %"
    if pd.notna(row.get("risk_low")):
        risk = f"{risk} ({100 * row['risk_low']:.0f} to {100 * row['risk_high']:.0f} %)"
    death = f"{100 * row['death']:.0f} %" if pd.notna(row.get("death")) else ""
    return PatientLine(rank, str(row["key"]), risk, death, _happened(row), _contributions(row))


def _happened(row: pd.Series[Any]) -> str:
    if pd.isna(row["event"]):
        return "not known"
    words = {FAILURE: "failed", DEATH: "died without failure"}.get(int(row["event"]), "free of failure")
    return words if pd.isna(row["months"]) else f"{words} at {row['months']:g} months"


def _contributions(row: pd.Series[Any]) -> str:
    """The largest first; a positive one raises the hazard of failure."""
    found = {
        str(name).removeprefix("contribution_"): float(value)
        for name, value in row.items()
        if str(name).startswith("contribution_") and pd.notna(value)
    }
    largest = sorted(found.items(), key=lambda pair: -abs(pair[1]))[:SHOWN_CONTRIBUTIONS]
    return ", ".join(f"{name} {value:+.2f}" for name, value in largest)
