"""Read-outs: what contours and uptake say about a patient in one number, on the image's own grid.

They are covariates like any other: asked for by name in `data.covariates`, of any model. A value that the manifest
gives is kept; what is measured is cached by the content of the files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.files import sha256_of, write_json
from hypoxnet.hypoxia.uptake import suv_max, suv_mean, suv_peak
from hypoxnet.hypoxia.volumes import hypoxic_fraction, volume_ml
from hypoxnet.images import Volume, read_channel, read_mask
from hypoxnet.maps.reference_region import reference_value
from hypoxnet.quantities import READ_OUTS
from hypoxnet.transforms.plausible import implausible
from hypoxnet.transforms.prepare import onto, union

# Raise it when the same files would give other numbers.
VERSION = 1

VOLUMES = ("gtv_ml", "gtvp_ml")
MUSCLE, BLOOD = ("MUSCLE", "median"), ("BLOOD", "mean")


@dataclass(frozen=True, slots=True)
class HypoxiaThreshold:
    """A published threshold of a tracer.

    Args:
        reference: Mask of the reference region.
        statistic: Of the uptake in it.
        ratio: At and above which a voxel is hypoxic.
    """

    reference: str
    statistic: str
    ratio: float


# FMISO at 90-140 min over blood: Muzi et al. 2015, J Nucl Med. FAZA at 2 h over muscle: Mortensen et al. 2012,
# Radiother Oncol. The same as the labels fmiso_tbr_1p2 and faza_tmr_1p4.
THRESHOLDS = {"FMISO": HypoxiaThreshold(*BLOOD, 1.2), "FAZA": HypoxiaThreshold(*MUSCLE, 1.4)}


def is_measurable(name: str) -> bool:
    """Whether a covariate can be measured of images and contours.

    Example:
        >>> is_measurable("FMISO_TMRMAX"), is_measurable("gtv_ml"), is_measurable("age")
        (True, True, False)
    """
    return name in READ_OUTS or name in VOLUMES


def channel_of(name: str) -> str:
    """The channel that a read-out is measured in; empty for a volume, which needs the contour only.

    Example:
        >>> channel_of("FMISO_TMRMAX"), channel_of("gtv_ml")
        ('FMISO_SUV', '')
    """
    return f"{name.split('_')[0]}_SUV" if name in READ_OUTS else ""


def files_of(name: str, record: CaseRecord, tumour: Sequence[str]) -> dict[str, Path] | None:
    """The files that a read-out of a case is measured of; None when one that it needs is absent."""
    contours = {mask: record.masks[mask] for mask in tumour if mask in record.masks}
    if name == "gtvp_ml":
        contours = {mask: path for mask, path in contours.items() if mask == "GTVP"}
    if not contours:
        return None
    if name in VOLUMES:
        return contours
    channel, reference = channel_of(name), _reference(name)
    if channel not in record.channels or (reference and reference[0] not in record.masks):
        return None
    files = {**contours, channel: record.channels[channel]}
    return files | ({reference[0]: record.masks[reference[0]]} if reference else {})


def measure(name: str, record: CaseRecord, tumour: Sequence[str]) -> float | None:
    """One read-out of one case.

    Args:
        name: `gtv_ml`, `gtvp_ml` or one of `quantities.READ_OUTS`.
        record: The case.
        tumour: Masks whose union is the tumour.

    Returns:
        The value; None when a file that it needs is absent, or the contour holds nothing to measure.

    Raises:
        CaseError: A file is damaged, or its values do not fit their unit.
    """
    files = files_of(name, record, tumour)
    if files is None:
        return None
    masks = {key: read_mask(path, case=f"{record.key}: {key}") for key, path in files.items() if key in record.masks}
    contours = [masks[key] for key in tumour if key in masks]
    if name in VOLUMES:
        inside, grid = union(contours, contours[0].grid)
        return volume_ml(inside, grid) or None
    channel = next(key for key in files if key in record.channels)
    pet = read_channel(files[channel], channel, case=f"{record.key}: {channel}")
    wrong = implausible(pet.array, channel)
    if wrong:
        raise CaseError(f"{record.key}: {channel}: {files[channel]} {wrong}")
    inside, grid = union(contours, pet.grid)
    value = _uptake(name, pet, onto(inside, grid, pet.grid), masks)
    return value if value is not None and math.isfinite(value) else None


def _uptake(name: str, pet: Volume, inside: NDArray[np.bool_], masks: dict[str, Volume]) -> float | None:
    tracer, what = name.split("_", 1)
    reference = _reference(name)
    divisor = 1.0
    if reference is not None:
        region = masks[reference[0]]
        divisor = reference_value(pet.array, onto(region.array, region.grid, pet.grid), statistic=reference[1])
    if what in {"HV_ML", "HF"}:
        hypoxic = (pet.array >= THRESHOLDS[tracer].ratio * divisor) & inside
        return volume_ml(hypoxic, pet.grid) if what == "HV_ML" else hypoxic_fraction(hypoxic, inside)
    if what == "SUVMEAN":
        return suv_mean(pet.array, inside)
    if what == "SUVPEAK":
        return suv_peak(pet.array, inside, pet.grid).value
    return suv_max(pet.array, inside) / divisor


def _reference(name: str) -> tuple[str, str] | None:
    """Mask and statistic of the reference region of a read-out; None for one that is no ratio."""
    tracer, what = name.split("_", 1)
    if what in {"HV_ML", "HF"}:
        return THRESHOLDS[tracer].reference, THRESHOLDS[tracer].statistic
    return {"TMRMAX": MUSCLE, "TBRMAX": BLOOD}.get(what)


@dataclass(frozen=True, slots=True)
class ReadOutCache:
    """Measures what a case lacks.

    Args:
        folder: Where values lie, one small file each.
        names: Covariates that are wanted; those that cannot be measured are passed over.
        tumour: Masks whose union is the tumour.
    """

    folder: Path
    names: tuple[str, ...]
    tumour: tuple[str, ...]

    def complete(self, record: CaseRecord) -> CaseRecord:
        """The record with the read-outs that its files give; a value that it has is kept.

        Raises:
            CaseError: A file cannot be read.
        """
        wanted = [name for name in self.names if is_measurable(name) and name not in record.covariates]
        found = {name: value for name in wanted if (value := self._value(name, record)) is not None}
        if not found:
            return record
        return replace(record, covariates={**record.covariates, **found}, measured=(*record.measured, *found))

    def _value(self, name: str, record: CaseRecord) -> float | None:
        files = files_of(name, record, self.tumour)
        if files is None:
            return None
        missing = next((path for path in files.values() if not path.is_file()), None)
        if missing is not None:
            raise CaseError(f"{record.key}: {name} cannot be measured: {missing} does not exist; mend the path")
        key = {
            "version": VERSION,
            "name": name,
            "files": {mask: sha256_of(path) for mask, path in sorted(files.items())},
        }
        path = self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"
        try:
            value: float | None = json.loads(path.read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, KeyError, TypeError):
            value = measure(name, record, self.tumour)
            write_json(path, {"name": name, "value": value})
        return value


def then(*steps: Callable[[CaseRecord], CaseRecord]) -> Callable[[CaseRecord], CaseRecord]:
    """Steps that complete a record, one after another."""

    def complete(record: CaseRecord) -> CaseRecord:
        for step in steps:
            record = step(record)
        return record

    return complete


def wanted_read_outs(records: Iterable[CaseRecord], asked: Sequence[str] | None, *, alone: bool) -> tuple[str, ...]:
    """Which read-outs a training measures: those asked for; without a list, the volume for a model of covariates alone.

    A network that reads images sees the volume of the contour anyway.

    Args:
        records: The cohort.
        asked: `data.covariates`.
        alone: No image is read.
    """
    if asked is not None:
        return tuple(name for name in asked if is_measurable(name))
    return ("gtv_ml",) if alone and any(record.masks for record in records) else ()
