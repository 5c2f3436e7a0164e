"""Parameters of the MRI of the digital reference object: tissue, protocol and scanner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number

# Order of every tuple of ordinary tissues.
ORDINARY = ("fat", "muscle", "bone with marrow", "artery", "vein", "cord", "gland", "soft tissue")
_OF = f"of {', '.join(ORDINARY)}"
_BAZELAIRE = "de Bazelaire et al. 2004, Radiology 230:652 (fat, muscle, marrow of L4)"
_ENGLUND = "Englund et al. 2022, J Magn Reson Imaging 55:988 (muscle)"
_SCC = "squamous cell carcinoma, n = 30 (PMC7965088)"


@dataclass(frozen=True, slots=True)
class MrTissue:
    """What tissue is made of, as MRI sees it.

    Values of tumour are those of a viable voxel; T1 are given for 3 T and scaled to `field_t`.
    """

    field_t: float = number(3.0, "T", "field for which properties are made", "chosen: of the scanner", above=0, high=7)
    gamma_rad_per_s_t: float = number(2.675e8, "rad/s/T", "gyromagnetic ratio of the proton", "constant", above=0)
    dchi_ppm: float = number(
        0.264, "ppm (cgs)", "susceptibility of deoxygenated against oxygenated blood, per haematocrit",
        "chosen: usual in quantitative BOLD", above=0, high=1,
    )  # fmt: skip
    haematocrit: float = number(0.42, "1", "share of cells in blood", "chosen: of an adult", low=0, high=0.7)
    r1_oxygen_per_s_mmhg: float = number(
        1.97e-4, "1/s/mmHg", "relaxivity r1 of dissolved oxygen, plasma at 3 T; taken for tissue and all fields",
        "Ma et al. 2016, doi 10.1002/mrm.26069", above=0, high=1e-2,
    )  # fmt: skip
    r2_oxygen_per_s_mmhg: float = number(
        2.3e-4,
        "1/s/mmHg",
        "relaxivity r2 of dissolved oxygen",
        "Ma et al. 2016, doi 10.1002/mrm.26069",
        low=0,
        high=1e-2,
    )
    arterial_air_mmhg: float = number(95.0, "mmHg", "pO2 of arterial blood under air", "chosen: of an adult", above=0)
    arterial_oxygen_mmhg: float = number(
        495.0, "mmHg", "pO2 of arterial blood under oxygen", "chosen: 400 mmHg above air", above=0
    )
    vessel_air_mmhg: float = number(
        40.0, "mmHg", "mean pO2 along a capillary under air", "chosen: that of the oxygen link", above=0
    )
    vessel_oxygen_mmhg: float = number(
        180.0, "mmHg", "the same under oxygen, where blood flows at `reference_flow`",
        "chosen: T1 of tumour then falls by a few percent, as in McCabe et al. 2024, Eur Radiol Exp 8:27", above=0,
    )  # fmt: skip
    blood_share: float = number(
        0.3, "1", "pO2 of blood that makes R2': this share of vessel, the rest of tissue",
        "chosen: most of it lies in venules, near the pressure of the tissue that they drain", low=0, high=1,
    )  # fmt: skip
    dissolved_per_mmhg: float = number(
        1.55e-4, "1/mmHg", "oxygen dissolved in blood, as a share of what its haemoglobin can carry",
        "chosen: 0.0031 over 20 ml/dl", low=0, high=1e-2,
    )  # fmt: skip
    t1_field_exponent: float = number(
        0.275,
        "1",
        "T1 grows with this power of the field",
        "21 % from 1.5 to 3 T: de Bazelaire et al. 2004",
        low=0,
        high=1,
    )
    tumour_t1_s: float = number(1.35, "s", "T1 of tumour at 3 T", "chosen inside 0.8-2.2 s", above=0, high=5)
    necrosis_t1_s: float = number(2.2, "s", "T1 of necrosis at 3 T", "chosen: longer, being watery", above=0, high=5)
    tumour_t2_s: float = number(0.075, "s", "T2 of tumour", "chosen", above=0, high=2)
    necrosis_t2_s: float = number(0.15, "s", "T2 of necrosis", "chosen: longer, being watery", above=0, high=2)
    relaxation_spread: float = number(0.08, "1", "sd between patients of log T1 and log T2", "chosen", low=0, high=1)
    tumour_r2prime_per_s_t: float = number(
        11.0, "1/s/T", "R2' of tumour from fields other than those of its blood",
        "chosen: T2* at 3 T then is 15-18 ms, as in Wiedenmann et al. 2018", low=0, high=100,
    )  # fmt: skip
    r2prime_spread: float = number(
        0.2, "1", "sd between patients of its logarithm", "chosen: T2* there had sd of 3 to 5 ms", low=0, high=1
    )
    tumour_blood_volume: float = number(
        0.065, "1", "share of blood in tumour whose vessels are 100 um apart", "chosen", low=0, high=0.3
    )
    blood_volume_spread: float = number(0.3, "1", "sd between patients of its logarithm", "chosen", low=0, high=1)
    blood_volume_exponent: float = number(
        0.4, "1", "blood volume falls with this power of the distance of vessels",
        "chosen: 2 for vessels of equal calibre; less, as those of sparse tumour are wide", low=0, high=2,
    )  # fmt: skip
    vessel_radius_um: float = number(5.0, "um", "radius of a vessel, for its surface", "chosen", above=0, high=50)
    permeability_um_per_s: float = number(
        2.5, "um/s", "permeability of tumour vessels to contrast agent",
        "chosen: Ktrans of tumour then spans 0.05-1 1/min", low=0, high=100,
    )  # fmt: skip
    permeability_spread: float = number(0.4, "1", "sd between patients of its logarithm", "chosen", low=0, high=2)
    tumour_ve: float = number(0.32, "1", "extravascular extracellular share of tumour", "chosen", above=0, high=1)
    necrosis_ve: float = number(0.65, "1", "the same of necrosis", "chosen: cells are gone", above=0, high=1)
    ve_spread: float = number(0.2, "1", "sd between patients of log ve", "chosen", low=0, high=1)
    tumour_d: float = number(0.82, "1e-3 mm2/s", "diffusion in tumour", _SCC, above=0, high=3)
    necrosis_d: float = number(1.8, "1e-3 mm2/s", "diffusion in necrosis", "chosen: water is 3.0", above=0, high=3)
    d_spread: float = number(0.2, "1", "sd between patients of log D", f"0.17 of 0.82: {_SCC}", low=0, high=1)
    tumour_f: float = number(0.15, "1", "perfusion fraction at the median blood volume", _SCC, low=0, high=0.5)
    f_spread: float = number(0.25, "1", "sd between patients of log f", f"0.04 of 0.15: {_SCC}", low=0, high=1)
    tumour_d_star: float = number(
        20.0, "1e-3 mm2/s", "pseudo-diffusion at median flow and blood volume; proportional to flow over volume",
        "chosen; law: Le Bihan and Turner 1992, Magn Reson Med 27:171", above=3, high=150,
    )  # fmt: skip
    reference_flow: float = number(
        110.0, "ml/100ml/min", "flow at which D* and the pressure under oxygen are given", "chosen", above=0, high=500
    )
    texture: float = number(
        0.1, "1", "sd inside a tissue of the logarithm of cellularity: D goes with its inverse, ve with its inverse "
        "square, T1, T2 and T2* with its inverse root", "chosen", low=0, high=0.5,
    )  # fmt: skip
    texture_mm: float = number(5.0, "mm", "correlation length of cellularity", "chosen", above=0, high=100)
    arrival_transits: float = number(
        0.5, "1", "contrast agent is late by this many transit times, blood volume over flow", "chosen", low=0, high=3
    )
    longest_delay_s: float = number(10.0, "s", "but no later than this", "chosen", low=0, high=60)
    venous_delay_s: float = number(8.0, "s", "delay of the great veins", "chosen", low=0, high=60)
    proton_density: tuple[float, ...] = number(
        (0.9, 0.8, 0.5, 0.85, 0.85, 0.75, 0.85, 0.8), "1", f"proton density {_OF}, water 1", "chosen", low=0, high=1.2
    )
    tumour_proton_density: float = number(0.88, "1", "proton density of tumour", "chosen", above=0, high=1.2)
    t1_s: tuple[float, ...] = number(
        (0.382, 0.898, 0.586, 1.65, 1.65, 1.0, 0.75, 1.1), "s", f"T1 at 3 T {_OF}", f"{_BAZELAIRE}; others chosen",
        above=0, high=5,
    )  # fmt: skip
    t2_s: tuple[float, ...] = number(
        (0.068, 0.029, 0.049, 0.15, 0.06, 0.075, 0.06, 0.06), "s", f"T2 {_OF}", f"{_BAZELAIRE}; others chosen",
        above=0, high=3,
    )  # fmt: skip
    r2prime_per_s_t: tuple[float, ...] = number(
        (6.0, 4.0, 25.0, 0.5, 3.0, 4.0, 6.0, 8.0), "1/s/T", f"R2' {_OF}, without that of small vessels", "chosen",
        low=0, high=100,
    )  # fmt: skip
    blood_volume: tuple[float, ...] = number(
        (0.01, 0.03, 0.02, 1.0, 1.0, 0.03, 0.06, 0.04), "1", f"share of blood {_OF}", "chosen", low=0, high=1
    )
    ps_per_min: tuple[float, ...] = number(
        (0.02, 0.08, 0.05, 0.0, 0.0, 0.0, 0.4, 0.2),
        "1/min",
        f"permeability times surface {_OF}",
        "chosen",
        low=0,
        high=5,
    )
    ve: tuple[float, ...] = number(
        (0.1, 0.12, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2),
        "1",
        f"extravascular extracellular share {_OF}",
        "chosen",
        above=0,
        high=1,
    )
    d: tuple[float, ...] = number(
        (0.05, 1.46, 0.4, 3.0, 3.0, 0.83, 0.95, 1.2), "1e-3 mm2/s", f"diffusion {_OF}",
        f"{_ENGLUND}; Ellingson et al. 2008, AJNR 29:1279 (cord); Habermann et al. 2005, Rofo 177:17 (parotid, 3 T); "
        "others chosen, blood as water", above=0, high=5,
    )  # fmt: skip
    f: tuple[float, ...] = number(
        (0.02, 0.11, 0.05, 0.0, 0.0, 0.05, 0.15, 0.1), "1", f"perfusion fraction {_OF}", f"{_ENGLUND}; others chosen",
        low=0, high=0.6,
    )  # fmt: skip
    d_star: tuple[float, ...] = number(
        (20.0, 29.7, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0), "1e-3 mm2/s", f"pseudo-diffusion {_OF}",
        f"{_ENGLUND}; others chosen", low=3, high=150,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        for name in (
            "proton_density",
            "t1_s",
            "t2_s",
            "r2prime_per_s_t",
            "blood_volume",
            "ps_per_min",
            "ve",
            "d",
            "f",
            "d_star",
        ):
            if len(getattr(self, name)) != len(ORDINARY):
                raise ConfigError(
                    f"{name} of the phantom has {len(getattr(self, name))} values; give {len(ORDINARY)}, {_OF}"
                )
        for name in ("arterial", "vessel"):
            air, oxygen = getattr(self, f"{name}_air_mmhg"), getattr(self, f"{name}_oxygen_mmhg")
            if not oxygen > air:
                raise ConfigError(
                    f"{name}_oxygen_mmhg={oxygen:g} of the phantom must exceed {name}_air_mmhg={air:g}; breathing "
                    "oxygen raises it"
                )

    @property
    def t1_factor(self) -> float:
        """T1 in this field over T1 at 3 T.

        Example:
            >>> round(MrTissue(field_t=1.5).t1_factor, 3)
            0.826
        """
        return float((self.field_t / 3.0) ** self.t1_field_exponent)


@dataclass(frozen=True, slots=True)
class MrProtocol:
    """How the series are taken."""

    t1w_tr_s: float = number(0.6, "s", "repetition time of the T1-weighted spin echo", "chosen", above=0, high=10)
    t1w_te_s: float = number(0.012, "s", "its echo time", "chosen", low=0, high=0.5)
    t2w_tr_s: float = number(4.0, "s", "repetition time of the T2-weighted spin echo", "chosen", above=0, high=20)
    t2w_te_s: float = number(0.09, "s", "its echo time", "chosen", low=0, high=0.5)
    spoiled_tr_s: float = number(
        0.005,
        "s",
        "repetition time of spoiled gradient echoes (flip angles, oxygen, contrast)",
        "chosen",
        above=0,
        high=0.5,
    )
    spoiled_te_s: float = number(0.0015, "s", "their echo time", "chosen", low=0, high=0.1)
    flips_deg: tuple[float, ...] = number(
        (2.0, 5.0, 12.0), "deg", "flip angles for T1", "chosen: round the Ernst angle of T1 = 1 s", above=0, high=90
    )
    oxygen_flip_deg: float = number(12.0, "deg", "flip angle of the oxygen-enhanced series", "chosen", above=0, high=90)
    oxygen_spacing_s: float = number(10.0, "s", "time between its volumes", "chosen", above=0, high=120)
    air_volumes: int = number(12, "1", "its volumes under air", "chosen: 2 min", low=3, high=500)
    transition_volumes: int = number(
        9, "1", "its volumes left out after the change of gas", "chosen: 90 s", low=0, high=500
    )
    oxygen_volumes: int = number(15, "1", "its volumes under oxygen", "chosen: 2.5 min", low=3, high=500)
    wash_in_s: float = number(20.0, "s", "time constant with which tissue follows the gas", "chosen", above=0, high=600)
    echo_times_s: tuple[float, ...] = number(
        (0.0046, 0.0092, 0.0138, 0.0184, 0.0230, 0.0276), "s", "echo times for R2*",
        "chosen: water and fat are in phase, at 1.5 and 3 T", above=0, high=0.5,
    )  # fmt: skip
    echo_tr_s: float = number(0.05, "s", "repetition time of the multi-echo series", "chosen", above=0, high=5)
    echo_flip_deg: float = number(15.0, "deg", "its flip angle", "chosen", above=0, high=90)
    contrast_flip_deg: float = number(15.0, "deg", "flip angle of the contrast series", "chosen", above=0, high=90)
    contrast_spacing_s: float = number(8.0, "s", "time between its volumes", "chosen", above=0, high=60)
    contrast_volumes: int = number(32, "1", "its volumes", "chosen: 4 min", low=5, high=500)
    bolus_s: float = number(
        42.0, "s", "when contrast agent reaches the arteries", "chosen: after six volumes", above=0, high=600
    )
    relaxivity_per_s_mm: float = number(
        4.5, "1/s/mM", "r1 of the contrast agent", "as in the tests of the OSIPI collection", above=0, high=50
    )
    contrast_haematocrit: float = number(
        0.42,
        "1",
        "haematocrit by which blood becomes plasma",
        "beside the curve of Parker et al. 2006",
        low=0,
        high=0.7,
    )
    contrast_model: str = "extended-tofts"
    adc_b_values: tuple[float, ...] = number(
        (0.0, 400.0, 800.0), "s/mm2", "diffusion weightings for the ADC", "chosen", low=0, high=3000
    )
    ivim_b_values: tuple[float, ...] = number(
        (0.0, 50.0, 100.0, 200.0, 400.0, 600.0, 800.0, 1000.0), "s/mm2", "diffusion weightings for IVIM", "chosen",
        low=0, high=3000,
    )  # fmt: skip
    diffusion_te_s: float = number(0.07, "s", "echo time of diffusion-weighted images", "chosen", low=0, high=0.5)

    def __post_init__(self) -> None:
        check(self)
        for name, least in (("flips_deg", 2), ("echo_times_s", 3), ("adc_b_values", 2), ("ivim_b_values", 4)):
            values = getattr(self, name)
            if len(values) < least or any(b <= a for a, b in pairwise(values)):
                raise ConfigError(f"{name}={values} of the phantom must be {least} or more increasing values")
        if self.contrast_model not in ("extended-tofts", "2cxm"):
            raise ConfigError(
                f"contrast_model={self.contrast_model!r} of the phantom is not known; choose extended-tofts or 2cxm"
            )
        last = self.contrast_spacing_s * (self.contrast_volumes - 1)
        if not self.contrast_spacing_s < self.bolus_s < 0.5 * last:
            raise ConfigError(
                f"bolus_s={self.bolus_s:g} of the phantom must lie between the second volume "
                f"({self.contrast_spacing_s:g} s) and half the series ({0.5 * last:g} s); move it or take more volumes"
            )
        for echo, repetition in (("t1w_te_s", "t1w_tr_s"), ("t2w_te_s", "t2w_tr_s"), ("spoiled_te_s", "spoiled_tr_s")):
            if getattr(self, echo) >= getattr(self, repetition):
                raise ConfigError(
                    f"{echo}={getattr(self, echo):g} of the phantom must be shorter than {repetition}="
                    f"{getattr(self, repetition):g}; shorten the echo time"
                )
        if self.echo_times_s[-1] >= self.echo_tr_s:
            raise ConfigError(
                f"the last of echo_times_s, {self.echo_times_s[-1]:g} s, must come before echo_tr_s="
                f"{self.echo_tr_s:g} of the phantom; lengthen the repetition time"
            )


@dataclass(frozen=True, slots=True)
class MrScanner:
    """One MR scanner, its coils and its patients' quietness."""

    name: str = "MR"
    field_t: float = number(3.0, "T", "field", "chosen", above=0, high=7)
    voxel_mm: tuple[float, ...] = number((2.0, 2.0, 3.0), "mm", "voxel along i, j, k", "chosen", above=0, high=20)
    field_of_view_share: float = number(
        0.96, "1", "extent of the images over that of the object", "chosen", above=0, high=1.5
    )
    obliquity_deg: float = number(
        3.0, "deg", "sd of each angle by which a scan is planned oblique", "chosen", low=0, high=20
    )
    off_centre_mm: float = number(2.0, "mm", "sd along each axis of the place of its centre", "chosen", low=0, high=50)
    snr_weighted: float = number(
        40.0, "1", "SNR of T1- and T2-weighted images: mean signal of the first volume inside the patient over the "
        "sd of the noise in each channel of the receiver", "chosen", above=0,
    )  # fmt: skip
    snr_flips: float = number(50.0, "1", "the same of the flip angle series", "chosen", above=0)
    snr_oxygen: float = number(60.0, "1", "the same of the oxygen-enhanced series", "chosen", above=0)
    snr_echoes: float = number(60.0, "1", "the same of the multi-echo series", "chosen", above=0)
    snr_contrast: float = number(40.0, "1", "the same of the contrast series", "chosen", above=0)
    snr_diffusion: float = number(
        40.0, "1", "the same of diffusion-weighted series, at the lowest weighting", "chosen", above=0
    )
    receive_spread: float = number(0.2, "1", "sd of the logarithm of the receive sensitivity", "chosen", low=0, high=1)
    receive_mm: float = number(60.0, "mm", "its correlation length", "chosen: slow against the patient", above=0)
    transmit_spread: float = number(0.05, "1", "sd of actual over nominal flip angle", "chosen", low=0, high=0.3)
    transmit_mm: float = number(70.0, "mm", "its correlation length", "chosen: slow against the patient", above=0)
    gain_spread: float = number(0.3, "1", "sd of the logarithm of the gain of a series", "chosen", low=0, high=3)
    air_r2prime_per_s_t: float = number(
        25.0, "1/s/T", "R2' that air adds at its flat border", "chosen: R2* doubles there", low=0, high=500
    )
    bone_share: float = number(0.1, "1", "what bone adds, over what air adds", "chosen", low=0, high=1)
    susceptibility_mm: float = number(
        3.5, "mm", "distance over which it decays (sd of a Gaussian smoothing of the air)",
        "chosen: a seventh is left at 5 mm", above=0, high=50,
    )  # fmt: skip
    motion_mm: float = number(
        0.2, "mm", "sd along each axis of the place of a volume of a series", "chosen", low=0, high=20
    )
    motion_deg: float = number(0.2, "deg", "sd of each angle of a volume of a series", "chosen", low=0, high=20)
    misregistration_mm: float = number(
        0.6, "mm", "sd along each axis of the shift between MRI and the other modalities",
        "chosen: 1-2 mm is tolerated in planning", low=0, high=20,
    )  # fmt: skip
    largest_misregistration_mm: float = number(
        2.0, "mm", "a longer shift is shortened to this", "chosen", low=0, high=50
    )

    def __post_init__(self) -> None:
        check(self)
        if len(self.voxel_mm) != 3:
            raise ConfigError(f"voxel_mm of the phantom has {len(self.voxel_mm)} values; give three, along i, j, k")
        if self.misregistration_mm > 0 and self.largest_misregistration_mm < self.misregistration_mm:
            raise ConfigError(
                f"largest_misregistration_mm={self.largest_misregistration_mm:g} of the phantom is below "
                f"misregistration_mm={self.misregistration_mm:g}; raise it or shrink the sd"
            )

    def snr_of(self, series: str) -> float:
        """SNR of a series by its name.

        Example:
            >>> MrScanner().snr_of("RAW_DCE")
            40.0
        """
        kinds = {
            "RAW_VFA": self.snr_flips,
            "RAW_OE": self.snr_oxygen,
            "RAW_R2STAR": self.snr_echoes,
            "RAW_R2STAR_OXYGEN": self.snr_echoes,
            "RAW_DCE": self.snr_contrast,
            "RAW_ADC": self.snr_diffusion,
            "RAW_IVIM": self.snr_diffusion,
        }
        return kinds.get(series, self.snr_weighted)

    def without_imperfections(self) -> MrScanner:
        """The same scanner with uniform fields, and a patient who lies still where he was planned."""
        return replace(
            self,
            receive_spread=0.0,
            transmit_spread=0.0,
            gain_spread=0.0,
            air_r2prime_per_s_t=0.0,
            motion_mm=0.0,
            motion_deg=0.0,
            misregistration_mm=0.0,
        )
