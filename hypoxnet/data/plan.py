"""From training records and settings to a written plan of preparation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

import numpy as np

from hypoxnet.cases import CaseRecord
from hypoxnet.data.config import DataConfig
from hypoxnet.errors import ConfigError
from hypoxnet.maps.reference_region import ratio_hint
from hypoxnet.quantities import COVARIATES, QUANTITIES, Modality, quantity, suggestion
from hypoxnet.transforms.config import LabelConfig
from hypoxnet.transforms.covariates import CovariateTerm, encode_table, fit_term, table_of
from hypoxnet.transforms.imputation import JointNormal, fit_joint_normal
from hypoxnet.transforms.normalise import norm_of
from hypoxnet.transforms.settings import PrepareSettings, Region, ThresholdLabel

# The same uptake of a tracer, in other units.
UPTAKES = ("SUV", "SUL", "SUVIBW", "SUVBSA", "TBR", "TMR")

# A covariate that fewer patients have says more about who was asked than about who fails.
ENOUGH_KNOWN = 0.25
# For the comparison of arms: what was done stands in other covariates, and a lot says nothing of a patient.
ONLY_WHEN_NAMED = ("arm",)


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
    terms, _ = plan_covariates(records, data)
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
        terms=terms,
        edges_months=_edges(records, edges_months),
        missing=data.missing_covariates,
        joint=_joint(records, terms, data),
        endpoint=data.endpoint,
    )


def _channels(records: Sequence[CaseRecord], data: DataConfig) -> tuple[str, ...]:
    found = {name for record in records for name in record.channels}
    masks = {name for record in records for name in record.masks}
    for name in data.channels:
        quantity(name)
        if name not in found:
            raise ConfigError(
                f"data.channels names {name}, no training case has it (they have {', '.join(sorted(found))})"
                f"{ratio_hint(name, found, masks) or suggestion(name, found)}"
            )
    if not found:
        raise ConfigError(
            "no training case has a channel; name image columns by their quantity, for example FMISO_SUV, or train on "
            "covariates alone: model=covariates"
        )
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
    same = [name for name in channels if name in _same_uptake(label.channel)]
    if same and not label.allow_input:
        raise ConfigError(
            f"the label is a threshold of {label.channel}, and {' and '.join(same)} is an input: the network would "
            f"learn to threshold; leave it out of data.channels ({', '.join(channels)}) or say label.allow_input=true"
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


def _same_uptake(channel: str) -> set[str]:
    """A channel and what differs from it by a factor only: an SUV and its ratios."""
    tracer, _, kind = channel.rpartition("_")
    return {f"{tracer}_{other}" for other in UPTAKES} if kind in UPTAKES else {channel}


def plan_covariates(
    records: Sequence[CaseRecord], data: DataConfig
) -> tuple[tuple[CovariateTerm, ...], tuple[str, ...]]:
    """The terms of the covariates, fitted to the training patients, and a sentence for each that is left out.

    Raises:
        ConfigError: `data.covariates` names one that no training patient has.
    """
    patients = list({record.case_id: record for record in reversed(records)}.values())
    found = Counter(name for record in patients for name in record.covariates)
    names = _covariates(found, len(patients)) if data.covariates is None else tuple(data.covariates)
    terms, left_out = [], []
    for name in names:
        if not found[name]:
            there = ", ".join(sorted(found)) or "none"
            raise ConfigError(
                f"data.covariates names {name}, no training case has it (they have {there}){suggestion(name, found)}"
            )
        values = np.array([record.covariates[name] for record in patients if name in record.covariates])
        fitted = fit_term(name, values)
        if isinstance(fitted, str):
            left_out.append(fitted)
        else:
            terms.append(fitted)
    return tuple(terms), tuple(left_out)


def _covariates(found: Counter[str], patients: int) -> tuple[str, ...]:
    """Covariates that enough of the patients have, those of the table first, without those that must be named."""
    table = [name for name in COVARIATES if name not in ONLY_WHEN_NAMED]
    order = [*table, *sorted(name for name in found if name not in COVARIATES)]
    return tuple(name for name in order if found[name] >= ENOUGH_KNOWN * patients and found[name])


def _joint(records: Sequence[CaseRecord], terms: Sequence[CovariateTerm], data: DataConfig) -> JointNormal | None:
    """How the covariates of the patients hang together, for `conditional`; no outcome goes in."""
    if data.missing_covariates != "conditional" or not terms:
        return None
    patients = [record.covariates for record in {record.case_id: record for record in reversed(records)}.values()]
    table = table_of(patients, [term.name for term in terms])
    values, known = encode_table(table, terms, patients=len(patients))
    return fit_joint_normal(values, known > 0)


def plan_covariates_alone(
    records: Sequence[CaseRecord], data: DataConfig, *, edges_months: Sequence[float]
) -> PrepareSettings:
    """The settings of a model that reads no image; arguments as for `plan_settings`.

    Raises:
        ConfigError: There is no covariate to learn from, or one that was asked for is not there.
    """
    terms, left_out = plan_covariates(records, data)
    if not terms:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise ConfigError(
            f"a model of covariates alone needs one, the training cases have none that at least "
            f"{ENOUGH_KNOWN:.0%} of the patients have and that varies{why}; add columns such as age, t_stage or gtv_ml"
        )
    x, y, z = (float(s) for s in data.spacing_mm)
    i, j, k = (int(n) for n in data.window)
    return PrepareSettings(
        channels=(),
        norms=(),
        reference="",
        spacing_mm=(x, y, z),
        window=(i, j, k),
        tumour=tuple(data.tumour),
        regions=(),
        threshold=None,
        inside_tumour=False,
        terms=terms,
        edges_months=_edges(records, edges_months),
        missing=data.missing_covariates,
        joint=_joint(records, terms, data),
        endpoint=data.endpoint,
    )


def _edges(records: Sequence[CaseRecord], edges_months: Sequence[float]) -> tuple[float, ...]:
    binary = {record.outcome.is_binary for record in records if record.outcome}
    if len(binary) > 1:
        raise ConfigError("some cases have an outcome with times and some a yes/no one; give one kind for the cohort")
    return (inf,) if binary == {True} else tuple(float(edge) for edge in edges_months)
