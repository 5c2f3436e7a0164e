"""Vessels of the object: how far apart, how much blood they carry, and how their supply cycles.

Half the distance between vessels R is log-normal: a level of the patient, one of each node that goes with it, a growth
from the rim to the core, and a texture. Where R is large, tissue is necrotic. Flow follows the number of vessels,
loosely.

Axis legend: D H W voxels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.fields import gaussian_field
from hypoxnet.phantom.parameters.oxygen import Vessels
from hypoxnet.phantom.words import Anatomy, Tissue, Vasculature


def make_vasculature(anatomy: Anatomy, vessels: Vessels, generator: np.random.Generator) -> Vasculature:
    """Vessels of a patient.

    Args:
        anatomy: Tumour, nodes and tissues.
        vessels: Parameters.
        generator: Source of randomness.
    """
    tumour = anatomy.tumour
    texture = _field(anatomy, vessels.texture_mm, generator)
    depth = vessels.core_growth * (1.0 - torch.exp(-anatomy.depth_mm.float() / vessels.rim_mm))
    level = _levels(anatomy, vessels, generator)
    growth = level + depth + vessels.texture * texture
    radius = _normal_radius(anatomy, vessels) * torch.exp(vessels.normal_texture * texture)
    radius = torch.where(tumour, vessels.tumour_um * torch.exp(growth), radius)
    radius = radius.clamp(vessels.least_um, vessels.most_um)
    viable = torch.where(tumour, viable_share(radius, vessels), 1.0)

    patient = vessels.flow_spread * float(generator.standard_normal())
    scatter = torch.exp(patient + vessels.flow_texture * _field(anatomy, vessels.texture_mm, generator))
    per_area = (vessels.tumour_um / radius) ** 2
    flow = torch.where(
        tumour, vessels.tumour_flow * per_area**vessels.flow_power * scatter * viable, _normal_flow(anatomy, vessels)
    )
    acute, phase = _cycle(radius, anatomy, vessels, generator)
    return Vasculature(radius_um=radius, flow=flow, viable=viable, acute=acute, phase=phase)


def viable_share(radius_um: Tensor, vessels: Vessels) -> Tensor:
    """Share of tumour that lives, 0 to 1, one half where R is `necrosis_um`.

    Args:
        radius_um: ..., R.
        vessels: Where necrosis begins and how sharply.
    """
    return torch.sigmoid(torch.log(vessels.necrosis_um / radius_um) / vessels.necrosis_width)


def another_day(
    vasculature: Vasculature, anatomy: Anatomy, vessels: Vessels, generator: np.random.Generator
) -> Vasculature:
    """The same vessels some days later: distances and flow in the tumour changed a little, the cycle at another place.

    What is necrotic stays so. The variance over a tumour grows by that of the change.

    Args:
        vasculature: Before.
        anatomy: Tumour and grid.
        vessels: Size of the change, its correlation length and that of the phase.
        generator: Source of randomness.
    """
    change = vessels.day_change * anatomy.tumour
    radius = vasculature.radius_um * torch.exp(change * _field(anatomy, vessels.day_mm, generator))
    moved = _with_radius(vasculature, torch.where(anatomy.tumour, radius, vasculature.radius_um), vessels)
    flow = moved.flow * torch.exp(change * _field(anatomy, vessels.day_mm, generator))
    return replace(moved, flow=flow, phase=_uniform(_field(anatomy, vessels.acute_mm, generator)))


def reoxygenated(
    vasculature: Vasculature, anatomy: Anatomy, share: float | Tensor, *, vessels: Vessels | None = None
) -> Vasculature:
    """Vessels of a tumour that shrinks: they draw nearer, and log R approaches that of muscle by a share.

    What is necrotic stays so; where R is that of muscle or less, it stays.

    Args:
        vasculature: Before.
        anatomy: Tumour.
        share: Of the way, 0 to 1; one number, or D H W.
        vessels: R of muscle, and how flow and cycles go with R; by default those of `Vessels()`.

    Raises:
        ConfigError: `share` is not between 0 and 1.
    """
    vessels = vessels or Vessels()
    part = torch.as_tensor(share, dtype=torch.float32, device=vasculature.radius_um.device)
    if not bool(((part >= 0) & (part <= 1)).all()):
        raise ConfigError(
            f"share={float(part.min()):g} to {float(part.max()):g} of reoxygenation must lie between 0 and 1; "
            "0 leaves the vessels, 1 makes them those of muscle"
        )
    before = vasculature.radius_um
    nearer = before * (vessels.muscle_um / before).clamp(max=1.0) ** part
    return _with_radius(vasculature, torch.where(anatomy.tumour, nearer, before), vessels)


def _with_radius(vasculature: Vasculature, radius_um: Tensor, vessels: Vessels) -> Vasculature:
    """Other distances between vessels, with the flow and the loss at the trough that go with them."""
    radius = radius_um.clamp(vessels.least_um, vessels.most_um)
    wider = radius / vasculature.radius_um
    return replace(
        vasculature,
        radius_um=radius,
        flow=vasculature.flow * wider ** (-2.0 * vessels.flow_power),
        acute=(vasculature.acute * wider**vessels.acute_power).clamp(max=vessels.acute_most),
    )


def _levels(anatomy: Anatomy, vessels: Vessels, generator: np.random.Generator) -> Tensor:
    """Logarithm of the level of the primary, or of the node that a voxel belongs to, D H W."""
    shared, own = vessels.node_correlation, math.sqrt(1.0 - vessels.node_correlation**2)
    primary = generator.standard_normal()
    nodes = shared * primary + own * generator.standard_normal(int(anatomy.nodes.max()))
    levels = vessels.tumour_spread * np.concatenate([[primary], nodes])
    return torch.from_numpy(levels).float().to(anatomy.nodes.device)[anatomy.nodes.long()]


def _cycle(radius: Tensor, anatomy: Anatomy, vessels: Vessels, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Share of the supply that is lost at the trough, and place in the cycle at time 0."""
    spread = torch.exp(vessels.acute_spread * _field(anatomy, vessels.acute_mm, generator))
    poorer = (radius / vessels.tumour_um) ** vessels.acute_power
    lost = (vessels.acute_share * poorer * spread).clamp(max=vessels.acute_most)
    acute = torch.where(anatomy.tumour, lost, vessels.acute_normal * anatomy.body)
    return acute, _uniform(_field(anatomy, vessels.acute_mm, generator))


def _field(anatomy: Anatomy, length_mm: float, generator: np.random.Generator) -> Tensor:
    return gaussian_field(
        anatomy.grid.shape,
        length_mm=length_mm,
        spacing_mm=anatomy.grid.spacing_mm,
        generator=generator,
        device=anatomy.tissue.device,
    )


def _uniform(field: Tensor) -> Tensor:
    """A standard normal field as one that is uniform over 0 to 1."""
    uniform: Tensor = torch.special.ndtr(field)
    return uniform


def _normal_radius(anatomy: Anatomy, vessels: Vessels) -> Tensor:
    radii = {Tissue.FAT: vessels.fat_um, Tissue.MUSCLE: vessels.muscle_um, Tissue.GLAND: vessels.gland_um}
    return _by_tissue(anatomy, radii, vessels.soft_um)


def _normal_flow(anatomy: Anatomy, vessels: Vessels) -> Tensor:
    flows = {Tissue.FAT: vessels.fat_flow, Tissue.MUSCLE: vessels.muscle_flow, Tissue.GLAND: vessels.gland_flow}
    # Blood of the great vessels passes by; it is not the flow of a tissue.
    none = dict.fromkeys((Tissue.OUTSIDE, Tissue.AIRWAY, Tissue.ARTERY, Tissue.VEIN), 0.0)
    return _by_tissue(anatomy, {**flows, Tissue.BONE: vessels.bone_flow, **none}, vessels.soft_flow)


def _by_tissue(anatomy: Anatomy, values: dict[Tissue, float], other: float) -> Tensor:
    table = torch.tensor([values.get(tissue, other) for tissue in Tissue], device=anatomy.tissue.device)
    return table[anatomy.tissue.long()]
