"""Two images in one space, laid over each other in a chequerboard, to see whether they fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hypoxnet.files import replacing
from hypoxnet.geometry import Grid

TILES = 8


def draw_overlay(
    fixed: NDArray[np.floating], moved: NDArray[np.floating], path: Path, *, grid: Grid, title: str
) -> None:
    """Write a PNG with three slices of a chequerboard of two images.

    Args:
        fixed: i j k.
        moved: i j k on the same grid.
        path: Where; whole or absent.
        grid: Of both.
        title: Names of both, and the warnings.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    one, other = _unit(fixed), _unit(moved)
    spacing = grid.spacing_mm
    for number, axis in enumerate((2, 1, 0)):
        axes = figure.add_subplot(1, 3, number + 1)
        place = fixed.shape[axis] // 2
        a, b = (np.take(image, place, axis=axis).T for image in (one, other))
        rows, columns = np.indices(a.shape)
        board = ((rows * TILES // a.shape[0]) + (columns * TILES // a.shape[1])) % 2 == 0
        across, up = (s for i, s in enumerate(spacing) if i != axis)
        axes.imshow(np.where(board, a, b), origin="lower", cmap="gray", aspect=up / across)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _unit(image: NDArray[np.floating]) -> NDArray[np.floating]:
    low, high = np.percentile(image, (1, 99.5))
    return np.asarray(np.clip((image - low) / max(float(high - low), 1e-9), 0, 1))
