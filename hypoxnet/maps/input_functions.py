"""What arrives in the tissue: population curves, curves from files, and curves found in the image itself.

Times in minutes, concentrations in mM (contrast agents) or kBq/ml (tracers). Axis legend: M times, N voxels.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import label as connected
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.compartments import Timing, shifted
from hypoxnet.maps.convolution import Convolution

SECONDS = 60.0
# Haematocrit of an adult; the value beside the population curve of Parker et al.
HAEMATOCRIT = 0.42
# A curve of a vessel scatters by this many standard deviations without having risen.
NOISE_SDS = 5.0


@dataclass(frozen=True, slots=True)
class InputFunction:
    """Concentration in arterial plasma and in whole blood.

    Args:
        times_min: M, increasing.
        plasma: M.
        blood: M, what the vessels inside a voxel show.
        source: Where it comes from, for the sidecar.

    Raises:
        MapError: Times do not increase, lengths differ, a value is not finite, or the curve never rises.
    """

    times_min: Tensor
    plasma: Tensor
    blood: Tensor
    source: str

    def __post_init__(self) -> None:
        increasing(self.times_min, "the input function")
        for curve in (self.plasma, self.blood):
            if curve.shape != self.times_min.shape:
                raise MapError(
                    f"the input function has {len(curve)} values at {len(self.times_min)} times; give one per time"
                )
            if not torch.isfinite(curve).all():
                raise MapError("the input function has values that are not numbers; mend or remove these rows")
        if float(self.plasma.max()) <= 0:
            raise MapError(
                f"the input function never rises, its maximum is {float(self.plasma.max()):.3g}; give a vessel's curve"
            )

    def delayed(self, delay_min: float) -> InputFunction:
        """The same bolus, arriving later (earlier when negative)."""
        return replace(
            self,
            plasma=shifted(self.times_min, self.plasma, delay_min),
            blood=shifted(self.times_min, self.blood, delay_min),
        )

    def dispersed(self, tau_min: float) -> InputFunction:
        """The bolus after mixing on its way, convolved with exp(-t / tau) / tau.

        Source:
            Iida et al. 1986, J Cereb Blood Flow Metab 6:536.
        """
        if tau_min <= 0:
            return self
        rate = torch.tensor([1 / tau_min], dtype=torch.float64)
        plasma, blood = (Convolution(self.times_min, c)(rate)[0][:, 0] / tau_min for c in (self.plasma, self.blood))
        return replace(self, plasma=plasma, blood=blood)

    def on(self, times_min: Tensor) -> tuple[Tensor, Tensor]:
        """Plasma and blood at other times: a monotone cubic between the points, 0 before the first.

        Raises:
            MapError: The times go beyond the last one.

        Source:
            Fritsch and Carlson 1980, SIAM J Numer Anal 17:238.
        """
        last = float(self.times_min[-1])
        if float(times_min[-1]) > last + 1e-6 * max(1.0, last):
            raise MapError(
                f"the input function ends at {last:.3g} min, the tissue was measured until "
                f"{float(times_min[-1]):.3g} min; measure the input as long as the tissue"
            )
        wanted = times_min.double().numpy().clip(max=last)
        out = []
        for curve in (self.plasma, self.blood):
            values = PchipInterpolator(self.times_min.numpy(), curve.numpy(), extrapolate=False)(wanted)
            out.append(torch.from_numpy(np.nan_to_num(values, nan=0.0)))
        return out[0], out[1]


def increasing(times: Tensor, whose: str) -> None:
    """Refuse times that do not increase.

    Raises:
        MapError: Fewer than two times, or one that is not later than the one before.
    """
    if len(times) < 2:
        raise MapError(f"{whose} has {len(times)} time; give at least two")
    steps = torch.diff(times)
    if not bool((steps > 0).all()):
        where = int(torch.nonzero(~(steps > 0))[0])
        raise MapError(
            f"the times of {whose} do not increase: sample {where + 2} is at {float(times[where + 1]):g} after "
            f"{float(times[where]):g}; put them in order"
        )


def from_blood(
    times_min: Tensor, blood: Tensor, *, haematocrit: float = HAEMATOCRIT, source: str = "given"
) -> InputFunction:
    """An input whose agent stays in the plasma (contrast agents): plasma = blood / (1 - haematocrit).

    Raises:
        MapError: The haematocrit is not a fraction, or the curve is unusable.
    """
    if not 0 <= haematocrit < 0.8:
        raise MapError(f"the haematocrit is {haematocrit:g}, it is a fraction below 0.8; give 0.42 for 42 %")
    blood = blood.double()
    return InputFunction(times_min.double(), blood / (1 - haematocrit), blood, source)


def parker(times_min: Tensor) -> Tensor:
    """Population curve of whole blood after 0.1 mmol/kg, mM; 0 before the bolus at 0.

    Source:
        Parker et al. 2006, Magn Reson Med 56:993.

    Example:
        >>> round(parker(torch.tensor([0.17046], dtype=torch.float64)).item(), 5)
        6.06925
    """
    t = times_min.double()
    out = torch.zeros_like(t)
    for area, centre, width in ((0.809, 0.17046, 0.0563), (0.330, 0.365, 0.132)):
        out += area / (width * math.sqrt(2 * math.pi)) * torch.exp(-((t - centre) ** 2) / (2 * width**2))
    out += 1.050 * torch.exp(-0.1685 * t) / (1 + torch.exp(-38.078 * (t - 0.483)))
    return torch.where(t >= 0, out, 0.0)


@cache
def _georgiou_table() -> tuple[Tensor, Tensor]:
    text = resources.files("hypoxnet.maps").joinpath("tables/georgiou_2018.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines() if line[0].isdigit()]
    table = torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64)
    return table[:, 0].contiguous(), table[:, 1].contiguous()


def georgiou(times_min: Tensor) -> Tensor:
    """Population curve of whole blood at high temporal resolution, mM; 0 before the bolus at 0.

    Until 5 minutes the published table; later its slowest exponential, as in the functional form of the paper.

    Source:
        Georgiou et al. 2019, Magn Reson Med 81:1955.

    Example:
        >>> round(georgiou(torch.tensor([0.125], dtype=torch.float64)).item(), 4)
        8.6455
    """
    at, values = _georgiou_table()
    t = times_min.double()
    inside = torch.from_numpy(np.interp(t.numpy(), at.numpy(), values.numpy(), left=0.0))
    late = values[-1] * torch.exp(-0.11 * (t - at[-1]))
    return torch.where(t > at[-1], late, inside)


def preclinical(times_min: Tensor) -> Tensor:
    """Population curve of whole blood in the rat, mM; rises in a straight line for 7 s, then two exponentials.

    Source:
        McGrath et al. 2009, Magn Reson Med 61:1173, model B.

    Example:
        >>> round(preclinical(torch.tensor([7.0 / 60], dtype=torch.float64)).item(), 2)
        5.21
    """
    t = times_min.double() * SECONDS
    rise = 7.0
    after = 3.4 * torch.exp(-0.045 * (t - rise)) + 1.81 * torch.exp(-0.0015 * (t - rise))
    return torch.where(t < rise, (5.21 * t / rise).clamp(min=0), after)


def feng(times_min: Tensor) -> Tensor:
    """Population plasma curve shaped like that of FDG, kBq/ml; for simulation: other tracers clear differently.

    Source:
        Feng et al. 1993, Int J Biomed Comput 32:95 (model 2).

    Example:
        >>> round(feng(torch.tensor([0.5], dtype=torch.float64)).item(), 3)
        89.779
    """
    t = times_min.double()
    a1, a2, a3 = 851.1225, 21.8798, 20.8113
    l1, l2, l3 = -4.1339, -0.1191, -0.0104
    out = (a1 * t - a2 - a3) * torch.exp(l1 * t) + a2 * torch.exp(l2 * t) + a3 * torch.exp(l3 * t)
    return torch.where(t >= 0, out, 0.0)


POPULATION = {"parker": parker, "georgiou": georgiou, "preclinical": preclinical}


def population(name: str, times_min: Tensor, *, arrival_min: float, haematocrit: float = HAEMATOCRIT) -> InputFunction:
    """A population curve of a contrast agent whose bolus arrives at a given time.

    Raises:
        MapError: There is no curve of that name.
    """
    if name not in POPULATION:
        raise MapError(f"there is no population input {name!r}; there are {', '.join(POPULATION)}")
    curve = POPULATION[name](times_min.double() - arrival_min)
    return from_blood(times_min, curve, haematocrit=haematocrit, source=f"population ({name})")


def read_input(path: Path, *, haematocrit: float = 0.0) -> InputFunction:
    """An input function from a table with a header: `time_s` or `time_min`, then `plasma` and/or `blood`.

    Comma, semicolon, tab or blanks separate; lines that begin with # are comments.

    Args:
        path: The table.
        haematocrit: Turns blood into plasma where there is no column of plasma: 0 for a tracer that is in plasma and
            cells alike, that of the patient for a contrast agent.

    Raises:
        MapError: The file is missing, a column is, or a cell is no number.
    """
    if not path.is_file():
        raise MapError(f"the input function {path} does not exist; give a table with time_s and plasma")
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip() and line[0] != "#"]
    separator = next((s for s in ",;\t" if s in lines[0]), " ") if lines else ","
    rows = list(csv.DictReader(lines, delimiter=separator, skipinitialspace=True))
    names = {(name or "").strip().lower(): name for name in (rows[0] if rows else {})}
    time = next((n for n in ("time_s", "time_min") if n in names), "")
    if not time or not {"plasma", "blood"} & set(names):
        raise MapError(
            f"{path} has the columns {', '.join(names) or 'none'}; an input function needs time_s or time_min, and "
            "plasma or blood"
        )
    columns: dict[str, Tensor] = {}
    for name in {time, *({"plasma", "blood"} & set(names))}:
        try:
            columns[name] = torch.tensor([float(row[names[name]]) for row in rows], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise MapError(f"{path}: column {name} holds what is no number ({error}); mend the cell") from error
    times = columns[time] / (SECONDS if time == "time_s" else 1.0)
    source = f"file {path.name}"
    if "plasma" not in columns:
        return from_blood(times, columns["blood"], haematocrit=haematocrit, source=source)
    return InputFunction(times, columns["plasma"], columns.get("blood", columns["plasma"]), source)


def vessel_curve(series: Tensor, region: Tensor) -> Tensor:
    """Mean over a region of a vessel, T.

    Args:
        series: T x voxels.
        region: Voxels, bool.

    Raises:
        MapError: The region is empty, or its curve never rises above its noise.
    """
    if not bool(region.any()):
        raise MapError("the region of the vessel has no voxel; draw it in an artery of this series")
    curve = series[:, region.bool()].double().nanmean(1)
    bolus_arrival(curve)
    return curve


def bolus_arrival(curve: Tensor) -> int:
    """Index of the last sample before an enhancement curve rises.

    The rise begins where the line from the first sample to the peak lies furthest above the curve.

    Args:
        curve: T, concentration or signal of an artery or of the whole tumour.

    Raises:
        MapError: The curve never rises above its own noise.
    """
    peak = int(torch.argmax(curve))
    line = torch.linspace(float(curve[0]), float(curve[peak]), peak + 1, dtype=curve.dtype, device=curve.device)
    arrival = int(torch.argmax(line - curve[: peak + 1]))
    baseline = curve[: arrival + 1]
    scatter = float(baseline.std()) if len(baseline) > 2 else 0.0
    rise = float(curve[peak] - baseline.mean())
    if peak == 0 or not math.isfinite(rise) or rise <= NOISE_SDS * scatter or rise <= 0:
        raise MapError(
            f"the input function never rises: its peak is sample {peak + 1} of {len(curve)}, {rise:.3g} above a "
            f"baseline that scatters by {scatter:.3g}; name another region, or give the input as a file"
        )
    return arrival


def find_vessel(series: Tensor, times_min: Tensor, *, count: int = 30, inside: Tensor | None = None) -> Tensor:
    """Voxels of an artery, found by an early, high and sharp peak.

    Voxels whose peak is among the highest 2 %, and which peak no later than the earliest quarter of these; of them the
    connected group with the largest summed height, and in it the `count` highest.

    Args:
        series: T x K J I, concentration or activity.
        times_min: T.
        count: At most so many voxels.
        inside: K J I, where to look.

    Returns:
        K J I, bool.

    Raises:
        MapError: No voxel rises and falls again.
    """
    flat = torch.nan_to_num(series.reshape(len(series), -1))
    height, when = flat.max(0)
    late = flat[int(0.9 * len(flat)) :].mean(0)
    # An artery falls again: tissue that only fills up is higher, and later.
    candidates = (height > 0) & (when > 0) & (late < 0.75 * height) & torch.isfinite(series).reshape(flat.shape).all(0)
    if inside is not None:
        candidates &= inside.reshape(-1).bool()
    if not bool(candidates.any()):
        raise MapError("no voxel rises and falls again, so no artery was found; draw one, or give a population input")
    high = candidates & (height >= torch.quantile(height[candidates].double()[: 10**7], 0.98).to(height))
    early = torch.quantile(times_min.to(flat)[when[high]], 0.25)
    chosen = high & (times_min.to(flat)[when] <= early)
    groups, number = connected(chosen.reshape(series.shape[1:]).numpy())
    weight = torch.zeros(number + 1, dtype=torch.float64)
    weight.index_add_(0, torch.from_numpy(groups.reshape(-1)).long(), height.double() * chosen)
    group = torch.from_numpy(groups.reshape(-1)) == int(weight.argmax())
    ranked = torch.argsort(torch.where(group, height, -math.inf), descending=True)[:count]
    out = torch.zeros_like(group)
    out[ranked] = True
    return (out & group).reshape(series.shape[1:])


def timing(
    starts_min: Tensor, ends_min: Tensor | None, given: InputFunction, *, longest_step_min: float | None = None
) -> tuple[Timing, Tensor, Tensor]:
    """The internal grid of a fit, and plasma and blood on it.

    The grid holds every time of input and tissue, and more where these are further apart than `longest_step_min`.

    Raises:
        MapError: Times do not increase, frames overlap, or the input ends before the tissue.
    """
    increasing(starts_min, "the series")
    ends = starts_min if ends_min is None else ends_min
    if ends_min is not None:
        _check_frames(starts_min, ends_min)
    last = float(ends[-1])
    points = torch.cat([starts_min.double(), ends.double(), given.times_min])
    points = torch.unique(points[points <= last + 1e-9])
    # Times from two clocks that differ by rounding are one time.
    keep = torch.cat([torch.tensor([True]), torch.diff(points) > 1e-7 * max(1.0, last)])
    grid = _refined(points[keep], longest_step_min)
    plasma, blood = given.on(grid)
    return Timing(grid, starts_min.double(), None if ends_min is None else ends_min.double()), plasma, blood


def _check_frames(starts: Tensor, ends: Tensor) -> None:
    if starts.shape != ends.shape:
        raise MapError(f"{len(starts)} frames begin and {len(ends)} end; give a start and a duration per frame")
    if not bool((ends > starts).all()):
        where = int(torch.nonzero(~(ends > starts))[0])
        raise MapError(f"frame {where + 1} lasts {float(ends[where] - starts[where]):g} min; durations are positive")
    overlap = ends[:-1] - starts[1:]
    if bool((overlap > 1e-3 * (ends[1:] - starts[1:])).any()):
        where = int(overlap.argmax())
        raise MapError(
            f"frame {where + 1} ends at {float(ends[where]):g} min, after frame {where + 2} begins at "
            f"{float(starts[where + 1]):g} min; mend the frame times"
        )


def _refined(points: Tensor, longest: float | None) -> Tensor:
    if longest is None:
        return points
    pieces = [points[:1]]
    for begin, end in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        count = max(1, math.ceil((end - begin) / longest - 1e-9))
        pieces.append(torch.linspace(begin, end, count + 1, dtype=torch.float64)[1:])
    return torch.cat(pieces)
