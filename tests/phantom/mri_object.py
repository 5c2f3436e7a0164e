"""A small object by hand for the tests of MRI: a neck with a round tumour, and properties of single voxels."""

from __future__ import annotations

import numpy as np
import torch

from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.mri.properties import MrProperties, mr_properties, vessel_pressure_under_oxygen
from hypoxnet.phantom.parameters.mri import MrTissue
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature

# Tissue without patients and textures: the medians themselves.
PLAIN = {
    "texture": 0.0,
    "relaxation_spread": 0.0,
    "r2prime_spread": 0.0,
    "blood_volume_spread": 0.0,
    "permeability_spread": 0.0,
    "ve_spread": 0.0,
    "d_spread": 0.0,
    "f_spread": 0.0,
}


def neck(side=20, spacing_mm=4.0):
    """Fat, muscle, an airway, bone, an artery, a vein, and a tumour of 13 mm radius beside the airway."""
    grid = centred_grid((side * spacing_mm,) * 3, (spacing_mm,) * 3)
    axis = (torch.arange(side) - (side - 1) / 2) * spacing_mm
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    tissue = torch.zeros(side, side, side, dtype=torch.uint8)
    tissue[x**2 + y**2 < 36**2] = int(Tissue.FAT)
    tissue[x**2 + y**2 < 31**2] = int(Tissue.SOFT)
    tissue[(x.abs() > 14) & (x.abs() < 24) & (y < -8) & (y > -20)] = int(Tissue.MUSCLE)
    tissue[x**2 + (y - 20) ** 2 < 7**2] = int(Tissue.AIRWAY)
    tissue[x**2 + (y + 24) ** 2 < 6**2] = int(Tissue.BONE)
    tissue[(x - 22) ** 2 + y**2 < 5**2] = int(Tissue.ARTERY)
    tissue[(x + 22) ** 2 + y**2 < 5**2] = int(Tissue.VEIN)
    tumour = (x**2 + (y - 4) ** 2 + z**2 < 13**2) & (tissue == int(Tissue.SOFT))
    tissue[tumour] = int(Tissue.TUMOUR)
    none = torch.zeros_like(tissue)
    depth = torch.where(tumour, 13 - (x**2 + (y - 4) ** 2 + z**2).sqrt(), 0.0).clamp(min=0)
    muscle, artery = tissue == int(Tissue.MUSCLE), tissue == int(Tissue.ARTERY)
    return Anatomy(grid, tissue, tumour, none, muscle, artery, depth, "oropharynx")


def voxels(tissues):
    """An anatomy of single voxels, one per tissue, in a row."""
    tissue = torch.tensor([int(t) for t in tissues], dtype=torch.uint8).reshape(-1, 1, 1)
    tumour = tissue == int(Tissue.TUMOUR)
    none = torch.zeros_like(tissue)
    grid = centred_grid((len(tissues) * 2.0, 2.0, 2.0), (2.0,) * 3)
    return Anatomy(grid, tissue, tumour, none, tumour, tumour, none.float(), "larynx")


def vessels(anatomy, *, radius_um=50.0, flow=110.0, viable=1.0):
    """The same vessels everywhere, or those of a tensor."""
    like = torch.ones(anatomy.tissue.shape)
    return Vasculature(radius_um * like, flow * like, viable * like, 0 * like, 0 * like)


def oxygen(po2):
    """Without distribution inside a voxel."""
    return Oxygenation(po2, po2[None])


def made(anatomy, *, tissue=None, po2=30.0, rise=100.0, seed=0, **of_vessels):
    """Properties with the same oxygen everywhere."""
    like = torch.ones(anatomy.tissue.shape)
    air, breathing = oxygen(po2 * like), oxygen((po2 + rise) * like)
    generator = np.random.default_rng(seed)
    tissue = tissue or MrTissue(**PLAIN)
    return mr_properties(anatomy, vessels(anatomy, **of_vessels), air, breathing, tissue, generator)


def neck_properties(anatomy, *, seed=0, tissue=None):
    """Properties of a neck whose tumour becomes hypoxic with depth."""
    tissue = tissue or MrTissue()
    radius = 42.0 + 4.0 * anatomy.depth_mm
    seen = vessels(anatomy, radius_um=radius, flow=110.0 * 42.0 / radius)
    air = torch.where(anatomy.tumour, 32.0 * torch.exp(-anatomy.depth_mm / 6), 35.0)
    raised = vessel_pressure_under_oxygen(seen.flow, tissue) - tissue.vessel_air_mmhg
    breathing = air + raised * air / (air + 5.0)
    return mr_properties(anatomy, seen, oxygen(air), oxygen(breathing), tissue, np.random.default_rng(seed))


def random_properties(count=400, *, seed=0, delay_s=0.0):
    """Voxels in a row whose properties are drawn independently over the range of tissue, float64."""
    generator = np.random.default_rng(seed)

    def between(low, high):
        return torch.from_numpy(generator.uniform(low, high, (count, 1, 1)))

    ktrans, flow = between(0.05, 0.5), between(80.0, 150.0)
    return MrProperties(
        proton_density=between(0.5, 1.0),
        r1=between(0.5, 1.5),
        dr1=between(0.0, 0.08),
        r2=between(8.0, 30.0),
        r2star=between(20.0, 90.0),
        r2star_oxygen=between(20.0, 90.0),
        saturation=between(0.2, 0.9),
        flow=flow,
        ps=ktrans * flow / (flow - 100 * ktrans),
        ktrans=ktrans,
        ve=between(0.15, 0.6),
        vp=between(0.01, 0.08),
        delay_s=torch.full((count, 1, 1), delay_s, dtype=torch.float64),
        d=between(0.6, 1.6),
        f=between(0.03, 0.25),
        d_star=between(10.0, 60.0),
        transmit=torch.ones(count, 1, 1, dtype=torch.float64),
    )
