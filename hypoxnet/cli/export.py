"""`hypoxnet export` and `hypoxnet verify`: a bundle in the form of other programs, and whether it says the same."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypoxnet.cli.paths import BUNDLE, existing_folder

OK = 0
FORMATS = ("safetensors", "onnx", "torch", "torchscript", "aotinductor", "monai", "encoder")
WEIGHTS = ("float32", "bfloat16", "int8")


def add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register both verbs; libraries are loaded when they are used."""
    parser = verbs.add_parser(
        "export",
        help="write a bundle in the form of another program",
        description="Write a trained bundle for a program that does not know HypoxNet. What was written is read back "
        "by that program's library and compared with the bundle on several sizes; export.json tells the agreement.",
        epilog="example: hypoxnet export runs/mine/bundle --to onnx --output exported",
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folder; several are averaged")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the form")
    parser.add_argument("--output", type=Path, required=True, help="folder of the export")
    parser.add_argument("--weights", default=WEIGHTS[0], choices=WEIGHTS, help="bits of the weights, of onnx and torch")
    parser.add_argument(
        "--cases", type=Path, metavar="MANIFEST", help="cases on which the loss of fewer bits is measured"
    )
    parser.add_argument("--member", type=int, help="whose encoder, from 0; with --to encoder (default: the first)")
    parser.set_defaults(run=run_export)
    _add_verify(verbs)


def _add_verify(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "verify",
        help="compare an export with its bundle",
        description="Check the files of an export, run it by its own library and compare it with the bundle it was "
        "made of; exit status 2 when it is not the same. A file of ONNX is looked at before anything in it runs, and "
        "so are MONAI's expressions; the other forms are run by PyTorch: verify only those of a source you trust.",
        epilog="example: hypoxnet verify exported --against runs/mine/bundle",
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="folder of the export")
    parser.add_argument(
        "--against", type=Path, nargs="+", required=True, metavar="BUNDLE", help="what it was made of, in that order"
    )
    parser.set_defaults(run=run_verify)


def run_export(options: argparse.Namespace) -> int:
    """Export, and say where it lies, how well it agrees, and what fewer bits cost."""
    bundles = [existing_folder(path, BUNDLE) for path in options.bundles]

    from hypoxnet.bundle.export.folder import loss_lines, read_export
    from hypoxnet.jobs.export import OWN, export_bundles

    folder = export_bundles(
        bundles,
        options.to,
        options.output.expanduser(),
        weights=options.weights,
        cases=options.cases.expanduser() if options.cases else None,
        member=options.member,
    )
    print(folder)
    if options.to == OWN:
        return OK
    content = read_export(folder)
    for name, found in content.get("agreement", {}).items():
        print(_agreement(name, found["largest_difference"], content))
    for line in loss_lines(content):
        print(line)
    return OK


def run_verify(options: argparse.Namespace) -> int:
    """Verify, and say how well it agrees."""
    export = existing_folder(options.export, "give the folder of an export")
    against = [existing_folder(path, BUNDLE) for path in options.against]

    from hypoxnet.bundle.export.folder import read_export
    from hypoxnet.jobs.export import verify_export

    found, content = verify_export(export, against), read_export(export)
    print(f"{options.export}: every file is as it was written")
    for name, differences in found.items():
        print(_agreement(name, differences, content))
    return OK


def _agreement(graph: str, differences: Mapping[str, float], content: Mapping[str, Any]) -> str:
    worst = ", ".join(f"{output} {difference:.1e}" for output, difference in differences.items())
    weights = content.get("weights", {})
    bundle = f"the bundle with {weights['precision']} weights" if "loss" in weights else "the bundle"
    return f"{graph}: largest difference from {bundle}: {worst}"
