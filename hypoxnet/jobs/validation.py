"""The validation design in a run: is it sound, what does the log say of it, what stands of it in `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypoxnet.cases import CaseRecord
from hypoxnet.data.config import SplitConfig
from hypoxnet.data.leak import refuse_leaks
from hypoxnet.data.leakage import find_leaks
from hypoxnet.data.splits import Split
from hypoxnet.metrics.repeats import figures_of_repeats, mean_of_repeats
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.transforms.settings import PrepareSettings


def checked_for_leaks(
    parts: Mapping[int | None, Split], settings: PrepareSettings, config: SplitConfig
) -> dict[int | None, Split]:
    """The parts, each with what was found but does not stop the run among its notes.

    Args:
        parts: Of the design.
        settings: What the network reads.
        config: Which leaks are allowed.

    Raises:
        ConfigError: A leak stops the run and its kind is not in `allow_leakage`.
    """
    found = find_leaks(
        parts.values(),
        channels=settings.channels,
        covariates=settings.covariates,
        sites_withheld=config.kind == "leave_site_out",
    )
    warnings = refuse_leaks(found, config.allow_leakage, settings.covariates)
    return {fold: replace(part, notes=(*part.notes, *warnings)) for fold, part in parts.items()}


def notes_of(parts: Iterable[Split]) -> list[str]:
    """What whoever reads the figures must know, each sentence once."""
    return list(dict.fromkeys(note for part in parts for note in part.notes))


def withheld_once(parts: Iterable[Split]) -> list[CaseRecord]:
    """The withheld cases; in repeated cross-validation each is withheld several times."""
    return list({record.key: record for part in parts for record in part.test}.values())


def pooled(scores: Sequence[CaseScore], config: SplitConfig) -> list[CaseScore]:
    """One score per case: the mean of its repeats where there are any."""
    return list(mean_of_repeats(scores)) if config.kind == "repeated" else list(scores)


def describe_design(
    parts: Mapping[int | None, Split], scores: Sequence[CaseScore], config: SplitConfig
) -> dict[str, Any]:
    """For `metrics.json`: the design, its parts, its notes, and the figure of each repeat.

    Args:
        parts: Of the design.
        scores: Of every part.
        config: Which design.
    """
    content: dict[str, Any] = {
        "kind": config.kind,
        "parts": [
            {
                "fold": fold,
                "name": part.name,
                "train": len({record.case_id for record in (*part.train, *part.validation)}),
                "withheld": len({record.case_id for record in part.test}),
            }
            for fold, part in parts.items()
        ],
        "notes": notes_of(parts.values()),
        "allowed_leakage": list(config.allow_leakage),
    }
    if config.kind == "repeated":
        content["repeats"] = figures_of_repeats(scores, config.folds)
    return content


def figures_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of `metrics.json` that a bundle keeps: one `{value, low, high}` each, by room, and the counts."""
    rooms = ("segmentation", "outcome", "unlike_training")
    figures = {room: _with_value(metrics[room]) for room in rooms if room in metrics}
    by_region = {name: _with_value(found) for name, found in metrics.get("reliability", {}).items()}
    return figures | ({"reliability": by_region} if by_region else {}) | {"counts": metrics["counts"]}


def _with_value(room: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figure for name, figure in room.items() if isinstance(figure, dict) and "value" in figure}
