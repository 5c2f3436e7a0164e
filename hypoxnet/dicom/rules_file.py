"""A file of rules, read with every fault that is in it and the line of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hypoxnet.dicom.conditions import CONDITIONS, read_pattern
from hypoxnet.dicom.errors import DicomError
from hypoxnet.quantities import MASKS, QUANTITIES, RAW_SERIES, TRACERS, suggestion

ON_CONFLICT = ("refuse", "first", "last", "most_slices")
TOP = ("on_conflict", "series", "regions")
RESULTS = ("name", "channel", "ignore", "scale")
REGION = ("mask", "pattern")
NO_MASK = "none"

Fault = Callable[[str], None]


class RulesError(DicomError):
    """Everything that is wrong in one file of rules, reported at once.

    Args:
        path: The file.
        faults: One sentence per fault, each beginning with its line.
    """

    def __init__(self, path: str, faults: Sequence[str]) -> None:
        self.path = path
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([f"{path}: {count}", *self.faults]))


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for series.

    Args:
        name: As the file calls it, else its number.
        channel: What a series becomes, `{tracer}` standing for its tracer; None for a series to be ignored.
        conditions: Keys of `CONDITIONS` with what is wanted; all must hold.
        scale: What voxel values are multiplied by to be in the unit of the channel.
        line: Line of the file.
    """

    name: str
    channel: str | None
    conditions: tuple[tuple[str, Any], ...]
    scale: float = 1.0
    line: int = 0


@dataclass(frozen=True, slots=True)
class MaskRule:
    """A rule for names of regions; `mask` is None for a region to be left out."""

    mask: str | None
    pattern: re.Pattern[str]
    line: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A mapping of the file, with the line of it."""

    line: int
    cells: dict[str, Any]


def parse_rules(path: Path) -> tuple[tuple[Rule, ...], tuple[MaskRule, ...], str]:
    """Rules for series, rules for regions, and what decides a conflict.

    Raises:
        RulesError: Everything that is wrong, each fault with its line.
    """
    found: list[tuple[int, str]] = []
    top = _mapping(_root(path), found)
    found += [
        (node.start_mark.line + 1, f"unknown key {key!r}{suggestion(key, TOP)}")
        for key, node in top.items()
        if key not in TOP
    ]
    series = [_rule(entry, number, found) for number, entry in enumerate(_entries(top, "series", found), 1)]
    regions = [_mask_rule(entry, found) for entry in _entries(top, "regions", found)]
    on_conflict = ON_CONFLICT[0]
    if "on_conflict" in top:
        node = top["on_conflict"]
        on_conflict = str(node.value)
        if on_conflict not in ON_CONFLICT:
            known = ", ".join(ON_CONFLICT)
            found.append((node.start_mark.line + 1, f"on_conflict is {on_conflict!r}, it must be one of {known}"))
    if found:
        raise RulesError(str(path), [f"line {line}: {text}" for line, text in sorted(found)])
    return tuple(r for r in series if r is not None), tuple(r for r in regions if r is not None), on_conflict


def _root(path: Path) -> yaml.Node:
    """The file as a tree of nodes, which know their lines.

    Raises:
        RulesError: It is missing, no text, or no YAML mapping.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(str(path), [f"line 1: cannot read the file: {error}"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise RulesError(str(path), [f"line {mark.line + 1 if mark else 1}: no YAML: {problem}"]) from error
    if not isinstance(root, yaml.MappingNode):
        raise RulesError(str(path), [f"line 1: a mapping with the keys {', '.join(TOP)} is expected"])
    return root


def _mapping(node: yaml.Node, found: list[tuple[int, str]]) -> dict[str, Any]:
    """Keys and the nodes of their values; a key that comes twice is a fault."""
    pairs: dict[str, Any] = {}
    for key, value in node.value:
        if str(key.value) in pairs:
            found.append((key.start_mark.line + 1, f"the key {key.value!r} comes twice"))
        pairs[str(key.value)] = value
    return pairs


def _entries(top: dict[str, Any], key: str, found: list[tuple[int, str]]) -> Iterator[_Entry]:
    node = top.get(key)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return
    if not isinstance(node, yaml.SequenceNode):
        found.append((node.start_mark.line + 1, f"{key} is not a list of rules"))
        return
    for item in node.value:
        line = item.start_mark.line + 1
        if not isinstance(item, yaml.MappingNode):
            found.append((line, f"{key}: a rule is a mapping, for example {{modality: CT, channel: CT_HU}}"))
            continue
        nodes = _mapping(item, found)
        try:
            yield _Entry(line, {name: _constructed(value) for name, value in nodes.items()})
        except (yaml.YAMLError, ValueError) as error:
            found.append((line, f"{key}: {error}"))


def _constructed(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_document(node)


def _rule(entry: _Entry, number: int, found: list[tuple[int, str]]) -> Rule | None:
    name = str(entry.cells.get("name", f"rule {number}"))
    before = len(found)

    def fault(text: str) -> None:
        found.append((entry.line, f"{name}: {text}"))

    conditions = []
    for key, given in entry.cells.items():
        if key in CONDITIONS:
            try:
                conditions.append((key, CONDITIONS[key].read(given)))
            except ValueError as error:
                fault(f"{key} {error}")
        elif key not in RESULTS:
            fault(f"unknown key {key!r}{suggestion(key, (*CONDITIONS, *RESULTS))}")
    if not conditions and len(found) == before:
        fault("has no condition, it would fit every series; give it at least a modality")
    channel = _channel(entry, fault)
    scale = entry.cells.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        fault(f"scale is {scale!r}, a positive number is expected")
    if len(found) > before:
        return None
    return Rule(name, channel, tuple(conditions), float(scale), entry.line)


def _channel(entry: _Entry, fault: Fault) -> str | None:
    channel, ignore = entry.cells.get("channel"), entry.cells.get("ignore", False)
    if not isinstance(ignore, bool):
        fault(f"ignore is {ignore!r}, true or false is expected")
    elif ignore == (channel is not None):
        fault(
            "has a channel and ignores the series" if ignore else "has no result; give it a channel or `ignore: true`"
        )
    if channel is None or ignore:
        return None
    known = (*QUANTITIES, *RAW_SERIES)
    names = [str(channel).replace("{tracer}", tracer) for tracer in TRACERS]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        fault(f"channel {str(channel)!r} is not a known quantity or raw series{suggestion(unknown, known)}")
    return str(channel)


def _mask_rule(entry: _Entry, found: list[tuple[int, str]]) -> MaskRule | None:
    before = len(found)
    found += [
        (entry.line, f"regions: unknown key {key!r}{suggestion(key, REGION)}")
        for key in entry.cells
        if key not in REGION
    ]
    mask = str(entry.cells.get("mask", ""))
    if mask not in MASKS and mask != NO_MASK:
        near = suggestion(mask, (*MASKS, NO_MASK))
        found.append((entry.line, f"regions: mask is {mask!r}, which is not a known mask{near}"))
    try:
        pattern = read_pattern(entry.cells.get("pattern"))
    except ValueError as error:
        found.append((entry.line, f"regions: pattern {error}"))
        return None
    return MaskRule(None if mask == NO_MASK else mask, pattern, entry.line) if len(found) == before else None
