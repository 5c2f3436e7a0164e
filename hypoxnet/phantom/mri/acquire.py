"""What a scanner records of a signal: its fields, its voxels, where the patient lies, motion, noise and gain.

A voxel holds the mean of the signal over its size, not the signal of mean tissue: where tissues meet, maps fitted to it
differ from the mean of their maps, as in a patient. What the scanner does wrong is drawn first, kept as truth, and then
applied.

Axis legend: T volumes, D H W voxels of the object's grid or of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.geometry import Affine, Grid
from hypoxnet.phantom.fields import gaussian_field, smooth
from hypoxnet.phantom.mri.properties import MrProperties
from hypoxnet.phantom.parameters.mri import MrScanner
from hypoxnet.phantom.streams import normal
from hypoxnet.phantom.words import Anatomy, RawSeries, Tissue

NOISE = "NoiseStandardDeviation"
# The patient, against the air round him: a twentieth of the brightest voxel of the first volume.
PATIENT_SHARE = 0.05


def mr_grid(anatomy_grid: Grid, scanner: MrScanner, voxel_mm: Sequence[float], generator: np.random.Generator) -> Grid:
    """The grid of a scan: slightly oblique and off centre, as it was planned on the day.

    Args:
        anatomy_grid: Of the object.
        scanner: Its spread of angles and places.
        voxel_mm: Voxel along i, j, k.
        generator: Draws three angles and a place.

    Returns:
        RAS+ but for the angles.
    """
    rotation = _rotation(scanner.obliquity_deg * generator.standard_normal(3))
    off = scanner.off_centre_mm * generator.standard_normal(3)
    size = np.array(voxel_mm, dtype=float)
    extent = np.array(anatomy_grid.shape) * np.array(anatomy_grid.spacing_mm)
    shape = np.maximum(1, np.round(scanner.field_of_view_share * extent / size)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = rotation * size
    affine[:3, 3] = _centre(anatomy_grid) + off - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid.from_affine(shape.tolist(), affine)


def _centre(grid: Grid) -> NDArray[np.float64]:
    middle = np.array([*((np.array(grid.shape) - 1) / 2), 1.0])
    return np.asarray((grid.matrix @ middle)[:3], dtype=np.float64)


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """About x, then y, then z."""
    rotation = np.eye(3)
    for (first, second), angle in zip(((1, 2), (0, 2), (0, 1)), np.radians(degrees), strict=True):
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


@dataclass(frozen=True, slots=True)
class MrSession:
    """One visit to a scanner: all series of it share these.

    Args:
        scanner: Parameters.
        object_grid: Of the object.
        grid: Of the images.
        misregistration_mm: How far the patient lies from where the header says, RAS+; truth, in no image.
        receive: D H W, sensitivity of the receiver, mean 1 inside the patient.
        transmit: D H W, actual over nominal flip angle, mean 1 inside the patient.
        susceptibility: D H W, R2' that air and bone add, 1/s.
    """

    scanner: MrScanner
    object_grid: Grid
    grid: Grid
    misregistration_mm: tuple[float, float, float]
    receive: Tensor
    transmit: Tensor
    susceptibility: Tensor


def mr_session(anatomy: Anatomy, scanner: MrScanner, generator: np.random.Generator) -> MrSession:
    """Draw a visit; a repeated scan is another generator."""
    grid = mr_grid(anatomy.grid, scanner, scanner.voxel_mm, generator)
    shift = scanner.misregistration_mm * generator.standard_normal(3)
    length = float(np.linalg.norm(shift))
    shift *= min(1.0, scanner.largest_misregistration_mm / length) if length > 0 else 1.0
    receive = torch.exp(_slow_field(anatomy, scanner.receive_spread, scanner.receive_mm, generator))
    transmit = 1 + _slow_field(anatomy, scanner.transmit_spread, scanner.transmit_mm, generator)
    inside = anatomy.body
    return MrSession(
        scanner=scanner,
        object_grid=anatomy.grid,
        grid=grid,
        misregistration_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
        receive=receive / receive[inside].mean(),
        transmit=(transmit / transmit[inside].mean()).clamp(min=0.2),
        susceptibility=susceptibility_per_s(anatomy, scanner),
    )


def _slow_field(anatomy: Anatomy, spread: float, length_mm: float, generator: np.random.Generator) -> Tensor:
    device = anatomy.tissue.device
    spacing = anatomy.grid.spacing_mm
    field = gaussian_field(
        anatomy.grid.shape, length_mm=length_mm, spacing_mm=spacing, generator=generator, device=device
    )
    return spread * field


def susceptibility_per_s(anatomy: Anatomy, scanner: MrScanner) -> Tensor:
    """R2' that air, and less so bone, adds in its neighbourhood, D H W, 1/s.

    The share of air round a voxel, weighted by a Gaussian, times the field: full at a flat border, less round a small
    pocket, as the field of a cavity goes with its volume. A rate, so that decay stays exponential; true dephasing
    across a voxel is not.
    """
    air = anatomy.is_a(Tissue.AIRWAY, Tissue.OUTSIDE).float() + scanner.bone_share * anatomy.is_a(Tissue.BONE).float()
    near = smooth(air, [scanner.susceptibility_mm / s for s in anatomy.grid.spacing_mm])
    return 2 * scanner.air_r2prime_per_s_t * scanner.field_t * near


def as_seen(properties: MrProperties, session: MrSession) -> MrProperties:
    """Properties as this scanner's fields show them: its receiver weighs the protons, its transmitter turns them by
    other angles than the nominal ones, and air dephases them.
    """
    return replace(
        properties,
        proton_density=properties.proton_density * session.receive,
        r2star=properties.r2star + session.susceptibility,
        r2star_oxygen=properties.r2star_oxygen + session.susceptibility,
        transmit=properties.transmit * session.transmit,
    )


@dataclass(frozen=True, slots=True)
class Acquired:
    """A series as recorded, and what was done to it.

    Args:
        series: On the grid of the session.
        moved_mm: T 3, how far each volume lies from the first place of the patient, RAS+.
        turned_deg: T 3, and how it is turned about the centre of the object.
        gain: Factor on the signal.
    """

    series: RawSeries
    moved_mm: NDArray[np.float64]
    turned_deg: NDArray[np.float64]
    gain: float


def acquire(series: RawSeries, session: MrSession, generator: np.random.Generator | None) -> Acquired:
    """Record a series.

    Args:
        series: Signal without noise on the object's grid, T D H W.
        session: Of the visit.
        generator: Draws motion, gain and noise; None gives none of them.

    Returns:
        T D H W on the grid of the images, magnitude, with the sd of the noise in its sidecar.
    """
    volumes, scanner = len(series.signal), session.scanner
    moved, turned, gain = np.zeros((volumes, 3)), np.zeros((volumes, 3)), 1.0
    if generator is not None:
        moved[1:] = scanner.motion_mm * generator.standard_normal((volumes - 1, 3))
        turned[1:] = scanner.motion_deg * generator.standard_normal((volumes - 1, 3))
        gain = float(np.exp(scanner.gain_spread * generator.standard_normal()))
    signal = recorded(series.signal, session, moved, turned)
    sd = 0.0
    if generator is not None:
        sd = noise_sd(signal[0], scanner.snr_of(series.name))
        signal = rician(signal, sd, generator)
    made = RawSeries(series.name, gain * signal, {**series.sidecar, NOISE: gain * sd})
    return Acquired(made, moved, turned, gain)


def acquire_mr(series: RawSeries, session: MrSession, generator: np.random.Generator | None) -> RawSeries:
    """The series that `acquire` records."""
    return acquire(series, session, generator).series


def recorded(
    signal: Tensor, session: MrSession, moved_mm: NDArray[np.float64], turned_deg: NDArray[np.float64]
) -> Tensor:
    """The mean of the signal over every voxel of the images, each volume where the patient then lies.

    The box of a voxel is replaced by a Gaussian of the same variance along the axes of the object, and read at the
    centre of the voxel: exact for the mean of a field that is straight over a voxel, and for its sum over the image.

    Args:
        signal: T D H W on the object's grid.
        session: Of the visit.
        moved_mm: T 3.
        turned_deg: T 3.
    """
    source, target = session.object_grid, session.grid
    widths = [max(1.0, t / s) for s, t in zip(source.spacing_mm, target.spacing_mm, strict=True)]
    # As in fields.averaged: a box of n voxels has the variance n^2 / 12, and reading between voxels adds that of one.
    wide = smooth(signal.float(), [np.sqrt(max(w**2 - 1.0, 0.0) / 12.0) for w in widths])
    middle, shift = _centre(source), np.array(session.misregistration_mm)
    out = wide.new_empty(len(wide), *target.shape)
    index = _indices(target.shape, wide.device)
    if not (np.any(moved_mm) or np.any(turned_deg)):
        return _read(wide[None], index, _onto(source, target, _back(middle, shift, np.zeros(3))))[0]
    for number, (move, turn) in enumerate(zip(moved_mm, turned_deg, strict=True)):
        where = _onto(source, target, _back(middle, shift + move, turn))
        out[number] = _read(wide[number][None, None], index, where)[0, 0]
    return out


def _back(middle: NDArray[np.float64], move: NDArray[np.float64], turn: NDArray[np.float64]) -> Affine:
    """From where a point lies to where it came from: the inverse of a turn about the middle and a move."""
    forward = np.eye(4)
    forward[:3, :3] = _rotation(turn)
    forward[:3, 3] = middle + move - forward[:3, :3] @ middle
    return np.asarray(np.linalg.inv(forward), dtype=np.float64)


def _indices(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Homogeneous indices of all voxels, N 4."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in shape]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([i, j, k, torch.ones_like(i)], dim=-1)


def _onto(source: Grid, target: Grid, back: Affine) -> Tensor:
    """From indices of the images to places that grid_sample knows: x y z from -1 to 1 over the source; 4 3."""
    mapping = np.linalg.inv(source.matrix) @ back @ target.matrix
    scale = 2.0 / np.array(source.shape, dtype=float)
    rows = mapping[:3] * scale[:, None]
    rows[:, 3] += 0.5 * scale - 1.0
    return torch.from_numpy(rows[::-1].T.copy()).float()


def _read(volumes: Tensor, index: Tensor, where: Tensor) -> Tensor:
    places = (index @ where.to(index))[None]
    return F.grid_sample(volumes, places, mode="bilinear", padding_mode="zeros", align_corners=False)


def noise_sd(first: Tensor, snr: float) -> float:
    """The sd of the noise in each channel: mean signal of the patient in the first volume over the SNR."""
    inside = first > PATIENT_SHARE * first.max()
    return float(first[inside].mean()) / snr if bool(inside.any()) else 0.0


def rician(signal: Tensor, sd: float, generator: np.random.Generator) -> Tensor:
    """Magnitude of a signal with Gaussian noise in its real and its imaginary part.

    Source:
        Gudbjartsson and Patz 1995, Magn Reson Med 34:910.
    """
    real = normal(generator, *signal.shape, device=signal.device).mul_(sd).add_(signal)
    imaginary = normal(generator, *signal.shape, device=signal.device).mul_(sd)
    return real.square_().add_(imaginary.square_()).sqrt_()
