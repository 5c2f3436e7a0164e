"""From settings to an outcome model."""

from __future__ import annotations

from collections.abc import Sequence

from hypoxnet.survival.time_models.base import TimeModel
from hypoxnet.survival.time_models.cox import CauseSpecificCox
from hypoxnet.survival.time_models.deephit import DeepHit
from hypoxnet.survival.time_models.hazards import DiscreteHazards
from hypoxnet.survival.time_models.settings import TimeSettings, refuse_without_times
from hypoxnet.survival.time_models.weibull import CauseSpecificWeibull


def build_time_model(settings: TimeSettings, edges_months: Sequence[float], causes: int) -> TimeModel:
    """The outcome model of some settings.

    Args:
        settings: Kind and its choices.
        edges_months: Right edges of the T intervals; (inf,) for a yes/no end point.
        causes: Number of causes J.

    Raises:
        ConfigError: A yes/no end point with a kind that needs times.
    """
    refuse_without_times(settings, edges_months)
    match settings.kind:
        case "cox":
            return CauseSpecificCox(settings, causes)
        case "deephit":
            return DeepHit(settings, edges_months, causes)
        case "weibull":
            return CauseSpecificWeibull(settings, causes)
        case _:
            return DiscreteHazards(settings, edges_months, causes)
