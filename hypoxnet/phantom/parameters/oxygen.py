"""Parameters of the vessels, and of the oxygen that they give off."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number

# Viable tumour whose mean pO2 lies below this is hypoxic.
HYPOXIC_MMHG = 10.0

_IN_SILICO = "chosen: as in the literature of in-silico tumours, after Dasu et al. 2003, Phys Med Biol 48:2829"
_MUSCLE = "305 capillaries per mm2 untrained: Brodal et al. 1977, Am J Physiol 232:H705; 245: Zoladz et al. 2005"
_KIMURA = "flux of red cells falls to 1/1.5 to 1/10: Kimura et al. 1996, Cancer Res 56:5522 (rat tumours)"
_FLOW = "chosen: order of magnitude at rest"


@dataclass(frozen=True, slots=True)
class Oxygen:
    """Diffusion, consumption and pressure of oxygen. The same consumption is taken in every tissue."""

    diffusion_um2_per_s: float = number(2000.0, "um2/s", "diffusion coefficient of O2 in tissue", _IN_SILICO, above=0)
    consumption_mmhg_per_s: float = number(15.0, "mmHg/s", "largest consumption", _IN_SILICO, above=0)
    half_mmhg: float = number(2.0, "mmHg", "pO2 of half the largest consumption", f"1 to 2.5; {_IN_SILICO}", above=0)
    vessel_mmhg: float = number(
        40.0, "mmHg", "pO2 of capillaries, the same along each; at the crest of a cycle", _IN_SILICO, above=0, high=700
    )
    capillary_radius_um: float = number(5.0, "um", "radius of a capillary", _IN_SILICO, above=0, high=15)
    artery_mmhg: float = number(95.0, "mmHg", "pO2 of arterial blood", "chosen: of an adult in air", above=0, high=700)
    cycle_min: float = number(
        15.0, "min", "period of cycling supply; one period for all", "median: Panek et al. 2017, PMC5516915", above=0
    )
    cycle_phases: int = number(
        3,
        "1",
        "phases of the cycle that stand for it, Gauss-Chebyshev",
        "chosen: exact to the fifth power",
        low=1,
        high=32,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Vessels:
    """Half the distance R between vessels (radius of the tissue cylinder of one), blood flow, and its cycles."""

    tumour_um: float = number(
        33.0, "um", "R at the rim of a tumour, median",
        "calibrated: share of tumours with hypoxia, TBRmax and HV as published (docs/explanation/phantom.md)", above=0,
    )  # fmt: skip
    tumour_spread: float = number(0.38, "1", "SD of log R between patients", "calibrated with tumour_um", low=0, high=1)
    node_correlation: float = number(
        0.36, "1", "correlation of the levels of a node and its primary",
        "chosen: as reported for uptake of FMISO; vessels were not measured", low=0, high=1,
    )  # fmt: skip
    core_growth: float = number(
        0.55, "1", "growth of log R from the rim to the depth", "calibrated: HV and HF grow with the GTV", low=0, high=2
    )
    rim_mm: float = number(10.0, "mm", "depth at which 63 % of that growth is reached", "calibrated with it", above=0)
    texture: float = number(
        0.2, "1", "SD of log R inside a tumour, besides depth", "calibrated with tumour_um", low=0, high=1
    )
    texture_mm: float = number(6.0, "mm", "correlation length of it", "chosen", above=0)
    necrosis_um: float = number(
        125.0, "um", "R of tissue that is half necrotic",
        "chosen: necrosis begins 50 to 200 um from vessels, Wijffels et al. 2000, Br J Cancer 83:674", above=0,
    )  # fmt: skip
    necrosis_width: float = number(0.06, "1", "width of that passage, logarithm", "chosen", above=0, high=1)
    muscle_um: float = number(32.0, "um", "R of muscle", _MUSCLE, above=0)
    fat_um: float = number(45.0, "um", "R of fat", "chosen: fewer than in muscle", above=0)
    gland_um: float = number(28.0, "um", "R of glands", "chosen: more than in muscle", above=0)
    soft_um: float = number(36.0, "um", "R of mucosa, connective tissue and cord", "chosen", above=0)
    normal_texture: float = number(0.1, "1", "SD of log R inside normal tissue", "chosen", low=0, high=1)
    least_um: float = number(16.0, "um", "R is not below this", "chosen: where the closure begins", above=0)
    most_um: float = number(200.0, "um", "R is not above this", "chosen: where the closure ends", above=0)
    disorder: float = number(
        0.4, "1", "SD of a vessel's distance from its place in a lattice, in cells; 0 regular, from 0.5 on random",
        "chosen: near random; regular to clustered are found, Scott et al. 2016, doi 10.1371/journal.pcbi.1004712",
        low=0, high=10,
    )  # fmt: skip
    tumour_flow: float = number(
        130.0, "ml/100ml/min", "flow of a tumour with R = tumour_um",
        "mean 132.9 ml/100g/min in 14 tumours: Gandhi et al. 2003, J Comput Assist Tomogr 27:687", above=0,
    )  # fmt: skip
    muscle_flow: float = number(5.0, "ml/100ml/min", "flow of muscle", _FLOW, low=0)
    fat_flow: float = number(4.0, "ml/100ml/min", "flow of fat", _FLOW, low=0)
    gland_flow: float = number(50.0, "ml/100ml/min", "flow of glands", _FLOW, low=0)
    soft_flow: float = number(25.0, "ml/100ml/min", "flow of mucosa, connective tissue and cord", _FLOW, low=0)
    bone_flow: float = number(8.0, "ml/100ml/min", "flow of bone with marrow", _FLOW, low=0)
    flow_power: float = number(
        0.5, "1", "flow grows with this power of vessels per area", "chosen: many vessels of tumours carry little",
        low=0, high=2,
    )  # fmt: skip
    flow_spread: float = number(0.25, "1", "SD of log flow between patients", "chosen", low=0, high=1)
    flow_texture: float = number(0.3, "1", "SD of log flow inside a tumour, besides R", "chosen", low=0, high=1)
    acute_share: float = number(
        0.25, "1", "supply lost at the trough in a tumour with R = tumour_um, median",
        "chosen: below the third and more of a vessel that cycles (Kimura 1996), as a voxel holds hundreds of them",
        low=0, high=1,
    )  # fmt: skip
    acute_most: float = number(0.9, "1", "supply lost at the trough, at most", _KIMURA, low=0, high=1)
    acute_power: float = number(
        0.5, "1", "the loss grows with this power of R", "chosen: stronger where vessels are few, Kimura et al. 1996",
        low=0, high=4,
    )  # fmt: skip
    acute_spread: float = number(0.5, "1", "SD of its logarithm inside a tumour", "chosen", low=0, high=2)
    acute_normal: float = number(0.05, "1", "supply lost at the trough in normal tissue", "chosen", low=0, high=1)
    acute_mm: float = number(4.0, "mm", "correlation length of the loss and of its phase", "chosen", above=0)
    day_change: float = number(
        0.2, "1", "SD of the change of log R, and besides of log flow, between two days",
        "calibrated: repeatability of HX4 (Zegers 2015) and EF5 (Silvoniemi 2018)", low=0, high=1,
    )  # fmt: skip
    day_mm: float = number(6.0, "mm", "correlation length of that change", "chosen: as the texture", above=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.least_um < self.most_um:
            raise ConfigError(
                f"least_um={self.least_um:g} of the phantom's vessels is not below most_um={self.most_um:g}; "
                "lower the first or raise the second"
            )
        for name in ("tumour_um", "muscle_um", "fat_um", "gland_um", "soft_um"):
            value = getattr(self, name)
            if not self.least_um <= value <= self.most_um:
                raise ConfigError(
                    f"{name}={value:g} of the phantom's vessels lies outside least_um={self.least_um:g} to "
                    f"most_um={self.most_um:g}, for which oxygen is tabulated; choose one inside"
                )
        if self.acute_share > self.acute_most:
            raise ConfigError(
                f"acute_share={self.acute_share:g} of the phantom's vessels exceeds acute_most={self.acute_most:g}; "
                "lower the first or raise the second"
            )
