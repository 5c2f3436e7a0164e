"""What inference says of its own doubt: spread of members, calibrated probabilities, cases unlike those of training."""

import csv
import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from hypoxnet.bundle.typical import AROUND, IMAGE, TUMOUR, Typical, levels_at
from hypoxnet.cases import CAUSES
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.inference.unlike import appearance_of
from hypoxnet.inference.writing import write_prediction
from hypoxnet.training.typical import fit_typical
from hypoxnet.transforms.appearance import STATISTICS
from hypoxnet.transforms.prepare import prepare

# A fixed batch: measured ones differ, and with them last digits.
CPU = InferenceConfig(device="cpu", windows_per_batch=1)
SPREAD = replace(CPU, spread=True)
SEEDS = (1, 2, 3)


@pytest.fixture
def members(tiny_spec, make_bundle, make_case):
    """Each member's prediction by itself."""
    return [
        load_predictor(make_bundle(tiny_spec, seeds=(seed,), name=f"b{seed}"), CPU).predict(make_case())
        for seed in SEEDS
    ]


def test_the_map_is_the_standard_deviation_over_the_members(tiny_spec, make_bundle, make_case, members):
    together = load_predictor(make_bundle(tiny_spec, seeds=SEEDS), SPREAD).predict(make_case())
    apart = np.std([one.probability["hsv"] for one in members], axis=0)
    assert apart.max() > 0.05
    np.testing.assert_allclose(together.deviation["hsv"], apart, atol=1e-6)


def test_volumes_and_risks_of_the_members_are_told_lowest_to_highest(tiny_spec, make_bundle, make_case, members):
    together = load_predictor(make_bundle(tiny_spec, seeds=SEEDS), CPU).predict(make_case())
    said = together.read_outs["spread"]
    volumes = [one.read_outs["regions"]["hsv"]["volume_ml"] for one in members]
    assert said["members"] == said["passes"] == 3
    assert said["volume_ml"]["hsv"]["lowest_of_members"] == pytest.approx(min(volumes))
    assert said["volume_ml"]["hsv"]["highest_of_members"] == pytest.approx(max(volumes))
    assert min(volumes) < max(volumes)
    for cause in CAUSES:
        risks = [one.read_outs["risk"]["at_horizon"][cause] for one in members]
        assert said["at_horizon"][cause]["lowest_of_members"] == pytest.approx(min(risks), abs=2e-6)
        assert said["at_horizon"][cause]["highest_of_members"] == pytest.approx(max(risks), abs=2e-6)
    assert not together.deviation, "nobody asked for the map"


def test_a_single_network_has_no_spread_and_says_so_when_asked(tiny_spec, make_bundle, make_case):
    bundle = make_bundle(tiny_spec)
    asked = load_predictor(bundle, SPREAD).predict(make_case())
    assert asked.read_outs["spread"] is None
    assert not asked.deviation
    assert any("nothing is known of the spread" in note for note in asked.read_outs["notes"])
    assert not any("spread" in note for note in load_predictor(bundle, CPU).predict(make_case()).read_outs["notes"])


def test_mirror_images_alone_give_a_map_and_no_range(tiny_spec, make_bundle, make_case):
    prediction = load_predictor(make_bundle(tiny_spec), replace(SPREAD, mirror=True)).predict(make_case())
    assert prediction.read_outs["spread"] == {"members": 1, "passes": 8}
    assert prediction.deviation["hsv"].max() > 0


def test_asking_for_the_map_does_not_change_the_prediction(tiny_spec, make_bundle, make_case):
    bundle = make_bundle(tiny_spec, seeds=SEEDS)
    plain, asked = (load_predictor(bundle, config).predict(make_case()) for config in (CPU, SPREAD))
    assert (plain.probability["hsv"] == asked.probability["hsv"]).all()
    assert plain.incidence == asked.incidence


def test_the_map_is_a_file_and_the_table_has_the_extremes(tiny_spec, make_bundle, make_case, tmp_path):
    predictor = load_predictor(make_bundle(tiny_spec, seeds=SEEDS), SPREAD)
    record = make_case()
    run = run_inference(predictor, [record], tmp_path / "out", progress=False)
    image = nib.load(tmp_path / "out" / record.key / f"{record.key}_hsv_std.nii.gz")
    assert image.shape == nib.load(record.channels["FMISO_SUV"]).shape
    (row,) = csv.DictReader(run.predictions.read_text().splitlines())
    low, mid, high = (float(row[name]) for name in ("risk_lowest", "risk", "risk_highest"))
    assert low < mid < high
    assert float(row["hsv_volume_ml_lowest"]) < float(row["hsv_volume_ml_highest"])
    assert "risk_low" not in row, "that is the name of a confidence limit"


def test_a_finished_case_is_predicted_again_when_the_map_is_asked_for(tiny_spec, make_bundle, make_case):
    bundle = make_bundle(tiny_spec, seeds=SEEDS)
    plain, asked = (load_predictor(bundle, config).digest(make_case()) for config in (CPU, SPREAD))
    assert plain != asked


def with_temperature(spec, *rows):
    return replace(spec, members=len(rows), temperatures=tuple((row,) for row in rows))


def test_log_odds_are_divided_by_the_temperature_and_the_mask_stays(tiny_spec, make_bundle, make_case):
    record = make_case()
    plain = load_predictor(make_bundle(tiny_spec, name="plain"), CPU).predict(record)
    hot = load_predictor(make_bundle(with_temperature(tiny_spec, 2.5), name="hot"), CPU).predict(record)
    inside = plain.probability["hsv"] > 0
    before, after = (torch.logit(torch.from_numpy(p.probability["hsv"][inside]).double()) for p in (plain, hot))
    # The reference image has the network's spacing here: nothing is interpolated.
    torch.testing.assert_close(after, before / 2.5, rtol=1e-4, atol=1e-4)
    assert (plain.mask["hsv"] == hot.mask["hsv"]).all()
    assert 0 < plain.mask["hsv"].sum() < inside.sum()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("contour", [True, False])
def test_incidence_does_not_know_the_temperature(tiny_spec, make_bundle, make_case, mirror, contour):
    config, record = replace(CPU, mirror=mirror), make_case(contour=contour)
    plain = load_predictor(make_bundle(tiny_spec, seeds=(1, 2), name="plain"), config).predict(record)
    hot = load_predictor(make_bundle(with_temperature(tiny_spec, 3.0, 0.4), seeds=(1, 2), name="hot"), config).predict(
        record
    )
    assert plain.incidence == hot.incidence
    assert np.abs(plain.probability["hsv"] - hot.probability["hsv"]).max() > 0.01


def test_each_member_has_its_own_temperature_before_the_mean(tiny_spec, make_bundle, make_case):
    record = make_case()
    single = [
        load_predictor(
            make_bundle(with_temperature(tiny_spec, temperature), seeds=(seed,), name=f"b{seed}"), CPU
        ).predict(record)
        for seed, temperature in ((1, 3.0), (2, 0.5))
    ]
    together = load_predictor(make_bundle(with_temperature(tiny_spec, 3.0, 0.5), seeds=(1, 2)), CPU).predict(record)
    mean = np.mean([one.probability["hsv"] for one in single], axis=0)
    np.testing.assert_allclose(together.probability["hsv"], mean, atol=1e-6)


LEARNED: dict[str, Typical] = {}


def learned(spec, predictor, make_case) -> Typical:
    """What 24 patients look like, by eight who judge; once for all tests."""

    def look(seed):
        sample = prepare(make_case(f"T{seed}", seed=seed), spec.settings).sample
        return appearance_of(sample, spec.settings, predictor.apply(sample).pooled[0])

    if not LEARNED:
        with torch.inference_mode():
            found = fit_typical([look(seed) for seed in range(24)], [look(seed) for seed in range(24, 32)])
        assert found is not None
        LEARNED["typical"] = found
    return LEARNED["typical"]


@pytest.fixture
def knowing(tiny_spec, make_bundle, make_case):
    """A bundle that knows its training patients."""
    typical = learned(tiny_spec, load_predictor(make_bundle(tiny_spec, name="plain"), CPU), make_case)
    return load_predictor(make_bundle(replace(tiny_spec, typical=(typical,)), name="knowing"), CPU)


def rescaled(record, channel, factor):
    image = nib.load(record.channels[channel])
    path = record.channels[channel].with_name(f"{channel}_rescaled.nii.gz")
    nib.save(nib.Nifti1Image((image.get_fdata() * factor).astype(np.float32), image.affine), path)
    return replace(record, channels={**record.channels, channel: path})


def test_a_case_like_the_others_is_not_called_unlike(knowing, make_case):
    said = knowing.predict(make_case("new", seed=77)).read_outs["unlike_training"]
    assert said["unlike"] is False
    assert said["reasons"] == []
    assert said["judged"] == "inside the tumour"
    assert set(said["by_part"]) == {"FMISO_SUV", "T1W", "features", levels_at(TUMOUR), levels_at(AROUND)}


def test_an_uptake_in_other_units_is_called_unlike_with_the_reason(knowing, make_case, tmp_path):
    record = rescaled(make_case("new", seed=77), "FMISO_SUV", 6.0)
    prediction = knowing.predict(record)
    said = prediction.read_outs["unlike_training"]
    assert said["unlike"] is True
    by_itself = [reason for reason in said["reasons"] if reason.startswith("FMISO_SUV inside the tumour")]
    assert any("that of training patients" in reason or "the usual noise" in reason for reason in by_itself)
    (reason,) = [reason for reason in said["reasons"] if reason.startswith("FMISO_SUV around the tumour: its median")]
    assert re.search(r"beside those of the other channels .* g/ml is usual, [4-9](\.\d)? times it$", reason)
    json.loads(write_prediction(prediction, tmp_path / "new").read_text())
    run = run_inference(knowing, [record], tmp_path / "out", progress=False)
    (row,) = csv.DictReader(run.predictions.read_text().splitlines())
    assert row["unlike_training"] == "yes"
    assert reason in row["unlike_reason"]


def test_an_absent_channel_does_not_raise_it(knowing, make_case, without_t1w):
    said = knowing.predict(without_t1w(make_case("new", seed=77))).read_outs["unlike_training"]
    assert said["unlike"] is False
    assert set(said["by_part"]) == {"FMISO_SUV", levels_at(TUMOUR), levels_at(AROUND)}


def test_a_case_without_contour_is_judged_by_its_image(knowing, make_case):
    said = knowing.predict(make_case("new", seed=77, contour=False)).read_outs["unlike_training"]
    assert said["judged"] == "in the image"
    assert said["unlike"] is False


def test_a_bundle_that_knows_nobody_says_nothing(tiny_spec, make_bundle, make_case, tmp_path):
    predictor = load_predictor(make_bundle(tiny_spec), CPU)
    assert predictor.predict(make_case()).read_outs["unlike_training"] is None
    run = run_inference(predictor, [make_case()], tmp_path / "out", progress=False)
    (row,) = csv.DictReader(run.predictions.read_text().splitlines())
    assert "unlike_training" not in row


def test_most_members_decide(knowing, make_bundle, make_case):
    """Of three members two know these patients and one knows others, whose uptake was a twentieth."""
    spec, (typical,) = knowing.spec, knowing.spec.typical
    assert (TUMOUR in typical.limits, IMAGE in typical.limits) == (True, True)
    part = typical.channels[TUMOUR]["FMISO_SUV"]
    others = {
        TUMOUR: {"FMISO_SUV": replace(part, mean=tuple(m - 6.0 for m in part.mean[:3]) + part.mean[3:])},
        IMAGE: typical.channels[IMAGE],
    }
    strange = replace(typical, channels=others, features=None)
    assert len(STATISTICS) == len(part.mean)
    for known, unlike in (((typical, typical, strange), False), ((strange, strange, typical), True)):
        # All three have the same weights, so that the features are those that are known.
        bundle = make_bundle(replace(spec, members=3, typical=known), seeds=(1, 1, 1), name=f"three{unlike}")
        said = load_predictor(bundle, CPU).predict(make_case("new", seed=77)).read_outs["unlike_training"]
        assert (said["unlike"], said["networks"]) == (unlike, 3)
        assert said["networks_that_say_so"] == (2 if unlike else 1)
