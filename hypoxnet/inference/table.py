"""`predictions.csv`: one line per case of a cohort, for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import END_POINTS, CaseRecord
from hypoxnet.errors import HypoxNetError
from hypoxnet.files import write_text
from hypoxnet.maps.reference_region import lacking_for_ratio, ratio_made_of

# Short names of the first and the second cause of any end point.
SHORT = {cause: short for causes in END_POINTS.values() for cause, short in zip(causes, ("risk", "death"), strict=True)}

# Of the members of an ensemble.
EXTREMES = ("lowest", "highest")
REGION_COLUMNS = ("volume_ml", "fraction", "expected_ml")


def columns(spec: BundleSpec) -> list[str]:
    """Columns of the table.

    `risk` and `death` are cumulative incidences at the model's horizon, `risk_low` and `risk_high` their 95 % limits
    where the model knows them, `risk_12m` at 12 months; a yes/no end point has the one column `risk`. `expected_ml` is
    the sum of the probabilities. A model of covariates alone has no volumes. Of an ensemble of networks `_lowest` and
    `_highest` are those of its members.
    """
    names = ["case_id", "visit", "site", "status", "reason", "notes"]
    names += ["tumour_ml"] if spec.settings.channels else []
    names += ["unlike_training", "unlike_reason"] if any(spec.typical) else []
    extremes = EXTREMES if spec.members > 1 and spec.settings.channels else ()
    of_regions = (*REGION_COLUMNS, *(f"volume_ml_{side}" for side in extremes))
    names += [f"{region}_{what}" for region in spec.settings.region_names for what in of_regions]
    months = [edge for edge in spec.model.edges_months if not math.isinf(edge)]
    for cause in spec.causes:
        limits = [f"{SHORT[cause]}_{side}" for side in ("low", "high")] if not spec.settings.channels else []
        limits += [f"{SHORT[cause]}_{side}" for side in extremes]
        names += [SHORT[cause], *limits, *(f"{SHORT[cause]}_{edge:g}m" for edge in months)]
    return names


def finished_row(record: CaseRecord, read_outs: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a case that was predicted, from what its JSON says."""
    row: dict[str, Any] = {**_identity(record), "status": "ok", "reason": ""}
    if "tumour_ml" in read_outs:
        row["tumour_ml"] = read_outs["tumour_ml"]
    for region, values in read_outs.get("regions", {}).items():
        row |= {f"{region}_{what}": values[what] for what in REGION_COLUMNS}
    row |= _doubts(read_outs)
    absent = [_absent(name, record) for name in read_outs.get("channels", {"absent": []})["absent"]]
    row["notes"] = "; ".join([*absent, *read_outs["notes"]])
    risk = read_outs["risk"]
    if risk is not None:
        for cause, by_month in risk["incidence"].items():
            row[SHORT[cause]] = risk["at_horizon"][cause]
            if "interval" in risk:
                low, high = risk["interval"]["at_horizon"][cause]
                row |= {f"{SHORT[cause]}_low": low, f"{SHORT[cause]}_high": high}
            row |= {f"{SHORT[cause]}_{m:g}m": p for m, p in zip(risk["months"], by_month, strict=True) if m is not None}
    return row


def _doubts(read_outs: Mapping[str, Any]) -> dict[str, Any]:
    """Extremes of the members, and whether the case is unlike those of training."""
    spread, unlike = read_outs.get("spread") or {}, read_outs.get("unlike_training")
    cells: dict[str, Any] = {}
    for region, found in spread.get("volume_ml", {}).items():
        cells |= {f"{region}_volume_ml_{side}": found[f"{side}_of_members"] for side in EXTREMES}
    for cause, found in spread.get("at_horizon", {}).items():
        cells |= {f"{SHORT[cause]}_{side}": found[f"{side}_of_members"] for side in EXTREMES}
    if unlike is not None:
        cells |= {"unlike_training": "yes" if unlike["unlike"] else "no", "unlike_reason": "; ".join(unlike["reasons"])}
    return cells


def _absent(name: str, record: CaseRecord) -> str:
    """That a channel is absent; of a ratio what it is made of and what of that the case lacks."""
    parts = ratio_made_of(name)
    if parts is None:
        return f"{name} absent"
    suv, mask = parts
    lacking = lacking_for_ratio(name, record.channels, record.masks)
    why = f"the case has no {' and no '.join(lacking)}" if lacking else "run.log says why that failed"
    return f"{name} absent (it is made of {suv} where the mask {mask} is given, and {why})"


def failed_row(record: CaseRecord, error: Exception) -> dict[str, Any]:
    """The line of a case that failed: its reason in one line, named by the case."""
    reason = " ".join(str(error).split())
    if not isinstance(error, HypoxNetError) or record.key not in reason:
        reason = f"{record.key}: {reason}"
    return {**_identity(record), "status": "failed", "reason": reason}


def write_table(rows: Iterable[Mapping[str, Any]], spec: BundleSpec, path: Path) -> None:
    """Write the table atomically; an empty cell is "not known"."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns(spec), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def _identity(record: CaseRecord) -> dict[str, str]:
    return {"case_id": record.case_id, "visit": record.visit, "site": record.site}
