"""`hypoxnet serve`: a bundle that stays loaded and predicts what is put into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from hypoxnet.cli.paths import BUNDLE, existing_folder

FORMATS = ("nifti", "seg", "probability", "rtstruct")


def add_serve(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb; libraries are loaded when it is used."""
    parser = verbs.add_parser(
        "serve",
        help="keep a bundle loaded and predict what is put into a folder",
        description="Watch a folder. A manifest (CSV, TSV) that lies there whole, or a folder of DICOM with a file "
        ".ready in it, is predicted into OUTPUT/NAME, then moved to done, or to failed with the reason beside it. "
        "Ctrl-C and SIGTERM end the server after the case it is at.",
        epilog="example: hypoxnet serve runs/mine/bundle --watch inbox --output predictions",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--watch", type=Path, required=True, metavar="INBOX", help="folder that is watched")
    parser.add_argument("--output", type=Path, required=True, help="folder in which each item gets its own")
    parser.add_argument("--once", action="store_true", help="predict what lies there and end")
    parser.add_argument("--status", type=Path, help="JSON that tells what it does (default: OUTPUT/serve.json)")
    parser.add_argument("--every-s", type=float, default=2.0, help="seconds between two looks (default 2)")
    parser.add_argument(
        "--settle-s", type=float, default=2.0, help="seconds for which a file must not change to be whole (default 2)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    parser.add_argument("--rules", type=Path, help="rules by which series of DICOM become channels")
    parser.add_argument(
        "--output-format", nargs="+", choices=FORMATS, default=["nifti"], help="of studies that come as DICOM"
    )
    parser.set_defaults(run=run_serve)


def run_serve(options: argparse.Namespace) -> int:
    """Serve until asked to end."""
    bundle = existing_folder(options.bundle, BUNDLE)

    from hypoxnet.errors import ConfigError
    from hypoxnet.inference.config import InferenceConfig
    from hypoxnet.jobs.config import InferJobConfig
    from hypoxnet.jobs.serve import ServeRequest, serve

    for name in ("every_s", "settle_s"):
        if not getattr(options, name) >= 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(options, name)}, it must be 0 s or more")
    output = options.output.expanduser()
    config = InferJobConfig(
        bundle=str(bundle),
        output=str(output),
        # Of a manifest only NIfTI is written: the formats are those of studies.
        input="dicom",
        rules=str(options.rules.expanduser()) if options.rules else "",
        output_format=["nifti", *(name for name in options.output_format if name != "nifti")],
        inference=InferenceConfig(device=options.device),
    )
    status = options.status.expanduser() if options.status else output / "serve.json"
    return serve(
        ServeRequest(
            config,
            options.watch.expanduser(),
            status,
            every_s=options.every_s,
            settle_s=options.settle_s,
            once=options.once,
        )
    )
