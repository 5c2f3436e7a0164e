"""Primary and involved nodes: how large, where, and of what shape.

Axis legend: D H W voxels of the object's grid (RAS+). Places are coordinates of the neck, see `hypoxnet.phantom.neck`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.fields import gaussian_field
from hypoxnet.phantom.neck import GLOTTIS, SKULL, Build, Frame, airway, jugular
from hypoxnet.phantom.parameters.anatomy import SUBSITES, Neck

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Place = tuple[float, float, float]
MOST_NODES = 3
# A cube at least this wide holds both sides of the neck; a smaller one holds the side of the tumour, mm.
BOTH_SIDES_MM = 130.0
# A tumour reaches so many radii of its ball and so many mm from its centre; where that is too little room, anatomy has
# cut it off. Without a limit it would run through every gap until its volume is reached.
REACH, BEYOND_MM = 1.7, 4.0
# How far behind the pharynx the cube reaches at least, so that it holds muscles of the back of the neck, mm.
BEHIND_MM = 32.0
# Nodes look for room at so many places.
TRIES = 12


@dataclass(frozen=True, slots=True)
class Volumes:
    """Volumes as drawn.

    Args:
        primary_ml: Of the primary.
        nodes_ml: Of each involved node.
    """

    primary_ml: float
    nodes_ml: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Lesion:
    """A tumour before it grows.

    Args:
        place: Centre, mm of the median neck.
        ml: Wanted volume.
    """

    place: Place
    ml: float

    @property
    def radius_mm(self) -> float:
        """Radius of the ball of this volume."""
        return float((3000.0 * self.ml / (4 * math.pi)) ** (1 / 3))


def index_of(subsite: str) -> int:
    """Number of a subsite in the parameters.

    Raises:
        ConfigError: There is no such subsite.
    """
    if subsite not in SUBSITES:
        raise ConfigError(f"subsite {subsite!r} of the phantom is unknown; choose one of {', '.join(SUBSITES)}")
    return SUBSITES.index(subsite)


def draw_volumes(neck: Neck, *, hpv: bool, subsite: str, generator: np.random.Generator) -> Volumes:
    """Log-normal volumes, those of the nodes correlated with that of the primary.

    Args:
        neck: Parameters.
        hpv: Whether the tumour is caused by HPV: smaller primary, more and larger nodes.
        subsite: Place of the primary.
        generator: Source of randomness.

    Raises:
        ConfigError: There is no such subsite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> drawn = [draw_volumes(Neck(), hpv=True, subsite="oropharynx", generator=rng) for _ in range(2000)]
        >>> round(float(np.median([d.primary_ml for d in drawn])))
        12
    """
    place = index_of(subsite)
    median = neck.primary_median_ml[place] * (neck.hpv_primary if hpv else 1.0)
    z = generator.standard_normal(1 + MOST_NODES)
    count = min(MOST_NODES, int(generator.poisson(neck.hpv_nodes_mean if hpv else neck.nodes_mean[place])))
    node_median = neck.hpv_node_median_ml if hpv else neck.node_median_ml
    rho = neck.volume_correlation
    together = rho * z[0] + math.sqrt(1 - rho**2) * z[1:]
    primary = median * math.exp(neck.primary_spread[place] * z[0])
    nodes = [min(neck.largest_ml, node_median * math.exp(neck.node_spread * one)) for one in together[:count]]
    return Volumes(min(neck.largest_ml, primary), tuple(nodes))


def primary_place(neck: Neck, build: Build, *, subsite: str, side: int, generator: np.random.Generator) -> Place:
    """Centre of the primary: at the wall of the airway where it arises.

    Args:
        neck: Parameters.
        build: Of the patient.
        subsite: Place of the primary.
        side: 1 right, -1 left.
        generator: Source of randomness.
    """
    n = generator.standard_normal(3)
    tongue = generator.random() < neck.base_of_tongue
    if subsite == "hypopharynx":
        return side * (15.0 + n[0]), 5.0 + n[1], -15.0 + 4 * n[2]
    if subsite == "oral cavity":
        return side * (18.0 + 2 * n[0]), 25.0 + 3 * n[1], 30.0 + 4 * n[2]
    if subsite == "larynx":
        level = GLOTTIS + 3 + 5 * n[2]
        _, y, a, _ = airway(neck, build).at(level)
        return side * (a + 4.0 + n[0]), y + 2 * n[1], level
    level = 12.0 + 4 * n[2] if tongue else 25.0 + 5 * n[2]
    _, y, a, b = airway(neck, build).at(level)
    return (
        (side * abs(5 * n[0]), y + b + 8.0 + n[1], level)
        if tongue
        else (side * (a + 5.0 + n[0]), y + 1.0 + n[1], level)
    )


def cube_place(grid: Grid, primary: Lesion, *, side: int, size: float, generator: np.random.Generator) -> Place:
    """Where in the neck the middle of the cube lies, mm of the median neck.

    A cube that holds the whole neck is in the midline. A smaller one holds the side of the primary with its vessels and
    some muscle of the back of the neck. None reaches above the base of the skull unless the primary asks for it.

    Args:
        grid: Of the object.
        primary: The tumour that is to be inside.
        side: Of the primary, 1 right, -1 left.
        size: Millimetres of the patient per millimetre of the median neck.
        generator: Source of randomness.
    """
    half_x, half_y, half_z = (n * s / 2 / size for n, s in zip(grid.shape, grid.spacing_mm, strict=True))
    jitter = generator.uniform(-3.0, 3.0, 3)
    _, y, z = primary.place
    room = min(14.0, primary.radius_mm)
    at_x = 0.0 if 2 * half_x * size >= BOTH_SIDES_MM else side * max(0.0, 56.0 - half_x)
    at_y = min(max(-8.0, y + room + 4.0 - half_y), half_y - BEHIND_MM)
    at_z = max(min(z, max(SKULL - half_z, z + 20.0 - half_z)), -20.0)
    return at_x + jitter[0], at_y + 0.5 * jitter[1] - 1.5, at_z + jitter[2]


def node_lesions(
    volumes: Volumes, primary: Lesion, frame: Frame, neck: Neck, build: Build, generator: np.random.Generator
) -> list[Lesion]:
    """Nodes at levels II and III beside the jugular vein, inside the cube, apart from other tumours where possible.

    Args:
        volumes: As drawn.
        primary: Its place tells the side.
        frame: Voxel centres, which tell the cube.
        neck: Parameters.
        build: Of the patient.
        generator: Source of randomness.
    """
    side = 1 if primary.place[0] >= 0 else -1
    both = min(float(frame.x.max()), -float(frame.x.min())) > 45.0
    low, high = float(frame.z.min()) + 15.0, float(frame.z.max()) - 15.0
    found: list[Lesion] = []
    for ml in volumes.nodes_ml:
        best, most = None, -math.inf
        here = -side if generator.random() < neck.contralateral and both else side
        vein = jugular(neck, build, side=here)
        for upper, share in generator.random((TRIES, 2)):
            level = 5.0 + 27.0 * share if upper < neck.level_two else -34.0 + 32.0 * share
            level = float(np.clip(level, low, high))
            x, y, a, b = vein.at(level)
            lesion = Lesion((here * (x + 0.7 * a), y - b - 2.0, level), ml)
            room = min(_gap_mm(lesion, other, frame.size) for other in (primary, *found))
            if room > most:
                best, most = lesion, room
            # The first place with room, so that the share of the levels is kept.
            if room > 0:
                break
        assert best is not None
        found.append(best)
    return found


def _gap_mm(one: Lesion, other: Lesion, size: float) -> float:
    return size * math.dist(one.place, other.place) - one.radius_mm - other.radius_mm


def place_tumours(
    grid: Grid,
    frame: Frame,
    lesions: Sequence[Lesion],
    forbidden: BoolArray,
    neck: Neck,
    generator: np.random.Generator,
) -> list[BoolArray]:
    """Let tumours grow one after another, each connected and a voxel apart from the others.

    Args:
        grid: Of the object.
        frame: Voxel centres.
        lesions: In their order.
        forbidden: D H W, where nothing may grow; cells near the faces of the cube are forbidden here too.
        neck: Parameters.
        generator: Source of randomness.

    Returns:
        A mask for each; empty where there was no room. A mask has the wanted number of voxels unless anatomy or the
        cube leaves less within reach.
    """
    closed = forbidden.copy()
    for axis, spacing in enumerate(grid.spacing_mm):
        rim = math.ceil(neck.margin_mm / spacing)
        across = np.moveaxis(closed, axis, 0)
        across[:rim] = True
        across[len(across) - rim :] = True
    most = neck.largest_share * grid.voxel_ml * closed.size
    masks = []
    for lesion in lesions:
        limited = Lesion(lesion.place, min(lesion.ml, most))
        box = _box(frame, limited)
        level = _lobed(grid, frame, limited, box, neck, generator)
        level[closed[box] | (level > _reach_mm(limited))] = np.inf
        mask = np.zeros(closed.shape, dtype=bool)
        mask[box] = grown(level, max(1, round(limited.ml / grid.voxel_ml)))
        masks.append(mask)
        closed |= _widened(mask)
    return masks


def _widened(mask: BoolArray) -> BoolArray:
    """The mask and its 26 neighbours, by shifts: a tenth of the time of a morphological dilation."""
    wide = mask.copy()
    for axis in range(3):
        along = np.moveaxis(wide, axis, 0)
        before = along.copy()
        along[1:] |= before[:-1]
        along[:-1] |= before[1:]
    return wide


def _reach_mm(lesion: Lesion) -> float:
    return REACH * lesion.radius_mm + BEYOND_MM


def _box(frame: Frame, lesion: Lesion) -> tuple[slice, slice, slice]:
    # Lobes and axes stretch distances by up to a third.
    reach = 1.33 * _reach_mm(lesion) / frame.size
    axes = (frame.x.numpy().ravel(), frame.y.numpy().ravel(), frame.z)
    slices = []
    for axis, centre in zip(axes, lesion.place, strict=True):
        first, last = np.searchsorted(axis, (centre - reach, centre + reach))
        first = min(int(first), len(axis) - 4)
        slices.append(slice(first, max(int(last), first + 4)))
    return slices[0], slices[1], slices[2]


def _lobed(
    grid: Grid,
    frame: Frame,
    lesion: Lesion,
    box: tuple[slice, slice, slice],
    neck: Neck,
    generator: np.random.Generator,
) -> FloatArray:
    """Distance from the centre, stretched along the axes and by smooth lobes, mm."""
    axes = np.exp(neck.axes_spread * generator.standard_normal(3))
    axes /= np.cbrt(axes.prod())
    x, y, z = frame.x.numpy().ravel(), frame.y.numpy().ravel(), frame.z
    squares = [
        ((along[part] - centre) * frame.size / axis) ** 2
        for along, part, centre, axis in zip((x, y, z), box, lesion.place, axes, strict=True)
    ]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :])
    lobes = gaussian_field(distance.shape, length_mm=neck.lobe_mm, spacing_mm=grid.spacing_mm, generator=generator)
    return np.asarray(distance * np.exp(neck.lobes * lobes.numpy()), dtype=np.float64)


def grown(level: FloatArray, wanted: int) -> BoolArray:
    """The connected region of lowest level with a wanted number of voxels.

    What a threshold cuts out may consist of parts; the part with the lowest level is taken, and the threshold is raised
    until that part is large enough. Where it then takes in too much at once, it is filled from the inside.

    Args:
        level: D H W; infinite where the region may not be.
        wanted: Voxels.

    Returns:
        D H W, bool; fewer voxels where no more are connected, none where no voxel is allowed.

    Example:
        >>> grown(np.abs(np.arange(-3.0, 4.0)).reshape(7, 1, 1), 3).ravel().astype(int).tolist()
        [0, 0, 1, 1, 1, 0, 0]
    """
    smaller = np.zeros(level.shape, dtype=bool)
    pockets, count = ndimage.label(np.isfinite(level))
    if not count:
        return smaller
    seed = np.unravel_index(int(np.argmin(level)), level.shape)
    sizes = np.bincount(pockets.ravel())
    if sizes[pockets[seed]] < wanted:
        # The centre lies in a pocket that is too small.
        level = np.where(pockets == 1 + np.argmax(sizes[1:]), level, np.inf)
        seed = np.unravel_index(int(np.argmin(level)), level.shape)
    smaller[seed] = True
    order = np.sort(level[np.isfinite(level)])
    count = min(wanted, order.size)
    while True:
        parts, _ = ndimage.label(level <= order[count - 1])
        region = parts == parts[seed]
        missing = wanted - int(region.sum())
        if missing <= 0:
            return _filled(smaller, region, level, wanted)
        if count == order.size:
            return np.asarray(region, dtype=bool)
        smaller = region
        # At least two percent at a time, so that it ends soon.
        count = min(order.size, count + max(missing, wanted // 50))


def _filled(smaller: BoolArray, region: BoolArray, level: FloatArray, wanted: int) -> BoolArray:
    """A connected set of voxels between two connected sets, layer by layer from the smaller one."""
    found = np.zeros(region.shape, dtype=bool)
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    inside, whole, height = smaller[box].copy(), region[box], level[box].ravel()
    while True:
        missing = wanted - int(inside.sum())
        if missing <= 0:
            found[box] = inside
            return found
        layer = ndimage.binary_dilation(inside) & whole & ~inside
        chosen = np.flatnonzero(layer)
        if len(chosen) > missing:
            chosen = chosen[np.argpartition(height[chosen], missing - 1)[:missing]]
        inside.ravel()[chosen] = True


def depth_mm(tumour: BoolArray, spacing_mm: Sequence[float]) -> Tensor:
    """Distance from the rim inwards; the rim lies half a voxel outside the centres of the outermost voxels.

    That is exact for a flat rim along the grid. In a ball the nearest of many centres counts: the distance is right on
    average near its surface, and 0.3 to 0.4 voxels short near its middle.

    Args:
        tumour: D H W.
        spacing_mm: Voxel size.

    Returns:
        D H W, mm, 0 outside. A face of the cube counts as rim.

    Example:
        >>> depth_mm(np.ones((3, 3, 3), dtype=bool), (2.0, 2.0, 2.0))[1, 1].tolist()
        [1.0, 3.0, 1.0]
    """
    depth = np.zeros(tumour.shape)
    if tumour.any():
        box = ndimage.find_objects(tumour.astype(np.uint8))[0]
        inside = np.pad(tumour[box], 1)
        distance = ndimage.distance_transform_edt(inside, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
        depth[box] = np.where(tumour[box], distance - min(spacing_mm) / 2, 0.0)
    return torch.from_numpy(depth).float()
