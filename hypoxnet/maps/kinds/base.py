"""What a kind of map is, and what it is given and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.files import finite
from hypoxnet.maps.fitting import FitResult, Progress
from hypoxnet.maps.quantitative import QuantitativeMap
from hypoxnet.maps.series import Series, from_tensor, to_tensor
from hypoxnet.quantities import quantity


@dataclass(frozen=True, slots=True)
class Extra:
    """Something a kind uses beside its series.

    Args:
        name: Option on the command line, for example `t1`.
        column: Column of a manifest that gives it: a quantity, a mask, or a raw series.
        what: `map`, `mask` or `series`.
        meaning: For the help.
    """

    name: str
    column: str
    what: str
    meaning: str


@dataclass(frozen=True, slots=True)
class MapInputs:
    """What a kind works on.

    Args:
        series: The raw series.
        maps: Extra maps by name, i j k on the grid of the series.
        masks: Extra masks by name, likewise; `mask` is where to fit.
        others: Further raw series by name.
        device: Where to compute.
        progress: Called with voxels done and all voxels.
    """

    series: Series
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    others: Mapping[str, Series] = field(default_factory=dict)
    device: str = "cpu"
    progress: Progress | None = None

    def signal(self, series: Series | None = None) -> Tensor:
        """The volumes T x K x J x I on the device."""
        return (series or self.series).signal.to(self.device)

    def map(self, name: str) -> Tensor | None:
        """An extra map K x J x I on the device; None when it was not given."""
        return to_tensor(self.maps[name]).to(self.device) if name in self.maps else None

    def mask(self, name: str = "mask") -> Tensor | None:
        """A mask K x J x I on the device; None when it was not given."""
        return to_tensor(self.masks[name]).to(self.device) if name in self.masks else None


@dataclass(frozen=True, slots=True)
class MadeMaps:
    """What a kind gives.

    Args:
        maps: The maps, the main one first.
        errors: Standard errors by quantity, i j k.
        status: `Status` codes i j k, None where no fit was made.
        labels: Further label images by name, i j k, uint8.
        figures: Read-outs for the sidecar and the terminal.
    """

    maps: tuple[QuantitativeMap, ...]
    errors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    status: NDArray[np.uint8] | None = None
    labels: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MapKind:
    """A way from raw signal to maps.

    Args:
        name: Verb on the command line and key in `data.maps`.
        summary: One line for the help.
        settings: Dataclass of its settings; every field has a default.
        make: Does it.
        quantities: Names it can give by settings, the main one first.
        extras: What else it uses.
        raw_column: Column of a manifest that names its raw series; empty when it has none.
        example: A command line, without the program's name.
    """

    name: str
    summary: str
    settings: type[Any]
    make: Callable[[MapInputs, Any], MadeMaps]
    quantities: Callable[[Any], tuple[str, ...]]
    extras: tuple[Extra, ...] = ()
    raw_column: str = ""
    example: str = ""


class Maker:
    """Collects maps of one series with the settings that made them.

    Args:
        kind: Name of the kind.
        inputs: What it was given.
        settings: Its settings.
        used: Values that were taken from sidecars or found, for the record.
    """

    def __init__(self, kind: str, inputs: MapInputs, settings: Any, used: Mapping[str, Any]) -> None:
        self.inputs = inputs
        self.record = {
            "Kind": kind,
            "Settings": asdict(settings),
            "Used": dict(used),
            "RawSources": [path.name for path in inputs.series.files],
        }
        self.notes = list(inputs.series.notes)
        self.maps: list[QuantitativeMap] = []
        self.errors: dict[str, NDArray[np.float32]] = {}

    def add(self, name: str, values: Tensor, error: Tensor | None = None) -> None:
        """Add a map of a quantity, K x J x I, and its standard error."""
        what = quantity(name)
        array = from_tensor(values)
        self.maps.append(QuantitativeMap(what, array, self.inputs.series.grid, self.record, tuple(self.notes)))
        if error is not None:
            self.errors[name] = from_tensor(error)

    def _warn(self, counts: Mapping[str, int]) -> None:
        """Say it when most voxels have no sound answer."""
        total = max(1, sum(counts.values()))
        words = {"at_bound": "stand at a bound of the fit", "no_signal": "have no usable signal", "failed": "failed"}
        for name, what in words.items():
            if counts[name] > DOUBTFUL_SHARE * total:
                note = f"{100 * counts[name] / total:.0f} % of the voxels {what}: are timing and units right?"
                self.notes.append(note)
                self.maps = [replace(each, notes=(*each.notes, note)) for each in self.maps]

    def made(
        self,
        found: FitResult | None = None,
        *,
        labels: Mapping[str, NDArray[np.uint8]] | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> MadeMaps:
        """Everything together."""
        figures = dict(figures or {})
        status = None
        if found is not None:
            status = np.asarray(found.status.cpu().numpy().transpose(2, 1, 0), dtype=np.uint8)
            figures = {"Voxels": found.counts(), **figures}
            self._warn(found.counts())
        self.record["Figures"] = finite(figures)
        return MadeMaps(tuple(self.maps), self.errors, status, labels or {}, figures)


# Above this share of voxels without a sound answer the settings are doubtful, not the voxels.
DOUBTFUL_SHARE = 0.5


def foreground(signal: Tensor, mask: Tensor | None) -> Tensor:
    """Where there is signal at all: the mask, or voxels above a twentieth of the bright ones.

    Args:
        signal: T x K x J x I.
        mask: Taken as it is when given.

    Raises:
        MapError: The mask has no voxel, or the series is 0 everywhere.
    """
    if mask is not None:
        if not bool(mask.any()):
            raise MapError("the mask has no voxel; draw it on this series, or leave it out")
        return mask
    mean = torch.nan_to_num(signal).abs().mean(0)
    if not bool((mean > 0).any()):
        raise MapError("the series is 0 in every voxel; give the series as it was measured")
    bright = np.quantile(mean.flatten().cpu().numpy(), 0.98)
    return mean > 0.05 * float(bright)
