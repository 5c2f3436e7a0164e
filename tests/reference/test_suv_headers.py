"""SUV factors of eight scanners' headers, as published with the calculate-suv library."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset

from hypoxnet.dicom.suv import decide_suv

pytestmark = pytest.mark.reference

FACTORS = {
    "PHILIPS_BQML": 0.0007463747013889488,
    "PHILIPS_CNTS_AND_BQML_SUV": 0.000551,
    "PHILIPS_CNTS_AND_SUV": 0.000728,
    "SIEMENS": 0.00042748316187197236,
    "GE_MEDICAL_AND_BQML": 0.0005367387681819742,
    "BQML_AC_DT_lessThan_S_DT_SIEMENS": 0.0004069156854009332,
    "CPS_AND_BQML_AC_DT_-_S_DT": 0.00026503312764157046,
    "RADIOPHARM_DATETIME_UNDEFINED": 0.0003721089202818729,
}
PHILIPS = {"SUVScaleFactor": (0x7053, 0x1000), "ActivityConcentrationScaleFactor": (0x7053, 0x1009)}


def dataset_of(values: dict) -> Dataset:
    header, drug = Dataset(), Dataset()
    for keyword, value in values.items():
        if keyword == "PhilipsPETPrivateGroup":
            for name, tag in PHILIPS.items():
                if name in value:
                    header.add_new(tag, "DS", value[name])
        else:
            setattr(drug if keyword.startswith("Radio") else header, keyword, value)
    header.RadiopharmaceuticalInformationSequence = [drug]
    return header


@pytest.mark.parametrize("scanner", FACTORS)
def test_factor_of_each_slice_is_the_published_one(reference, scanner):
    text = (reference / "suv_headers" / f"{scanner}-instances.json").read_text(encoding="utf-8")
    decision = decide_suv([dataset_of(values) for values in json.loads(text)])
    assert decision.factors == pytest.approx([FACTORS[scanner]] * len(decision.factors), rel=1e-6)
    assert decision.steps
