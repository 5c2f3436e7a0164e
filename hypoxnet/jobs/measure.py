"""Read-outs of a cohort as covariates."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from rich.progress import track

from hypoxnet.cases import CaseRecord
from hypoxnet.data.measured import ReadOutCache
from hypoxnet.errors import CaseError, HypoxNetError

log = logging.getLogger(__name__)


def measure_cohort(records: Sequence[CaseRecord], cache: ReadOutCache) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """Measure what the cases lack; a case whose files cannot be read is left out.

    Args:
        records: The cohort.
        cache: Which read-outs, and where they are kept.

    Returns:
        The records that could be completed, in their order, and for the others the reason by key.

    Raises:
        CaseError: None could.
    """
    completed, reasons = [], {}
    for record in track(records, description="measuring", transient=True):
        try:
            completed.append(cache.complete(record))
        except HypoxNetError as error:
            reasons[record.key] = str(error)
            # The log has no handler yet: the run folder is made after the cohort is known.
            print(f"left out: {error}", file=sys.stderr)
            log.warning("left out: %s", error)
    if not completed:
        raise CaseError(
            f"{', '.join(cache.names)} could be measured in none of {len(records)} cases; the first: "
            f"{next(iter(reasons.values()))}"
        )
    return tuple(completed), reasons
