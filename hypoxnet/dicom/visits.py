"""What belongs together: the studies of a patient as visits, and the contours of a visit as masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hypoxnet.dicom.channels import Channel
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.index import SeriesEntry
from hypoxnet.dicom.places import Place
from hypoxnet.dicom.pseudonyms import days_from
from hypoxnet.dicom.rasterise import mask_of
from hypoxnet.dicom.rules import Rules
from hypoxnet.dicom.segments import read_seg
from hypoxnet.dicom.structures import Roi, StructureSet, read_structures
from hypoxnet.geometry import Grid

T = TypeVar("T")

log = logging.getLogger(__name__)

# Studies of one time point lie within a week: PET on Monday, MR on Thursday.
VISIT_DAYS = 7


@dataclass(frozen=True, slots=True)
class Visit:
    """Studies of one patient at one time.

    Args:
        name: `baseline`, then `day014` by the days since the first study.
        series: All series of these studies.
    """

    name: str
    series: tuple[SeriesEntry, ...]


def visits_of(series: Iterable[SeriesEntry], *, days: int = VISIT_DAYS) -> tuple[Visit, ...]:
    """Group the studies of one patient by time; studies without a date, or with none that can be read, come first.

    Args:
        series: Of one patient.
        days: Studies that follow the first of a visit within so many days belong to it.
    """
    dates = {entry: _date(entry) for entry in series}
    entries = sorted(dates, key=lambda s: (dates[s], s.study_uid))
    first = min((date for date in dates.values() if date), default="")
    groups: dict[int, list[SeriesEntry]] = {}
    begin = 0
    for entry in entries:
        day = days_from(first, dates[entry]) if dates[entry] else 0
        if day - begin > days:
            begin = day
        groups.setdefault(begin, []).append(entry)
    return tuple(Visit("baseline" if day == 0 else f"day{day:03d}", tuple(group)) for day, group in groups.items())


def _date(entry: SeriesEntry) -> str:
    """`YYYYMMDD`, empty where there is none: one broken date must not cost the other patients."""
    date = entry.first.study_date.strip().replace(".", "")
    try:
        days_from(date, date)
    except DicomError as error:
        if date:
            log.warning("%s: %s", entry.first.place, error)
        return ""
    return date


@dataclass(frozen=True, slots=True)
class Contoured:
    """One mask of a visit.

    Args:
        name: As in a manifest.
        mask: i j k.
        grid: Where it lies, in the space of its frame of reference.
        frame_of_reference_uid: That space.
        source: Which object and region, and what was noted on the way.
    """

    name: str
    mask: NDArray[np.bool_]
    grid: Grid
    frame_of_reference_uid: str
    source: tuple[str, ...]


def masks_of(
    series: Sequence[SeriesEntry], channels: Sequence[Channel], rules: Rules, *, reference: Channel
) -> tuple[list[Contoured], list[Contoured], list[str]]:
    """The masks of a visit, every region that could have become one, and what could not.

    Of several regions for one mask, that which was drawn on the reference channel is taken; where none or several were,
    the mask is left out and a sentence says so.

    Args:
        series: Of the visit.
        channels: Those that were imported.
        rules: Which region is which mask.
        reference: The reference channel.
    """
    claims: dict[str, list[Contoured]] = {}
    notes: list[str] = []
    drawn_on: dict[int, bool] = {}
    for entry in series:
        for header in entry.headers:
            if entry.modality not in {"RTSTRUCT", "SEG"}:
                continue
            try:
                if entry.modality == "RTSTRUCT":
                    found = _of_structures(_read(header.place, read_structures), channels, rules, notes)
                else:
                    found = _of_segments(header.place, rules)
            except DicomError as error:
                notes.append(f"contours are left out: {error}")
                continue
            on_reference = reference.series_uid in header.referenced_series_uids
            for contoured in found:
                drawn_on[id(contoured)] = on_reference
                claims.setdefault(contoured.name, []).append(contoured)
    masks = []
    for name, claimed in claims.items():
        preferred = [c for c in claimed if drawn_on[id(c)]] or claimed
        if len(preferred) > 1:
            names = ", ".join(c.source[0] for c in preferred)
            notes.append(f"{name}: {len(preferred)} regions claim it ({names}); none is taken, make a rule narrower")
            continue
        if len(claimed) > 1:
            notes.append(f"{name}: {preferred[0].source[0]} is taken, which was drawn on {reference.name}")
        masks.append(preferred[0])
    return masks, [c for claimed in claims.values() for c in claimed], notes


def _read(place: Place, reader: Callable[[Path], T]) -> T:
    if not place.member:
        return reader(Path(place.path))
    with TemporaryDirectory(prefix="hypoxnet-") as folder:
        path = Path(folder) / "object.dcm"
        path.write_bytes(place.read_bytes())
        return reader(path)


def _of_structures(
    structures: StructureSet, channels: Sequence[Channel], rules: Rules, notes: list[str]
) -> list[Contoured]:
    out = []
    for roi in structures.rois:
        name = rules.mask_of(roi.name)
        if name is None:
            continue
        try:
            out.append(_rasterised(roi, name, structures, channels, notes))
        except DicomError as error:
            notes.append(f"{name}: {error}")
    return out


def _rasterised(
    roi: Roi, name: str, structures: StructureSet, channels: Sequence[Channel], notes: list[str]
) -> Contoured:
    """A region on the image it was drawn on, or another one in the same frame of reference."""
    frame = roi.frame_of_reference_uid
    inside = [c for c in channels if c.frame_of_reference_uid == frame]
    if not inside:
        raise DicomError(
            f"region {roi.name!r} of {structures.label!r} lies in frame of reference {frame or '(none)'}, no imported "
            "image does; import the image it was drawn on"
        )
    drawn = [c for c in inside if c.series_uid == roi.referenced_series_uid]
    image = (drawn or inside)[0]
    found = mask_of(roi, image.grid, frame_of_reference_uid=frame)
    if not found.mask.any():
        raise DicomError(f"region {roi.name!r} of {structures.label!r} covers no voxel of {image.name}")
    return Contoured(name, found.mask, image.grid, frame, (f"region {roi.name!r} on {image.name}", *found.notes))


def _of_segments(place: Place, rules: Rules) -> list[Contoured]:
    segmentation = _read(place, read_seg)
    out = []
    for segment in segmentation.segments:
        name = rules.mask_of(segment.label)
        if name is not None:
            mask = np.asarray(segment.array >= 0.5, dtype=np.bool_)
            frame = segmentation.frame_of_reference_uid
            out.append(Contoured(name, mask, segmentation.grid, frame, (f"segment {segment.label!r}",)))
    return out


def by_patient(series: Iterable[SeriesEntry]) -> Mapping[str, list[SeriesEntry]]:
    """Series by patient, in the order of the index."""
    out: dict[str, list[SeriesEntry]] = {}
    for entry in series:
        out.setdefault(entry.patient, []).append(entry)
    return out
