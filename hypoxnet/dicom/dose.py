"""RT Dose: absorbed dose on its grid.

Axis legend: i columns, j rows, k planes. Definitions: DICOM PS3.3 C.8.8.3.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.lattice import directions, even_step, grid_of, numbers
from hypoxnet.dicom.reading import LARGEST_PIXELS_BYTES, dicom_failures, read_dataset
from hypoxnet.geometry import Grid

FloatArray = NDArray[np.float64]

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
# Positions of frames are written with three digits and more, mm.
SAME_PLACE_MM = 0.01


@dataclass(frozen=True, eq=False)
class Dose:
    """A dose distribution.

    Args:
        dose_gy: i j k, float32.
        grid: Where it lies.
        frame_of_reference_uid: Coordinate system, empty where the file does not say.
        summation_type: Dose Summation Type (3004,000A), for example `PLAN` or `FRACTION`.
        dose_type: Dose Type (3004,0004): `PHYSICAL`, `EFFECTIVE` or `ERROR`.
    """

    dose_gy: NDArray[np.float32]
    grid: Grid
    frame_of_reference_uid: str
    summation_type: str
    dose_type: str

    def __repr__(self) -> str:
        return f"Dose({self.summation_type} {self.dose_type}, {self.grid.describe()}, max {self.dose_gy.max():.2f} Gy)"


def read_dose(path: str | os.PathLike[str], *, largest_pixels_bytes: int = LARGEST_PIXELS_BYTES) -> Dose:
    """Read an RT Dose object.

    Args:
        path: The file.
        largest_pixels_bytes: See `reading.read_dataset`.

    Raises:
        DicomError: Not an RT Dose, relative dose, no positive Dose Grid Scaling, planes that are not evenly spaced or
            whose offsets follow neither convention, or pixels other than the header promises.

    Source:
        DICOM PS3.3 C.8.8.3.2: Grid Frame Offset Vector, relative to the first plane or as patient z.
    """
    dataset = read_dataset(path, largest_pixels_bytes=largest_pixels_bytes)
    with dicom_failures(path, "read its dose"):
        if dataset.get("SOPClassUID") != RT_DOSE:
            what = dataset.get("Modality") or "something without Modality"
            raise DicomError(f"{path}: is {what}, not an RT Dose; name the RTDOSE file")
        try:
            grid = _grid(dataset)
            dose = _gray(dataset, grid)
        except DicomError as error:
            raise DicomError(f"{path}: {error}") from error
        return Dose(
            dose_gy=dose,
            grid=grid,
            frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
            summation_type=str(dataset.get("DoseSummationType") or ""),
            dose_type=str(dataset.get("DoseType") or ""),
        )


def _gray(dataset: Dataset, grid: Grid) -> NDArray[np.float32]:
    units = str(dataset.get("DoseUnits") or "")
    if units != "GY":
        raise DicomError(f"Dose Units (3004,0002) is {units or 'missing'}, GY is needed; export the dose in Gy")
    scaling = float(numbers(dataset.get("DoseGridScaling"), 1, "Dose Grid Scaling (3004,000E)")[0])
    if scaling <= 0 or not math.isfinite(scaling):
        raise DicomError(f"Dose Grid Scaling (3004,000E) is {scaling:g}, it must be positive; export the dose again")
    columns, rows, planes = grid.shape
    pixels = np.asarray(dataset.pixel_array)
    if pixels.size != columns * rows * planes:
        raise DicomError(f"holds {pixels.size} pixels, {columns} x {rows} x {planes} are announced; export it again")
    # The product in float64: 32-bit integers have more digits than float32.
    scaled = pixels.reshape(planes, rows, columns).transpose(2, 1, 0) * np.float64(scaling)
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _grid(dataset: Dataset) -> Grid:
    axes = directions(numbers(dataset.get("ImageOrientationPatient"), 6, "Image Orientation (Patient)"))
    first = numbers(dataset.get("ImagePositionPatient"), 3, "Image Position (Patient)")
    spacing = numbers(dataset.get("PixelSpacing"), 2, "Pixel Spacing")
    planes = int(dataset.get("NumberOfFrames") or 1)
    if planes < 1 or int(dataset.Rows) < 1 or int(dataset.Columns) < 1:
        raise DicomError(f"Rows {dataset.Rows}, Columns {dataset.Columns}, Number of Frames {planes} hold no voxel")
    if planes == 1:
        # One plane has no neighbour; how thick it stands for is told by Slice Thickness alone.
        step = float(numbers(dataset.get("SliceThickness"), 1, "a dose of one plane: Slice Thickness")[0])
    else:
        given = numbers(dataset.get("GridFrameOffsetVector"), planes, "Grid Frame Offset Vector (3004,000C)")
        step = even_step(_relative(given, first, axes[:, 2]), "Grid Frame Offset Vector (3004,000C)")
    shape = (int(dataset.Columns), int(dataset.Rows), planes)
    return grid_of(shape, axes=axes, spacing=spacing, first=first, step=step)


def _relative(offsets: FloatArray, first: FloatArray, normal: FloatArray) -> FloatArray:
    """Offsets along the normal from the first plane, whichever convention the file follows."""
    if abs(offsets[0]) <= SAME_PLACE_MM:
        return np.asarray(offsets - offsets[0], dtype=np.float64)
    transverse = abs(abs(normal[2]) - 1) < 1e-6
    if transverse and abs(offsets[0] - first[2]) <= SAME_PLACE_MM:
        return np.asarray((offsets - offsets[0]) * np.sign(normal[2]), dtype=np.float64)
    raise DicomError(
        f"Grid Frame Offset Vector (3004,000C) begins with {offsets[0]:g}, it must be 0, or on transverse planes the z "
        f"of Image Position (Patient), {first[2]:g}; export the dose again"
    )
