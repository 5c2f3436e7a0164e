"""`hypoxnet map KIND`: the options of each kind are the fields of its settings."""

from __future__ import annotations

import argparse
import types
import typing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypoxnet.maps.kinds.base import MapKind


def add_map(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb; the kinds are looked up when it is used, since they load torch."""
    parser = verbs.add_parser(
        "map",
        help="make quantitative maps from raw signal",
        description="Make maps with units from a raw series; `hypoxnet map KIND --help` lists the settings of a kind, "
        "`hypoxnet map list` the kinds.",
        epilog="example: hypoxnet map r2star mge.nii.gz --echo-times-s 0.005 0.010 0.015 0.020 --output maps",
    )
    parser.add_argument("kind", help="list shows them")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="files and settings of the kind")
    parser.set_defaults(run=run_map)


def run_map(options: argparse.Namespace) -> int:
    """Make and write the maps of one series."""
    from rich.console import Console
    from rich.progress import Progress

    from hypoxnet.errors import HypoxNetError
    from hypoxnet.jobs.maps import MapRequest, describe, make_maps, write_maps
    from hypoxnet.maps.registry import kind_of, known_kinds

    if options.kind == "list":
        for kind in known_kinds().values():
            print(f"{kind.name:<16} {kind.summary}")
        return 0
    kind = kind_of(options.kind)
    chosen = _parser_of(kind).parse_args(options.arguments)
    if "/" in chosen.prefix or "\\" in chosen.prefix:
        raise HypoxNetError(f"--prefix is {chosen.prefix!r}, it begins file names; give the folder with --output")
    if chosen.output.exists() and not chosen.output.is_dir():
        raise HypoxNetError(f"--output {chosen.output} is a file; give a folder")
    settings = kind.settings(**{f.name: getattr(chosen, f.name) for f in fields(kind.settings)})
    extras = {e.name: getattr(chosen, f"extra_{e.name}") for e in kind.extras}
    request = MapRequest(
        kind,
        settings,
        chosen.files,
        {name: path for name, path in extras.items() if path is not None},
        name=chosen.prefix or chosen.files[0].name,
        device=chosen.device,
    )
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("voxels")
        made = make_maps(request, progress=lambda done, total: bar.update(task, completed=done, total=total))
    for line in describe(made):
        print(line)
    for path in write_maps(
        made, chosen.output, chosen.prefix, diagnostics=chosen.diagnostics, pictures=not chosen.no_pictures
    ):
        print(path)
    return 0


def _parser_of(kind: MapKind) -> argparse.ArgumentParser:
    from hypoxnet.describe import settings_of

    parser = argparse.ArgumentParser(
        prog=f"hypoxnet map {kind.name}", description=kind.summary, epilog=f"example: hypoxnet {kind.example}"
    )
    parser.add_argument("files", type=Path, nargs="+", help="one 4D file, or one file per time, echo or flip")
    parser.add_argument("--output", type=Path, required=True, help="folder of the maps")
    parser.add_argument("--prefix", default="", help="begin of every file name, for example sub-01")
    parser.add_argument("--diagnostics", action="store_true", help="write standard errors too")
    parser.add_argument("--no-pictures", action="store_true", help="write no PNG")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    settings = kind.settings()
    meanings = {setting.key: setting for setting in settings_of(settings)}
    taken = {f.name for f in fields(kind.settings)}
    for extra in kind.extras:
        flag = f"--{extra.name}-{extra.what}" if extra.name in taken else f"--{extra.name}"
        parser.add_argument(flag, type=Path, dest=f"extra_{extra.name}", metavar="NIFTI", help=extra.meaning)
    hints = typing.get_type_hints(kind.settings)
    for item in fields(kind.settings):
        words = f"{meanings[item.name].meaning} [{meanings[item.name].default}]".replace("%", "%%")
        _add_setting(parser, item.name, hints[item.name], getattr(settings, item.name), words)
    return parser


def _add_setting(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, words: str) -> None:
    flag = "--" + name.replace("_", "-")
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if kind is bool:
        parser.add_argument(flag, default=default, action=argparse.BooleanOptionalAction, help=words)
    elif typing.get_origin(kind) is list:
        parser.add_argument(flag, type=typing.get_args(kind)[0], nargs="+", default=default, help=words)
    else:
        parser.add_argument(flag, type=kind, default=default, help=words)
