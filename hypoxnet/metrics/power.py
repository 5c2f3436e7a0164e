"""What a cohort of a given size can show, and how large one must be to learn a model.

Sources: Schoenfeld 1983, Biometrics 39:499. Peterson and George 1993, Control Clin Trials 14:511 (interaction). Riley
et al. 2019, Stat Med 38:1276, and 2020, BMJ 368:m441 (prediction models).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log, sqrt

from scipy.stats import norm

from hypoxnet.errors import ConfigError

SHRINKAGE = 0.9
OPTIMISM = 0.05
MARGIN = 0.05
# Share of the largest possible R2 that is assumed where nobody has reported one (Riley et al. 2020).
USUAL_SHARE_OF_R2 = 0.15


def least_hazard_ratio(events: int, share_high: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest hazard ratio between two groups that a log-rank test finds with the power.

    Args:
        events: Number of events, not of patients.
        share_high: Share of patients in one group.
        power: Probability of finding it.
        alpha: Two-sided level.

    Returns:
        Ratio above 1; its inverse is as far from 1.

    Raises:
        ConfigError: No event, or a share, power or level outside (0, 1).

    Source:
        Schoenfeld 1983, Biometrics 39:499: (z(1-alpha/2) + z(power))^2 / (p (1-p) log(HR)^2) events.

    Example:
        >>> round(least_hazard_ratio(27, 0.4), 1)
        3.0
        >>> round(least_hazard_ratio(66, 0.5), 2)
        1.99
    """
    _check(events, share_high, power, alpha)
    return exp(_z(power, alpha) / sqrt(events * share_high * (1 - share_high)))


def events_needed(hazard_ratio: float, share_high: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Events that a log-rank test needs for a hazard ratio.

    Raises:
        ConfigError: The ratio is 1 or not positive, or a share, power or level outside (0, 1).

    Source:
        Schoenfeld 1983, as for `least_hazard_ratio`.

    Example:
        >>> events_needed(2.0, 0.5)
        66
    """
    _check(1, share_high, power, alpha)
    if hazard_ratio <= 0 or hazard_ratio == 1:
        raise ConfigError(f"a hazard ratio of {hazard_ratio:g} needs no number of events; give one beside 1")
    return ceil(_z(power, alpha) ** 2 / (share_high * (1 - share_high) * log(hazard_ratio) ** 2))


def least_interaction(
    events: int, share_high: float, share_treated: float, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest ratio of two hazard ratios, of a treatment in the high and in the low group, that is found.

    With halves it takes four times the events of a treatment's effect of the same size.

    Args:
        events: Number of events.
        share_high: Share of patients in one group.
        share_treated: Share of patients treated.
        power: Probability of finding it.
        alpha: Two-sided level.

    Raises:
        ConfigError: As for `least_hazard_ratio`.

    Source:
        Peterson and George 1993, Control Clin Trials 14:511.

    Example:
        >>> least_interaction(400, 0.5, 0.5) == least_hazard_ratio(100, 0.5)
        True
    """
    _check(events, share_high, power, alpha)
    _check(events, share_treated, power, alpha)
    return exp(_z(power, alpha) / sqrt(events * share_high * (1 - share_high) * share_treated * (1 - share_treated)))


def power_sentence(events: int, share_high: float, *, power: float = 0.8, alpha: float = 0.05) -> str:
    """The same in words, for a report.

    Example:
        >>> power_sentence(27, 0.4)
        'with 27 events and 40 % of patients in the high group, a hazard ratio of 3.0 is the least that can be seen (power 80 %, two-sided level 0.05)'
    """  # noqa: E501 - the sentence is one line
    group = f"with {events} events and {100 * share_high:.0f} % of patients in the high group, "
    if events < 1 or not 0 < share_high < 1:
        return f"{group}no hazard ratio can be seen"
    ratio = least_hazard_ratio(events, share_high, power=power, alpha=alpha)
    return (
        f"{group}a hazard ratio of {ratio:.1f} is the least that can be seen "
        f"(power {100 * power:.0f} %, two-sided level {alpha:g})"
    )


def _z(power: float, alpha: float) -> float:
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))


def _check(events: int, share: float, power: float, alpha: float) -> None:
    if events < 1 or not 0 < share < 1 or not 0 < power < 1 or not 0 < alpha < 1:
        raise ConfigError(
            f"events={events}, share={share:g}, power={power:g}, alpha={alpha:g}: there must be an event, the "
            "others must lie between 0 and 1"
        )


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Patients that a model of a time to event needs, by three criteria, and the largest of them.

    Args:
        shrinkage: Patients for coefficients that shrink by at most a tenth.
        optimism: Patients for an R2 (Nagelkerke) that is too good by at most 0.05.
        overall_risk: Patients for an overall risk at the horizon that is known to 0.05.
        patients: The largest of the three.
        events: That many patients have, on average.
        events_per_parameter: Likewise.
    """

    shrinkage: int
    optimism: int
    overall_risk: int
    patients: int
    events: int
    events_per_parameter: float

    def describe(self) -> str:
        """In words, for a report.

        Example:
            >>> SampleSize(4286, 875, 400, 4286, 577, 23.07).describe()
            'at least 4286 patients with 577 events (23.1 per parameter)'
        """
        return (
            f"at least {self.patients} patients with {self.events} events "
            f"({self.events_per_parameter:.1f} per parameter)"
        )


def minimum_sample(
    parameters: int,
    *,
    events_per_month: float,
    horizon_months: float,
    follow_up_months: float,
    r2: float | None = None,
) -> SampleSize:
    """Patients that developing a model of a time to event needs.

    It counts what is fitted to the outcome: for the baseline on volume one parameter, for a network far more than its
    covariates, so that the number is then a lower bound.

    Args:
        parameters: Candidate parameters.
        events_per_month: Rate of the event, per patient and month at risk.
        horizon_months: Time at which the risk is predicted.
        follow_up_months: Mean follow-up.
        r2: Cox and Snell's R2 that is expected, adjusted for optimism; None takes 0.15 of the largest possible.

    Raises:
        ConfigError: A number is not positive, or R2 is larger than is possible.

    Source:
        Riley et al. 2019, Stat Med 38:1276, criteria i to iii; the null likelihood is that of an exponential time
        (equation 23 there).

    Example:
        >>> found = minimum_sample(25, events_per_month=0.065 / 12, horizon_months=24, follow_up_months=24.84, r2=0.051)
        >>> found.shrinkage, round(found.events_per_parameter, 2)
        (4286, 23.07)
    """
    if parameters < 1 or min(events_per_month, horizon_months, follow_up_months) <= 0:
        raise ConfigError(
            f"parameters={parameters}, events_per_month={events_per_month:g}, horizon_months={horizon_months:g}, "
            f"follow_up_months={follow_up_months:g} must all be positive"
        )
    per_patient = events_per_month * follow_up_months
    largest = 1.0 - exp(2.0 * (per_patient * log(per_patient) - per_patient))
    expected = USUAL_SHARE_OF_R2 * largest if r2 is None else r2
    if not 0 < expected < largest:
        raise ConfigError(f"r2={expected:g} must lie between 0 and {largest:.2f}, the largest that is possible here")
    by_shrinkage = _patients(parameters, expected, SHRINKAGE)
    by_optimism = _patients(parameters, expected, expected / (expected + OPTIMISM * largest))
    by_risk = _patients_for_risk(events_per_month, horizon_months, follow_up_months)
    patients = max(by_shrinkage, by_optimism, by_risk)
    return SampleSize(
        by_shrinkage,
        by_optimism,
        by_risk,
        patients,
        ceil(patients * per_patient),
        patients * per_patient / parameters,
    )


def _patients(parameters: int, r2: float, shrinkage: float) -> int:
    """Criterion i of Riley et al. 2019, at any shrinkage."""
    if r2 >= shrinkage:
        return parameters + 1
    return ceil(parameters / ((shrinkage - 1) * log(1 - r2 / shrinkage)))


def _patients_for_risk(rate: float, horizon: float, follow_up: float) -> int:
    """So that the far limit of the risk's 95 % interval, for an exponential time, is the margin away."""
    survival = exp(-rate * horizon)
    half_width = log(1 + MARGIN / survival) / horizon
    return ceil(rate * (float(norm.ppf(0.975)) / half_width) ** 2 / follow_up)
