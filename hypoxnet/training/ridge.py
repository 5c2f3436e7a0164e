"""How strong the ridge of a model of covariates alone is: what predicts patients left out best.

One strength per cause, by the likelihood of the patients left out of an inner cross-validation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hypoxnet.cases import FAILURE
from hypoxnet.errors import ConfigError
from hypoxnet.survival.time_models.base import TimeModel
from hypoxnet.training.ridge_fit import Array, Cohort, Effects, fit_effects, held_out_loss

# The inner cross-validation of a larger cohort looks at this many patients: the best strength, as a sum over patients,
# hardly depends on their number, and there it hardly matters.
INNER_PATIENTS = 2_000
# From here on one dealing is as good as several: with forty failures the best strength changes tenfold with the folds.
ONE_DEALING = 1_000
# Losses of patients left out are compared, not reported: they need no more digits than this gives.
INNER_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class RidgeOptions:
    """How the strength of the ridge is chosen; `model.options` of `model=covariates`.

    Args:
        strengths: Candidates, as a precision of the effect of a column with a standard deviation of 1; in the unit of
            the likelihood's curvature, which is about one per event.
        inner_folds: Folds of the inner cross-validation.
        inner_repeats: How often patients are dealt into folds anew; a cohort with a thousand patients is dealt once.
        one_standard_error: Take the strongest ridge within one standard error of the best rather than the best.
        by_site: Leave out hospitals rather than patients: every fold is made of whole sites.
        seed: Seed of the inner folds.
    """

    strengths: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    inner_folds: int = 5
    inner_repeats: int = 5
    one_standard_error: bool = False
    by_site: bool = False
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RidgeOptions:
        """From `model.options`.

        Raises:
            ConfigError: An option is unknown or out of its range.
        """
        unknown = [name for name in options if name not in cls.__dataclass_fields__]
        if unknown:
            raise ConfigError(
                f"model.options has {unknown[0]}, a model of covariates knows {', '.join(cls.__dataclass_fields__)}"
            )
        chosen = cls(**options)
        if not chosen.strengths or min(chosen.strengths) <= 0 or chosen.inner_folds < 2 or chosen.inner_repeats < 1:
            raise ConfigError(
                f"model.options.strengths is {list(chosen.strengths)}, inner_folds {chosen.inner_folds}, inner_repeats "
                f"{chosen.inner_repeats}; strengths must be above 0, folds at least 2, repeats at least 1"
            )
        return replace(chosen, strengths=tuple(sorted(float(value) for value in chosen.strengths)))


def choose_ridge(cohort: Cohort, time: TimeModel, options: RidgeOptions) -> tuple[float, ...]:
    """Strength per cause by the likelihood of patients left out, one cause after the other.

    Args:
        cohort: The training patients.
        time: The outcome model.
        options: Candidates and folds.

    Returns:
        One per cause; the strongest candidate for a cause that fewer than two patients met.
    """
    parts = inner_parts(cohort, options)
    strongest, middle = options.strengths[-1], options.strengths[len(options.strengths) // 2]
    counts = [int((cohort.event == cause + 1).sum()) for cause in range(time.causes)]
    ridge = [middle if count >= 2 else strongest for count in counts]
    starts: dict[int, Effects | None] = {}
    for cause, count in enumerate(counts):
        if count < 2 or not parts:
            continue
        losses = []
        for strength in reversed(options.strengths):
            ridge[cause] = strength
            losses.append([_left_out(cohort, time, part, ridge, starts, number) for number, part in enumerate(parts)])
        ridge[cause] = _best(np.array(losses)[::-1], options, weights=np.array([len(part.left_out) for part in parts]))
    return tuple(ridge)


def _left_out(
    cohort: Cohort,
    time: TimeModel,
    part: InnerPart,
    ridge: Sequence[float],
    starts: dict[int, Effects | None],
    number: int,
) -> float:
    """Mean loss of a fold under the model of the others; fits go on from those of the last strength."""
    fitted = fit_effects(cohort.of(part.fitted), time, ridge, starts.get(number), tolerance=INNER_TOLERANCE)
    starts[number] = fitted
    baseline = torch.from_numpy(fitted.baseline) if fitted.baseline.size else None
    with torch.no_grad():
        return float(held_out_loss(cohort.of(part.left_out), time, baseline, torch.from_numpy(fitted.weights)))


def _best(losses: Array, options: RidgeOptions, *, weights: NDArray[np.int64]) -> float:
    """The strength with the lowest loss of patients left out; losses are strengths by folds."""
    means = np.average(losses, axis=1, weights=weights)
    best = int(means.argmin())
    if options.one_standard_error:
        # Repeats look at the same patients again, and make the error no smaller.
        error = float(losses[best].std(ddof=1) / math.sqrt(min(options.inner_folds, losses.shape[1])))
        best = max(index for index, mean in enumerate(means) if mean <= means[best] + error)
    return float(options.strengths[best])


@dataclass(frozen=True, slots=True)
class InnerPart:
    """Who is fitted and who is left out in one fold of the inner cross-validation, as places in the cohort."""

    fitted: NDArray[np.int64]
    left_out: NDArray[np.int64]


def inner_parts(cohort: Cohort, options: RidgeOptions) -> list[InnerPart]:
    """Patients dealt into folds, event by event, at most `INNER_PATIENTS` of them and small cohorts several times.

    Fewer folds where few failed, none where fewer than two did. With `by_site` whole hospitals are dealt, once.

    Raises:
        ConfigError: `by_site`, and the patients are of fewer than three sites.
    """
    generator = np.random.default_rng(options.seed)
    event = cohort.event.numpy()
    if options.by_site:
        return _parts_of(_folds_of_sites(cohort, generator.permutation(len(event))[:INNER_PATIENTS], options))
    parts = []
    for _ in range(options.inner_repeats if len(event) < ONE_DEALING else 1):
        chosen = generator.permutation(len(event))[:INNER_PATIENTS]
        order = chosen[np.argsort(event[chosen], kind="stable")]
        count = min(options.inner_folds, int((event[order] == FAILURE).sum()))
        parts += _parts_of([np.sort(order[number::count]) for number in range(count)] if count >= 2 else [])
    return parts


def _parts_of(folds: Sequence[NDArray[np.int64]]) -> list[InnerPart]:
    """Each fold left out once."""
    return [
        InnerPart(np.concatenate([fold for other, fold in enumerate(folds) if other != number]), left_out)
        for number, left_out in enumerate(folds)
    ]


def _folds_of_sites(cohort: Cohort, chosen: NDArray[np.int64], options: RidgeOptions) -> list[NDArray[np.int64]]:
    """Sites, the one with most failures first, each into the fold that has fewest."""
    names = np.array(cohort.sites)[chosen] if cohort.sites else np.empty(0)
    sites = np.unique(names)
    if len(sites) < 3:
        raise ConfigError(
            f"model.options.by_site leaves out hospitals, and the training patients are of {len(sites)}; it takes "
            "three in the column site, or by_site=false"
        )
    places = [np.sort(chosen[names == site]) for site in sites]
    failures = [int((cohort.event.numpy()[place] == FAILURE).sum()) for place in places]
    count = min(options.inner_folds, len(sites))
    folds: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
    held = [0] * count
    for number in sorted(range(len(sites)), key=lambda number: -failures[number]):
        fold = min(range(count), key=lambda fold: (held[fold], len(folds[fold])))
        folds[fold].append(places[number])
        held[fold] += failures[number]
    return [np.sort(np.concatenate(fold)) for fold in folds]
