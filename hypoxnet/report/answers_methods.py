"""What a run says to the items of a checklist about design, data, model and training.

Every sentence is made of what stands in the run folder. A run that predicts no outcome says so; what a folder does not
tell stays with the authors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypoxnet.bundle.schema import INTENDED_USE
from hypoxnet.quantities import covariate, quantity
from hypoxnet.report.run_facts import RunFacts
from hypoxnet.report.words import count, listed
from hypoxnet.transforms.settings import ChannelNorm

Answer = Callable[[RunFacts], str]

NO_OUTCOME = "No outcome is predicted by this model."
HOW_MISSING = {
    "mean": "taken as the mean of the training patients",
    "conditional": "taken as what the known covariates let one expect (joint normal model of the training patients)",
    "indicator": "marked as not known",
}


def purpose(run: RunFacts) -> str:
    """What the model does, and that it was developed and evaluated here."""
    return f"Development and evaluation of {_what(run)}."


def _what(run: RunFacts) -> str:
    regions = "" if run.alone else f"outlines {listed(run.spec.settings.region_names)}"
    causes = f"predicts the incidence of {listed(run.spec.causes)}" if run.has_outcome else ""
    does = " and ".join(part for part in (regions, causes) if part)
    kind = "a model of covariates" if run.alone else "a 3D network"
    return f"{kind} that {does}"


def technology(run: RunFacts) -> str:
    """Kind of model."""
    if run.alone:
        return (
            "Penalised regression of covariates in a discrete-time or parametric model of competing risks; no images."
        )
    return f"Deep learning: a 3D convolutional network ({run.spec.model.backbone.backbone})."


def intended_use(run: RunFacts) -> str:
    """As every page says."""
    return f"{INTENDED_USE[0].upper()}{INTENDED_USE[1:]}."


def design(run: RunFacts) -> str:
    """Development with which kind of evaluation."""
    kind = run.config["split"]["kind"]
    outside = {
        "external": "evaluation on another cohort",
        "leave_site_out": "evaluation at sites that did not train",
        "temporal": "evaluation on patients treated later",
    }
    return f"Development, and {outside.get(kind, 'internal evaluation on withheld patients of the same cohort')}."


def data_source(run: RunFacts) -> str:
    """The manifest, or that the patients are simulated."""
    if run.simulated:
        return f"Simulated: the digital reference object, preset {run.config['data']['phantom']}; no patient."
    return f"The manifest with SHA-256 {run.provenance['manifest_sha256'][:16]}."


def data_identity(run: RunFacts) -> str:
    """By which the data are recognised."""
    return f"SHA-256 of the manifest: {run.provenance['manifest_sha256']}."


def follow_up(run: RunFacts) -> str:
    """Follow-up of the training patients."""
    if not run.spec.cohort.get("outcome_known"):
        return "No outcome is known of the training patients."
    months = run.spec.cohort.get("median_follow_up_months")
    if months is None:
        return "The end point is yes/no, or nobody was censored: there is no time of follow-up."
    return f"Median follow-up of the training patients without an event: {months:g} months. No date is kept."


def centres(run: RunFacts) -> str:
    """Number of sites."""
    sites = run.spec.cohort.get("sites", 0)
    return f"{count(sites, 'site')} in the training cohort." if sites else "The manifest names no site."


def left_out(run: RunFacts) -> str:
    """Cases the software excluded."""
    failed = run.counts.get("failed_cases", 0)
    return (
        f"{count(len(run.metrics['left_out']), 'case')} of the manifest left out because files could not be used, "
        f"{count(failed, 'withheld case')} not predicted; the report names each with its reason."
    )


def treatment(run: RunFacts) -> str:
    """Treatments among the covariates."""
    treatments = {"chemo", "nimorazole", "arm", "dose_gy", "overall_time_days"}
    known = [name for name in run.spec.settings.covariates if name in treatments]
    if not known:
        return "No treatment is an input of the model: its risks are those of patients treated like these."
    return f"Treatment as an input: {listed(known)}."


def preparation(run: RunFacts) -> str:
    """How a case becomes tensors, and what is checked."""
    settings = run.spec.settings
    if run.alone:
        return f"Covariates are checked against plausible ranges and standardised: {listed(settings.covariates)}."
    spacing = " x ".join(f"{mm:g}" for mm in settings.spacing_mm)
    return (
        f"All channels are resampled onto {spacing} mm on the grid of {settings.reference}; values outside a channel's "
        "plausible range are refused or clipped; every repair stands in the JSON of the case. "
        f"{predictor_form(run)}"
    )


def outcome(run: RunFacts) -> str:
    """What is predicted and until when."""
    if not run.has_outcome:
        return NO_OUTCOME
    if run.spec.model.causes == 1:
        return f"{run.spec.causes[0]}, yes or no."
    return (
        f"Time to {run.spec.causes[0]}; {listed(run.spec.causes[1:])} is a competing risk. Risk is reported and scored "
        f"at {run.spec.model.outcome.horizon_months:g} months."
    )


def predictor_choice(run: RunFacts) -> str:
    """Who chose the inputs."""
    chosen = run.config["data"]
    channels = "by the configuration" if chosen["channels"] else "all that the training cases have"
    covariates = "all that at least a quarter of the training patients have"
    if chosen["covariates"] is not None:
        covariates = "by the configuration"
    images = "" if run.alone else f"Channels: {channels}. "
    return f"{images}Covariates: {covariates}. None was chosen by its relation to the outcome."


def predictors(run: RunFacts) -> str:
    """The inputs with their units."""
    settings = run.spec.settings
    parts = [f"{name} ({quantity(name).meaning}, {quantity(name).unit})" for name in settings.channels]
    parts += [f"{name} ({covariate(name).meaning})" for name in settings.covariates]
    contour = "" if run.alone else f" Tumour contour: union of {listed(settings.tumour)}."
    return f"{'; '.join(parts)}.{contour}"


def sample_size(run: RunFacts) -> str:
    """Counts, and events per parameter."""
    cohort, counts = run.spec.cohort, run.counts
    size = (
        f"{count(counts['training_patients'], 'patient')} train"
        f"{' in the smallest of ' + str(counts['trainings']) + ' trainings' if counts['trainings'] > 1 else ''}, "
        f"{counts['patients']} are withheld."
    )
    if not run.has_outcome:
        return f"{size} {NO_OUTCOME}"
    failures, head = cohort.get("failures", 0), run.parameters[1]
    ratio = f"{failures / head:.2g}" if head else "no"
    columns = len(run.spec.settings.covariate_columns)
    return (
        f"{size} The bundle's cohort has {count(failures, 'failure')}; the outcome head has {count(head, 'weight')}: "
        f"{ratio} failures per weight, which shrinkage has to make up for"
        f"{f'; {failures / columns:.2g} per covariate column' if columns else ''}."
    )


def missing(run: RunFacts) -> str:
    """What is done about it, and how much is missing."""
    settings, cohort = run.spec.settings, run.spec.cohort
    sentences = []
    if settings.channels:
        have = cohort.get("channels", {})
        lacking = {name: cohort["cases"] - have.get(name, 0) for name in settings.channels}
        lack = ", ".join(f"{name} in {number}" for name, number in lacking.items() if number) or "none"
        sentences.append(
            f"A channel that was not measured is marked as absent, nothing is filled in (absent in training: {lack})"
        )
    if settings.covariates:
        how = HOW_MISSING.get(settings.missing, f"handled by data.missing_covariates={settings.missing}")
        sentences.append(f"a covariate that is not known is {how}")
    sentences.append(f"the outcome is known of {cohort['outcome_known']} of {cohort['patients']} training patients")
    if not run.alone:
        sentences.append("a patient without outcome or without contour trains the other part")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def partition(run: RunFacts) -> str:
    """How patients were divided."""
    split = run.config["split"]
    test = f"{split['test_fraction']:.0%}".replace("%", " %")
    how = {
        "holdout": f"{test} of the patients withheld once, dealt out by site and event",
        "crossval": f"{split['folds']} folds, each withheld in turn (a fold column of the manifest takes precedence)",
        "repeated": f"{split['folds']} folds, dealt out {split.get('repeats', 1)} times",
        "leave_site_out": "each site withheld in turn",
        "temporal": f"patients treated from {split.get('test_from', '')} on withheld",
        "external": "another cohort, of which nobody trained, is predicted",
    }
    validation = split["validation_fraction"]
    choose = (
        f"{100 * validation:g} % of the training patients choose the epoch; "
        if validation
        else "no patient chooses the epoch; "
    )
    said = how.get(split["kind"], f"by split={split['kind']}")
    return f"{said[0].upper()}{said[1:]}; {'' if run.alone else choose}seed {split['seed']}."


def disjoint(run: RunFacts) -> str:
    """By patient."""
    allowed = run.config["split"].get("allow_leakage", [])
    note = f" Leaks that the configuration allowed: {listed(allowed)}." if allowed else ""
    return f"Patients: all visits of a patient lie in one part.{note}"


def predictor_form(run: RunFacts) -> str:
    """Normalisation and coding."""
    settings = run.spec.settings
    parts = [f"{n}: {_norm(norm)}" for n, norm in zip(settings.channels, settings.norms, strict=True)]
    parts += [f"{term.name}: {term.kind}, standardised" for term in settings.terms]
    return "; ".join(parts) + "."


def _norm(norm: ChannelNorm) -> str:
    if norm.kind == "image":
        return "z-score over the image's non-zero voxels"
    log = "log1p, " if norm.log else ""
    return f"{log}minus {norm.centre:g}, over {norm.scale:g}, clipped to {norm.low:g} to {norm.high:g}"


def model(run: RunFacts) -> str:
    """Architecture and size."""
    spec, config = run.spec.model, run.config
    outcome_part = NO_OUTCOME
    if run.has_outcome:
        edges = run.spec.model.to_json()["edges_months"]
        times = "yes/no" if edges == [None] else f"months {', '.join(f'{edge:g}' for edge in edges)}"
        kind = config["outcome"].get("kind", "hazards")
        outcome_part = f"Outcome: {kind}, {times}, {count(run.parameters[1], 'weight')}."
    if run.alone:
        return outcome_part
    window = " x ".join(map(str, run.spec.settings.window))
    features = ", ".join(map(str, spec.backbone.features))
    return (
        f"{spec.backbone.backbone}, features {features}, window {window} voxels, "
        f"{count(run.parameters[0], 'weight')} in all; one forward pass for contours and outcome. {outcome_part}"
    )


def training(run: RunFacts) -> str:
    """Loss, optimiser, length, seed."""
    config = run.config
    done = run.spec.provenance
    if run.alone:
        return (
            f"Penalised maximum likelihood, {done['steps']} iterations; seed {config['training']['seed']}. "
            f"The rest stands in config.yaml."
        )
    t, loss = config["training"], config["loss"]
    terms = " + ".join(f"{loss[name]:g} {name.replace('_', ' ')}" for name in ("dice", "cross_entropy", "outcome"))
    return (
        f"Loss {terms}; AdamW, learning rate {t['learning_rate']:g} ({t['schedule']}), weight decay "
        f"{t['weight_decay']:g}, batch {t['batch_size']}, {t['epochs']} epochs, {done['steps']} steps, moving "
        f"average of the weights {t['ema']:g}, {'with' if t['augment'] else 'without'} augmentation, seed {t['seed']}. "
        "The rest stands in config.yaml."
    )


def selection(run: RunFacts) -> str:
    """How the exported weights were chosen."""
    if run.alone:
        return "The ridge is chosen by the likelihood of patients left out of an inner cross-validation."
    if run.config["split"]["validation_fraction"]:
        return "The epoch with the lowest loss of the validation patients; nothing else was tuned in this run."
    return "The last epoch; nothing was tuned in this run."


def imbalance(run: RunFacts) -> str:
    """Sampling of windows; none of patients."""
    if run.alone:
        return "None was used."
    share = 100 * run.config["data"]["focus"]
    return (
        f"No patient is drawn more often or weighted. {share:g} % of the training windows are centred on the region, "
        "which changes the prevalence of voxels, not of failures."
    )


def initial(run: RunFacts) -> str:
    """Random; the outcome head from the life table."""
    if run.alone:
        return "None: the fit starts from no effects."
    head = " The outcome's baseline starts from the training patients' life table." if run.has_outcome else ""
    return f"Random (PyTorch's defaults), seed {run.config['training']['seed']}; no weights of another model.{head}"


def ensemble(run: RunFacts) -> str:
    """Members of the bundle, and that figures are of single networks."""
    if run.spec.members == 1:
        return "One model; no ensemble."
    return (
        f"The bundle averages {run.spec.members} models, one per training. The figures are of the single models on the "
        "patients each had withheld, not of the ensemble."
    )


def software(run: RunFacts) -> str:
    """Versions and machine."""
    versions = ", ".join(f"{name} {number}" for name, number in run.provenance["versions"].items())
    machine: Mapping[str, Any] = run.provenance["machine"]
    on = ", ".join(str(machine[name]) for name in ("system", "processor"))
    return f"{versions}; {on}, {machine['cores']} cores, {machine['memory_gib']} GiB."


def code(run: RunFacts) -> str:
    """Programme, licence, command."""
    command = " ".join(run.provenance["command"])
    version = run.provenance["versions"]["hypoxnet"]
    return f"HypoxNet {version}, Apache-2.0; this run: {command}, every setting in config.yaml."


def settings_kept(run: RunFacts) -> str:
    """Where the details lie."""
    return "config.yaml, provenance.json and run.log of the run folder hold every setting, version and step."


def identities(run: RunFacts) -> str:
    """What the bundle holds."""
    return (
        "The bundle holds counts of the training cohort and no identifier; case_id and files come as the manifest has "
        "them."
    )


def acquisition(run: RunFacts) -> str:
    """What is known of the images."""
    if run.alone:
        return "No image is read."
    kinds = sorted({quantity(name).modality.value for name in run.spec.settings.channels})
    made = " Some channels were made of raw series, with the settings in the bundle." if run.spec.maps else ""
    return f"Kinds of images: {listed(kinds)}. Scanner and protocol are not read from the manifest.{made}"


def reference(run: RunFacts) -> str:
    """What counts as true."""
    label = run.config["label"]
    if run.alone:
        return outcome(run)
    if label["kind"] == "threshold":
        ratio = f" over {label['reference_mask']}" if label["reference_mask"] else ""
        text = f"Computed: {label['channel']}{ratio} >= {label['threshold']:g} in the tumour."
    else:
        regions = (f"{name} is {listed(masks)}" for name, masks in label["regions"].items())
        text = f"Masks of the manifest: {'; '.join(regions)}."
    return f"{text} {outcome(run)}"


def subset(run: RunFacts) -> str:
    """Windows round the tumour."""
    if run.alone:
        return "None."
    window = " x ".join(map(str, run.spec.settings.window))
    inside = (
        " Predicted and scored inside the tumour contour where a case has one."
        if (run.spec.settings.inside_tumour)
        else ""
    )
    return f"Training sees windows of {window} voxels, whole patients are predicted.{inside}"
