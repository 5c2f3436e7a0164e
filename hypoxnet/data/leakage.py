"""What would make figures on withheld patients too good: looked for before anything is trained, in the records alone.

Kinds, which `split.allow_leakage` names: `same_image` and `same_patient`, one patient under two names; `site_code`, an
input that is there at some sites only, so that its presence names the site; `label_input`, a covariate that is the
outcome; `follow_up`, a covariate that is the time of follow-up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact, rankdata, spearmanr

from hypoxnet.cases import CENSORED, DEATH, FAILURE, CaseRecord
from hypoxnet.data.duplicates import patients_of, same_images, same_patients
from hypoxnet.data.leak import Leak
from hypoxnet.data.splits import Split

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

WORDS = (
    "followup|follow_up|fu_(months|days|years|time)|(months|days|years|time)_fu|last_(visit|contact|seen|news)|time_to|"
    "(overall|specific|free)_survival|survival|os|pfs|dfs|lrc|lrfs|dmfs|relapsed?|recurrence|recurred|progression|"
    "progressed|(local|regional|locoregional|distant|treatment)_(failure|control)|failed|events?|death|dead|died|"
    "deceased|alive|censor(ed|ing)?|vital|(disease|vital)_status|salvage|outcome"
)
NAMED_AFTER_FOLLOW_UP = re.compile(rf"(^|_)({WORDS})(_|$)", re.IGNORECASE)

REMEDY = "leave it out of data.covariates, or delete the column"

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


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


def leaks_of_manifest(records: Sequence[CaseRecord]) -> tuple[Leak, ...]:
    """What a manifest shows before anybody is withheld and before inputs are chosen.

    One patient under two names stops every design but one whose folds keep the two together. A covariate or a channel
    that would stop a run is no fault of a manifest, which may hold what no model reads: it is told as a warning.

    Args:
        records: The cohort.

    Example:
        >>> leaks_of_manifest([CaseRecord("P1"), CaseRecord("P2")])
        ()
    """
    fold = {record.case_id: record.fold for record in records}
    channels = dict.fromkeys(name for record in records for name in record.channels)
    covariates = dict.fromkeys(name for record in records for name in record.covariates)

    def apart(one: str, other: str) -> bool:
        return fold[one] is None or fold[one] != fold[other]

    inputs = (
        *site_codes(records, channels=tuple(channels), covariates=tuple(covariates), stops=False),
        *outcomes_among(records, tuple(covariates)),
        *follow_up_among(records, tuple(covariates)),
    )
    return (
        *same_images(records, apart),
        *same_patients(records, apart),
        *(replace(leak, stops=False) for leak in inputs),
    )


def _distinct(records: Iterable[CaseRecord]) -> tuple[CaseRecord, ...]:
    return tuple({record.key: record for record in records}.values())


def _sides(parts: Sequence[Split]) -> Callable[[str, str], bool]:
    """Whether of two patients one is withheld where the other trains or chooses the epoch."""
    taught = [{record.case_id for record in (*part.train, *part.validation)} for part in parts]
    withheld = [{record.case_id for record in part.test} for part in parts]

    def across(one: str, other: str) -> bool:
        return any(
            (one in t and other in w) or (other in t and one in w) for t, w in zip(taught, withheld, strict=True)
        )

    return across


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
    patients = patients_of(records)
    size = Counter(record.site for record in patients)
    sites = [site for site in sorted(size) if site and size[site] >= SMALLEST_SITE]
    reads: list[tuple[str, bool, Callable[[CaseRecord], Mapping[str, object]]]] = [
        *((name, False, lambda record: record.channels) for name in channels),
        *((name, True, lambda record: record.covariates) for name in covariates),
    ]
    for name, is_covariate, read in reads:
        having = Counter(record.site for record in patients if name in read(record))
        with_it = [site for site in sites if having[site] >= COMMONLY * size[site]]
        without = [site for site in sites if having[site] <= RARELY * size[site]]
        if not with_it or not without or len(with_it) + len(without) < len(sites):
            continue
        setting = "data.covariates" if is_covariate else "data.channels"
        rates, p = _rates(patients, with_it, without)
        if not stops and not p < LEVEL:
            continue
        yield Leak(
            "site_code",
            f"{name} is known at {_listed(with_it, having, size)} and not at {_listed(without, having, size)}, its "
            f"presence tells the site ({rates}); leave it out of {setting}, or the sites that lack it out of the "
            "manifest",
            stops,
            covariate=name if is_covariate else "",
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
                    f"others with an area under the curve of {area:.3f}, nothing measured before treatment does: it "
                    f"is the outcome in other words, or was written down after it; {REMEDY}",
                    covariate=name,
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
                f"{REMEDY}",
                covariate=name,
            )
            continue
        values, events, months = _known(records, name)
        for who, chosen in (("all", np.ones(len(events), bool)), ("the censored", events == CENSORED)):
            rho = _rank_correlation(values[chosen], months[chosen])
            if abs(rho) > LARGEST_CORRELATION:
                yield Leak(
                    "follow_up",
                    f"the covariate {name} ranks {who} patients like their months of follow-up (Spearman {rho:+.3f}, "
                    f"{int(chosen.sum())} patients), so it tells how long somebody was seen and not how ill; {REMEDY}",
                    covariate=name,
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
        for record in patients_of(records)
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
