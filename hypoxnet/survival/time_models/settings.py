"""Settings of an outcome model. Values only: importing this loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from hypoxnet.errors import ConfigError

KINDS = ("hazards", "cox", "deephit", "weibull")
EFFECTS = ("proportional", "time_varying")
TIES = ("efron", "breslow")


@dataclass(frozen=True, slots=True)
class TimeSettings:
    """What decides how outputs of the head become incidence, and how they are scored.

    Args:
        kind: One of `KINDS`.
        baseline_df: Coefficients of the baseline over time, the constant included; `hazards` and `deephit`.
        effect: `proportional`, or `time_varying`: an effect that follows the same spline; `hazards` and `deephit`.
        ties: How `cox` treats failures in the same month: `efron` or `breslow`.
        ranking: Weight of DeepHit's ranking loss.
        ranking_scale: Difference of incidence at which a wrong order costs e times an undecided one.
    """

    kind: str = "hazards"
    baseline_df: int = 4
    effect: str = "proportional"
    ties: str = "efron"
    ranking: float = 0.2
    ranking_scale: float = 0.1

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("effect", EFFECTS), ("ties", TIES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"outcome.{name} is {getattr(self, name)!r}, it must be one of {', '.join(allowed)}")
        if self.effect == "time_varying" and self.kind in {"cox", "weibull"}:
            raise ConfigError(
                f"outcome.effect is time_varying, which outcome.kind={self.kind} does not have; use hazards or deephit"
            )
        if self.baseline_df < 1:
            raise ConfigError(f"outcome.baseline_df is {self.baseline_df}, it must be at least 1")
        if self.ranking < 0 or self.ranking_scale <= 0:
            raise ConfigError(
                f"outcome.ranking is {self.ranking} and outcome.ranking_scale {self.ranking_scale}; the first must not "
                "be negative, the second must be above 0"
            )


def refuse_without_times(settings: TimeSettings, edges_months: Sequence[float]) -> None:
    """Refuse a model of times for a cohort that has none.

    Raises:
        ConfigError: A yes/no end point, and a kind that is not `hazards`.
    """
    if tuple(edges_months) == (inf,) and settings.kind != "hazards":
        raise ConfigError(
            f"outcome.kind is {settings.kind}, and the cohort has a yes/no end point without times; "
            "use outcome.kind=hazards, or give lrc_months"
        )
