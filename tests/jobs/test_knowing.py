"""What a network learns of itself after training."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.cases import CaseRecord
from hypoxnet.data.cache import PreparedCache
from hypoxnet.data.splits import Split
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor
from hypoxnet.jobs.knowing import MOST_PATIENTS, one_each, with_knowledge
from hypoxnet.models.build import build_model
from hypoxnet.transforms.prepare import prepare

CPU = InferenceConfig(device="cpu")


@pytest.fixture
def labelled(make_case):
    """Cases whose hypoxia is a random third of the tumour."""

    def make(seed: int) -> CaseRecord:
        record = make_case(f"P{seed:03d}", seed=seed)
        tumour = nib.load(record.masks["GTVP"])
        chosen = np.random.default_rng(seed).random(tumour.shape) < 0.33
        path = record.masks["GTVP"].with_name("hypoxia.nii.gz")
        nib.save(nib.Nifti1Image((tumour.get_fdata() * chosen).astype(np.uint8), tumour.affine), path)
        return replace(record, masks={**record.masks, "HYPOXIA": path})

    return make


def cross_entropy(spec, weights, records) -> float:
    """Mean over patients, inside the contour, of what inference says."""
    model = build_model(spec.model)
    model.load_state_dict(weights)
    predictor, found = Predictor(spec, [model.eval()], CPU), []
    for record in records:
        sample = prepare(record, spec.settings).sample
        with torch.inference_mode():
            probability = predictor.apply(sample).probability
        inside = sample.tumour[0] > 0
        found.append(torch.nn.functional.binary_cross_entropy(probability[0][inside], sample.label[0][inside].float()))
    return float(torch.stack(found).mean())


def test_validation_patients_give_a_temperature_and_training_patients_what_is_typical(
    tiny_spec, make_network, labelled, tmp_path
):
    split = Split(tuple(map(labelled, range(12))), tuple(map(labelled, range(12, 18))), (), name="")
    cache = PreparedCache(tmp_path / "cache", tiny_spec.settings)
    weights = make_network(tiny_spec, seed=1).state_dict()
    spec = with_knowledge(tiny_spec, weights, split, cache, CPU)
    ((temperature,),) = spec.temperatures
    assert cross_entropy(spec, weights, split.validation) < cross_entropy(tiny_spec, weights, split.validation)
    for other in (0.8 * temperature, 1.25 * temperature):
        changed = replace(spec, temperatures=((other,),))
        assert cross_entropy(spec, weights, split.validation) < cross_entropy(changed, weights, split.validation)
    (typical,) = spec.typical
    assert typical.patients == 12
    assert set(typical.channels["tumour"]) == {"FMISO_SUV", "T1W"}
    assert typical.judged_by.startswith("training patients"), "six validation patients are too few to judge"
    assert typical.features is None, "twelve are too few for features"
    assert with_knowledge(tiny_spec, weights, split, cache, CPU) == spec


def test_without_validation_patients_nothing_is_calibrated(tiny_spec, make_network, labelled, tmp_path):
    split = Split(tuple(map(labelled, range(3))), (), (), name="")
    cache = PreparedCache(tmp_path / "cache", tiny_spec.settings)
    spec = with_knowledge(tiny_spec, make_network(tiny_spec, seed=1).state_dict(), split, cache, CPU)
    assert spec.temperatures == ((1.0,),)
    assert not spec.calibrated
    assert spec.typical == ()


def test_a_patient_counts_once_and_a_large_cohort_is_thinned():
    visits = [CaseRecord("A", visit=visit) for visit in ("baseline", "week2")]
    assert [record.visit for record in one_each(visits)] == ["baseline"]
    many = one_each([CaseRecord(f"P{number:05d}") for number in range(5000)])
    assert len(many) == MOST_PATIENTS
    assert (many[0].case_id, many[-1].case_id) == ("P00000", "P04999")
