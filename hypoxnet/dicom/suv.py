"""SUV from the headers of a PET series: every decision is a sentence, which goes into the sidecar.

Rules: DICOM PS3.3 C.8.9; the vendor-neutral algorithm of the QIBA FDG-PET profile; where vendors leave it, as said at
each step. Voxel values are those after the rescale slope and intercept of each slice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

from hypoxnet.dicom.clock import combined, moment, same_day
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.reading import dicom_failures
from hypoxnet.dicom.suv_elements import frame_duration_s, half_life_of, list_of, number_of, only_text, text_of
from hypoxnet.errors import HypoxNetError
from hypoxnet.maps.suv import (
    Body,
    body_surface_cm2,
    decay_factor,
    ideal_body_weight_sugawara_kg,
    lean_body_mass_james_kg,
    lean_body_mass_janmahasatian_kg,
    mean_decay_time_s,
)

log = logging.getLogger(__name__)

# No injection is smaller; a smaller number is MBq.
SMALLEST_DOSE_BQ = 1e5
MEGA = 1e6
# Nuclides that decay faster are gone the next day.
SAME_DAY_HALF_LIFE_S = 3 * 3600.0
# Taller than 3 means cm: nobody is 3 m tall, and nobody 3 cm.
METRES_BELOW = 3.0
PHILIPS_SUV, PHILIPS_ACTIVITY = (0x7053, 0x1000), (0x7053, 0x1009)
GE_SCAN_TIME, GE_INJECTION_TIME = (0x0009, 0x100D), (0x0009, 0x103B)


@dataclass(frozen=True, slots=True)
class PatientTable:
    """What the headers lack, given by the user.

    Args:
        weight_kg: None leaves it to the headers.
        height_cm: Likewise.
        sex: `M` or `F`, likewise.
    """

    weight_kg: float | None = None
    height_cm: float | None = None
    sex: str | None = None


@dataclass(frozen=True, slots=True)
class SuvDecision:
    """How a series becomes SUV by body weight.

    Args:
        factors: One per slice, multiplied with the rescaled voxel values; g/ml per unit of the series.
        steps: What was decided and from what, one sentence each.
        values: Numbers for the sidecar.
    """

    factors: tuple[float, ...]
    steps: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)


def decide_suv(slices: Sequence[Dataset], *, given: PatientTable | None = None) -> SuvDecision:
    """Decide how a PET series becomes SUV by body weight.

    Args:
        slices: Headers of the slices of one series (or one frame of it), in the order of the factors.
        given: What the user says of the patient; it goes before the headers.

    Raises:
        DicomError: Dose, time, weight or unit is missing or cannot be; the sentence says which and what to give.
    """
    with dicom_failures("the PET series", "compute its SUV"):
        try:
            return _Decision(slices, given or PatientTable()).decide()
        except HypoxNetError as error:
            raise DicomError(str(error)) from error


class _Decision:
    def __init__(self, slices: Sequence[Dataset], given: PatientTable) -> None:
        if not slices:
            raise DicomError("the PET series has no slice")
        self.slices = slices
        self.first = slices[0]
        self.given = given
        self.steps: list[str] = []
        self.values: dict[str, Any] = {}

    def decide(self) -> SuvDecision:
        """By the unit of the voxel values."""
        unit = only_text(self.slices, "Units")
        match unit:
            case "GML" | "CM2ML":
                self._check_corrections()
                factors = [self._from_suv(unit)] * len(self.slices)
            case "BQML":
                self._check_corrections()
                factors = self._from_activity([1.0] * len(self.slices))
            case "CNTS":
                factors = self._from_counts()
            case "PROPCPS":
                raise DicomError(
                    "Units (0054,1001) is PROPCPS, counts per second in proportion: no calibration leads from there to "
                    "activity; reconstruct in BQML"
                )
            case _:
                raise DicomError(f"Units (0054,1001) is {unit or 'missing'}; SUV needs BQML, CNTS, GML or CM2ML")
        self.values["Units"] = unit
        return SuvDecision(tuple(factors), tuple(self.steps), self.values)

    def _note(self, text: str) -> None:
        self.steps.append(text)

    def _check_corrections(self) -> None:
        corrected = {str(item).upper() for item in list_of(self.first.get("CorrectedImage"))}
        if corrected and "ATTN" not in corrected:
            raise DicomError(
                f"CorrectedImage (0028,0051) is {', '.join(sorted(corrected))}, without ATTN: an image that is not "
                "corrected for attenuation has no SUV; choose the corrected series"
            )
        if not corrected:
            self._note("CorrectedImage is missing: attenuation correction is assumed")

    def _from_counts(self) -> list[float]:
        """Philips: a factor to SUV, or one to Bq/ml."""
        self._check_corrections()
        scale = [number_of(s.get(PHILIPS_SUV)) for s in self.slices]
        if all(scale):
            self._note(f"Units is CNTS: voxels times the private SUV factor (7053,1000) {scale[0]:g}")
            self.values["PhilipsSuvFactor"] = scale[0]
            return [float(value) for value in scale if value]
        activity = [number_of(s.get(PHILIPS_ACTIVITY)) for s in self.slices]
        if not all(activity):
            raise DicomError(
                "Units (0054,1001) is CNTS and neither (7053,1000) nor (7053,1009) is there: they were lost when the "
                "file was de-identified; export again with these private tags"
            )
        self._note(f"Units is CNTS: voxels times the private factor (7053,1009) {activity[0]:g} give Bq/ml")
        self.values["PhilipsActivityFactor"] = activity[0]
        return self._from_activity([float(value) for value in activity if value])

    def _from_suv(self, unit: str) -> float:
        """Voxels are SUV already; those by another size of the body are brought to body weight."""
        kind = str(self.first.get("SUVType") or ("BW" if unit == "GML" else "BSA")).strip().upper()
        if kind == "BW":
            self._note("Units is GML: voxels are SUV by body weight already")
            return 1.0
        weight = self._weight_kg()
        size, words = self._size(kind)
        # Surface in cm2 goes with grams, masses in kg with kg.
        factor = weight * 1000.0 / size if kind == "BSA" else weight / size
        self._note(f"Units is {unit}, SUV Type {kind}: times {weight:g} kg over {words} gives SUV by body weight")
        return factor

    def _size(self, kind: str) -> tuple[float, str]:
        """The size of the body that a series was divided by, kg or cm2."""
        weight, height = self._weight_kg(), self._height_cm()
        if kind == "BSA":
            area = body_surface_cm2(weight, height)
            return area, f"a surface of {area:.0f} cm2"
        sex = self._sex()
        formulas = {
            "LBM": lambda: lean_body_mass_james_kg(weight, height, sex=sex),
            "LBMJAMES128": lambda: lean_body_mass_james_kg(weight, height, sex=sex, male_factor=128.0),
            "LBMJANMA": lambda: lean_body_mass_janmahasatian_kg(weight, height, sex=sex),
            "IBW": lambda: ideal_body_weight_sugawara_kg(height, sex=sex),
        }
        if kind not in formulas:
            raise DicomError(f"SUV Type (0054,1006) is {kind}; known are BW, BSA, {', '.join(formulas)}")
        mass = formulas[kind]()
        if mass <= 0:
            raise DicomError(
                f"SUV Type (0054,1006) is {kind}, whose formula gives {mass:.1f} kg for {weight:g} kg and {height:g} "
                "cm and is out of its range; reconstruct in BQML"
            )
        return mass, f"{mass:.2f} kg"

    def _from_activity(self, to_bq_per_ml: Sequence[float]) -> list[float]:
        weight_g = self._weight_kg() * 1000.0
        doses = self._doses_at_reference()
        return [scale * weight_g / dose for scale, dose in zip(to_bq_per_ml, doses, strict=True)]

    def _doses_at_reference(self) -> list[float]:
        """Activity that is left at the time for which the voxels of each slice are given."""
        dose, half_life = self._dose_bq(), self._half_life_s()
        correction = str(only_text(self.slices, "DecayCorrection") or "").upper()
        self.values |= {"DoseBq": dose, "HalfLifeS": half_life, "DecayCorrection": correction}
        if correction == "ADMIN":
            self._note("DecayCorrection is ADMIN: voxels are given for the time of injection, the dose is whole")
            return [dose] * len(self.slices)
        if correction not in {"START", "NONE"}:
            raise DicomError(
                f"DecayCorrection (0054,1102) is {correction or 'missing'}; it must be START, ADMIN or NONE"
            )
        references = self._references(correction, half_life)
        injected, note = same_day(
            self._injected(references[0]), references[0], drop_days=half_life < SAME_DAY_HALF_LIFE_S
        )
        if note:
            self._note(note)
        delays = [(reference - injected).total_seconds() for reference in references]
        self.values |= {"InjectionToReferenceS": delays[0]}
        if max(delays) > 10 * half_life:
            raise DicomError(
                f"the scan is {max(delays):.0f} s after the injection, more than ten half-lives of {half_life:g} s; "
                "check both times"
            )
        if min(delays) < 0:
            # Dates apart were brought together for the first slice: another one lies on another day than it.
            raise DicomError(
                f"a slice is given for {-min(delays):.0f} s before the injection, another one for {max(delays):.0f} s "
                "after it; check the dates of acquisition"
            )
        self._note(f"the dose is decayed by {delays[0]:.3f} s with a half-life of {half_life:g} s")
        return [dose * decay_factor(delay, half_life) for delay in delays]

    def _references(self, correction: str, half_life: float) -> list[datetime]:
        acquired = [self._acquired(s) for s in self.slices]
        if correction == "NONE":
            self._note("DecayCorrection is NONE: each slice is given for the mean time of decay within its frame")
            return [
                a + timedelta(seconds=mean_decay_time_s(frame_duration_s(s), half_life))
                for a, s in zip(acquired, self.slices, strict=True)
            ]
        series = combined(text_of(self.first, "SeriesDate"), text_of(self.first, "SeriesTime"))
        if series is not None and series <= min(acquired):
            self._note("DecayCorrection is START: voxels are given for the series time, which is not after any slice")
            return [series] * len(self.slices)
        scan = moment(text_of(self.first, GE_SCAN_TIME))
        if scan is not None:
            self._note("the series time is after a slice: voxels are given for GE's scan time (0009,100d)")
            return [scan] * len(self.slices)
        if all(number_of(s.get("FrameReferenceTime")) == 0 for s in self.slices):
            # No frame is its own reference on average: such scanners write 0 and correct to the first acquisition.
            self._note("the series time is after a slice and FrameReferenceTime is 0: the first acquisition is taken")
            return [min(acquired)] * len(self.slices)
        self._note(
            "the series time is missing or after a slice: the reference is computed back from each slice's acquisition "
            "time, frame reference time and duration"
        )
        return [self._computed_back(a, s, half_life) for a, s in zip(acquired, self.slices, strict=True)]

    @staticmethod
    def _computed_back(acquired: datetime, header: Dataset, half_life: float) -> datetime:
        """Acquisition time less frame reference time plus the mean time of decay within the frame."""
        offset = number_of(header.get("FrameReferenceTime"))
        if offset is None:
            raise DicomError(
                "the series time is after the acquisition and FrameReferenceTime (0054,1300) is missing: the time of "
                "decay correction is not known; export again with it"
            )
        middle = mean_decay_time_s(frame_duration_s(header), half_life)
        return acquired + timedelta(seconds=middle - offset / 1000.0)

    def _acquired(self, header: Dataset) -> datetime:
        date = text_of(header, "AcquisitionDate") or text_of(header, "SeriesDate") or text_of(header, "StudyDate")
        when = combined(date, text_of(header, "AcquisitionTime")) or moment(text_of(header, "AcquisitionDateTime"))
        when = when or combined(text_of(header, "SeriesDate"), text_of(header, "SeriesTime"))
        if when is None:
            raise DicomError(
                "neither AcquisitionTime (0008,0032) nor SeriesTime (0008,0031) can be read: the scan has no time"
            )
        return when

    def _injected(self, reference: datetime) -> datetime:
        item = self._radiopharmaceutical()
        when = moment(text_of(item, "RadiopharmaceuticalStartDateTime"))
        if when is not None:
            return when
        time = combined(reference.strftime("%Y%m%d"), text_of(item, "RadiopharmaceuticalStartTime"))
        if time is not None:
            self._note("the injection has a time and no date: it was on the day of the scan, or before midnight")
            return time
        private = moment(text_of(self.first, GE_INJECTION_TIME))
        if private is not None:
            self._note("the injection is GE's private (0009,103b)")
            return private
        raise DicomError(
            "the time of injection is missing (0018,1078 and 0018,1072): without it no SUV can be computed; add it, or "
            "export again"
        )

    def _radiopharmaceutical(self) -> Dataset:
        items = self.first.get("RadiopharmaceuticalInformationSequence")
        if not items:
            raise DicomError(
                "the radiopharmaceutical information (0054,0016) is missing: dose and time of injection are not known"
            )
        return items[0]

    def _dose_bq(self) -> float:
        dose = number_of(self._radiopharmaceutical().get("RadionuclideTotalDose"))
        if dose is None or dose <= 0:
            raise DicomError(
                f"the injected dose (0018,1074) is {'missing' if dose is None else f'{dose:g}'}: no SUV can be "
                "computed; add it, or export again"
            )
        if dose < SMALLEST_DOSE_BQ:
            self._note(f"the dose of {dose:g} is below {SMALLEST_DOSE_BQ:g} Bq: it was read as MBq")
            return dose * MEGA
        return dose

    def _half_life_s(self) -> float:
        item = self._radiopharmaceutical()
        half_life = number_of(item.get("RadionuclideHalfLife"))
        codes = item.get("RadionuclideCodeSequence") or []
        meaning = str(codes[0].get("CodeMeaning", "")) if codes else ""
        expected = half_life_of(meaning)
        if half_life is None or half_life <= 0:
            if expected is None:
                raise DicomError("the half-life (0018,1075) is missing and the nuclide is not known; add it")
            self._note(f"the half-life is missing: that of {meaning} is {expected:g} s")
            return expected
        if expected is not None and abs(half_life - expected) > 0.01 * expected:
            raise DicomError(
                f"the half-life (0018,1075) is {half_life:g} s, that of {meaning} is {expected:g} s; mend one of them"
            )
        return half_life

    def _weight_kg(self) -> float:
        weight = self.given.weight_kg or number_of(self.first.get("PatientWeight"))
        if not weight:
            raise DicomError("the weight (0010,1030) is missing; give it in the patient table")
        Body(weight)
        self.values["WeightKg"] = weight
        return weight

    def _height_cm(self) -> float:
        size = number_of(self.first.get("PatientSize"))
        height = self.given.height_cm or (size * 100.0 if size and size < METRES_BELOW else size)
        if not height:
            raise DicomError("the height (0010,1020) is missing; give it in the patient table")
        Body(self.given.weight_kg or 70.0, height)
        if size and size >= METRES_BELOW and not self.given.height_cm:
            self._note(f"a height of {size:g} was read as cm")
        self.values["HeightCm"] = height
        return height

    def _sex(self) -> str:
        sex = (self.given.sex or text_of(self.first, "PatientSex")).upper()[:1]
        if sex not in {"M", "F"}:
            raise DicomError(f"the sex (0010,0040) is {sex or 'missing'}; give M or F in the patient table")
        return sex
