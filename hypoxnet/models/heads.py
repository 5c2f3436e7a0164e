"""The outcome head: from pooled features, volumes and covariates to the outputs of an outcome model.

Axis legend: B patients, F features, V read-outs, P covariates, J causes, R effects per cause, D coefficients of the
baseline, K outputs per cause, M months, Q parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypoxnet.models.spec import ModelSpec
from hypoxnet.survival.time_models.build import build_time_model
from hypoxnet.survival.time_models.cox import STEPS, CauseSpecificCox
from hypoxnet.survival.time_models.cox_baseline import StepSpread


class OutcomeHead(nn.Module):
    """Effects of a patient on each cause, and the baseline they act on; `time` says what they mean.

    Everything known of a patient besides features enters through `clinical`, and from there both linearly and through
    the hidden layer. By default a patient has one effect per cause, the same at all times, because events are few: a
    cohort with 38 failures can carry three or four parameters.

    Args:
        spec: Gives the outcome model and the number of causes and covariates.
        features: Number of pooled features F; 0 without images.
        read_outs: Number of read-outs V.
    """

    baseline: nn.Parameter | None
    covariance: Tensor | None

    def __init__(self, spec: ModelSpec, *, features: int, read_outs: int) -> None:
        super().__init__()
        self.time = build_time_model(spec.outcome.time_settings(), spec.edges_months, spec.causes)
        coefficients, effects = len(self.time.basis), len(self.time.effect)
        clinical = read_outs + 2 * spec.covariates
        self.norm = nn.LayerNorm(features) if features else nn.Identity()
        self.hidden = nn.Sequential(
            nn.Dropout(spec.outcome.dropout), nn.Linear(features + clinical, spec.outcome.hidden), nn.SiLU()
        )
        with warnings.catch_warnings():
            # Weights of nothing, of a head without volumes and covariates.
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            self.linear = nn.Linear(clinical, spec.causes * effects)
        self.risk = nn.Linear(spec.outcome.hidden, spec.causes * effects)
        self.register_parameter(
            "baseline", nn.Parameter(torch.zeros(spec.causes, coefficients)) if coefficients else None
        )
        for layer in (self.linear, self.risk):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        count = spec.causes * coefficients + self.linear.weight.numel()
        alone = features == 0
        # Of the parameters of a model without images, whose hidden layer says nothing; 0 where nobody knows.
        self.register_buffer("covariance", torch.zeros(count, count) if alone else None)
        stepped = alone and isinstance(self.time, CauseSpecificCox)
        self.steps = StepSpread(spec.causes, STEPS, clinical) if stepped else None

    @torch.no_grad()
    def start_from(self, months: Tensor, event: Tensor) -> None:
        """Start from the baseline of a cohort.

        Args:
            months: B, of the patients whose outcome is known.
            event: B.
        """
        if self.baseline is not None:
            with torch.enable_grad():
                start = self.time.start(months, event)
            self.baseline.copy_(start)

    def parameters_alone(self) -> Tensor:
        """What is uncertain of a model without images: baseline, then effects of covariates; Q.

        A baseline of steps is there as what is added to the logarithm of each, which is 0.
        """
        parts = [] if self.baseline is None else [self.baseline.flatten()]
        parts += [] if self.steps is None else [torch.zeros_like(self.steps.variance).flatten()]
        return torch.cat([*parts, self.linear.weight.flatten()]).detach()

    def covariance_alone(self) -> Tensor | None:
        """Covariance of `parameters_alone`, Q Q; None where nobody knows."""
        if self.covariance is None or not bool(self.covariance.any()):
            return None
        if self.steps is None:
            return self.covariance
        whole: Tensor = torch.block_diag(  # type: ignore[no-untyped-call]
            torch.diag(self.steps.variance.flatten()), self.covariance
        )
        return whole

    def incidence_alone(self, parameters: Tensor, clinical: Tensor, months: Sequence[float]) -> Tensor:
        """Incidence B J M of a model without images at other parameters, Q, from what it knows of patients, B 2 P."""
        split = len(parameters) - self.linear.weight.numel()
        weights = parameters[split:].reshape(self.linear.weight.shape)
        effects = (clinical.to(parameters) @ weights.T).reshape(len(clinical), self.time.causes, -1)
        if self.steps is not None and isinstance(self.time, CauseSpecificCox):
            independent = parameters[:split].reshape(self.steps.variance.shape)
            moved = self.steps.moved(independent, weights - self.linear.weight.detach())
            return self.time.incidence_of_steps(effects, months, self.time.log_steps + moved)
        baseline = None if self.baseline is None else parameters[:split].reshape(self.baseline.shape)
        return self.time.incidence(self.time.outputs(baseline, effects), months)

    def clinical(self, read_outs: Tensor, covariates: Tensor, covariates_known: Tensor) -> Tensor:
        """What the head knows besides features: the one place where volumes and covariates enter.

        A missing covariate has no value; a mark says that it is missing.

        Args:
            read_outs: B V.
            covariates: B P, standardised.
            covariates_known: B P, 1 where known.

        Returns:
            B (V + 2 P), float32.
        """
        known = covariates_known.float()
        return torch.cat([read_outs.float(), covariates.float() * known, 1.0 - known], dim=1)

    def forward(self, pooled: Tensor, read_outs: Tensor, covariates: Tensor, covariates_known: Tensor) -> Tensor:
        """B F, B V, B P, B P to outputs B J K, in float32 whatever the precision outside."""
        with torch.autocast(pooled.device.type, enabled=False):
            clinical = self.clinical(read_outs, covariates, covariates_known)
            hidden = self.hidden(torch.cat([self.norm(pooled.float()), clinical], dim=1))
            effects = (self.linear(clinical) + self.risk(hidden)).unflatten(1, (self.time.causes, -1))
            return self.time.outputs(self.baseline, effects)
