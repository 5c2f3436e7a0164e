"""Treatment and hypoxia in the report, and the baselines on the patients they were fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypoxnet.report.outcome_section import BASELINE_WORDS, TERM_WORDS, hazard_ratio_words
from hypoxnet.report.words import interval, listed

INTERACTIONS = {"predicted_hypoxia": "By predicted hypoxia", "true_hypoxia": "By contoured hypoxia"}
CELLS = ("less hypoxic, control", "less hypoxic, treated", "more hypoxic, control", "more hypoxic, treated")


@dataclass(frozen=True, slots=True)
class InteractionTable:
    """Treated against control among the less and among the more hypoxic.

    Args:
        title: By which hypoxia.
        about: How patients were divided and the arms compared, and what could be seen.
        groups: Name, patients, failures, of each group of an arm.
        compared: Lines of the comparison: what, and its value.
    """

    title: str
    about: str
    groups: tuple[tuple[str, ...], ...]
    compared: tuple[tuple[str, str], ...]


def interaction_tables(outcome: Mapping[str, Any]) -> Iterator[InteractionTable]:
    """A table for each hypoxia that the interaction was taken of.

    Args:
        outcome: As in `metrics.json`.
    """
    room = outcome.get("interaction", {})
    for key, title in INTERACTIONS.items():
        found = room.get(key)
        if found and "interaction" not in found:
            yield InteractionTable(title, f"No interaction of {room['arm']} and hypoxia: {found['reason']}.", (), ())
        elif found:
            yield InteractionTable(title, _about(found), tuple(_groups(found)), tuple(_compared(found)))


def _groups(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, patients, events in zip(CELLS, found["patients"], found["events"], strict=True):
        yield name, str(patients), str(events)


def _compared(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Hazard ratio, treated against control, less hypoxic", hazard_ratio_words(found["hazard_ratio_low"])
    yield "The same, more hypoxic", hazard_ratio_words(found["hazard_ratio_high"])
    yield "Interaction: ratio of the two", hazard_ratio_words(found["interaction"])


def _about(found: Mapping[str, Any]) -> str:
    sentences = [f"Cut: {found['cut']}."]
    if "least_ratio" in found:
        least = found["least_ratio"]
        sentences.append(
            f"With {sum(found['events'])} failures an interaction of {least:.1f} (or {1 / least:.2f}) is the least "
            "that can be seen (power 80 %, two-sided level 0.05)."
        )
    if "effective_patients" in found:
        names = listed(["hypoxia", *(TERM_WORDS.get(name, name) for name in found["chosen_by"])])
        sentences.append(
            f"Arms were not drawn by lot: patients are weighted by the inverse probability of their arm given {names}; "
            f"the {sum(found['patients'])} count as {found['effective_patients']:.0f}, the largest standardised "
            f"difference between the arms goes from {found['imbalance_before']:.2f} to {found['imbalance_after']:.2f} "
            "(below 0.1 is balanced). What is not among these covariates is not balanced."
        )
    elif found["arms"] == "randomised":
        sentences.append("Arms were drawn by lot.")
    if found.get("left_out"):
        sentences.append(f"{found['left_out']} patients are left out: one of these covariates is not known of them.")
    return " ".join(sentences)


def not_asked(outcome: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each question that the cohort's columns raise and that cannot be answered."""
    treatment, immune = outcome.get("interaction", {}), outcome.get("immune", {})
    if "reason" in treatment:
        yield f"No interaction of {treatment['arm']} and hypoxia: {treatment['reason']}."
    if "reason" in immune:
        yield f"No groups of hypoxia and immune infiltration: {immune['reason']}."


def training_lines(baselines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Fold, baseline, patients, failures, C-index as it looks, optimism and corrected C-index, of each training.

    Args:
        baselines: As in `metrics.json`, one per training.
    """
    for number, part in enumerate(baselines):
        for name, figure in part.get("on_training", {}).items():
            yield (
                str(number) if len(baselines) > 1 else "",
                BASELINE_WORDS[name],
                str(figure["patients"]),
                str(figure["failures"]),
                f"{figure['apparent']:.2f}",
                f"{figure['optimism']:.3f}",
                interval(figure["c_index"]),
            )
