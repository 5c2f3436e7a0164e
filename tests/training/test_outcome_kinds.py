"""Every outcome model trains, leaves a complete network, and predicts."""

from dataclasses import replace

import pytest
import torch

from hypoxnet.data.plan import plan_settings
from hypoxnet.data.splits import Split
from hypoxnet.losses.config import LossConfig
from hypoxnet.models.build import build_model
from hypoxnet.training.run import fit
from hypoxnet.transforms.config import LabelConfig


@pytest.mark.parametrize("kind", ["hazards", "cox", "deephit", "weibull"])
def test_a_trained_network_predicts_incidence_near_the_cohorts(kind, phantom_records, tiny_training, tmp_path):
    setup = tiny_training(epochs=2, cache=tmp_path)
    setup = replace(
        setup, outcome=replace(setup.outcome, kind=kind, dropout=0.0), loss=LossConfig(balance="uncertainty")
    )
    settings = plan_settings(phantom_records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
    fitted = fit(Split(phantom_records, (), ()), settings, setup, tmp_path / "run", name="t")
    model = build_model(fitted.spec)
    model.load_state_dict(fitted.weights)
    assert all(torch.isfinite(weight).all() for weight in fitted.weights.values())
    assert not [name for name in fitted.weights if "bank" in name or "log_variance" in name]
    head, columns = model.head.eval(), len(settings.covariate_columns)
    features = sum(model.backbone.pooled_features)
    outputs = head(torch.zeros(1, features), torch.full((1, 3), 0.5), torch.zeros(1, columns), torch.ones(1, columns))
    incidence = model.time.incidence(outputs, (60.0,))[0, :, 0]
    events = [record.outcome.event for record in phantom_records if record.outcome]
    assert (incidence > 0).all() if {1, 2} <= set(events) else float(incidence.max().detach()) > 0
    assert float(incidence.sum().detach()) < 1
