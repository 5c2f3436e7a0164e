"""Parameters of tracers: how they clear from blood, enter tissue and are trapped."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number

_FENG = "Feng et al. 1993, Int J Biomed Comput 32:95, model 2"
_WARREN = "Warren and Partridge 2016, Phys Med Biol 61:8596"
_PROTOCOL = (
    "FMISO 20 min within 90 to 140 min: Muzi et al. 2015, PMC4526410; FAZA at 2 h: Mortensen et al. 2012; HX4 30 min "
    "at 2 or 4 h: EJNMMI Phys 2016 3:30; FDG chosen"
)
_LATE = "chosen: between 0.7 and 1.1 for misonidazoles, so that the late ratio of oxic tissue to blood is about 1"


@dataclass(frozen=True, slots=True)
class NormalTissue:
    """What a tissue outside the tumour does with a tracer; K1 follows from its vessels.

    Args:
        name: A member of `words.Tissue` in small letters.
    """

    name: str
    partition: float = number(0.9, "1", "K1/k2, free tracer in tissue over blood", "chosen", above=0, high=3)
    k3_per_min: float = number(0.0, "1/min", "trapping", "chosen: hypoxia tracers are not trapped", low=0, high=1)
    vb: float = number(0.03, "1", "share of blood", "chosen: 1 to 10 % in most tissues", low=0, high=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Tracer:
    """One tracer and the protocol of its static scan.

    Blood is given by the shape of Feng's curve with a slow phase of the tracer's own, scaled to `blood_suv`; the tracer
    has the same concentration in plasma and in whole blood.

    Args:
        name: As in `quantities.TRACERS`.
        normal: Tissues outside the tumour.
    """

    name: str
    normal: tuple[NormalTissue, ...]
    uptake_min: float = number(120.0, "min", "begin of the static frame after injection", _PROTOCOL, above=0, high=360)
    frame_min: float = number(20.0, "min", "duration of the static frame", _PROTOCOL, above=0, high=120)
    activity_mbq: float = number(300.0, "MBq", "injected activity, whatever the weight", "chosen", above=0)
    blood_suv: float = number(1.3, "g/ml", "mean of blood in the static frame", "chosen", above=0, high=20)
    blood_spread: float = number(
        0.15, "1", "SD of the logarithm of blood_suv between patients", "chosen: SUV of blood 0.5 to 2", low=0, high=1
    )
    bolus: float = number(851.1225, "1/min", "first pass, amplitude beside those of the two phases", _FENG, low=0)
    fast: float = number(21.8798, "1", "fast phase, amplitude", _FENG, low=0)
    slow: float = number(20.8113, "1", "slow phase, amplitude", _FENG, above=0)
    bolus_rate_per_min: float = number(4.1339, "1/min", "decline of the first pass", _FENG, above=0)
    fast_rate_per_min: float = number(0.1191, "1/min", "decline of the fast phase", _FENG, above=0)
    slow_rate_per_min: float = number(0.0104, "1/min", "decline of the slow phase", _FENG, above=0)
    permeability: float = number(
        0.6, "ml/ml/min", "permeability times surface of the vessels at reference_um", "chosen", above=0
    )
    reference_um: float = number(
        50.0, "um", "half distance between vessels that permeability and vb hold for", "chosen", above=0
    )
    vb: float = number(0.04, "1", "share of blood at reference_um", "chosen: 2 to 10 %", low=0, high=0.5)
    vb_high: float = number(0.15, "1", "largest share of blood in tumour", "chosen", low=0, high=1)
    partition: float = number(0.85, "1", "K1/k2 of living tumour", _LATE, above=0, high=3)
    partition_spread: float = number(
        0.08, "1", "SD of the logarithm of partition between patients", "chosen", low=0, high=1
    )
    necrotic_partition: float = number(
        0.6, "1", "K1/k2 of necrosis over that of living tumour", "chosen: below 1", above=0, high=1
    )
    k3max_per_min: float = number(
        0.04, "1/min", "trapping without oxygen, were all cells alive", "calibrated to TBRmax; k3 to 0.01 1/min", low=0
    )
    k3_oxic_per_min: float = number(
        0.0, "1/min", "trapping by living cells whatever the oxygen", "chosen: none for hypoxia tracers", low=0
    )
    k3_spread: float = number(0.1, "1", "SD of the logarithm of k3 between patients", "chosen", low=0, high=1)
    half_binding_mmhg: float = number(1.4, "mmHg", "pO2 of half the trapping (CI 0.3 to 2.6)", _WARREN, above=0)
    half_viability_mmhg: float = number(1.2, "mmHg", "pO2 of half viability (CI 0.1 to 4.9)", _WARREN, above=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.slow_rate_per_min < self.fast_rate_per_min < self.bolus_rate_per_min:
            raise ConfigError(
                f"slow_rate_per_min={self.slow_rate_per_min:g}, fast_rate_per_min={self.fast_rate_per_min:g} and "
                f"bolus_rate_per_min={self.bolus_rate_per_min:g} of tracer {self.name} must increase in this order"
            )
        if self.vb > self.vb_high:
            raise ConfigError(f"vb={self.vb:g} of tracer {self.name} exceeds vb_high={self.vb_high:g}; raise vb_high")


def _tissues(*, muscle: float, fat: float, bone: float, cord: float, gland: float) -> tuple[NormalTissue, ...]:
    """The tissues of a tracer that none of them traps; their partitions are given, the rest they share."""
    return (
        NormalTissue("fat", partition=fat, vb=0.01),
        NormalTissue("muscle", partition=muscle, vb=0.03),
        NormalTissue("bone", partition=bone, vb=0.03),
        NormalTissue("cord", partition=cord, vb=0.03),
        NormalTissue("gland", partition=gland, vb=0.06),
        NormalTissue("soft", partition=muscle, vb=0.04),
    )


FMISO = Tracer(
    "FMISO",
    _tissues(muscle=0.93, fat=0.35, bone=0.60, cord=0.75, gland=1.00),
    slow_rate_per_min=0.0026,
)
FAZA = Tracer(
    "FAZA",
    _tissues(muscle=0.82, fat=0.20, bone=0.50, cord=0.30, gland=0.90),
    activity_mbq=370.0,
    blood_suv=1.0,
    slow_rate_per_min=0.0055,
    permeability=0.3,
    partition=0.75,
    k3max_per_min=0.03,
)
# EJNMMI Phys 2016 3:30: 426 MBq (SD 72), scans of 30 min. That study found HX4 to leave its trap slowly (k4); here it
# stays, so that k3max stands for what is left at 4 h.
HX4 = Tracer(
    "HX4",
    _tissues(muscle=0.80, fat=0.20, bone=0.50, cord=0.30, gland=0.90),
    uptake_min=240.0,
    frame_min=30.0,
    activity_mbq=426.0,
    blood_suv=0.7,
    slow_rate_per_min=0.0045,
    permeability=0.3,
    partition=0.72,
    k3max_per_min=0.014,
)
FDG = Tracer(
    "FDG",
    (
        NormalTissue("fat", partition=0.20, k3_per_min=0.001, vb=0.01),
        NormalTissue("muscle", partition=0.35, k3_per_min=0.004, vb=0.03),
        NormalTissue("bone", partition=0.45, k3_per_min=0.006, vb=0.03),
        NormalTissue("cord", partition=0.50, k3_per_min=0.015, vb=0.03),
        NormalTissue("gland", partition=0.60, k3_per_min=0.012, vb=0.06),
        NormalTissue("soft", partition=0.50, k3_per_min=0.010, vb=0.04),
    ),
    uptake_min=60.0,
    frame_min=10.0,
    blood_suv=1.8,
    permeability=0.3,
    partition=0.7,
    necrotic_partition=0.8,
    # Chosen: glucose is trapped everywhere, by a half more where oxygen lacks, and by cells that hardly have any.
    k3max_per_min=0.06,
    k3_oxic_per_min=0.04,
    k3_spread=0.35,
    half_binding_mmhg=5.0,
    half_viability_mmhg=0.3,
)

TRACERS: dict[str, Tracer] = {tracer.name: tracer for tracer in (FMISO, FAZA, HX4, FDG)}
