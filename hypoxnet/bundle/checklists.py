"""Reporting checklists: which items there are, which of them a training run answers, and which only people can.

The items lie in `tables/`; the answers of a run are written by `hypoxnet.report.answers`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import yaml

CHECKLISTS = ("tripod_ai", "claim")


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a checklist.

    Args:
        number: As in the paper.
        section: Part of a manuscript.
        topic: What it asks for, in few words of ours.
        answers: Names of what a run can say.
        authors: What only people can say; empty when the run says it all.
        authors_alone: The same for a model that reads no image; None where it is the same.
    """

    number: str
    section: str
    topic: str
    answers: tuple[str, ...]
    authors: str
    authors_alone: str | None = None


@dataclass(frozen=True, slots=True)
class Checklist:
    """A reporting guideline.

    Args:
        name: Short name.
        about: What it is for.
        source: Paper.
        items: In order.
    """

    name: str
    about: str
    source: str
    items: tuple[Item, ...]

    @property
    def for_people(self) -> tuple[str, ...]:
        """Numbers of the items that only people can answer."""
        return tuple(item.number for item in self.items if not item.answers)

    @property
    def shared(self) -> tuple[str, ...]:
        """Numbers of the items that a run answers in part."""
        return tuple(item.number for item in self.items if item.answers and item.authors)

    @property
    def filled(self) -> tuple[str, ...]:
        """Numbers of the items that a run answers in full."""
        return tuple(item.number for item in self.items if item.answers and not item.authors)

    def without_images(self) -> Checklist:
        """The checklist as it is for a model that reads no image: people are asked for nothing about images."""
        items = (
            item if item.authors_alone is None else replace(item, authors=item.authors_alone) for item in self.items
        )
        return replace(self, items=tuple(items))

    def describe(self) -> str:
        """In one sentence, for a card."""
        return (
            f"{self.name} ({self.source}): of {len(self.items)} items a run answers {len(self.filled)} in full and "
            f"{len(self.shared)} in part; people must answer {', '.join(self.for_people)}, and the rest of "
            f"{', '.join(self.shared)}."
        )


@cache
def read_checklist(name: str) -> Checklist:
    """A checklist by its name, one of `CHECKLISTS`.

    Example:
        >>> len(read_checklist("tripod_ai").items), len(read_checklist("claim").items)
        (52, 44)
    """
    text = (files("hypoxnet.bundle") / f"tables/{name}.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    items = (Item(**{**item, "answers": tuple(item["answers"])}) for item in content["items"])
    return Checklist(content["name"], content["about"], content["source"], tuple(items))
