from __future__ import annotations

import numpy as np
import pytest
import torch

from hypoxnet.survival.uncertainty import Spread, incidence_spread, parameter_covariance, pooled_spread


def exponential(months: torch.Tensor, failed: torch.Tensor):
    """Negative log-likelihood of a constant hazard, of its logarithm."""
    return lambda log_rate: (torch.exp(log_rate) * months - failed * log_rate).sum()


def incidence_at_12(log_rate: torch.Tensor) -> torch.Tensor:
    return (1.0 - torch.exp(-12.0 * torch.exp(log_rate)))[None, None]


def test_variance_of_a_log_rate_is_one_over_the_events() -> None:
    months, failed = torch.tensor([5.0, 9.0, 30.0, 2.0]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    best = torch.log(failed.sum() / months.sum())[None]
    assert parameter_covariance(exponential(months, failed), best).item() == pytest.approx(1 / 3, rel=1e-5)


def test_limits_are_those_of_the_rate_on_its_log_scale() -> None:
    best, covariance = torch.tensor([-3.0], dtype=torch.float64), torch.tensor([[0.04]], dtype=torch.float64)
    low, high = incidence_spread(incidence_at_12, best, covariance).limits()
    for limit, side in ((low, -1), (high, 1)):
        expected = 1 - np.exp(-12 * np.exp(-3.0 + side * 1.959964 * 0.2))
        assert limit.item() == pytest.approx(expected, rel=1e-6)


def test_nineteen_of_twenty_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(3)
    rate, covered = 0.03, 0
    for _ in range(1500):
        time = generator.exponential(1 / rate, 60)
        months, failed = torch.tensor(np.minimum(time, 30.0)), torch.tensor((time < 30.0) * 1.0)
        best = torch.log(failed.sum() / months.sum())[None]
        covariance = parameter_covariance(exponential(months, failed), best)
        low, high = incidence_spread(incidence_at_12, best, covariance).limits()
        covered += bool(low.item() <= 1 - np.exp(-12 * rate) <= high.item())
    assert covered / 1500 == pytest.approx(0.947, abs=0.018)  # three standard errors of 1,500 cohorts


def test_a_direction_that_nothing_informs_does_not_spread() -> None:
    covariance = parameter_covariance(lambda x: x[0].square(), torch.zeros(2))
    assert covariance[1, 1] == 0.0


@pytest.mark.parametrize("log_rate", [-40.0, 40.0])
def test_certain_incidences_have_finite_limits(log_rate: float) -> None:
    for values in incidence_spread(incidence_at_12, torch.tensor([log_rate]), torch.eye(1)).limits():
        assert torch.isfinite(values).all()
        assert ((values >= 0) & (values <= 1)).all()


def test_members_that_disagree_spread_the_mean_of_an_ensemble() -> None:
    one, other = (Spread(torch.tensor([[[middle]]]), torch.tensor([[[0.04]]])) for middle in (-1.6, -1.4))
    mean = 1 - torch.exp(-torch.exp(torch.tensor([[[-1.5]]])))
    assert pooled_spread([one, one], 1 - torch.exp(-torch.exp(one.middle))).variance.item() == pytest.approx(0.04)
    # Members 0.1 from the mean on this scale; the scale bends little over such a distance.
    assert pooled_spread([one, other], mean).variance.item() == pytest.approx(0.04 + 0.01, rel=0.01)


def test_a_member_that_has_seen_no_event_yet_does_not_make_the_ensemble_know_nothing() -> None:
    some = Spread(torch.full((1, 1, 1), -4.0), torch.full((1, 1, 1), 0.25))
    none = Spread(torch.full((1, 1, 1), -16.0), torch.zeros(1, 1, 1))
    low, high = pooled_spread([some, some, some, none], torch.full((1, 1, 1), 0.0136)).limits()
    assert 0.002 < low.item() < 0.0136 < high.item() < 0.08
