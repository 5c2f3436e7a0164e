"""`hypoxnet import`: DICOM to a cohort; `hypoxnet to-dicom`: masks and maps back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

OK, WRONG_INPUT = 0, 2


def add_import(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb; libraries are loaded when it is used."""
    parser = verbs.add_parser(
        "import",
        help="turn a tree of DICOM files into NIfTI, masks and a manifest",
        description="Read a folder (or zip) of DICOM in any order; write channels with their units, masks, and a "
        "manifest.csv that train.py and infer.py take. Patients get pseudonyms made with a key that stays with you.",
        epilog="example: hypoxnet import /data/dicom --output cohort --dry-run",
    )
    parser.add_argument("folder", type=Path, help="folder or zip archive")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cohort")
    parser.add_argument("--dry-run", action="store_true", help="print what would become what, write nothing")
    parser.add_argument(
        "--rules", type=Path, help="which series becomes which channel; --show-rules prints the default"
    )
    parser.add_argument("--show-rules", action="store_true", help="print the rules and stop")
    parser.add_argument(
        "--patients", type=Path, help="CSV with patient_id, weight_kg, height_cm, sex for what is missing"
    )
    parser.add_argument("--key", type=Path, help="key of the pseudonyms, made when absent [~/.config/hypoxnet/...]")
    parser.add_argument("--keep-identifiers", action="store_true", help="keep patient ids, dates and descriptions")
    parser.add_argument("--no-register", action="store_true", help="leave out what lies in another frame of reference")
    parser.add_argument("--allow-burned-in", action="store_true", help="take images with text burned into the pixels")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0 is one per core (default)")
    parser.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Import, or show what would be."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from hypoxnet.dicom.index import index_folder
    from hypoxnet.dicom.pseudonyms import default_key_path, read_or_make_key
    from hypoxnet.dicom.rules import default_rules, default_rules_text, read_rules
    from hypoxnet.jobs.import_dicom import ImportRequest, import_folder, plan_import, read_patient_table

    if options.show_rules:
        print(options.rules.read_text(encoding="utf-8") if options.rules else default_rules_text(), end="")
        return OK
    rules = read_rules(options.rules) if options.rules else default_rules()
    path = options.key.expanduser() if options.key else default_key_path()
    key = None if options.keep_identifiers else read_or_make_key(path, cohort=options.output)
    patients = read_patient_table(options.patients) if options.patients else {}
    request = ImportRequest(
        options.folder,
        options.output,
        rules,
        key,
        patients,
        register=not options.no_register,
        allow_burned_in=options.allow_burned_in,
        jobs=options.jobs,
    )
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("headers")

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        if options.dry_run:
            index = index_folder(request.folder, jobs=request.jobs, progress=lambda d, t: tell("headers", d, t))
        else:
            done = import_folder(request, progress=tell)
            index = done.index
    for fault in index.faults:
        print(fault, file=sys.stderr)
    if options.dry_run:
        table = Table("patient", "visit", "modality", "series", "files", "becomes", "why")
        for row in plan_import(index, request):
            table.add_row(*row)
        Console(width=None if errors.is_terminal else 200).print(table)
        return WRONG_INPUT if index.faults else OK
    for note in done.notes:
        print(note)
    for case, reason in done.failed.items():
        print(f"{case}: {reason}", file=sys.stderr)
    print(f"{len(done.rows)} visits imported, {len(done.failed)} failed, {len(index.faults)} faulty files or series")
    if done.manifest is not None:
        print(done.manifest)
    return WRONG_INPUT if done.failed or index.faults or done.manifest is None else OK


def add_to_dicom(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "to-dicom",
        help="write masks and maps as DICOM, with references to the original series",
        description="Masks become a segmentation (SEG) and a structure set (RTSTRUCT), maps become parametric maps.",
        epilog="example: hypoxnet to-dicom --mask HYPOXIA=hsv.nii.gz --source /data/pet --output dicom",
    )
    parser.add_argument("--mask", action="append", default=[], metavar="NAME=NIFTI", help="a region; may be repeated")
    parser.add_argument("--map", action="append", default=[], metavar="QUANTITY=NIFTI", help="a map; may be repeated")
    parser.add_argument("--source", type=Path, required=True, help="folder of the original series")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--format", nargs="+", default=["seg", "rtstruct"], help="seg, rtstruct (default both)")
    parser.set_defaults(run=run_to_dicom)


def run_to_dicom(options: argparse.Namespace) -> int:
    """Write the objects."""
    from hypoxnet.dicom.errors import DicomError
    from hypoxnet.jobs.export_dicom import write_nifti_as_dicom

    named: dict[str, dict[str, Path]] = {"mask": {}, "map": {}}
    for kind, found in named.items():
        for text in getattr(options, kind):
            name, equals, path = text.partition("=")
            if not equals:
                raise DicomError(f"--{kind} is {text!r}, it must be NAME=FILE")
            found[name] = Path(path)
    if not named["mask"] and not named["map"]:
        raise DicomError("there is nothing to write; give --mask NAME=FILE or --map QUANTITY=FILE")
    source = sorted(path for path in options.source.rglob("*") if path.is_file()) if options.source.is_dir() else []
    if not source:
        raise DicomError(f"--source {options.source} holds no file; give the folder of the original series")
    written, notes = write_nifti_as_dicom(
        named["mask"], source, options.output, formats=options.format, maps=named["map"]
    )
    for note in notes:
        print(note, file=sys.stderr)
    for path in written:
        print(path)
    return OK
