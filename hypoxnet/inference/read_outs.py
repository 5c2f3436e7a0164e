"""From probabilities to what is said about a patient: maps on the patient's own grid, and numbers with units.

Axis legend: K regions, D H W voxels of the working grid, i j k voxels of the patient's reference grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.bundle.schema import INTENDED_USE, BundleSpec, InferenceDefaults
from hypoxnet.cases import CaseRecord
from hypoxnet.data.measured import channel_of
from hypoxnet.geometry import Grid
from hypoxnet.images import read_mask
from hypoxnet.inference.native import bounding_box, onto_reference
from hypoxnet.inference.windows import Box
from hypoxnet.maps.reference_region import ratio_hint, ratio_made_of
from hypoxnet.maps.registry import KINDS
from hypoxnet.quantities import Modality, covariate, quantity
from hypoxnet.transforms.covariates import extrapolations
from hypoxnet.transforms.prepare import PreparedCase, onto, union
from hypoxnet.transforms.settings import PrepareSettings


@dataclass(frozen=True, slots=True)
class NativeMaps:
    """Maps on the patient's own grid.

    Args:
        probability: Region name to i j k, float32.
        mask: Region name to i j k, bool.
        tumour: i j k, bool; None when no tumour contour was given.
        restricted: Probabilities outside the contour were set to 0.
    """

    probability: Mapping[str, NDArray[np.float32]]
    mask: Mapping[str, NDArray[np.bool_]]
    tumour: NDArray[np.bool_] | None
    restricted: bool


@dataclass(frozen=True, slots=True)
class Risk:
    """What is predicted of the outcome.

    Args:
        incidence: Cause to cumulative incidence at each interval edge; empty without an outcome head.
        at_horizon: Cause to cumulative incidence at the horizon.
        low: Cause to lower 95 % limits at the edges and at the horizon; empty where the uncertainty is not known.
        high: Likewise, upper limits.
    """

    incidence: Mapping[str, tuple[float, ...]]
    at_horizon: Mapping[str, float]
    low: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    high: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: BundleSpec, incidence: Tensor | None, limits: tuple[Tensor, Tensor] | None = None) -> Risk:
        """From incidence at `report_months`, J (T + 1), and its limits; None without an outcome head."""
        rows = [] if incidence is None else incidence.tolist()
        by_cause = dict(zip(spec.causes, rows, strict=True))
        low, high = (
            ({}, {})
            if limits is None
            else (dict(zip(spec.causes, map(tuple, x.tolist()), strict=True)) for x in limits)
        )
        return cls(
            {c: tuple(row[:-1]) for c, row in by_cause.items()}, {c: row[-1] for c, row in by_cause.items()}, low, high
        )


def report_months(spec: BundleSpec) -> tuple[float, ...]:
    """Months at which incidence is reported: the interval edges, then the horizon."""
    return (*spec.model.edges_months, spec.model.outcome.horizon_months)


def on_reference_grid(
    inside: Tensor, box: Box, case: PreparedCase, *, settings: PrepareSettings, threshold: float
) -> NativeMaps:
    """Probabilities on the reference grid, inside the contour where the model is one of insides, and their masks.

    Args:
        inside: K d h w on the working grid, inside `box`.
        box: Outside it every probability is 0.
        case: As prepared; its contour keeps its own voxels.
        settings: Names of regions.
        threshold: Probability at and above which a voxel belongs to a region.
    """
    tumour = None if case.contour is None else onto(*case.contour, case.reference)
    restricted = settings.inside_tumour and tumour is not None
    native = native_values(inside, box, case, within=tumour if restricted else None)
    masks = (native >= threshold).cpu().numpy()
    names = settings.region_names
    return NativeMaps(
        dict(zip(names, native.cpu().numpy(), strict=True)), dict(zip(names, masks, strict=True)), tumour, restricted
    )


def native_values(inside: Tensor, box: Box, case: PreparedCase, *, within: NDArray[np.bool_] | None) -> Tensor:
    """K d h w of a box of the working grid on the reference grid, K i j k; 0 to 1, and 0 outside of a mask i j k."""
    only = None if within is None else bounding_box(within)
    native = onto_reference(inside, box, case.sample.grid, case.reference, only=only).clip_(0.0, 1.0)
    if within is not None:
        native *= torch.from_numpy(within).to(native.device)
    return native


def tumour_on(record: CaseRecord, settings: PrepareSettings, grid: Grid) -> NDArray[np.bool_] | None:
    """Union of a case's tumour contours on a grid; None when there is no contour."""
    paths = {name: record.masks[name] for name in settings.tumour if name in record.masks}
    if not paths:
        return None
    contours = [read_mask(path, case=f"{record.key}: {name}") for name, path in paths.items()]
    mask, own = union(contours, grid)
    return onto(mask, own, grid)


def describe(
    spec: BundleSpec,
    record: CaseRecord,
    *,
    case: PreparedCase,
    native: NativeMaps,
    risk: Risk,
    choices: InferenceDefaults,
) -> dict[str, Any]:
    """What the JSON of a case says besides where its files are; volumes in mL, None where there is no number."""
    voxel_ml = case.reference.voxel_ml
    tumour_ml = None if native.tumour is None else _ml(native.tumour.sum(), voxel_ml)
    settings = spec.settings
    return {
        "case_id": record.case_id,
        "visit": record.visit,
        "site": record.site,
        "intended_use": INTENDED_USE,
        "bundle": {"name": spec.name, "version": spec.version, "digest": spec.digest, "members": spec.members},
        "choices": {**asdict(choices), "window": list(settings.window)},
        "reference_grid": {"shape": list(case.reference.shape), "spacing_mm": list(case.reference.spacing_mm)},
        "channels": {
            "present": [name for name in settings.channels if name in record.channels],
            "absent": [name for name in settings.channels if name not in record.channels],
        },
        "covariates": known_and_missing(record, settings),
        "tumour_ml": tumour_ml,
        "inside_tumour_only": native.restricted,
        "regions": {name: _region(native, name, tumour_ml=tumour_ml, voxel_ml=voxel_ml) for name in native.mask},
        "risk": _risk(spec, case, risk),
        "repairs": list(case.sample.repairs),
        "notes": [
            *_notes(settings, native),
            *(not_known(record, settings) if risk.incidence else []),
            *covariate_notes(record, settings),
        ],
    }


def known_and_missing(record: CaseRecord, settings: PrepareSettings) -> dict[str, list[str]]:
    """Which of the model's covariates a case has, and which it lacks."""
    return {
        "known": [name for name in settings.covariates if name in record.covariates],
        "missing": [name for name in settings.covariates if name not in record.covariates],
    }


def not_known(record: CaseRecord, settings: PrepareSettings) -> list[str]:
    """That covariates of a risk are missing, and what stands for them."""
    missing = known_and_missing(record, settings)["missing"]
    taken = {
        "conditional": ", taken as what is to be expected from the known ones",
        "mean": ", taken as the mean of the training patients",
    }.get(settings.missing, "")
    return [f"not known{taken}: {', '.join(missing)}"] if missing else []


def not_read(record: CaseRecord, settings: PrepareSettings) -> list[str]:
    """PET, MR and maps of a case that nothing is predicted of; CT is not named, it lies beside every PET.

    What a ratio, a map of a raw series or a measured covariate is made of counts as read.
    """
    ratios = {parts[0] for name in settings.channels if (parts := ratio_made_of(name))}
    of_maps = {extra.column for kind in KINDS.values() if kind.raw_column in record.raw for extra in kind.extras}
    read = {*settings.channels, *map(channel_of, settings.covariates), *ratios, *of_maps}
    return [name for name in record.channels if name not in read and quantity(name).modality is not Modality.CT]


def why_not_made(name: str, record: CaseRecord) -> str:
    """Why a case has no ratio of uptake, to end a message with; empty for what is no ratio."""
    if name in record.not_made:
        return f"; {record.not_made[name].removeprefix(f'{record.key}: ')}"
    return ratio_hint(name, record.channels, record.masks)


def not_read_notes(names: Sequence[str]) -> list[str]:
    """That channels are given and not read.

    Example:
        >>> not_read_notes(["FAZA_SUV"]), not_read_notes(["T1W", "ADC"]), not_read_notes([])
        (['FAZA_SUV is given and not read by this bundle'], ['T1W and ADC are given and not read by this bundle'], [])
    """
    return (
        [f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} given and not read by this bundle"]
        if names
        else []
    )


def covariate_notes(record: CaseRecord, settings: PrepareSettings) -> list[str]:
    """What is to be said of a case's covariates: which were measured, which the training patients did not have."""
    measured = [
        f"{name} was measured: {record.covariates[name]:.4g} {covariate(name).unit}"
        for name in record.measured
        if name in settings.covariates and name in record.covariates
    ]
    return [*measured, *extrapolations(record.covariates, settings.terms)]


def _region(native: NativeMaps, name: str, *, tumour_ml: float | None, voxel_ml: float) -> dict[str, float | None]:
    volume_ml = _ml(native.mask[name].sum(), voxel_ml)
    inside_ml = volume_ml if native.tumour is None else _ml((native.mask[name] & native.tumour).sum(), voxel_ml)
    return {
        "volume_ml": volume_ml,
        "fraction": round(inside_ml / tumour_ml, 6) if tumour_ml else None,
        "expected_ml": _ml(native.probability[name].sum(dtype=np.float64), voxel_ml),
        "highest_probability": round(float(native.probability[name].max()), 6),
    }


def _risk(spec: BundleSpec, case: PreparedCase, risk: Risk) -> dict[str, Any] | None:
    """`risk_table` with where features were pooled; None without an outcome head."""
    if not risk.incidence:
        return None
    contour = spec.model.outcome.pool == "contour" and bool(case.sample.tumour_known > 0)
    return {**risk_table(spec, risk), "pooled_inside": "contour" if contour else "prediction"}


def risk_table(spec: BundleSpec, risk: Risk) -> dict[str, Any]:
    """Incidence of each cause by month and at the horizon."""
    edges = spec.model.edges_months
    table: dict[str, Any] = {
        "months": [None if math.isinf(edge) else edge for edge in edges],
        "incidence": {cause: [round(p, 6) for p in row] for cause, row in risk.incidence.items()},
        "horizon_months": None if math.isinf(edges[-1]) else spec.model.outcome.horizon_months,
        "at_horizon": {cause: round(p, 6) for cause, p in risk.at_horizon.items()},
    }
    if risk.low:
        limits = {cause: list(zip(risk.low[cause], risk.high[cause], strict=True)) for cause in risk.low}
        rounded = {cause: [[round(p, 6) for p in pair] for pair in pairs] for cause, pairs in limits.items()}
        table["interval"] = {
            "confidence": 0.95,
            "incidence": {cause: pairs[:-1] for cause, pairs in rounded.items()},
            "at_horizon": {cause: pairs[-1] for cause, pairs in rounded.items()},
        }
    return table


def _notes(settings: PrepareSettings, native: NativeMaps) -> list[str]:
    if native.restricted:
        return ["probabilities outside the tumour contour were set to 0: the model was trained inside contours"]
    if settings.inside_tumour:
        return [
            "no tumour contour was given, and the model was trained inside contours: outside a tumour its "
            "probabilities mean little"
        ]
    return []


def _ml(voxels: float | np.number[Any], voxel_ml: float) -> float:
    return round(float(voxels) * voxel_ml, 6)
