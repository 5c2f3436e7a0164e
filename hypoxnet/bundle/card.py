"""The model card of a bundle, `docs/README.md`: for the person who is handed the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypoxnet.bundle.checklists import CHECKLISTS, read_checklist
from hypoxnet.bundle.schema import INTENDED_USE, BundleSpec
from hypoxnet.quantities import covariate, quantity
from hypoxnet.transforms.covariates import level_name

MISSING = {
    "conditional": "it counts as what is to be expected from the known ones",
    "mean": "it counts as the mean of the training patients",
    "indicator": "the model is told",
}


def model_card(spec: BundleSpec) -> str:
    """The card as Markdown: use, inputs, outputs, cohort, figures, limits, provenance."""
    sections = [
        f"# {spec.name}",
        f"**{INTENDED_USE[0].upper()}{INTENDED_USE[1:]}.**",
        _what(spec),
        "## Inputs",
    ]
    if spec.settings.channels:
        sections += [
            _table(("channel", "meaning", "unit", "plausible range"), _channel_rows(spec)),
            "A channel that was not measured may be missing; the network is told. "
            f"Cases are resampled to {_times(spec.model.spacing_mm)} mm. "
            f"Tumour contour: union of {', '.join(spec.settings.tumour)}.",
        ]
    if spec.settings.covariates:
        sections += [
            _table(("covariate", "meaning", "unit", "training patients"), _covariate_rows(spec)),
            f"A covariate that is not known may be missing: {MISSING[spec.settings.missing]}.",
        ]
    sections += [
        "## Outputs\n\n" + _outputs(spec),
        "## Trained on\n\n" + _table(("what", "count"), _flat(spec.cohort)),
        "## Figures on withheld patients\n\n" + _figures(spec.metrics),
        "## Limits\n\n" + _limits(spec),
        "## Reporting\n\n" + _reporting(spec),
        "## Provenance\n\n" + _table(("what", "value"), _flat(spec.provenance)),
        "## How to apply it\n\n```bash\npython3 infer.py bundle=THIS_FOLDER manifest=cohort.csv output=DIR\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _what(spec: BundleSpec) -> str:
    if not spec.settings.channels:
        members = f"{spec.members} models, averaged" if spec.members > 1 else "One model"
        return f"{members} of covariates alone, without images. Version {spec.version}."
    members = f"{spec.members} networks, averaged" if spec.members > 1 else "One network"
    return (
        f"{members} (backbone `{spec.model.backbone.backbone}`, window {_times(spec.settings.window)} voxels). "
        f"Version {spec.version}."
    )


def _outputs(spec: BundleSpec) -> str:
    inside = ", inside the tumour contour where a case has one" if spec.settings.inside_tumour else ""
    lines = [f"- probability of `{name}` per voxel, 0 to 1{inside}" for name in spec.settings.region_names]
    if spec.calibrated:
        lines.append("- these probabilities are calibrated (temperature scaling on validation patients)")
    if any(spec.typical):
        lines.append("- whether a case is unlike the training patients, and why")
    if spec.model.causes == 1:
        lines += [f"- probability of {cause} (a yes/no end point)" for cause in spec.causes]
    else:
        months = ", ".join(f"{edge:g}" for edge in spec.model.edges_months)
        lines += [f"- cumulative incidence of {cause} at {months} months" for cause in spec.causes]
    return "\n".join(lines)


def _limits(spec: BundleSpec) -> str:
    images = "scanners, tracers' uptake times, reconstructions and " if spec.settings.channels else ""
    lines = [
        f"- Other {images}sites than those of the training cohort are untested.",
        "- Figures are of the cohort above; their intervals are in the table.",
    ]
    if spec.settings.inside_tumour:
        lines.append(
            "- Trained inside tumour contours only: without a contour its probabilities outside a tumour mean little."
        )
    if spec.causes:
        lines.append("- Risks are those of patients treated like the training cohort.")
    return "\n".join(lines)


def _reporting(spec: BundleSpec) -> str:
    filled = "`checklists.md` of the training run is filled as far as a run can know:"
    lists = [read_checklist(name) for name in CHECKLISTS]
    asked = lists if spec.settings.channels else [one.without_images() for one in lists]
    return "\n".join([filled, "", *(f"- {one.describe()}" for one in asked)])


def _figures(metrics: Mapping[str, Any]) -> str:
    rows = list(_metric_rows(metrics))
    return _table(("figure", "value", "95 % interval"), rows) if rows else "None were recorded with this bundle."


def _metric_rows(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    for key, value in metrics.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "value" in value:
            yield name, _number(value["value"]), f"{_number(value.get('low'))} to {_number(value.get('high'))}"
        elif isinstance(value, Mapping):
            yield from _metric_rows(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, _number(value), ""


def _channel_rows(spec: BundleSpec) -> Iterator[tuple[str, ...]]:
    for name in spec.settings.channels:
        known = quantity(name)
        yield f"`{name}`", known.meaning, known.unit, f"{known.low:g} to {known.high:g}"


def _covariate_rows(spec: BundleSpec) -> Iterator[tuple[str, ...]]:
    for term in spec.settings.terms:
        known = covariate(term.name)
        seen = f"{term.low:.4g} to {term.high:.4g}"
        if term.kind == "category":
            seen = ", ".join(level_name(term.name, level) for level in term.levels)
        yield f"`{term.name}`", known.meaning, known.unit, seen


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "not known" if value is None else _number(value)


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "not known" if value is None else str(value)


def _times(numbers: tuple[float, ...] | tuple[int, ...]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)
