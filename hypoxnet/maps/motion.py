"""How far the volumes of a series moved against the first: a check, not a correction.

Axis legend: T volumes, D H W voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypoxnet.errors import MapError

# Standard deviation of the correlation peak, voxels: wide enough for its neighbours to tell where the top is.
PEAK_VOXELS = 1.0
# Relative to the mean amplitude of all frequencies; those below are noise and count less.
WHITENING_FLOOR = 1.0
# Share of an axis over which a volume fades out at each end, so that what enters there does not correlate. With half of
# it, a move of three voxels in a smooth volume was found 0.3 voxels too short; with this, 0.03.
FADE_SHARE = 0.25
# A displacement that changes by less is found; one that has not come to rest by then is taken as it is.
SETTLED_VOXELS = 0.005
PASSES = 10
AXES = (0, 1, 2)


def displacement_voxels(series: Tensor) -> Tensor:
    """Translation of each volume against the first, by phase correlation.

    The correlation of two volumes whose amplitudes are evened out peaks where one lies on the other; through the
    logarithm of the peak and its neighbours goes a parabola along each axis.

    Args:
        series: T x D x H x W: signal, not maps, whose masked-out rim stands still however the patient moves.

    Returns:
        T x 3, voxels along D, H and W; positive where the content moved to higher indices. nan for a volume that
        is uniform or holds a value that is not finite, and for all when the first does.

    Raises:
        MapError: The series is not a series of volumes.

    Source:
        Kuglin and Hines 1975, Proc IEEE Int Conf Cybernetics and Society:163.

    Example:
        >>> volume = torch.rand(12, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> moved = displacement_voxels(torch.stack([volume, volume.roll((1, -2), (0, 2))]))
        >>> moved[1].round().tolist()
        [1.0, 0.0, -2.0]
    """
    if series.ndim != 4 or len(series) == 0:
        raise MapError(f"the series is {tuple(series.shape)}; give volumes x D x H x W")
    fade = _fade(series)
    return torch.stack([_displacement(series[0], volume, fade) for volume in series])


def moved_volumes(displacement: Tensor, *, limit_voxels: float = 0.5) -> Tensor:
    """Which volumes lie further from the first than a limit; one whose displacement is unknown counts as moved.

    Args:
        displacement: T x 3, voxels.
        limit_voxels: Longest displacement that is let pass.

    Returns:
        T, bool.

    Raises:
        MapError: The limit is not positive.

    Example:
        >>> moved_volumes(torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.4]])).tolist()
        [False, True]
    """
    if not limit_voxels > 0:
        raise MapError(f"the limit is {limit_voxels:g} voxels; it must be positive")
    distance: Tensor = torch.linalg.vector_norm(displacement, dim=1)
    return ~(distance <= limit_voxels)


def _fade(series: Tensor) -> Tensor:
    """Weights D x H x W: 1 inside, falling as a cosine towards the ends of each axis."""
    weights = series.new_ones(series.shape[1:])
    for axis in AXES:
        size = series.shape[axis + 1]
        middles = torch.arange(size, dtype=series.dtype, device=series.device) + 0.5
        to_end = torch.minimum(middles, size - middles) / max(1.0, FADE_SHARE * size)
        weights = weights * _lying_along(axis, 0.5 - 0.5 * torch.cos(math.pi * to_end.clamp(max=1)))
    return weights


def _lying_along(axis: int, values: Tensor) -> Tensor:
    return values.reshape([-1 if other == axis else 1 for other in AXES])


def _usable(volume: Tensor) -> bool:
    return bool(torch.isfinite(volume).all()) and bool(volume.min() < volume.max())


def _spectrum(volume: Tensor, fade: Tensor) -> Tensor:
    centred = (volume - volume.mean()) * fade
    spectrum: Tensor = torch.fft.fftn(centred)
    return spectrum


def _displacement(first: Tensor, volume: Tensor, fade: Tensor) -> Tensor:
    """Moved back by what was found, the volume is compared again: the fading, which stands still, holds the peak back
    by less each time.
    """
    if not (_usable(first) and _usable(volume)):
        return volume.new_full((3,), math.nan)
    still, whole = _spectrum(first, fade), torch.fft.fftn(volume - volume.mean())
    found = volume.new_zeros(3)
    for _ in range(PASSES):
        step = _translation(still, _spectrum(_moved(whole, -found), fade))
        found = found + step
        if float(step.abs().max()) < SETTLED_VOXELS:
            break
    return found


def _moved(spectrum: Tensor, by: Tensor) -> Tensor:
    """The volume of a spectrum, moved by any share of voxels."""
    for axis, size in enumerate(spectrum.shape):
        turn = -2 * math.pi * by[axis] * torch.fft.fftfreq(size, dtype=by.dtype, device=by.device)
        spectrum = spectrum * _lying_along(axis, torch.polar(torch.ones_like(turn), turn))
    volume: Tensor = torch.fft.ifftn(spectrum).real
    return volume


def _translation(first: Tensor, moved: Tensor) -> Tensor:
    cross = moved * first.conj()
    amplitude = cross.abs()
    evened = cross / (amplitude + WHITENING_FLOOR * amplitude.mean())
    for axis, size in enumerate(cross.shape):
        frequency = torch.fft.fftfreq(size, dtype=amplitude.dtype, device=amplitude.device)
        evened = evened * _lying_along(axis, torch.exp(-2 * (math.pi * PEAK_VOXELS * frequency) ** 2))
    peak = torch.fft.ifftn(evened).real
    top = [int(i) for i in torch.unravel_index(peak.argmax(), peak.shape)]
    return torch.stack([_along(peak, top, axis) for axis in AXES])


def _along(peak: Tensor, top: list[int], axis: int) -> Tensor:
    """Where the peak is along one axis: the parabola through three logarithms, exact for a Gaussian peak."""
    size = peak.shape[axis]
    line = peak[tuple(slice(None) if other == axis else top[other] for other in AXES)]
    at = top[axis]
    three = torch.stack([line[at - 1], line[at], line[(at + 1) % size]])
    below, middle, above = torch.log((three / three[1]).clamp(min=1e-3))
    bend = below - 2 * middle + above
    shift = torch.where(bend < 0, 0.5 * (below - above) / bend, 0.0)
    # The far half of the axis is the near half of the other direction.
    return (at if at <= size // 2 else at - size) + shift
