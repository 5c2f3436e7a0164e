"""What MRI sees of tissue: relaxation, perfusion and diffusion, from vessels and oxygen.

Dissolved oxygen raises R1; deoxygenated blood adds R2' to the decay of echoes, R2* = R2 + R2'; flow and the surface of
vessels decide how contrast agent gets through; cells hinder diffusion.

Axis legend: D H W voxels of the object's grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from hypoxnet.maps.haemoglobin import severinghaus_saturation
from hypoxnet.phantom.fields import gaussian_field
from hypoxnet.phantom.parameters.mri import MrTissue
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature

ORDER = (
    Tissue.FAT,
    Tissue.MUSCLE,
    Tissue.BONE,
    Tissue.ARTERY,
    Tissue.VEIN,
    Tissue.CORD,
    Tissue.GLAND,
    Tissue.SOFT,
)
# Keeps quotients finite where nothing flows.
LITTLE = 1e-6
MINUTE_S = 60.0
PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class MrProperties:
    """Truth for MRI, every map D H W; outside the patient the proton density is 0 and nothing else matters.

    Args:
        proton_density: Of water, times the sensitivity of the receiver where a scanner is in between.
        r1: Longitudinal relaxation rate under air, 1/s.
        dr1: What oxygen adds to it, 1/s.
        r2: Transverse relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate under air, 1/s.
        r2star_oxygen: The same under oxygen, 1/s.
        saturation: Of the haemoglobin in small vessels, under air.
        flow: Of plasma, ml/100ml/min.
        ps: Permeability times surface, 1/min.
        ktrans: Flow of plasma times extraction PS / (PS + flow), 1/min.
        ve: Extravascular extracellular share.
        vp: Share of plasma.
        delay_s: How much later than in the arteries contrast agent arrives.
        d: Diffusion, 1e-3 mm2/s.
        f: Perfusion fraction.
        d_star: Pseudo-diffusion, 1e-3 mm2/s.
        transmit: Actual over nominal flip angle.
    """

    proton_density: Tensor
    r1: Tensor
    dr1: Tensor
    r2: Tensor
    r2star: Tensor
    r2star_oxygen: Tensor
    saturation: Tensor
    flow: Tensor
    ps: Tensor
    ktrans: Tensor
    ve: Tensor
    vp: Tensor
    delay_s: Tensor
    d: Tensor
    f: Tensor
    d_star: Tensor
    transmit: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> MrProperties:
        """Every map changed in the same way, for example resampled."""
        return MrProperties(*(change(getattr(self, entry.name)) for entry in fields(self)))


@dataclass(frozen=True, slots=True)
class Patient:
    """Factors by which one patient's tumour differs from the median one."""

    t1: float
    t2: float
    r2prime: float
    blood_volume: float
    permeability: float
    ve: float
    d: float
    f: float


def draw_patient(tissue: MrTissue, generator: np.random.Generator) -> Patient:
    """Log-normal factors with median 1."""
    spreads = (
        tissue.relaxation_spread,
        tissue.relaxation_spread,
        tissue.r2prime_spread,
        tissue.blood_volume_spread,
        tissue.permeability_spread,
        tissue.ve_spread,
        tissue.d_spread,
        tissue.f_spread,
    )
    return Patient(*(float(math.exp(s * z)) for s, z in zip(spreads, generator.standard_normal(8), strict=True)))


def mr_properties(
    anatomy: Anatomy,
    vasculature: Vasculature,
    air: Oxygenation,
    oxygen_breathing: Oxygenation,
    tissue: MrTissue,
    generator: np.random.Generator,
) -> MrProperties:
    """Everything that MRI can see of the object.

    Args:
        anatomy: Which tissue is where.
        vasculature: Vessels of every voxel.
        air: Oxygen while air is breathed.
        oxygen_breathing: Oxygen of the same vessels at the pressure of `vessel_pressure_under_oxygen`.
        tissue: Parameters.
        generator: Draws the patient and the texture of cellularity.
    """
    patient = draw_patient(tissue, generator)
    texture = gaussian_field(
        anatomy.grid.shape,
        length_mm=tissue.texture_mm,
        spacing_mm=anatomy.grid.spacing_mm,
        generator=generator,
        device=anatomy.tissue.device,
    )
    site = _Site(anatomy, vasculature.viable, torch.exp(tissue.texture * texture), patient, tissue)
    blood = site.blood_volume(vasculature)
    in_vessels = vessel_pressure_under_oxygen(vasculature.flow, tissue) - tissue.vessel_air_mmhg
    relaxation = _relaxation(site, blood, air.po2, rise=oxygen_breathing.po2 - air.po2, in_vessels=in_vessels)
    perfusion = _perfusion(site, blood, vasculature)
    return MrProperties(
        proton_density=site.mixed(tissue.proton_density, tissue.tumour_proton_density, tissue.tumour_proton_density),
        **relaxation,
        **perfusion,
        **_diffusion(site, blood, vasculature.flow),
        transmit=torch.ones_like(blood),
    )


@dataclass(frozen=True, slots=True)
class _Site:
    """What the parts of the properties have in common.

    Args:
        anatomy: Which tissue is where.
        viable: D H W, share that is not necrotic.
        cells: D H W, cellularity, median 1.
        patient: Factors of the patient.
        tissue: Parameters.
    """

    anatomy: Anatomy
    viable: Tensor
    cells: Tensor
    patient: Patient
    tissue: MrTissue

    def ordinary(self, values: tuple[float, ...], *, outside: float = 0.0) -> Tensor:
        """The value of every voxel's tissue; `outside` in tumour, airway and outside the patient."""
        table = torch.full((len(Tissue),), outside, device=self.anatomy.tissue.device)
        for which, value in zip(ORDER, values, strict=True):
            table[int(which)] = value
        return table[self.anatomy.tissue.long()]

    def mixed(self, values: tuple[float, ...], viable: float, necrotic: float, *, outside: float = 0.0) -> Tensor:
        """The value of ordinary tissue, and in tumour the mean of viable and necrotic by their shares."""
        tumour = necrotic + (viable - necrotic) * self.viable
        return torch.where(self.anatomy.tumour, tumour, self.ordinary(values, outside=outside))

    @property
    def vessels(self) -> Tensor:
        """Great vessels, D H W, bool."""
        return self.anatomy.is_a(Tissue.ARTERY, Tissue.VEIN)

    def blood_volume(self, vasculature: Vasculature) -> Tensor:
        """Share of blood, D H W: in tumour it falls with the distance of vessels and with necrosis."""
        tissue = self.tissue
        at_50_um = tissue.tumour_blood_volume * self.patient.blood_volume
        sparse = (50.0 / vasculature.radius_um.clamp(min=1.0)) ** tissue.blood_volume_exponent
        tumour = (at_50_um * sparse * self.viable).clamp(max=0.3)
        return torch.where(self.anatomy.tumour, tumour, self.ordinary(tissue.blood_volume))


def _relaxation(site: _Site, blood: Tensor, po2: Tensor, *, rise: Tensor, in_vessels: Tensor) -> dict[str, Tensor]:
    """R1, R2 and R2* under both gases: rates of viable and necrotic tissue add up by their shares.

    Args:
        site: Tissue.
        blood: Its share.
        po2: Of tissue under air, mmHg.
        rise: Of that when oxygen is breathed, mmHg.
        in_vessels: And of the pressure of the capillaries, mmHg.
    """
    tissue, root = site.tissue, site.cells.sqrt()
    t1, t2 = site.patient.t1 * tissue.t1_factor, site.patient.t2
    ordinary = tuple(1 / (tissue.t1_factor * each) for each in tissue.t1_s)
    r1 = site.mixed(ordinary, 1 / (t1 * tissue.tumour_t1_s), 1 / (t1 * tissue.necrosis_t1_s), outside=1.0)
    ordinary = tuple(1 / each for each in tissue.t2_s)
    r2 = site.mixed(ordinary, 1 / (t2 * tissue.tumour_t2_s), 1 / (t2 * tissue.necrosis_t2_s), outside=1.0) * root
    tumour = site.patient.r2prime * tissue.tumour_r2prime_per_s_t
    background = site.mixed(tissue.r2prime_per_s_t, tumour, tumour) * root
    saturation = blood_saturation(po2, tissue)
    # Where tissue rises by less than its vessels, it uses the rest.
    left = (rise / in_vessels.clamp(min=LITTLE)).clamp(0, 1)
    # In the great vessels all is blood: the formula for vessels in tissue does not hold, and nothing is lost there.
    small = torch.where(site.vessels, 0.0, blood)
    dissolved = torch.where(site.vessels, 0.0, tissue.r2_oxygen_per_s_mmhg * rise)
    still = r2 + background * tissue.field_t
    enriched = saturation_under_oxygen(saturation, left, tissue)
    return {
        "r1": r1 * root,
        "dr1": _delta_r1(site, blood, rise, in_vessels),
        "r2": r2,
        "r2star": still + r2prime_per_s(small, saturation, tissue),
        "r2star_oxygen": still + r2prime_per_s(small, enriched, tissue) + dissolved,
        "saturation": saturation,
    }


def blood_saturation(po2: Tensor, tissue: MrTissue) -> Tensor:
    """Saturation of haemoglobin in the small vessels of tissue, under air.

    Args:
        po2: Mean of the tissue, mmHg, any shape.
        tissue: Parameters; blood is between the pressures of vessel and tissue.

    Source:
        Severinghaus 1979, J Appl Physiol 46:599 (saturation).

    Example:
        >>> round(blood_saturation(torch.tensor(40.0), MrTissue()).item(), 4)
        0.7495
    """
    return severinghaus_saturation((po2 + tissue.blood_share * (tissue.vessel_air_mmhg - po2)).clamp(min=0))


def vessel_pressure_under_oxygen(flow: Tensor, tissue: MrTissue) -> Tensor:
    """Mean pO2 along the capillaries while oxygen is breathed.

    Arterial blood then carries more dissolved oxygen, which is used up first: after a part of the way that is
    proportional to flow, and so is the mean of its pressure along the way. It rises by no more than that of arteries.

    Args:
        flow: Of blood, ml/100ml/min, any shape.
        tissue: Parameters; `vessel_oxygen_mmhg` holds at `reference_flow`.

    Returns:
        mmHg, same shape.

    Example:
        >>> vessel_pressure_under_oxygen(torch.tensor([0.0, 55.0, 110.0]), MrTissue()).tolist()
        [40.0, 110.0, 180.0]
    """
    rise = (tissue.vessel_oxygen_mmhg - tissue.vessel_air_mmhg) * flow / tissue.reference_flow
    return tissue.vessel_air_mmhg + rise.clamp(max=tissue.arterial_oxygen_mmhg - tissue.arterial_air_mmhg)


def saturation_under_oxygen(saturation: Tensor, left: Tensor, tissue: MrTissue) -> Tensor:
    """Saturation in small vessels while oxygen is breathed.

    The oxygen that arterial blood carries more of, and that tissue does not use, stays with the haemoglobin of the
    outgoing blood (Fick).

    Args:
        saturation: Under air, any shape.
        left: Share of it that is not used, 0 to 1; same shape.
        tissue: Parameters.

    Example:
        >>> half = torch.tensor(0.5)
        >>> round(saturation_under_oxygen(half, torch.tensor(1.0), MrTissue()).item(), 4)
        0.562
    """
    extra = tissue.dissolved_per_mmhg * (tissue.arterial_oxygen_mmhg - tissue.arterial_air_mmhg)
    return (saturation + extra * left).clamp(max=1.0)


def r2prime_per_s(blood_volume: Tensor, saturation: Tensor, tissue: MrTissue) -> Tensor:
    """R2' of randomly oriented vessels with deoxygenated blood: DBV 4 pi/3 gamma dchi Hct (1 - Y) B0.

    Args:
        blood_volume: Share of deoxygenated blood, any shape.
        saturation: Y, same shape.
        tissue: Parameters.

    Returns:
        1/s.

    Source:
        He and Yablonskiy 2007, Magn Reson Med 57:115.

    Example:
        >>> blood, y = torch.tensor(0.05, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
        >>> round(r2prime_per_s(blood, y, MrTissue(haematocrit=0.4)).item(), 4)
        7.0995
    """
    per_share = 4 / 3 * math.pi * tissue.gamma_rad_per_s_t * tissue.dchi_ppm * 1e-6 * tissue.haematocrit
    return per_share * tissue.field_t * blood_volume * (1 - saturation)


def _delta_r1(site: _Site, blood: Tensor, rise: Tensor, in_vessels: Tensor) -> Tensor:
    """r1 times the rise of pO2, of tissue and of the blood inside it, by their shares."""
    tissue = site.tissue
    dissolved = torch.lerp(rise, in_vessels, blood)
    arterial = tissue.arterial_oxygen_mmhg - tissue.arterial_air_mmhg
    dissolved = torch.where(site.anatomy.is_a(Tissue.ARTERY), arterial, dissolved)
    # Haemoglobin takes up what venous blood gets more: hardly any is dissolved.
    dissolved = torch.where(site.anatomy.is_a(Tissue.VEIN), 0.0, dissolved)
    return torch.where(site.anatomy.body, tissue.r1_oxygen_per_s_mmhg * dissolved, 0.0)


def _perfusion(site: _Site, blood: Tensor, vasculature: Vasculature) -> dict[str, Tensor]:
    """Plasma flow, permeability, volumes and delay."""
    tissue, patient = site.tissue, site.patient
    plasma = 1 - tissue.haematocrit
    surface_per_um = 2 * tissue.vessel_radius_um / vasculature.radius_um.clamp(min=1.0) ** 2
    leak = MINUTE_S * tissue.permeability_um_per_s * patient.permeability * surface_per_um * site.viable
    ps = torch.where(site.anatomy.tumour, leak, site.ordinary(tissue.ps_per_min))
    flow = vasculature.flow * plasma / PERCENT
    ve = site.mixed(tissue.ve, patient.ve * tissue.tumour_ve, tissue.necrosis_ve, outside=0.1) / site.cells**2
    transit_s = MINUTE_S * PERCENT * blood / vasculature.flow.clamp(min=LITTLE)
    delay = (tissue.arrival_transits * transit_s).clamp(max=tissue.longest_delay_s)
    delay = torch.where(site.anatomy.is_a(Tissue.VEIN), tissue.venous_delay_s, delay)
    return {
        "flow": flow * PERCENT,
        "ps": ps,
        "ktrans": flow * ps / (flow + ps).clamp(min=LITTLE),
        "ve": ve.clamp(0.01, 0.95),
        "vp": blood * plasma,
        "delay_s": torch.where(site.anatomy.is_a(Tissue.ARTERY), 0.0, delay),
    }


def _diffusion(site: _Site, blood: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """D, f and D*: f goes with the volume of blood, f D* with its flow."""
    tissue, patient = site.tissue, site.patient
    d = site.mixed(tissue.d, patient.d * tissue.tumour_d, tissue.necrosis_d, outside=1.0)
    filled = blood / (tissue.tumour_blood_volume * patient.blood_volume)
    fast = tissue.tumour_d_star * flow / tissue.reference_flow / filled.clamp(min=LITTLE)
    tumour = site.anatomy.tumour
    return {
        "d": (d / site.cells).clamp(max=3.0),
        "f": torch.where(tumour, tissue.tumour_f * patient.f * filled, site.ordinary(tissue.f)).clamp(0, 0.5),
        "d_star": torch.where(tumour, fast.clamp(5.0, 100.0), site.ordinary(tissue.d_star, outside=20.0)),
    }
