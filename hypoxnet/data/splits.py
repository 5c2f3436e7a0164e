"""Who trains, who chooses the best epoch, who is withheld: always whole patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypoxnet.cases import CaseRecord
from hypoxnet.data.config import SplitConfig
from hypoxnet.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Split:
    """Three sets of records that share no patient.

    Args:
        train: Fit the weights.
        validation: Choose the best epoch; may be empty.
        test: Are withheld, and looked at only for the figures.
    """

    train: tuple[CaseRecord, ...]
    validation: tuple[CaseRecord, ...]
    test: tuple[CaseRecord, ...]


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
    return _with_validation(rest, [r for r in records if r.case_id in withheld], config)


def crossval_splits(records: Sequence[CaseRecord], config: SplitConfig) -> tuple[Split, ...]:
    """Each patient withheld once: by the manifest's `fold` column where it is filled, else dealt into folds.

    Raises:
        ConfigError: Fewer patients than folds, or only some rows of the manifest have a fold.
    """
    folds = _manifest_folds(records) or _deal(records, config.seed, parts=config.folds)
    if any(not fold for fold in folds):
        raise ConfigError(
            f"split.folds={config.folds} for {len(_patients(records))} patients leaves a fold empty; "
            "ask for fewer folds"
        )
    splits = []
    for fold in folds:
        withheld = set(fold)
        rest = [record for record in records if record.case_id not in withheld]
        splits.append(_with_validation(rest, [r for r in records if r.case_id in withheld], config))
    return tuple(splits)


def _with_validation(rest: Sequence[CaseRecord], test: Sequence[CaseRecord], config: SplitConfig) -> Split:
    chosen: set[str] = set()
    if config.validation_fraction > 0:
        parts = max(2, round(1.0 / config.validation_fraction))
        wanted = max(1, round(config.validation_fraction * len(_patients(rest))))
        chosen = _first(_deal(rest, config.seed + 1, parts=parts), wanted)
    train = tuple(record for record in rest if record.case_id not in chosen)
    if not train:
        raise ConfigError(f"split.validation_fraction={config.validation_fraction} leaves no patient to train on")
    return Split(train, tuple(record for record in rest if record.case_id in chosen), tuple(test))


def _patients(records: Sequence[CaseRecord]) -> list[str]:
    return sorted({record.case_id for record in records})


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
