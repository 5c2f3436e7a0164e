"""Read-outs of a cohort as covariates."""

from __future__ import annotations

from collections.abc import Sequence

from hypoxnet.cases import CaseRecord
from hypoxnet.data.measured import ReadOutCache
from hypoxnet.jobs.completing import complete_each


def measure_cohort(records: Sequence[CaseRecord], cache: ReadOutCache) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """Measure what the cases lack; a case whose files cannot be read is left out.

    Args:
        records: The cohort.
        cache: Which read-outs, and where they are kept.

    Returns and raises what `complete_each` does.
    """
    failure = f"{', '.join(cache.names)} could be measured in none"
    return complete_each(records, cache.complete, doing="measuring", failure=failure)
