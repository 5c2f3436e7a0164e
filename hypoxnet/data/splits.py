"""Who trains, who chooses the best epoch, who is withheld: always whole patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hypoxnet.cases import FAILURE, CaseRecord
from hypoxnet.data.config import SplitConfig
from hypoxnet.data.dates import is_from
from hypoxnet.errors import ConfigError

# Repeats are dealt with seeds this far apart, so that none is the seed of another's validation patients.
SEED_STEP = 1000


@dataclass(frozen=True, slots=True)
class Split:
    """Three sets of records that share no patient.

    Args:
        train: Fit the weights.
        validation: Choose the best epoch; may be empty.
        test: Are withheld, and looked at only for the figures.
        name: Which part of a design this is, in words; empty for a single split.
        notes: What whoever reads the figures must know, one sentence each.
    """

    train: tuple[CaseRecord, ...]
    validation: tuple[CaseRecord, ...]
    test: tuple[CaseRecord, ...]
    name: str = ""
    notes: tuple[str, ...] = ()


def splits_of(
    records: Sequence[CaseRecord], config: SplitConfig, external: Sequence[CaseRecord] = ()
) -> dict[int | None, Split]:
    """The parts of a validation design by their number; a design of one part has the number None.

    Every design is deterministic by the seed and does not depend on the order of the rows.

    Args:
        records: The cohort.
        config: Which design; `only` chooses parts.
        external: The other cohort, for `external`.

    Raises:
        ConfigError: The cohort does not allow the design.
    """
    match config.kind:
        case "holdout":
            return {None: holdout_split(records, config)}
        case "temporal":
            return {None: temporal_split(records, config)}
        case "external":
            return {None: external_split(records, external, config)}
        case "repeated":
            parts = repeated_splits(records, config)
        case "leave_site_out":
            parts = site_splits(records, config)
        case _:
            parts = crossval_splits(records, config)
    unknown = [fold for fold in config.only if fold not in range(len(parts))]
    if unknown:
        raise ConfigError(f"split.only names fold {unknown[0]}, the folds are 0 to {len(parts) - 1}")
    return {fold: split for fold, split in enumerate(parts) if not config.only or fold in config.only}


def holdout_split(records: Sequence[CaseRecord], config: SplitConfig) -> Split:
    """One split: `test_fraction` of the patients withheld, stratified by site and event.

    The split depends on the patients and the seed, not on the order of the rows.

    Raises:
        ConfigError: Too few patients for the fractions.
    """
    groups = _deal(records, config.seed, parts=max(2, round(1.0 / config.test_fraction)))
    wanted = round(config.test_fraction * len(_patients(records)))
    withheld = _first(groups, wanted)
    rest = [record for record in records if record.case_id not in withheld]
    if not withheld or not rest:
        raise ConfigError(
            f"split.test_fraction={config.test_fraction} of {len(_patients(records))} patients withholds "
            f"{len(withheld)} and leaves {len(_patients(rest))}; give more patients or another fraction"
        )
    return _withhold(records, withheld, config)


def crossval_splits(records: Sequence[CaseRecord], config: SplitConfig) -> tuple[Split, ...]:
    """Each patient withheld once: by the manifest's `fold` column where it is filled, else dealt into folds.

    Raises:
        ConfigError: Fewer patients than folds, or only some rows of the manifest have a fold.
    """
    folds = _manifest_folds(records) or _deal(records, config.seed, parts=config.folds)
    if len(folds) < 2:
        raise ConfigError("every row of the manifest is in the same fold; name a second one, or leave the column out")
    if any(not fold for fold in folds):
        raise ConfigError(
            f"split.folds={config.folds} for {len(_patients(records))} patients leaves a fold empty; "
            "ask for fewer folds"
        )
    return tuple(_withhold(records, set(fold), config, name=f"fold {n}") for n, fold in enumerate(folds))


def repeated_splits(records: Sequence[CaseRecord], config: SplitConfig) -> tuple[Split, ...]:
    """Cross-validation `repeats` times, dealt anew each time: what a figure owes to how the cards fell.

    Within each part `validation_fraction` of the training patients choose the epoch, so that choosing is nested
    inside training. The first repeat is `crossval` with the same seed.

    Raises:
        ConfigError: As for `crossval_splits`, or the manifest's own folds leave nothing to deal anew.

    Source:
        Varma and Simon 2006, BMC Bioinformatics 7:91 (nested); Kim 2009, Comput Stat Data Anal 53:3735 (repeated).
    """
    if any(record.fold is not None for record in records):
        raise ConfigError(
            "split.kind=repeated deals the patients into folds anew each time, the manifest names their folds; "
            "leave out the column fold, or say split=crossval"
        )
    parts = []
    for repeat in range(config.repeats):
        dealt = crossval_splits(records, replace(config, seed=config.seed + SEED_STEP * repeat))
        parts += [replace(split, name=f"repeat {repeat}, {split.name}") for split in dealt]
    return tuple(parts)


def site_splits(records: Sequence[CaseRecord], config: SplitConfig) -> tuple[Split, ...]:
    """Each hospital withheld once (internal-external validation); the small ones together, as the last part.

    A site without a failure trains and is predicted like the others; that it can have no concordance is noted.

    Raises:
        ConfigError: A patient has no site or two, or fewer than two parts come about.

    Source:
        Steyerberg and Harrell 2016, J Clin Epidemiol 69:245.
    """
    members = _sites(records)
    small = sorted(site for site, patients in members.items() if len(patients) < config.smallest_site)
    groups = [(site,) for site in sorted(members) if site not in small] + ([tuple(small)] if small else [])
    if len(groups) < 2:
        sizes = ", ".join(f"{site} {len(patients)}" for site, patients in sorted(members.items()))
        raise ConfigError(
            f"split.kind=leave_site_out needs two sites of at least split.smallest_site={config.smallest_site} "
            f"patients, or one and small ones beside it; there are: {sizes}"
        )
    parts = []
    for sites in groups:
        withheld = set().union(*(members[site] for site in sites))
        name = f"site {sites[0]}" if len(sites) == 1 else f"sites {', '.join(sites)} together"
        split = _withhold(records, withheld, config, name=name)
        parts.append(replace(split, notes=tuple(_site_notes(split, sites, members, config.smallest_site))))
    return tuple(parts)


def temporal_split(records: Sequence[CaseRecord], config: SplitConfig) -> Split:
    """Patients treated before a date train, those treated from it on are withheld.

    A patient with several visits counts by the earliest one.

    Raises:
        ConfigError: A date is missing or too coarse, or all patients are on one side.
    """
    withheld = set()
    for record in _first_visits(records):
        later = is_from(record.treated, config.test_from) if record.treated else None
        if later is None:
            given = f"is {record.treated!r}, too coarse to tell" if record.treated else "is empty"
            raise ConfigError(
                f"{record.key} (line {record.line}): treated {given}, split.test_from={config.test_from} needs it; "
                "fill the column, or split by a year"
            )
        if later:
            withheld.add(record.case_id)
    if not withheld or len(withheld) == len(_patients(records)):
        dates = sorted(record.treated for record in _first_visits(records))
        raise ConfigError(
            f"split.test_from={config.test_from} withholds {len(withheld)} of {len(dates)} patients, who were treated "
            f"{dates[0]} to {dates[-1]}; choose a date between"
        )
    return _withhold(records, withheld, config)


def external_split(records: Sequence[CaseRecord], external: Sequence[CaseRecord], config: SplitConfig) -> Split:
    """The cohort trains, another cohort is predicted and nothing else.

    Raises:
        ConfigError: The other cohort is empty, has a patient of the first, or none of its channels.
    """
    if not external:
        raise ConfigError(f"split.test_manifest={config.test_manifest} has no patient; name the cohort to predict")
    line = {record.case_id: record.line for record in reversed(records)}
    for record in external:
        if record.case_id in line:
            raise ConfigError(
                f"{record.case_id} is in line {line[record.case_id]} of the training manifest and in line "
                f"{record.line} of {config.test_manifest}; take the patient out of one, or rename it where two "
                "patients have one name"
            )
    ours, theirs = ({name for record in side for name in record.channels} for side in (records, external))
    if ours and not ours & theirs:
        raise ConfigError(
            f"split.test_manifest={config.test_manifest} has the channels {', '.join(sorted(theirs)) or 'none'}, the "
            f"training cohort {', '.join(sorted(ours))}: none in common; name the columns alike"
        )
    return replace(_withhold(records, set(), config), test=tuple(external), name="external cohort")


def _withhold(records: Sequence[CaseRecord], withheld: set[str], config: SplitConfig, *, name: str = "") -> Split:
    rest = [record for record in records if record.case_id not in withheld]
    chosen: set[str] = set()
    if config.validation_fraction > 0:
        parts = max(2, round(1.0 / config.validation_fraction))
        wanted = max(1, round(config.validation_fraction * len(_patients(rest))))
        chosen = _first(_deal(rest, config.seed + 1, parts=parts), wanted)
    train = tuple(record for record in rest if record.case_id not in chosen)
    if not train:
        raise ConfigError(f"split.validation_fraction={config.validation_fraction} leaves no patient to train on")
    return Split(
        train,
        tuple(record for record in rest if record.case_id in chosen),
        tuple(record for record in records if record.case_id in withheld),
        name,
    )


def _patients(records: Sequence[CaseRecord]) -> list[str]:
    return sorted({record.case_id for record in records})


def _first_visits(records: Sequence[CaseRecord]) -> list[CaseRecord]:
    """One record per patient: that of the earliest date, one without a date only where no visit has one."""
    ordered = sorted(records, key=lambda r: (r.treated or "~", r.key), reverse=True)
    return sorted({record.case_id: record for record in ordered}.values(), key=lambda r: r.case_id)


def _sites(records: Sequence[CaseRecord]) -> dict[str, set[str]]:
    """Patients of each site."""
    site: dict[str, str] = {}
    for record in records:
        if not record.site:
            raise ConfigError(
                f"{record.key} (line {record.line}) has no site, split.kind=leave_site_out needs one for every "
                "patient; fill the column site"
            )
        if site.setdefault(record.case_id, record.site) != record.site:
            raise ConfigError(
                f"{record.key} (line {record.line}) is of site {record.site}, another visit of the patient of "
                f"{site[record.case_id]}; name one site per patient"
            )
    members: dict[str, set[str]] = defaultdict(set)
    for patient, name in site.items():
        members[name].add(patient)
    return dict(members)


def _site_notes(split: Split, sites: Sequence[str], members: Mapping[str, set[str]], smallest_site: int) -> list[str]:
    notes = []
    if len(sites) > 1:
        sizes = ", ".join(f"{site} ({len(members[site])})" for site in sites)
        notes.append(f"{sizes}: fewer than split.smallest_site={smallest_site} patients each, withheld together")
    for side, what in (
        (split.test, "have no failure: they are predicted, but their concordance is not defined"),
        ((*split.train, *split.validation), "have no failure: nothing can be learnt of the outcome"),
    ):
        outcomes = [record.outcome for record in side if record.outcome is not None]
        if outcomes and not any(outcome.event == FAILURE for outcome in outcomes):
            notes.append(
                f"the patients {'of' if side is split.test else 'that train without'} {', '.join(sites)} {what}"
            )
    return notes


def _manifest_folds(records: Sequence[CaseRecord]) -> list[list[str]]:
    """Folds of the manifest, empty when no row has one."""
    without = [record for record in records if record.fold is None]
    if len(without) == len(records):
        return []
    if without:
        raise ConfigError(
            f"{len(records) - len(without)} of {len(records)} rows have a fold, {without[0].key} (line "
            f"{without[0].line}) has none; fill the column or leave it out"
        )
    folds: dict[int, set[str]] = defaultdict(set)
    for record in records:
        assert record.fold is not None
        folds[record.fold].add(record.case_id)
    return [sorted(folds[fold]) for fold in sorted(folds)]


def _deal(records: Sequence[CaseRecord], seed: int, *, parts: int) -> list[list[str]]:
    """Patients dealt out like cards, stratum by stratum, so that each part has its share of sites and events."""
    strata: dict[tuple[str, int], set[str]] = defaultdict(set)
    first = {record.case_id: record for record in sorted(records, key=lambda r: r.key, reverse=True)}
    for patient, record in first.items():
        strata[(record.site, record.outcome.event if record.outcome else -1)].add(patient)
    generator = np.random.default_rng(seed)
    order = [patient for stratum in sorted(strata) for patient in generator.permutation(sorted(strata[stratum]))]
    return [[str(patient) for patient in order[part::parts]] for part in range(parts)]


def _first(groups: Sequence[Sequence[str]], wanted: int) -> set[str]:
    """The first `wanted` patients of the groups, the groups taken whole one after another."""
    return set([patient for group in groups for patient in group][:wanted])
