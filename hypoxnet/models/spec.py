"""What a network is, as plain values: enough to build it again beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.survival.time_models.settings import refuse_without_times

CAUSES = 2


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that decides the shapes of the weights.

    Args:
        backbone: The segmentation network.
        outcome: The outcome head.
        channels: Number of input channels C.
        regions: Number of label regions K.
        covariates: Number of covariates P.
        edges_months: Right edges of the T intervals; (inf,) for a yes/no end point.
        spacing_mm: Spacing of the working grid, which turns voxels into mL.
    """

    backbone: ModelConfig
    outcome: OutcomeConfig
    channels: int
    regions: int
    covariates: int
    edges_months: tuple[float, ...]
    spacing_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.outcome.enabled:
            refuse_without_times(self.outcome.time_settings(), self.edges_months)

    @property
    def causes(self) -> int:
        """Number of causes J: locoregional failure, death without it; 1 for a yes/no end point."""
        return 1 if self.edges_months == (inf,) else CAUSES

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the working grid, mL."""
        x, y, z = self.spacing_mm
        return x * y * z / 1000.0

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinity, which JSON does not know, is written as None."""
        content = asdict(self)
        content["edges_months"] = [None if edge == inf else edge for edge in self.edges_months]
        content["spacing_mm"] = list(self.spacing_mm)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_json`.

        Raises:
            ConfigError: A value is out of its range.
            TypeError: A key is unknown or missing.
        """
        values = dict(content)
        x, y, z = (float(s) for s in values.pop("spacing_mm"))
        return cls(
            backbone=ModelConfig(**values.pop("backbone")),
            outcome=OutcomeConfig(**values.pop("outcome")),
            edges_months=tuple(inf if edge is None else float(edge) for edge in values.pop("edges_months")),
            spacing_mm=(x, y, z),
            **values,
        )
