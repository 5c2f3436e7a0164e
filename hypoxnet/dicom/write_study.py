"""One visit as a DICOM study: its images as series, its quantitative maps as parametric maps, its masks as contours."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet import __version__
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import Algorithm, OutputSeries
from hypoxnet.dicom.scans import WEIGHTINGS, CtScan, MrScan, Scan, StudyIdentity
from hypoxnet.dicom.source import SourceSeries, read_source
from hypoxnet.dicom.write_map import write_parametric_map
from hypoxnet.dicom.write_rtstruct import write_rtstruct
from hypoxnet.dicom.write_series import STUDY, refuse_full_folder, write_series
from hypoxnet.files import replacing_folder
from hypoxnet.geometry import Grid
from hypoxnet.quantities import TRACERS, quantity

# Voxels i j k, and where they lie.
Located = tuple[NDArray[Any], Grid]

# Which images are series. In this order contours look for what to be drawn on, and maps begin with the weighted MR.
SERIES = (*(f"{tracer}_SUV" for tracer in TRACERS), "CT_HU", *WEIGHTINGS)
# Series Numbers of the first map and the first structure set; those of the images begin at 1.
FIRST_MAP, FIRST_STRUCTURES = 101, 201


@dataclass(frozen=True, slots=True)
class WrittenStudy:
    """What a visit became.

    Args:
        images: Quantity to the files of its series or map.
        contours: Region to the structure set that holds it.
        left_out: What DICOM cannot say, one sentence each.
    """

    images: Mapping[str, tuple[Path, ...]]
    contours: Mapping[str, Path]
    left_out: tuple[str, ...]


def write_study(
    folder: Path,
    study: StudyIdentity,
    *,
    images: Mapping[str, Located],
    masks: Mapping[str, Located] | None = None,
    scans: Iterable[Scan] = (),
) -> WrittenStudy:
    """Write a visit, all of it in one frame of reference.

    SUV, CT and weighted MR become series of images. Every other quantity becomes a parametric map, which refers to the
    series on its grid, else to the first MR series, else to the first series. Masks are drawn on the series on their
    grid; where there is none, each pixel of the first series takes the nearest voxel.

    Args:
        folder: Of this study only; written whole or not at all.
        study: Patient, visit and UIDs.
        images: By quantity, in its unit. Maps may hold nan where there is no value, series may not.
        masks: By region, bool.
        scans: What made the series: dose and times of each PET; CT and MR need none.

    Raises:
        DicomError: There is no series, a PET has no scan, something cannot be written, or the folder holds files.
        QuantityError: A name of `images` is not in the table.
    """
    refuse_full_folder(folder)
    kinds = _kinds(images, scans)
    if not kinds:
        raise DicomError(f"{study.case_id}: there is no PET, CT or MR series that maps and contours could refer to")
    with replacing_folder(folder) as temporary:
        files: dict[str, tuple[Path, ...]] = {}
        sources: dict[str, SourceSeries] = {}
        for number, (name, kind) in enumerate(kinds.items(), start=1):
            volume, grid = images[name]
            written = write_series(temporary / name, volume, grid, kind=kind, study=study, number=number)
            files[name], sources[name] = tuple(written), read_source(written)
        files |= _write_maps(temporary, images, sources, study)
        regions = masks or {}
        empty = [name for name, (mask, _) in regions.items() if not mask.any()]
        seen = {name: region for name, region in regions.items() if name not in empty}
        contours = _write_contours(temporary, seen, {name: images[name][1] for name in kinds}, sources, study)
    return WrittenStudy(
        {name: tuple(folder / path.relative_to(temporary) for path in paths) for name, paths in files.items()},
        {name: folder / path.relative_to(temporary) for name, path in contours.items()},
        tuple(f"{name} has no voxel: contours cannot say that, it is left out" for name in empty),
    )


def _kinds(images: Mapping[str, Located], scans: Iterable[Scan]) -> dict[str, Scan]:
    """The scan of each image that is a series."""
    kinds: dict[str, Scan] = {"CT_HU": CtScan(), **{name: MrScan(name) for name in WEIGHTINGS}}
    kinds |= {scan.channel: scan for scan in scans}
    there = [name for name in SERIES if name in images]
    lacking = [name for name in there if name not in kinds]
    if lacking:
        raise DicomError(f"{lacking[0]}: dose and times of its scan are not given; add a PetScan to scans")
    return {name: kinds[name] for name in there}


def _write_maps(
    folder: Path, images: Mapping[str, Located], sources: Mapping[str, SourceSeries], study: StudyIdentity
) -> dict[str, tuple[Path]]:
    """A file for each quantity that is no series."""
    grids = {name: images[name][1] for name in sources}
    written: dict[str, tuple[Path]] = {}
    for name, (array, grid) in images.items():
        if name in sources:
            continue
        path = folder / f"{name}.dcm"
        source = sources[_beside(grid, grids, (*WEIGHTINGS, *SERIES))]
        series = _output(study, name, FIRST_MAP + len(written))
        write_parametric_map(path, array, quantity=quantity(name), grid=grid, source=source, series=series)
        written[name] = (path,)
    return written


def _write_contours(
    folder: Path,
    masks: Mapping[str, Located],
    grids: Mapping[str, Grid],
    sources: Mapping[str, SourceSeries],
    study: StudyIdentity,
) -> dict[str, Path]:
    """A structure set for each grid that masks lie on; region to file."""
    written: dict[str, Path] = {}
    for number, grid in enumerate(dict.fromkeys(grid for _, grid in masks.values())):
        regions: dict[str, NDArray[np.bool_]] = {name: mask for name, (mask, its) in masks.items() if its == grid}
        path = folder / f"contours_{number + 1}.dcm"
        source = sources[_beside(grid, grids, SERIES)]
        series = _output(study, path.stem, FIRST_STRUCTURES + number)
        write_rtstruct(path, regions, grid=grid, source=source, series=series)
        written |= dict.fromkeys(regions, path)
    return written


def _beside(grid: Grid, grids: Mapping[str, Grid], order: Sequence[str]) -> str:
    """The first series on a grid, the first of all where none is."""
    there = [name for name in order if name in grids]
    return next((name for name in there if grids[name].same_as(grid)), there[0])


def _output(study: StudyIdentity, name: str, number: int) -> OutputSeries:
    """A series whose UIDs and time are those of the study."""
    uids = _counted(study, name)
    return OutputSeries(Algorithm(STUDY, __version__), number, uids=lambda: next(uids), written=study.began)


def _counted(study: StudyIdentity, name: str) -> Iterator[str]:
    return (study.uid("object", name, str(count)) for count in itertools.count())
