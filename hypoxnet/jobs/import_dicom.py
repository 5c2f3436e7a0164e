"""The import job: a tree of DICOM in; NIfTI with sidecars, masks, and a manifest out."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hypoxnet.dicom.channels import Channel, read_channel_series
from hypoxnet.dicom.dose import read_dose
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.index import Index, index_folder
from hypoxnet.dicom.pseudonyms import pseudonym, scrub
from hypoxnet.dicom.rules import Assignment, Rules
from hypoxnet.dicom.suv import PatientTable
from hypoxnet.dicom.visits import Contoured, Visit, by_patient, masks_of, visits_of
from hypoxnet.errors import HypoxNetError
from hypoxnet.files import finite, replacing_folder, write_json, write_text
from hypoxnet.images import write_image
from hypoxnet.jobs.one_space import Space, into_one_space
from hypoxnet.quantities import MASKS, QUANTITIES, RAW_SERIES

log = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
# Whose grid is the patient's: hypoxia PET before other PET before the rest.
FIRST = ("FMISO_SUV", "FAZA_SUV", "HX4_SUV", "EF5_SUV", "FDG_SUV", "PET_SUV", "CT_HU")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What is to be imported and how.

    Args:
        folder: Root of the DICOM tree, or a zip archive.
        output: Folder of the cohort.
        rules: Which series becomes which channel.
        key: Of the pseudonyms; None keeps identifiers.
        patients: What the user says of patients, by patient id.
        register: Register channels of another frame of reference; else they are left out.
        allow_burned_in: Take images with text burned in.
        jobs: Processes that read headers; 0 is one per core.
    """

    folder: Path
    output: Path
    rules: Rules
    key: bytes | None
    patients: Mapping[str, PatientTable] = field(default_factory=dict)
    register: bool = True
    allow_burned_in: bool = False
    jobs: int = 0

    def name(self, patient: str) -> str:
        """What a patient is called in the cohort."""
        if self.key is not None:
            return pseudonym(patient, self.key)
        return re.sub(r"[^\w.-]+", "_", patient).strip("._") or "unnamed"


@dataclass(frozen=True, slots=True)
class ImportRun:
    """What became of a tree.

    Args:
        manifest: The cohort's table; None when no visit could be imported.
        rows: One per visit that was imported.
        failed: Case to the reason in one sentence.
        notes: What a reader should know, one sentence each, beginning with the case.
        index: What lies in the tree.
        sources: Case to the files of its reference series, in whose space the visit lies.
    """

    manifest: Path | None
    rows: tuple[Mapping[str, str], ...]
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    index: Index
    sources: Mapping[str, tuple[Path, ...]]


def plan_import(index: Index, request: ImportRequest) -> list[tuple[str, ...]]:
    """The dry run: patient, visit, series, files, what it becomes, and why."""
    rows: list[tuple[str, ...]] = []
    for patient, series in by_patient(index.series).items():
        try:
            name, refused = request.name(patient), ""
        except DicomError as error:
            name, refused = "", str(error)
        for visit in visits_of(series):
            assignment = request.rules.assign(visit.series)
            becomes = {m.series.series_uid: (m.channel, m.why) for m in assignment.matches}
            for entry in visit.series:
                channel, why = becomes.get(entry.series_uid, ("", ""))
                if entry.modality in {"RTSTRUCT", "SEG"}:
                    regions = [name for header in entry.headers for name in header.roi_names]
                    named = {name: request.rules.mask_of(name) for name in regions}
                    channel = ", ".join(f"{mask} from {name!r}" for name, mask in named.items() if mask)
                    why = f"{len(regions)} regions"
                rows.append(
                    (
                        name,
                        visit.name,
                        entry.modality,
                        entry.description,
                        str(entry.files),
                        "" if refused else channel,
                        refused or why,
                    )
                )
    return rows


def import_folder(request: ImportRequest, *, progress: Progress | None = None) -> ImportRun:
    """Import every visit that can be; one that cannot is a reason, and the others are done.

    The manifest is rewritten after each visit: an interrupt loses nothing that was finished.

    Raises:
        DicomError: The folder does not exist, or holds no DICOM.
    """
    if request.output.exists() and not request.output.is_dir():
        raise DicomError(f"--output {request.output} is a file; give a folder")
    tell = progress or (lambda _what, _done, _all: None)
    index = index_folder(request.folder, jobs=request.jobs, progress=lambda done, total: tell("headers", done, total))
    if not index.series:
        raise DicomError(
            f"{request.folder}: none of its {index.files} files is a DICOM image or contour; name their folder"
        )
    rows: list[dict[str, str]] = []
    failed: dict[str, str] = {}
    notes = [*index.notes]
    visits = [(patient, visit) for patient, series in by_patient(index.series).items() for visit in visits_of(series)]
    manifest = None
    sources: dict[str, tuple[Path, ...]] = {}
    names: dict[str, str] = {}
    for number, (patient, visit) in enumerate(visits):
        case = visit.name
        try:
            name = request.name(patient)
            if names.setdefault(name, patient) != patient:
                raise DicomError(
                    f"patients {names[name]!r} and {patient!r} would both be called {name}; import with pseudonyms"
                )
            case = name + ("" if visit.name == "baseline" else f"_{visit.name}")
            row, said, sources[case] = _import_visit(patient, visit, request, name=name)
            rows.append(row)
            notes += [f"{case}: {text}" for text in said]
            manifest = _write_manifest(request.output, rows)
        except HypoxNetError as error:
            failed[f"{case} ({number + 1})" if case in failed else case] = str(error)
            log.error("%s: %s", case, error)
        tell("visits", number + 1, len(visits))
    return ImportRun(manifest, tuple(rows), failed, tuple(notes), index, sources)


def _import_visit(
    patient: str, visit: Visit, request: ImportRequest, *, name: str
) -> tuple[dict[str, str], list[str], tuple[Path, ...]]:
    """Read, bring into one space and write one visit; returns its row, what is to be said of it, and its source."""
    assignment = request.rules.assign(visit.series)
    notes = [str(conflict) for conflict in assignment.conflicts]
    channels = _channels(assignment, request, patient, notes)
    if not channels:
        kinds = ", ".join(sorted({f"{s.modality} {s.description!r}" for s in visit.series}))
        reason = f": {notes[-1]}" if notes else ""
        raise DicomError(
            f"no series of {len(visit.series)} becomes a channel ({kinds}){reason}; see --dry-run and the rules"
        )
    reference = _reference(channels)
    masks, regions, said = masks_of(visit.series, channels, request.rules, reference=reference)
    space = into_one_space(channels, masks, regions=regions, reference=reference, register=request.register)
    notes += [*said, *space.notes]
    folder = request.output / name / visit.name
    _refuse_loss(folder, {each.name for each in space.channels} | {each.name for each in space.masks})
    with replacing_folder(folder) as temporary:
        files = _write_visit(space, temporary, request)
        notes += _write_doses(visit, reference, temporary)
    relative = folder.relative_to(request.output)
    row = {"case_id": name, "visit": visit.name}
    series = next(entry for entry in visit.series if entry.series_uid == reference.series_uid)
    source = tuple(Path(header.place.path) for header in series.headers if not header.place.member)
    return row | {column: str(relative / file) for column, file in files.items()}, notes, source


def _refuse_loss(folder: Path, names: set[str]) -> None:
    """An import of part of a visit must not take away what an earlier one made."""
    there = {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")} if folder.is_dir() else set()
    lost = sorted(name for name in there - names if not name.startswith("DOSE_GY"))
    if lost:
        raise DicomError(
            f"{folder} already holds {', '.join(lost)}, which this import has not; import the whole visit at once, or "
            "into another folder"
        )


def _channels(assignment: Assignment, request: ImportRequest, patient: str, notes: list[str]) -> list[Channel]:
    """The channels of a visit; one that cannot be read is a note, the reason of the visit when none can."""
    out: list[Channel] = []
    taken: dict[str, str] = {}
    for match in sorted(assignment.matches, key=lambda m: (m.channel, m.series.first.study_date)):
        if match.channel in taken:
            notes.append(
                f"{match.channel}: {match.series.description!r} of a later study of the visit is left out, "
                f"{taken[match.channel]!r} is taken"
            )
            continue
        try:
            channel = read_channel_series(
                match, patient=request.patients.get(patient), allow_burned_in=request.allow_burned_in
            )
        except HypoxNetError as error:
            notes.append(f"{match.channel} is left out: {error}")
            continue
        taken[match.channel] = match.series.description
        out.append(channel)
    return out


def _reference(channels: Sequence[Channel]) -> Channel:
    by_name = {channel.name: channel for channel in channels}
    return next((by_name[name] for name in FIRST if name in by_name), channels[0])


def _write_visit(space: Space, folder: Path, request: ImportRequest) -> dict[str, str]:
    """Write channels, masks and transforms; returns column to file name."""
    names = [*(channel.name for channel in space.channels), *(contoured.name for contoured in space.masks)]
    files = {name: f"{name}.nii.gz" for name in names}
    images = [(c.name, c.array, c.grid) for c in space.channels]
    images += [(m.name, m.mask.astype(np.uint8), m.grid) for m in space.masks]
    # Compression leaves the interpreter alone, so that threads gain.
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(write_image, folder / files[name], array, grid) for name, array, grid in images]:
            done.result()
    for channel in space.channels:
        write_json(folder / f"{channel.name}.json", finite(_kept(dict(channel.sidecar), request)))
    for contoured in space.masks:
        write_json(folder / f"{contoured.name}.json", _mask_sidecar(contoured, request))
    for name, registration in space.transforms.items():
        write_json(folder / "transforms" / f"{name}.json", registration.describe())
    for name, draw in space.pictures.items():
        (folder / "transforms").mkdir(exist_ok=True)
        draw(folder / "transforms" / f"{name}.png")
    return files


def _write_doses(visit: Visit, reference: Channel, folder: Path) -> list[str]:
    """Planned dose in Gy beside the channels; not a column of the manifest, since dose is no image of the tumour."""
    notes = []
    places = [h.place for entry in visit.series if entry.modality == "RTDOSE" for h in entry.headers]
    for number, place in enumerate(place for place in places if not place.member):
        name = "DOSE_GY" if number == 0 else f"DOSE_GY_{number + 1}"
        try:
            dose = read_dose(Path(place.path))
        except DicomError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        write_image(folder / f"{name}.nii.gz", dose.dose_gy, dose.grid)
        here = dose.frame_of_reference_uid == reference.frame_of_reference_uid
        content = {"Quantity": "planned dose", "Units": "Gy", "SummationType": dose.summation_type, "InOneSpace": here}
        write_json(folder / f"{name}.json", content)
        if not here:
            notes.append(f"{name} lies in another frame of reference than {reference.name} and was not moved")
    return notes


# What the import itself says; the rest of a sidecar comes from the header and is scrubbed.
OURS = {
    *("Quantity", "Units", "ChosenBy", "SuvSteps", "Suv", "Notes", "ScaledBy", "bval", "Registration"),
    *("VolumeTiming", "FrameTimesStart", "FrameDuration", "EchoTime", "FlipAngle", "InversionTime", "RepetitionTime"),
}


def _kept(sidecar: Mapping[str, Any], request: ImportRequest) -> dict[str, Any]:
    if request.key is None:
        return dict(sidecar)
    ours = {name: value for name, value in sidecar.items() if name in OURS}
    return scrub({n: v for n, v in sidecar.items() if n not in OURS}, key=request.key) | ours


def _mask_sidecar(contoured: Contoured, request: ImportRequest) -> dict[str, Any]:
    source = contoured.source if request.key is None else contoured.source[1:]
    return {"Mask": contoured.name, "Meaning": MASKS[contoured.name], "Source": list(source)}


def _write_manifest(output: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """The table of the cohort; rows of an earlier import of other patients stay."""
    path = output / MANIFEST
    merged: dict[tuple[str, str], Mapping[str, str]] = {}
    if path.is_file():
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            merged[row["case_id"], row["visit"]] = {k: v for k, v in row.items() if v}
    for made in rows:
        key = (made["case_id"], made["visit"])
        # What was entered by hand, outcomes and covariates, stays.
        merged[key] = {**merged.get(key, {}), **made}
    present = {name for row in merged.values() for name in row}
    order = ["case_id", "visit", *(n for n in (*QUANTITIES, *RAW_SERIES, *MASKS) if n in present)]
    order += sorted(present - set(order))
    text = io.StringIO()
    writer = csv.DictWriter(text, order, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(merged.values())
    write_text(path, text.getvalue())
    return path


def read_patient_table(path: Path) -> dict[str, PatientTable]:
    """What the headers lack: a CSV with `patient_id` and `weight_kg`, `height_cm`, `sex`.

    Raises:
        DicomError: The file or a column is missing, or a cell is no number.
    """
    if not path.is_file():
        raise DicomError(f"{path} does not exist; give a CSV with patient_id, weight_kg, height_cm, sex")
    out: dict[str, PatientTable] = {}
    for number, row in enumerate(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()), start=2):
        if "patient_id" not in row:
            raise DicomError(f"{path}: there is no column patient_id (there are {', '.join(row)}); add it")
        try:
            weight, height = (float(row[name]) if row.get(name) else None for name in ("weight_kg", "height_cm"))
        except ValueError as error:
            raise DicomError(f"{path}: line {number}: {error}; give numbers in kg and cm") from error
        if row["patient_id"].strip() in out:
            raise DicomError(f"{path}: line {number}: {row['patient_id']} is there twice; keep one line per patient")
        out[row["patient_id"].strip()] = PatientTable(weight, height, (row.get("sex") or "").strip() or None)
    return out
