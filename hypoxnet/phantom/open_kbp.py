"""A real planning CT with its dose, in the format of the OpenKBP challenge, as an anatomy.

Axis legend: i j k voxels as stored; D H W voxels of the object's grid (RAS+).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.anatomy import composed, reference_ellipsoid, reference_places
from hypoxnet.phantom.fields import centred_grid, resampled
from hypoxnet.phantom.neck import CORD_Y, SKULL, Frame, Normal, draw_build, frame_of, normal_tissue
from hypoxnet.phantom.parameters.anatomy import Neck
from hypoxnet.phantom.tumours import BoolArray
from hypoxnet.phantom.words import Anatomy, Tissue

FloatArray = NDArray[np.float64]
SIDE = 128
MARGIN_MM = 40.0
# Stored number minus CT number. The cord then reads 20 to 43 HU, fat peaks at -124 to -80 HU (four patients).
OFFSET = 1000.0
# Borders between air, fat, soft tissue and bone, HU; chosen between the peaks.
AIR_HU, FAT_HU, BONE_HU = -300.0, -30.0, 200.0
# Pieces of the target smaller than this are crumbs of the contour, not nodes, ml.
SMALLEST_ML = 0.5
# Where no cord is contoured: it lies so far behind, and the base of the skull so far above, the middle of PTV70, mm.
BEHIND_MM, ABOVE_MM = 45.0, 50.0
_SUFFIX = "take the folder of one patient as OpenKBP gives it"


@dataclass(frozen=True, slots=True)
class _Scan:
    """What a folder holds.

    Args:
        grid: Of the arrays, moved so that the middle of the target is at the origin.
        known: i j k, where there is a CT number.
        ct_hu: i j k, 0 where there is none.
        dose_gy: i j k.
        target: i j k, PTV70.
        organs: Organ to i j k; those that are contoured.
    """

    grid: Grid
    known: BoolArray
    ct_hu: FloatArray
    dose_gy: FloatArray
    target: BoolArray
    organs: dict[str, BoolArray]

    def on(self, grid: Grid, values: BoolArray | FloatArray) -> Tensor:
        """An array on another grid by linear interpolation."""
        return resampled(torch.from_numpy(values.astype(np.float32)), self.grid, grid)


def read_open_kbp(folder: Path, *, spacing_mm: float, neck: Neck, generator: np.random.Generator) -> Anatomy:
    """One patient of OpenKBP as an anatomy, cropped to PTV70 and 40 mm round it.

    The files are tables of flat index and value of a 128 x 128 x 128 array in C order. Its first axis runs from front
    to back (the cord lies behind the airway), its second from the patient's right to the left (LeftParotid has the
    larger index), its third downwards (the brainstem comes before the cord); `voxel_dimensions.csv` follows this order.

    What is real: CT, where the challenge left it, dose, PTV70, cord, brainstem and parotids. Air, fat, muscle and bone
    come from CT numbers; all soft tissue that is no organ is muscle. What is not:

    - PTV70 stands for the gross tumour. It is a planning target, so it is larger than a GTV by margins for spread and
      setup. Its largest piece is the primary, the others are nodes; bone, air, vessels and cord are taken out.
    - The challenge removed the CT outside its possible-dose mask. There the synthetic neck fills the gap.
    - Great vessels are not contoured. Those of the synthetic neck are used, as is its back muscle for the reference.

    The synthetic neck follows the cord from level to level, and has its base of the skull where the cord begins.

    Args:
        folder: With `ct.csv`, `dose.csv`, `PTV70.csv`, `voxel_dimensions.csv`; organs may be absent.
        spacing_mm: Voxel of the object.
        neck: Parameters of the synthetic parts and of the references.
        generator: Source of randomness, for the synthetic parts.

    Returns:
        An anatomy with `dose_gy`, subsite `unknown`.

    Raises:
        ConfigError: A file is missing or is no such table, or there is no muscle far from the target.

    Source:
        Babier et al. 2021, OpenKBP: the open-access knowledge-based planning grand challenge, arXiv 2011.14076.
    """
    if not (math.isfinite(spacing_mm) and spacing_mm > 0):
        raise ConfigError(f"spacing_mm={spacing_mm} of the phantom must be above 0")
    scan, extent = _read(folder)
    grid = centred_grid(extent, (spacing_mm,) * 3)
    synthetic = _synthetic(scan, grid, neck, generator)
    normal = _merged(scan, grid, synthetic)
    masks = _lesions(scan, grid, normal.tissue)
    if not masks:
        raise ConfigError(f"{folder / 'PTV70.csv'} holds no target in soft tissue; {_SUFFIX}")
    muscle = _muscle(grid, normal, masks, neck, generator)
    if not bool(muscle.any()):
        raise ConfigError(f"{folder}: no muscle lies {neck.clear_mm:g} mm from PTV70; make clear_mm smaller")
    found = composed(grid, normal, masks, muscle, neck, subsite="unknown")
    return replace(found, dose_gy=scan.on(grid, scan.dose_gy))


def _read(folder: Path) -> tuple[_Scan, list[float]]:
    """The files, and the extent of the region in RAS order, mm."""
    step = _voxel_mm(folder / "voxel_dimensions.csv")
    known, stored = _table(folder / "ct.csv", with_values=True)
    _, dose = _table(folder / "dose.csv", with_values=True)
    target, _ = _table(folder / "PTV70.csv", with_values=False)
    if not target.any():
        raise ConfigError(f"{folder / 'PTV70.csv'} is empty; {_SUFFIX}")
    organs = {
        name: _table(folder / f"{name}.csv", with_values=False)[0]
        for name in ("SpinalCord", "Brainstem", "LeftParotid", "RightParotid")
        if (folder / f"{name}.csv").is_file()
    }
    box = [(part.start, part.stop) for part in ndimage.find_objects(target.astype(np.uint8))[0]]
    middle = np.array([(first + last - 1) / 2 for first, last in box])
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    # Back, left and down are the directions of i, j, k.
    affine[1, 0], affine[0, 1], affine[2, 2] = -step
    affine[:3, 3] = -affine[:3, :3] @ middle
    size = [(last - first) * s + 2 * MARGIN_MM for (first, last), s in zip(box, step, strict=True)]
    scan = _Scan(
        Grid.from_affine((SIDE,) * 3, affine), known, np.where(known, stored - OFFSET, 0.0), dose, target, organs
    )
    return scan, [size[1], size[0], size[2]]


def _voxel_mm(path: Path) -> FloatArray:
    try:
        step = np.array([float(line) for line in path.read_text(encoding="utf-8").split()])
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as three voxel sizes; {_SUFFIX}") from error
    if step.shape != (3,) or not (np.isfinite(step).all() and (step > 0).all()):
        raise ConfigError(f"{path} does not hold three voxel sizes above 0 mm; {_SUFFIX}")
    return step


def _table(path: Path, *, with_values: bool) -> tuple[BoolArray, FloatArray]:
    """Where a table has an entry, and its values (1 where it has none to give), i j k each."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        index = np.array([int(row[0]) for row in rows], dtype=np.int64)
        values = np.array([float(row[1]) for row in rows] if with_values else np.ones(len(rows)), dtype=np.float64)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; {_SUFFIX}") from error
    except (OSError, UnicodeDecodeError, ValueError, IndexError, csv.Error) as error:
        raise ConfigError(f"{path} is no table of index and value; {_SUFFIX}") from error
    if index.size and (index.min() < 0 or index.max() >= SIDE**3 or not np.isfinite(values).all()):
        raise ConfigError(
            f"{path} has an index outside {SIDE} x {SIDE} x {SIDE} or a value that is no number; {_SUFFIX}"
        )
    there, filled = np.zeros(SIDE**3, dtype=bool), np.zeros(SIDE**3)
    there[index], filled[index] = True, values
    return there.reshape((SIDE,) * 3), filled.reshape((SIDE,) * 3)


def _synthetic(scan: _Scan, grid: Grid, neck: Neck, generator: np.random.Generator) -> Normal:
    """The synthetic neck, its cord laid on the real one."""
    plain = frame_of(grid, (0.0, 0.0, 0.0), 1.0)
    right, front, top = _cord_line(scan, plain.z)
    x = plain.x - torch.from_numpy(right).float()
    y = plain.y - torch.from_numpy(front - CORD_Y).float()
    build = replace(draw_build(neck, generator), size=1.0)
    return normal_tissue(Frame(x, y, plain.z - top + SKULL, 1.0), neck, build)


def _cord_line(scan: _Scan, z: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Place of the cord at every level (to the right, to the front), and the level where it begins, mm."""
    cord = scan.organs.get("SpinalCord")
    if cord is None or not cord.any():
        at = np.argwhere(scan.known) @ scan.grid.matrix[:3, :3].T + scan.grid.matrix[:3, 3]
        return np.full(z.shape, at[:, 0].mean()), np.full(z.shape, -BEHIND_MM), ABOVE_MM
    at = np.argwhere(cord) @ scan.grid.matrix[:3, :3].T + scan.grid.matrix[:3, 3]
    levels, place = np.unique(at[:, 2].round(3), return_inverse=True)
    count = np.bincount(place)
    lines = [ndimage.gaussian_filter1d(np.bincount(place, at[:, k]) / count, 2.0, mode="nearest") for k in (0, 1)]
    return np.interp(z, levels, lines[0]), np.interp(z, levels, lines[1]), float(levels[-1])


def _merged(scan: _Scan, grid: Grid, synthetic: Normal) -> Normal:
    """Real tissue where there is CT, else the synthetic neck."""
    share = scan.on(grid, scan.known)
    known = share >= 0.5
    hu = scan.on(grid, scan.ct_hu) / share.clamp(min=1e-6)
    tissue = torch.full(grid.shape, int(Tissue.MUSCLE), dtype=torch.uint8)
    tissue[hu < FAT_HU] = int(Tissue.FAT)
    tissue[hu > BONE_HU] = int(Tissue.BONE)
    air = hu < AIR_HU
    tissue = torch.where(known, tissue, synthetic.tissue)
    solid = ((tissue != Tissue.OUTSIDE) & (tissue != Tissue.AIRWAY) & ~(known & air)).numpy()
    # Air is in the airway where tissue surrounds it in the axial plane.
    flat = np.zeros((3, 3, 3), dtype=bool)
    flat[:, 1, 1] = flat[1, :, 1] = True
    enclosed = torch.from_numpy(ndimage.binary_fill_holes(solid, structure=flat))
    tissue[known & air] = int(Tissue.OUTSIDE)
    tissue[known & air & enclosed] = int(Tissue.AIRWAY)
    vessel = synthetic.lumen_mm > 0
    vessel &= torch.isin(synthetic.tissue, torch.tensor((Tissue.ARTERY, Tissue.VEIN), dtype=torch.uint8))
    vessel &= ~known | ((hu > AIR_HU) & (hu < BONE_HU))
    tissue = torch.where(vessel, synthetic.tissue, tissue)
    codes = {"LeftParotid": Tissue.GLAND, "RightParotid": Tissue.GLAND, "Brainstem": Tissue.CORD}
    for name, code in (codes | {"SpinalCord": Tissue.CORD}).items():
        if name in scan.organs:
            tissue[(scan.on(grid, scan.organs[name]) >= 0.5) & (tissue != Tissue.OUTSIDE)] = int(code)
    return Normal(tissue, synthetic.deep & (tissue == Tissue.MUSCLE), synthetic.lumen_mm)


def _lesions(scan: _Scan, grid: Grid, tissue: Tensor) -> list[BoolArray]:
    """Pieces of the target in soft tissue, the largest first."""
    target = (scan.on(grid, scan.target) >= 0.5).numpy()
    parts, count = ndimage.label(target, structure=np.ones((3, 3, 3)))
    open_to = torch.tensor((Tissue.FAT, Tissue.MUSCLE, Tissue.SOFT, Tissue.GLAND), dtype=torch.uint8)
    parts[~torch.isin(tissue, open_to).numpy()] = 0
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * grid.voxel_ml
    order = [n for n in np.argsort(-sizes, kind="stable") if sizes[n] >= SMALLEST_ML]
    return [np.asarray(parts == n + 1) for n in order]


def _muscle(grid: Grid, normal: Normal, masks: list[BoolArray], neck: Neck, generator: np.random.Generator) -> Tensor:
    """Ellipsoids in muscle far from the target, of the back of the neck where there is some."""
    away = ndimage.distance_transform_edt(~np.logical_or.reduce(masks), sampling=grid.spacing_mm)
    far = torch.from_numpy(away >= neck.clear_mm)
    candidates = normal.deep & far
    if not bool(candidates.any()):
        candidates = (normal.tissue == Tissue.MUSCLE) & far
    reference = torch.zeros_like(candidates)
    if bool(candidates.any()):
        frame = frame_of(grid, (0.0, 0.0, 0.0), 1.0)
        for place in reference_places(grid, frame, candidates, (), neck, generator):
            reference |= reference_ellipsoid(frame, place, neck)
    return reference & candidates
