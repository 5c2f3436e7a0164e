"""Colours and style of the report's drawings, and how a drawing becomes an image inside the page."""

from __future__ import annotations

import base64
import io
from typing import Any

from matplotlib.figure import Figure

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


def svg(figure: Figure) -> str:
    """As a data address, lines as vectors."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def png(figure: Figure) -> str:
    """As a data address, pixels."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor=figure.get_facecolor())
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
