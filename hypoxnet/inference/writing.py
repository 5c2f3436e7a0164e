"""A prediction on disk: one folder per case, whole or absent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from hypoxnet.cases import Prediction
from hypoxnet.errors import CaseError
from hypoxnet.files import replacing_folder, sha256_of, write_json
from hypoxnet.geometry import Grid
from hypoxnet.images import write_image

FORMAT = "hypoxnet-prediction"
# A folder that looks foreign is looked at again, so often and after so many seconds.
LOOKS, LOOK_S = 3, 0.02


def write_prediction(prediction: Prediction, folder: Path, *, digest: str = "") -> Path:
    """Write `<key>_<region>_probseg.nii.gz`, `<key>_<region>_mask.nii.gz` and `<key>.json` into `folder`.

    A model of covariates alone has no maps, only the JSON. The folder appears at once, in the place of an earlier
    prediction; the same prediction gives the same bytes.

    Args:
        prediction: What to write.
        folder: Named by the key of the case.
        digest: What the prediction depends on, see `Predictor.digest`; by it a finished case is recognised.

    Returns:
        The JSON of the case.

    Raises:
        CaseError: The folder holds files that are no prediction.
    """
    refuse_foreign(folder, prediction.key)
    with replacing_folder(folder) as temporary:
        if prediction.grid is not None:
            _write_maps(prediction, prediction.grid, temporary)
        files = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        content = {"format": FORMAT, "key": prediction.key, **prediction.read_outs, "files": files, "digest": digest}
        write_json(temporary / f"{prediction.key}.json", content)
    return folder / f"{prediction.key}.json"


def _write_maps(prediction: Prediction, grid: Grid, folder: Path) -> None:
    for region, probability in prediction.probability.items():
        write_image(folder / f"{prediction.key}_{region}_probseg.nii.gz", probability, grid)
    for region, mask in prediction.mask.items():
        write_image(folder / f"{prediction.key}_{region}_mask.nii.gz", mask.astype(np.uint8), grid)
    for region, deviation in prediction.deviation.items():
        write_image(folder / f"{prediction.key}_{region}_std.nii.gz", deviation, grid)
    for channel, added in prediction.attribution.items():
        write_image(folder / f"{prediction.key}_{channel}_attribution.nii.gz", added, grid)


def finished(folder: Path, key: str, *, digest: str) -> dict[str, Any] | None:
    """The JSON of a case whose prediction is whole and depends on what `digest` names; None otherwise."""
    content = read_prediction(folder, key)
    if content is None or content.get("digest") != digest:
        return None
    for name, checksum in content["files"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != checksum:
            return None
    return content


def read_prediction(folder: Path, key: str) -> dict[str, Any] | None:
    """The JSON of a case, or None where there is none that inference wrote."""
    try:
        content = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("files"), dict):
        return None
    return content


def other_predictions(output: Path, keys: Container[str]) -> list[str]:
    """Keys of the predictions in a folder that are none of these, by name."""
    with os.scandir(output) as entries:
        names = sorted(entry.name for entry in entries if entry.name not in keys and not entry.name.startswith("."))
    return [name for name in names if read_prediction(output / name, name) is not None]


def refuse_foreign(folder: Path, key: str) -> None:
    """Refuse to replace a folder that inference did not write: it could hold the patient's images.

    Raises:
        CaseError: Names the first file that is not part of a prediction.
    """
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_S)  # another run may have exchanged the folder while it was looked at
        foreign = _foreign(folder, key)
        if not foreign:
            return
    raise CaseError(f"{key}: {folder} holds {foreign[0]}, which inference did not write; choose another output folder")


def _foreign(folder: Path, key: str) -> list[str]:
    """Names of the files that are not part of the prediction in a folder."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # none there, or another run has just taken it away
        return []
    content = read_prediction(folder, key)
    ours = {f"{key}.json", *content["files"]} if content else set()
    return [name for name in names if name not in ours]
