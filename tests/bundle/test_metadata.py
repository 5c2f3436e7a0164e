from dataclasses import replace

import pytest

from hypoxnet.bundle.card import model_card
from hypoxnet.bundle.metadata import REQUIRED, check_metadata, metadata
from hypoxnet.errors import BundleError


def test_metadata_has_every_key_that_monai_requires(tiny_spec):
    content = metadata(tiny_spec)
    check_metadata(content)
    assert set(REQUIRED) <= set(content)


def test_each_input_channel_says_quantity_unit_and_range(tiny_spec):
    image = metadata(tiny_spec)["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 2
    assert image["channel_def"]["0"].startswith(
        "FMISO_SUV: 18F-fluoromisonidazole uptake by body weight, g/ml, 0 to 50"
    )
    assert image["channel_def"]["1"].startswith("T1W: T1-weighted image, a.u.")


def test_outputs_name_regions_and_causes(tiny_spec):
    outputs = metadata(tiny_spec)["network_data_format"]["outputs"]
    assert outputs["pred"]["channel_def"] == {"0": "probability of hsv, dimensionless, 0 to 1"}
    assert outputs["incidence"]["edges_months"] == [12.0, 24.0, 36.0]
    assert "death without locoregional failure" in outputs["incidence"]["channel_def"]["1"]


def test_no_incidence_is_promised_without_an_outcome_head(tiny_settings, make_spec, tiny_spec):
    spec = make_spec(tiny_settings, outcome=replace(tiny_spec.model.outcome, enabled=False))
    assert "incidence" not in metadata(spec)["network_data_format"]["outputs"]
    assert "incidence" not in model_card(spec)


def test_missing_metadata_is_named(tiny_spec):
    content = metadata(tiny_spec)
    del content["monai_version"]
    del content["network_data_format"]["inputs"]["image"]["dtype"]
    with pytest.raises(BundleError, match=r"lacks monai_version, network_data_format\.inputs\.image\.dtype"):
        check_metadata(content)


def test_the_card_states_use_inputs_figures_and_cohort(tiny_spec):
    spec = replace(
        tiny_spec,
        cohort={"patients": 40, "channels": {"T1W": 38}},
        metrics={"segmentation": {"dice": {"value": 0.81234, "low": 0.7, "high": None}}},
    )
    card = model_card(spec)
    assert "Research use only; not a medical device" in card
    assert "| `FMISO_SUV` | 18F-fluoromisonidazole uptake by body weight | g/ml | 0 to 50 |" in card
    assert "| segmentation.dice | 0.812 | 0.7 to not known |" in card
    assert "| channels.T1W | 38 |" in card
