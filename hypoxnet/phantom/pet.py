"""From uptake to a PET image: resolution, voxels, and noise that follows the counts.

No sinogram is made: the image of an iterative reconstruction is approximated by a Gaussian point spread function and
by correlated noise. Its variance grows with the activity of the surroundings, as every line of response that crosses a
voxel brings the counts of the voxels beside it, and falls with the duration of the frame and with decay.

Axis legend: F frames, D H W voxels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from hypoxnet.errors import ConfigError, GeometryError
from hypoxnet.geometry import SAME_GRID_VOXELS, Grid
from hypoxnet.maps.pet_kinetics import Frames
from hypoxnet.phantom.fields import FWHM_PER_SIGMA, blur, gaussian_field
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import Tracer

# Of the field of view: a point spread function wider than this has no inside.
WIDEST = 0.25
# Standard deviation that stands for no blur.
SHARPEST_MM = 1e-6


def pet_grid(anatomy_grid: Grid, scanner: PetScanner, generator: np.random.Generator | None = None) -> Grid:
    """The voxels of a scan over the object, from left to right along the first axis (LAS+) as scanners have it.

    Args:
        anatomy_grid: Of the object, its axes along the patient's.
        scanner: Gives the voxel, and the SD of the lattice's place.
        generator: Draws this scan's place, three numbers; centred on the object when None.

    Raises:
        ConfigError: The point spread function is too wide for the object.
    """
    extent = _extent_mm(anatomy_grid)
    _check_width(scanner, extent)
    shape = [max(1, math.floor(e / scanner.voxel_mm + 1e-6)) for e in extent]
    offset = np.zeros(3) if generator is None else scanner.offset_mm * generator.standard_normal(3)
    step = scanner.voxel_mm * np.array([-1.0, 1.0, 1.0])
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = anatomy_grid.corners_mm().mean(axis=0) + offset - step * (np.array(shape) - 1) / 2
    return Grid.from_affine(shape, affine)


def acquire_pet(
    suv: Tensor,
    grid: Grid,
    scanner: PetScanner,
    target: Grid,
    generator: np.random.Generator | None,
    frames: Frames | None = None,
) -> Tensor:
    """The image of an uptake map.

    Noise that would make a voxel negative leaves it 0, as iterative reconstruction does: the mean of air is a little
    above 0, that of tissue is true. Blur and mean over a voxel are exact for an object that is constant in each of its
    voxels; outside it goes on as at its border.

    Args:
        suv: D H W on `grid`, or F D H W, g/ml, decay-corrected.
        grid: Of the object.
        scanner: Parameters.
        target: Voxels of the image, see `pet_grid`.
        generator: Draws the noise, one field per frame; None gives the image without noise.
        frames: When each was measured; the scanner's reference frame when None.

    Returns:
        D H W or F D H W on `target`, g/ml, not negative.

    Raises:
        ConfigError: The point spread function is too wide, or frames and images differ in number.
        GeometryError: The image's axes are not along the object's.
    """
    _check_width(scanner, _extent_mm(grid))
    _check_axes(grid, target)
    image = _seen(suv.float(), grid, target, scanner.psf_mm)
    if generator is None:
        return image
    spread = noise_sd(image, target, scanner, frames)
    noise = [_noise(target, scanner, generator, image.device) for _ in range(math.prod(image.shape[:-3]))]
    return (image + spread * torch.stack(noise).reshape(image.shape)).clamp(min=0.0)


def for_tracer(scanner: PetScanner, tracer: Tracer) -> PetScanner:
    """The scanner with the counts of a tracer's injected activity; its noise falls with the root of that.

    Example:
        >>> from hypoxnet.phantom.parameters.tracer import FMISO
        >>> for_tracer(PetScanner(noise_suv=0.05, activity_mbq=1200.0), FMISO).noise_suv
        0.1
    """
    noise = scanner.noise_suv * math.sqrt(scanner.activity_mbq / tracer.activity_mbq)
    return replace(scanner, noise_suv=noise, activity_mbq=tracer.activity_mbq)


def noise_sd(image: Tensor, grid: Grid, scanner: PetScanner, frames: Frames | None = None) -> Tensor:
    """Standard deviation of the noise of every voxel.

    noise_suv sqrt((surroundings + floor_suv) / (1 + floor_suv) x counts of the reference frame / counts of this one)

    Args:
        image: D H W or F D H W without noise, g/ml.
        grid: Its voxels.
        scanner: Parameters.
        frames: As for `acquire_pet`.

    Returns:
        As `image`, g/ml.

    Raises:
        ConfigError: Frames and images differ in number.
    """
    around = blur(image, fwhm_mm=scanner.neighbourhood_mm, spacing_mm=grid.spacing_mm)
    variance = scanner.noise_suv**2 * (around.clamp(min=0.0) + scanner.floor_suv) / (1.0 + scanner.floor_suv)
    if frames is not None:
        variance = variance / _relative_counts(image, scanner, frames)
    return variance.sqrt()


def _relative_counts(image: Tensor, scanner: PetScanner, frames: Frames) -> Tensor:
    """Counts of frames over those of the reference frame for the same decay-corrected activity, F 1 1 1."""
    count = image.shape[0] if image.ndim == 4 else 1
    if len(frames.starts_min) != count or frames.ends_min is None:
        raise ConfigError(
            f"{count} PET images came with {len(frames.starts_min)} frames; give one frame with begin and end per image"
        )
    duration = (frames.ends_min - frames.starts_min) / scanner.frame_min
    counts = duration * torch.exp2((scanner.middle_min - frames.middles_min) / scanner.half_life_min)
    return counts.to(image)[:, None, None, None] if image.ndim == 4 else counts.to(image)


def _noise(grid: Grid, scanner: PetScanner, generator: np.random.Generator, device: torch.device) -> Tensor:
    """A field of variance 1, D H W; the length of `gaussian_field` is the SD of its autocorrelation."""
    length = scanner.correlation_mm / FWHM_PER_SIGMA
    return gaussian_field(grid.shape, length_mm=length, spacing_mm=grid.spacing_mm, generator=generator, device=device)


def _seen(suv: Tensor, grid: Grid, target: Grid, psf_mm: float) -> Tensor:
    """Mean over each voxel of the target of the object, itself constant in each of its voxels, after the blur."""
    inverse = np.linalg.inv(grid.matrix) @ target.matrix
    for axis in range(3):
        step, first = float(inverse[axis, axis]), float(inverse[axis, 3])
        index = np.arange(target.shape[axis] + 1, dtype=np.float64)
        edges = np.asarray((first + step * (index - 0.5) + 0.5) * grid.spacing_mm[axis])
        weights = _weights(grid.shape[axis], grid.spacing_mm[axis], edges, psf_mm / FWHM_PER_SIGMA).to(suv)
        suv = torch.matmul(suv.movedim(axis - 3, -1), weights.T).movedim(-1, axis - 3)
    return suv


def _weights(count: int, spacing_mm: float, edges_mm: NDArray[np.float64], sigma_mm: float) -> Tensor:
    """What each voxel of the object adds to each of the image along an axis, image x object; rows add up to 1.

    The integral of a Gaussian over both voxels is a second difference of G(u) = u Phi(u / s) + s phi(u / s).
    """
    own = np.arange(count + 1) * spacing_mm
    # The outermost voxels go on for ever.
    far = np.abs(edges_mm).max() + own[-1] + 10.0 * sigma_mm
    own[0], own[-1] = -far, far
    u = edges_mm[:, None] - own
    sigma = max(sigma_mm, SHARPEST_MM)
    z = np.clip(u / sigma, -40.0, 40.0)  # exp(-z^2 / 2) is 0 beyond
    whole = u * special.ndtr(z) + sigma / math.sqrt(2.0 * math.pi) * np.exp(-0.5 * z**2)
    width = np.diff(edges_mm)[:, None]
    return torch.from_numpy(-np.diff(np.diff(whole, axis=0), axis=1) / width)


def _check_axes(grid: Grid, target: Grid) -> None:
    mapping = (np.linalg.inv(grid.matrix) @ target.matrix)[:3, :3]
    aside = np.abs(mapping - np.diag(np.diag(mapping))) * np.array(target.shape)
    if aside.max() > SAME_GRID_VOXELS:
        raise GeometryError(
            f"the axes of the PET image ({target.describe()}) leave those of the object ({grid.describe()}) by "
            f"{aside.max():.2f} voxels; take the grid of pet_grid and resample the image"
        )


def _extent_mm(grid: Grid) -> list[float]:
    return [n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]


def _check_width(scanner: PetScanner, extent: list[float]) -> None:
    if scanner.psf_mm > WIDEST * min(extent):
        raise ConfigError(
            f"psf_mm={scanner.psf_mm:g} of PET scanner {scanner.name} is more than a quarter of the field of view of "
            f"{min(extent):g} mm; give a sharper scanner or a larger object"
        )
