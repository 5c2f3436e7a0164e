"""The table of quantities: what a channel, mask or covariate is called, its unit, range and source.

A voxel value means nothing without its quantity. Column names of a manifest are looked up here; a name that is
not in the table is refused with the nearest name that is.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from hypoxnet.errors import QuantityError


class Modality(Enum):
    """What made the image; augmentation and normalisation follow it."""

    PET = "PET"
    CT = "CT"
    MR = "MR"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Quantity:
    """What the voxels of one channel mean.

    Args:
        name: Column name in a manifest, for example `FMISO_SUV`.
        meaning: What is measured, in words.
        unit: Unit of a voxel; `a.u.` for a weighted image whose scale is arbitrary.
        modality: What made the image.
        low: Smallest plausible voxel value, in `unit`.
        high: Largest plausible voxel value, in `unit`.
        source: Where the range comes from.
    """

    name: str
    meaning: str
    unit: str
    modality: Modality
    low: float
    high: float
    source: str

    @property
    def is_arbitrary(self) -> bool:
        """True for weighted images, whose scale differs from scan to scan."""
        return self.unit == "a.u."


@dataclass(frozen=True, slots=True)
class Covariate:
    """A clinical covariate: unit, plausible range, and how a model reads it.

    Args:
        name: Column name in a manifest.
        meaning: What it is, in words.
        unit: Unit; `code` for a number that stands for a word.
        low: Smallest plausible value.
        high: Largest plausible value.
        kind: `linear`, `log`, `category` or `ordinal`, as in `transforms.covariates`.
        offset: Added before the logarithm: 0 for what is never 0, 1 where none is common.
        levels: Words of a category; its value is the place in this list.
        words: Words that a manifest may hold in place of the number, in lower case.
        pattern: Further spellings, as a regular expression whose first group is the number.
        aliases: Other names of the column, in lower case, that mean nothing else.
    """

    name: str
    meaning: str
    unit: str
    low: float
    high: float
    kind: str = "linear"
    offset: float = 0.0
    levels: tuple[str, ...] = ()
    words: Mapping[str, float] = field(default_factory=dict)
    pattern: str = ""
    aliases: tuple[str, ...] = ()


TRACERS: dict[str, str] = {
    "FMISO": "18F-fluoromisonidazole",
    "FAZA": "18F-fluoroazomycin arabinoside",
    "HX4": "18F-flortanidazole",
    "EF5": "18F-EF5",
    "FDG": "18F-fluorodeoxyglucose",
}

HYPOXIA_TRACERS = ("FMISO", "FAZA", "HX4", "EF5")

# SUV above 100 g/ml is never tumour, kidney or bladder on a calibrated scan: it is Bq/ml or counts.
_SUV_HIGH = {"FDG": 100.0}
_HYPOXIA_SUV_HIGH = 50.0


def _pet() -> list[Quantity]:
    source = "tumour SUVmax 1-5 for hypoxia tracers, 2-40 for FDG; excretion organs above"
    rows = []
    for tracer, full_name in TRACERS.items():
        high = _SUV_HIGH.get(tracer, _HYPOXIA_SUV_HIGH)
        rows += [
            Quantity(f"{tracer}_SUV", f"{full_name} uptake by body weight", "g/ml", Modality.PET, 0.0, high, source),
            Quantity(f"{tracer}_SUL", f"{full_name} uptake by lean mass", "g/ml", Modality.PET, 0.0, high, source),
            Quantity(
                f"{tracer}_SUVIBW", f"{full_name} uptake by ideal weight", "g/ml", Modality.PET, 0.0, high, source
            ),
            Quantity(
                f"{tracer}_SUVBSA",
                f"{full_name} uptake by body surface",
                "cm2/ml",
                Modality.PET,
                0.0,
                high / 30,
                source,
            ),
            Quantity(f"{tracer}_TBR", f"{full_name} uptake over blood", "1", Modality.PET, 0.0, high, source),
            Quantity(f"{tracer}_TMR", f"{full_name} uptake over muscle", "1", Modality.PET, 0.0, high, source),
        ]
        rows += [
            Quantity(f"{tracer}_{n}", f"{full_name}: {meaning}", unit, Modality.MAP, lo, hi, why)
            for n, meaning, unit, lo, hi, why in _KINETICS
        ]
    other = "another tracer: any uptake of a calibrated scan"
    return [*rows, Quantity("PET_SUV", "uptake of another tracer", "g/ml", Modality.PET, 0.0, 200.0, other)]


_KINETICS = [
    ("KI", "influx rate constant", "ml/ml/min", -0.05, 1.0, "hypoxia tracers to 0.01, FDG to 0.3; noise goes below 0"),
    ("V0", "intercept of the Patlak line", "1", -2.0, 10.0, "K1/k2 of 0.7-1.1 for misonidazoles"),
    ("VT", "distribution volume", "1", 0.0, 100.0, "1 for a tracer that is not bound"),
    ("K1", "uptake rate constant", "ml/ml/min", 0.0, 2.0, "blood flow times extraction"),
    ("K2", "washout rate constant", "1/min", 0.0, 3.0, "bounds of the fit"),
    ("K3", "trapping rate constant", "1/min", 0.0, 1.0, "hypoxia tracers to 0.02, FDG to 0.3"),
    ("VB", "blood volume fraction", "1", 0.0, 0.3, "bounds of the fit"),
]


def _mri() -> list[Quantity]:
    weighted = "weighted image: arbitrary scale"
    rows = [
        ("T1W", "T1-weighted image", "a.u.", -1e6, 1e6, weighted),
        ("T1WGD", "T1-weighted image after gadolinium", "a.u.", -1e6, 1e6, weighted),
        ("T2W", "T2-weighted image", "a.u.", -1e6, 1e6, weighted),
        ("T2WFS", "T2-weighted image, fat suppressed", "a.u.", -1e6, 1e6, weighted),
    ]
    maps = [
        ("T1", "longitudinal relaxation time", "s", 0.0, 8.0, "tissue 0.2-4.5 s at 1.5-3 T"),
        ("B1", "actual over nominal flip angle", "1", 0.0, 3.0, "0.6-1.4 at 3 T"),
        ("R1", "longitudinal relaxation rate", "1/s", 0.0, 50.0, "T1 of 0.02 s and more; tissue 0.2-5 1/s"),
        ("DR1", "change of R1 from air to oxygen", "1/s", -1.0, 1.0, "|dR1| below 0.2 1/s in tissue"),
        ("DT1", "change of T1 from air to oxygen", "%", -60.0, 60.0, "|dT1| below 15 % in tissue"),
        ("R2STAR", "effective transverse relaxation rate", "1/s", 0.0, 1000.0, "tissue 10-120 1/s, more next to air"),
        ("DR2STAR", "change of R2* from air to oxygen", "1/s", -500.0, 500.0, "a few 1/s in tissue, more next to air"),
        ("T2STAR", "effective transverse relaxation time", "s", 0.0, 2.0, "tissue 0.008-0.1 s"),
        ("ADC", "apparent diffusion coefficient", "1e-3 mm2/s", 0.0, 10.0, "free water at 37 C: 3.0e-3 mm2/s"),
        ("IVIM_D", "diffusion without perfusion", "1e-3 mm2/s", 0.0, 5.0, "free water at 37 C: 3.0e-3 mm2/s"),
        ("IVIM_F", "perfusion fraction of the diffusion signal", "1", 0.0, 0.7, "tumours 0.05-0.3"),
        ("IVIM_DSTAR", "pseudo-diffusion coefficient", "1e-3 mm2/s", 3.0, 150.0, "tumours 3-100; repeats poorly"),
        ("KTRANS", "volume transfer constant", "1/min", 0.0, 5.0, "bounds of the OSIPI reference fits"),
        ("KEP", "efflux rate constant", "1/min", 0.0, 20.0, "Ktrans / ve"),
        ("VE", "extravascular extracellular volume fraction", "1", 0.0, 1.0, "a fraction"),
        ("VP", "plasma volume fraction", "1", 0.0, 1.0, "a fraction"),
        ("PS", "permeability-surface product", "1/min", 0.0, 5.0, "bounds of the OSIPI reference fits"),
        ("FP", "plasma flow", "ml/100ml/min", 0.0, 500.0, "bounds of the OSIPI reference fits, with margin"),
        ("IAUC60", "initial area under the concentration curve, 60 s", "mM s", -50.0, 500.0, "concentration to 8 mM"),
        ("PO2", "oxygen partial pressure", "mmHg", 0.0, 760.0, "one atmosphere"),
        ("SO2", "oxygen saturation of haemoglobin", "1", 0.0, 1.0, "a fraction"),
        ("THB", "total haemoglobin", "mM", 0.0, 5.0, "whole blood 2.3 mM"),
    ]
    return [Quantity(n, m, u, Modality.MR, lo, hi, s) for n, m, u, lo, hi, s in rows] + [
        Quantity(n, m, u, Modality.MAP, lo, hi, s) for n, m, u, lo, hi, s in maps
    ]


_CT = Quantity("CT_HU", "X-ray attenuation", "HU", Modality.CT, -2048.0, 32767.0, "12-bit CT with metal to 16 bit")

QUANTITIES: dict[str, Quantity] = {q.name: q for q in [*_pet(), _CT, *_mri()]}

MASKS: dict[str, str] = {
    "GTVP": "gross tumour volume of the primary",
    "GTVN": "gross tumour volume of the involved nodes",
    "HYPOXIA": "hypoxic subvolume",
    "MUSCLE": "reference region in muscle",
    "BLOOD": "reference region in the blood pool",
    "BODY": "patient outline",
    "AIR": "air cavities, next to which R2* says nothing",
    "PERFUSED": "voxels that contrast agent reaches",
}

# Raw series of which maps are made before training and inference; by column of the manifest.
RAW_SERIES: dict[str, str] = {
    "RAW_VFA": "spoiled gradient echoes at several flip angles: T1, R1",
    "RAW_INVERSION": "inversion recovery or Look-Locker: T1, R1",
    "RAW_OE": "gradient echoes under air, then oxygen: DR1, DT1",
    "RAW_OE_OXYGEN": "T1 map under oxygen, when RAW_OE is one under air",
    "RAW_R2STAR": "multi-echo gradient echo: R2STAR, T2STAR",
    "RAW_DCE": "contrast-enhanced series: KTRANS and the rest",
    "RAW_ADC": "diffusion-weighted series: ADC",
    "RAW_IVIM": "diffusion-weighted series with low b-values: IVIM_D, IVIM_F, IVIM_DSTAR",
    "RAW_PET": "dynamic PET: KI and the rest, of the tracer of the settings",
}

_YES_NO = {"yes": 1.0, "y": 1.0, "no": 0.0, "n": 0.0}
_SEX = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}
_ARM = {"experimental": 1.0, "treatment": 1.0, "treated": 1.0, "control": 0.0, "standard": 0.0}
_HPV = {"positive": 1.0, "pos": 1.0, "+": 1.0, "negative": 0.0, "neg": 0.0, "-": 0.0}
_SUBSITES = (
    "oropharynx",
    "larynx",
    "hypopharynx",
    "oral_cavity",
    "nasopharynx",
    "paranasal_sinus",
    "salivary_gland",
    "unknown_primary",
    "other",
)

# Volumes are of the whole contour; 0.01 ml is a voxel or two, 1500 ml a tumour of 14 cm.
COVARIATES: dict[str, Covariate] = {
    c.name: c
    for c in [
        Covariate("age", "age at the start of radiotherapy", "years", 0.0, 120.0),
        Covariate("sex", "0 female, 1 male", "code", 0.0, 1.0, words=_SEX, aliases=("gender",)),
        Covariate("hpv", "HPV or p16 status, 0 negative, 1 positive", "code", 0.0, 1.0, words=_HPV, aliases=("p16",)),
        Covariate(
            "t_stage",
            "T category",
            "code",
            0.0,
            4.0,
            kind="ordinal",
            words={"tis": 0.0, "is": 0.0},
            pattern=r"[cp]?t?([0-4])[a-d]?",
            aliases=("t", "t_category", "tstage", "ct", "t-stage"),
        ),
        Covariate(
            "n_stage",
            "N category",
            "code",
            0.0,
            3.0,
            kind="ordinal",
            pattern=r"[cp]?n?([0-3])[a-d]?",
            aliases=("n", "n_category", "nstage", "cn", "n-stage"),
        ),
        Covariate(
            "gtv_ml",
            "gross tumour volume, primary and nodes",
            "ml",
            0.01,
            1500.0,
            kind="log",
            aliases=("tumour_volume_ml", "tumor_volume_ml", "volume_ml", "gtv_volume_ml", "tumour_ml", "tumor_ml"),
        ),
        Covariate("gtvp_ml", "gross tumour volume of the primary", "ml", 0.01, 1500.0, kind="log"),
        Covariate(
            "subsite",
            "where the primary is",
            "word",
            0.0,
            len(_SUBSITES) - 1.0,
            kind="category",
            levels=_SUBSITES,
            aliases=("tumour_site", "tumor_site", "primary_site"),
        ),
        Covariate("subsite_oropharynx", "1 when the primary is in the oropharynx", "code", 0.0, 1.0, words=_YES_NO),
        Covariate(
            "smoking_pack_years", "tobacco", "pack-years", 0.0, 300.0, kind="log", offset=1.0, aliases=("pack_years",)
        ),
        Covariate("hb_g_dl", "haemoglobin", "g/dl", 3.0, 25.0),
        Covariate("ecog", "ECOG performance status", "code", 0.0, 4.0, kind="ordinal"),
        Covariate("chemo", "1 when chemotherapy was given with radiation", "code", 0.0, 1.0, words=_YES_NO),
        Covariate("nimorazole", "1 when a hypoxic sensitiser was given", "code", 0.0, 1.0, words=_YES_NO),
        Covariate("dose_gy", "prescribed dose to the tumour", "Gy", 0.0, 120.0),
        Covariate(
            "arm",
            "0 control, 1 the treatment that is compared with it",
            "code",
            0.0,
            1.0,
            words=_ARM,
            aliases=("treatment_arm", "trial_arm", "study_arm"),
        ),
        Covariate("overall_time_days", "first to last fraction", "days", 1.0, 120.0),
        Covariate("til", "tumour-infiltrating lymphocytes", "%", 0.0, 100.0, aliases=("tils", "til_percent")),
        Covariate(
            "pd_l1_cps",
            "PD-L1 combined positive score",
            "score",
            0.0,
            100.0,
            kind="log",
            offset=1.0,
            aliases=("cps", "pdl1_cps", "pd-l1_cps"),
        ),
    ]
}

COVARIATE_ALIASES: dict[str, str] = {alias: c.name for c in COVARIATES.values() for alias in c.aliases}

COVARIATE_PREFIX = "x_"

# What an image and a contour say about a patient in one number, measured by `data.measured`; covariates by name.
READ_OUTS: dict[str, Covariate] = {
    c.name: c
    for tracer in TRACERS
    for c in [
        Covariate(f"{tracer}_SUVMAX", f"{tracer}: highest SUV in the tumour", "g/ml", 0.0, 100.0, "log"),
        Covariate(f"{tracer}_SUVMEAN", f"{tracer}: mean SUV in the tumour", "g/ml", 0.0, 100.0, "log"),
        Covariate(f"{tracer}_SUVPEAK", f"{tracer}: highest mean SUV of a 1 ml sphere", "g/ml", 0.0, 100.0, "log"),
        Covariate(f"{tracer}_TMRMAX", f"{tracer}: SUVmax over the median of muscle", "1", 0.0, 100.0, "log"),
        Covariate(f"{tracer}_TBRMAX", f"{tracer}: SUVmax over the mean of blood", "1", 0.0, 100.0, "log"),
    ]
} | {
    c.name: c
    for tracer in ("FMISO", "FAZA")
    for c in [
        Covariate(f"{tracer}_HV_ML", f"{tracer}: hypoxic volume at its threshold", "ml", 0.0, 1500.0, "log", 1.0),
        Covariate(f"{tracer}_HF", f"{tracer}: share of the tumour that is hypoxic", "1", 0.0, 1.0),
    ]
}


def covariate(name: str) -> Covariate:
    """The row of a covariate, a read-out or a covariate of the user's own, which is linear and of any value.

    Example:
        >>> covariate("gtv_ml").kind, covariate("x_albumin").kind
        ('log', 'linear')
    """
    known = COVARIATES.get(name) or READ_OUTS.get(name)
    return known or Covariate(name, "a covariate of the cohort's own", "any", -math.inf, math.inf)


def quantity(name: str) -> Quantity:
    """The quantity of a channel.

    Raises:
        QuantityError: The name is not in the table.

    Example:
        >>> quantity("FMISO_SUV").unit
        'g/ml'
    """
    if name in QUANTITIES:
        return QUANTITIES[name]
    raise QuantityError(f"{name} is not a known quantity{suggestion(name, QUANTITIES)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known name, or nothing.

    Example:
        >>> suggestion("FMSIO_SUV", QUANTITIES)
        '; did you mean FMISO_SUV?'
    """
    by_upper = {k.upper(): k for k in known}
    nearest = difflib.get_close_matches(name.upper(), by_upper, n=1, cutoff=0.6)
    return f"; did you mean {by_upper[nearest[0]]}?" if nearest else ""
