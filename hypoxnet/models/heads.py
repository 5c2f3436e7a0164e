"""The outcome head: from pooled features, volumes and covariates to hazards.

Axis legend: B patients, F features, R read-outs, P covariates, J causes, T intervals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypoxnet.models.spec import ModelSpec


class OutcomeHead(nn.Module):
    """Proportional discrete hazards: logit = baseline[cause, interval] + risk[cause].

    Proportional because events are few: a cohort with 38 failures can carry three or four parameters of effect, and a
    free logit per interval would spend them where nobody failed.

    Args:
        spec: Gives the number of causes, intervals and covariates.
        features: Number of pooled features F.
        read_outs: Number of read-outs R.
    """

    baseline: Tensor

    def __init__(self, spec: ModelSpec, *, features: int, read_outs: int) -> None:
        super().__init__()
        inputs = features + read_outs + 2 * spec.covariates
        self.norm = nn.LayerNorm(features)
        self.hidden = nn.Sequential(nn.Dropout(spec.outcome.dropout), nn.Linear(inputs, spec.outcome.hidden), nn.SiLU())
        self.linear = nn.Linear(read_outs + 2 * spec.covariates, spec.causes)
        self.risk = nn.Linear(spec.outcome.hidden, spec.causes)
        self.baseline = nn.Parameter(torch.full((spec.causes, len(spec.edges_months)), -2.0))
        for layer in (self.linear, self.risk):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def set_baseline(self, hazards: Tensor) -> None:
        """Start from the hazards of a cohort, J T."""
        safe = hazards.clamp(1e-3, 0.999)
        free = (1.0 - safe.sum(dim=0, keepdim=True)).clamp(min=1e-3)
        with torch.no_grad():
            self.baseline.copy_(torch.log(safe / free))

    def forward(self, pooled: Tensor, read_outs: Tensor, covariates: Tensor, covariates_known: Tensor) -> Tensor:
        """B F, B R, B P, B P to hazard logits B J T, in float32 whatever the precision outside."""
        with torch.autocast(pooled.device.type, enabled=False):
            known = covariates_known.float()
            clinical = torch.cat([read_outs.float(), covariates.float() * known, 1.0 - known], dim=1)
            hidden = self.hidden(torch.cat([self.norm(pooled.float()), clinical], dim=1))
            risk = self.linear(clinical) + self.risk(hidden)
            hazards: Tensor = self.baseline[None] + risk[:, :, None]
        return hazards
