"""`report.html`: one file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined, select_autoescape

from hypoxnet.bundle.read import read_bundle
from hypoxnet.bundle.schema import INTENDED_USE, BundleSpec
from hypoxnet.files import write_text
from hypoxnet.report import figures
from hypoxnet.report.gallery import read_gallery_case

REPORT = "report.html"
# With fewer failures an interval of the C-index spans most of what is possible.
FEW_FAILURES = 10
SHOWN_SETTINGS = ("label", "data", "split", "model", "outcome", "loss", "training", "augment", "inference")


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


def write_report(run: Path) -> Path:
    """Write the page of a finished run from what lies in its folder.

    Args:
        run: Run folder with `metrics.json`, `predictions.csv`, `bundle/`, `gallery/` and the training logs.

    Returns:
        The page.
    """
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    spec, _ = read_bundle(run / "bundle")
    provenance = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    table = pd.read_csv(run / "predictions.csv", dtype={"key": str, "case_id": str, "reason": str})
    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("hypoxnet.report") / "templates/report.html.j2").read_text("utf-8"))
    scored = table[table["status"] == "ok"]
    page = template.render(
        name=spec.name,
        intended_use=INTENDED_USE,
        counts=metrics["counts"],
        headline=list(_headline(metrics)),
        segmentation=list(_segmentation_rows(metrics)),
        outcome=list(_outcome_rows(metrics)),
        drawings=list(_drawings(run, metrics, scored, spec)),
        gallery=[
            (case.title, figures.gallery_picture(case))
            for case in map(read_gallery_case, sorted((run / "gallery").glob("*.npz")))
        ],
        has_tumour=spec.settings.inside_tumour,
        failed=table[table["status"] == "failed"][["key", "reason"]].to_dict("records"),
        left_out=metrics["left_out"],
        few=FEW_FAILURES,
        baselines=metrics["baselines"],
        cohort=list(_flat(spec.cohort)),
        trained=list(_flat(spec.provenance)),
        provenance=list(_flat(provenance)),
        settings={room: list(_flat(settings[room])) for room in SHOWN_SETTINGS},
        resamplings=metrics["bootstrap"]["resamplings"],
    )
    write_text(run / REPORT, page)
    return run / REPORT


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
        yield "C-index of failure", interval(outcome["c_index"]), f"volume alone {interval(outcome['volume_c_index'])}"


def interval(figure: Mapping[str, float | None], digits: int = 2) -> str:
    """A figure with its interval, in words where there is none.

    Example:
        >>> interval({"value": 0.714, "low": 0.66, "high": 0.76})
        '0.71 (0.66 to 0.76)'
    """
    if figure["value"] is None:
        return "not defined"
    value = f"{figure['value']:.{digits}f}"
    if figure["low"] is None or figure["high"] is None:
        return f"{value} (no interval)"
    return f"{value} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


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


def _outcome_rows(metrics: Mapping[str, Any]) -> Iterator[Row]:
    outcome = metrics.get("outcome")
    if not outcome:
        return
    horizon = outcome["horizon_months"]
    when = "" if horizon is None else f" at {horizon:g} months"
    yield Row(
        "C-index (Harrell)",
        "0.5 is chance; death without failure is a competing risk",
        interval(outcome["c_index"]),
        f"log GTV volume {interval(outcome['volume_c_index'])}",
    )
    yield Row("C-index above volume", "difference, same patients", interval(outcome["c_index_difference"]))
    if "uno_c" in outcome:
        yield Row("C-index (Uno)", "weighted for censoring", interval(outcome["uno_c"]))
    yield Row(f"AUC{when}", "failed by then against not failed", interval(outcome["auc"]))
    yield Row(
        f"Brier score{when}",
        "0 is perfect",
        interval(outcome["brier"], 3),
        f"same risk for all {interval(outcome['brier_without_model'], 3)}",
    )
    yield Row(f"Observed over expected{when}", "1 is right", interval(outcome["calibration"]))


def _drawings(run: Path, metrics: Mapping[str, Any], scored: pd.DataFrame, spec: BundleSpec) -> Iterator[Drawing]:
    histories = {path.parent.parent.name: pd.read_csv(path) for path in sorted(run.glob("**/training/metrics.csv"))}
    if histories:
        lines = " One line per fold." if len(histories) > 1 else ""
        yield Drawing(figures.learning_curves(histories), f"Learning curves on training windows.{lines}", wide=True)
    region = spec.settings.region_names[0]
    if f"{region}_predicted_ml" in scored:
        known = scored.dropna(subset=[f"{region}_true_ml"])
        yield Drawing(
            figures.volumes(
                known[f"{region}_predicted_ml"].to_numpy(float), known[f"{region}_true_ml"].to_numpy(float), region
            ),
            "Each point is a withheld case. Right: mean difference and limits of agreement (1.96 standard deviations).",
            wide=True,
        )
    outcome = metrics.get("outcome")
    if not outcome:
        return
    known = scored.dropna(subset=["event", "risk"]).drop_duplicates("case_id")
    if outcome["horizon_months"] is not None and len(known) > 1:
        yield Drawing(
            figures.risk_curves(
                known["risk"].to_numpy(float), known["months"].to_numpy(float), known["event"].to_numpy(np.int64)
            ),
            "Kaplan-Meier, withheld patients halved at the median predicted risk; bands are 95 % intervals. "
            "Deaths without failure are censored here, unlike in the figures of the table.",
        )
    yield Drawing(
        figures.calibration(outcome["calibration_groups"], horizon=outcome["horizon_months"]),
        "Groups of increasing predicted risk; observed share with bootstrap interval"
        + ("." if outcome["horizon_months"] is None else " (Aalen-Johansen, which counts death as a competing risk)."),
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield prefix + str(key), text
