"""Settings of the maps, one class per kind. Values only: importing this loads no torch.

Times are in seconds unless a name says otherwise; an empty list or 0 takes the value from the sidecar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypoxnet.errors import ConfigError


def _one_of(owner: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{owner} is {value!r}, it must be one of {', '.join(choices)}")


@dataclass
class VfaSettings:
    """T1 from variable flip angles.

    Args:
        method: `nonlinear`, or `linear` (the line through S/sin against S/tan; faster, fails for very long T1).
        flips_deg: Flip angle of each volume, degrees.
        tr_s: Repetition time.
    """

    method: str = "nonlinear"
    flips_deg: list[float] = field(default_factory=list)
    tr_s: float = 0.0

    def __post_init__(self) -> None:
        _one_of("vfa.method", self.method, ("nonlinear", "linear"))


@dataclass
class InversionSettings:
    """T1 from inversion recovery.

    Args:
        inversion_times_s: Of each volume.
        magnitude: The signal has lost its sign; it then takes three times.
        efficiency: Of the inversion, 0.5 to 1.
        look_locker: The times belong to one train of readouts (Look-Locker, MOLLI): T1 is corrected for them.
    """

    inversion_times_s: list[float] = field(default_factory=list)
    magnitude: bool = True
    efficiency: float = 1.0
    look_locker: bool = False


@dataclass
class R2StarSettings:
    """R2* and T2* from a multi-echo gradient echo.

    Args:
        method: `log-linear` (weighted by the squared signal), `arlo` (equidistant echoes), or `nonlinear` (with a noise
            floor).
        echo_times_s: Of each volume.
        noise_sd: Standard deviation of the noise; echoes below three times it are left out of the log-linear fit.
        air_mm: Voxels closer than this to air have no value; 0 keeps them. Needs the air mask.
    """

    method: str = "log-linear"
    echo_times_s: list[float] = field(default_factory=list)
    noise_sd: float = 0.0
    air_mm: float = 5.0

    def __post_init__(self) -> None:
        _one_of("r2star.method", self.method, ("log-linear", "arlo", "nonlinear"))


@dataclass
class OxygenSettings:
    """Change of R1 from air to oxygen.

    Args:
        gas: What is breathed, in order: `air:30,transition:10,oxygen:40` in volumes; empty asks the sidecar (`Gas`).
        signal: `spoiled` (gradient echo, converted with the T1 map), or `t1` when the volumes are T1 in s already.
        t10_s: T1 of every voxel under air where there is no T1 map.
        flip_deg: Flip angle.
        tr_s: Repetition time.
        alpha: Level of the one-sided test that calls a voxel enhancing.
    """

    gas: str = ""
    signal: str = "spoiled"
    t10_s: float = 0.0
    flip_deg: float = 0.0
    tr_s: float = 0.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        _one_of("oe.signal", self.signal, ("spoiled", "t1"))


@dataclass
class DceSettings:
    """Perfusion and permeability from contrast-enhanced MRI.

    Args:
        model: `tofts`, `extended-tofts`, `patlak`, `2cxm` or `2cum`.
        signal: `spoiled` (gradient echo, converted with the T1 map), or `concentration` in mM.
        times_s: Of each volume; or `spacing_s`.
        spacing_s: Time between volumes.
        aif: `auto` (found in the series), `mask` (given), `file`, or a population curve: `parker`, `georgiou`,
            `preclinical`.
        aif_file: Table with time_s and plasma or blood, mM.
        haematocrit: Turns blood into plasma.
        relaxivity_per_s_mm: Of the agent.
        t10_s: T1 of every voxel before contrast where there is no T1 map.
        blood_t1_s: T1 of blood before contrast.
        flip_deg: Flip angle.
        tr_s: Repetition time.
        baseline: Volumes before the contrast arrives; 0 finds them.
        skip: Volumes at the begin that are not yet in the steady state.
        fit_delay: Fit the arrival in each voxel too.
    """

    model: str = "extended-tofts"
    signal: str = "spoiled"
    times_s: list[float] = field(default_factory=list)
    spacing_s: float = 0.0
    aif: str = "auto"
    aif_file: str = ""
    haematocrit: float = 0.42
    relaxivity_per_s_mm: float = 4.5
    t10_s: float = 0.0
    blood_t1_s: float = 1.65
    flip_deg: float = 0.0
    tr_s: float = 0.0
    baseline: int = 0
    skip: int = 0
    fit_delay: bool = False

    def __post_init__(self) -> None:
        _one_of("dce.model", self.model, ("tofts", "extended-tofts", "patlak", "2cxm", "2cum"))
        _one_of("dce.signal", self.signal, ("spoiled", "concentration"))
        _one_of("dce.aif", self.aif, ("auto", "mask", "file", "parker", "georgiou", "preclinical"))


@dataclass
class AdcSettings:
    """Apparent diffusion coefficient.

    Args:
        method: `log-linear` (weighted by the squared signal) or `nonlinear`.
        b_values: Of each volume, s/mm2; empty takes the .bval file.
        noise_sd: Standard deviation of the noise; samples below three times it are left out of the log-linear fit.
    """

    method: str = "log-linear"
    b_values: list[float] = field(default_factory=list)
    noise_sd: float = 0.0

    def __post_init__(self) -> None:
        _one_of("adc.method", self.method, ("log-linear", "nonlinear"))


@dataclass
class IvimSettings:
    """Intravoxel incoherent motion.

    Args:
        segmented: D and f from b of 200 s/mm2 on, then D*; else all at once.
        b_values: Of each volume, s/mm2; empty takes the .bval file.
    """

    segmented: bool = True
    b_values: list[float] = field(default_factory=list)


@dataclass
class PetSettings:
    """Kinetics of a tracer from dynamic PET.

    Args:
        tracer: FMISO, FAZA, HX4, EF5 or FDG.
        model: `patlak`, `logan`, or a compartment model: `1t`, `2t-irreversible`, `2t-reversible`, `3t-irreversible`,
            `casciari`.
        from_min: Begin of the line of Patlak and Logan, minutes after injection.
        frame_starts_s: Begin of each frame after injection.
        frame_durations_s: Duration of each frame.
        input: `auto` (found in the series), `mask` (given), or `file`.
        input_file: Table with time_s and plasma or blood, in the unit of the images.
        delay_s: How much later than in the input the tracer arrives in the tissue.
        dispersion_s: Time constant of the mixing between the two.
        half_life_s: Of the nuclide, for the weights of the frames.
    """

    tracer: str = "FMISO"
    model: str = "patlak"
    from_min: float = 30.0
    frame_starts_s: list[float] = field(default_factory=list)
    frame_durations_s: list[float] = field(default_factory=list)
    input: str = "auto"
    input_file: str = ""
    delay_s: float = 0.0
    dispersion_s: float = 0.0
    half_life_s: float = 6586.2

    def __post_init__(self) -> None:
        models = ("patlak", "logan", "1t", "2t-irreversible", "2t-reversible", "3t-irreversible", "casciari")
        _one_of("pet.model", self.model, models)
        _one_of("pet.tracer", self.tracer, ("FMISO", "FAZA", "HX4", "EF5", "FDG"))
        _one_of("pet.input", self.input, ("auto", "mask", "file"))


@dataclass
class SuvSettings:
    """Standardised uptake value from activity in Bq/ml.

    Args:
        tracer: FMISO, FAZA, HX4, EF5 or FDG.
        kind: `bw` body weight, `lbm` lean body mass by Janmahasatian, `lbmjames`, `ibw` ideal weight, `bsa` surface.
        weight_kg: Of the patient.
        height_cm: Of the patient; needed by all but `bw`.
        sex: `M` or `F`; needed by lean and ideal weight.
        dose_bq: Injected.
        decay_s: From the injection to the time for which the voxel values are given, 0 when that is the injection;
            null takes it from `ImageDecayCorrectionTime` and `InjectionStart` of the sidecar.
        half_life_s: Of the nuclide.
        psf_mm: Resolution (full width at half maximum); with it the smallest volume to trust is reported.
    """

    tracer: str = "FMISO"
    kind: str = "bw"
    weight_kg: float = 0.0
    height_cm: float = 0.0
    sex: str = ""
    dose_bq: float = 0.0
    decay_s: float | None = None
    half_life_s: float = 6586.2
    psf_mm: float = 0.0

    def __post_init__(self) -> None:
        _one_of("suv.kind", self.kind, ("bw", "lbm", "lbmjames", "lbmjames128", "ibw", "bsa"))
        _one_of("suv.tracer", self.tracer, ("FMISO", "FAZA", "HX4", "EF5", "FDG"))


@dataclass
class RatioSettings:
    """Uptake over that of a reference region.

    Args:
        tracer: FMISO, FAZA, HX4, EF5 or FDG.
        reference: `muscle` gives a TMR, `blood` a TBR.
        statistic: `median` or `mean` of the region.
        psf_mm: Resolution (full width at half maximum); with it the smallest volume to trust is reported.
    """

    tracer: str = "FMISO"
    reference: str = "muscle"
    statistic: str = "median"
    psf_mm: float = 0.0

    def __post_init__(self) -> None:
        _one_of("ratio.tracer", self.tracer, ("FMISO", "FAZA", "HX4", "EF5", "FDG"))
        _one_of("ratio.reference", self.reference, ("muscle", "blood"))
        _one_of("ratio.statistic", self.statistic, ("median", "mean"))


@dataclass
class PhosphorescenceSettings:
    """pO2 from the lifetime of a phosphorescent probe.

    Args:
        probe: `oxyphor-r2` or `ptg4`.
        times_us: Delay of each gate after the flash, microseconds; two gates of equal width, or a whole decay.
    """

    probe: str = "oxyphor-r2"
    times_us: list[float] = field(default_factory=list)


@dataclass
class SaturationSettings:
    """Oxygen saturation from absorption at several wavelengths.

    Args:
        wavelengths_nm: Of each volume.
    """

    wavelengths_nm: list[float] = field(default_factory=list)


@dataclass
class RatiometricSettings:
    """pO2 from the ratio of an oxygen-sensitive to an insensitive dye.

    Args:
        ratio_anoxic: Ratio without oxygen.
        k_sv_per_mmhg: Stern-Volmer constant of the sensitive dye.
        background_sensitive: Light without the sensitive dye, taken off.
        background_reference: Light without the other dye, taken off.
    """

    ratio_anoxic: float = 0.0
    k_sv_per_mmhg: float = 0.0
    background_sensitive: float = 0.0
    background_reference: float = 0.0


SETTINGS = {
    "vfa": VfaSettings,
    "inversion": InversionSettings,
    "oe": OxygenSettings,
    "r2star": R2StarSettings,
    "dce": DceSettings,
    "adc": AdcSettings,
    "ivim": IvimSettings,
    "pet": PetSettings,
}


@dataclass
class MapsConfig:
    """How raw series of a manifest become maps.

    Args:
        vfa: T1, R1 from RAW_VFA.
        inversion: T1, R1 from RAW_INVERSION.
        oe: DR1, DT1 from RAW_OE.
        r2star: R2STAR, T2STAR from RAW_R2STAR.
        dce: KTRANS and the rest from RAW_DCE.
        adc: ADC from RAW_ADC.
        ivim: IVIM_D, IVIM_F, IVIM_DSTAR from RAW_IVIM.
        pet: KI and the rest from RAW_PET.
    """

    vfa: VfaSettings = field(default_factory=VfaSettings)
    inversion: InversionSettings = field(default_factory=InversionSettings)
    oe: OxygenSettings = field(default_factory=OxygenSettings)
    r2star: R2StarSettings = field(default_factory=R2StarSettings)
    dce: DceSettings = field(default_factory=DceSettings)
    adc: AdcSettings = field(default_factory=AdcSettings)
    ivim: IvimSettings = field(default_factory=IvimSettings)
    pet: PetSettings = field(default_factory=PetSettings)

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Any]]) -> MapsConfig:
        """The inverse of `dataclasses.asdict`.

        Raises:
            TypeError: A key is unknown.

        Example:
            >>> MapsConfig.from_json({"r2star": {"method": "arlo"}}).r2star.method
            'arlo'
        """
        return cls(**{name: SETTINGS[name](**values) for name, values in content.items()})
