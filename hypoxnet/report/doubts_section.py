"""The part of the report on doubt: are voxels' probabilities right, and who was called unlike the training patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from hypoxnet.report.drawing import BLUE, GREY, ORANGE, STYLE, svg
from hypoxnet.report.outcome_section import Drawing, Row
from hypoxnet.report.words import interval

Bins = Sequence[Mapping[str, float | None]]


def doubt_rows(metrics: Mapping[str, Any]) -> Iterator[Row]:
    """Calibration of each region, before the temperature in the column of baselines, and the share of false alarms."""
    for name, found in metrics.get("reliability", {}).items():
        fitted = any(temperature != 1.0 for temperature in found["temperatures"])
        for kind, meaning in (
            ("ece", "distance of said probability from the share in the region, by patient"),
            ("pooled_ece", "the same of the voxels of all patients together"),
        ):
            before = f"before the temperature {interval(found[f'{kind}_uncalibrated'], 3)}" if fitted else ""
            title = "Calibration error" if kind == "ece" else "Pooled calibration error"
            yield Row(f"{title}, {name}", meaning, interval(found[kind], 3), before or "no temperature was fitted")
    unlike = metrics.get("unlike_training")
    if unlike:
        yield Row(
            "Called unlike the training patients",
            f"share of the {unlike['patients']} withheld patients, all false alarms; 0.05 is wanted",
            interval(unlike["false_alarms"]),
        )


def doubt_drawings(metrics: Mapping[str, Any]) -> Iterator[Drawing]:
    """A reliability diagram per region."""
    for name, found in metrics.get("reliability", {}).items():
        fitted = any(temperature != 1.0 for temperature in found["temperatures"])
        temperatures = ", ".join(f"{temperature:.2f}" for temperature in found["temperatures"])
        yield Drawing(
            reliability_diagram(found["bins"], found["bins_uncalibrated"] if fitted else None, name),
            f"Voxels of withheld patients by their probability of {name}, patients counting alike; on the diagonal "
            f"probabilities are right. " + (f"Temperature {temperatures}." if fitted else "No temperature was fitted."),
        )


def reliability_diagram(bins: Bins, before: Bins | None, region: str) -> str:
    """Share in the region against the probability that was said; larger dots hold more voxels.

    Args:
        bins: As in `metrics.json`, `reliability.REGION.bins`.
        before: The same before the temperature; None leaves it out.
        region: Name above it.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.1), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        for some, colour, label in ((before, ORANGE, "before the temperature"), (bins, BLUE, "as it is said")):
            known = [one for one in some or () if one["said"] is not None]
            if known:
                said, true = [one["said"] or 0.0 for one in known], [one["true"] or 0.0 for one in known]
                axes.plot(said, true, color=colour, lw=1.0, label=label)
                sizes = [6 + 160 * (one["share_of_voxels"] or 0.0) for one in known]
                axes.scatter(said, true, s=sizes, color=colour, edgecolors="none")
        axes.set(
            title=f"Reliability of {region}",
            xlabel="probability that was said",
            ylabel="share of voxels in the region",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect=1,
        )
        axes.legend(frameon=False)
        return svg(figure)
