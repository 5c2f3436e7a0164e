"""A phantom on disk: images, masks, raw series, truth, and its rows of the manifest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import Tensor

from hypoxnet.files import finite, replacing_folder, write_json, write_text
from hypoxnet.geometry import Grid
from hypoxnet.phantom.words import ImagedVisit, Phantom, RawSeries

MANIFEST, OUTCOMES = "manifest.csv", "outcomes.csv"
ROWS, OUTCOME_ROW, TRUTH = "rows.csv", "outcome.csv", "truth.json"


def case_name(number: int) -> str:
    """Name of a patient by its number.

    Example:
        >>> case_name(7)
        'P0007'
    """
    return f"P{number:04d}"


def write_phantom(folder: Path, phantom: Phantom, columns: Sequence[str]) -> None:
    """Write one patient's folder, whole or not at all.

    Args:
        folder: Of the cohort.
        phantom: What to write.
        columns: Columns of the manifest, in order.
    """
    with replacing_folder(folder / phantom.case_id) as temporary:
        rows = [_write_visit(temporary, phantom, visit, columns) for visit in phantom.visits]
        for name, (values, grid) in phantom.truth_maps.items():
            write_values(temporary / "truth" / f"{name}.nii.gz", values, grid)
        write_json(temporary / TRUTH, finite(phantom.truth))
        write_text(temporary / OUTCOME_ROW, table_text([{"case_id": phantom.case_id, **phantom.outcomes}]))
        write_text(temporary / ROWS, table_text(rows))


def _write_visit(folder: Path, phantom: Phantom, visit: ImagedVisit, columns: Sequence[str]) -> dict[str, str]:
    """The files of a visit and its row of the manifest."""
    place = folder if visit.name == "baseline" else folder / visit.name
    inside = phantom.case_id if visit.name == "baseline" else f"{phantom.case_id}/{visit.name}"
    row = dict.fromkeys(columns, "")
    row |= {"case_id": phantom.case_id, "visit": visit.name, "site": phantom.site}
    for name, (values, grid) in visit.images.items():
        write_values(place / f"{name}.nii.gz", values, grid)
        row[name] = f"{inside}/{name}.nii.gz"
    for name, (mask, grid) in visit.masks.items():
        write_mask(place / f"{name}.nii.gz", mask, grid)
        row[name] = f"{inside}/{name}.nii.gz"
    for name, (series, grid) in visit.raw.items():
        write_raw(place / f"{name}.nii.gz", series, grid)
        row[name] = f"{inside}/{name}.nii.gz"
    row |= {"lrc_months": f"{phantom.outcome.months:g}", "lrc_event": str(phantom.outcome.event)}
    row |= {name: f"{value:g}" for name, value in phantom.covariates.items()}
    return row


def write_values(path: Path, values: Tensor, grid: Grid) -> None:
    """An image in 16 bits with a scale: 65,000 steps from its smallest to its largest value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = values.detach().cpu().numpy()
    if array.ndim == 4:
        array = np.moveaxis(array, 0, 3)
    nib.save(_image(array.astype(np.float32), grid, np.int16), path)


def write_mask(path: Path, mask: Tensor, grid: Grid) -> None:
    """A mask of 0 and 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(_image(mask.cpu().numpy().astype(np.uint8), grid, np.uint8), path)


def write_raw(path: Path, series: RawSeries, grid: Grid) -> None:
    """A raw series with the sidecar that says how it was taken."""
    write_values(path, series.signal, grid)
    write_json(path.with_name(path.name.removesuffix(".nii.gz") + ".json"), series.sidecar)


def _image(array: np.ndarray, grid: Grid, kind: type) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, grid.matrix)
    image.set_data_dtype(kind)
    image.set_sform(grid.matrix, code=1)
    image.set_qform(grid.matrix, code=1)
    image.header.set_xyzt_units("mm", "sec")
    return image


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a small table."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def table_text(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as CSV."""
    listed = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()


def read_truth(folder: Path, case_id: str) -> dict[str, object]:
    """What is known of a patient of a cohort."""
    content: dict[str, object] = json.loads((folder / case_id / TRUTH).read_text(encoding="utf-8"))
    return content
