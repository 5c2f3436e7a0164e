"""`prepare`: everything deterministic between a case's files and the network. Training and inference share it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.utils.type_conversion import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.cases import CaseRecord, Sample
from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.images import Volume, read_channel, read_mask
from hypoxnet.maps.reference_region import reference_value
from hypoxnet.transforms.covariates import encode_table, table_of
from hypoxnet.transforms.normalise import intensity_transform
from hypoxnet.transforms.plausible import MAY_BE_EMPTY, empty, implausible
from hypoxnet.transforms.settings import ChannelNorm, PrepareSettings
from hypoxnet.transforms.spatial import WorkingGrid, refuse_no_overlap, to_grid

# A voxel belongs to a resampled mask when at least half of it does.
HALF = 0.5


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A sample, and the patient's own grid to which predictions return.

    Args:
        sample: On the working grid.
        reference: Grid of the reference channel, as in its file.
        contour: Union of the tumour contours as read, with its grid; None without one, and of a cached case.
    """

    sample: Sample
    reference: Grid
    contour: tuple[NDArray[np.bool_], Grid] | None = None


def files_of(record: CaseRecord, settings: PrepareSettings) -> dict[str, Path]:
    """The files of a case that these settings read, by column name."""
    masks = {name for region in settings.regions for name in region.masks} | set(settings.tumour)
    channels = set(settings.channels)
    if settings.threshold:
        masks.add(settings.threshold.reference_mask)
        channels.add(settings.threshold.channel)
    everything = {**record.channels, **record.masks}
    return {name: path for name, path in everything.items() if name in channels | masks}


def prepare(record: CaseRecord, settings: PrepareSettings) -> PreparedCase:
    """Read a case and bring it onto the working grid.

    Args:
        record: The case; labels and outcome may be missing.
        settings: What is read and how.

    Raises:
        CaseError: A file is missing or damaged, its values do not fit their unit, the tumour's contour is empty,
            channels do not overlap, or no channel of the network is present.
        GeometryError: An affine is unusable.
    """
    present = [name for name in settings.channels if name in record.channels]
    if not present:
        raise CaseError(
            f"{record.key}: the network reads {', '.join(settings.channels)}, the manifest (line {record.line}) has "
            f"{', '.join(record.channels) or 'no channel'}; give at least one of them"
        )
    reference_name = settings.reference if settings.reference in present else present[0]
    repairs = []
    if reference_name != settings.reference:
        repairs.append(f"{settings.reference} is absent, the grid of {reference_name} is the reference grid")
    reference = _plausible_volume(record, reference_name)
    working = WorkingGrid(reference, spacing_mm=settings.spacing_mm)
    own = reference.repairs
    del reference  # one channel at a time is in memory in its own resolution
    normalised = []
    for name, norm in zip(settings.channels, settings.norms, strict=True):
        if name == reference_name:
            repairs.extend(own)
            normalised.append(_normalised(working.image, norm))
        else:
            normalised.append(_other_channel(name, norm, working, record, repairs))
    masks = _masks(record, settings, working, repairs)
    contour = _contour(settings, working, masks)
    sample = Sample(
        key=record.key,
        images=torch.cat(normalised).contiguous(),
        presence=torch.tensor([float(name in present) for name in settings.channels]),
        grid=working.grid,
        repairs=tuple(repairs),
        **_labels(record, settings, working, masks),
        **_tumour(contour, working),
        **_outcome(record),
        **_covariates(record, settings),
    )
    return PreparedCase(sample, working.reference, contour)


def _plausible_volume(record: CaseRecord, name: str) -> Volume:
    """A channel whose values can be what its name says; an SUV that is Bq/ml would be a risk without meaning."""
    volume = read_channel(record.channels[name], name, case=f"{record.key}: {name}")
    wrong = implausible(volume.array, name)
    if wrong:
        raise CaseError(f"{record.key}: {name}: {record.channels[name]} {wrong}")
    return volume


def _other_channel(
    name: str, norm: ChannelNorm, working: WorkingGrid, record: CaseRecord, repairs: list[str]
) -> Tensor:
    """The network's input for a channel that is not the reference, 1 D H W; 0 where it was not measured."""
    if name not in record.channels:
        return torch.zeros(1, *working.grid.shape)
    volume = _plausible_volume(record, name)
    repairs.extend(volume.repairs)
    refuse_no_overlap(volume.grid, working.reference, case=f"{record.key}: {name}")
    if not volume.grid.same_as(working.reference):
        repairs.append(
            f"{name} ({volume.grid.describe()}) was resampled onto the reference grid's space "
            f"({working.reference.describe()})"
        )
    image = working.resample(volume.array, volume.grid)
    return _normalised(image, norm) * working.covers(volume.grid)


def _normalised(image: Tensor, norm: ChannelNorm) -> Tensor:
    normalised: Tensor = convert_to_tensor(intensity_transform(norm)(image), track_meta=False).float()
    return normalised


def _masks(
    record: CaseRecord, settings: PrepareSettings, working: WorkingGrid, repairs: list[str]
) -> dict[str, Volume]:
    masks = {}
    for name in files_of(record, settings):
        if name in record.masks:
            mask = read_mask(record.masks[name], case=f"{record.key}: {name}")
            refuse_no_overlap(mask.grid, working.reference, case=f"{record.key}: {name}")
            repairs.extend(mask.repairs)
            masks[name] = mask
    _refuse_empty_contour(record, {name: masks[name] for name in settings.tumour if name in masks})
    first = next(iter(masks), "")
    repairs.extend(
        f"{first} ({masks[first].grid.describe()}) and {name} ({mask.grid.describe()}) lie on different grids, each "
        "was resampled on its own"
        for name, mask in masks.items()
        if not mask.grid.same_as(masks[first].grid)
    )
    return masks


def _refuse_empty_contour(record: CaseRecord, contours: Mapping[str, Volume]) -> None:
    """A tumour without a voxel would have a risk of nothing; nodes may be absent where the primary is drawn."""
    nothing = not any(contour.array.any() for contour in contours.values())
    for name, contour in contours.items():
        wrong = empty(contour.array) if nothing or name not in MAY_BE_EMPTY else ""
        if wrong:
            raise CaseError(f"{record.key}: {name}: {record.masks[name]} {wrong}")


def _labels(
    record: CaseRecord, settings: PrepareSettings, working: WorkingGrid, masks: dict[str, Volume]
) -> dict[str, Tensor]:
    regions = region_masks(record, settings, masks, working.reference)
    planes = [
        _on_working_grid(*regions[name], working=working) if name in regions else _empty(working)
        for name in settings.region_names
    ]
    known = [float(name in regions) for name in settings.region_names]
    return {"label": torch.cat(planes), "label_known": torch.tensor(known)}


def region_masks(
    record: CaseRecord, settings: PrepareSettings, masks: dict[str, Volume], reference: Grid
) -> dict[str, tuple[NDArray[np.bool_], Grid]]:
    """The true regions of a case on a grid of their own files; a region nobody contoured is left out.

    Args:
        record: The case.
        settings: Which regions there are, and from what.
        masks: The case's masks as read.
        reference: The reference grid, used where masks of one region lie on different grids.
    """
    if settings.threshold is not None:
        computed = _threshold_region(record, settings, masks)
        return {} if computed is None else {settings.region_names[0]: computed}
    found = {}
    for region in settings.regions:
        parts = [masks[name] for name in region.masks if name in masks]
        if parts:
            found[region.name] = union(parts, reference)
    return found


def union(masks: Sequence[Volume], reference: Grid) -> tuple[NDArray[np.bool_], Grid]:
    """Union of masks: on their own grid when they share one, else on the reference grid."""
    grid = masks[0].grid
    if all(mask.grid.same_as(grid) for mask in masks):
        return np.logical_or.reduce([mask.array for mask in masks]), grid
    return np.logical_or.reduce([onto(mask.array, mask.grid, reference) for mask in masks]), reference


def onto(mask: NDArray[np.bool_], source: Grid, target: Grid) -> NDArray[np.bool_]:
    """A mask on another grid: voxels of which at least half is inside."""
    if source.same_as(target):
        return mask
    share = to_grid(torch.from_numpy(mask)[None].float(), source, target, beyond="zeros")[0]
    return np.asarray(share >= HALF)


def _threshold_region(
    record: CaseRecord, settings: PrepareSettings, masks: dict[str, Volume]
) -> tuple[NDArray[np.bool_], Grid] | None:
    """Voxels of the tumour whose ratio to the reference region reaches the threshold, on the channel's own grid."""
    label = settings.threshold
    assert label is not None
    contours = [masks[name] for name in settings.tumour if name in masks]
    if label.channel not in record.channels or not contours:
        return None
    if label.reference_mask and label.reference_mask not in masks:
        return None
    volume = read_channel(record.channels[label.channel], label.channel, case=f"{record.key}: {label.channel}")
    tumour, grid = union(contours, volume.grid)
    inside = onto(tumour, grid, volume.grid)
    divisor = 1.0
    if label.reference_mask:
        region = masks[label.reference_mask]
        divisor = reference_value(
            volume.array, onto(region.array, region.grid, volume.grid), statistic=label.reference_statistic
        )
    return (volume.array >= label.threshold * divisor) & inside, volume.grid


def _contour(
    settings: PrepareSettings, working: WorkingGrid, masks: dict[str, Volume]
) -> tuple[NDArray[np.bool_], Grid] | None:
    contours = [masks[name] for name in settings.tumour if name in masks]
    return union(contours, working.reference) if contours else None


def _tumour(contour: tuple[NDArray[np.bool_], Grid] | None, working: WorkingGrid) -> dict[str, Tensor]:
    if contour is None:
        return {"tumour": _empty(working), "tumour_known": torch.tensor(0.0)}
    mask, grid = contour
    return {"tumour": _on_working_grid(mask, grid, working=working), "tumour_known": torch.tensor(1.0)}


def _on_working_grid(mask: NDArray[np.bool_], grid: Grid, *, working: WorkingGrid) -> Tensor:
    return (working.resample(mask, grid) >= HALF).to(torch.uint8)


def _empty(working: WorkingGrid) -> Tensor:
    return torch.zeros(1, *working.grid.shape, dtype=torch.uint8)


def _outcome(record: CaseRecord) -> dict[str, Tensor]:
    outcome = record.outcome
    months = math.nan if outcome is None or outcome.months is None else outcome.months
    return {
        "months": torch.tensor(months, dtype=torch.float32),
        "event": torch.tensor(outcome.event if outcome else 0, dtype=torch.int64),
        "outcome_known": torch.tensor(float(outcome is not None)),
    }


def _covariates(record: CaseRecord, settings: PrepareSettings) -> dict[str, Tensor]:
    values, flags = covariate_inputs([record.covariates], settings)
    return {
        "covariates": torch.tensor(values[0], dtype=torch.float32),
        "covariates_known": torch.tensor(flags[0], dtype=torch.float32),
    }


def covariate_inputs(
    patients: Sequence[Mapping[str, float]], settings: PrepareSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the model is told of the covariates of some patients.

    With `missing="indicator"` the flags say what is known; otherwise every flag is 1. A flag of its own is often a code
    of the hospital, which asked for one test and not for another, and what it is worth there it is not worth elsewhere.

    Args:
        patients: B mappings of covariate to value; missing ones are not in them.
        settings: How covariates become columns.

    Returns:
        Values and flags, B P each.
    """
    table = table_of(patients, settings.covariates)
    values, known = encode_table(table, settings.terms, patients=len(patients))
    if settings.missing == "indicator":
        return values, known
    if settings.joint is not None:
        values = settings.joint.complete(values, known > 0)
    return values, np.ones_like(known)
