"""A map as a typed thing: what is measured, in which unit, where, how plausible it is, and what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypoxnet import __version__
from hypoxnet.files import finite, write_json
from hypoxnet.geometry import Grid
from hypoxnet.images import write_image
from hypoxnet.quantities import Quantity

# BIDS names of maps; others keep the name of their quantity.
SUFFIXES = {
    "T1": "T1map",
    "R1": "R1map",
    "R2STAR": "R2starmap",
    "T2STAR": "T2starmap",
    "B1": "TB1map",
    "ADC": "ADC",
    "KTRANS": "Ktrans",
    "KEP": "kep",
    "VE": "ve",
    "VP": "vp",
}


@dataclass(frozen=True, slots=True)
class QuantitativeMap:
    """One map.

    Args:
        quantity: What a voxel means.
        array: i j k, float32, in the quantity's unit; nan where there is no value.
        grid: Where it lies.
        made_by: The kind of map and every setting that made it, plain values.
        notes: What was decided on the way, one sentence each.
    """

    quantity: Quantity
    array: NDArray[np.float32]
    grid: Grid
    made_by: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> int:
        """Number of voxels that have a value."""
        return int(np.isfinite(self.array).sum())

    @property
    def outside(self) -> int:
        """Number of voxels whose value lies outside the plausible range."""
        with np.errstate(invalid="ignore"):
            return int(((self.array < self.quantity.low) | (self.array > self.quantity.high)).sum())

    @property
    def outside_share(self) -> float:
        """Share of the voxels with a value that lie outside the plausible range; 0 when none has one."""
        return self.outside / self.known if self.known else 0.0

    def plausible(self) -> QuantitativeMap:
        """The same map without the values outside the plausible range, which a note counts."""
        if not self.outside:
            return self
        with np.errstate(invalid="ignore"):
            wrong = (self.array < self.quantity.low) | (self.array > self.quantity.high)
        note = (
            f"{self.outside} of {self.known} voxels lay outside {self.quantity.low:g} to {self.quantity.high:g} "
            f"{self.quantity.unit} and have no value"
        )
        return replace(self, array=np.where(wrong, np.float32(np.nan), self.array), notes=(*self.notes, note))

    def sidecar(self) -> dict[str, Any]:
        """The JSON that lies beside the image."""
        values = self.array[np.isfinite(self.array)]
        low, middle, high = (float(x) for x in np.percentile(values, [5, 50, 95])) if values.size else (None,) * 3
        return {
            "Quantity": self.quantity.name,
            "Units": self.quantity.unit,
            "Description": self.quantity.meaning,
            "PlausibleRange": [self.quantity.low, self.quantity.high],
            "PlausibleRangeSource": self.quantity.source,
            "VoxelsWithValue": self.known,
            "VoxelsOutsidePlausibleRange": self.outside,
            "ShareOutsidePlausibleRange": round(self.outside_share, 6),
            "Percentiles5_50_95": [low, middle, high],
            "MadeBy": finite(self.made_by),
            "Notes": list(self.notes),
            "SkullStripped": False,
            "GeneratedBy": [{"Name": "HypoxNet", "Version": __version__}],
        }

    def name(self, prefix: str) -> str:
        """Name of the file, without its ending."""
        suffix = SUFFIXES.get(self.quantity.name, self.quantity.name)
        return f"{prefix}_{suffix}" if prefix else suffix

    def write(self, folder: Path, prefix: str) -> Path:
        """Write NIfTI and sidecar; each is whole or absent.

        Returns:
            The image.
        """
        path = folder / f"{self.name(prefix)}.nii.gz"
        write_image(path, self.array, self.grid)
        write_json(folder / f"{self.name(prefix)}.json", self.sidecar())
        return path

    def __repr__(self) -> str:
        share = f", {100 * self.outside_share:.1f} % outside the plausible range" if self.outside else ""
        return f"QuantitativeMap({self.quantity.name} [{self.quantity.unit}], {self.grid.describe()}{share})"
