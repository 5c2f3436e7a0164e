"""From training records and settings to a written plan of preparation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

import numpy as np

from hypoxnet.cases import CaseRecord
from hypoxnet.data.config import DataConfig
from hypoxnet.errors import ConfigError
from hypoxnet.quantities import COVARIATES, QUANTITIES, Modality, quantity, suggestion
from hypoxnet.transforms.config import LabelConfig
from hypoxnet.transforms.normalise import norm_of
from hypoxnet.transforms.settings import PrepareSettings, Region, ThresholdLabel

# A covariate that fewer patients have says more about who was asked than about who fails.
ENOUGH_KNOWN = 0.5


def plan_settings(
    records: Sequence[CaseRecord],
    data: DataConfig,
    label: LabelConfig,
    *,
    edges_months: Sequence[float],
) -> PrepareSettings:
    """How cases are prepared, decided from the training records alone.

    Args:
        records: Training records.
        data: Channels, grid, tumour, covariates.
        label: What is to be outlined.
        edges_months: Right edges of the outcome's intervals, for a cohort with times.

    Raises:
        ConfigError: A channel, mask or covariate is not in the cohort, or the label needs an input channel.
    """
    channels = _channels(records, data)
    regions, threshold = _regions(records, label, channels)
    covariates = _covariates(records) if data.covariates is None else tuple(data.covariates)
    means, sds = _covariate_scale(records, covariates)
    x, y, z = (float(s) for s in data.spacing_mm)
    i, j, k = (int(n) for n in data.window)
    return PrepareSettings(
        channels=channels,
        norms=tuple(norm_of(name) for name in channels),
        reference=_reference(channels, data.reference),
        spacing_mm=(x, y, z),
        window=(i, j, k),
        tumour=tuple(data.tumour),
        regions=regions,
        threshold=threshold,
        inside_tumour=label.inside_tumour,
        covariates=covariates,
        covariate_means=means,
        covariate_sds=sds,
        edges_months=_edges(records, edges_months),
    )


def _channels(records: Sequence[CaseRecord], data: DataConfig) -> tuple[str, ...]:
    found = {name for record in records for name in record.channels}
    for name in data.channels:
        quantity(name)
        if name not in found:
            raise ConfigError(
                f"data.channels names {name}, no training case has it (they have {', '.join(sorted(found))})"
                f"{suggestion(name, found)}"
            )
    if not found:
        raise ConfigError("no training case has a channel; name image columns by their quantity, for example FMISO_SUV")
    return tuple(data.channels) or tuple(name for name in QUANTITIES if name in found)


def _reference(channels: Sequence[str], asked: str) -> str:
    if asked and asked not in channels:
        raise ConfigError(f"data.reference is {asked}, it must be one of the channels {', '.join(channels)}")
    pet = [name for name in channels if quantity(name).modality is Modality.PET]
    return asked or (pet or list(channels))[0]


def _regions(
    records: Sequence[CaseRecord], label: LabelConfig, channels: Sequence[str]
) -> tuple[tuple[Region, ...], ThresholdLabel | None]:
    if label.kind == "threshold":
        return (Region("hsv", ()),), _threshold(records, label, channels)
    found = {name for record in records for name in record.masks}
    for region, masks in label.regions.items():
        if not found & set(masks):
            raise ConfigError(
                f"label.regions.{region} needs the mask {' or '.join(masks)}, the training cases have "
                f"{', '.join(sorted(found)) or 'none'}; add the column, or choose another label such as label=gtv"
            )
    return tuple(Region(name, tuple(masks)) for name, masks in label.regions.items()), None


def _threshold(records: Sequence[CaseRecord], label: LabelConfig, channels: Sequence[str]) -> ThresholdLabel:
    quantity(label.channel)
    if label.channel in channels and not label.allow_input:
        raise ConfigError(
            f"the label is a threshold of {label.channel}, which is also an input: the network would learn to "
            f"threshold; leave it out of data.channels ({', '.join(channels)}) or say label.allow_input=true"
        )
    if not any(label.channel in record.channels for record in records):
        raise ConfigError(f"the label needs {label.channel}, no training case has it; choose another label")
    if label.channel.endswith("_SUV") and not label.reference_mask:
        raise ConfigError(
            f"label.threshold={label.threshold} of {label.channel} is a ratio; name label.reference_mask "
            "(MUSCLE or BLOOD)"
        )
    if label.reference_mask and not any(label.reference_mask in record.masks for record in records):
        raise ConfigError(f"the label needs the mask {label.reference_mask}, no training case has it; draw it")
    return ThresholdLabel(label.channel, label.reference_mask, label.reference_statistic, label.threshold)


def _covariates(records: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Covariates that at least half of the patients have, those of the table first."""
    patients = {record.case_id: record for record in reversed(records)}.values()
    found = Counter(name for record in patients for name in record.covariates)
    order = [*COVARIATES, *sorted(name for name in found if name not in COVARIATES)]
    return tuple(name for name in order if found[name] >= ENOUGH_KNOWN * len(patients) and found[name])


def _covariate_scale(
    records: Sequence[CaseRecord], names: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation over patients; a covariate that never varies has 1."""
    patients = {record.case_id: record for record in reversed(records)}.values()
    means, sds = [], []
    for name in names:
        values = np.array([record.covariates[name] for record in patients if name in record.covariates])
        if len(values) == 0:
            found = sorted({n for record in records for n in record.covariates})
            raise ConfigError(
                f"data.covariates names {name}, no training case has it (they have {', '.join(found) or 'none'})"
                f"{suggestion(name, found)}"
            )
        means.append(float(values.mean()))
        sds.append(float(values.std()) or 1.0)
    return tuple(means), tuple(sds)


def _edges(records: Sequence[CaseRecord], edges_months: Sequence[float]) -> tuple[float, ...]:
    binary = {record.outcome.is_binary for record in records if record.outcome}
    if len(binary) > 1:
        raise ConfigError("some cases have an outcome with times and some a yes/no one; give one kind for the cohort")
    return (inf,) if binary == {True} else tuple(float(edge) for edge in edges_months)
