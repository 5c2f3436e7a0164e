"""Which series becomes which channel, and which region which mask: an ordered list of rules, read from a file.

What no rule fits stays out and is listed; what two series claim is a conflict, which only the file may decide.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from hypoxnet.dicom.conditions import CONDITIONS, attenuation_corrected
from hypoxnet.dicom.index import SeriesEntry
from hypoxnet.dicom.rules_file import ON_CONFLICT, MaskRule, Rule, parse_rules
from hypoxnet.dicom.tracers import names_in, recognise_tracer

__all__ = [
    "ON_CONFLICT",
    "Assignment",
    "Conflict",
    "MaskRule",
    "Match",
    "Rule",
    "Rules",
    "default_rules",
    "default_rules_text",
    "read_rules",
]


ANOTHER_TRACER = "PET_SUV"


@dataclass(frozen=True, slots=True)
class Match:
    """A series that became a channel.

    Args:
        series: The series.
        channel: A key of `quantities.QUANTITIES` or `RAW_SERIES`.
        rule: Name of the rule that decided.
        why: What of the series met its conditions, in words.
        scale: What voxel values are multiplied by to be in the unit of the channel.
        tracer: Of a PET series.
    """

    series: SeriesEntry
    channel: str
    rule: str
    why: str
    scale: float = 1.0
    tracer: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Several series of one study for one channel.

    Args:
        study_uid: The study.
        channel: The channel.
        matches: All of them, by time.
        chosen: The one that is taken, None when the file says `refuse`.
        why: What decided.
    """

    study_uid: str
    channel: str
    matches: tuple[Match, ...]
    chosen: Match | None
    why: str

    def __str__(self) -> str:
        names = " and ".join(f"{m.series.description!r} ({m.series.files} files, rule {m.rule})" for m in self.matches)
        taken = "none is taken" if self.chosen is None else f"{self.chosen.series.description!r} is taken"
        return f"{self.channel}: {names}: {taken}: {self.why}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the series of a cohort become.

    Args:
        matches: One series for each study and channel.
        conflicts: Choices that had to be made, or were refused.
        unmatched: Series that no rule fits, or that a rule ignores, structure sets and other objects without channel
            among them.
    """

    matches: tuple[Match, ...]
    conflicts: tuple[Conflict, ...]
    unmatched: tuple[SeriesEntry, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one file, in their order.

    Args:
        series: For series; the first that fits decides.
        regions: For names of regions; likewise.
        on_conflict: `refuse`, `first`, `last` or `most_slices`.
    """

    series: tuple[Rule, ...]
    regions: tuple[MaskRule, ...]
    on_conflict: str = "refuse"

    def rule_of(self, series: SeriesEntry) -> Rule | None:
        """The first rule that fits, also one that ignores."""
        fits = (rule for rule in self.series if all(CONDITIONS[k].holds(series, w) for k, w in rule.conditions))
        return next(fits, None)

    def channel_of(self, series: SeriesEntry) -> Match | None:
        """The channel of a series; None when no rule fits or the first that does ignores it."""
        rule = self.rule_of(series)
        if rule is None or rule.channel is None:
            return None
        found = recognise_tracer(series.first) if series.modality == "PT" else None
        tracer = found.tracer if found else None
        if "{tracer}" in rule.channel and tracer is None:
            return None
        if rule.channel == ANOTHER_TRACER and _names_a_tracer(series):
            return None  # of which tracer is a contradiction, which a rule of the user's decides
        return Match(
            series=series,
            channel=rule.channel.replace("{tracer}", tracer or ""),
            rule=rule.name,
            why=_why(series, rule) + (f"; tracer {tracer or 'unknown'}: {found.why}" if found else ""),
            scale=rule.scale,
            tracer=tracer,
        )

    def mask_of(self, roi_name: str) -> str | None:
        """The mask of a region; None when no pattern is found in its name or the first that is leaves it out.

        Example:
            >>> default_rules().mask_of("GTVp_70Gy")
            'GTVP'
        """
        name = plain_name(roi_name)
        return next((rule.mask for rule in self.regions if rule.pattern.search(name)), None)

    def assign(self, series: Iterable[SeriesEntry]) -> Assignment:
        """What each series becomes, one for each study and channel; the order of `series` does not matter."""
        claims: dict[tuple[str, str], list[Match]] = defaultdict(list)
        unmatched = []
        for entry in series:
            match = self.channel_of(entry)
            if match is None:
                unmatched.append(entry)
            else:
                claims[entry.study_uid, match.channel].append(match)
        matches, conflicts = [], []
        for (study, channel), claimed in sorted(claims.items()):
            chosen: Match | None = claimed[0]
            if len(claimed) > 1:
                ordered = tuple(sorted(claimed, key=_by_time))
                chosen, why = self._choice(ordered)
                conflicts.append(Conflict(study, channel, ordered, chosen, why))
            if chosen is not None:
                matches.append(chosen)
        return Assignment(tuple(matches), tuple(conflicts), tuple(sorted(unmatched, key=lambda s: s.series_uid)))

    def _choice(self, matches: Sequence[Match]) -> tuple[Match | None, str]:
        """One of several series for a channel, in order of time, and why it."""
        corrected = [match for match in matches if attenuation_corrected(match.series)]
        if len(corrected) == 1 and matches[0].series.modality == "PT":
            return corrected[0], "it alone says that it is corrected for attenuation"
        among = corrected or list(matches)
        if self.on_conflict == "first":
            return among[0], "on_conflict is first"
        if self.on_conflict == "last":
            return among[-1], "on_conflict is last"
        if self.on_conflict == "most_slices":
            most = max(match.series.slices for match in among)
            largest = [match for match in among if match.series.slices == most]
            if len(largest) == 1:
                return largest[0], f"on_conflict is most_slices, it has {most}"
            return None, f"on_conflict is most_slices, {len(largest)} have {most}; make a rule narrower"
        return None, "on_conflict is refuse; make a rule narrower, or let on_conflict decide"


def _names_a_tracer(series: SeriesEntry) -> bool:
    first = series.first
    return bool(names_in(f"{first.radiopharmaceutical} {first.series_description} {first.protocol_name}"))


def _by_time(match: Match) -> tuple[Any, ...]:
    first = match.series.first
    number = first.series_number
    return (first.series_time, -1 if number is None else number, match.series.series_uid)


def _why(series: SeriesEntry, rule: Rule) -> str:
    facts = {
        "modality": series.modality,
        "image_type": "\\".join(series.first.image_type),
        "scan_options": "\\".join(series.first.scan_options),
        "contrast": series.first.contrast_agent or "no contrast agent",
        "stacks": f"{series.volumes} volumes",
        "times": f"{series.times} times",
        "slices": f"{series.slices} slices",
        "echo_times": f"{len(series.distinct('echo_times_ms'))} echo times",
        "flip_angles": f"{len(series.distinct('flip_angles_deg'))} flip angles",
        "b_values": f"{len(series.distinct('b_values_s_per_mm2'))} b-values",
        "inversion_times": f"{len(series.distinct('inversion_times_ms'))} inversion times",
    }
    told = [facts[key] for key, _ in rule.conditions if key in facts]
    if any(key in ("text", "description", "protocol", "sequence") for key, _ in rule.conditions):
        told.insert(0, repr(series.description))
    return ", ".join(told)


def plain_name(roi_name: str) -> str:
    """The name of a region as patterns see it: lower case, with a blank for each underscore, hyphen and slash.

    Example:
        >>> plain_name("GTV-T__70Gy")
        'gtv t 70gy'
    """
    return " ".join(re.sub(r"[_\-/\\^:;,()\[\]]+", " ", roi_name.lower()).split())


def read_rules(path: Path) -> Rules:
    """Read a file of rules.

    Raises:
        RulesError: Everything that is wrong in it, each fault with its line.
    """
    series, regions, on_conflict = parse_rules(path)
    return Rules(series, regions, on_conflict)


def default_rules_text() -> str:
    """The rules that come with the package, to copy and change."""
    return (files("hypoxnet.dicom") / "default_rules.yaml").read_text(encoding="utf-8")


def default_rules() -> Rules:
    """The rules that come with the package."""
    with as_file(files("hypoxnet.dicom") / "default_rules.yaml") as path:
        return read_rules(path)
