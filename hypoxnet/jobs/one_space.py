"""Channels and masks of a visit in one space: as their headers say where they share a frame, else registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypoxnet.dicom.channels import Channel
from hypoxnet.dicom.register import Registration, register_rigid
from hypoxnet.dicom.visits import Contoured

# Contours of one structure on two images by one physician agree about as well.
LEAST_DICE = 0.7


@dataclass(frozen=True, slots=True)
class Space:
    """A visit in the space of its reference channel.

    Args:
        channels: Voxels as they were, grids moved.
        masks: All on one grid.
        transforms: Name to registration, for those that needed one.
        pictures: Name to what draws the overlay of that registration into a file.
        notes: What was done, and what is doubtful.
    """

    channels: tuple[Channel, ...]
    masks: tuple[Contoured, ...]
    transforms: Mapping[str, Registration] = field(default_factory=dict)
    pictures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def into_one_space(
    channels: Sequence[Channel],
    masks: Sequence[Contoured],
    *,
    regions: Sequence[Contoured],
    reference: Channel,
    register: bool,
) -> Space:
    """Bring a visit into the space of its reference channel.

    Other frames of reference than that of the reference channel are registered rigidly, through a CT where each has one
    (PET/CT to PET/CT is CT to CT), and all that lies in them moves along. A doubtful registration is not used: its
    channels are left out, and a sentence says why.

    Args:
        channels: Of the visit.
        masks: Of the visit.
        regions: Everything that was contoured; what was contoured in two frames says where the search begins.
        reference: Whose space it is.
        register: Register at all; else channels of another frame of reference are left out.
    """
    home = reference.frame_of_reference_uid
    frames = [f for f in dict.fromkeys(c.frame_of_reference_uid for c in channels) if f != home or not f]
    moved: dict[str, Registration] = {}
    pictures: dict[str, Callable[[Path], None]] = {}
    notes: list[str] = []
    lost: set[str] = set()
    for frame in frames:
        if not frame and not home:
            continue
        inside = [c for c in channels if c.frame_of_reference_uid == frame]
        names = ", ".join(c.name for c in inside)
        if not register:
            lost.add(frame)
            notes.append(f"{names}: left out, in another frame of reference than {reference.name} and not registered")
            continue
        shift = _shift_mm(regions, home, frame)
        found, fixed, moving = _registered(channels, inside, reference, shift)
        alone = None if not found.warnings or shift is None else _by_contours(regions, home, frame, shift[1])
        if alone is not None:
            moved[frame] = alone[0]
            notes.append(
                f"{names}: moved to {reference.name} by contours of {shift[0] if shift else ''} alone, after which "
                f"these overlap with a Dice of {alone[1]:.2f}; the images themselves could not be registered "
                f"({'; '.join(found.warnings)})"
            )
            found = alone[0]
        elif found.warnings:
            lost.add(frame)
            notes.append(
                f"{names}: left out, the registration to {reference.name} is doubtful: {'; '.join(found.warnings)}"
            )
        else:
            moved[frame] = found
            notes.append(
                f"{names}: registered to {reference.name} ({moving.name} to {fixed.name}, {found.rotation_degrees:.2f} "
                f"degrees, there and back {found.inconsistency_mm:.2f} mm"
                + (
                    f"; {shift[0]}, contoured in both, {_apart_mm(regions, home, frame, found):.1f} mm apart)"
                    if shift
                    else ")"
                )
            )
        pictures[f"{moving.name}_to_{fixed.name}"] = partial(_draw, fixed, moving, found)
    kept = [_moved(c, moved) for c in channels if c.frame_of_reference_uid not in lost]
    placed = [_placed(m, moved) for m in masks if m.frame_of_reference_uid not in lost]
    named = {f"{_first(channels, frame).name}_to_{reference.name}": r for frame, r in moved.items()}
    return Space(tuple(kept), tuple(_on_one_grid(placed, reference, notes)), named, pictures, tuple(notes))


def _first(channels: Sequence[Channel], frame: str) -> Channel:
    return next(c for c in channels if c.frame_of_reference_uid == frame)


def _registered(
    channels: Sequence[Channel],
    inside: Sequence[Channel],
    reference: Channel,
    shift: tuple[str, NDArray[np.float64]] | None,
) -> tuple[Registration, Channel, Channel]:
    """Register by the CT of each frame of reference where both have one; else by anatomy that is there."""
    at_home = [c for c in channels if c.frame_of_reference_uid == reference.frame_of_reference_uid]
    fixed_ct, moving_ct = (next((c for c in some if c.name == "CT_HU"), None) for some in (at_home, inside))
    fixed = fixed_ct or next((c for c in at_home if not c.name.endswith("_SUV")), reference)
    moving = moving_ct or next((c for c in inside if c.name != "ADC"), inside[0])
    start = None if shift is None else shift[1]
    found = register_rigid(_volume(fixed), fixed.grid, moving=_volume(moving), moving_grid=moving.grid, start_mm=start)
    return found, fixed, moving


def _pair(regions: Sequence[Contoured], home: str, frame: str) -> tuple[Contoured, Contoured] | None:
    """The first structure that was contoured in both frames of reference."""
    for one in regions:
        for other in regions:
            if one.frame_of_reference_uid == home and other.frame_of_reference_uid == frame and one.name == other.name:
                return one, other
    return None


def _centre_mm(contoured: Contoured) -> NDArray[np.float64]:
    index = np.argwhere(contoured.mask).mean(axis=0)
    return np.asarray((contoured.grid.matrix @ np.r_[index, 1.0])[:3], dtype=np.float64)


def _shift_mm(regions: Sequence[Contoured], home: str, frame: str) -> tuple[str, NDArray[np.float64]] | None:
    """Name of that structure, and the shift from its centre in one frame to that in the other."""
    pair = _pair(regions, home, frame)
    return None if pair is None else (pair[0].name, _centre_mm(pair[0]) - _centre_mm(pair[1]))


def _by_contours(
    regions: Sequence[Contoured], home: str, frame: str, shift: NDArray[np.float64]
) -> tuple[Registration, float] | None:
    """The shift between the centres of a structure, when the structure then covers itself; and its Dice."""
    from hypoxnet.transforms.prepare import onto

    pair = _pair(regions, home, frame)
    assert pair is not None
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    found = Registration(matrix, 0.0, 0.0, 0.0)
    fixed, moving = pair
    there = onto(moving.mask, found.applied(moving.grid), fixed.grid)
    dice = 2 * float((there & fixed.mask).sum()) / max(1.0, float(there.sum() + fixed.mask.sum()))
    return (found, dice) if dice >= LEAST_DICE else None


def _apart_mm(regions: Sequence[Contoured], home: str, frame: str, found: Registration) -> float:
    """Distance of the centres of that structure after the registration."""
    pair = _pair(regions, home, frame)
    assert pair is not None
    moved = (found.matrix @ np.r_[_centre_mm(pair[1]), 1.0])[:3]
    return float(np.linalg.norm(moved - _centre_mm(pair[0])))


def _volume(channel: Channel) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return channel.array if channel.array.ndim == 3 else np.asarray(channel.array[..., 0])


def _moved(channel: Channel, moved: Mapping[str, Registration]) -> Channel:
    found = moved.get(channel.frame_of_reference_uid)
    if found is None:
        return channel
    sidecar = {**channel.sidecar, "Registration": found.describe()}
    return replace(channel, grid=found.applied(channel.grid), sidecar=sidecar)


def _placed(contoured: Contoured, moved: Mapping[str, Registration]) -> Contoured:
    found = moved.get(contoured.frame_of_reference_uid)
    return contoured if found is None else replace(contoured, grid=found.applied(contoured.grid))


def _on_one_grid(masks: Sequence[Contoured], reference: Channel, notes: list[str]) -> list[Contoured]:
    """Masks of a visit lie on one grid: their own where they share it, else that of the reference channel."""
    if not masks or all(m.grid.same_as(masks[0].grid) for m in masks):
        return list(masks)
    # MONAI takes seconds to load; most visits do without it.
    from hypoxnet.transforms.prepare import onto

    out = []
    for each in masks:
        if not each.grid.same_as(reference.grid):
            notes.append(f"{each.name}: brought from {each.grid.describe()} onto the grid of {reference.name}")
        out.append(replace(each, mask=onto(each.mask, each.grid, reference.grid), grid=reference.grid))
    return out


def _draw(fixed: Channel, moving: Channel, found: Registration, path: Path) -> None:
    import torch

    from hypoxnet.report.overlay import draw_overlay
    from hypoxnet.transforms.spatial import to_grid

    there = to_grid(torch.from_numpy(_volume(moving))[None], found.applied(moving.grid), fixed.grid, beyond="zeros")[0]
    title = f"{moving.name} on {fixed.name}" + "".join(f"\n{warning}" for warning in found.warnings)
    draw_overlay(_volume(fixed), there, path, grid=fixed.grid, title=title)
