"""The datasheet of a cohort: every parameter with its value, unit, meaning and source."""

from __future__ import annotations

from collections.abc import Sequence

from hypoxnet.phantom.parameters.base import described
from hypoxnet.phantom.parameters.cohort import Preset
from hypoxnet.phantom.parameters.oxygen import HYPOXIC_MMHG

COMPOSITION = (
    "Composition: {cases} simulated patients of {hospitals} hospitals. No patient of flesh and blood is in it.",
    "Purpose: to train and to test software that reads hypoxia from images, with the truth known at every step.",
    f"Label: HYPOXIA is living tumour whose mean pO2 is below {HYPOXIC_MMHG:g} mmHg. It is no threshold of an image.",
    "Truth: `CASE/truth.json` and `CASE/truth/` hold what the images were made of; they are not in the manifest, and "
    "must not be an input.",
    "Not for: estimating a clinical effect. Its hazard ratios follow from its parameters.",
)


def datasheet_rows(chosen: Preset) -> list[dict[str, object]]:
    """One row per parameter."""
    return [
        {
            "name": one.name,
            "value": list(one.value) if isinstance(one.value, tuple) else one.value,
            "unit": one.unit,
            "meaning": one.meaning,
            "source": one.source,
        }
        for one in described(chosen)
    ]


def datasheet_page(chosen: Preset, rows: Sequence[dict[str, object]]) -> str:
    """The datasheet as a page to read."""
    lines = [f"# Datasheet: {chosen.name}", ""]
    lines += [f"- {line}".format(cases=chosen.cases, hospitals=len(chosen.hospitals)) for line in COMPOSITION]
    lines += ["", "| parameter | value | unit | meaning | source |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [str(row[key]).replace("|", "/") for key in ("name", "value", "unit", "meaning", "source")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
