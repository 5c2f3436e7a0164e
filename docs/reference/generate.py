"""Write `settings.md` and `quantities.md` from the code: python3 docs/reference/generate.py"""

from pathlib import Path

from hypoxnet.describe import groups_of, settings_of
from hypoxnet.jobs.config import InferJobConfig, TrainJobConfig
from hypoxnet.quantities import COVARIATES, MASKS, QUANTITIES

HERE = Path(__file__).parent


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def settings_page() -> str:
    """Every key of both jobs."""
    groups = [(f"`{group}`", ", ".join(names)) for group, names in groups_of(HERE.parents[1] / "configs").items()]
    parts = [
        "# Settings",
        "On the command line: `KEY=VALUE`; a group: `GROUP=NAME`; lists in quotes: `'data.window=[48,48,48]'`. "
        "`null` means that the meaning says what is chosen instead. **A group may set another default than the "
        "one here**: `model=small`, chosen unless you say otherwise, sets the network; see `configs/`.",
        "## Groups",
        table(("group", "choices"), groups),
    ]
    for title, config in (("train.py", TrainJobConfig()), ("infer.py", InferJobConfig())):
        rows = [(f"`{s.key}`", f"`{s.default}`", s.meaning) for s in settings_of(config)]
        parts += [f"## {title}", table(("key", "default", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def quantities_page() -> str:
    """Every channel, mask and covariate."""
    channels = [
        (f"`{q.name}`", q.meaning, q.unit, "any" if q.is_arbitrary else f"{q.low:g} to {q.high:g}", q.source)
        for q in QUANTITIES.values()
    ]
    covariates = [(f"`{c.name}`", c.meaning, c.unit, f"{c.low:g} to {c.high:g}") for c in COVARIATES.values()]
    parts = [
        "# Quantities",
        "A voxel value means nothing without its quantity: channels are named by it, and values outside the plausible "
        "range (with 5 % of it as a margin for noise) are refused by `hypoxnet check`.",
        "## Channels",
        table(("name", "meaning", "unit", "plausible", "why"), channels),
        "## Masks",
        table(("name", "meaning"), [(f"`{name}`", meaning) for name, meaning in MASKS.items()]),
        "## Covariates",
        table(("name", "meaning", "unit", "plausible"), covariates),
        "Others: `x_NAME`, any number.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (HERE / "settings.md").write_text(settings_page(), encoding="utf-8")
    (HERE / "quantities.md").write_text(quantities_page(), encoding="utf-8")
