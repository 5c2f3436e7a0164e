"""The report's drawings, each as an image inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from hypoxnet.cases import FAILURE
from hypoxnet.metrics.survival import risk_groups
from hypoxnet.report.gallery import PLANES, GalleryCase
from hypoxnet.survival.estimators import kaplan_meier, numbers_at_risk

# Colours that stay apart for colour-blind readers (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
TRUTH, PREDICTION, TUMOUR = "#009E73", "#D55E00", "#56B4E9"
STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.fonttype": "path",
    # Without it the names of clip paths are drawn at random, and the same run gives another file.
    "svg.hashsalt": "hypoxnet",
}
MONTH_STEP = 12.0
SHOWN_MONTHS = 60.0


def learning_curves(histories: Mapping[str, pd.DataFrame]) -> str:
    """Loss terms by epoch, one panel per term; one line per training.

    Args:
        histories: Name of the training to its `metrics.csv`.
    """
    terms = [("total", "total loss"), ("dice", "Dice loss"), ("cross_entropy", "cross-entropy"), ("outcome", "outcome")]
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 2.5), layout="constrained")
        for place, (term, title) in enumerate(terms):
            axes = figure.add_subplot(1, len(terms), place + 1)
            for number, (name, history) in enumerate(histories.items()):
                shade = 1.0 - 0.6 * number / max(1, len(histories))
                axes.plot(history["epoch"], history[f"train/{term}"], color=BLUE, alpha=shade, lw=1.2, label=name)
                if f"validation/{term}" in history:
                    known = history.dropna(subset=[f"validation/{term}"])
                    axes.plot(known["epoch"], known[f"validation/{term}"], color=ORANGE, alpha=shade, lw=1.2)
            axes.set(title=title, xlabel="epoch")
        handles = [Line2D([], [], color=BLUE, label="training")]
        if any("validation/total" in history for history in histories.values()):
            handles.append(Line2D([], [], color=ORANGE, label="validation"))
        figure.axes[0].legend(handles=handles, frameon=False)
        return _svg(figure)


def volumes(predicted: NDArray[np.float64], true: NDArray[np.float64], region: str) -> str:
    """Predicted against true volume, and their difference against their mean (Bland and Altman 1986)."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        top = 1.05 * max(float(predicted.max(initial=0)), float(true.max(initial=0)), 1.0)
        left.plot([0, top], [0, top], color=GREY, lw=0.8)
        left.scatter(true, predicted, s=14, color=BLUE, alpha=0.7, edgecolors="none")
        left.set(
            title=f"Volume of {region}",
            xlabel="true, mL",
            ylabel="predicted, mL",
            xlim=(0, top),
            ylim=(0, top),
            aspect=1,
        )
        difference, mean = predicted - true, (predicted + true) / 2
        right.scatter(mean, difference, s=14, color=BLUE, alpha=0.7, edgecolors="none")
        spread = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
        for level, style in (
            (difference.mean(), "-"),
            (difference.mean() - spread, ":"),
            (difference.mean() + spread, ":"),
        ):
            right.axhline(level, color=ORANGE, lw=1.0, ls=style)
        right.set(title="Bland-Altman", xlabel="mean of both, mL", ylabel="predicted - true, mL")
        return _svg(figure)


def risk_curves(risk: NDArray[np.float64], months: NDArray[np.float64], event: NDArray[np.int64]) -> str:
    """Kaplan-Meier of freedom from locoregional failure in the two halves of predicted risk, with numbers at risk."""
    groups = risk_groups(risk, 2)
    names = [f"lower risk (n = {len(groups[0])})", f"higher risk (n = {len(groups[-1])})"]
    last = min(SHOWN_MONTHS, float(np.ceil(months.max() / MONTH_STEP) * MONTH_STEP))
    times = np.arange(0.0, last + 1.0, MONTH_STEP)
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.1), layout="constrained")
        axes, table = figure.subplots(2, 1, height_ratios=[5, 1], sharex=True)
        for group, name, colour in zip(groups, names, (BLUE, ORANGE), strict=True):
            curve = kaplan_meier(months[group], event[group], cause=FAILURE)
            axes.step(curve.months, curve.value, where="post", color=colour, label=name)
            axes.fill_between(curve.months, curve.low, curve.high, step="post", color=colour, alpha=0.15, lw=0)
        axes.set(ylim=(0, 1.02), xlim=(0, last), ylabel="free of locoregional failure", title="By predicted risk")
        axes.legend(frameon=False, loc="lower left")
        axes.tick_params(labelbottom=True)
        for row, (group, colour) in enumerate(zip(groups, (BLUE, ORANGE), strict=True)):
            for time, count in zip(times, numbers_at_risk(months[group], times.tolist()), strict=True):
                table.text(time, 1 - row, str(count), color=colour, ha="center", va="center")
        table.set(ylim=(-0.6, 1.6), xticks=times, xlabel="months (below: patients at risk)", yticks=[])
        table.spines[["left", "bottom"]].set_visible(False)
        table.tick_params(length=0, labelbottom=False)
        return _svg(figure)


def calibration(groups: Sequence[Mapping[str, Any]], *, horizon: float | None) -> str:
    """Observed against predicted incidence in groups of increasing risk."""
    predicted = [group["predicted"] for group in groups]
    observed = [group["observed"] for group in groups]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.3, 4.1), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        for x, figures in zip(predicted, observed, strict=True):
            if figures["low"] is not None:
                axes.plot([x, x], [figures["low"], figures["high"]], color=BLUE, lw=1.2)
        axes.plot(predicted, [figures["value"] for figures in observed], "o-", color=BLUE, ms=5, lw=0.8)
        when = "" if horizon is None else f" by {horizon:g} months"
        axes.set(
            title="Calibration",
            xlabel=f"predicted share failing{when}",
            ylabel=f"observed share failing{when}",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect=1,
        )
        return _svg(figure)


def gallery_picture(case: GalleryCase) -> str:
    """Channels in rows, planes in columns; contours of truth, prediction and tumour on each."""
    rows = len(case.channels)
    widths = [case.pixels[plane].shape[2] for plane in PLANES]
    tallest = max(case.pixels[plane].shape[1] * case.aspect[plane] for plane in PLANES)
    across = 6.0
    with rc_context(STYLE):
        figure = Figure(figsize=(across, 0.25 + rows * across * tallest / sum(widths)), facecolor="black")
        panels = figure.subplots(rows, 3, width_ratios=widths, squeeze=False)
        figure.subplots_adjust(left=0.045, right=0.995, top=0.97, bottom=0.005, wspace=0.02, hspace=0.02)
        for row, channel in enumerate(case.channels):
            for panel, plane in zip(panels[row], PLANES, strict=True):
                _panel(panel, case, plane, row)
            panels[row][0].text(
                -0.03,
                0.5,
                channel,
                color="white",
                rotation=90,
                ha="right",
                va="center",
                transform=panels[row][0].transAxes,
            )
        return _png(figure)


def _panel(axes: Axes, case: GalleryCase, plane: str, channel: int) -> None:
    pixels = case.pixels[plane][channel]
    inside = pixels[pixels > 0]
    low, high = np.percentile(inside, [1, 99.5]) if inside.size else (0.0, 1.0)
    is_pet = case.channels[channel].endswith(("_SUV", "_TBR", "_TMR"))
    axes.imshow(
        pixels,
        cmap="gray_r" if is_pet else "gray",
        vmin=0.0 if is_pet else float(low),
        vmax=float(high),
        aspect=case.aspect[plane],
        interpolation="nearest",
    )
    for name, colour, width in (("tumour", TUMOUR, 0.7), ("truth", TRUTH, 1.2), ("prediction", PREDICTION, 1.2)):
        mask = case.contours[plane].get(name)
        if mask is not None and mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=[width])
    axes.set_axis_off()


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor=figure.get_facecolor())
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
