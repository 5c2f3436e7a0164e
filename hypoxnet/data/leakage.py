"""What would make figures on withheld patients too good: looked for before anything is trained, in the records alone.

Kinds, which `split.allow_leakage` names: `same_image` and `same_patient`, one patient under two names; `site_code`, an
input that is there at some sites only, so that its presence names the site; `label_input`, a covariate that is the
outcome; `follow_up`, a covariate that is the time of follow-up.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact, rankdata, spearmanr

from hypoxnet.cases import CENSORED, DEATH, FAILURE, CaseRecord
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.files import sha256_of

# Of files of one size: this much at three places tells images apart without reading them whole.
SAMPLE_BYTES = 16384
# Two patients agree in everything by chance: at most this many pairs are expected before the two are one patient.
COINCIDENCES = 0.01
# Present in at most, or at least, these shares of a site's patients: rarely there, commonly there.
RARELY, COMMONLY = 0.05, 0.5
# Smaller sites lack a channel by chance.
SMALLEST_SITE = 5
# Sites differ in their rate of failure when chance would make such a difference more rarely.
LEVEL = 0.05
# A covariate with a larger area under the curve is the event. No marker of hypoxia comes near it.
LARGEST_AUC = 0.98
ENOUGH_EVENTS = 10
# A covariate that ranks patients like their months of follow-up.
LARGEST_CORRELATION = 0.9
ENOUGH_FOLLOWED = 20
SHOWN = 10

WORDS = (
    "followup|follow_up|fu_(months|days|years|time)|(months|days|years|time)_fu|last_(visit|contact|seen|news)|time_to|"
    "(overall|specific|free)_survival|survival|os|pfs|dfs|lrc|lrfs|dmfs|relapsed?|recurrence|recurred|progression|"
    "progressed|(local|regional|locoregional|distant|treatment)_(failure|control)|failed|events?|death|dead|died|"
    "deceased|alive|censor(ed|ing)?|vital|(disease|vital)_status|salvage|outcome"
)
NAMED_AFTER_FOLLOW_UP = re.compile(rf"(^|_)({WORDS})(_|$)", re.IGNORECASE)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was found.

    Args:
        kind: As `split.allow_leakage` names it.
        sentence: The evidence and the remedy.
        stops: Whether the run must not go on unless the kind is allowed; else it is a warning.
    """

    kind: str
    sentence: str
    stops: bool = True


def find_leaks(
    splits: Iterable[Split], *, channels: Sequence[str], covariates: Sequence[str], sites_withheld: bool
) -> tuple[Leak, ...]:
    """Everything that is found in a validation design and its inputs.

    Args:
        splits: All parts of the design.
        channels: Channels that the network reads.
        covariates: Covariates that the outcome head reads.
        sites_withheld: Whether the design withholds sites, which makes the code of a site a fault.

    Returns:
        The leaks; empty for an honest cohort.
    """
    parts = tuple(splits)
    records = _distinct(record for part in parts for record in (*part.train, *part.validation, *part.test))
    across = _sides(parts)
    return (
        *same_images(records, across),
        *same_patients(records, across),
        *site_codes(records, channels=channels, covariates=covariates, stops=sites_withheld),
        *outcomes_among(records, covariates),
        *follow_up_among(records, covariates),
    )


def refuse_leaks(leaks: Sequence[Leak], allowed: Sequence[str]) -> tuple[str, ...]:
    """Stop where a leak stops a run.

    Args:
        leaks: What was found.
        allowed: Kinds that the user knows of, `split.allow_leakage`.

    Returns:
        The sentences of all the others, as warnings.

    Raises:
        ConfigError: A leak stops the run and its kind is not allowed; with the evidence of the first ones.

    Example:
        >>> refuse_leaks([Leak("site_code", "ADC is there at the site north only", stops=False)], [])
        ('ADC is there at the site north only',)
    """
    fatal = [leak for leak in leaks if leak.stops and leak.kind not in allowed]
    if not fatal:
        return tuple(leak.sentence for leak in leaks)
    kinds = ",".join(dict.fromkeys(leak.kind for leak in fatal))
    more = [f"(and {len(fatal) - SHOWN} more)"] if len(fatal) > SHOWN else []
    raise ConfigError(
        "\n".join(
            [
                "the figures on withheld patients would be too good:",
                *(f"{leak.kind}: {leak.sentence}" for leak in fatal[:SHOWN]),
                *more,
                f"where this is known and meant, say 'split.allow_leakage=[{kinds}]'",
            ]
        )
    )


def _distinct(records: Iterable[CaseRecord]) -> tuple[CaseRecord, ...]:
    return tuple({record.key: record for record in records}.values())


def _patients(records: Sequence[CaseRecord]) -> list[CaseRecord]:
    """The first record of every patient."""
    return list({record.case_id: record for record in reversed(records)}.values())[::-1]


def _sides(parts: Sequence[Split]) -> Callable[[str, str], bool]:
    """Whether of two patients one is withheld where the other trains or chooses the epoch."""
    taught = [{record.case_id for record in (*part.train, *part.validation)} for part in parts]
    withheld = [{record.case_id for record in part.test} for part in parts]

    def across(one: str, other: str) -> bool:
        return any(
            (one in t and other in w) or (other in t and one in w) for t, w in zip(taught, withheld, strict=True)
        )

    return across


def same_images(records: Sequence[CaseRecord], across: Callable[[str, str], bool]) -> Iterator[Leak]:
    """One image file under two patients. Sizes are compared first, then samples, and contents only where those agree.

    An image that was saved anew with another compression is not recognised.

    Args:
        records: The cohort.
        across: Whether two patients are on different sides.
    """
    by_size: dict[int, list[tuple[CaseRecord, str, Path]]] = defaultdict(list)
    for record in records:
        for name, path in _images(record):
            if os.access(path, os.R_OK):  # whoever reads the image says what is wrong with it
                by_size[path.stat().st_size].append((record, name, path))
    told: set[tuple[str, str]] = set()
    for alike in by_size.values():
        for same in _groups(_groups([alike], lambda entry: _sampled(entry[2])), lambda entry: sha256_of(entry[2])):
            for (one, one_name, one_path), (other, other_name, other_path) in islice(_pairs(same, across), SHOWN + 1):
                if (one.case_id, other.case_id) in told:
                    continue
                told.add((one.case_id, other.case_id))
                yield Leak(
                    "same_image",
                    f"{one.key} (line {one.line}) and {other.key} (line {other.line}) have the same image, "
                    f"{one_name} {one_path} and {other_name} {other_path} are identical; give one patient one case_id",
                )


Entry = tuple[CaseRecord, str, Path]


def _groups(groups: Iterable[Sequence[Entry]], read: Callable[[Entry], object]) -> Iterator[list[Entry]]:
    """Groups cut into smaller ones by what is read of each entry; a group of one patient is not read."""
    for group in groups:
        if len({record.case_id for record, _, _ in group}) < 2:
            continue
        finer: dict[object, list[Entry]] = defaultdict(list)
        for entry in group:
            finer[read(entry)].append(entry)
        yield from (part for part in finer.values() if len({record.case_id for record, _, _ in part}) > 1)


def _pairs(same: Sequence[Entry], across: Callable[[str, str], bool]) -> Iterator[tuple[Entry, Entry]]:
    """Pairs of different patients on different sides."""
    for number, one in enumerate(same):
        for other in same[number + 1 :]:
            if one[0].case_id != other[0].case_id and across(one[0].case_id, other[0].case_id):
                yield one, other


def _images(record: CaseRecord) -> Iterator[tuple[str, Path]]:
    yield from ((name, path) for name, path in record.channels.items() if name not in record.derived)
    yield from ((name, path) for name, paths in record.raw.items() for path in paths)


def _sampled(path: Path) -> bytes:
    """Bytes of a file at a quarter, a half and three quarters of it, where images have their voxels."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        found = b""
        for place in (1, 2, 3):
            stream.seek(place * size // 4)
            found += stream.read(SAMPLE_BYTES)
    return found


def same_patients(records: Sequence[CaseRecord], across: Callable[[str, str], bool]) -> Iterator[Leak]:
    """Two patients who agree in outcome and every known covariate, which chance does not explain.

    Chance is what the frequencies of the values in the cohort would give if covariates were independent; two patients
    censored at the same visit with the same two codes are therefore no finding, the same months to a tenth with eight
    equal covariates are one.

    Args:
        records: The cohort.
        across: Whether two patients are on different sides.
    """
    known = [record for record in _patients(records) if record.outcome is not None and record.covariates]
    alike: dict[frozenset[tuple[str, float]], list[CaseRecord]] = defaultdict(list)
    for record in known:
        alike[_values(record)].append(record)
    counts = Counter(item for record in known for item in _values(record))
    asked = Counter(name for record in known for name, _ in _values(record))
    possible = len(known) * (len(known) - 1) / 2
    for values, group in alike.items():
        # Without the two themselves, and with half a patient so that a value nobody else has is rare, not impossible.
        expected = possible * prod((counts[item] - 1.5) / max(asked[item[0]] - 1, 1) for item in values)
        if len(group) < 2 or expected >= COINCIDENCES:
            continue
        for one, other in ((a, b) for n, a in enumerate(group) for b in group[n + 1 :]):
            if across(one.case_id, other.case_id):
                yield Leak(
                    "same_patient",
                    f"{one.key} (line {one.line}) and {other.key} (line {other.line}) agree in the outcome and in "
                    f"{len(one.covariates)} covariates, chance makes {expected:.1g} such pairs in {len(known)} "
                    "patients; give one patient one case_id",
                )


def _values(record: CaseRecord) -> frozenset[tuple[str, float]]:
    assert record.outcome is not None
    months = -1.0 if record.outcome.months is None else record.outcome.months
    return frozenset({("(event)", record.outcome.event), ("(months)", months), *record.covariates.items()})


def site_codes(
    records: Sequence[CaseRecord], *, channels: Sequence[str], covariates: Sequence[str], stops: bool
) -> Iterator[Leak]:
    """Inputs whose presence names the site.

    The network is told which channels were measured. Where one was measured at a single site, it is told the site, and
    with it the site's rate of failure.

    Args:
        records: The cohort.
        channels: Inputs.
        covariates: Inputs.
        stops: Whether it stops the run. If not, it is a warning, and only where the rates of failure differ too.
    """
    patients = _patients(records)
    size = Counter(record.site for record in patients)
    sites = [site for site in sorted(size) if site and size[site] >= SMALLEST_SITE]
    reads: list[tuple[str, str, Callable[[CaseRecord], Mapping[str, object]]]] = [
        *((name, "data.channels", lambda record: record.channels) for name in channels),
        *((name, "data.covariates", lambda record: record.covariates) for name in covariates),
    ]
    for name, setting, read in reads:
        having = Counter(record.site for record in patients if name in read(record))
        with_it = [site for site in sites if having[site] >= COMMONLY * size[site]]
        without = [site for site in sites if having[site] <= RARELY * size[site]]
        if not with_it or not without or len(with_it) + len(without) < len(sites):
            continue
        rates, p = _rates(patients, with_it, without)
        if not stops and not p < LEVEL:
            continue
        yield Leak(
            "site_code",
            f"{name} is known at {_listed(with_it, having, size)} and not at {_listed(without, having, size)}, its "
            f"presence tells the site ({rates}); leave it out of {setting}, or the sites that lack it out of the "
            "manifest",
            stops,
        )


def _listed(sites: Sequence[str], having: Mapping[str, int], size: Mapping[str, int]) -> str:
    return ", ".join(f"{site} ({having[site]} of {size[site]})" for site in sites)


def _rates(patients: Sequence[CaseRecord], with_it: Sequence[str], without: Sequence[str]) -> tuple[str, float]:
    """Failures of two groups of sites in words, and how likely chance alone makes them differ so."""
    table = []
    for sites in (with_it, without):
        events = [record.outcome.event for record in patients if record.outcome and record.site in sites]
        failures = sum(event == FAILURE for event in events)
        table.append((failures, len(events) - failures))
    words = ", ".join(f"{failed} of {failed + free} failed" for failed, free in table)
    return words, float(fisher_exact(table).pvalue)


def outcomes_among(records: Sequence[CaseRecord], covariates: Sequence[str]) -> Iterator[Leak]:
    """Covariates that are the outcome: they tell failures, deaths or all events from the others nearly without fault.

    Args:
        records: The cohort.
        covariates: Inputs.
    """
    for name in covariates:
        values, events, _ = _known(records, name)
        for what, happened in (
            ("failures", events == FAILURE),
            ("deaths without failure", events == DEATH),
            ("events", events != CENSORED),
        ):
            if min(happened.sum(), (~happened).sum()) < ENOUGH_EVENTS:
                continue
            area = _area(values, happened)
            if max(area, 1.0 - area) > LARGEST_AUC:
                yield Leak(
                    "label_input",
                    f"the covariate {name} tells the {int(happened.sum())} {what} from the {int((~happened).sum())} "
                    f"others with an area under the curve of {area:.3f}, nothing measured before treatment does; "
                    "leave it out of data.covariates",
                )
                break


def follow_up_among(records: Sequence[CaseRecord], covariates: Sequence[str]) -> Iterator[Leak]:
    """Covariates that are the follow-up, by their name or because they rank patients like its months.

    A date of treatment is one where all were followed until the same day: it ranks the censored patients.

    Args:
        records: The cohort.
        covariates: Inputs.
    """
    for name in covariates:
        found = NAMED_AFTER_FOLLOW_UP.search(name)
        if found:
            yield Leak(
                "follow_up",
                f"the covariate {name} is named after the follow-up ({found[2]}), which nobody knows before treatment; "
                "leave it out of data.covariates",
            )
            continue
        values, events, months = _known(records, name)
        for who, chosen in (("all", np.ones(len(events), bool)), ("the censored", events == CENSORED)):
            rho = _rank_correlation(values[chosen], months[chosen])
            if abs(rho) > LARGEST_CORRELATION:
                yield Leak(
                    "follow_up",
                    f"the covariate {name} ranks {who} patients like their months of follow-up (Spearman {rho:+.3f}, "
                    f"{int(chosen.sum())} patients); leave it out of data.covariates",
                )
                break


def _known(records: Sequence[CaseRecord], name: str) -> tuple[Array, NDArray[np.int64], Array]:
    """Values of a covariate, events and months (nan for yes/no) of the patients who have both."""
    rows = [
        (
            record.covariates[name],
            record.outcome.event,
            np.nan if record.outcome.months is None else record.outcome.months,
        )
        for record in _patients(records)
        if record.outcome is not None and name in record.covariates
    ]
    table = np.array(rows, dtype=float).reshape(-1, 3)
    return table[:, 0], table[:, 1].astype(np.int64), table[:, 2]


def _area(values: Array, happened: Mask) -> float:
    """Area under the ROC curve by the sum of ranks; ties count half."""
    count = int(happened.sum())
    above = rankdata(values)[happened].sum() - count * (count + 1) / 2
    return float(above / (count * (len(values) - count)))


def _rank_correlation(values: Array, months: Array) -> float:
    if len(values) < ENOUGH_FOLLOWED or not np.isfinite(months).all() or not np.ptp(values) or not np.ptp(months):
        return 0.0
    return float(spearmanr(values, months).statistic)
