"""An exported bundle on disk: whole or absent, with checksums, a description and the model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hypoxnet.bundle.card import model_card
from hypoxnet.bundle.export.description import EXPORT, FORMAT, FORMAT_VERSION
from hypoxnet.bundle.foreign import refuse_foreign
from hypoxnet.bundle.schema import CARD, CHECKSUMS, SPEC, BundleSpec
from hypoxnet.errors import BundleError
from hypoxnet.files import replacing_folder, sha256_of, write_json, write_text

# A description is some 50 kB; what is longer is none.
LARGEST_JSON = 16 * 2**20
MOST_FILES = 1000


def write_export(folder: Path, spec: BundleSpec, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Write an export in the place of `folder`.

    Args:
        folder: Where it is to stand.
        spec: The bundle, for the model card.
        write: Writes the files of the format into a folder and returns the content of `export.json`.

    Raises:
        BundleError: `folder` holds something that is no export, or a file that no export wrote.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / EXPORT).is_file():
        raise BundleError(f"{folder} is not empty and holds no export (no {EXPORT}); choose another folder")
    refuse_foreign(folder)
    with replacing_folder(folder) as temporary:
        content = write(temporary)
        write_json(temporary / EXPORT, content)
        write_text(temporary / CARD, model_card(spec) + _weights_section(content))
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files}
        write_json(temporary / CHECKSUMS, {"sha256": sums})
    return folder


def loss_lines(content: Mapping[str, Any]) -> list[str]:
    """What the weights' fewer bits cost, in words; nothing for float32.

    Args:
        content: Of `export.json`.
    """
    weights = content.get("weights", {})
    loss = weights.get("loss")
    if not loss:
        return []
    dice, probability, incidence = loss["dice"], loss["probability"], loss["incidence"]
    empty = f" ({dice['both_empty']} times both found nothing)" if dice["both_empty"] else ""
    return [
        f"weights are {weights['precision']}; against float32, {loss['cases']} cases:",
        f"Dice of the masks {dice['mean']:.4f}, lowest {dice['lowest']:.4f}{empty}",
        f"probabilities differ by {probability['mean']:.2g}, at most {probability['largest']:.2g}",
        f"incidences differ by {incidence['mean']:.2g}, at most {incidence['largest']:.2g}",
    ]


def _weights_section(content: Mapping[str, Any]) -> str:
    lines = loss_lines(content)
    if not lines:
        return ""
    first, *rest = lines
    return "\n".join(["\n## Rounded weights", "", f"The {first}", "", *(f"- {line}" for line in rest)]) + "\n"


def read_export(folder: Path) -> dict[str, Any]:
    """The description of an export whose files are all there and unchanged; none of them is opened by its format.

    Raises:
        BundleError: No export, a file that is missing or changed, a path outside, or a description of another version.
    """
    listed = _json(folder / CHECKSUMS).get("sha256")
    if isinstance(listed, dict) and SPEC in listed:
        raise BundleError(f"{folder} is a bundle, our own form: infer.py checks every file of it when it reads it")
    if not isinstance(listed, dict) or not 0 < len(listed) <= MOST_FILES or EXPORT not in listed:
        raise BundleError(f"{folder / CHECKSUMS} does not list the files of an export; export the bundle again")
    for name, expected in listed.items():
        parts = PurePosixPath(name).parts
        path = folder / name
        if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
            raise BundleError(f"{folder / CHECKSUMS} lists {name!r}, which is not a file inside the export")
        if not path.is_file() or path.resolve() != folder.resolve() / name:
            raise BundleError(f"{path} is missing or a link; export the bundle again")
        found = sha256_of(path)
        if found != expected:
            raise BundleError(
                f"{path} was changed (sha256 {found[:12]}, written as {str(expected)[:12]}); export the bundle again"
            )
    content = _json(folder / EXPORT)
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{folder / EXPORT} has format {content.get('format')!r} version {content.get('format_version')!r}, this "
            f"HypoxNet reads {FORMAT} version {FORMAT_VERSION}; export the bundle again"
        )
    return content


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise BundleError(f"{path} is larger than {LARGEST_JSON // 2**20} MiB, which no description is")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing; give the folder of an export") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({error}); export the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} does not hold a JSON object; export the bundle again")
    return content
