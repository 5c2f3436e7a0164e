"""A series to a channel: volumes in the channel's unit, its grid, and what is known of how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hypoxnet.dicom.clock import combined, moment, same_day
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import Header
from hypoxnet.dicom.pseudonyms import refuse_burned_in
from hypoxnet.dicom.reading import dicom_failures
from hypoxnet.dicom.rules import Match
from hypoxnet.dicom.stacks import Stack as IndexedStack
from hypoxnet.dicom.suv import PatientTable, SuvDecision, decide_suv
from hypoxnet.dicom.volumes import Stack, read_stack
from hypoxnet.errors import HypoxNetError
from hypoxnet.geometry import Grid
from hypoxnet.quantities import QUANTITIES

MILLI = 1e-3
# Of one slice, and applied to the voxels already.
ALREADY_DONE = frozenset({"RescaleSlope", "RescaleIntercept", "RescaleType", "Units"})


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a visit.

    Args:
        name: Quantity or raw series.
        array: i j k, or i j k t for a raw series, float32.
        grid: Of every volume.
        sidecar: For the JSON beside it.
        frame_of_reference_uid: The space it lies in.
        series_uid: Where it came from.
    """

    name: str
    array: NDArray[np.float32]
    grid: Grid
    sidecar: Mapping[str, Any]
    frame_of_reference_uid: str
    series_uid: str
    notes: tuple[str, ...] = field(default=())


def read_channel_series(match: Match, *, patient: PatientTable | None = None, allow_burned_in: bool = False) -> Channel:
    """Read the series that a rule has chosen.

    Args:
        match: Series and channel.
        patient: What the user says of the patient.
        allow_burned_in: Take images that say that text is burned into their pixels.

    Raises:
        DicomError: The series cannot be read, has no SUV, or does not give what its channel is.
    """
    series = match.series
    refuse_burned_in(series.first, allowed=allow_burned_in)
    # Headers are converted where they are first looked at, which may be anywhere below.
    with dicom_failures(str(series.first.place), f"make {match.channel} of its series"):
        try:
            return _of(match, patient)
        except HypoxNetError as error:
            raise DicomError(str(error)) from error


def _of(match: Match, patient: PatientTable | None) -> Channel:
    if match.channel.endswith("_SUV"):
        return _suv(match, patient)
    if match.channel in QUANTITIES:
        stack = _read(match.series.stacks[0], match)
        array = stack.array if match.scale == 1 else (stack.array * match.scale).astype(np.float32)
        return _channel(match, array, stack, {"ScaledBy": match.scale} if match.scale != 1 else {})
    return _raw(match)


def _read(stack: IndexedStack, match: Match, factors: Any = None) -> Stack:
    name = match.series.description or match.series.modality
    inside = [header.place for header in stack.headers if header.place.member]
    if not inside:
        return read_stack([Path(h.place.path) for h in stack.headers], name=name, factors=factors)
    with TemporaryDirectory(prefix="hypoxnet-") as folder:
        paths = []
        for number, place in enumerate(inside):
            paths.append(Path(folder) / f"{number:06d}.dcm")
            paths[-1].write_bytes(place.read_bytes())
        return read_stack(paths, name=name, factors=factors)


def _suv(match: Match, patient: PatientTable | None) -> Channel:
    decisions: list[SuvDecision] = []

    def factors(headers: Sequence[Dataset]) -> Sequence[float]:
        decisions.append(decide_suv(headers, given=patient))
        return decisions[-1].factors

    stack = _read(match.series.stacks[0], match, factors)
    decision = decisions[0]
    return _channel(match, stack.array, stack, {"SuvSteps": list(decision.steps), "Suv": dict(decision.values)})


def _raw(match: Match) -> Channel:
    """Volumes of one series as 4D, with their timing in BIDS keys."""
    stacks = [_read(stack, match) for stack in match.series.stacks]
    for other in stacks[1:]:
        if not other.grid.same_as(stacks[0].grid):
            raise DicomError(
                f"{match.series.description}: its volumes lie on different grids ({stacks[0].grid.describe()} and "
                f"{other.grid.describe()}); {match.channel} needs one grid"
            )
    array = np.stack([stack.array for stack in stacks], axis=-1)
    firsts = [stack.first for stack in match.series.stacks]
    return _channel(match, array, stacks[0], _timing(match, firsts, stacks))


def _timing(match: Match, firsts: Sequence[Header], stacks: Sequence[Stack]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    wanted: tuple[tuple[str, Callable[[Header], float | None], float], ...] = (
        ("EchoTime", lambda h: h.echo_time_ms, MILLI),
        ("FlipAngle", lambda h: h.flip_angle_deg, 1.0),
        ("InversionTime", lambda h: h.inversion_time_ms, MILLI),
        ("RepetitionTime", lambda h: h.repetition_time_ms, MILLI),
    )
    for key, get, scale in wanted:
        values = [get(first) for first in firsts]
        if all(value is not None for value in values):
            scaled = [round(value * scale, 9) for value in values if value is not None]
            keys[key] = scaled[0] if len(set(scaled)) == 1 else scaled
    b_values = [first.b_value_s_per_mm2 for first in firsts]
    if any(b_values):
        keys["bval"] = [b or 0.0 for b in b_values]
    if match.channel == "RAW_DCE":
        keys |= _volume_times(match)
    if match.channel == "RAW_PET":
        keys |= _frame_times(match, [stack.headers[0] for stack in stacks])
    return keys


def _volume_times(match: Match) -> dict[str, Any]:
    times = [moment(stack.acquisition_time) for stack in match.series.stacks]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or len(set(known)) < len(known):
        triggers = [stack.first.trigger_time_ms for stack in match.series.stacks]
        if all(t is not None for t in triggers) and len(set(triggers)) == len(triggers):
            return {"VolumeTiming": [round((t or 0.0) * MILLI, 6) for t in triggers]}
        raise DicomError(
            f"{match.series.description}: the times of its {len(times)} volumes are not told (neither AcquisitionTime "
            "nor TriggerTime differ); convert it by hand and give the times"
        )
    return {"VolumeTiming": [round((time - known[0]).total_seconds(), 6) for time in known]}


def _frame_times(match: Match, headers: Sequence[Dataset]) -> dict[str, Any]:
    """Begin of each frame after the injection, and its duration."""
    starts, durations = [], []
    for header in headers:
        begin = combined(str(header.get("AcquisitionDate", "")), str(header.get("AcquisitionTime", "")))
        if begin is None or not header.get("ActualFrameDuration"):
            raise DicomError(
                f"{match.series.description}: a frame has no acquisition time or no duration; export it again"
            )
        injected = _injection(header, begin)
        starts.append(round((begin - same_day(injected, begin)[0]).total_seconds(), 3))
        durations.append(round(float(header.ActualFrameDuration) * MILLI, 3))
    return {"FrameTimesStart": starts, "FrameDuration": durations, "Units": str(headers[0].get("Units", ""))}


def _injection(header: Dataset, begin: datetime) -> datetime:
    item = (header.get("RadiopharmaceuticalInformationSequence") or [Dataset()])[0]
    when = moment(str(item.get("RadiopharmaceuticalStartDateTime", "")))
    when = when or combined(begin.strftime("%Y%m%d"), str(item.get("RadiopharmaceuticalStartTime", "")))
    if when is None:
        raise DicomError("the time of injection is missing; the frames' times after it are not known")
    return when


def _channel(match: Match, array: NDArray[np.float32], stack: Stack, more: Mapping[str, Any]) -> Channel:
    if not np.isfinite(array).all():
        raise DicomError(f"{match.series.description}: holds values that are no numbers; export it again")
    what = QUANTITIES.get(match.channel)
    sidecar = {
        **_header_values(stack.headers[0]),
        "Quantity": match.channel,
        "Units": what.unit if what else "a.u.",
        "ChosenBy": match.rule,
        "Why": match.why,
        **more,
        "Notes": list(stack.notes),
    }
    series = match.series
    return Channel(
        match.channel, array, stack.grid, sidecar, series.frame_of_reference_uid, series.series_uid, stack.notes
    )


def _header_values(header: Dataset) -> dict[str, Any]:
    """Plain values of the first slice; what may be handed on is decided by `pseudonyms.scrub`."""
    out: dict[str, Any] = {}
    for element in header:
        if (
            element.keyword in ALREADY_DONE
            or not element.keyword
            or element.VR in {"SQ", "OB", "OW", "OF", "UN"}
            or element.value in (None, "")
        ):
            continue
        value = element.value
        if element.VR in {"DS", "IS", "FL", "FD", "US", "SS", "UL", "SL"}:
            numbers = [float(v) for v in (value if element.VM > 1 else [value])]
            if not all(map(math.isfinite, numbers)):
                continue
            out[element.keyword] = numbers if element.VM > 1 else numbers[0]
        else:
            out[element.keyword] = [str(v) for v in value] if element.VM > 1 else str(value)
    return out
