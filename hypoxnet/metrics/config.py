"""Settings of the evaluation. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.errors import ConfigError
from hypoxnet.quantities import COVARIATE_PREFIX, COVARIATES, suggestion


@dataclass
class EvaluationConfig:
    """What is asked of the withheld patients besides how good the model is.

    Args:
        arm: Covariate that says who got the treatment (1) and who did not (0): whether it does more for the hypoxic is
            asked where patients have it. `arm`, or for example `nimorazole` or `chemo`.
        arm_drawn: True where arms were drawn by lot. Otherwise patients are weighted by the inverse probability of the
            arm they got.
        arm_chosen_by: Covariates that the arm may have been chosen by, for these weights; hypoxia is always one. Those
            that fewer than half of the patients have are left out.
    """

    arm: str = "arm"
    arm_drawn: bool = False
    arm_chosen_by: list[str] = field(default_factory=lambda: ["gtv_ml", "t_stage", "n_stage", "age", "hpv"])

    def __post_init__(self) -> None:
        for key, names in (("arm", [self.arm]), ("arm_chosen_by", self.arm_chosen_by)):
            for name in names:
                if name not in COVARIATES and not name.startswith(COVARIATE_PREFIX):
                    raise ConfigError(
                        f"evaluation.{key} names {name!r}, it must be a covariate of the table or "
                        f"{COVARIATE_PREFIX}NAME{suggestion(name, COVARIATES)}"
                    )
        if self.arm in self.arm_chosen_by:
            raise ConfigError(f"evaluation.arm_chosen_by names {self.arm}, which is the arm itself; leave it out")
        row = COVARIATES.get(self.arm)
        if row is not None and (row.low, row.high) != (0.0, 1.0):
            raise ConfigError(
                f"evaluation.arm is {self.arm}, which may be {row.low:g} to {row.high:g} {row.unit}; an arm is 0 or 1: "
                "add a column arm, 1 for the treatment"
            )
