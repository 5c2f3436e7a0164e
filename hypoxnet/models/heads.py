"""The outcome head: from pooled features, volumes and covariates to the outputs of an outcome model.

Axis legend: B patients, F features, V read-outs, P covariates, J causes, R effects per cause, D coefficients of the
baseline, K outputs per cause.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from hypoxnet.models.spec import ModelSpec
from hypoxnet.survival.time_models.build import build_time_model


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
        # Of the parameters of a model without images, whose hidden layer says nothing; 0 where nobody knows.
        self.register_buffer("covariance", torch.zeros(count, count) if features == 0 else None)

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
        """The parameters that `covariance` is of: baseline, then effects of covariates; Q."""
        parts = [] if self.baseline is None else [self.baseline.flatten()]
        return torch.cat([*parts, self.linear.weight.flatten()]).detach()

    def outputs_alone(self, parameters: Tensor, clinical: Tensor) -> Tensor:
        """Outputs B J K of a model without images at other parameters, Q, from what it knows of patients, B 2 P."""
        split = 0 if self.baseline is None else self.baseline.numel()
        baseline = None if self.baseline is None else parameters[:split].reshape(self.baseline.shape)
        effects = clinical.to(parameters) @ parameters[split:].reshape(self.linear.weight.shape).T
        return self.time.outputs(baseline, effects.reshape(len(effects), self.time.causes, -1))

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
