"""The normal neck: which tissue is where, drawn from tubes whose place and width change with the level.

Coordinates of the neck: x to the right of the patient, y to the front, z upwards, mm of the median neck. The origin is
in the midline, at the back wall of the pharynx, at the level of the hyoid (vertebra C4). Places of structures are
chosen after axial anatomy; their sizes are parameters with sources.

Axis legend: D H W voxels along x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.geometry import Grid
from hypoxnet.phantom.parameters.anatomy import Neck
from hypoxnet.phantom.words import Tissue

FloatArray = NDArray[np.float64]
# Levels, mm above the hyoid: lower end of the jaw, glottis, first ring of the trachea, opening of the skull.
CHIN, GLOTTIS, TRACHEA, SKULL = 14.0, -20.0, -46.0, 62.0
# Where the cord lies behind the back wall of the pharynx, mm.
CORD_Y = -29.5
# No patient is further from the median than so many standard deviations.
MOST_SD = 2.5
_ABSENT = 1e6


@dataclass(frozen=True, slots=True)
class Frame:
    """Voxel centres in coordinates of the neck.

    Args:
        x: D 1 1 or D 1 W, mm to the right.
        y: 1 H 1 or 1 H W, mm to the front.
        z: W, mm upwards.
        size: Millimetres of the patient per millimetre of the median neck.
    """

    x: Tensor
    y: Tensor
    z: FloatArray
    size: float


@dataclass(frozen=True, slots=True)
class Build:
    """What differs from patient to patient, relative to the median neck.

    Args:
        size: All lengths.
        width: Half width of the outline.
        depth: Half depth of the outline.
        fat_mm: Fat under the skin.
        airway: Lengths of the airway.
        carotid: Diameters of the arteries.
        jugular: Cross-sections of the veins, right and left.
        bifurcation_mm: Height of the bifurcation of the carotids.
    """

    size: float
    width: float
    depth: float
    fat_mm: float
    airway: float
    carotid: float
    jugular: tuple[float, float]
    bifurcation_mm: float


@dataclass(frozen=True, slots=True)
class Tube:
    """A structure whose section is an ellipse at every level.

    Args:
        z: Levels where the rest is given; there is nothing above the last and below the first.
        x: Centre, mm from the midline.
        y: Centre, mm to the front.
        a: Half width, mm.
        b: Half depth, mm.
    """

    z: Sequence[float]
    x: Sequence[float]
    y: Sequence[float]
    a: Sequence[float]
    b: Sequence[float]

    def at(self, level: float) -> tuple[float, float, float, float]:
        """Centre and half axes at a level."""
        x, y, a, b = (float(np.interp(level, self.z, values)) for values in (self.x, self.y, self.a, self.b))
        return x, y, a, b

    def radius2(self, frame: Frame, x: Tensor) -> Tensor:
        """Squared distance from the axis in units of the half axes, D H W; below 1 inside."""
        cx, cy, a, b = (_levels(frame.z, self.z, values) for values in (self.x, self.y, self.a, self.b))
        absent = (frame.z < min(self.z)) | (frame.z > max(self.z))
        far = torch.from_numpy(np.where(absent, _ABSENT, 0.0)).float()
        return ((x - cx) / a) ** 2 + (((frame.y - cy) / b) ** 2 + far)

    def half_axis(self, frame: Frame) -> Tensor:
        """The smaller half axis at every level, W."""
        return torch.minimum(_levels(frame.z, self.z, self.a), _levels(frame.z, self.z, self.b))


@dataclass(frozen=True, slots=True)
class Normal:
    """A neck without tumour.

    Args:
        tissue: D H W, uint8, codes of `Tissue`.
        deep: D H W, bool, muscles behind the prevertebral fascia, which tumours respect.
        lumen_mm: D H W, distance to the wall of the vessel inwards, mm of the patient; 0 outside vessels.
    """

    tissue: Tensor
    deep: Tensor
    lumen_mm: Tensor


def _levels(z: FloatArray, knots: Sequence[float], values: Sequence[float]) -> Tensor:
    return torch.from_numpy(np.interp(z, knots, values)).float()


def draw_build(neck: Neck, generator: np.random.Generator) -> Build:
    """The build of one patient.

    Args:
        neck: Parameters.
        generator: Source of randomness.
    """
    n = generator.standard_normal(9).clip(-MOST_SD, MOST_SD)
    return Build(
        size=math.exp(neck.size_spread * n[0]),
        width=math.exp(neck.outline_spread * n[1]),
        depth=math.exp(neck.outline_spread * n[2]),
        fat_mm=neck.fat_mm * math.exp(neck.fat_spread * n[3]),
        airway=math.exp(neck.airway_spread * n[4]),
        carotid=math.exp(neck.carotid_spread * n[5]),
        jugular=(
            math.exp(neck.jugular_spread * n[6]),
            neck.jugular_left * math.exp(neck.jugular_spread * n[7]),
        ),
        bifurcation_mm=neck.bifurcation_mm + neck.bifurcation_sd_mm * n[8],
    )


def median_build(neck: Neck) -> Build:
    """The build with nothing drawn."""
    return Build(1.0, 1.0, 1.0, neck.fat_mm, 1.0, 1.0, (1.0, neck.jugular_left), neck.bifurcation_mm)


def frame_of(grid: Grid, centre: Sequence[float], size: float) -> Frame:
    """Coordinates of the neck on a RAS+ grid.

    Args:
        grid: Of the object; its axes run along the patient.
        centre: Place in the neck of the middle of the grid, mm of the median neck.
        size: Millimetres of the patient per millimetre of the median neck.
    """
    axes = [
        np.asarray((np.arange(n) - (n - 1) / 2) * s / size + c, dtype=np.float64)
        for n, s, c in zip(grid.shape, grid.spacing_mm, centre, strict=True)
    ]
    x, y = (torch.from_numpy(axis).float() for axis in axes[:2])
    return Frame(x[:, None, None], y[None, :, None], axes[2], size)


def skin(neck: Neck, build: Build, *, inwards_mm: float = 0.0) -> Tube:
    """The outline of the neck, or the surface this far under it."""
    radius = neck.circumference_mm / (2 * math.pi)
    widths, depths = (1.15, 1.06, 1.0, 1.0, 1.08, 1.16, 1.2), (1.05, 1.0, 1.0, 1.03, 1.32, 1.42, 1.45)
    return Tube(
        z=(-140, -60, -40, 0, CHIN, 60, 140),
        x=(0.0,) * 7,
        y=(-18, -18, -17, -16, 1, 4, 4),
        a=[radius * w * build.width - inwards_mm for w in widths],
        b=[radius * d * build.depth - inwards_mm for d in depths],
    )


def airway(neck: Neck, build: Build) -> Tube:
    """Pharynx, larynx and trachea."""
    pharynx = neck.pharynx_width_mm / 2, neck.pharynx_depth_mm / 2
    glottis = neck.glottis_width_mm / 2, 2 * neck.glottis_area_mm2 / (math.pi * neck.glottis_width_mm)
    trachea = neck.trachea_width_mm / 2, neck.trachea_depth_mm / 2
    widths = (trachea[0], trachea[0], 1.13 * glottis[0], glottis[0], 1.4 * glottis[0], 1.1 * pharynx[0], pharynx[0])
    depths = (trachea[1], trachea[1], glottis[1], glottis[1], 0.8 * glottis[1], 1.1 * pharynx[1], pharynx[1])
    return Tube(
        z=(-140, TRACHEA, -36, GLOTTIS, -8, 0, 15, 40, 50, 75),
        x=(0.0,) * 10,
        y=(12, 18, 17, 16, 13, 9, 8, 8, 8, 8),
        a=[build.airway * w for w in (*widths, pharynx[0], 1.2 * pharynx[0], 1.3 * pharynx[0])],
        b=[build.airway * d for d in (*depths, pharynx[1], 1.15 * pharynx[1], 1.15 * pharynx[1])],
    )


def jugular(neck: Neck, build: Build, *, side: int) -> Tube:
    """The internal jugular vein of a side: 1 right, -1 left; x counts from the midline."""
    scale = math.sqrt(build.jugular[0 if side > 0 else 1])
    half_width = scale * neck.jugular_width_mm / 2
    half_depth = scale * 2 * neck.jugular_area_mm2 / (math.pi * neck.jugular_width_mm)
    # It is narrowest in the upper neck (Norin et al. 2017, J Vasc Access 18:69).
    narrower = (1.0, 1.0, 1.0, 1.0, 0.85, 0.7)
    return Tube(
        z=(-140, -60, -30, 0, 30, SKULL),
        x=(22, 29, 33, 35, 34, 32),
        y=(4, 7, 3, -2, -8, -14),
        a=[half_width * n for n in narrower],
        b=[half_depth * n for n in narrower],
    )


def carotids(neck: Neck, build: Build) -> tuple[Tube, Tube, Tube]:
    """Common, internal and external carotid arteries; x counts from the midline."""
    fork = build.bifurcation_mm
    common, internal, external, bulb = (
        build.carotid * d / 2
        for d in (neck.common_carotid_mm, neck.internal_carotid_mm, neck.external_carotid_mm, neck.carotid_bulb_mm)
    )
    wide = (bulb, internal, internal)
    return (
        Tube((-140, -60, -30, fork), (16, 18, 23, 25), (2, 4, 2, 0), (common,) * 4, (common,) * 4),
        Tube((fork, fork + 20, max(SKULL, fork + 30)), (26, 26.5, 27), (-1, -5, -9), wide, wide),
        Tube((fork, fork + 20, max(SKULL, fork + 30)), (24, 27, 36), (4.5, 8, 4), (external,) * 3, (external,) * 3),
    )


def normal_tissue(frame: Frame, neck: Neck, build: Build) -> Normal:
    """Paint the neck; what is painted later covers what was painted before.

    Args:
        frame: Voxel centres, mm of the median neck.
        neck: Sizes.
        build: Of the patient.
    """
    shape = (frame.x.shape[0], frame.y.shape[1], len(frame.z))
    tissue = torch.full(shape, int(Tissue.SOFT), dtype=torch.uint8)
    apart = frame.x.abs()
    tissue.masked_fill_(skin(neck, build, inwards_mm=build.fat_mm).radius2(frame, frame.x) > 1, int(Tissue.FAT))
    deep = _deep_muscles(frame, apart)
    tissue.masked_fill_(deep, int(Tissue.MUSCLE))
    tissue.masked_fill_(_sternocleidomastoid(frame, neck, apart) < 1, int(Tissue.MUSCLE))
    for tube in _MUSCLES:
        tissue.masked_fill_(tube.radius2(frame, apart) < 1, int(Tissue.MUSCLE))
    for centre, axes in _glands(neck):
        tissue.masked_fill_(_ellipsoid2(frame, apart, centre, axes) < 1, int(Tissue.GLAND))
    lumen = _paint_vessels(tissue, frame, neck, build)
    for tube in (airway(neck, build), _PIRIFORM):
        tissue.masked_fill_(tube.radius2(frame, apart) < 1, int(Tissue.AIRWAY))
    _paint_bone(tissue, frame, neck, apart)
    tissue.masked_fill_(skin(neck, build).radius2(frame, frame.x) > 1, int(Tissue.OUTSIDE))
    return Normal(tissue, deep & (tissue == Tissue.MUSCLE), lumen)


# Semispinalis and splenius; levator scapulae and scalenes; longus colli. All lie behind the prevertebral fascia.
_DEEP = (
    Tube((-140, SKULL), (20, 20), (-48, -48), (17, 17), (17, 17)),
    Tube((-140, SKULL), (38, 38), (-30, -32), (10, 10), (12, 12)),
    Tube((-140, SKULL), (8, 8), (-3, -3), (7, 7), (3, 3)),
)
# Tongue; masseter; medial pterygoid; strap muscles.
_MUSCLES = (
    Tube((8, 20, 52), (0, 0, 0), (33, 36, 36), (16, 20, 20), (16, 24, 24)),
    Tube((20, 62), (53, 53), (24, 24), (5.5, 5.5), (15, 15)),
    Tube((24, 60), (36, 36), (16, 16), (6, 6), (11, 11)),
    Tube((-95, -6), (11, 11), (32, 33), (9, 9), (3, 3)),
)
_PIRIFORM = Tube((-27, -22, -4), (11, 13, 14), (6, 7, 7), (2.5, 3.2, 3.2), (3, 4, 4))


def _deep_muscles(frame: Frame, apart: Tensor) -> Tensor:
    first, *others = (tube.radius2(frame, apart) < 1 for tube in _DEEP)
    for other in others:
        first |= other
    return first


def _sternocleidomastoid(frame: Frame, neck: Neck, apart: Tensor) -> Tensor:
    """Squared distance from the axis of the muscle in units of its half axes; it lies flat under the skin, D H W."""
    knots = (-90, -60, -30, 0, 20, 50, SKULL)
    cx, cy = (_levels(frame.z, knots, v) for v in ((16, 26, 36, 44, 47, 50, 50), (27, 20, 10, -2, -8, -20, -24)))
    # From the middle of the neck outwards.
    outwards_x, outwards_y = cx, cy + 14.0
    length = torch.hypot(outwards_x, outwards_y)
    ux, uy = outwards_x / length, outwards_y / length
    thick = math.sqrt(neck.sternocleidomastoid_mm2 / math.pi / 2.6)
    across = (ux * (apart - cx) + uy * (frame.y - cy)) / thick
    along = (ux * (frame.y - cy) - uy * (apart - cx)) / (2.6 * thick)
    absent = torch.from_numpy(np.where((frame.z < knots[0]) | (frame.z > knots[-1]), _ABSENT, 0.0)).float()
    return across**2 + along**2 + absent


def _glands(neck: Neck) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Centre and half axes of the parotid and of the submandibular gland."""
    found = []
    shapes = (
        (neck.parotid_ml, (50.0, -2.0, 45.0), (1.0, 1.4, 2.2)),
        (neck.submandibular_ml, (29.0, 27.0, 14.0), (1.0, 1.5, 1.7)),
    )
    for ml, centre, ratio in shapes:
        unit = (3000.0 * ml / (4 * math.pi * math.prod(ratio))) ** (1 / 3)
        found.append((centre, (unit * ratio[0], unit * ratio[1], unit * ratio[2])))
    return found


def _ellipsoid2(frame: Frame, x: Tensor, centre: Sequence[float], axes: Sequence[float]) -> Tensor:
    z = torch.from_numpy(((frame.z - centre[2]) / axes[2]) ** 2).float()
    return ((x - centre[0]) / axes[0]) ** 2 + (((frame.y - centre[1]) / axes[1]) ** 2 + z)


def _paint_vessels(tissue: Tensor, frame: Frame, neck: Neck, build: Build) -> Tensor:
    """Arteries over veins; the distance to the wall inwards, mm of the patient."""
    lumen = torch.zeros(tissue.shape)
    for tube, side, code in (
        (jugular(neck, build, side=1), 1, Tissue.VEIN),
        (jugular(neck, build, side=-1), -1, Tissue.VEIN),
        *((tube, 0, Tissue.ARTERY) for tube in carotids(neck, build)),
    ):
        radius2 = tube.radius2(frame, frame.x * side if side else frame.x.abs())
        inside = radius2 < 1
        tissue.masked_fill_(inside, int(code))
        # In an ellipse no wall is nearer than this.
        depth = (1 - radius2.clamp(max=1).sqrt()) * tube.half_axis(frame) * frame.size
        lumen = torch.where(inside, depth, lumen)
    return lumen


def _paint_bone(tissue: Tensor, frame: Frame, neck: Neck, apart: Tensor) -> None:
    """Spine, jaw and hyoid, then the canal and the cord in it."""
    z = frame.z
    # A vertebra has its middle at the hyoid (C4).
    from_middle = np.abs((z + neck.vertebra_pitch_mm / 2) % neck.vertebra_pitch_mm - neck.vertebra_pitch_mm / 2)
    below_skull = torch.from_numpy(z < SKULL)
    vertebra = torch.from_numpy(from_middle < (neck.vertebra_pitch_mm - neck.disc_mm) / 2) & below_skull
    arch = torch.from_numpy(from_middle < 0.33 * neck.vertebra_pitch_mm) & below_skull
    y = frame.y

    def disc(cx: float, cy: float, a: float, b: float) -> Tensor:
        return ((apart - cx) / a) ** 2 + ((y - cy) / b) ** 2

    front = CORD_Y + 8.0 + neck.vertebra_depth_mm / 2
    body = disc(0, front, neck.vertebra_width_mm / 2, neck.vertebra_depth_mm / 2) < 1
    facets = disc(18, -24, 6, 6) < 1
    arches = ((disc(0, CORD_Y, 16, 12) < 1) & (y < -24)) | (disc(0, -49, 3, 10) < 1)
    bone = ((body | facets) & vertebra) | (arches & arch)
    outer, inner = disc(0, 12, 47, 60), disc(0, 12, 47 - neck.mandible_mm, 60 - neck.mandible_mm)
    bone |= (outer < 1) & (inner > 1) & (y > 12) & torch.from_numpy((z > CHIN) & (z < 44))
    bone |= (disc(44, 18, neck.mandible_mm / 2, 16) < 1) & torch.from_numpy((z > 24) & (z < 70))
    hyoid = (disc(0, 16, 22, 22) < 1) & (disc(0, 16, 18.5, 18.5) > 1) & (y > 20)
    bone |= hyoid & torch.from_numpy(np.abs(z) < 3)
    tissue.masked_fill_(bone, int(Tissue.BONE))
    canal = disc(0, CORD_Y, 11, 8) < 1
    tissue.masked_fill_(canal, int(Tissue.SOFT))
    tissue.masked_fill_(disc(0, CORD_Y, neck.cord_width_mm / 2, neck.cord_depth_mm / 2) < 1, int(Tissue.CORD))
