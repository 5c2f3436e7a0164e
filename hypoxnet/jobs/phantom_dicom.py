"""A cohort of phantoms as DICOM: each visit a study, as scanners and a planning system would have sent it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import track

from hypoxnet.cases import CaseRecord
from hypoxnet.data.manifest import read_manifest
from hypoxnet.dicom.scans import PetScan, StudyIdentity
from hypoxnet.dicom.write_study import write_study
from hypoxnet.files import write_text
from hypoxnet.images import read_channel, read_mask
from hypoxnet.phantom.cohort import DATASHEET
from hypoxnet.phantom.parameters.tracer import TRACERS
from hypoxnet.phantom.writing import read_truth

NOTES = "notes.txt"
# SUV does not depend on it; a scanner asks for one.
WEIGHT_KG = {0: 66.0, 1: 78.0}
DAYS_PER_WEEK = 7
# A repeated scan of the same week is two days later.
RETEST_DAYS = 2


def write_cohort_as_dicom(manifest: Path, folder: Path, *, workers: int = 0, progress: bool = False) -> Path:
    """Write every visit of a cohort of phantoms as a study, `CASE/VISIT` below a folder; those that are there are kept.

    Args:
        manifest: Of the cohort, with its datasheet and truth beside it.
        folder: Where the studies go.
        workers: Processes; 0 is one per core.
        progress: Show a bar on stderr.

    Returns:
        The folder; `notes.txt` in it says what DICOM cannot hold.

    Raises:
        DicomError: A visit cannot be written.
    """
    records = read_manifest(manifest)
    seed = json.loads((manifest.parent / DATASHEET).read_text(encoding="utf-8"))
    cohort = f"{seed['preset']} {seed['seed']} {seed['digest']}"
    write = partial(_write_visit, manifest.parent, folder, cohort)
    done = track(
        _each(write, records, workers),
        description="DICOM",
        total=len(records),
        disable=not progress,
        console=Console(stderr=True),
    )
    notes = [f"{record.key}: {text}" for record, said in zip(records, done, strict=True) for text in said]
    write_text(folder / NOTES, "".join(f"{note}\n" for note in notes))
    return folder


def _each(write: partial[tuple[str, ...]], records: tuple[CaseRecord, ...], workers: int) -> Iterator[tuple[str, ...]]:
    if workers == 1 or len(records) < 2:
        yield from map(write, records)
        return
    with ProcessPoolExecutor(workers or None, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, records)


def _write_visit(cohort: Path, folder: Path, seed: str, record: CaseRecord) -> tuple[str, ...]:
    """One study; what could not be written."""
    place = folder / record.case_id / record.visit
    if place.is_dir():
        return ()
    truth = read_truth(cohort, record.case_id)
    images = {name: read_channel(path, name, case=record.key) for name, path in record.channels.items()}
    masks = {name: read_mask(path, case=record.key) for name, path in record.masks.items()}
    scans = [
        PetScan(name, tracer.activity_mbq * 1e6, tracer.uptake_min * 60.0, tracer.frame_min * 60.0)
        for name, tracer in TRACERS.items()
        if f"{name}_SUV" in images
    ]
    written = write_study(
        place,
        _study(record, truth, seed),
        images={name: (volume.array, volume.grid) for name, volume in images.items()},
        masks={name: (volume.array, volume.grid) for name, volume in masks.items()},
        scans=scans,
    )
    return written.left_out


def _study(record: CaseRecord, truth: dict[str, object], seed: str) -> StudyIdentity:
    patient, visits = truth["patient"], truth["visits"]
    assert isinstance(patient, dict)
    assert isinstance(visits, dict)
    visit = visits[record.visit]
    day = round(DAYS_PER_WEEK * visit["week"]) + (RETEST_DAYS if visit["another_day"] else 0)
    sex = "M" if patient["sex"] else "F"
    return StudyIdentity(
        record.case_id, seed, WEIGHT_KG[patient["sex"]], day=day, sex=sex, age_years=float(int(patient["age"]))
    )
