"""What `prepare` does to a case, as plain values: part of every bundle and of every cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from hypoxnet.cases import END_POINTS
from hypoxnet.errors import BundleError
from hypoxnet.transforms.covariates import CovariateTerm
from hypoxnet.transforms.imputation import JointNormal

# Raise it when prepare gives other numbers for the same settings: old cache entries are then made anew.
VERSION = 2


@dataclass(frozen=True, slots=True)
class ChannelNorm:
    """Normalisation of one channel.

    Args:
        kind: `fixed` is (log1p(x) if `log` else x - centre) / scale with the same constants for every patient, so that
            an SUV keeps its meaning; `image` is the z-score over the image's non-zero voxels, for weighted MR, whose
            scale is arbitrary.
        centre: Subtracted, in the channel's unit (after the logarithm where there is one).
        scale: Divided by.
        log: Compress with log1p first: uptake is skewed.
        low: Values are clipped here before anything else.
        high: Likewise.
    """

    kind: str
    centre: float
    scale: float
    log: bool
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Region:
    """One label region and the mask columns whose union it is."""

    name: str
    masks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ThresholdLabel:
    """A label computed from a channel: ratio to a reference region at or above a threshold, inside the tumour."""

    channel: str
    reference_mask: str
    reference_statistic: str
    threshold: float


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Everything deterministic between files and network.

    Args:
        channels: Quantities, in the order of the network's inputs.
        norms: Normalisation of each channel.
        reference: Channel whose grid is the patient's reference grid.
        spacing_mm: Spacing of the working grid.
        window: Voxels of the network's window.
        tumour: Mask columns whose union is the tumour.
        regions: Label regions; for a threshold label their masks are empty.
        threshold: How a threshold label is computed; None when contours are the label.
        inside_tumour: Regions are scored and predicted inside the tumour contour only, where there is one.
        terms: Covariates and how they become columns, in the order of the network's inputs.
        edges_months: Right edges of the outcome's intervals; (inf,) for a yes/no end point.
        missing: What the model is told of a covariate that is not known: `conditional` what is to be expected from the
            known ones, `mean` that the patient is like the mean of the training patients, `indicator` that it is not
            known.
        endpoint: What the outcome is of: `lrc`, `dm` or `os`, see `cases.END_POINTS`.
        joint: How the columns of the training patients hang together; needed by `conditional`.
    """

    channels: tuple[str, ...]
    norms: tuple[ChannelNorm, ...]
    reference: str
    spacing_mm: tuple[float, float, float]
    window: tuple[int, int, int]
    tumour: tuple[str, ...]
    regions: tuple[Region, ...]
    threshold: ThresholdLabel | None
    inside_tumour: bool
    terms: tuple[CovariateTerm, ...]
    edges_months: tuple[float, ...]
    missing: str = "mean"
    joint: JointNormal | None = None
    endpoint: str = "lrc"

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions in the order of the network's outputs."""
        return tuple(region.name for region in self.regions)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates."""
        return tuple(term.name for term in self.terms)

    @property
    def covariate_columns(self) -> tuple[str, ...]:
        """Names of the columns that the network reads of them."""
        return tuple(column for term in self.terms for column in term.columns)

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinity, which JSON does not know, is written as None."""
        content = json.loads(json.dumps(asdict(self)))
        content["edges_months"] = [None if edge == inf else edge for edge in self.edges_months]
        return {"version": VERSION, **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PrepareSettings:
        """The inverse of `to_json`.

        Raises:
            BundleError: Written by a version that prepared differently, or changed by hand.
            TypeError: A key is unknown or missing.
        """
        values = dict(content)
        version = values.pop("version", None)
        if version != VERSION:
            raise BundleError(
                f"the preparation settings have version {version}, this HypoxNet prepares by version {VERSION}; "
                "use the HypoxNet that wrote them or train again"
            )
        values["norms"] = tuple(ChannelNorm(**norm) for norm in values["norms"])
        values["regions"] = tuple(Region(region["name"], tuple(region["masks"])) for region in values["regions"])
        values["terms"] = tuple(CovariateTerm.from_json(term) for term in values["terms"])
        if values.get("endpoint", "lrc") not in END_POINTS:
            raise BundleError(f"the end point {values['endpoint']!r} is none of {', '.join(END_POINTS)}; train again")
        values["joint"] = JointNormal.from_json(values["joint"]) if values.get("joint") else None
        values["threshold"] = ThresholdLabel(**values["threshold"]) if values["threshold"] else None
        values["edges_months"] = tuple(inf if edge is None else float(edge) for edge in values["edges_months"])
        frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        settings = cls(**frozen)
        if settings.joint is not None and not settings.joint.is_of(len(settings.covariate_columns)):
            raise BundleError(
                f"the preparation settings complete {len(settings.joint.mean)} columns of covariates and have "
                f"{len(settings.covariate_columns)}, or their covariance is none; train again"
            )
        return settings

    def digest(self) -> str:
        """A name for these settings that changes with any of them."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]
