"""Raw series from files: volumes in order, with what their sidecars say of them.

A series is one 4D file or several files of one or more volumes; a BIDS sidecar of the same name gives its timing, and
`.bval` the diffusion weighting. Values given by the user go before those of sidecars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.geometry import Grid
from hypoxnet.images import Volume, read_series


@dataclass(frozen=True, slots=True)
class Series:
    """Volumes of one raw series.

    Args:
        name: For messages.
        volumes: t i j k, float32.
        grid: Of every volume.
        sidecars: One per volume, what its file says.
        files: Where they came from, in order.
        notes: What was repaired.
    """

    name: str
    volumes: NDArray[np.float32]
    grid: Grid
    sidecars: tuple[Mapping[str, Any], ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def signal(self) -> Tensor:
        """T x K x J x I: files keep i fastest, so this view lies in memory as the fit wants it."""
        return torch.from_numpy(np.ascontiguousarray(self.volumes.transpose(0, 3, 2, 1)))

    def __len__(self) -> int:
        return len(self.volumes)

    def reordered(self, order: Sequence[int]) -> Series:
        """The same volumes in another order."""
        picked = [int(i) for i in order]
        files = tuple(self.files[i] for i in picked) if len(self.files) == len(self) else self.files
        return Series(
            self.name, self.volumes[picked], self.grid, tuple(self.sidecars[i] for i in picked), files, self.notes
        )

    def per_volume(self, key: str, given: Sequence[float], *, flag: str, optional: bool = False) -> list[float]:
        """One number per volume, given or from the sidecars.

        Args:
            key: BIDS key.
            given: What the user says; empty asks the sidecars.
            flag: The option that would give it, for the message.
            optional: Return an empty list instead of refusing when nobody knows.

        Raises:
            MapError: Nobody knows, or there are more or fewer numbers than volumes.
        """
        if len(given):
            if len(given) != len(self):
                raise MapError(
                    f"{self.name}: {flag} has {len(given)} values, the series {len(self)} volumes; give one per volume"
                )
            return [float(value) for value in given]
        found = [sidecar.get(key) for sidecar in self.sidecars]
        if all(isinstance(value, (int, float)) for value in found):
            return [float(value) for value in found]  # type: ignore[arg-type]
        listed = next((value for value in found if isinstance(value, list)), None)
        if listed is not None:
            if len(listed) != len(self):
                raise MapError(
                    f"{self.name}: the sidecar names {len(listed)} values of {key}, the series has {len(self)} "
                    f"volumes; mend the sidecar, or give {flag}"
                )
            return [float(value) for value in listed]
        if optional:
            return []
        raise MapError(f"{self.name}: no sidecar names {key}; give {flag}, one value per volume")

    def single(self, keys: Sequence[str], given: float, *, flag: str) -> float:
        """One number for the whole series, given or from the sidecars; 0 means not given.

        Raises:
            MapError: Nobody knows, or the volumes differ.
        """
        if given:
            return float(given)
        for key in keys:
            found = {float(s[key]) for s in self.sidecars if isinstance(s.get(key), (int, float))}
            if len(found) > 1:
                raise MapError(
                    f"{self.name}: {key} differs between volumes ({min(found):g} to {max(found):g}); one is needed"
                )
            if found:
                return found.pop()
        raise MapError(f"{self.name}: no sidecar names {' or '.join(keys)}; give {flag}")


def read_raw(paths: Sequence[Path], *, name: str) -> Series:
    """Read a series.

    Args:
        paths: One 4D file, or files in the order of time, echo or flip.
        name: Of case and series, for messages.

    Raises:
        MapError: Files lie on different grids, or a volume has no number in it.
        CaseError, GeometryError: A file cannot be read.
    """
    if not paths:
        raise MapError(f"{name}: no file was given")
    parts: list[Volume] = []
    sidecars: list[Mapping[str, Any]] = []
    notes: list[str] = []
    for path in paths:
        part = read_series(path, case=name)
        parts.append(part)
        sidecars += _sidecars(path, len(part.array))
        notes += part.repairs
        if not part.grid.same_as(parts[0].grid):
            first, this = parts[0].grid.described_beside(part.grid)
            raise MapError(
                f"{name}: {path.name} lies on {this}, {paths[0].name} on {first}; resample the series onto one grid"
            )
    whole = parts[0].array if len(parts) == 1 else np.concatenate([part.array for part in parts])
    for number, volume in enumerate(whole):
        if not np.isfinite(volume).any():
            raise MapError(f"{name}: volume {number + 1} of {len(whole)} is nan in every voxel; leave it out")
    return Series(name, whole, parts[0].grid, tuple(sidecars), tuple(paths), tuple(notes))


def _sidecars(path: Path, volumes: int) -> list[Mapping[str, Any]]:
    stem = path.with_name(re.sub(r"\.nii(\.gz)?$", "", path.name))
    content: dict[str, Any] = {}
    json_path = stem.with_name(stem.name + ".json")
    if json_path.is_file():
        try:
            content = json.loads(json_path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise MapError(f"the sidecar {json_path} is no JSON ({error}); mend or remove it") from error
        if not isinstance(content, dict):
            raise MapError(f"the sidecar {json_path} holds no keys with values; mend or remove it")
    bval_path = stem.with_name(stem.name + ".bval")
    if bval_path.is_file():
        try:
            content["bval"] = [float(cell) for cell in bval_path.read_text(encoding="utf-8").split()]
        except ValueError as error:
            raise MapError(f"{bval_path} holds what is no number ({error}); mend or remove it") from error
    lists = {key: value for key, value in content.items() if isinstance(value, list) and len(value) == volumes}
    rest = {key: value for key, value in content.items() if key not in lists}
    return [{**rest, **{key: value[i] for key, value in lists.items()}} for i in range(volumes)]


def from_tensor(volume: Tensor) -> NDArray[np.float32]:
    """K x J x I on any device to i j k, float32."""
    return np.asarray(volume.detach().cpu().numpy(), dtype=np.float32).transpose(2, 1, 0)


def to_tensor(volume: NDArray[Any]) -> Tensor:
    """i j k to K x J x I."""
    return torch.from_numpy(np.ascontiguousarray(volume.transpose(2, 1, 0)))
