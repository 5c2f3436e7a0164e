"""Write `settings.md`, `quantities.md` and `maps.md` from the code: python3 docs/reference/generate.py"""

from pathlib import Path

from hypoxnet.describe import groups_of, settings_of
from hypoxnet.jobs.config import InferJobConfig, TrainJobConfig
from hypoxnet.maps.registry import KINDS
from hypoxnet.quantities import COVARIATES, MASKS, QUANTITIES, RAW_SERIES, READ_OUTS, Covariate

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


def enters(covariate: Covariate) -> str:
    """How a model reads a covariate."""
    if covariate.kind == "log":
        return f"log({covariate.offset:g} + value)" if covariate.offset else "log(value)"
    return {"category": "a column per level", "ordinal": "equal steps"}.get(covariate.kind, "as it is")


def quantities_page() -> str:
    """Every channel, mask and covariate."""
    channels = [
        (f"`{q.name}`", q.meaning, q.unit, "any" if q.is_arbitrary else f"{q.low:g} to {q.high:g}", q.source)
        for q in QUANTITIES.values()
    ]
    covariates = [
        (f"`{c.name}`", c.meaning, c.unit, f"{c.low:g} to {c.high:g}", enters(c)) for c in COVARIATES.values()
    ]
    read_outs = [(f"`{c.name}`", c.meaning, c.unit, enters(c)) for c in READ_OUTS.values()]
    parts = [
        "# Quantities",
        "A voxel value means nothing without its quantity: channels are named by it, and values outside the plausible "
        "range (with 5 % of it as a margin for noise) are refused by `hypoxnet check`.",
        "## Channels",
        table(("name", "meaning", "unit", "plausible", "why"), channels),
        "## Masks",
        table(("name", "meaning"), [(f"`{name}`", meaning) for name, meaning in MASKS.items()]),
        "## Raw series",
        "Maps are made of them before training and inference, see [how to](../how-to/maps.md).",
        table(("name", "meaning"), [(f"`{name}`", meaning) for name, meaning in RAW_SERIES.items()]),
        "## Covariates",
        table(("name", "meaning", "unit", "plausible", "enters"), covariates),
        "Others: `x_NAME`, any number.",
        "## Read-outs",
        "Numbers of an image inside the tumour contour, measured when `data.covariates` names them.",
        table(("name", "meaning", "unit", "enters"), read_outs),
    ]
    return "\n\n".join(parts) + "\n"


def maps_page() -> str:
    """Every kind of map."""
    parts = [
        "# Maps",
        "`hypoxnet map KIND FILES ... --output FOLDER`. The settings below are options of the kind "
        "(`echo_times_s` is `--echo-times-s`), and keys of `data.maps` for raw series of a manifest "
        "(`data.maps.r2star.method=arlo`). Times are in seconds unless a name says otherwise; an empty list or 0 takes "
        "the value from the sidecar.",
    ]
    for kind in KINDS.values():
        settings = kind.settings()
        rows = [(f"`{s.key}`", f"`{s.default}`", s.meaning) for s in settings_of(settings)]
        gives = ", ".join(f"`{name}`" for name in kind.quantities(settings))
        summary = f"{kind.summary[0].upper()}{kind.summary[1:]}"
        parts += [f"## {kind.name}", f"{summary}. With its defaults it gives {gives}."]
        if kind.raw_column:
            parts.append(f"In a manifest: `{kind.raw_column}`.")
        parts += [f"```bash\nhypoxnet {kind.example}\n```", table(("setting", "default", "meaning"), rows)]
        if kind.extras:
            taken = {s.key for s in settings_of(settings)}
            extras = [
                (
                    f"`--{e.name}-{e.what}`" if e.name in taken else f"`--{e.name}`",
                    f"`{e.column}`" if e.column else "",
                    e.meaning,
                )
                for e in kind.extras
            ]
            parts.append(table(("image", "column of a manifest", "meaning"), extras))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (HERE / "maps.md").write_text(maps_page(), encoding="utf-8")
    (HERE / "settings.md").write_text(settings_page(), encoding="utf-8")
    (HERE / "quantities.md").write_text(quantities_page(), encoding="utf-8")
