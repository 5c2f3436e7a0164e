"""`hypoxnet export`: a bundle in the form of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

OK = 0
FORMATS = ("safetensors", "torch", "monai")


def add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb; libraries are loaded when it is used."""
    parser = verbs.add_parser(
        "export",
        help="write a bundle in the form of another program",
        description="Write a trained bundle for a program that does not know HypoxNet. What was written is read back "
        "by that program's library and compared with the bundle on several sizes; export.json tells the agreement.",
        epilog="example: hypoxnet export runs/mine/bundle --to torch --output exported",
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folder; several are averaged")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the form")
    parser.add_argument("--output", type=Path, required=True, help="folder of the export")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> int:
    """Export, and say where it lies and how well it agrees."""
    from hypoxnet.bundle.export.folder import read_export
    from hypoxnet.jobs.export import OWN, export_bundles

    folder = export_bundles([path.expanduser() for path in options.bundles], options.to, options.output.expanduser())
    print(folder)
    if options.to == OWN:
        return OK
    for name, found in read_export(folder).get("agreement", {}).items():
        worst = ", ".join(f"{output} {difference:.1e}" for output, difference in found["largest_difference"].items())
        print(f"{name}: largest difference from the bundle: {worst}")
    return OK
