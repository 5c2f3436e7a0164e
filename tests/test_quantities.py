import pytest

from hypoxnet.errors import QuantityError
from hypoxnet.quantities import COVARIATES, MASKS, QUANTITIES, TRACERS, Modality, quantity


def test_every_quantity_has_a_unit_a_range_and_a_source():
    for q in QUANTITIES.values():
        assert q.unit
        assert q.low < q.high
        assert q.source


def test_each_tracer_comes_as_suv_and_both_ratios():
    for tracer in TRACERS:
        assert quantity(f"{tracer}_SUV").unit == "g/ml"
        assert {quantity(f"{tracer}_{r}").unit for r in ("TBR", "TMR")} == {"1"}
        assert quantity(f"{tracer}_SUV").modality is Modality.PET


def test_names_of_channels_masks_and_covariates_do_not_collide():
    names = [n.upper() for n in [*QUANTITIES, *MASKS, *COVARIATES]]
    assert len(names) == len(set(names))


def test_misspelt_quantity_is_refused_with_the_nearest_name():
    with pytest.raises(QuantityError, match="FMSIO_SUV is not a known quantity; did you mean FMISO_SUV"):
        quantity("FMSIO_SUV")


def test_only_weighted_images_have_an_arbitrary_scale():
    assert quantity("T1W").is_arbitrary
    assert not quantity("ADC").is_arbitrary
