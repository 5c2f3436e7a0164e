"""A cohort looked at before anything is trained on it: what is there, and everything that is wrong, with its line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from hypoxnet.cases import CENSORED, DEATH, FAILURE, CaseRecord
from hypoxnet.data.leak import Leak
from hypoxnet.data.leakage import leaks_of_manifest
from hypoxnet.data.manifest import line_of, parse_manifest, rows_without_images
from hypoxnet.errors import HypoxNetError
from hypoxnet.geometry import Grid
from hypoxnet.images import read_channel, read_grid, read_mask, read_series_grid
from hypoxnet.transforms.plausible import MAY_BE_EMPTY, empty, implausible

CHUNK = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CaseReport:
    """One case as it is on disk.

    Args:
        record: Its row.
        faults: What is wrong, one sentence each, beginning with the line.
        volumes_ml: Mask to volume, mL; empty when voxels were not read.
    """

    record: CaseRecord
    faults: tuple[str, ...] = ()
    volumes_ml: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A cohort as it is on disk.

    Args:
        path: The manifest.
        cases: One report per row.
        faults: Faults of the manifest and of the files, by line.
        warnings: What would stop a training that reads it, by line.
    """

    path: Path
    cases: tuple[CaseReport, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def table(self) -> list[tuple[str, str]]:
        """The cohort in numbers: what, and how many."""
        records = [case.record for case in self.cases]
        patients = {record.case_id: record for record in reversed(records)}.values()
        rows = [("cases (rows)", str(len(records))), ("patients", str(len(patients)))]
        rows += [("sites", _counted(record.site or "(not named)" for record in patients))]
        channels = Counter(name for record in records for name in record.channels)
        rows += [(f"channel {name}", f"{count} of {len(records)}") for name, count in sorted(channels.items())]
        raw = Counter(name for record in records for name in record.raw)
        rows += [(f"raw series {name}", f"{count} of {len(records)}") for name, count in sorted(raw.items())]
        masks = Counter(name for record in records for name in record.masks)
        rows += [(f"mask {name}", f"{count} of {len(records)}{self._volume(name)}") for name, count in masks.items()]
        rows += list(_outcome_rows(patients))
        covariates = Counter(name for record in patients for name in record.covariates)
        rows += [(f"covariate {name}", f"{count} of {len(patients)}") for name, count in covariates.items()]
        return rows

    def _volume(self, mask: str) -> str:
        volumes = [case.volumes_ml[mask] for case in self.cases if mask in case.volumes_ml]
        if not volumes:
            return ""
        return f", median {median(volumes):.1f} mL ({min(volumes):.1f} to {max(volumes):.1f})"


def inspect_manifest(
    path: Path, *, headers_only: bool = False, jobs: int = 0, progress: Progress | None = None
) -> Inspection:
    """Look at a manifest and at every file it names.

    What training refuses as a leak is looked for as well: in the images themselves, whatever `headers_only` says.

    Args:
        path: The manifest.
        headers_only: Read headers but no voxels: seconds instead of minutes, but ranges, units and masks are not seen.
        jobs: Processes; 0 is one per core.
        progress: Called with the number of cases done and of all cases.

    Raises:
        ManifestError: The file is not a table at all.
    """
    records, faults = parse_manifest(path, check_files=True)
    reports: list[CaseReport] = []
    look = partial(_look_at_some, headers_only=headers_only)
    chunks = [records[first : first + CHUNK] for first in range(0, len(records), CHUNK)]
    for chunk in _each(look, chunks, jobs or os.cpu_count() or 1):
        reports += chunk
        if progress is not None:
            progress(len(reports), len(records))
    without = rows_without_images(records)
    # A cohort without any image is one for a model of covariates alone.
    faults = (*faults, *(without if len(without) < len(records) else ()))
    leaks = leaks_of_manifest(records)
    every = [*faults, *(fault for report in reports for fault in report.faults), *_sentences(leaks, stops=True)]
    return Inspection(
        path,
        tuple(reports),
        tuple(sorted(every, key=line_of)),
        tuple(sorted(_sentences(leaks, stops=False), key=line_of)),
    )


def _sentences(leaks: Iterable[Leak], *, stops: bool) -> Iterator[str]:
    """What training would refuse, or would warn of, with its line."""
    return (f"line {leak.line}: {leak.sentence}" for leak in leaks if leak.stops == stops)


def _each(
    look: Callable[[Sequence[CaseRecord]], list[CaseReport]], chunks: Sequence[Sequence[CaseRecord]], jobs: int
) -> Iterator[list[CaseReport]]:
    if jobs == 1 or len(chunks) == 1:
        yield from map(look, chunks)
        return
    with ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(look, chunks)


def _look_at_some(records: Sequence[CaseRecord], *, headers_only: bool) -> list[CaseReport]:
    return [inspect_case(record, headers_only=headers_only) for record in records]


def inspect_case(record: CaseRecord, *, headers_only: bool = False) -> CaseReport:
    """Look at the files of one case; a file that does not exist is the manifest's fault and is passed over here.

    Example:
        >>> inspect_case(CaseRecord("P1")).faults
        ()
    """
    faults: list[str] = []
    begin = f"line {record.line}: {record.key}"
    grids: dict[str, Grid] = {}
    volumes_ml: dict[str, float] = {}
    for name, path in {**record.channels, **record.masks}.items():
        if not path.is_file():
            continue
        case = f"{begin}: {name}"
        try:
            grids[name] = read_grid(path, case=case)[0]
            if headers_only:
                continue
            if name in record.masks:
                mask = read_mask(path, case=case)
                volumes_ml[name] = float(mask.array.sum()) * mask.grid.voxel_ml
                wrong = "" if name in MAY_BE_EMPTY else empty(mask.array)
            else:
                wrong = implausible(read_channel(path, name, case=case).array, name)
            faults += [f"{case}: {path} {wrong}"] if wrong else []
        except HypoxNetError as error:
            faults.append(str(error))
    faults += _raw_faults(record, begin)
    faults += _grid_faults(record, grids, begin)
    return CaseReport(record, tuple(faults), volumes_ml)


def _raw_faults(record: CaseRecord, begin: str) -> Iterator[str]:
    """Raw series whose headers cannot be read; their timing is looked at when maps are made."""
    for name, files in record.raw.items():
        for file in files:
            if not file.is_file():
                continue
            try:
                read_series_grid(file, case=f"{begin}: {name}")
            except HypoxNetError as error:
                yield str(error)


def _grid_faults(record: CaseRecord, grids: dict[str, Grid], begin: str) -> Iterator[str]:
    masks = [name for name in record.masks if name in grids]
    for name in masks[1:]:
        if not grids[name].same_as(grids[masks[0]]):
            yield (
                f"{begin}: {masks[0]} ({grids[masks[0]].describe()}) and {name} ({grids[name].describe()}, "
                f"{record.masks[name]}) lie on different grids; draw or resample both on one image"
            )
    names = [name for name in (*record.channels, *record.masks) if name in grids]
    for name in names[1:]:
        if not _overlap(grids[names[0]], grids[name]):
            yield (
                f"{begin}: {name} and {names[0]} do not overlap in space (first voxels at {_first_voxel(grids[name])} "
                f"and {_first_voxel(grids[names[0]])} mm); register them, or leave one out"
            )


def _overlap(one: Grid, other: Grid) -> bool:
    a, b = one.corners_mm(), other.corners_mm()
    return bool((a.min(axis=0) <= b.max(axis=0)).all() and (b.min(axis=0) <= a.max(axis=0)).all())


def _first_voxel(grid: Grid) -> str:
    return "(" + ", ".join(f"{row[3]:.0f}" for row in grid.affine[:3]) + ")"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def _outcome_rows(patients: Iterable[CaseRecord]) -> Iterator[tuple[str, str]]:
    outcomes = [record.outcome for record in patients if record.outcome is not None]
    yield "outcome known", f"{len(outcomes)} patients"
    if not outcomes:
        return
    failures = sum(outcome.event == FAILURE for outcome in outcomes)
    if all(outcome.is_binary for outcome in outcomes):
        yield "failed (yes/no)", f"{failures} yes, {len(outcomes) - failures} no"
        return
    yield "locoregional failures", str(failures)
    yield "deaths without failure", str(sum(outcome.event == DEATH for outcome in outcomes))
    months = [outcome.months for outcome in outcomes if outcome.months is not None]
    free = [outcome.months for outcome in outcomes if outcome.months is not None and outcome.event == CENSORED]
    followed = f"{median(free):.1f} months in the {len(free)} censored" if free else "nobody censored"
    yield "follow-up", f"median {followed}; {min(months):.1f} to {max(months):.1f} months in all"
