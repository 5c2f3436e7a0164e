"""A neck with a tumour: normal tissue, primary, involved nodes, and the regions of reference.

Axis legend: D H W voxels of the object's grid (RAS+): x to the right of the patient, y to the front, z upwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.fields import gaussian_field
from hypoxnet.phantom.neck import Frame, Normal, draw_build, frame_of, normal_tissue
from hypoxnet.phantom.parameters.anatomy import CtNumbers, Neck
from hypoxnet.phantom.tumours import (
    BoolArray,
    Lesion,
    Place,
    cube_place,
    depth_mm,
    draw_volumes,
    index_of,
    node_lesions,
    place_tumours,
    primary_place,
)
from hypoxnet.phantom.words import Anatomy, Tissue

SMALLEST_MM, LARGEST_MM = 70.0, 200.0
# Reference muscle: ellipsoids this many, so much longer than wide.
ELLIPSOIDS, LONGER = 3, 1.6
# Places for them are looked for on a lattice of about this step, mm.
STEP_MM = 4.0
_OPEN = (Tissue.SOFT, Tissue.MUSCLE, Tissue.GLAND)


def make_anatomy(neck: Neck, grid: Grid, *, hpv: bool, subsite: str, generator: np.random.Generator) -> Anatomy:
    """Draw a neck with a tumour.

    A cube smaller than the neck is a cut-out round the primary; tumours then grow no larger than a share of it. Above
    the base of the skull and below the neck the last section goes on: face, brain, shoulders and lungs are not drawn.

    Args:
        neck: Parameters.
        grid: Of the object: RAS+ along the patient, 70 to 200 mm wide along each axis.
        hpv: Whether the tumour is caused by HPV.
        subsite: `oropharynx`, `hypopharynx`, `larynx` or `oral cavity`.
        generator: Source of randomness.

    Raises:
        ConfigError: The grid does not fit, or there is no such subsite.

    Example:
        >>> from hypoxnet.phantom.fields import centred_grid
        >>> grid = centred_grid((72.0,) * 3, (3.0,) * 3)
        >>> one = make_anatomy(Neck(), grid, hpv=False, subsite="larynx", generator=np.random.default_rng(1))
        >>> bool((one.is_a(Tissue.TUMOUR) == one.primary).all())
        True
    """
    index_of(subsite)
    _check(grid)
    build = draw_build(neck, generator)
    side = 1 if generator.random() < 0.5 else -1
    volumes = draw_volumes(neck, hpv=hpv, subsite=subsite, generator=generator)
    site = primary_place(neck, build, subsite=subsite, side=side, generator=generator)
    primary = Lesion(site, volumes.primary_ml)
    frame = frame_of(grid, cube_place(grid, primary, side=side, size=build.size, generator=generator), build.size)
    normal = normal_tissue(frame, neck, build)
    lesions = [primary, *node_lesions(volumes, primary, frame, neck, build, generator)]

    ellipsoids = reference_places(grid, frame, normal.deep, lesions, neck, generator)
    kept_free = reference_ellipsoid(frame, ellipsoids[0], neck, wider_mm=neck.clear_mm + 2.0)
    forbidden = ~torch.isin(normal.tissue, torch.tensor(_OPEN, dtype=torch.uint8)) | normal.deep | kept_free
    masks = place_tumours(grid, frame, lesions, forbidden.numpy(), neck, generator)
    reference = torch.zeros_like(normal.deep)
    for place in ellipsoids:
        reference |= reference_ellipsoid(frame, place, neck)
    return composed(grid, normal, masks, reference & normal.deep, neck, subsite=subsite)


def composed(
    grid: Grid, normal: Normal, masks: Sequence[BoolArray], muscle: Tensor, neck: Neck, *, subsite: str
) -> Anatomy:
    """Put tumours into a neck and keep the regions of reference away from them.

    Args:
        grid: Of the object.
        normal: The neck.
        masks: Primary and nodes, D H W each, without a common voxel; empty ones are left out.
        muscle: D H W, bool, muscle from which the reference is taken.
        neck: Distances that references keep.
        subsite: Place of the primary.
    """
    primary = torch.from_numpy(masks[0])
    nodes = torch.zeros(grid.shape, dtype=torch.uint8)
    for number, mask in enumerate((m for m in masks[1:] if m.any()), start=1):
        nodes[torch.from_numpy(mask)] = number
    tissue = normal.tissue.clone()
    tissue[primary] = int(Tissue.TUMOUR)
    tissue[nodes > 0] = int(Tissue.NODE)
    tumour = (primary | (nodes > 0)).numpy()
    away = torch.from_numpy(ndimage.distance_transform_edt(~tumour, sampling=grid.spacing_mm))
    lumen = torch.isin(tissue, torch.tensor((Tissue.ARTERY, Tissue.VEIN), dtype=torch.uint8))
    lumen &= normal.lumen_mm >= max(neck.blood_erosion_mm, max(grid.spacing_mm) / 2)
    clear = lumen & (away >= neck.blood_clear_mm)
    return Anatomy(
        grid=grid,
        tissue=tissue,
        primary=primary,
        nodes=nodes,
        muscle_reference=muscle & (away >= neck.clear_mm),
        blood_reference=clear if float(clear.sum()) * grid.voxel_ml > neck.blood_least_ml else lumen,
        depth_mm=depth_mm(tumour, grid.spacing_mm),
        subsite=subsite,
    )


def _check(grid: Grid) -> None:
    directions = grid.matrix[:3, :3]
    if (np.diag(directions) <= 0).any() or np.abs(directions - np.diag(np.diag(directions))).max() > 1e-6:
        raise ConfigError("the grid of the phantom must be RAS+ along the patient; build it by centred_grid")
    extents = [n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    if min(extents) < SMALLEST_MM or max(extents) > LARGEST_MM:
        raise ConfigError(
            f"the cube of the phantom is {' x '.join(f'{e:g}' for e in extents)} mm; a neck needs {SMALLEST_MM:g} to "
            f"{LARGEST_MM:g} mm along each axis, so change extent_mm"
        )


def _half_width_mm(neck: Neck) -> float:
    return float((3000.0 * neck.muscle_ml / ELLIPSOIDS / (4 * math.pi * LONGER)) ** (1 / 3))


def reference_ellipsoid(frame: Frame, place: Place, neck: Neck, *, wider_mm: float = 0.0) -> Tensor:
    """An ellipsoid of reference muscle.

    Args:
        frame: Voxel centres.
        place: Its centre, mm of the median neck.
        neck: Gives its volume.
        wider_mm: Wider on every side.

    Returns:
        D H W, bool.
    """
    width = _half_width_mm(neck)
    axes = [(w + wider_mm) / frame.size for w in (width, width, LONGER * width)]
    z = torch.from_numpy(((frame.z - place[2]) / axes[2]) ** 2).float()
    return ((frame.x - place[0]) / axes[0]) ** 2 + ((frame.y - place[1]) / axes[1]) ** 2 + z < 1


def reference_places(
    grid: Grid, frame: Frame, muscle: Tensor, lesions: Sequence[Lesion], neck: Neck, generator: np.random.Generator
) -> list[Place]:
    """Where the ellipsoids of reference muscle go: deep in muscle, far from tumours.

    Args:
        grid: Of the object.
        frame: Voxel centres, one coordinate per axis.
        muscle: D H W, bool, where they may be; not empty.
        lesions: Tumours to keep away from.
        neck: Parameters.
        generator: Source of randomness: any place that is far enough is as good as any other.
    """
    steps = [max(1, round(STEP_MM / s)) for s in grid.spacing_mm]
    coarse = muscle[:: steps[0], :: steps[1], :: steps[2]].numpy()
    depth = ndimage.distance_transform_edt(
        np.pad(coarse, 1), sampling=[n * s for n, s in zip(steps, grid.spacing_mm, strict=True)]
    )[1:-1, 1:-1, 1:-1]
    index = np.argwhere(depth >= min(_half_width_mm(neck), 0.8 * depth.max()))
    axes = [a[::n] for a, n in zip((frame.x.numpy().ravel(), frame.y.numpy().ravel(), frame.z), steps, strict=True)]
    at = np.stack([axis[index[:, k]] for k, axis in enumerate(axes)], axis=1)
    room = np.full(len(at), np.inf)
    for lesion in lesions:
        room = np.minimum(room, np.linalg.norm(at - lesion.place, axis=1) * frame.size - lesion.radius_mm)
    score = np.minimum(room, 3 * neck.clear_mm) + generator.uniform(0.0, neck.clear_mm, len(at))
    found: list[Place] = []
    for _ in range(ELLIPSOIDS):
        x, y, z = at[int(np.argmax(score))]
        found.append((float(x), float(y), float(z)))
        near = np.linalg.norm(at - at[int(np.argmax(score))], axis=1) * frame.size < 2 * LONGER * _half_width_mm(neck)
        score = np.where(near, score - 1000.0, score)
    return found


def ct_hu(anatomy: Anatomy, generator: np.random.Generator, numbers: CtNumbers | None = None) -> Tensor:
    """CT numbers of the object, without contrast medium and without the scanner's noise.

    Args:
        anatomy: Tissues.
        generator: Source of randomness, for the texture.
        numbers: CT numbers of tissues.

    Returns:
        D H W, HU, float32, -1024 to 3071.
    """
    n = numbers or CtNumbers()
    table = {
        Tissue.OUTSIDE: (n.air_hu, n.air_sd_hu),
        Tissue.AIRWAY: (n.air_hu, n.air_sd_hu),
        Tissue.FAT: (n.fat_hu, n.fat_sd_hu),
        Tissue.MUSCLE: (n.muscle_hu, n.soft_sd_hu),
        Tissue.BONE: (n.bone_hu, n.bone_sd_hu),
        Tissue.ARTERY: (n.blood_hu, n.soft_sd_hu),
        Tissue.VEIN: (n.blood_hu, n.soft_sd_hu),
        Tissue.CORD: (n.cord_hu, n.soft_sd_hu),
        Tissue.GLAND: (n.gland_hu, n.gland_sd_hu),
        Tissue.SOFT: (n.soft_hu, n.soft_sd_hu),
        Tissue.TUMOUR: (n.tumour_hu, n.soft_sd_hu),
        Tissue.NODE: (n.node_hu, n.soft_sd_hu),
    }
    means, spreads = (torch.tensor([table[t][k] for t in Tissue]) for k in (0, 1))
    grid = anatomy.grid
    texture = gaussian_field(grid.shape, length_mm=n.texture_mm, spacing_mm=grid.spacing_mm, generator=generator)
    code = anatomy.tissue.long()
    return (means[code] + spreads[code] * texture).clamp(-1024.0, 3071.0)
