"""Elements of the headers of a PET series as its SUV needs them, private ones too; the nuclide that a code means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset

from hypoxnet.dicom.errors import DicomError
from hypoxnet.maps.suv import HALF_LIFE_S

# By the element in the meaning of the nuclide's code, `^18^Fluorine` or `F-18`.
NUCLIDES = {"F": "F-18", "FLUORINE": "F-18", "GA": "Ga-68", "GALLIUM": "Ga-68", "CU": "Cu-64", "COPPER": "Cu-64"}


def half_life_of(meaning: str) -> float | None:
    """Half-life of a nuclide by the meaning of its code, s; None when it is not known, as for Cu-60 and Cu-62.

    Example:
        >>> half_life_of("^68^Gallium") == half_life_of("Ga-68"), half_life_of("^62^Copper")
        (True, None)
    """
    element = meaning.strip("^0123456789 -").split("^")[0].split(" ")[0].split("-")[0].upper()
    nuclide = NUCLIDES.get(element, "")
    masses = re.findall(r"\d+", meaning)
    return HALF_LIFE_S.get(nuclide) if not masses or nuclide.endswith(f"-{masses[0]}") else None


def only_text(slices: Iterable[Dataset], keyword: str) -> str:
    """The text of an element that all slices have alike, in capitals; empty when it is absent.

    Raises:
        DicomError: It differs between slices.
    """
    found = {text_of(header, keyword).upper() for header in slices}
    if len(found) > 1:
        raise DicomError(f"{keyword} differs between slices ({', '.join(sorted(found))}); one series has one")
    return found.pop()


def frame_duration_s(header: Dataset) -> float:
    """Duration of the frame, s.

    Raises:
        DicomError: It is missing or not above 0.
    """
    duration = number_of(header.get("ActualFrameDuration"))
    if duration is None or duration <= 0:
        raise DicomError("ActualFrameDuration (0018,1242) is missing; the time of decay within a frame is not known")
    return duration / 1000.0


def text_of(header: Dataset, key: str | tuple[int, int]) -> str:
    """The text of an element, by keyword or tag; empty when it is absent."""
    value = header.get(key)
    value = getattr(value, "value", value)
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="ignore")
    return "" if value is None else str(value).strip("\0 ")


def number_of(value: Any) -> float | None:
    """The number in a value or an element; None when there is none that is finite."""
    value = getattr(value, "value", value)
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="ignore").strip("\0 ")
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) != float("inf") else None


def list_of(value: Any) -> list[Any]:
    """The values of an element that may have one, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
