"""The map job: raw series in; maps with sidecars, status and a picture each out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypoxnet.errors import HypoxNetError, MapError
from hypoxnet.files import finite, write_json
from hypoxnet.hypoxia.partial_volume import smallest_trusted_volume_ml
from hypoxnet.hypoxia.uptake import suv_max, suv_mean, suv_peak
from hypoxnet.images import read_mask, read_volume, write_image
from hypoxnet.maps.fitting import Progress
from hypoxnet.maps.kinds.base import Extra, MadeMaps, MapInputs, MapKind
from hypoxnet.maps.series import Series, read_raw
from hypoxnet.quantities import Modality
from hypoxnet.report.map_picture import draw_map

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MapRequest:
    """What is to be made from which files.

    Args:
        kind: The kind.
        settings: Its settings.
        files: The raw series.
        extras: Option to file, see `MapKind.extras`.
        name: Of case and series, for messages.
        device: `cpu`, `cuda`, or `auto`.
    """

    kind: MapKind
    settings: Any
    files: Sequence[Path]
    extras: Mapping[str, Path] = field(default_factory=dict)
    name: str = "series"
    device: str = "auto"


def make_maps(request: MapRequest, *, progress: Progress | None = None) -> MadeMaps:
    """Read the files and make the maps.

    Raises:
        MapError: The series, its timing or an extra does not fit.
        CaseError, GeometryError: A file cannot be read.
    """
    series = read_raw(request.files, name=request.name)
    found: dict[str, dict[str, Any]] = {"map": {}, "mask": {}, "series": {}}
    notes: list[str] = []
    for extra in request.kind.extras:
        if extra.name in request.extras:
            found[extra.what][extra.name] = _extra(extra, request.extras[extra.name], series, notes)
    inputs = MapInputs(
        replace(series, notes=(*series.notes, *notes)),
        found["map"],
        found["mask"],
        found["series"],
        device=_device(request.device),
        progress=progress,
    )
    try:
        made = request.kind.make(inputs, request.settings)
        return _with_uptake(made, inputs, getattr(request.settings, "psf_mm", 0.0))
    except HypoxNetError as error:
        text = str(error)
        raise type(error)(text if text.startswith(request.name) else f"{request.name}: {text}") from error


def _with_uptake(made: MadeMaps, inputs: MapInputs, psf_mm: float) -> MadeMaps:
    """The figures of a PET map in the tumour, beside the map itself."""
    main = made.maps[0]
    figures: dict[str, Any] = {}
    if main.quantity.modality is Modality.PET and "tumour" in inputs.masks:
        tumour = inputs.masks["tumour"]
        peak = suv_peak(main.array, tumour, main.grid)
        figures["Tumour"] = {
            "Max": suv_max(main.array, tumour),
            "Peak1Ml": peak.value,
            "PeakAtMm": [round(x, 2) for x in peak.centre_mm],
            "Mean": suv_mean(main.array, tumour),
            "VolumeMl": float(tumour.sum()) * main.grid.voxel_ml,
        }
    if psf_mm > 0:
        figures["SmallestTrustedMl"] = round(smallest_trusted_volume_ml(psf_mm), 4)
    return replace(made, figures={**made.figures, **figures}) if figures else made


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not name.startswith("cuda"):
        raise MapError(f"there is no device {name!r}; give --device auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise MapError(f"device={name} was asked for, torch finds no GPU here; give --device cpu")
    return name


def _extra(extra: Extra, path: Path, series: Series, notes: list[str]) -> Any:
    """A further series, or a map or mask on the grid of the series, resampled where it lies on another."""
    case = f"{series.name}: {extra.name}"
    if extra.what == "series":
        return read_raw([path], name=case)
    volume = read_mask(path, case=case) if extra.what == "mask" else read_volume(path, case=case, without_value=0.0)
    notes += volume.repairs
    if volume.grid.same_as(series.grid):
        return volume.array
    # MONAI takes seconds to load, and series whose masks lie on their own grid do without it.
    from hypoxnet.transforms.prepare import onto
    from hypoxnet.transforms.spatial import refuse_no_overlap, to_grid

    refuse_no_overlap(volume.grid, series.grid, case=case)
    there, here = series.grid.described_beside(volume.grid)
    notes.append(f"{path.name} ({here}) was resampled onto the series ({there})")
    if extra.what == "mask":
        return onto(volume.array, volume.grid, series.grid)
    return to_grid(torch.from_numpy(volume.array)[None], volume.grid, series.grid)[0]


def write_maps(
    made: MadeMaps, folder: Path, prefix: str, *, diagnostics: bool = False, pictures: bool = True
) -> list[Path]:
    """Write maps, sidecars, labels, status and pictures.

    Args:
        made: The maps.
        folder: Where; made when it does not exist.
        prefix: Begin of every name, for example `sub-01`; empty for none.
        diagnostics: Write the standard errors too.
        pictures: Write a PNG per map.

    Returns:
        The images written, maps first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin = f"{prefix}_" if prefix else ""
    written = []
    grid = made.maps[0].grid
    for each in made.maps:
        written.append(each.write(folder, prefix))
        if pictures:
            draw_map(each, folder / f"{each.name(prefix)}.png")
        if diagnostics and each.quantity.name in made.errors:
            name = each.name(f"{begin}desc-error".strip("_"))
            write_image(folder / f"{name}.nii.gz", made.errors[each.quantity.name], grid)
            write_json(
                folder / f"{name}.json",
                {"Quantity": f"standard error of {each.quantity.name}", "Units": each.quantity.unit},
            )
    main = made.maps[0].name("")
    if made.status is not None:
        write_image(folder / f"{begin}desc-status_{main}.nii.gz", made.status, grid)
        write_json(folder / f"{begin}desc-status_{main}.json", STATUS_SIDECAR)
    if made.figures:
        write_json(folder / f"{begin}desc-{made.maps[0].quantity.name.lower()}_figures.json", finite(made.figures))
    for label, values in made.labels.items():
        write_image(folder / f"{begin}desc-{label}_dseg.nii.gz", np.asarray(values, dtype=np.uint8), grid)
    return written


STATUS_SIDECAR = {
    "Description": "what became of each voxel in the fit",
    "Levels": {"0": "outside the mask", "1": "converged", "2": "at a bound", "3": "no usable signal", "4": "failed"},
}


def describe(made: MadeMaps) -> list[str]:
    """The maps in a few lines for the terminal."""
    lines = []
    for each in made.maps:
        values = each.array[np.isfinite(each.array)]
        middle = f"median {np.median(values):.4g} {each.quantity.unit}" if values.size else "no voxel has a value"
        outside = f", {100 * each.outside_share:.2f} % outside the plausible range" if each.outside else ""
        lines.append(f"{each.quantity.name}: {middle}, {each.known} voxels{outside}")
    lines += [f"{name}: {json.dumps(finite(value))}" for name, value in made.figures.items()]
    return lines + [f"note: {note}" for note in made.maps[-1].notes]
