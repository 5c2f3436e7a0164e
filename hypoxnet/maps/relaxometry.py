"""Longitudinal relaxation: variable flip angle, inversion recovery, Look-Locker.

Axis legend: T samples (flips or inversion times), N voxels (or any shape after T).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.fitting import FitResult, Parameter, Progress, fit
from hypoxnet.maps.linear import line, map_lines

MILLISECONDS = 1000.0
# Water in the body relaxes with a T1 between these, at the fields in use.
T1_LOW_S, T1_HIGH_S = 0.02, 8.0
T1 = Parameter("t1", "s", T1_LOW_S, T1_HIGH_S, 1.0)
M0 = Parameter("m0", "a.u.", 0.0, math.inf, 1.0)
# No tissue relaxes so slowly; a larger T1 is in ms.
T1_TOO_LONG_S = 20.0


def spoiled_gradient_echo(m0: Tensor, r1_per_s: Tensor, *, flip_rad: Tensor | float, tr_s: float) -> Tensor:
    """Steady-state signal of a spoiled gradient echo, in the unit of `m0`.

    Args:
        m0: Signal of full magnetisation at a flip of 90 degrees.
        r1_per_s: Relaxation rate.
        flip_rad: Flip angle as it was, B1 included.
        tr_s: Repetition time.

    Source:
        Fram et al. 1987, Magn Reson Imaging 5:201.

    Example:
        >>> one = torch.tensor(1.0, dtype=torch.float64)
        >>> round(spoiled_gradient_echo(one, one, flip_rad=math.radians(12), tr_s=0.005).item(), 7)
        0.0387927
    """
    flip = torch.as_tensor(flip_rad, dtype=r1_per_s.dtype, device=r1_per_s.device)
    lost = -torch.expm1(-tr_s * r1_per_s)  # 1 - E1 without cancellation
    return m0 * torch.sin(flip) * lost / (1 - torch.cos(flip) * (1 - lost))


def ernst_angle_deg(tr_s: float, t1_s: float) -> float:
    """Flip angle of the largest signal.

    Example:
        >>> round(ernst_angle_deg(0.005, 1.0), 4)
        5.7248
    """
    return math.degrees(math.acos(math.exp(-tr_s / t1_s)))


def spoiled_signal_to_r1(
    signal: Tensor, *, t10_s: Tensor, flip_rad: Tensor | float, tr_s: float, baseline: slice
) -> Tensor:
    """R1 during a dynamic series of spoiled gradient echoes, from T1 before it.

    Args:
        signal: T x voxels, arbitrary unit.
        t10_s: T1 of the baseline; voxels, or one value.
        flip_rad: Flip angle as it was; voxels, or one value.
        tr_s: Repetition time.
        baseline: Volumes with that T1.

    Returns:
        T x voxels, 1/s; nan where no relaxation rate gives the signal.

    Raises:
        MapError: The baseline has no volume.
    """
    before = signal[baseline]
    if len(before) == 0:
        raise MapError(
            f"the baseline {baseline.start or 0} to {baseline.stop} has no volume of {len(signal)}; name volumes "
            "before the change"
        )
    flip = torch.as_tensor(flip_rad, dtype=signal.dtype, device=signal.device)
    r10 = 1 / torch.as_tensor(t10_s, dtype=signal.dtype, device=signal.device)
    full = spoiled_gradient_echo(torch.ones_like(r10), r10, flip_rad=flip, tr_s=tr_s)
    m0 = before.mean(0) / full
    top = m0 * torch.sin(flip)
    decay = (signal - top) / (signal * torch.cos(flip) - top)
    # Above 1 the magnetisation would grow: a signal beyond that of full relaxation.
    r1 = -torch.log(torch.where((decay > 0) & (decay <= 1) & (m0 > 0), decay, float("nan"))) / tr_s
    return torch.where(signal > 0, r1, float("nan"))


def t1_from_flips(
    signal: Tensor,
    flips_deg: Tensor,
    *,
    tr_s: float,
    b1: Tensor | None = None,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """T1 from variable flip angles by the straight line through S/sin against S/tan.

    Args:
        signal: T x voxels, one volume per flip angle.
        flips_deg: T, nominal flip angles.
        tr_s: Repetition time, the same for all.
        b1: Voxels, actual over nominal flip angle; 1 when None. T1 is off by about twice the error of B1.
        mask: Voxels to fit.
        progress: Called with voxels done and all voxels.

    Returns:
        `t1` in s and `m0`; nan where the line has no T1.

    Raises:
        MapError: Fewer than two angles, angles that cannot be, a TR that is in ms.

    Source:
        Gupta 1977, J Magn Reson 25:231; Deoni et al. 2003, Magn Reson Med 49:515.
    """
    flips = _checked_flips(signal, flips_deg, tr_s)
    scale = _b1_of(signal, b1)

    def work(samples: Tensor, part: slice) -> dict[str, Tensor]:
        sums = _constant_sums(samples, flips) if scale is None else _voxel_sums(samples, flips[:, None] * scale[part])
        found = line(*sums, samples=len(samples))
        decay = torch.where((found.slope > 0) & (found.slope < 1), found.slope, float("nan"))
        t1 = -tr_s / torch.log(decay)
        error = found.slope_error * t1**2 / (tr_s * decay)
        in_range = (t1 >= T1_LOW_S) & (t1 <= T1_HIGH_S)
        return {
            "t1": torch.where(in_range, t1, float("nan")),
            "m0": found.intercept / (1 - decay),
            **found.scatter(),
            "error": error,
        }

    return map_lines(work, signal, mask=mask, names=("t1", "m0"), done=progress)


def _constant_sums(samples: Tensor, flips: Tensor) -> tuple[Tensor, ...]:
    """Sums over flips when all voxels share them: two matrix products."""
    inverse_sin, inverse_tan = (1 / torch.sin(flips)).to(samples), (1 / torch.tan(flips)).to(samples)
    first = torch.stack([inverse_tan, inverse_sin]) @ samples
    squares = torch.stack([inverse_tan**2, inverse_tan * inverse_sin, inverse_sin**2]) @ (samples * samples)
    count = torch.full_like(first[0], float(len(samples)))
    return count, first[0], first[1], squares[0], squares[1], squares[2]


def _voxel_sums(samples: Tensor, flips: Tensor) -> tuple[Tensor, ...]:
    x, y = samples / torch.tan(flips), samples / torch.sin(flips)
    count = torch.full_like(x[0], float(len(samples)))
    return count, x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0), (y * y).sum(0)


def _checked_flips(signal: Tensor, flips_deg: Tensor, tr_s: float) -> Tensor:
    if len(signal) != len(flips_deg):
        raise MapError(f"there are {len(signal)} volumes and {len(flips_deg)} flip angles; give one angle per volume")
    if len(torch.unique(flips_deg)) < 2:
        raise MapError("variable flip angles need at least two different angles; give the series with its angles")
    if not (float(flips_deg.min()) > 0 and float(flips_deg.max()) < 180):  # nan is refused too
        raise MapError(
            f"flip angles of {float(flips_deg.min()):g} to {float(flips_deg.max()):g} degrees; give degrees between 0 "
            "and 180"
        )
    if float(flips_deg.max()) < 1:
        raise MapError(f"the largest flip angle is {float(flips_deg.max()):g} degrees; give degrees, not radians")
    check_tr(tr_s)
    # float64: the slope is exp(-TR/T1), a few per mille below 1.
    return torch.deg2rad(flips_deg.double()).to(signal.device)


def check_tr(tr_s: float) -> None:
    """Refuse a repetition time that is not in seconds.

    Raises:
        MapError: It is longer than any spoiled sequence has, or not positive.
    """
    if not 0 < tr_s < 1:
        raise MapError(
            f"the repetition time is {tr_s:g} s; spoiled gradient echoes have 0.001 to 0.5 s: give seconds, not ms"
        )


def _b1_of(signal: Tensor, b1: Tensor | None) -> Tensor | None:
    if b1 is None:
        return None
    if b1.shape != signal.shape[1:]:
        raise MapError(
            f"the B1 map has {' x '.join(map(str, b1.shape))} voxels, the series "
            f"{' x '.join(map(str, signal.shape[1:]))}; resample it"
        )
    check_b1(b1)
    return b1.reshape(-1)


def check_b1(b1: Tensor | None) -> None:
    """Refuse a B1 map that is not actual over nominal flip angle.

    Raises:
        MapError: Its median is far from 1.
    """
    if b1 is None:
        return
    middle = float(b1[torch.isfinite(b1) & (b1 > 0)].median()) if bool((b1 > 0).any()) else 0.0
    if not 0.2 < middle < 3:
        raise MapError(f"the B1 map has a median of {middle:g}, it is actual over nominal flip angle; divide % by 100")


def refuse_milliseconds(t1_s: Tensor, name: str) -> None:
    """Refuse T1 that cannot be in seconds.

    Raises:
        MapError: Its median is longer than that of any tissue.
    """
    known = t1_s[torch.isfinite(t1_s) & (t1_s > 0)]
    if len(known) and float(known.median()) > T1_TOO_LONG_S:
        raise MapError(f"{name}: T1 has a median of {float(known.median()):.4g} s; give seconds, divide ms by 1000")


class SpoiledFlips:
    """Non-linear model of variable flip angles; known value per voxel: B1.

    Args:
        flips_deg: T, nominal.
        tr_s: Repetition time.
        linear: Where the fit begins, t1 and m0 of the straight line.
    """

    def __init__(self, flips_deg: Tensor, *, tr_s: float) -> None:
        check_tr(tr_s)
        self.flips = torch.deg2rad(flips_deg.double())
        self.tr_s = tr_s

    parameters = (T1, M0)

    @property
    def samples(self) -> int:
        """Number of flip angles."""
        return len(self.flips)

    def evaluate(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """S = M0 sin (1 - E) / (1 - E cos), and its derivatives by T1 and M0."""
        t1, m0 = values
        flips = self.flips.to(values)[:, None] * known[0]
        sin, cos = torch.sin(flips), torch.cos(flips)
        lost = -torch.expm1(-self.tr_s / t1)
        bottom = 1 - cos * (1 - lost)
        unit = sin * lost / bottom
        by_lost = sin * (1 - cos) / bottom**2
        lost_by_t1 = -(1 - lost) * self.tr_s / t1**2
        return m0 * unit, torch.stack([m0 * by_lost * lost_by_t1, unit])

    def start(self, signal: Tensor, known: Tensor) -> Tensor:
        """The straight line."""
        found = line(
            *_voxel_sums(signal.double(), self.flips[:, None].to(signal.device) * known[0].double()),
            samples=self.samples,
        )
        t1 = -self.tr_s / torch.log(torch.where(found.slope > 0, found.slope, float("nan")))
        start = torch.stack([t1, found.intercept / (1 - found.slope)])
        usable = (t1 > T1_LOW_S) & (t1 < T1_HIGH_S)
        rough = torch.stack([torch.ones_like(t1), 20 * signal.double().max(0).values])
        return torch.where(usable, start, rough)


def t1_from_flips_nonlinear(
    signal: Tensor,
    flips_deg: Tensor,
    *,
    tr_s: float,
    b1: Tensor | None = None,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """T1 from variable flip angles by least squares on the signal itself; arguments as for `t1_from_flips`."""
    _checked_flips(signal, flips_deg, tr_s)
    _b1_of(signal, b1)
    known = torch.ones_like(signal[:1]) if b1 is None else b1[None].to(signal)
    return fit(SpoiledFlips(flips_deg, tr_s=tr_s), signal, known=known, mask=mask, progress=progress)
