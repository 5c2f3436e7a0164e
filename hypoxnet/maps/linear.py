"""Straight lines through transformed signal: models whose solution is a sum, bound by memory and not by arithmetic.

Axis legend: T samples, N voxels, 2 coefficients (slope, intercept).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hypoxnet.errors import MapError
from hypoxnet.maps.blocks import each_block, voxels_per_block
from hypoxnet.maps.fitting import FitResult, Status

# Voxels per block on a CPU. With 16,384 two cores were no faster than one: the interpreter was handed to and fro.
BLOCK = 131072


@dataclass(frozen=True, slots=True)
class Line:
    """Weighted regression of N voxels: y = intercept + slope x.

    Args:
        slope: N.
        intercept: N.
        slope_error: Standard error of the slope, from the scatter about the line.
        residual: Weighted root mean square about the line, two degrees of freedom taken.
        r2: Share of the weighted variance of y that the line explains.
    """

    slope: Tensor
    intercept: Tensor
    slope_error: Tensor
    residual: Tensor
    r2: Tensor

    def scatter(self) -> dict[str, Tensor]:
        """What `map_lines` takes besides the names, where the slope is the first of them."""
        return {"error": self.slope_error, "residual": self.residual, "r2": self.r2}


def line(w: Tensor, wx: Tensor, wy: Tensor, wxx: Tensor, wxy: Tensor, wyy: Tensor, *, samples: int) -> Line:
    """The line from its six weighted sums, all N; nan where the points do not determine it."""
    total = torch.where(w > 0, w, float("nan"))
    mean_x, mean_y = wx / total, wy / total
    xx = wxx - wx * mean_x
    xy = wxy - wx * mean_y
    yy = (wyy - wy * mean_y).clamp(min=0)
    eps = torch.finfo(w.dtype).eps
    slope = torch.where(xx > eps * wxx.abs(), xy / xx, float("nan"))
    scatter = (yy - slope * xy).clamp(min=0)
    variance = scatter / max(1, samples - 2)
    tiny = torch.finfo(w.dtype).tiny
    return Line(
        slope=slope,
        intercept=mean_y - slope * mean_x,
        slope_error=(variance / xx).sqrt(),
        residual=(variance * samples / total).sqrt(),
        r2=1 - scatter / yy.clamp(min=tiny),
    )


def log_line(signal: Tensor, x: Tensor, *, weighted: bool, floor: float = 0.0) -> Line:
    """Line through log(signal) against x, for T x N signals.

    Args:
        signal: T x N; samples at or below `floor` are left out.
        x: T, for example echo times or b-values.
        weighted: Weight by the squared signal: the logarithm of a sample with constant noise has a variance of
            1 / signal^2.
        floor: Noise floor, in the unit of the signal.
    """
    if bool(signal.amin() > floor):
        y = torch.log(signal)
        w = signal * signal if weighted else torch.ones_like(signal)
    else:
        usable = signal > floor
        safe = torch.where(usable, signal, 1.0)
        w = torch.where(usable, safe * safe, 0.0) if weighted else usable.to(signal.dtype)
        y = torch.log(safe)
    # Means are taken out first, the same for all voxels: sums of squares about 0 would lose digits in float32.
    centred = (x - x.mean()).to(signal)
    design = torch.stack([torch.ones_like(centred), centred, centred**2])
    sums = design @ w
    wy = w * y
    crossed = design[:2] @ wy
    found = line(sums[0], sums[1], crossed[0], sums[2], crossed[1], (wy * y).sum(0), samples=len(signal))
    shift = float(x.mean())
    return Line(found.slope, found.intercept - found.slope * shift, found.slope_error, found.residual, found.r2)


def map_lines(
    work: Callable[[Tensor, slice], dict[str, Tensor]],
    signal: Tensor,
    *,
    mask: Tensor | None,
    names: tuple[str, ...],
    done: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Apply a closed-form fit to a volume, block by block.

    Args:
        work: Takes T x n samples and which of the voxels they are; gives `names`, and where it knows them `error`
            (of the first name), `residual` and `r2`; nan where it has no answer.
        signal: T x voxels of any shape.
        mask: Voxels to fit; all when None.
        names: What `work` gives.
        done: Progress.

    Raises:
        MapError: The mask has another shape than the series.
    """
    shape = signal.shape[1:]
    if mask is not None and mask.shape != shape:
        raise MapError(
            f"the mask has {' x '.join(map(str, mask.shape))} voxels, the series {' x '.join(map(str, shape))}; "
            "resample the mask onto the series"
        )
    flat = signal.reshape(len(signal), -1)
    count = flat.shape[1]
    kept = (*names, "error", "residual", "r2")
    out = {name: torch.empty(count, dtype=signal.dtype, device=signal.device) for name in kept}
    status = torch.empty(count, dtype=torch.uint8, device=signal.device)
    inside = None if mask is None else mask.reshape(-1).to(device=signal.device, dtype=torch.bool)

    size = BLOCK
    if signal.device.type != "cpu":
        size = voxels_per_block(8 * len(signal) * signal.element_size(), signal.device)

    def block(number: Tensor) -> None:
        part = slice(int(number[0]) * size, min((int(number[0]) + 1) * size, count))
        results = work(flat[:, part], part)
        good = torch.isfinite(results[names[0]])
        codes = torch.where(good, int(Status.CONVERGED), int(Status.NO_SIGNAL)).to(torch.uint8)
        if inside is not None:
            codes[~inside[part]] = int(Status.OUTSIDE)
            good &= inside[part]
        whole = bool(good.all())
        for name in kept:
            if name not in results:
                out[name][part] = float("nan")
            else:
                out[name][part] = results[name] if whole else torch.where(good, results[name], float("nan"))
        status[part] = codes

    each_block(block, torch.arange(-(-count // size), device=signal.device), size=1, done=done)
    shaped = {name: values.reshape(shape) for name, values in out.items()}
    return FitResult(
        {name: shaped[name] for name in names},
        {names[0]: shaped["error"]},
        shaped["residual"],
        shaped["r2"],
        status.reshape(shape),
    )
