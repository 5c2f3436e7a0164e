"""The report's drawings of training, contours and volumes, each as an image inside the page."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from hypoxnet.report.drawing import BLUE, GREY, ORANGE, PREDICTION, STYLE, TRUTH, TUMOUR, png, svg
from hypoxnet.report.gallery import PLANES, GalleryCase


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
        return svg(figure)


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
        return svg(figure)


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
        return png(figure)


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
