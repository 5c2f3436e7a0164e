"""What the report shows of a case: three planes as pixels, written once and kept without the patient's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hypoxnet.files import replacing
from hypoxnet.geometry import Grid

PLANES = ("axial", "coronal", "sagittal")
MARGIN_MM = 25.0


@dataclass(frozen=True, slots=True)
class GalleryCase:
    """One case of the gallery.

    Args:
        key: Name of the case.
        title: What stands above it.
        channels: Names of the channels, in order.
        pixels: Plane to an array of pixels, channel x rows x columns, as seen in radiology: the patient's right on the
            left, superior (or anterior) up.
        contours: Plane to masks of rows x columns: `truth`, `prediction`, and `tumour` where there is a contour.
        aspect: Plane to height over width of a pixel.
    """

    key: str
    title: str
    channels: tuple[str, ...]
    pixels: Mapping[str, NDArray[np.float32]]
    contours: Mapping[str, Mapping[str, NDArray[np.bool_]]]
    aspect: Mapping[str, float]


def gallery_case(
    key: str,
    title: str,
    *,
    images: Mapping[str, NDArray[np.float32]],
    masks: Mapping[str, NDArray[np.bool_]],
    grid: Grid,
) -> GalleryCase:
    """Cut three planes through the middle of what is outlined.

    Args:
        key: Name of the case.
        title: What stands above it.
        images: Channel to i j k, all on one grid.
        masks: `truth`, `prediction` and, where there is one, `tumour`; i j k.
        grid: Their grid.
    """
    turned = {name: _to_ras(array, grid) for name, array in {**images, **masks}.items()}
    shown = np.logical_or.reduce([turned[name] for name in masks])
    middle_of = turned["truth"] if turned["truth"].any() else shown
    centre = _centre(middle_of)
    spacing = _ras_spacing(grid)
    box = _box(shown, centre, spacing)
    pixels, contours, aspect = {}, {}, {}
    for axis, plane in zip((2, 1, 0), PLANES, strict=True):
        pixels[plane] = np.stack([_plane(turned[name], axis, centre, box) for name in images]).astype(np.float32)
        contours[plane] = {name: _plane(turned[name], axis, centre, box) for name in masks}
        across, up = [spacing[other] for other in range(3) if other != axis]
        aspect[plane] = up / across
    return GalleryCase(key, title, tuple(images), pixels, contours, aspect)


def _to_ras(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    return np.asarray(nib.orientations.apply_orientation(array, nib.io_orientation(grid.matrix)))


def _ras_spacing(grid: Grid) -> list[float]:
    order = nib.io_orientation(grid.matrix)[:, 0].astype(int)
    spacing = [0.0, 0.0, 0.0]
    for own, ras in enumerate(order):
        spacing[ras] = grid.spacing_mm[own]
    return spacing


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    if not mask.any():
        return np.array(mask.shape) // 2
    return np.asarray(np.argwhere(mask).mean(axis=0).round().astype(np.int64))


def _box(mask: NDArray[np.bool_], centre: NDArray[np.int64], spacing: list[float]) -> list[slice]:
    """What is outlined with a margin round it."""
    where = np.argwhere(mask) if mask.any() else centre[None]
    box = []
    for axis in range(3):
        margin = round(MARGIN_MM / spacing[axis])
        low, high = int(where[:, axis].min()) - margin, int(where[:, axis].max()) + margin + 1
        box.append(slice(max(0, low), min(mask.shape[axis], high)))
    return box


def _plane(volume: NDArray[Any], axis: int, centre: NDArray[np.int64], box: list[slice]) -> NDArray[Any]:
    """Rows from top to bottom, columns from the patient's right to left (sagittal: from anterior to posterior)."""
    cut: list[Any] = list(box)
    cut[axis] = int(centre[axis])
    # RAS axes run to the left of the screen and upwards: both are turned round.
    return np.asarray(volume[tuple(cut)][::-1, ::-1].T)


def write_gallery_case(path: Path, case: GalleryCase) -> None:
    """Write a case as a compressed archive of arrays; no pickled objects."""
    arrays: dict[str, Any] = {"key": case.key, "title": case.title, "channels": np.array(case.channels)}
    for plane in PLANES:
        arrays[f"pixels_{plane}"] = case.pixels[plane]
        arrays[f"aspect_{plane}"] = case.aspect[plane]
        arrays |= {f"contour_{plane}_{name}": mask for name, mask in case.contours[plane].items()}
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_gallery_case(path: Path) -> GalleryCase:
    """Read what `write_gallery_case` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        contours = {
            plane: {
                name.removeprefix(f"contour_{plane}_"): arrays[name]
                for name in arrays.files
                if name.startswith(f"contour_{plane}_")
            }
            for plane in PLANES
        }
        return GalleryCase(
            key=str(arrays["key"]),
            title=str(arrays["title"]),
            channels=tuple(str(name) for name in arrays["channels"]),
            pixels={plane: arrays[f"pixels_{plane}"] for plane in PLANES},
            contours=contours,
            aspect={plane: float(arrays[f"aspect_{plane}"]) for plane in PLANES},
        )
