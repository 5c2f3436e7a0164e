"""Reading and writing volumes, masks and series: what is wrong is refused, what is repaired is reported."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from hypoxnet.errors import CaseError, GeometryError
from hypoxnet.files import replacing
from hypoxnet.geometry import Grid, without_shear
from hypoxnet.quantities import Modality, quantity

log = logging.getLogger(__name__)

# Degrees. Below this the axes are right angles to the digits of a float32 header.
REPORTED_SHEAR = 1e-3


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels with their grid.

    Args:
        array: i j k, float32; bool for a mask.
        grid: Where the voxels are.
        repairs: What was repaired while reading, one sentence each.
    """

    array: NDArray[Any]
    grid: Grid
    repairs: tuple[str, ...] = ()


def read_volume(path: Path, *, case: str, without_value: float | None = None) -> Volume:
    """Read one 3D image.

    Args:
        path: NIfTI file.
        case: Name of the case and channel, for messages.
        without_value: What voxels that are nan become, for fitted maps, which have no value outside the body; None
            refuses them.

    Raises:
        CaseError: The file is missing, unreadable, 4D, or holds nan or infinity.
        GeometryError: Its affine is unusable.
    """
    image = _open(path, case)
    grid, repairs = grid_of(image, path, case=case)
    try:
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(grid.shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(f"{case}: {path} is damaged or cut short ({error}); copy it again") from error
    missing = int(array.size - np.isfinite(array).sum())
    if missing and without_value is not None and missing < array.size and not np.isinf(array).any():
        array = np.nan_to_num(array, nan=without_value)
        note = f"{path.name}: {missing} of {array.size} voxels have no value (nan) and were read as {without_value:g}"
        repairs = (*repairs, note)
    elif missing:
        count = missing
        raise CaseError(
            f"{case}: {path} has {count} of {array.size} voxels that are nan or infinite; write it again with numbers"
        )
    return Volume(array, grid, repairs)


def read_channel(path: Path, name: str, *, case: str) -> Volume:
    """Read a channel by its quantity: fitted maps may lack a value in some voxels, which are read as 0 and reported.

    Args:
        path: NIfTI file.
        name: Quantity.
        case: Name of the case and channel, for messages.

    Raises:
        CaseError, GeometryError: As `read_volume`.
        QuantityError: The quantity is unknown.
    """
    return read_volume(path, case=case, without_value=0.0 if quantity(name).modality is Modality.MAP else None)


def read_mask(path: Path, *, case: str) -> Volume:
    """Read one mask.

    Raises:
        CaseError: As for `read_volume`, or a voxel is neither 0 nor 1.
        GeometryError: Its affine is unusable.
    """
    volume = read_volume(path, case=case)
    others = volume.array[(volume.array != 0.0) & (volume.array != 1.0)]
    if others.size:
        other = float(others.min())
        raise CaseError(
            f"{case}: {path} is a mask with the value {other:g}, a mask holds 0 and 1 only; write each structure into "
            "a mask of its own"
        )
    return Volume(volume.array > 0.5, volume.grid, volume.repairs)


def write_image(path: Path, array: NDArray[Any], grid: Grid) -> None:
    """Write an array on a grid as NIfTI, in the array's own type, with the affine as scanner coordinates.

    The file is whole or absent; the same array gives the same bytes.

    Args:
        path: Ends in `.nii` or `.nii.gz`.
        array: i j k, or i j k t.
        grid: Of the voxels.
    """
    image = nib.Nifti1Image(array, grid.matrix)
    image.set_sform(grid.matrix, code=1)
    image.set_qform(grid.matrix, code=1)
    image.header.set_xyzt_units("mm", "sec")
    with replacing(path) as temporary:
        nib.save(image, temporary)


def read_series_grid(path: Path, *, case: str) -> Grid:
    """The grid of a 3D or 4D file, from the header.

    Raises:
        CaseError: The file is missing or no image.
        GeometryError: Its affine is unusable.
    """
    return grid_of(_open(path, case), path, case=case, series=True)[0]


def read_series(path: Path, *, case: str) -> Volume:
    """Read a 4D series, or a single volume as a series of one.

    Returns:
        The array is t i j k, float32; nan and infinity stay what they are.

    Raises:
        CaseError: The file is missing, unreadable, or has more than four dimensions.
        GeometryError: Its affine is unusable.
    """
    image = _open(path, case)
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4):
        raise CaseError(
            f"{case}: {path} has shape {' x '.join(map(str, shape))}, a series has three axes of space and one of time"
        )
    grid, repairs = grid_of(image, path, case=case, series=True)
    try:
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape, order="A")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(f"{case}: {path} is damaged or cut short ({error}); copy it again") from error
    return Volume(array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0), grid, repairs)


def read_grid(path: Path, *, case: str) -> tuple[Grid, tuple[str, ...]]:
    """The grid alone, from the header; voxels are not read.

    Raises:
        CaseError: The file is missing, no image, or 4D.
        GeometryError: Its affine is unusable.
    """
    return grid_of(_open(path, case), path, case=case)


def _open(path: Path, case: str) -> Any:
    try:
        return nib.load(path)
    except FileNotFoundError as error:
        raise CaseError(f"{case}: {path} does not exist; mend the path") from error
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(f"{case}: {path} cannot be read as an image ({error}); give a NIfTI file") from error


def grid_of(image: Any, path: Path, *, case: str, series: bool = False) -> tuple[Grid, tuple[str, ...]]:
    """The grid of an opened image, with rounding of its direction cosines taken out."""
    shape, repairs = tuple(int(n) for n in image.shape), []
    if series:
        shape = shape[:3]
    elif len(shape) > 3 and int(np.prod(shape[3:])) == 1:
        repairs.append(f"{path.name}: one frame of {len(shape)} dimensions read as 3D")
        shape = shape[:3]
    if len(shape) != 3:
        raise CaseError(
            f"{case}: {path} has shape {' x '.join(map(str, shape))}, one 3D volume is needed; "
            "split the series or make a map of it"
        )
    try:
        affine, angle = without_shear(image.affine)
        grid = Grid.from_affine(shape, affine)
    except GeometryError as error:
        raise GeometryError(f"{case}: {path}: {error}") from error
    if angle > REPORTED_SHEAR:
        repairs.append(f"{path.name}: direction cosines were off a right angle by {angle:.4f} degrees, made orthogonal")
    return grid, tuple(repairs)
