"""TRIPOD+AI and CLAIM, filled as far as a run can know: for the report and as `checklists.md` of the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hypoxnet.bundle.checklists import CHECKLISTS, Checklist, Item, read_checklist
from hypoxnet.files import write_text
from hypoxnet.report import answers_methods, answers_results
from hypoxnet.report.run_facts import RunFacts

CHECKLISTS_FILE = "checklists.md"
BY_PEOPLE = "The authors must say"


@dataclass(frozen=True, slots=True)
class FilledItem:
    """An item with what the run says.

    Args:
        item: The item.
        answer: What the run says; empty where it can say nothing.
    """

    item: Item
    answer: str

    @property
    def is_done(self) -> bool:
        """Nothing is left to people."""
        return bool(self.answer) and not self.item.authors

    @property
    def left(self) -> str:
        """What people must add; empty when the run says it all."""
        if self.is_done:
            return ""
        return self.item.authors or "whatever the run could not tell"


@dataclass(frozen=True, slots=True)
class FilledChecklist:
    """A checklist with the answers of a run."""

    checklist: Checklist
    items: tuple[FilledItem, ...]

    def summary(self) -> str:
        """How many items are answered, and by whom.

        Returns:
            One sentence.
        """
        done = sum(filled.is_done for filled in self.items)
        part = sum(bool(filled.answer) and not filled.is_done for filled in self.items)
        left = len(self.items) - done - part
        return f"{len(self.items)} items: {done} answered by the run, {part} in part, {left} left to the authors"


def answer(name: str, run: RunFacts) -> str:
    """What a run says under a name of `Item.answers`."""
    return str(getattr(_room_of(name), name)(run))


def _room_of(name: str) -> ModuleType:
    return answers_methods if hasattr(answers_methods, name) else answers_results


def fill(checklist: Checklist, run: RunFacts) -> FilledChecklist:
    """Answer every item that a run can answer.

    Args:
        checklist: From `read_checklist`.
        run: The finished run.
    """
    asked = checklist.without_images() if run.alone else checklist
    filled = (
        FilledItem(item, " ".join(text for name in item.answers if (text := answer(name, run)))) for item in asked.items
    )
    return FilledChecklist(asked, tuple(filled))


def filled_checklists(run: RunFacts) -> tuple[FilledChecklist, ...]:
    """All checklists of a run."""
    return tuple(fill(read_checklist(name), run) for name in CHECKLISTS)


def write_checklists(folder: Path, run: RunFacts) -> Path:
    """Write `checklists.md` into the run folder.

    Args:
        folder: Run folder.
        run: Its facts.
    """
    text = "\n\n".join(_markdown(filled) for filled in filled_checklists(run))
    path = folder / CHECKLISTS_FILE
    write_text(
        path,
        "# Reporting checklists\n\nFilled from what lies in this folder. Items in our own words: send journals the "
        f"official forms. **{BY_PEOPLE}** marks what no program can know.\n\n{text}\n",
    )
    return path


def _markdown(filled: FilledChecklist) -> str:
    checklist = filled.checklist
    lines = [
        f"## {checklist.name}: {checklist.about}",
        f"{checklist.source}. {filled.summary()}.",
        "| item | section | asks for | answer |\n|---|---|---|---|\n" + "\n".join(_rows(filled)),
    ]
    return "\n\n".join(lines)


def _rows(filled: FilledChecklist) -> Iterator[str]:
    for one in filled.items:
        left = f"**{BY_PEOPLE}:** {one.left}." if one.left else ""
        cells = (one.item.number, one.item.section, one.item.topic, f"{one.answer} {left}".strip())
        yield "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
