"""The Cox partial likelihood of one cause, by sums that run from the last month to the first.

Axis legend: B patients.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Stands for nobody in a sum of risks: e to this, beside the smallest of them, is below any rounding.
NOBODY = -100.0


def partial_likelihood_terms(log_risk: Tensor, months: Tensor, hit: Tensor, *, ties: str) -> Tensor:
    """Each patient's term of the Cox partial log-likelihood; 0 for patients without the event.

    Terms of tied events share the mean of their denominators, so that a term does not depend on the order of patients.
    Time and memory grow with the number of patients, whatever the number of events.

    Args:
        log_risk: B.
        months: B.
        hit: B, true where the event of interest happened; other events leave the risk set as censorings do.
        ties: `efron` or `breslow`.

    Returns:
        B; their sum is the partial log-likelihood.

    Source:
        Cox 1972, J R Stat Soc B 34:187; Efron 1977, J Am Stat Assoc 72:557; Breslow 1974, Biometrics 30:89.

    Example:
        >>> terms = partial_likelihood_terms(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 0]) > 0,
        ...                                  ties="efron")
        >>> [round(float(term), 3) for term in terms]
        [-1.099, -0.693, 0.0]
    """
    order = _latest_first(months, hit)
    events = hit[order].nonzero()[:, 0]
    if len(events) == 0:
        return log_risk * 0.0
    risk = log_risk[order]
    _, at, size = torch.unique_consecutive(months[order][events], return_inverse=True, return_counts=True)
    first = size.cumsum(dim=0) - size
    # In logarithms: exp of a log-risk overflows above 88, and a plain running sum loses its digits.
    nobody = risk.detach().min()[None] + NOBODY
    others = torch.cat([nobody, risk]).logcumsumexp(dim=0)[events[first]]
    tied = log_sums(risk[events], at, len(size))[at]
    if ties == "efron":
        rank = torch.arange(len(events), device=events.device) - first[at]
        tied = tied + torch.log1p(-rank / size[at].to(risk))
    denominators = torch.logaddexp(others[at], tied)
    shared = risk.new_zeros(len(size)).index_add(0, at, denominators) / size
    return torch.zeros_like(log_risk).index_add(0, order[events], risk[events] - shared[at])


def _latest_first(months: Tensor, hit: Tensor) -> Tensor:
    """Places of patients from the last month to the first; of the same month those without the event come first."""
    by_event = hit.int().argsort(stable=True)
    return by_event[months[by_event].argsort(stable=True, descending=True)]


def log_sums(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Logarithm of the sum of exp(values) in each group; -inf where a group holds nothing but -inf."""
    largest = values.new_full((groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    largest = torch.where(largest > -torch.inf, largest, 0.0)
    return largest + values.new_zeros(groups).index_add(0, group, (values - largest[group]).exp()).log()
