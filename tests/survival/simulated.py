"""Cohorts with known effects, and a fit of any outcome model to them."""

import numpy as np
import torch

from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.survival.time_models.settings import TimeSettings

EDGES = (6.0, 12.0, 18.0, 24.0, 36.0, 48.0, 60.0)
MONTHS = (0.0, 1.0, 6.0, 7.3, 24.0, 36.0, 59.0, 60.0)


def model_of(kind, **choices):
    return build_time_model(TimeSettings(kind=kind, **choices), EDGES, 2)


def cohort(n=200, *, seed=0, rounded=1):
    """Exponential failures and deaths, effects +0.8 and -0.5 of a standard normal covariate, censoring at 10 to 70."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(n)
    fails = generator.exponential(60.0 * np.exp(-0.8 * x))
    dies = generator.exponential(100.0 * np.exp(0.5 * x))
    ends = generator.uniform(10.0, 70.0, n)
    months = np.minimum(np.minimum(fails, dies), ends)
    event = np.where(months == fails, 1, np.where(months == dies, 2, 0))
    months = np.maximum(np.round(months, rounded), 0.1)
    return torch.tensor(x), torch.tensor(months), torch.tensor(event)


def random_outputs(model, n, *, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, 2, model.columns, generator=generator, dtype=dtype)


def fitted(model, x, months, event):
    """Maximum likelihood of one covariate's effects and the baseline: estimates and standard errors."""
    shapes = (2, len(model.effect)), (2, len(model.basis))
    split = 2 * len(model.effect)

    def minus_log_likelihood(values):
        slope, baseline = values[:split].reshape(shapes[0]), values[split:].reshape(shapes[1])
        outputs = model.outputs(baseline, x[:, None, None] * slope)
        return len(x) * model.loss(outputs, months, event, torch.ones(len(x)))

    values = torch.zeros(split + 2 * len(model.basis), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def objective():
        optimizer.zero_grad()
        value = minus_log_likelihood(values)
        value.backward()
        return value

    optimizer.step(objective)
    information = torch.autograd.functional.hessian(minus_log_likelihood, values.detach())
    error = torch.linalg.inv(information).diagonal().sqrt()
    return values.detach(), error
