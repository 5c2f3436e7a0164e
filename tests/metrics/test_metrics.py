import numpy as np
import pytest
from scipy import stats

from hypoxnet.cases import CaseRecord, Outcome
from hypoxnet.geometry import Grid
from hypoxnet.metrics.baselines import UptakeThreshold, choose_threshold, fit_volume_model, read_uptake
from hypoxnet.metrics.bootstrap import bootstrap
from hypoxnet.metrics.evaluate import Evaluator
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.metrics.segmentation import RegionScore, dice, score_region, surface_metrics
from hypoxnet.metrics.volumes import partial_volume_correlation, volume_correlation

GRID = Grid.from_affine((24, 24, 24), np.diag([2.0, 2.0, 3.0, 1.0]))


def box(low, high):
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_dice_by_hand_and_of_nothing():
    assert dice(box((0, 0, 0), (4, 4, 4)), box((2, 0, 0), (6, 4, 4))) == 0.5
    nothing = np.zeros(GRID.shape, dtype=bool)
    assert dice(nothing, nothing) == 1.0
    assert dice(nothing, box((0, 0, 0), (1, 1, 1))) == 0.0


def test_surfaces_of_a_shifted_box():
    """A box moved by two voxels of 2 mm: HD95 is 4 mm, and its sides that moved are beyond 2 mm."""
    one, other = box((6, 6, 6), (14, 14, 14)), box((8, 6, 6), (16, 14, 14))
    surface, distance = surface_metrics(one, other, GRID)
    assert distance == pytest.approx(4.0)
    assert 0.5 < surface < 1.0
    assert surface_metrics(one, one, GRID) == (1.0, 0.0)


def test_surfaces_of_one_empty_mask_have_no_distance():
    nothing = np.zeros(GRID.shape, dtype=bool)
    assert surface_metrics(nothing, box((6, 6, 6), (9, 9, 9)), GRID) == (0.0, None)
    assert surface_metrics(nothing, nothing, GRID) == (1.0, None)


def test_volumes_and_fractions_of_a_region():
    score = score_region(box((0, 0, 0), (5, 5, 5)), box((0, 0, 0), (5, 5, 10)), GRID, box((0, 0, 0), (10, 5, 10)))
    assert score.predicted_ml == pytest.approx(125 * 0.012)
    assert (score.predicted_fraction, score.true_fraction) == (0.25, 0.5)


def test_partial_correlation_is_that_of_what_regression_on_ranks_leaves():
    generator = np.random.default_rng(0)
    tumour = generator.gamma(2, 10, 80)
    true = tumour * generator.random(80)
    predicted = true + generator.normal(0, 3, 80)
    ranks = [stats.rankdata(values) for values in (predicted, true, tumour)]
    design = np.column_stack([np.ones(80), ranks[2]])
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    expected = np.corrcoef(*left)[0, 1]
    assert partial_volume_correlation(predicted, true, tumour) == pytest.approx(expected)
    assert volume_correlation(predicted, true) == pytest.approx(stats.spearmanr(predicted, true).statistic)
    assert volume_correlation(np.ones(5), np.arange(5.0)) is None


def test_a_correlation_that_is_only_size_vanishes_given_the_size():
    generator = np.random.default_rng(1)
    tumour = generator.gamma(2, 10, 3000)
    predicted, true = tumour * generator.random(3000), tumour * generator.random(3000)
    assert volume_correlation(predicted, true) > 0.3
    assert abs(partial_volume_correlation(predicted, true, tumour)) < 0.06


def test_the_bootstrap_covers_the_mean_of_a_normal():
    """Of 200 intervals about 190 hold the truth."""
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        values = generator.normal(1.0, 1.0, 60)
        figure = bootstrap(
            lambda i, v=values: float(v[i].mean()), [str(n) for n in range(60)], resamplings=300, seed=trial
        )
        held += figure.low <= 1.0 <= figure.high
    assert 178 <= held <= 199


def test_the_bootstrap_draws_patients_with_all_their_visits():
    """Copies of the same visit tell nothing new: the interval stays as wide."""
    values = np.random.default_rng(0).normal(0, 1, 40)
    names = [str(n) for n in range(40)]
    one = bootstrap(lambda i: float(values[i].mean()), names, resamplings=500)
    copied = np.tile(values, 5)
    five = bootstrap(lambda i: float(copied[i].mean()), names * 5, resamplings=500)
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=1e-6)


def test_what_is_rarely_defined_has_no_interval():
    figure = bootstrap(
        lambda i: 1.0 if 0 in i and 1 in i and 2 in i and 3 in i else None, list("abcdefgh"), resamplings=200
    )
    assert (figure.value, figure.low, figure.high) == (1.0, None, None)


def test_the_threshold_is_the_best_of_the_training_cases(tiny_settings, make_case):
    records = [make_case(f"P{n}", seed=n) for n in range(3)]
    spoken = []
    for record in records:
        # The label is a threshold here, so that the best one is known.
        uptake = read_uptake(record, tiny_settings, "FMISO_SUV", "")
        spoken.append(uptake)
        import nibabel as nib

        pet = nib.load(record.channels["FMISO_SUV"])
        truth = ((uptake.suv >= 2.5) & uptake.inside).astype(np.uint8)
        path = record.channels["FMISO_SUV"].with_name("hsv.nii.gz")
        nib.save(nib.Nifti1Image(truth, pet.affine), path)
    labelled = [
        CaseRecord(
            r.case_id,
            channels=r.channels,
            masks={**r.masks, "HYPOXIA": r.channels["FMISO_SUV"].with_name("hsv.nii.gz")},
        )
        for r in records
    ]
    threshold = choose_threshold(labelled, tiny_settings)
    assert threshold.kind in {"value", "share_of_max"}
    assert threshold.training_dice == pytest.approx(1.0, abs=0.01)
    best_value = UptakeThreshold("FMISO_SUV", "value", "", 2.5)
    assert best_value.mask(spoken[0]).sum() > 0
    assert "FMISO_SUV >= " in threshold.describe()


def test_no_pet_has_no_threshold(tiny_settings, make_case):
    from dataclasses import replace

    assert (
        choose_threshold([make_case()], replace(tiny_settings, channels=("T1W",), norms=tiny_settings.norms[1:]))
        is None
    )


def test_the_volume_model_ranks_large_tumours_as_worse_when_they_failed():
    generator = np.random.default_rng(0)
    volumes = generator.gamma(2, 10, 120)
    failed = generator.random(120) < 1 / (1 + np.exp(-(np.log(volumes) - 3)))
    timed = [Outcome(int(f), float(m)) for f, m in zip(failed, generator.uniform(3, 40, 120), strict=True)]
    plain = [Outcome(int(f), None) for f in failed]
    for outcomes, kind in ((timed, "Cox"), (plain, "logistic")):
        model = fit_volume_model(volumes.tolist(), outcomes)
        assert model.kind == kind
        assert model.risk(60.0) > model.risk(5.0)
    assert fit_volume_model([1.0, 2.0], [Outcome(0, 5.0), Outcome(1, 5.0)]) is None


def test_a_volume_that_separates_who_failed_gives_no_model_and_says_so(caplog):
    volumes = [40.0, 30.0, 20.0, 10.0, 5.0]
    outcomes = [Outcome(int(month < 9.0), month) for month in (3.0, 6.0, 12.0, 24.0, 36.0)]
    assert fit_volume_model(volumes, outcomes) is None
    assert "no solution in 5 patients" in caplog.text
    mixed = [Outcome(int(month < 9.0), month) for month in (6.0, 12.0, 3.0, 24.0, 36.0)]
    assert fit_volume_model(volumes, mixed).coefficient > 0


def cohort(count=60):
    generator = np.random.default_rng(0)
    scores = []
    for number in range(count):
        true, risk = float(generator.gamma(2, 3)), float(generator.random())
        region = RegionScore(0.5 + 0.4 * float(generator.random()), 0.7, 3.0, true + 1.0, true, 0.3, 0.25)
        failed = generator.random() < risk
        scores.append(
            CaseScore(
                key=f"P{number}",
                patient=f"P{number}",
                regions={"hsv": region},
                threshold_dice=region.dice - 0.1,
                tumour_ml=true + float(generator.gamma(2, 6)),
                risk=risk,
                death=0.1,
                outcome=Outcome(
                    1 if failed else 0, float(generator.uniform(3, 24) if failed else generator.uniform(20, 60))
                ),
                volume_risk=float(generator.random()),
            )
        )
    return scores


def test_metrics_are_figures_with_intervals_and_counts():
    metrics = Evaluator(cohort(), horizon_months=24.0, resamplings=200).metrics()
    for room, name in (
        ("segmentation", "dice"),
        ("segmentation", "threshold_dice"),
        ("segmentation", "surface_dice_2mm"),
        ("segmentation", "hd95_mm"),
        ("segmentation", "hv_error_ml"),
        ("segmentation", "hf_error"),
        ("segmentation", "volume_correlation"),
        ("segmentation", "partial_volume_correlation"),
        ("outcome", "c_index"),
        ("outcome", "uno_c"),
        ("outcome", "auc"),
        ("outcome", "brier"),
        ("outcome", "calibration"),
        ("outcome", "volume_c_index"),
    ):
        figure = metrics[room][name]
        assert figure["low"] <= figure["value"] <= figure["high"], (room, name, figure)
    assert metrics["segmentation"]["dice_difference"]["value"] == pytest.approx(0.1)
    assert metrics["segmentation"]["hv_error_ml"]["value"] == pytest.approx(1.0)
    assert metrics["counts"]["cases"] == 60
    assert metrics["counts"]["failures"] == sum(s.outcome.event == 1 for s in cohort())
    assert metrics["outcome"]["c_index"]["low"] > 0.5
    assert sum(group["patients"] for group in metrics["outcome"]["calibration_groups"]) == 60


def test_a_cohort_without_outcome_or_without_contours_has_the_other_half():
    from dataclasses import replace

    unknown = [replace(score, outcome=None) for score in cohort(10)]
    assert "outcome" not in Evaluator(unknown, horizon_months=24.0, resamplings=20).metrics()
    bare = [replace(score, regions={}, threshold_dice=None) for score in cohort(10)]
    metrics = Evaluator(bare, horizon_months=24.0, resamplings=20).metrics()
    assert "segmentation" not in metrics
    assert metrics["outcome"]["c_index"]["value"] is not None


def test_undefined_figures_are_null_and_never_nan():
    import json
    from dataclasses import replace

    nobody = [replace(score, outcome=Outcome(0, 30.0)) for score in cohort(6)]
    metrics = Evaluator(nobody, horizon_months=24.0, resamplings=20).metrics()
    json.dumps(metrics, allow_nan=False)
    assert metrics["outcome"]["c_index"] == {"value": None, "low": None, "high": None}
