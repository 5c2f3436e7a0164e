"""Contrast-enhanced MRI: signal to concentration, and concentration to perfusion, permeability and volumes.

Axis legend: T times, N voxels (or any shape after T).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.compartments import CompartmentModel, LinearColumns
from hypoxnet.maps.convolution import running_integral
from hypoxnet.maps.fitting import Parameter
from hypoxnet.maps.relaxometry import spoiled_signal_to_r1

# Bounds and starts: those of the OSIPI reference fits; volumes keep off 0, where a rate has no meaning.
KTRANS = Parameter("ktrans", "1/min", 0.0, 5.0, 0.6)
VE = Parameter("ve", "1", 1e-3, 1.0, 0.2)
VP = Parameter("vp", "1", 0.0, 1.0, 0.01)
PS = Parameter("ps", "1/min", 0.0, 5.0, 0.6)
FP = Parameter("fp", "ml/100ml/min", 0.0, 200.0, 20.0)
VP_EXCHANGE = Parameter("vp", "1", 1e-3, 1.0, 0.02)
DELAY = Parameter("delay", "min", 0.0, 0.25, 0.0)
PERCENT = 100.0


class Tofts(CompartmentModel):
    """C = Ktrans Cp * exp(-Ktrans/ve t).

    Source:
        Tofts and Kermode 1991, Magn Reson Med 17:357.
    """

    unknowns = (KTRANS, VE)
    exponentials = 1

    def kinetics(self, values: Tensor) -> Tensor:
        """Amplitude Ktrans, rate kep."""
        ktrans, ve = values
        return torch.stack([ktrans, ktrans / ve, torch.zeros_like(ve)])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """C = Ktrans int Cp - kep int C."""
        ktrans, minus_kep = columns.solve(columns.input_once, columns.signal_once)
        return torch.stack([ktrans, ktrans / -minus_kep])


class ExtendedTofts(CompartmentModel):
    """C = vp Cp + Ktrans Cp * exp(-Ktrans/ve t).

    Source:
        Tofts 1997, J Magn Reson Imaging 7:91.
    """

    unknowns = (KTRANS, VE, VP)
    exponentials = 1

    def kinetics(self, values: Tensor) -> Tensor:
        """Amplitude Ktrans, rate kep, blood vp."""
        ktrans, ve, vp = values
        return torch.stack([ktrans, ktrans / ve, vp])

    def kinetics_jacobian(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Written out: this model is fitted most."""
        ktrans, ve, _ = values
        chain = values.new_zeros(3, 3, values.shape[1])
        chain[0, 0] = 1
        chain[0, 1] = 1 / ve
        chain[1, 1] = -ktrans / ve**2
        chain[2, 2] = 1
        return self.kinetics(values), chain

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """C = (Ktrans + kep vp) int Cp - kep int C + vp Cp."""
        joint, minus_kep, vp = columns.solve(columns.input_once, columns.signal_once, columns.input)
        ktrans = joint + minus_kep * vp
        return torch.stack([ktrans, ktrans / -minus_kep, vp])


class PatlakDce(CompartmentModel):
    """C = vp Cp + PS int Cp: no return from the tissue.

    Source:
        Patlak et al. 1983, J Cereb Blood Flow Metab 3:1.
    """

    unknowns = (PS, VP)
    exponentials = 1

    def kinetics(self, values: Tensor) -> Tensor:
        """Amplitude PS, rate 0, blood vp."""
        ps, vp = values
        return torch.stack([ps, torch.zeros_like(ps), vp])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """The model is linear: this is its solution."""
        return columns.solve(columns.input_once, columns.input)


class TwoCompartmentExchange(CompartmentModel):
    """Plasma and interstitium that exchange: flow Fp, permeability PS, volumes vp and ve.

    Source:
        Brix et al. 2004, Magn Reson Med 52:420; notation of Sourbron and Buckley 2012, Phys Med Biol 57:R1.
    """

    unknowns = (FP, PS, VE, VP_EXCHANGE)
    exponentials = 2

    def kinetics(self, values: Tensor) -> Tensor:
        """The two rates K+ and K- are the roots of a quadratic; the smaller one is taken free of cancellation."""
        fp, ps, ve, vp = values[0] / PERCENT, values[1], values[2], values[3]
        leave, back, flush = (fp + ps) / vp, ps / ve, fp / vp
        total = leave + back
        root = torch.sqrt((total**2 - 4 * back * flush).clamp(min=1e-6 * total**2 + 1e-12))
        fast = 0.5 * (total + root)
        slow = 2 * back * flush / (total + root)
        share = (fast - flush) / (fast - slow).clamp(min=1e-12)
        return torch.stack([fp * (1 - share), fp * share, fast, slow, torch.zeros_like(fp)])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """C = -alpha int int C - beta int C + gamma int int Cp + Fp int Cp."""
        minus_alpha, minus_beta, gamma, fp = columns.solve(
            columns.signal_twice, columns.signal_once, columns.input_twice, columns.input_once
        )
        alpha, beta = -minus_alpha, -minus_beta
        volume = gamma / alpha
        exchange_time = beta / alpha - volume / fp
        vp = fp / (alpha * exchange_time)
        ve = volume - vp
        start = torch.stack([fp * PERCENT, ve / exchange_time, ve, vp])
        usable = (alpha > 0) & (exchange_time > 0) & (vp > 0) & (ve > 0)
        return torch.where(usable, start, float("nan"))


class TwoCompartmentUptake(CompartmentModel):
    """Plasma that leaks into an interstitium from which nothing returns.

    Source:
        Sourbron and Buckley 2012, Phys Med Biol 57:R1.
    """

    unknowns = (FP, PS, VP_EXCHANGE)
    exponentials = 2

    def kinetics(self, values: Tensor) -> Tensor:
        """Fp (1 - E) exp(-t/Tp) + Fp E, with E = PS / (PS + Fp) and Tp = vp / (Fp + PS)."""
        fp, ps, vp = values[0] / PERCENT, values[1], values[2]
        extraction = ps / (ps + fp).clamp(min=1e-12)
        zero = torch.zeros_like(fp)
        return torch.stack([fp * (1 - extraction), fp * extraction, (fp + ps) / vp, zero, zero])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """C = -int C / Tp + Fp int Cp + Fp E / Tp int int Cp."""
        minus_rate, fp, uptake = columns.solve(columns.signal_once, columns.input_once, columns.input_twice)
        transit = -1 / minus_rate
        extraction = (uptake * transit / fp).clamp(0, 0.99)
        ps = extraction * fp / (1 - extraction)
        start = torch.stack([fp * PERCENT, ps, transit * (fp + ps)])
        return torch.where((transit > 0) & (fp > 0), start, float("nan"))


DCE_MODELS: dict[str, type[CompartmentModel]] = {
    "tofts": Tofts,
    "extended-tofts": ExtendedTofts,
    "patlak": PatlakDce,
    "2cxm": TwoCompartmentExchange,
    "2cum": TwoCompartmentUptake,
}


def signal_to_concentration(
    signal: Tensor,
    *,
    t10_s: Tensor,
    flip_rad: Tensor | float,
    tr_s: float,
    relaxivity_per_s_mm: float,
    baseline: slice,
) -> Tensor:
    """Concentration of contrast agent in the tissue from a spoiled gradient echo.

    Args:
        signal: T x voxels, arbitrary unit.
        t10_s: T1 before contrast; voxels, or one value.
        flip_rad: Flip angle as it was; voxels, or one value.
        tr_s: Repetition time.
        relaxivity_per_s_mm: r1 of the agent, 1/(s mM).
        baseline: Volumes before the contrast arrives. The reference curves of the OSIPI collection leave out the
            first volume, which is not yet in the steady state: `slice(1, n)`.

    Returns:
        T x voxels, mM; nan where no relaxation rate gives the signal.

    Raises:
        MapError: The baseline has no volume.
    """
    r1 = spoiled_signal_to_r1(signal, t10_s=t10_s, flip_rad=flip_rad, tr_s=tr_s, baseline=baseline)
    return (r1 - 1 / t10_s) / relaxivity_per_s_mm


def iauc(times_s: Tensor, concentration: Tensor, *, arrival_s: float, duration_s: float = 60.0) -> Tensor:
    """Initial area under the concentration curve, mM s.

    Args:
        times_s: T, increasing.
        concentration: T x voxels, mM.
        arrival_s: When the bolus arrives.
        duration_s: How long after it.

    Raises:
        MapError: The series ends before the duration is over.

    Source:
        Evelhoch 1999, J Magn Reson Imaging 10:254.

    Example:
        >>> times = torch.arange(0.0, 100.0, 5.0)
        >>> iauc(times, torch.ones(20, 1), arrival_s=7.5).item()
        60.0
    """
    end = arrival_s + duration_s
    if end > float(times_s[-1]) + 1e-6:
        raise MapError(
            f"the series ends at {float(times_s[-1]):.1f} s, the area is asked for until {end:.1f} s (arrival "
            f"{arrival_s:.1f} s); measure longer or shorten the duration"
        )
    flat = concentration.reshape(len(times_s), -1)
    whole = running_integral(times_s, flat)
    area = _integral_at(times_s, flat, whole, end) - _integral_at(times_s, flat, whole, arrival_s)
    return area.reshape(concentration.shape[1:])


def _integral_at(times: Tensor, curve: Tensor, whole: Tensor, at: float) -> Tensor:
    """The running integral at any time, the curve linear between its points."""
    after = int(torch.searchsorted(times, torch.tensor(at, dtype=times.dtype)).clamp(1, len(times) - 1))
    begin = float(times[after - 1])
    width, part = float(times[after]) - begin, max(0.0, at - begin)
    value = torch.lerp(curve[after - 1], curve[after], part / width)
    return whole[after - 1] + 0.5 * (curve[after - 1] + value) * part
