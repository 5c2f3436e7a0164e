"""The report's drawings of the outcome: incidence by group, calibration, net benefit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hypoxnet.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, STYLE, svg

GROUP_COLOURS = {2: (BLUE, ORANGE), 3: (BLUE, GREEN, ORANGE), 4: (BLUE, GREEN, PURPLE, ORANGE)}
SHOWN_MONTHS = 60.0


def incidence_by_group(division: Mapping[str, Any], title: str) -> str:
    """Aalen-Johansen incidence of failure in each group, with bands, and the patients at risk below.

    Args:
        division: As in `metrics.json`, `outcome.risk_groups`.
        title: Above it.
    """
    groups = division["groups"]
    colours = GROUP_COLOURS.get(len(groups), (BLUE,))
    last = min(SHOWN_MONTHS, max(group["at_risk"]["months"][-1] for group in groups))
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.1), layout="constrained")
        axes, table = figure.subplots(2, 1, height_ratios=[5, 0.4 + 0.35 * len(groups)], sharex=True)
        for group, colour in zip(groups, colours, strict=True):
            _steps(axes, group, colour)
        top = max(group["curve"]["high"][-1] for group in groups)
        axes.set(ylim=(0, min(1.02, max(0.2, 1.1 * top))), xlim=(0, last), ylabel="incidence of failure", title=title)
        axes.legend(frameon=False, loc="upper left")
        axes.tick_params(labelbottom=True)
        for row, (group, colour) in enumerate(zip(groups, colours, strict=True)):
            for month, patients in zip(*group["at_risk"].values(), strict=True):
                table.text(month, -row, str(patients), color=colour, ha="center", va="center")
        ticks = max((group["at_risk"]["months"] for group in groups), key=len)
        table.set(ylim=(0.6 - len(groups), 0.6), xticks=ticks, xlabel="months (below: patients at risk)", yticks=[])
        table.spines[["left", "bottom"]].set_visible(False)
        table.tick_params(length=0, labelbottom=False)
        return svg(figure)


def _steps(axes: Axes, group: Mapping[str, Any], colour: str) -> None:
    """One curve, up to the last month at which somebody of the group was followed."""
    curve = group["curve"]
    end = group["last_month"]
    months = [*curve["months"], max(end, curve["months"][-1])]
    value, low, high = ([*curve[name], curve[name][-1]] for name in ("value", "low", "high"))
    label = f"{group['name']} ({group['failures']} of {group['patients']} failed)"
    axes.step(months, value, where="post", color=colour, label=label)
    axes.fill_between(months, low, high, step="post", color=colour, alpha=0.15, lw=0)


def calibration(groups: Sequence[Mapping[str, Any]], *, horizon: float | None) -> str:
    """Observed against predicted incidence in groups of increasing risk."""
    predicted = [group["predicted"] for group in groups]
    observed = [group["observed"] for group in groups]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.1), layout="constrained")
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
        return svg(figure)


def net_benefit(drawn: Mapping[str, Sequence[float]], against: str) -> str:
    """Decision curve: the model, a baseline, treating everybody and nobody.

    Args:
        drawn: As in `metrics.json`, `outcome.decision.drawn`.
        against: Name of the baseline in it; empty for none.
    """
    at = drawn["thresholds"]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.1), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0.0, color=GREY, lw=0.8, label="nobody")
        axes.plot(at, drawn["treat_all"], color=GREY, lw=1.0, ls=":", label="everybody")
        if against:
            axes.plot(at, drawn[against], color=ORANGE, lw=1.2, label=f"{against} model")
        axes.plot(at, drawn["model"], color=BLUE, lw=1.5, label="this model")
        top = max(max(drawn["model"]), max(drawn["treat_all"]), 0.02)
        axes.set(
            title="Decision curve",
            xlabel="risk at and above which one would act",
            ylabel="net benefit, true positives per patient",
            xlim=(0, at[-1]),
            ylim=(-0.3 * top, 1.1 * top),
        )
        axes.legend(frameon=False)
        return svg(figure)
