"""What a figure owes to having been fitted on the same patients, and whether an addition adds anything at all.

Axis legend: B cases, P columns of the baseline, Q columns that are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hypoxnet.metrics.bootstrap import ENOUGH_DEFINED, Index, resampled

Array = NDArray[np.float64]
Model = TypeVar("Model")
Fit = Callable[[Index], Model]
Score = Callable[[Model, Index], float | None]


@dataclass(frozen=True, slots=True)
class Optimism:
    """A figure of a fitted model, corrected for having been fitted on the patients that score it.

    Args:
        apparent: Figure on the patients of the fit.
        optimism: How much higher a refitted model scores on its own patients than on all.
        corrected: The difference of both.
        low: Lower limit of the 95 % interval of `corrected`.
        high: Upper limit.
    """

    apparent: float
    optimism: float
    corrected: float
    low: float
    high: float


def optimism_corrected(
    fit: Fit[Model], score: Score[Model], patients: Sequence[str], *, resamplings: int, seed: int = 0
) -> Optimism | None:
    """Harrell's bootstrap: the whole fit is repeated in each resample, and scored there and on the original patients.

    Everything that looked at the outcome (choice of variables, of thresholds) belongs into `fit`.

    Args:
        fit: From the indices of cases to a model.
        score: From a model and the indices of cases to a figure; None where it is not defined.
        patients: Whose each case is; patients are drawn with all their cases.
        resamplings: Number of bootstrap samples.
        seed: Seed.

    Returns:
        The figures; None when the apparent figure, or that of more than half of the resamples, is not defined. The
        interval is that of the refitted models on their own patients, shifted by the optimism.

    Source:
        Harrell, Lee and Mark 1996, Stat Med 15:361, section 5. Efron and Gong 1983, Am Stat 37:36. Noma et al. 2021,
        Stat Med 40:5691 (shifted interval).

    Example:
        >>> y = np.array([0.0, 1.0, 2.0, 6.0])
        >>> result = optimism_corrected(
        ...     lambda index: float(y[index].mean()),
        ...     lambda mean, index: -float(((y[index] - mean) ** 2).mean()),
        ...     list("abcd"), resamplings=400)
        >>> result.optimism > 0, result.corrected == result.apparent - result.optimism
        (True, True)
    """
    everyone = np.arange(len(patients))
    apparent = _number(score(fit(everyone), everyone))
    if apparent is None:
        return None
    gaps, own = [], []
    for index in resampled(patients, resamplings=resamplings, seed=seed):
        model = fit(index)
        inside, outside = _number(score(model, index)), _number(score(model, everyone))
        if inside is not None and outside is not None:
            gaps.append(inside - outside)
            own.append(inside)
    if not gaps or len(gaps) < ENOUGH_DEFINED * resamplings:
        return None
    optimism = float(np.mean(gaps))
    low, high = (float(limit) - optimism for limit in np.percentile(own, [2.5, 97.5]))
    return Optimism(apparent, optimism, apparent - optimism, low, high)


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """Result of a permutation test.

    Args:
        gain: The observed gain.
        p_value: (1 + permutations that gain as much) / (1 + permutations); never 0.
        permutations: How many permutations had a defined gain.
    """

    gain: float
    p_value: float
    permutations: int


def permutation_test(
    gain: Callable[[Index], float | None],
    patients: int,
    *,
    permutations: int,
    strata: Sequence[int] | None = None,
    seed: int = 0,
) -> PermutationTest | None:
    """Does the addition gain more than the same addition dealt out to the wrong patients?

    Args:
        gain: From an order of the patients to the gain of the model that is refitted with the added columns taken in
            this order; None where it is not defined. `nested_gain` makes one.
        patients: How many there are.
        permutations: How many orders to draw.
        strata: B, such as the fold that withheld the patient; each changes places only with those of its own. None is
            one stratum.
        seed: Seed.

    Returns:
        The test; None when the observed gain, or that of more than half of the permutations, is not defined. One
        patient has one order, and the p-value is 1.

    Source:
        Phipson and Smyth 2010, Stat Appl Genet Mol Biol 9:39 (the p-value of drawn permutations).

    Example:
        >>> x = np.arange(8.0)
        >>> test = permutation_test(lambda order: float(x @ x[order]), 8, permutations=99)
        >>> test.gain, test.p_value
        (140.0, 0.01)
    """
    observed = _number(gain(np.arange(patients)))
    if observed is None:
        return None
    generator = np.random.default_rng(seed)
    of_stratum = np.zeros(patients, dtype=np.int64) if strata is None else np.asarray(strata)
    members = [np.flatnonzero(of_stratum == name) for name in np.unique(of_stratum)]
    drawn = [_number(gain(_dealt(members, patients, generator))) for _ in range(permutations)]
    defined = np.array([number for number in drawn if number is not None])
    if len(defined) < ENOUGH_DEFINED * permutations:
        return None
    # Sums in another order differ in the last digits; such a permutation gains as much.
    slack = 1e-9 * max(1.0, abs(observed))
    as_much = int((defined >= observed - slack).sum())
    return PermutationTest(observed, (1 + as_much) / (1 + len(defined)), len(defined))


def _dealt(members: Sequence[Index], patients: int, generator: np.random.Generator) -> Index:
    """An order in which patients change places within each stratum."""
    order = np.arange(patients)
    for own in members:
        order[own] = own[generator.permutation(len(own))]
    return order


def unexplained(baseline: Array, added: Array) -> Array:
    """The part of added columns that baseline columns do not explain, B Q: the residual of a linear regression.

    Args:
        baseline: B P.
        added: B Q.
    """
    with_constant = np.column_stack([np.ones(len(baseline)), baseline])
    return np.asarray(added - with_constant @ np.linalg.lstsq(with_constant, added, rcond=None)[0])


def nested_gain(
    fit_and_score: Callable[[Array], float | None], baseline: Array, added: Array
) -> Callable[[Index], float | None]:
    """The gain of baseline and added columns over the baseline alone, for `permutation_test`.

    What is dealt out is the part of the added columns that the baseline does not explain (the residual of a linear
    regression): uptake goes with volume, and permuted as it stands it would lose that as well. A linear model gains
    the same by the residuals as by the columns.

    Args:
        fit_and_score: From B columns to the score of a model fitted on them, such as a C index or a log-likelihood;
            None where it is not defined.
        baseline: B P, columns of the smaller model, such as volume and stage.
        added: B Q, columns that the larger model has besides, such as imaging features.

    Returns:
        From an order of the patients to the gain.

    Source:
        Potter 2005, Stat Med 24:693 (permutation of regressor residuals).
    """
    residual = unexplained(baseline, added)
    smaller = fit_and_score(baseline)

    def gain(order: Index) -> float | None:
        larger = fit_and_score(np.column_stack([baseline, residual[order]]))
        return None if larger is None or smaller is None else larger - smaller

    return gain


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
