"""What a run says to the items of a checklist about evaluation, results and use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypoxnet.report.answers_methods import NO_OUTCOME, partition
from hypoxnet.report.run_facts import RunFacts
from hypoxnet.report.words import count, interval, listed

# Key of `metrics.json` to what a reader calls it.
SEGMENTATION_NAMES = {
    "dice": "Dice",
    "threshold_dice": "Dice of the best fixed threshold",
    "surface_dice_2mm": "surface Dice at 2 mm",
    "hd95_mm": "HD95 (mm)",
    "hv_error_ml": "volume error (mL)",
    "volume_correlation": "correlation of volumes",
}
OUTCOME_NAMES = {
    "c_index": "C-index",
    "volume_c_index": "C-index of log volume",
    "clinical_c_index": "C-index of the clinical model",
    "auc": "AUC at the horizon",
    "brier": "Brier score at the horizon",
    "brier_without_model": "Brier score without a model",
    "integrated_brier": "integrated Brier score",
    "calibration": "observed over expected",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}
FEW_FAILURES = 10


def power(run: RunFacts) -> str:
    """What could be seen with these events; nothing where no groups were compared."""
    if not run.has_outcome:
        return NO_OUTCOME
    for groups in ("risk_groups", "predicted_hypoxia"):
        sentence = run.outcome.get(groups, {}).get("power")
        if sentence:
            return f"{sentence[0].upper()}{sentence[1:]}."
    return "No groups could be compared, and no power was calculated."


def measures(run: RunFacts) -> str:
    """Names of the figures that were taken."""
    first = run.metrics.get("segmentation", {})
    parts = []
    if first:
        parts.append(f"contours: {listed(name for key, name in SEGMENTATION_NAMES.items() if key in first)}")
    known = [name for key, name in OUTCOME_NAMES.items() if key in run.outcome]
    if known:
        plots = "; plots: calibration, incidence by risk group, decision curve" if "decision" in run.outcome else ""
        parts.append(f"outcome: {listed(known)}{plots}")
    parts.append("definitions and sources: docs/reference/metrics.md")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}.{'' if run.has_outcome else ' ' + NO_OUTCOME}"


def uncertainty(run: RunFacts) -> str:
    """The bootstrap."""
    made = run.metrics["bootstrap"]
    return (
        f"{100 * made['interval']:g} % percentile intervals of the bootstrap over patients, {made['resamplings']} "
        "resamplings; differences from baselines on the same resamplings. No correction for multiple comparisons."
    )


def clusters(run: RunFacts) -> str:
    """Whether sites were compared."""
    sites = run.metrics.get("outcome", {}).get("by_site", {})
    if not sites:
        return "Not examined: figures pool the sites."
    ranks = "; ".join(
        f"{name} {interval(room['c_index'])} ({room['patients']} patients, {room['failures']} failures)"
        for name, room in sites.items()
    )
    return f"C-index of failure by site: {ranks}. Other figures pool the sites."


def updating(run: RunFacts) -> str:
    """None."""
    return "No model was updated or recalibrated after the evaluation."


def calculation(run: RunFacts) -> str:
    """By which code."""
    windows = "" if run.alone else f"; window overlap {run.spec.inference.overlap:g}"
    return f"By infer.py with the bundle, as for a new patient{windows}."


def fairness(run: RunFacts) -> str:
    """Nothing was done by the software."""
    return "The software takes no measure, and no figure was taken by social group."


def output(run: RunFacts) -> str:
    """Probabilities and thresholds."""
    parts = []
    if not run.alone:
        names = listed(run.spec.settings.region_names)
        parts.append(f"Probability of {names} per voxel, a contour from {run.spec.inference.threshold:g} on")
    if run.has_outcome:
        parts.append(f"Probability of {listed(run.spec.causes)}")
        cut = run.outcome.get("risk_groups", {}).get("cut")
        parts.append(f"Groups of risk: {cut}" if cut else "No groups of risk")
    else:
        parts.append(NO_OUTCOME.rstrip("."))
    return ". ".join(parts) + "."


def train_and_test(run: RunFacts) -> str:
    """Same or other patients."""
    kind = run.config["split"]["kind"]
    if kind in {"holdout", "crossval", "repeated"}:
        return "None by design: both are drawn from one manifest."
    return f"By design: {partition(run)}"


def flow(run: RunFacts) -> str:
    """From the manifest to the figures."""
    counts, cohort = run.counts, run.spec.cohort
    contoured = "" if run.alone else f"{counts['segmented']} contoured; "
    text = (
        f"{count(counts['patients'], 'withheld patient')} with {count(counts['cases'], 'case')}; {contoured}"
        f"{count(len(run.metrics['left_out']), 'case')} left out of training, "
        f"{count(counts.get('failed_cases', 0), 'case')} not predicted."
    )
    if not run.has_outcome:
        return f"{text} {NO_OUTCOME}"
    months = cohort.get("median_follow_up_months")
    follow = f" Median follow-up of the censored in the bundle's cohort: {months:g} months." if months else ""
    return f"{text} {_events(counts)}{follow}"


def _events(counts: Mapping[str, Any]) -> str:
    known, failures, deaths = counts["outcome_known"], counts["failures"], counts["deaths_without_failure"]
    if not known:
        return "The outcome of the withheld patients is not known."
    return (
        f"Outcome known of {known} withheld patients: {count(failures, 'failure')}, "
        f"{count(deaths, 'death')} without failure, {known - failures - deaths} without either."
    )


def characteristics(run: RunFacts) -> str:
    """Counts of the bundle's cohort."""
    cohort = run.spec.cohort
    channels = ", ".join(f"{name} {number}" for name, number in cohort.get("channels", {}).items())
    return (
        f"Bundle's cohort: {count(cohort['patients'], 'patient')}, {count(cohort['cases'], 'case')}, "
        f"{count(cohort['sites'], 'site')}{f'; cases by channel: {channels}' if channels else ''}."
    )


def compared(run: RunFacts) -> str:
    """Events here and there; the rest is not made."""
    if not run.has_outcome:
        return NO_OUTCOME
    cohort = run.spec.cohort
    return (
        f"Bundle's cohort: {cohort['failures']} failures in {cohort['outcome_known']} patients with a known outcome. "
        f"{_events(run.counts)}"
    )


def numbers(run: RunFacts) -> str:
    """Patients and events by step."""
    counts, cohort = run.counts, run.spec.cohort
    train, test = (count(counts[name], "patient") for name in ("training_patients", "patients"))
    text = f"Training: {train}; evaluation: {test}."
    if not run.has_outcome:
        return f"{text} {NO_OUTCOME}"
    return f"{text} Failures in the bundle's cohort: {cohort['failures']}. {_events(counts)}"


def full_model(run: RunFacts) -> str:
    """The bundle."""
    return (
        f"bundle/ of the run folder (weights as safetensors, everything else as JSON), digest {run.spec.digest[:16]}; "
        "infer.py applies it to new patients. The bundle states no licence of its own."
    )


def performance(run: RunFacts) -> str:
    """Key figures with intervals."""
    lines = list(_figures(run.metrics.get("segmentation", {}), SEGMENTATION_NAMES))
    lines += list(_figures(run.outcome, OUTCOME_NAMES))
    text = "; ".join(lines)
    known = f"{text[0].upper()}{text[1:]}." if text else "No figure is defined."
    if not run.has_outcome:
        return f"{known} {NO_OUTCOME}"
    return known if run.outcome else f"{known} The outcome of the withheld patients is not known."


def _figures(room: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    for key, name in names.items():
        if key in room:
            yield f"{name} {interval(room[key])}"


def accuracy(run: RunFacts) -> str:
    """The AUC where there is an outcome, else Dice."""
    chosen = {key: OUTCOME_NAMES[key] for key in ("auc", "c_index")}
    text = "; ".join(_figures(run.outcome, chosen))
    if text:
        return f"{text[0].upper()}{text[1:]}."
    return performance(run)


def robustness(run: RunFacts) -> str:
    """No sensitivity analysis; what training does for it."""
    share = 0.0 if run.alone else run.config["augment"]["drop_channel"]
    hardened = f" In training, channels are dropped with probability {share:g}." if share else ""
    return f"No sensitivity analysis was made in this run.{hardened}"


def explanation(run: RunFacts) -> str:
    """Contributions of covariates where the model has them."""
    if run.alone and run.has_outcome:
        return "predictions.csv and the report give the contribution of each covariate to each patient's risk."
    if run.config["inference"].get("explain"):
        return "The JSON of each case says what channels and covariates add to the risk, with a map per channel."
    return "None was applied."


def internal_test(run: RunFacts) -> str:
    """How."""
    if run.config["split"]["kind"] == "external":
        return "Not made in this run: nobody of the training cohort is withheld."
    return partition(run)


def external_test(run: RunFacts) -> str:
    """Whether."""
    kind = run.config["split"]["kind"]
    if kind == "external":
        return "The figures are of another cohort, of which nobody trained."
    if kind == "leave_site_out":
        return "Sites that did not train, of the same manifest; no other cohort in this run."
    return "Not made in this run; split=external makes it."


def wrong_cases(run: RunFacts) -> str:
    """The gallery, and who was not predicted."""
    text = f"{count(run.counts.get('failed_cases', 0), 'case')} could not be predicted."
    return text if run.alone else f"{text} The report shows cases from the worst to the best Dice."


def limitations(run: RunFacts) -> str:
    """What the numbers themselves warn of."""
    counts, cohort = run.counts, run.spec.cohort
    lines = []
    if run.simulated:
        lines.append("no patient: the cohort is simulated, and its figures say nothing about patients")
    if run.few_steps:
        lines.append(run.few_steps)
    if run.has_outcome and counts["failures"] < FEW_FAILURES:
        lines.append(f"{count(counts['failures'], 'failure')} among the withheld: outcome figures cannot be judged")
    if cohort.get("sites", 0) < 2:
        lines.append("one site, or none named")
    if run.config["split"]["kind"] not in {"external", "leave_site_out"}:
        lines.append("no other hospital was tested")
    if counts["trainings"] == 1 and run.config["split"]["kind"] == "holdout":
        lines.append("one split: another seed withholds other patients")
    lines += run.metrics.get("validation", {}).get("notes", [])
    return f"{'; '.join(lines)[0].upper()}{'; '.join(lines)[1:]}." if lines else ""


def poor_input(run: RunFacts) -> str:
    """What the software does about it."""
    missing = "" if run.alone else "A channel may be absent, a value outside its plausible range is refused. "
    known = (
        "A covariate may be absent; one beyond the range of the training patients is noted in the case's JSON."
        if run.spec.settings.covariates
        else ""
    )
    return f"{missing}{known}".strip()


def users(run: RunFacts) -> str:
    """What a user has to bring."""
    if run.alone:
        return "A manifest with the covariates, and no image."
    inside = run.spec.settings.inside_tumour
    contour = "a tumour contour, without which its probabilities mean little" if inside else "no contour"
    return f"A manifest or DICOM, and {contour}; contours made by the model are to be looked at."


def test_reference(run: RunFacts) -> str:
    """Same label for all."""
    if run.alone:
        return NO_OUTCOME if not run.has_outcome else "Outcomes of the withheld patients stand in the same columns."
    return "The label of the withheld patients is made by the same rule as that of the training patients."
