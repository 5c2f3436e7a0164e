"""What was found that would make figures too good, and the words in which a run is refused for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypoxnet.errors import ConfigError

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was found.

    Args:
        kind: As `split.allow_leakage` names it.
        sentence: The evidence and the remedy.
        stops: Whether the run must not go on unless the kind is allowed; else it is a warning.
        line: Of the manifest, where the finding is; of a column the header's.
        covariate: Which one it is about; empty when it is about something else.
    """

    kind: str
    sentence: str
    stops: bool = True
    line: int = 1
    covariate: str = ""


def refuse_leaks(leaks: Sequence[Leak], allowed: Sequence[str], covariates: Sequence[str] = ()) -> tuple[str, ...]:
    """Stop where a leak stops a run.

    Args:
        leaks: What was found.
        allowed: Kinds that the user knows of, `split.allow_leakage`.
        covariates: Covariates that the model reads, to name those that would be left.

    Returns:
        The sentences of all the others, as warnings.

    Raises:
        ConfigError: A leak stops the run and its kind is not allowed; with the evidence of the first ones, what to do,
            and what allowing them would mean.

    Example:
        >>> refuse_leaks([Leak("site_code", "ADC is there at the site north only", stops=False)], [])
        ('ADC is there at the site north only',)
    """
    fatal = [leak for leak in leaks if leak.stops and leak.kind not in allowed]
    if not fatal:
        return tuple(leak.sentence for leak in leaks)
    more = [f"(and {len(fatal) - SHOWN} more)"] if len(fatal) > SHOWN else []
    kinds = ", ".join(dict.fromkeys(leak.kind for leak in fatal))
    raise ConfigError(
        "\n".join(
            [
                "nothing was trained: the figures on withheld patients would be too good to hold for new patients",
                *(f"{leak.kind}: {leak.sentence}" for leak in fatal[:SHOWN]),
                *more,
                *_without(fatal, covariates),
                f"only where a finding is known to be wrong, split.allow_leakage can name its kind ({kinds}): the run "
                "then goes on, its report says what was allowed, and if the finding was right its figures mean nothing",
            ]
        )
    )


def _without(fatal: Sequence[Leak], covariates: Sequence[str]) -> Iterator[str]:
    """The setting that trains without the covariates that were found; nothing where none was or none is left."""
    found = {leak.covariate for leak in fatal}
    left = [name for name in covariates if name not in found]
    if left and len(left) < len(covariates):
        yield f"to train without: 'data.covariates=[{','.join(left)}]'"
