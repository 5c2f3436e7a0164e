"""One page per map for a quick look: three slices through the middle of what has a value, and a histogram."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hypoxnet.files import replacing
from hypoxnet.maps.quantitative import QuantitativeMap

# Maps that fall on both sides of 0 get colours that do.
DIVERGING = {"DR1", "DT1", "DR2STAR"}


def draw_map(made: QuantitativeMap, path: Path) -> None:
    """Write a PNG of a map.

    Args:
        made: The map.
        path: Where; whole or absent.
    """
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, height_ratios=(3, 2))
    values = made.array[np.isfinite(made.array)]
    shown = _cropped(made.array)
    low, high = _window(values, made.quantity.name)
    spacing = made.grid.spacing_mm
    image = None
    for column, (axis, title) in enumerate(((2, "third axis"), (1, "second axis"), (0, "first axis"))):
        axes = figure.add_subplot(grid[0, column])
        place = _middle(shown, axis)
        plane = np.take(shown, place, axis=axis).T
        across, up = (s for i, s in enumerate(spacing) if i != axis)
        colours = "RdBu_r" if made.quantity.name in DIVERGING else "viridis"
        image = axes.imshow(
            np.ma.masked_invalid(plane), origin="lower", vmin=low, vmax=high, cmap=colours, aspect=up / across
        )
        axes.set_title(f"{title}, slice {place + 1} of {shown.shape[axis]} with values", fontsize=9)
        axes.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label=f"{made.quantity.name} [{made.quantity.unit}]", shrink=0.8)
    histogram = figure.add_subplot(grid[1, :2])
    if values.size:
        histogram.hist(np.clip(values, low, high), bins=80, color="#33638d")
    histogram.set_xlabel(f"{made.quantity.meaning} [{made.quantity.unit}]")
    histogram.set_ylabel("voxels")
    words = figure.add_subplot(grid[1, 2])
    words.set_axis_off()
    words.text(0, 1, _words(made, values), va="top", fontsize=8.5, family="monospace", wrap=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _window(values: NDArray[np.floating], name: str) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    # The ends of most maps are voxels of noise that stand on a bound of the fit.
    low, high = (float(x) for x in np.percentile(values, (2, 96)))
    if name in DIVERGING:
        reach = max(abs(low), abs(high)) or 1.0
        return -reach, reach
    return (low, high) if high > low else (low, low + 1.0)


def _cropped(array: NDArray[np.floating]) -> NDArray[np.floating]:
    """The box that holds every value."""
    known = np.isfinite(array)
    if not known.any():
        return array
    box = []
    for axis in range(3):
        where = np.flatnonzero(known.any(axis=tuple(i for i in range(3) if i != axis)))
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return array[tuple(box)]


def _middle(array: NDArray[np.floating], axis: int) -> int:
    """The slice that holds most voxels with a value."""
    others = tuple(i for i in range(3) if i != axis)
    counts = np.isfinite(array).sum(axis=others)
    best = np.flatnonzero(counts == counts.max())
    return int(best[len(best) // 2])


def _words(made: QuantitativeMap, values: NDArray[np.floating]) -> str:
    lines = [f"{made.known} of {made.array.size} voxels have a value"]
    if values.size:
        five, middle, ninety_five = np.percentile(values, (5, 50, 95))
        lines += [f"median {middle:.4g}, 5-95 % {five:.4g} to {ninety_five:.4g}"]
    lines += [
        f"plausible {made.quantity.low:g} to {made.quantity.high:g} {made.quantity.unit}",
        f"outside it {100 * made.outside_share:.2f} %",
        f"{made.grid.describe()}",
        f"made by {made.made_by.get('Kind', 'unknown')}",
        *made.notes,
    ]
    width = 58
    return "\n".join(line if len(line) <= width else _wrapped(line, width) for line in lines)


def _wrapped(line: str, width: int) -> str:
    return "\n  ".join(textwrap.wrap(line, width))
