"""A cohort whose cases are completed one by one: whoever cannot be is left out, with the reason."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from rich.progress import track

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError, HypoxNetError

log = logging.getLogger(__name__)


def tell_not_made(record: CaseRecord) -> None:
    """Log which channels could not be made of the files of a case, and why."""
    for name, reason in record.not_made.items():
        log.warning("%s; %s is not made", reason, name)


def complete_each(
    records: Sequence[CaseRecord], complete: Callable[[CaseRecord], CaseRecord], *, doing: str, failure: str
) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """Complete every case that can be; an interrupt loses nothing that `complete` keeps.

    Args:
        records: The cohort.
        complete: Gives the record with what it lacks.
        doing: What the progress bar says.
        failure: How the error begins when no case is left, for example `maps could be made for none`.

    Returns:
        The records that could be completed, in their order, and for the others the reason by key.

    Raises:
        CaseError: None could.
    """
    completed, reasons = [], {}
    for record in track(records, description=doing, transient=True):
        try:
            done = complete(record)
            completed.append(done)
            tell_not_made(done)
        except HypoxNetError as error:
            reasons[record.key] = str(error)
            # The log has no handler yet: the run folder is made after the cohort is known.
            print(f"left out: {error}", file=sys.stderr)
            log.warning("left out: %s", error)
    if not completed:
        raise CaseError(f"{failure} of {len(records)} cases; the first: {next(iter(reasons.values()))}")
    return tuple(completed), reasons
