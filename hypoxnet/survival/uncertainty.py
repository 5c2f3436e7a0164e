"""How far a fitted outcome model can be trusted for one patient: intervals of predicted incidence.

Axis legend: B patients, J causes, M months, Q parameters.

The parameters of a penalised fit are taken as normal about the estimate with the inverse curvature of the penalised
likelihood as covariance; the penalty is read as a prior, which keeps the coverage near its nominal value on average
over patients although each effect is shrunk. The incidence follows by the delta method on the complementary log-log
scale, so that limits stay between 0 and 1.

Source:
    Wahba 1983, J R Stat Soc B 45:133 and Marra and Wood 2012, Scand J Stat 39:53 (coverage of such intervals).
    Kalbfleisch and Prentice 2002, The Statistical Analysis of Failure Time Data, section 1.4 (scale).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spread:
    """How uncertain incidences are, on the complementary log-log scale; B J M each.

    Args:
        middle: log(-log(1 - incidence)).
        variance: Of the middle.
    """

    middle: Tensor
    variance: Tensor

    def limits(self, *, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper limits of the incidence."""
        reach = float(norm.ppf(0.5 + confidence / 2)) * self.variance.sqrt()
        low, high = (-torch.expm1(-torch.exp(self.middle + side * reach)) for side in (-1.0, 1.0))
        return low, high


def parameter_covariance(penalised: Callable[[Tensor], Tensor], parameters: Tensor) -> Tensor:
    """Inverse curvature at the maximum.

    Args:
        penalised: Negative penalised log-likelihood of the cohort, a sum over patients.
        parameters: Q, at its minimum.

    Returns:
        Q Q, symmetric; a direction that nothing informs, not even the penalty, gets none of the variance.

    Example:
        >>> parameter_covariance(lambda x: 2.0 * x.square().sum(), torch.zeros(1))
        tensor([[0.2500]])
    """
    curvature: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        penalised, parameters.detach()
    )
    inverse: Tensor = torch.linalg.pinv(0.5 * (curvature + curvature.T), hermitian=True)
    return inverse


def incidence_spread(incidence: Callable[[Tensor], Tensor], parameters: Tensor, covariance: Tensor) -> Spread:
    """What the uncertainty of the parameters leaves of a prediction.

    It is the uncertainty of the incidence, not of what happens to one of the patients who are alike.

    Args:
        incidence: From parameters, Q, to incidences, B J M.
        parameters: Q.
        covariance: Q Q.
    """

    def transformed(values: Tensor) -> Tensor:
        return complementary_log_log(incidence(values))

    slopes = _slopes(transformed, parameters)
    variance = ((slopes @ covariance.to(slopes)) * slopes).sum(dim=-1).clamp(min=0.0)
    with torch.no_grad():
        return Spread(transformed(parameters), variance)


def pooled_spread(spreads: Sequence[Spread], incidence: Tensor) -> Spread:
    """The spread of an ensemble's mean: its members' own, and how far they are apart.

    Members share most of their training patients, so that their own spread is not divided by their number. Variances
    are added up as those of incidences, because a member that saw no event by a month says 0, which has no logarithm.

    Args:
        spreads: Of the members.
        incidence: Their mean incidence, B J M.
    """
    members = torch.stack([-torch.expm1(-torch.exp(spread.middle)) for spread in spreads])
    own = torch.stack([spread.variance for spread in spreads]) * _steepness(members).square()
    variance = (own.mean(dim=0) + members.var(dim=0, correction=0)) / _steepness(incidence).square()
    return Spread(complementary_log_log(incidence), variance)


def _steepness(incidence: Tensor) -> Tensor:
    """By how much an incidence grows with its complementary log-log."""
    edge = torch.finfo(incidence.dtype).eps
    kept = incidence.clamp(edge, 1.0 - edge)
    return -(1.0 - kept) * torch.log1p(-kept)


def complementary_log_log(incidence: Tensor) -> Tensor:
    """log(-log(1 - incidence)); 0 and 1, which have none, are moved inwards by the rounding of their type.

    Example:
        >>> complementary_log_log(torch.tensor([1.0 - torch.e ** -1.0]))
        tensor([0.])
    """
    edge = torch.finfo(incidence.dtype).eps
    return torch.log(-torch.log1p(-incidence.clamp(edge, 1.0 - edge)))


def _slopes(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    slopes: Tensor = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
        function, at.detach(), vectorize=True
    )
    return slopes
