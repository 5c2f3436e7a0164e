"""Standardised uptake values: what turns Bq/ml into SUV.

SUV = C * size / D, with C the activity concentration, D the dose decayed to the time to which C is corrected, and size
the body weight, lean body mass, ideal body weight or body surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from hypoxnet.errors import MapError

# Seconds. F-18 and C-11: European Pharmacopoeia 5.7 (109.77 and 20.385 min). Ga-68: Kuzmenko 2019, Appl Radiat Isot
# 152:188 (67.83 min). Cu-64: Bergeron et al. 2018, key comparison BIPM.RI(II)-K4.Cu-64 (12.7004 h).
HALF_LIFE_S = {"F-18": 6586.2, "C-11": 1223.1, "Ga-68": 4069.8, "Cu-64": 45721.4}
# Scanners store values of different evaluations, which differ by less; a wrong nuclide or unit differs by more.
HALF_LIFE_TOLERANCE = 0.01
SMALLEST_DOSE_BQ = 1e5
# After ten half-lives a thousandth is left: nobody images that, but dates that are off by a day look like it.
LONGEST_DELAY_HALF_LIVES = 10.0
WEIGHT_RANGE_KG = (2.0, 400.0)
HEIGHT_RANGE_CM = (30.0, 250.0)


class SuvKind(StrEnum):
    """By what the dose is divided.

    `lbm` is the formula of Janmahasatian, as recommended today; DICOM's SUV Type `LBM` is that of James with the factor
    120, here `lbmjames`. `dicom_type` translates.
    """

    BODY_WEIGHT = "bw"
    LEAN_JANMAHASATIAN = "lbm"
    LEAN_JAMES128 = "lbmjames128"
    LEAN_JAMES = "lbmjames"
    IDEAL = "ibw"
    SURFACE = "bsa"

    @property
    def unit(self) -> str:
        """Unit of the SUV.

        Example:
            >>> SuvKind.BODY_WEIGHT.unit, SuvKind.SURFACE.unit
            ('g/ml', 'cm2/ml')
        """
        return "cm2/ml" if self is SuvKind.SURFACE else "g/ml"

    @property
    def dicom_type(self) -> str:
        """Its code in DICOM's SUV Type (0054,1006).

        Example:
            >>> SuvKind.LEAN_JANMAHASATIAN.dicom_type, SuvKind.LEAN_JAMES.dicom_type
            ('LBMJANMA', 'LBM')
        """
        return {SuvKind.LEAN_JANMAHASATIAN: "LBMJANMA", SuvKind.LEAN_JAMES: "LBM"}.get(self, self.value.upper())


@dataclass(frozen=True, slots=True)
class Body:
    """The patient on the day of the scan.

    Args:
        weight_kg: Body weight.
        height_cm: Height; may be missing for SUV by body weight.
        sex: `M` or `F`; may be missing for SUV by body weight or surface.

    Raises:
        MapError: A value is out of range.
    """

    weight_kg: float
    height_cm: float | None = None
    sex: str | None = None

    def __post_init__(self) -> None:
        low, high = WEIGHT_RANGE_KG
        if not low <= self.weight_kg <= high:
            raise MapError(f"a weight of {self.weight_kg:g} kg is outside {low:g} to {high:g} kg; give weight in kg")
        low, high = HEIGHT_RANGE_CM
        if self.height_cm is not None and not low <= self.height_cm <= high:
            metres = 0.3 <= self.height_cm <= 2.5
            fault = "looks like metres" if metres else f"is outside {low:g} to {high:g} cm"
            raise MapError(f"give height in cm, {self.height_cm:g} {fault}")
        if self.sex not in ("M", "F", None):
            raise MapError(
                f"sex is {self.sex!r}, the formulas know M and F; give one of them or use SUV by body weight"
            )


@dataclass(frozen=True, slots=True)
class Injection:
    """Dose and times; all times in seconds on one clock, for example since midnight of the day of injection.

    Args:
        dose_bq: Activity injected, at the time of injection, less what stayed in the syringe.
        half_life_s: Half-life, from the image's header where it has one.
        injected_s: When it was injected.
        reference_s: Time to which the voxel values are decay corrected; that of injection for values corrected to
            administration.
        nuclide: A key of `HALF_LIFE_S`, against which the half-life is checked; None leaves the check out.

    Raises:
        MapError: The dose looks like MBq, the half-life is not that of the nuclide, or the reference lies before the
            injection or so long after it that a date must be wrong.
    """

    dose_bq: float
    half_life_s: float
    injected_s: float
    reference_s: float
    nuclide: str | None = "F-18"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dose_bq) and self.dose_bq >= SMALLEST_DOSE_BQ):
            raise MapError(
                f"dose {self.dose_bq:g} Bq looks like MBq, at least {SMALLEST_DOSE_BQ:g} Bq is expected; give it in Bq"
            )
        _check_half_life(self.half_life_s, self.nuclide)
        delay = self.reference_s - self.injected_s
        if not delay >= 0:
            raise MapError(
                f"the reference time ({self.reference_s:g} s) is {-delay:g} s before the injection "
                f"({self.injected_s:g} s); give both on one clock, midnight and daylight saving included"
            )
        if delay > LONGEST_DELAY_HALF_LIVES * self.half_life_s:
            raise MapError(
                f"the reference time is {delay:g} s after the injection, more than {LONGEST_DELAY_HALF_LIVES:g} "
                f"half-lives of {self.half_life_s:g} s; check the dates of both"
            )

    def dose_at_reference_bq(self) -> float:
        """Activity left at the reference time, Bq.

        Example:
            >>> round(Injection(370e6, 6586.2, injected_s=0.0, reference_s=9000.0).dose_at_reference_bq() / 1e6, 3)
            143.498
        """
        return self.dose_bq * decay_factor(self.reference_s - self.injected_s, self.half_life_s)


def _check_half_life(half_life_s: float, nuclide: str | None) -> None:
    if not (math.isfinite(half_life_s) and half_life_s > 0):
        raise MapError(f"a half-life of {half_life_s:g} s is not positive; take it from the image's header")
    if nuclide is None:
        return
    if nuclide not in HALF_LIFE_S:
        raise MapError(f"nuclide {nuclide!r} is not among {', '.join(HALF_LIFE_S)}; give one of them, or None")
    known = HALF_LIFE_S[nuclide]
    if abs(half_life_s - known) > HALF_LIFE_TOLERANCE * known:
        raise MapError(
            f"a half-life of {half_life_s:g} s differs by more than {HALF_LIFE_TOLERANCE:.0%} from the {known:g} s of "
            f"{nuclide}; give it in seconds, or name the nuclide that was injected"
        )


def decay_factor(seconds: float, half_life_s: float) -> float:
    """Share of an activity that is left after so many seconds.

    Args:
        seconds: Time passed; negative values go back in time and give more than 1.
        half_life_s: Half-life, s, positive.

    Example:
        >>> round(decay_factor(9000.0, 6586.2), 7)
        0.3878327
    """
    return math.exp2(-seconds / half_life_s)


def mean_decay_time_s(duration_s: float, half_life_s: float) -> float:
    """When, after its start, the activity of a frame equals its mean over the frame, s.

    (1 / l) ln(l T / (1 - exp(-l T))) with l = ln 2 / half-life and T the duration: slightly before the middle.

    Args:
        duration_s: Length of the frame, s, not negative; 0 gives 0.
        half_life_s: Half-life, s, positive.

    Raises:
        MapError: The duration is negative or not finite.

    Source:
        Vendor-neutral SUV calculation of the Quantitative Imaging Biomarkers Alliance (QIBA), FDG-PET/CT profile.

    Example:
        >>> round(mean_decay_time_s(1200.0, 6586.2), 3)
        593.686
    """
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise MapError(f"a frame of {duration_s:g} s has no length; give its duration in seconds")
    rate = math.log(2.0) / half_life_s
    passed = rate * duration_s
    # Series: the logarithm of a number next to 1 loses its digits in short frames.
    if passed < 1e-3:
        return duration_s * (0.5 - passed / 24.0)
    return math.log(passed / -math.expm1(-passed)) / rate


def frame_decay_correction(start_s: float, duration_s: float, *, half_life_s: float, reference_s: float = 0.0) -> float:
    """Factor that takes the mean of an uncorrected frame to the activity at the reference time.

    Args:
        start_s: Start of the frame, s, on the clock of the reference.
        duration_s: Length of the frame, s.
        half_life_s: Half-life, s, positive.
        reference_s: Time to correct to, s; 0 when frames are counted from the injection.

    Raises:
        MapError: The duration is negative or not finite.

    Example:
        >>> round(frame_decay_correction(9000.0, 1200.0, half_life_s=6586.2), 4)
        2.7447
    """
    passed = start_s + mean_decay_time_s(duration_s, half_life_s) - reference_s
    return 1.0 / decay_factor(passed, half_life_s)


def lean_body_mass_janmahasatian_kg(weight_kg: float, height_cm: float, *, sex: str) -> float:
    """Lean body mass after Janmahasatian, kg; holds for obese patients too.

    Args:
        weight_kg: Body weight, kg.
        height_cm: Height, cm.
        sex: `M` or `F`.

    Source:
        Janmahasatian et al. 2005, Clin Pharmacokinet 44:1051.

    Example:
        >>> round(lean_body_mass_janmahasatian_kg(75.0, 185.0, sex="M"), 2)
        60.92
    """
    bmi = weight_kg / (height_cm / 100.0) ** 2
    return 9270.0 * weight_kg / (6680.0 + 216.0 * bmi if sex == "M" else 8780.0 + 244.0 * bmi)


def lean_body_mass_james_kg(weight_kg: float, height_cm: float, *, sex: str, male_factor: float = 120.0) -> float:
    """Lean body mass after James, kg; falls with weight in the very obese, and below zero.

    Args:
        weight_kg: Body weight, kg.
        height_cm: Height, cm.
        sex: `M` or `F`.
        male_factor: 120 as misquoted by Morgan and Bray and used by most scanners, or the original 128.

    Source:
        James and Waterlow 1976, Research on Obesity (128); Morgan and Bray 1994, Clin Pharmacokinet 26:292 (120);
        DICOM PS3.16 CID 85 tells both apart.

    Example:
        >>> round(lean_body_mass_james_kg(75.0, 185.0, sex="M"), 2)
        62.78
    """
    slope, factor = (1.10, male_factor) if sex == "M" else (1.07, 148.0)
    return slope * weight_kg - factor * (weight_kg / height_cm) ** 2


def ideal_body_weight_sugawara_kg(height_cm: float, *, sex: str) -> float:
    """Ideal body weight as DICOM's SUVibw takes it, kg.

    Args:
        height_cm: Height, cm.
        sex: `M` or `F`.

    Source:
        Sugawara et al. 1999, Radiology 213:521, named by DICOM PS3.16 CID 85 for SUVibw.

    Example:
        >>> round(ideal_body_weight_sugawara_kg(185.0, sex="M"), 2)
        82.98
    """
    return 48.0 + 1.06 * (height_cm - 152.0) if sex == "M" else 45.5 + 0.91 * (height_cm - 152.0)


def ideal_body_weight_devine_kg(height_cm: float, *, sex: str) -> float:
    """Ideal body weight after Devine, kg: 2.3 kg for each inch above five feet; not that of DICOM's SUVibw.

    Args:
        height_cm: Height, cm.
        sex: `M` or `F`.

    Source:
        Devine 1974, Drug Intell Clin Pharm 8:650; Pai and Paloucek 2000, Ann Pharmacother 34:1066.

    Example:
        >>> round(ideal_body_weight_devine_kg(185.0, sex="M"), 2)
        79.52
    """
    return (50.0 if sex == "M" else 45.5) + 2.3 * (height_cm / 2.54 - 60.0)


def body_surface_cm2(weight_kg: float, height_cm: float) -> float:
    """Body surface after Du Bois, cm2.

    Args:
        weight_kg: Body weight, kg.
        height_cm: Height, cm.

    Source:
        Du Bois and Du Bois 1916, Arch Intern Med 17:863.

    Example:
        >>> round(body_surface_cm2(75.0, 185.0))
        19814
    """
    return 71.84 * math.pow(weight_kg, 0.425) * math.pow(height_cm, 0.725)


def suv_factor(kind: SuvKind, body: Body, injection: Injection) -> float:
    """Factor that turns Bq/ml, decay corrected to the injection's reference time, into SUV.

    Args:
        kind: Which SUV.
        body: The patient.
        injection: Dose and times.

    Returns:
        SUV per Bq/ml; the unit of the SUV is `kind.unit`.

    Raises:
        MapError: Height or sex is missing and needed, or the formula gives no mass for this patient.

    Source:
        Kinahan and Fletcher 2010, Semin Ultrasound CT MR 31:496.

    Example:
        >>> shot = Injection(370e6, 6586.2, injected_s=0.0, reference_s=9000.0)
        >>> round(8000.0 * suv_factor(SuvKind.BODY_WEIGHT, Body(75.0), shot), 3)
        4.181
    """
    size = _size(SuvKind(kind), body)
    if size <= 0:
        raise MapError(
            f"SUV {kind.value}: the formula gives {size / 1000.0:.3g} kg for {body.weight_kg:g} kg and "
            f"{body.height_cm:g} cm, which is out of its range; use {SuvKind.BODY_WEIGHT.value} or "
            f"{SuvKind.LEAN_JANMAHASATIAN.value}"
        )
    return size / injection.dose_at_reference_bq()


def _size(kind: SuvKind, body: Body) -> float:
    """What the dose is divided by: g, or cm2 for the surface."""
    if kind is SuvKind.BODY_WEIGHT:
        return 1000.0 * body.weight_kg
    if body.height_cm is None:
        raise MapError(f"SUV {kind.value} needs the height, which is missing; give it in cm or use SUV bw")
    if kind is SuvKind.SURFACE:
        return body_surface_cm2(body.weight_kg, body.height_cm)
    if body.sex is None:
        raise MapError(f"SUV {kind.value} needs the sex, which is missing; give M or F, or use SUV bw")
    if kind is SuvKind.IDEAL:
        return 1000.0 * ideal_body_weight_sugawara_kg(body.height_cm, sex=body.sex)
    if kind is SuvKind.LEAN_JANMAHASATIAN:
        return 1000.0 * lean_body_mass_janmahasatian_kg(body.weight_kg, body.height_cm, sex=body.sex)
    factor = 128.0 if kind is SuvKind.LEAN_JAMES128 else 120.0
    return 1000.0 * lean_body_mass_james_kg(body.weight_kg, body.height_cm, sex=body.sex, male_factor=factor)
