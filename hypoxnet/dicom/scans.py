"""Who was scanned, when, and how: what the headers of a synthetic study say besides its voxels."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import check_long
from hypoxnet.errors import MapError
from hypoxnet.maps.suv import HALF_LIFE_S, Body, Injection
from hypoxnet.quantities import TRACERS, suggestion

# Every patient begins on this day; only the days between visits mean something.
FIRST_STUDY = datetime(2000, 1, 1, 8)
LAST_DAY = 36500
# Of the UIDs, which are UUIDs of a name (version 5) below 2.25 (PS3.5 section B.2).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "hypoxnet:digital-reference-object")
# Of F-18, which labels all tracers of the table.
HALF_LIFE = HALF_LIFE_S["F-18"]
# Description, by which readers choose a channel, of each weighting.
WEIGHTINGS = {"T1W": "T1W", "T1WGD": "T1W GD", "T2W": "T2W", "T2WFS": "T2W FS"}


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """Whose study, and which visit; all of its UIDs and times follow from it.

    Args:
        case_id: Patient ID and Patient's Name.
        seed: What the UIDs are made from. Equal UIDs stand for equal voxels: it must name the cohort and everything
            that its voxels depend on.
        weight_kg: Body weight.
        day: Days since the first study of the patient.
        sex: `M` or `F`, empty where it is not known.
        age_years: None where it is not known.

    Raises:
        DicomError: A value is impossible.

    Example:
        >>> study = StudyIdentity("HN001", "small cohort, seed 1", 72.0, day=14)
        >>> study.began.isoformat(), study.uid("study") == StudyIdentity("HN001", "another", 72.0, day=14).uid("study")
        ('2000-01-15T08:00:00', False)
    """

    case_id: str
    seed: str
    weight_kg: float
    day: int = 0
    sex: str = ""
    age_years: float | None = None

    def __post_init__(self) -> None:
        check_long(self.case_id, "the case id")
        if not self.seed:
            raise DicomError("the seed of the UIDs is empty; name the cohort, so that no other one has the same UIDs")
        if not 0 <= self.day <= LAST_DAY:
            raise DicomError(f"the study is {self.day} days after the first one, 0 to {LAST_DAY} are possible")
        if self.sex not in ("", "M", "F"):
            raise DicomError(f"the sex is {self.sex!r}; give M, F or nothing")
        if self.age_years is not None and not 0 <= self.age_years < 130:
            raise DicomError(f"an age of {self.age_years:g} years is none; give 0 to 130, or None")
        try:
            Body(self.weight_kg)
        except MapError as error:
            raise DicomError(str(error)) from error

    @property
    def began(self) -> datetime:
        """Fictitious begin of the study, when tracers are injected."""
        return FIRST_STUDY + timedelta(days=self.day)

    def uid(self, *names: str) -> str:
        """The UID of a part of this study, always the same for the same names."""
        whole = "\0".join((self.seed, self.case_id, str(self.day), *names))
        return f"2.25.{uuid.uuid5(NAMESPACE, whole).int}"


@dataclass(frozen=True, slots=True)
class PetScan:
    """A static PET scan of one bed position, corrected for decay to its begin; voxels are given as SUV by body weight.

    Args:
        tracer: A key of `quantities.TRACERS`; all are labelled with F-18.
        dose_bq: Activity injected, Bq.
        uptake_s: From the injection to the begin of the scan, s.
        duration_s: Of the scan, s.

    Raises:
        DicomError: The tracer is unknown, or dose or a time is impossible.

    Example:
        >>> PetScan("FMISO", 370e6, uptake_s=14400.0, duration_s=600.0).channel
        'FMISO_SUV'
    """

    tracer: str
    dose_bq: float
    uptake_s: float
    duration_s: float

    def __post_init__(self) -> None:
        if self.tracer not in TRACERS:
            raise DicomError(f"{self.tracer} is not a known tracer{suggestion(self.tracer, TRACERS)}")
        if not 0.001 <= self.duration_s < 86400:
            raise DicomError(f"{self.tracer}: a scan of {self.duration_s:g} s is none; give its duration in s")
        try:
            _ = self.injection
        except MapError as error:
            raise DicomError(f"{self.tracer}: {error}") from error

    @property
    def injection(self) -> Injection:
        """Dose and times, on a clock that begins with the injection."""
        return Injection(self.dose_bq, HALF_LIFE, injected_s=0.0, reference_s=self.uptake_s)

    @property
    def channel(self) -> str:
        """The quantity of its voxels."""
        return f"{self.tracer}_SUV"


@dataclass(frozen=True, slots=True)
class CtScan:
    """A CT scan; voxels are given in HU and stored as whole numbers, as scanners do."""

    @property
    def channel(self) -> str:
        """The quantity of its voxels."""
        return "CT_HU"


@dataclass(frozen=True, slots=True)
class MrScan:
    """A weighted MR image.

    Args:
        channel: The weighting, a key of `WEIGHTINGS`.
        echo_time_ms: None leaves it empty.
        repetition_time_ms: None leaves it empty.

    Raises:
        DicomError: The weighting is unknown, or a time is not positive.
    """

    channel: str
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None

    def __post_init__(self) -> None:
        if self.channel not in WEIGHTINGS:
            raise DicomError(f"{self.channel} is no weighting of an MR series; there are {', '.join(WEIGHTINGS)}")
        for what, time in (("echo time", self.echo_time_ms), ("repetition time", self.repetition_time_ms)):
            if time is not None and not 0 < time < math.inf:
                raise DicomError(f"{self.channel}: the {what} is {time:g} ms, it must be positive")


Scan = PetScan | CtScan | MrScan
