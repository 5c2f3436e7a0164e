"""`hypoxnet VERB`: everything that is neither training nor batch inference. Exit status 0, 1 or 2 (bad input)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hypoxnet import __version__
from hypoxnet.cli.dicom import add_import, add_to_dicom
from hypoxnet.cli.export import add_export
from hypoxnet.cli.map import add_map
from hypoxnet.cli.merge import add_merge
from hypoxnet.cli.phantom import add_phantom
from hypoxnet.cli.serve import add_serve
from hypoxnet.errors import HypoxNetError
from hypoxnet.files import disk_error

OK, WRONG_INPUT, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; libraries are loaded by the verb that needs them, so that `--help` answers at once."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except HypoxNetError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    except OSError as error:
        refused = disk_error(error, getattr(options, "output", None))
        if refused is None:
            raise
        print(refused, file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hypoxnet",
        description="HypoxNet: from hypoxia images to a decision. To train: train.py; to predict: infer.py.",
    )
    parser.add_argument("--version", action="version", version=f"hypoxnet {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_check(verbs)
    add_phantom(verbs)
    add_map(verbs)
    add_import(verbs)
    add_to_dicom(verbs)
    add_export(verbs)
    add_merge(verbs)
    add_serve(verbs)
    return parser


def _add_check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = verbs.add_parser(
        "check",
        help="look at a manifest and every file it names",
        description="Print a table of the cohort, and every fault with its line; exit status 2 when there is one. One "
        "patient under two names is a fault, a column that is the outcome or the follow-up a warning.",
        epilog="example: hypoxnet check cohort.csv",
    )
    check.add_argument("manifest", type=Path, help="CSV or TSV of the cohort")
    check.add_argument("--headers-only", action="store_true", help="read no voxels: quick, but ranges are not seen")
    check.add_argument("--jobs", type=int, default=0, help="processes; 0 is one per core (default)")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from hypoxnet.data.inspection import inspect_manifest

    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("cases")
        inspection = inspect_manifest(
            options.manifest,
            headers_only=options.headers_only,
            jobs=options.jobs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    table = Table(title=str(options.manifest), show_header=False)
    for what, figure in inspection.table():
        table.add_row(what, figure)
    Console().print(table)
    for warning in inspection.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not inspection.faults:
        return OK
    for fault in inspection.faults:
        print(fault, file=sys.stderr)
    count = len(inspection.faults)
    print(f"{options.manifest}: {count} fault{'s' if count != 1 else ''}", file=sys.stderr)
    return WRONG_INPUT
