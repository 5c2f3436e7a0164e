"""T1 from inversions: inversion recovery, and Look-Locker or MOLLI trains.

Axis legend: T inversion times, N voxels (or any shape after T).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import FitOptions, FitResult, Parameter, Progress, fit
from hypoxnet.maps.relaxometry import M0, T1, T1_HIGH_S, T1_LOW_S

# T1 at which recoveries are tried before the fit begins, s: with steps of a quarter, one voxel in a thousand ended in
# the wrong one of two minima.
TRIED = tuple(0.04 * 1.1**i for i in range(56))


class InversionRecovery:
    """S = M0 (1 - 2 exp(-TI/T1)), or its magnitude.

    Args:
        times_s: T, inversion times.
        magnitude: The signal has lost its sign.
        efficiency: Of the inversion; 1 turns the magnetisation wholly over.

    Source:
        Barral et al. 2010, Magn Reson Med 64:1057 (polarity from the data).
    """

    parameters = (T1, M0)

    def __init__(self, times_s: Tensor, *, magnitude: bool, efficiency: float = 1.0) -> None:
        # With two magnitudes and two unknowns the lost sign makes two answers, both exact.
        check_inversion_times(times_s, least=3 if magnitude else 2)
        if not 0.5 < efficiency <= 1:
            raise MapError(f"the inversion efficiency is {efficiency:g}; give a share between 0.5 and 1")
        self.times = times_s.double()
        self.magnitude = magnitude
        self.depth = 2 * efficiency

    @property
    def samples(self) -> int:
        """Number of inversion times."""
        return len(self.times)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal, and its derivatives by T1 and M0."""
        t1, m0 = values
        times = self.times.to(values)[:, None]
        decay = torch.exp(-times / t1)
        unit = 1 - self.depth * decay
        by_t1 = -m0 * self.depth * decay * times / t1**2
        if self.magnitude:
            sign = torch.where(unit < 0, -1.0, 1.0).to(values)
            unit, by_t1 = unit * sign, by_t1 * sign
        return m0 * unit, torch.stack([by_t1, unit])

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The best of a row of T1, each with its best M0."""
        best = signal.new_full((2, signal.shape[1]), math.nan)
        lowest = signal.new_full((signal.shape[1],), math.inf)
        for t1 in TRIED:
            unit = 1 - self.depth * torch.exp(-self.times / t1)
            unit = (unit.abs() if self.magnitude else unit).to(signal)
            m0 = (unit @ signal) / (unit @ unit)
            cost = ((signal - unit[:, None] * m0) ** 2).sum(0)
            better = cost < lowest
            best = torch.where(better, torch.stack([torch.full_like(m0, t1), m0]), best)
            lowest = torch.where(better, cost, lowest)
        return best


class LookLocker:
    """S = A - B exp(-TI/T1*), or its magnitude; T1 = T1* (B/A - 1) by `corrected_t1`.

    Args:
        times_s: T, times after the inversion, sorted or not.
        magnitude: The signal has lost its sign.

    Source:
        Deichmann and Haase 1992, J Magn Reson 96:608; MOLLI: Messroghli et al. 2004, Magn Reson Med 52:141.
    """

    parameters = (
        Parameter("t1_apparent", "s", T1_LOW_S, T1_HIGH_S, 1.0),
        Parameter("a", "a.u.", 0.0, math.inf, 1.0),
        Parameter("b", "a.u.", 0.0, math.inf, 2.0),
    )

    def __init__(self, times_s: Tensor, *, magnitude: bool) -> None:
        check_inversion_times(times_s, least=3)
        self.times = times_s.double()
        self.magnitude = magnitude

    @property
    def samples(self) -> int:
        """Number of times."""
        return len(self.times)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Signal, and its derivatives by T1*, A and B."""
        t1, a, b = values
        times = self.times.to(values)[:, None]
        decay = torch.exp(-times / t1)
        signal = a - b * decay
        rows = torch.stack([-b * decay * times / t1**2, torch.ones_like(decay), -decay])
        if self.magnitude:
            sign = torch.where(signal < 0, -1.0, 1.0).to(values)
            return signal * sign, rows * sign
        return signal, rows

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The best of a row of T1* and, for magnitudes, of the place where the sign changes."""
        order = torch.argsort(self.times)
        best = signal.new_full((3, signal.shape[1]), math.nan)
        lowest = signal.new_full((signal.shape[1],), math.inf)
        for flipped in range(self.samples if self.magnitude else 1):
            sign = torch.ones(self.samples, dtype=torch.float64)
            sign[order[:flipped]] = -1
            for t1 in TRIED[::4]:
                design = torch.stack([torch.ones_like(self.times), -torch.exp(-self.times / t1)])
                weights = torch.linalg.solve(design @ design.T, design * sign).to(signal)
                a, b = weights @ signal
                fitted = design.T.to(signal) @ torch.stack([a, b])
                cost = ((sign.to(signal)[:, None] * signal - fitted) ** 2).sum(0)
                better = (cost < lowest) & (a > 0) & (b > 0)
                best = torch.where(better, torch.stack([torch.full_like(a, t1), a, b]), best)
                lowest = torch.where(better, cost, lowest)
        return best


def corrected_t1(t1_apparent_s: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """T1 from the apparent T1* of a Look-Locker train.

    Example:
        >>> round(corrected_t1(torch.tensor(1.05), torch.tensor(1.0), torch.tensor(1.9)).item(), 4)
        0.945
    """
    return t1_apparent_s * (b / a - 1)


def check_inversion_times(times_s: Tensor, *, least: int) -> None:
    """Refuse inversion times that are too few, negative, or in ms.

    Raises:
        MapError: As named.
    """
    if len(torch.unique(times_s)) < least:
        raise MapError(
            f"there are {len(torch.unique(times_s))} different inversion times, {least} are needed; measure more"
        )
    if not (float(times_s.min()) >= 0 and float(times_s.max()) <= 20):  # nan is refused too
        raise MapError(
            f"inversion times of {float(times_s.min()):g} to {float(times_s.max()):g} s; none is negative or longer "
            "than 20 s: give seconds, not ms"
        )


def t1_from_inversions(
    signal: Tensor,
    times_s: Tensor,
    *,
    magnitude: bool = True,
    efficiency: float = 1.0,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """T1 (s) and M0 from inversion recovery with full recovery between inversions; see `InversionRecovery`."""
    model = InversionRecovery(times_s, magnitude=magnitude, efficiency=efficiency)
    return fit(model, signal, mask=mask, options=FitOptions(), progress=progress)


def t1_from_look_locker(
    signal: Tensor,
    times_s: Tensor,
    *,
    magnitude: bool = True,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """T1 (s) from a Look-Locker or MOLLI train, beside its apparent T1*, A and B; see `LookLocker`.

    The standard error of `t1` is that of T1* times the correction: A and B are known far better.
    """
    found = fit(LookLocker(times_s, magnitude=magnitude), signal, mask=mask, progress=progress)
    correction = found.values["b"] / found.values["a"] - 1
    t1 = corrected_t1(found.values["t1_apparent"], found.values["a"], found.values["b"])
    t1 = torch.where((t1 > 0) & (t1 <= T1_HIGH_S), t1, float("nan"))
    errors = {**found.errors, "t1": found.errors["t1_apparent"] * correction}
    return FitResult({**found.values, "t1": t1}, errors, found.residual, found.r2, found.status)
