"""Predictions and masks as DICOM, with references to the series they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypoxnet import __version__
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import Algorithm, OutputSeries
from hypoxnet.dicom.source import SourceSeries, read_source
from hypoxnet.dicom.write_map import write_parametric_map
from hypoxnet.dicom.write_rtstruct import write_rtstruct
from hypoxnet.dicom.write_seg import write_seg
from hypoxnet.geometry import Grid
from hypoxnet.images import read_channel, read_mask, read_volume
from hypoxnet.quantities import quantity

FORMATS = ("seg", "probability", "rtstruct")


@dataclass(frozen=True, slots=True)
class Regions:
    """What is to be written of one case.

    Args:
        masks: Region to mask, i j k.
        probability: Region to probability, i j k; may be empty.
        grid: Of all.
    """

    masks: Mapping[str, NDArray[np.bool_]]
    probability: Mapping[str, NDArray[np.float32]]
    grid: Grid


def write_regions(
    regions: Regions, folder: Path, *, prefix: str, source: SourceSeries, formats: Sequence[str], algorithm: Algorithm
) -> tuple[list[Path], list[str]]:
    """Write the regions of one case in each of the formats.

    A region without a voxel cannot be said in DICOM and is left out, with a note.

    Args:
        regions: The regions.
        folder: Where.
        prefix: Begin of the file names.
        source: The series that they were made from.
        formats: Among `seg`, `probability` and `rtstruct`.
        algorithm: What made them.

    Returns:
        The files, and what was left out.

    Raises:
        DicomError: A format is unknown, or the source is not where the regions are.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise DicomError(f"there is no DICOM format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    masks = {name: mask for name, mask in regions.masks.items() if mask.any()}
    notes = [
        f"{name} has no voxel: DICOM cannot say that, it is left out" for name in regions.masks if name not in masks
    ]
    written = []
    for number, kind in enumerate(formats):
        path = folder / f"{prefix}_{kind}.dcm"
        series = OutputSeries(algorithm, number=9001 + number)
        if kind == "rtstruct" and masks:
            write_rtstruct(path, masks, grid=regions.grid, source=source, series=series)
        elif kind == "seg" and masks:
            write_seg(path, masks, grid=regions.grid, source=source, series=series)
        elif kind == "probability":
            seen = {name: p for name, p in regions.probability.items() if float(p.max()) > 0.002}
            if not seen:
                continue
            write_seg(path, seen, grid=regions.grid, source=source, series=series, fractional=True)
        else:
            continue
        written.append(path)
    return written, notes


def read_regions(masks: Mapping[str, Path], probability: Mapping[str, Path], *, case: str) -> Regions:
    """Regions from NIfTI files on one grid.

    Raises:
        CaseError: A file cannot be read, or is no mask.
        DicomError: They lie on different grids, or there is none.
    """
    read = {name: read_mask(path, case=f"{case}: {name}") for name, path in masks.items()}
    shares = {name: read_volume(path, case=f"{case}: {name}") for name, path in probability.items()}
    volumes = [*read.values(), *shares.values()]
    if not volumes:
        raise DicomError(f"{case}: there is no region to write")
    if not all(volume.grid.same_as(volumes[0].grid) for volume in volumes):
        raise DicomError(f"{case}: its regions lie on different grids; resample them onto one")
    return Regions(
        {name: volume.array for name, volume in read.items()},
        {name: volume.array for name, volume in shares.items()},
        volumes[0].grid,
    )


def write_nifti_as_dicom(
    regions: Mapping[str, Path],
    source: Sequence[Path],
    folder: Path,
    *,
    formats: Sequence[str],
    maps: Mapping[str, Path] | None = None,
    algorithm: str = "HypoxNet",
) -> tuple[list[Path], list[str]]:
    """Masks and maps in NIfTI to DICOM; what `hypoxnet to-dicom` does.

    Args:
        regions: Region to mask.
        source: Files of the original series.
        folder: Where.
        formats: For the masks, `seg` and `rtstruct`.
        maps: Quantity to map, written as parametric maps.
        algorithm: Name of what made them.

    Raises:
        DicomError, CaseError: An input is unusable.
    """
    if folder.exists() and not folder.is_dir():
        raise DicomError(f"--output {folder} is a file; give a folder")
    series = read_source(source)
    made_by = Algorithm(algorithm, __version__)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    notes: list[str] = []
    if regions:
        read = read_regions(regions, {}, case="mask")
        elsewhere = _beside(read, series)
        written, notes = write_regions(
            read, folder, prefix="regions", source=series, formats=formats, algorithm=made_by
        )
        notes = [*elsewhere, *notes]
    for number, (name, path) in enumerate((maps or {}).items()):
        volume = read_channel(path, name, case=name)
        out = folder / f"{name}_map.dcm"
        output = OutputSeries(made_by, number=9101 + number)
        write_parametric_map(out, volume.array, quantity=quantity(name), grid=volume.grid, source=series, series=output)
        written.append(out)
    return written, notes


def _beside(regions: Regions, source: SourceSeries) -> list[str]:
    """Refuse masks that reach out of the source series; say it when they lie on another grid.

    Raises:
        DicomError: A hundredth of a mask and more lies outside of the series: it was made from another.
    """
    if regions.grid.same_as(source.grid):
        return []
    to_index = np.linalg.inv(source.grid.matrix) @ regions.grid.matrix
    for name, mask in regions.masks.items():
        voxels = np.argwhere(mask)
        if not len(voxels):
            continue
        there = np.c_[voxels, np.ones(len(voxels))] @ to_index.T
        outside = ((there[:, :3] < -0.5) | (there[:, :3] > np.array(source.grid.shape) - 0.5)).any(axis=1).mean()
        if outside > 0.01:
            raise DicomError(
                f"{name}: {100 * outside:.0f} % of its voxels lie outside of the source series "
                f"({source.grid.describe()}); give the series that it was drawn on or made from"
            )
    series, masks = source.grid.described_beside(regions.grid)
    return [f"the masks lie on {masks}, the series on {series}: contours are drawn on the planes of the series"]
