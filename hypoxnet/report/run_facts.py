"""What a finished run knows of itself, gathered once for everything that is written about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from hypoxnet.bundle.read import read_bundle
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.models.build import build_model
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.training.config import few_steps


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run in plain values.

    Args:
        metrics: `metrics.json`.
        spec: What the bundle says about itself.
        provenance: `provenance.json`.
        config: `config.yaml`, every setting.
        parameters: Numbers of weights that are not 0: of one network, and of its outcome head.
    """

    metrics: Mapping[str, Any]
    spec: BundleSpec
    provenance: Mapping[str, Any]
    config: Mapping[str, Any]
    parameters: tuple[int, int]

    @property
    def counts(self) -> Mapping[str, Any]:
        """Counts of the withheld patients."""
        counts: Mapping[str, Any] = self.metrics["counts"]
        return counts

    @property
    def outcome(self) -> Mapping[str, Any]:
        """Figures of the outcome; empty when none was predicted or none is known."""
        outcome: Mapping[str, Any] = self.metrics.get("outcome", {})
        return outcome

    @property
    def has_outcome(self) -> bool:
        """Whether the model predicts an outcome."""
        return bool(self.spec.causes)

    @property
    def alone(self) -> bool:
        """A model of covariates alone, without images."""
        return self.spec.model.backbone.backbone == NO_BACKBONE

    @property
    def few_steps(self) -> str:
        """That each network was trained too briefly to be judged; empty for one that was not, or began with weights."""
        if self.alone or self.config["training"].get("start"):
            return ""
        return few_steps(self.spec.provenance["steps"] // self.spec.provenance.get("folds", 1))

    @property
    def simulated(self) -> bool:
        """Trained on the embedded cohort, in which nobody is a patient."""
        return not self.config["data"]["manifest"]


def read_run(run: Path) -> RunFacts:
    """Read the facts of a finished run.

    Args:
        run: Run folder with `metrics.json`, `bundle/`, `provenance.json` and `config.yaml`.
    """
    spec, members = read_bundle(run / "bundle")
    sizes = {name: int(members[0][name].count_nonzero()) for name in _fitted(spec)}
    head = sum(size for name, size in sizes.items() if name.startswith("head."))
    return RunFacts(
        metrics=json.loads((run / "metrics.json").read_text(encoding="utf-8")),
        spec=spec,
        provenance=json.loads((run / "provenance.json").read_text(encoding="utf-8")),
        config=yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")),
        parameters=(sum(sizes.values()), head),
    )


def _fitted(spec: BundleSpec) -> list[str]:
    """Names of what training fits: no constants, and no covariance of a fit."""
    # The weights that are drawn here are thrown away: the draw must not disturb the caller's random state.
    with torch.random.fork_rng(devices=[]):
        return [name for name, _ in build_model(spec.model).named_parameters()]
