"""What a rule can ask of a series: each condition with how its value is read from a file and when it holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypoxnet.dicom.index import SeriesEntry
from hypoxnet.dicom.tracers import tracer_of
from hypoxnet.quantities import TRACERS, suggestion

NO_CONTRAST = {"", "0", "NO", "NONE", "N", "WITHOUT", "OHNE"}
NOT_CORRECTED = re.compile(r"\bnac\b|\b(no|non|not|without)[- ]?(ac|att\w*)\b|uncorrected", re.IGNORECASE)
CORRECTED = re.compile(r"\bw?ac\b|\bctac\b|\bmrac\b|\batt\w* ?corr\w*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition.

    Args:
        read: From what stands in the file to what `holds` wants; raises a `ValueError` that says what is expected.
        holds: Whether a series meets it.
    """

    read: Callable[[Any], Any]
    holds: Callable[[SeriesEntry, Any], bool]


def plain(text: str) -> str:
    """Text as patterns see it: underscores are blanks, so that they end a word.

    Example:
        >>> plain("t2_tse_fs__tra")
        't2 tse fs tra'
    """
    return " ".join(text.replace("_", " ").split())


def read_pattern(given: Any) -> re.Pattern[str]:
    """A regular expression, compiled without regard to case.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(given, str) or not given:
        raise ValueError(f"is {given!r}, a regular expression is expected")
    try:
        return re.compile(given, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"is {given!r}, which is no regular expression: {error}") from error


def attenuation_corrected(series: SeriesEntry) -> bool | None:
    """Whether a PET series is corrected for attenuation; None when neither header nor description tells.

    A description that says it is not counts more than the list of corrections, which some consoles copy.
    """
    text = plain(f"{series.first.series_description} {series.first.protocol_name}")
    if NOT_CORRECTED.search(text):
        return False
    if series.first.corrected_image:
        return "ATTN" in series.first.corrected_image
    return True if CORRECTED.search(text) else None


def _words(given: Any) -> tuple[str, ...]:
    words = given if isinstance(given, list) else [given]
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"is {given!r}, a name or a list of names is expected")
    return tuple(word.upper() for word in words)


def _tracers(given: Any) -> tuple[str, ...]:
    words = _words(given)
    for word in words:
        if word not in TRACERS:
            raise ValueError(f"names {word}, which is not a known tracer{suggestion(word, TRACERS)}")
    return words


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"is {given!r}, true or false is expected")
    return given


def _range(given: Any) -> tuple[float, float]:
    numbers = given if isinstance(given, list) else []
    is_number = [isinstance(n, int | float) and not isinstance(n, bool) for n in numbers]
    if len(numbers) not in (1, 2) or not all(is_number) or numbers[0] > numbers[-1]:
        raise ValueError(f"is {given!r}, [low, high] or [low] is expected")
    return float(numbers[0]), float(numbers[1]) if len(numbers) == 2 else float("inf")


def _text(*fields: str) -> Condition:
    def holds(series: SeriesEntry, wanted: re.Pattern[str]) -> bool:
        return wanted.search(text_of(series, *fields)) is not None

    return Condition(read_pattern, holds)


def text_of(series: SeriesEntry, *fields: str) -> str:
    """Fields of the first header, joined by blanks, as patterns see them."""
    return plain(" ".join(getattr(series.first, field) for field in fields))


def _values(field: str) -> Condition:
    return Condition(_words, lambda series, wanted: set(wanted) <= _upper(series, field))


def _upper(series: SeriesEntry, field: str) -> set[str]:
    return {value.upper() for value in getattr(series.first, field)}


def _count(count: Callable[[SeriesEntry], int]) -> Condition:
    return Condition(_range, lambda series, wanted: wanted[0] <= count(series) <= wanted[1])


def _distinct(field: str) -> Condition:
    return _count(lambda series: len(series.distinct(field)))


def _between(field: str) -> Condition:
    def holds(series: SeriesEntry, wanted: tuple[float, float]) -> bool:
        found: float | None = getattr(series.first, field)
        return found is not None and wanted[0] <= found <= wanted[1]

    return Condition(_range, holds)


_ALL_TEXT = ("series_description", "protocol_name", "sequence_name")
CONDITIONS: dict[str, Condition] = {
    "modality": Condition(_words, lambda series, wanted: series.modality.upper() in wanted),
    "tracer": Condition(_tracers, lambda series, wanted: tracer_of(series.first) in wanted),
    "text": _text(*_ALL_TEXT),
    "not_text": Condition(read_pattern, lambda series, wanted: wanted.search(text_of(series, *_ALL_TEXT)) is None),
    "description": _text("series_description"),
    "protocol": _text("protocol_name"),
    "sequence": _text("sequence_name"),
    "manufacturer": _text("manufacturer"),
    "image_type": _values("image_type"),
    "not_image_type": Condition(_words, lambda series, wanted: not set(wanted) & _upper(series, "image_type")),
    "scan_options": _values("scan_options"),
    "scanning_sequence": _values("scanning_sequence"),
    "contrast": Condition(
        _flag, lambda series, wanted: (series.first.contrast_agent.upper() not in NO_CONTRAST) is wanted
    ),
    "attenuation_corrected": Condition(_flag, lambda series, wanted: attenuation_corrected(series) is wanted),
    "stacks": _count(lambda series: series.volumes),
    "times": _count(lambda series: series.times),
    "slices": _count(lambda series: series.slices),
    "echo_times": _distinct("echo_times_ms"),
    "flip_angles": _distinct("flip_angles_deg"),
    "b_values": _distinct("b_values_s_per_mm2"),
    "inversion_times": _distinct("inversion_times_ms"),
    "echo_time_ms": _between("echo_time_ms"),
    "repetition_time_ms": _between("repetition_time_ms"),
}
