"""The instances of one series sorted into volumes: one per echo, flip angle, b-value, phase and moment.

Slices are told apart by where they lie, not by their numbers. A series is split by what its instances say of their
acquisition; only where several instances then still lie at one place is it split further, by time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypoxnet.dicom.headers import Header

# Direction cosines are written with few digits; slices of one orientation differ by less.
SAME_DIRECTION = 0.02
# Thinner than any slice, thicker than the rounding of a position.
SAME_PLACE_MM = 0.05
MULTI_FILE = {"CT", "MR", "PT", "NM", "XA"}

# What the instances of one volume share, in words.
PARAMETERS: dict[str, Callable[[Header], Any]] = {
    "image type": lambda h: h.image_type,
    "matrix": lambda h: (h.rows, h.columns),
    "echo time": lambda h: h.echo_times_ms,
    "flip angle": lambda h: h.flip_angles_deg,
    "b-value": lambda h: h.b_values_s_per_mm2,
    "inversion time": lambda h: h.inversion_times_ms,
    "gate": lambda h: h.gate_percent,
}
# What may tell one moment from the next, the surest first.
MOMENTS: dict[str, Callable[[Header], Any]] = {
    "temporal position": lambda h: h.temporal_position,
    "frame reference time": lambda h: h.frame_reference_time_ms,
    "acquisition number": lambda h: h.acquisition_number,
    "acquisition time": lambda h: h.acquisition_time or None,
    "trigger time": lambda h: h.trigger_time_ms,
    "series time": lambda h: h.series_time or None,
}
BY_ORDER = "order of the instances"


@dataclass(frozen=True, slots=True)
class Stack:
    """The files of one volume, or one multi-frame object.

    Args:
        headers: In the order of the slices, along the normal of the image plane.
        orientation: Number of its orientation in the series; a survey has several.
        split_by: What tells its moment from that of its siblings: a key of `MOMENTS`, `BY_ORDER`, or empty.
        moment: Its place among the volumes with the same parameters, from 0.
    """

    headers: tuple[Header, ...]
    orientation: int = 0
    split_by: str = ""
    moment: int = 0

    @property
    def first(self) -> Header:
        """The header of the first slice, for what all slices share: echo time, flip angle, b-value, and so on."""
        return self.headers[0]

    @property
    def acquisition_time(self) -> str:
        """When its first slice was acquired, `YYYYMMDDHHMMSS.ffffff`, empty where it is not told."""
        return min((h.acquisition_time for h in self.headers if h.acquisition_time), default="")

    def __len__(self) -> int:
        return len(self.headers)

    def __repr__(self) -> str:
        h = self.first
        known = {
            "TE ms": h.echo_time_ms,
            "flip deg": h.flip_angle_deg,
            "b s/mm2": h.b_value_s_per_mm2,
            "TI ms": h.inversion_time_ms,
            "moment": self.moment if self.split_by else None,
        }
        parts = [f"{name} {number:g}" for name, number in known.items() if number is not None]
        return f"Stack({', '.join([f'{len(self)} files', *parts])})"


def stacks_of(headers: Iterable[Header]) -> tuple[Stack, ...]:
    """Sort the instances of one series into volumes.

    Returns:
        Ordered by time, then by parameters; the same for every order of `headers`.

    Example:
        >>> from hypoxnet.dicom.places import Place
        >>> slices = [
        ...     Header(Place(f"{k}{te}"), "1.2", f"1.{k}.{te}", modality="MR", echo_times_ms=(te,),
        ...            position_mm=(0.0, 0.0, 3.0 * k), orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
        ...     for k in range(2) for te in (2.3, 4.6)
        ... ]
        >>> stacks_of(slices)
        (Stack(2 files, TE ms 2.3), Stack(2 files, TE ms 4.6))
    """
    ordered = sorted(headers, key=_instance_key)
    single = [h for h in ordered if h.modality in MULTI_FILE and h.frames == 1]
    stacks = [Stack((h,)) for h in ordered if not (h.modality in MULTI_FILE and h.frames == 1)]
    groups: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    orientations = _orientations(single)
    for header in single:
        number = orientations[header.orientation]
        groups[(number, *(get(header) for get in PARAMETERS.values()))].append(header)
    for key, group in groups.items():
        stacks += _by_moment(group, key[0])
    return tuple(sorted(stacks, key=_stack_key))


def _instance_key(header: Header) -> tuple[Any, ...]:
    """Order of acquisition; the uid settles what the numbers leave open."""
    number = header.instance_number
    return (number is None, number or 0, header.acquisition_time, header.sop_uid)


def _stack_key(stack: Stack) -> tuple[Any, ...]:
    first = stack.first
    parameters = (first.echo_times_ms, first.flip_angles_deg, first.b_values_s_per_mm2, first.inversion_times_ms)
    gate = -1.0 if first.gate_percent is None else first.gate_percent
    return (stack.orientation, stack.moment, *parameters, gate, first.image_type, *_instance_key(first))


def _orientations(headers: Sequence[Header]) -> dict[tuple[float, ...], int]:
    """A number for each orientation; those that differ by rounding share it."""
    kept: list[tuple[float, ...]] = []
    numbers: dict[tuple[float, ...], int] = {}
    for orientation in sorted({h.orientation for h in headers}):
        for number, other in enumerate(kept):
            if len(other) == len(orientation) and _largest_difference(orientation, other) < SAME_DIRECTION:
                numbers[orientation] = number
                break
        else:
            numbers[orientation] = len(kept)
            kept.append(orientation)
    return numbers


def _largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def depth_mm(header: Header) -> float | None:
    """Distance of the slice from the origin along the normal of its plane, mm; None where it is not told.

    Example:
        >>> from hypoxnet.dicom.places import Place
        >>> depth_mm(Header(Place("1"), "", "", position_mm=(5.0, 6.0, 7.0), orientation=(1.0, 0, 0, 0, 1.0, 0)))
        7.0
    """
    if len(header.position_mm) != 3 or len(header.orientation) != 6:
        return None
    a, b, c, d, e, f = header.orientation
    x, y, z = header.position_mm
    return x * (b * f - c * e) + y * (c * d - a * f) + z * (a * e - b * d)


def _places(headers: Sequence[Header]) -> list[int] | None:
    """The number of the slice that each instance is of, from 0 along the normal; None where they do not tell."""
    depths = [depth_mm(h) for h in headers]
    known = [depth for depth in depths if depth is not None]
    if len(known) < len(depths):
        return None
    numbers, number = {}, 0
    apart = sorted(set(known))
    for before, depth in pairwise([apart[0], *apart]):
        number += depth - before > SAME_PLACE_MM
        numbers[depth] = number
    return [numbers[depth] for depth in known]


def _by_moment(headers: list[Header], orientation: int) -> list[Stack]:
    """Split instances with the same parameters so that each slice occurs once in each volume."""
    places = _places(headers)
    if places is None:
        return [Stack(tuple(headers), orientation)]
    place_of = dict(zip((h.sop_uid for h in headers), places, strict=True))
    split_by, groups = "", [headers]
    if max(Counter(places).values()) > 1:
        split_by, groups = _split(headers, place_of)
    return [
        Stack(tuple(sorted(group, key=lambda h: place_of[h.sop_uid])), orientation, split_by, moment)
        for moment, group in enumerate(groups)
    ]


def _split(headers: list[Header], place_of: dict[str, int]) -> tuple[str, list[list[Header]]]:
    """By the first of `MOMENTS` that makes whole volumes, else by the first that repeats no slice, else by order."""
    incomplete: tuple[str, list[list[Header]]] | None = None
    slices = len(set(place_of.values()))
    for name, get in MOMENTS.items():
        if any(get(h) is None for h in headers):
            continue
        groups = _grouped(headers, get)
        if any(len({place_of[h.sop_uid] for h in group}) < len(group) for group in groups):
            continue
        if all(len(group) == slices for group in groups):
            return name, groups
        # A volume that lacks a slice is to be seen; many volumes of one slice each are an interleaved acquisition.
        if incomplete is None and sum(len(group) == slices for group in groups) * 2 > len(groups):
            incomplete = name, groups
    if incomplete is not None:
        return incomplete
    seen: Counter[int] = Counter()
    by_order: dict[int, list[Header]] = defaultdict(list)
    for header in headers:
        place = place_of[header.sop_uid]
        by_order[seen[place]].append(header)
        seen[place] += 1
    return BY_ORDER, [by_order[k] for k in sorted(by_order)]


def _grouped(headers: list[Header], get: Callable[[Header], Any]) -> list[list[Header]]:
    groups: dict[Any, list[Header]] = defaultdict(list)
    for header in headers:
        groups[get(header)].append(header)
    return [groups[key] for key in sorted(groups)]
