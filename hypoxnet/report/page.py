"""`report.html`: one file that opens without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, select_autoescape

from hypoxnet.bundle.schema import INTENDED_USE, BundleSpec
from hypoxnet.files import write_text
from hypoxnet.report import figures
from hypoxnet.report.checklists import filled_checklists, write_checklists
from hypoxnet.report.doubts_section import doubt_drawings, doubt_rows
from hypoxnet.report.gallery import read_gallery_case
from hypoxnet.report.outcome_section import (
    Drawing,
    Row,
    group_tables,
    outcome_drawings,
    outcome_rows,
    patient_lines,
)
from hypoxnet.report.run_facts import read_run
from hypoxnet.report.treatment_section import interaction_tables, not_asked, training_lines
from hypoxnet.report.words import interval

REPORT = "report.html"
# With fewer failures an interval of the C-index spans most of what is possible.
FEW_FAILURES = 10
SHOWN_SETTINGS = (
    "label",
    "data",
    "split",
    "model",
    "outcome",
    "loss",
    "training",
    "augment",
    "inference",
    "evaluation",
)


# Of a model of covariates alone, and what of these only a network or its images would use.
SHOWN_ALONE = ("data", "split", "model", "outcome", "evaluation")
UNUSED_ALONE = (
    *("data.phantom", "data.channels", "data.reference", "data.spacing_mm", "data.window", "data.focus"),
    *("data.anywhere", "data.maps.", "data.in_memory", "data.workers", "model.features", "model.blocks"),
    *("model.deep_supervision", "model.fold", "outcome.pool", "outcome.volumes", "outcome.hidden", "outcome.dropout"),
    "outcome.bank",
)


CONTRIBUTIONS = {
    "hazards": "the log-odds of failing in an interval",
    "cox": "the logarithm of the hazard of failure",
    "weibull": "the logarithm of the hazard of failure",
    "deephit": "the logarithm of the odds of failing in an interval against having no event in any",
}


def write_report(run: Path) -> Path:
    """Write the page of a finished run, and its checklists beside it, from what lies in its folder.

    Args:
        run: Run folder with `metrics.json`, `predictions.csv`, `bundle/`, `gallery/` and the training logs.

    Returns:
        The page.
    """
    facts = read_run(run)
    metrics, spec = facts.metrics, facts.spec
    table = pd.read_csv(run / "predictions.csv", dtype={"key": str, "case_id": str, "reason": str})
    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("hypoxnet.report") / "templates/report.html.j2").read_text("utf-8"))
    scored = table[table["status"] == "ok"]
    page = template.render(
        name=spec.name,
        intended_use=INTENDED_USE,
        counts=metrics["counts"],
        headline=list(_headline(metrics)),
        segmentation=[*_segmentation_rows(metrics), *doubt_rows(metrics)],
        outcome=list(outcome_rows(facts.outcome)),
        divisions=list(group_tables(facts.outcome)),
        interactions=list(interaction_tables(facts.outcome)),
        not_asked=list(not_asked(facts.outcome)),
        on_training=list(training_lines(metrics["baselines"])),
        patients=list(patient_lines(scored)),
        checklists=filled_checklists(facts),
        horizon="" if facts.outcome.get("horizon_months") is None else f"{facts.outcome['horizon_months']:g}",
        drawings=list(_drawings(run, metrics, scored, spec)),
        gallery=[
            (case.title, figures.gallery_picture(case))
            for case in map(read_gallery_case, sorted((run / "gallery").glob("*.npz")))
        ],
        has_tumour=spec.settings.inside_tumour,
        failed=table[table["status"] == "failed"][["key", "reason"]].to_dict("records"),
        left_out=metrics["left_out"],
        cause=spec.causes[0] if spec.causes else "failure",
        few=FEW_FAILURES,
        few_steps=facts.few_steps,
        baselines=metrics["baselines"],
        cohort=list(_flat(spec.cohort)),
        trained=list(_flat(spec.provenance)),
        provenance=list(_flat(facts.provenance)),
        alone=not spec.settings.channels,
        adds_to=_adds_to(spec),
        settings={room: list(_used(room, facts.config[room], spec)) for room in _shown_settings(spec)},
        resamplings=metrics["bootstrap"]["resamplings"],
    )
    write_text(run / REPORT, page)
    write_checklists(run, facts)
    return run / REPORT


def _shown_settings(spec: BundleSpec) -> tuple[str, ...]:
    """Rooms whose settings had a say."""
    return SHOWN_SETTINGS if spec.settings.channels else SHOWN_ALONE


def _adds_to(spec: BundleSpec) -> str:
    """What a contribution is a part of: of a network explained at the horizon, or of the model of covariates."""
    if spec.settings.channels or spec.model.causes == 1:
        return "the log-odds of failure"
    return CONTRIBUTIONS[spec.model.outcome.kind]


def _used(room: str, settings: Mapping[str, Any], spec: BundleSpec) -> Iterator[tuple[str, str]]:
    """The settings of a room, without those that a model without images does not look at."""
    for key, value in _flat(settings):
        if spec.settings.channels or not f"{room}.{key}".startswith(UNUSED_ALONE):
            yield key, value


def _headline(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The figures on top: what, ours, baseline."""
    segmentation, outcome = metrics.get("segmentation"), metrics.get("outcome")
    if segmentation:
        yield (
            f"Dice of {segmentation['region']}",
            interval(segmentation["dice"]),
            f"best fixed threshold {interval(segmentation['threshold_dice'])}",
        )
    if outcome:
        baseline = f"volume alone {interval(outcome['volume_c_index'])}"
        if "clinical_c_index" in outcome:
            baseline = f"{baseline}; with stage and age {interval(outcome['clinical_c_index'])}"
        fewer = outcome.get("baselines", {}).get("volume", {}).get("patients")
        if fewer is not None and fewer < metrics["counts"]["outcome_known"]:
            baseline += f" (of the {fewer} patients whose volume is known)"
        yield "C-index of failure", interval(outcome["c_index"]), baseline


def _segmentation_rows(metrics: Mapping[str, Any]) -> Iterator[Row]:
    first = metrics.get("segmentation", {})
    for name, region in metrics.get("regions", {}).items():
        is_first = bool(first) and name == first["region"]
        yield Row(
            f"Dice, {name}",
            f"overlap, 1 is perfect; mean of {region['dice']['cases']} cases",
            interval(region["dice"]),
            f"best fixed threshold {interval(first['threshold_dice'])}" if is_first else "",
        )
        if is_first:
            yield Row("Dice above the threshold", "mean difference, same cases", interval(first["dice_difference"]))
            if "suvmax41_dice" in first:
                yield Row("Dice of 41 % of SUVmax", "in wide use for FDG", "", interval(first["suvmax41_dice"]))
        yield Row(
            f"Surface Dice at 2 mm, {name}",
            "share of both surfaces within 2 mm of the other",
            interval(region["surface_dice_2mm"]),
        )
        yield Row(
            f"HD95, {name}",
            f"mm; {region['hd95_mm']['cases']} cases where both surfaces exist",
            interval(region["hd95_mm"], 1),
        )
        yield Row(f"Volume error, {name}", "predicted - true, mL", interval(region["hv_error_ml"], 1))
        yield Row(f"Absolute volume error, {name}", "mL", interval(region["hv_absolute_error_ml"], 1))
        yield Row(f"Fraction error, {name}", "predicted - true share of the tumour", interval(region["hf_error"]))
        yield Row(f"Volume correlation, {name}", "Spearman", interval(region["volume_correlation"]))
        yield Row(
            f"Partial volume correlation, {name}",
            "Spearman, given the tumour's volume",
            interval(region["partial_volume_correlation"]),
        )


def _drawings(run: Path, metrics: Mapping[str, Any], scored: pd.DataFrame, spec: BundleSpec) -> Iterator[Drawing]:
    histories = {path.parent.parent.name: pd.read_csv(path) for path in sorted(run.glob("**/training/metrics.csv"))}
    if histories:
        lines = " One line per fold." if len(histories) > 1 else ""
        yield Drawing(figures.learning_curves(histories), f"Learning curves on training windows.{lines}", wide=True)
    region = next(iter(spec.settings.region_names), "")
    if region and f"{region}_predicted_ml" in scored:
        known = scored.dropna(subset=[f"{region}_true_ml"])
        yield Drawing(
            figures.volumes(
                known[f"{region}_predicted_ml"].to_numpy(float), known[f"{region}_true_ml"].to_numpy(float), region
            ),
            "Each point is a withheld case. Right: mean difference and limits of agreement (1.96 standard deviations).",
            wide=True,
        )
    yield from doubt_drawings(metrics)
    yield from outcome_drawings(metrics.get("outcome", {}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield prefix + str(key), text
