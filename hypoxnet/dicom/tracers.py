"""Which tracer was given: by the code of the radiopharmaceutical, else by its name, else by the series description."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypoxnet.dicom.headers import Header

# Context group 4021 "PET Radiopharmaceutical" of PS3.16 and its former codes; FAZA, HX4 and EF5 have none.
TRACER_CODES = {
    ("SCT", "422598008"): "FMISO",
    ("SRT", "C-B07E1"): "FMISO",
    ("DCM", "126708"): "FMISO",
    ("SCT", "35321007"): "FDG",
    ("SRT", "C-B1031"): "FDG",
    ("99SDM", "C-B1031"): "FDG",
    ("99SDM", "Y-X1743"): "FDG",
}
# SNM3 and SNOMED-RT are former names of the scheme SRT.
SAME_SCHEME = {"SNM3": "SRT", "SNOMED-RT": "SRT", "SNOMED-CT": "SCT"}

_NAMES = {
    "FMISO": r"F[-_ ]?MISO(?![a-z])|fluoro[- ]?miso(nidazole)?(?![a-z])",
    "FAZA": r"F[-_ ]?AZA(?![a-z])|fluoro[- ]?azomycin",
    "HX4": r"HX[-_ ]?4(?!\d)|flortanidazole",
    "EF5": r"(?<![a-z])(18)?F?[-_ ]?EF[-_ ]?5(?!\d)|etarfol",
    # Fluorodeoxygalactose is FDGal.
    "FDG": r"FDG(?!al)|flu(oro)?[- ]?deoxy[- ]?-?(d-)?glucose|fludeoxyglucose|desoxyglucose",
}
TRACER_NAMES = {tracer: re.compile(pattern, re.IGNORECASE) for tracer, pattern in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class TracerFound:
    """A tracer, or None, and why.

    Args:
        tracer: A key of `quantities.TRACERS`.
        why: What it was recognised by, or what stands against it, in words.
    """

    tracer: str | None
    why: str


def tracer_of(header: Header) -> str | None:
    """The tracer of a PET instance; None when it is none of ours, is not told, or is told twice and differently.

    Example:
        >>> from hypoxnet.dicom.places import Place
        >>> tracer_of(Header(Place("1"), "", "", modality="PT", radiopharmaceutical="[18F]FMISO"))
        'FMISO'
    """
    return recognise_tracer(header).tracer


def recognise_tracer(header: Header) -> TracerFound:
    """As `tracer_of`, with the reason.

    A scanner's menu often knows FDG only, so that a hypoxia tracer is entered as FDG and its name stands in the
    description of the series; such a contradiction is reported, not decided.
    """
    told, why = _told(header)
    described = names_in(f"{header.series_description} {header.protocol_name}")
    if len(told) > 1:
        return TracerFound(None, f"the radiopharmaceutical reads as {' and as '.join(sorted(told))}")
    if told:
        (tracer,) = told
        if described and described != told:
            other = ", ".join(sorted(described))
            return TracerFound(None, f"{why} says {tracer}, the description says {other}; write a rule that decides")
        return TracerFound(tracer, why)
    if why:
        return TracerFound(None, why)
    if len(described) == 1:
        return TracerFound(next(iter(described)), "only the description names the tracer")
    if described:
        return TracerFound(None, f"the description names {' and '.join(sorted(described))}")
    return TracerFound(None, "no tracer is named")


def names_in(text: str) -> set[str]:
    """Every tracer that a text names.

    Example:
        >>> sorted(names_in("18F-FAZA 2h p.i."))
        ['FAZA']
    """
    return {tracer for tracer, name in TRACER_NAMES.items() if name.search(text)}


def _told(header: Header) -> tuple[set[str], str]:
    """Tracers by codes, else by names; and by what, or what else was given."""
    codes = {
        TRACER_CODES.get((SAME_SCHEME.get(scheme.upper(), scheme.upper()), code.upper()))
        for code, scheme, _ in header.radiopharmaceutical_codes
    }
    by_code = {tracer for tracer in codes if tracer is not None}
    if by_code:
        names = names_in(header.radiopharmaceutical)
        return (by_code | names if names else by_code), "the code of the radiopharmaceutical"
    meanings = " ".join(meaning for *_, meaning in header.radiopharmaceutical_codes)
    words = f"{header.radiopharmaceutical} {meanings}".strip()
    by_name = names_in(words)
    if by_name:
        return by_name, f"the radiopharmaceutical {words!r}"
    return (set(), f"the radiopharmaceutical is {words!r}") if _is_definite(words) else (set(), "")


_VAGUE = re.compile(
    r"(?:\W|\b(?:18\s*-?F|F\s*-?18|\^?18\^?F\w*|fluor(?:ine|ide)?|solution|other|unknown|none|research|study|tracer|pet|"
    r"radiopharmaceutical|injection|agent|hypoxia|default|test)\b)*",
    re.IGNORECASE,
)


def _is_definite(words: str) -> bool:
    """A name of another tracer, unlike `Solution`, `F-18` or `Other`, which scanners write by default."""
    return _VAGUE.fullmatch(words) is None
