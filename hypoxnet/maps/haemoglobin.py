"""Absorption of light to haemoglobin and its saturation, and saturation to pO2.

Axis legend: L wavelengths, K chromophores, N voxels (or any shape after L or K).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from hypoxnet.errors import MapError

# nm, oxygenated and deoxygenated haemoglobin, 1/(cm M) of the decadic logarithm, per molecule of four haems.
# Prahl, Optical absorption of hemoglobin, Oregon Medical Laser Center 1999; compiled from Gratzer and Kollias.
EXTINCTION: tuple[tuple[float, float, float], ...] = (
    (700.0, 290.0, 1794.28),
    (730.0, 390.0, 1102.2),
    (750.0, 518.0, 1405.24),
    (760.0, 586.0, 1548.52),
    (780.0, 710.0, 1075.44),
    (798.0, 807.2, 782.36),
    (800.0, 816.0, 761.72),
    (830.0, 974.0, 693.04),
    (850.0, 1058.0, 691.32),
    (880.0, 1154.0, 726.44),
    (900.0, 1198.0, 761.84),
)
# The subsets of K chromophores number 2^K, and each is tried in every voxel.
MOST_CHROMOPHORES = 4
# Spectra closer than this, relative, cannot be told apart.
LEAST_DIFFERENCE = 1e-6
CHERENKOV_UNIT_NM = 800.0
# Severinghaus: mmHg^3 and mmHg^2.
SEVERINGHAUS = (23400.0, 150.0)


@dataclass(frozen=True, slots=True)
class OxygenSaturation:
    """Haemoglobin in every voxel.

    Args:
        so2: Oxygenated share of the haemoglobin, 0 to 1.
        thb: Total haemoglobin, M.
        hbo2: Oxygenated haemoglobin, M.
        hb: Deoxygenated haemoglobin, M.
        residual: Root mean square over the wavelengths of what the spectra do not explain, 1/cm.
    """

    so2: Tensor
    thb: Tensor
    hbo2: Tensor
    hb: Tensor
    residual: Tensor


def extinction(wavelengths_nm: Tensor) -> Tensor:
    """Molar extinction of oxygenated and deoxygenated haemoglobin, linear between the wavelengths of the table.

    Args:
        wavelengths_nm: L.

    Returns:
        L x 2, 1/(cm M) of the decadic logarithm, float64.

    Raises:
        MapError: A wavelength is outside 700 to 900 nm.

    Source:
        Prahl, Optical absorption of hemoglobin, Oregon Medical Laser Center 1999.

    Example:
        >>> extinction(torch.tensor([750.0, 755.0])).tolist()
        [[518.0, 1405.24], [552.0, 1476.88]]
    """
    wanted = wavelengths_nm.double()
    table = torch.tensor(EXTINCTION, dtype=torch.float64, device=wanted.device)
    grid, values = table[:, 0].contiguous(), table[:, 1:]
    outside = wanted[~((wanted >= grid[0]) & (wanted <= grid[-1]))]
    if len(outside):
        raise MapError(
            f"the extinction of haemoglobin is tabulated from {float(grid[0]):g} to {float(grid[-1]):g} nm, "
            f"{float(outside[0]):g} nm is asked for; leave that wavelength out"
        )
    after = torch.searchsorted(grid, wanted.contiguous()).clamp(1, len(grid) - 1)
    share = (wanted - grid[after - 1]) / (grid[after] - grid[after - 1])
    return torch.lerp(values[after - 1], values[after], share[:, None])


def absorption_per_cm(hbo2_molar: Tensor, hb_molar: Tensor, *, wavelengths_nm: Tensor) -> Tensor:
    """Absorption coefficient of haemoglobin: ln 10 (eps_HbO2 [HbO2] + eps_Hb [Hb]).

    Args:
        hbo2_molar: Oxygenated haemoglobin, M; voxels of any shape.
        hb_molar: Deoxygenated haemoglobin, M; same shape.
        wavelengths_nm: L, 700 to 900 nm.

    Returns:
        L x voxels, 1/cm.

    Raises:
        MapError: A wavelength is outside the table.

    Source:
        Prahl, Optical absorption of hemoglobin, Oregon Medical Laser Center 1999.

    Example:
        >>> half = torch.tensor([50e-6], dtype=torch.float64)
        >>> round(absorption_per_cm(half, half, wavelengths_nm=torch.tensor([800.0])).item(), 4)
        0.1816
    """
    spectra = extinction(wavelengths_nm).to(hbo2_molar)
    column = (-1,) + (1,) * hbo2_molar.ndim
    oxygenated, deoxygenated = spectra[:, 0].reshape(column), spectra[:, 1].reshape(column)
    return math.log(10) * (oxygenated * hbo2_molar + deoxygenated * hb_molar)


def unmix(absorption: Tensor, wavelengths_nm: Tensor, *, others: Tensor | None = None) -> OxygenSaturation:
    """Haemoglobin and its saturation from the absorption at two or more wavelengths.

    Args:
        absorption: L x voxels of any shape, 1/cm, natural logarithm.
        wavelengths_nm: L, 700 to 900 nm.
        others: L x M spectra of up to two further absorbers (water, melanin), 1/cm each per unit of its amount.

    Returns:
        nan, but for the residual, where no haemoglobin is found; all nan where the absorption is not finite.

    Raises:
        MapError: There are fewer wavelengths than absorbers, a wavelength is outside the table, or the spectra cannot
            be told apart.

    Source:
        Cox et al. 2012, J Biomed Opt 17:061202; Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23.

    Example:
        >>> wavelengths = torch.tensor([750.0, 850.0])
        >>> hbo2, hb = torch.tensor([[70e-6], [30e-6]], dtype=torch.float64)
        >>> blood = unmix(absorption_per_cm(hbo2, hb, wavelengths_nm=wavelengths), wavelengths)
        >>> round(blood.so2.item(), 6), round(1e6 * blood.thb.item(), 3)
        (0.7, 100.0)
    """
    if wavelengths_nm.shape != absorption.shape[:1]:
        raise MapError(
            f"there are {wavelengths_nm.numel()} wavelengths for {len(absorption)} images; give one image for each"
        )
    spectra = math.log(10) * extinction(wavelengths_nm)
    if others is not None:
        spectra = torch.cat([spectra, others.to(spectra)], 1)
    amounts, residual = nonnegative_least_squares(absorption, spectra)
    total = amounts[0] + amounts[1]
    hbo2, hb, thb = (torch.where(total > 0, part, float("nan")) for part in (amounts[0], amounts[1], total))
    return OxygenSaturation(hbo2 / thb, thb, hbo2, hb, residual)


def nonnegative_least_squares(signal: Tensor, spectra: Tensor) -> tuple[Tensor, Tensor]:
    """Amounts of up to four absorbers, none negative, that explain a signal best; for all voxels at once.

    The solution is plain least squares over some subset of the absorbers. There are at most sixteen, so all are solved
    and the best of those without a negative amount is kept: the exact solution without an iteration.

    Args:
        signal: L x voxels of any shape.
        spectra: L x K, K at most 4, in the unit of the signal per unit of amount.

    Returns:
        K x voxels, amounts, and the root mean square residual; nan where the signal is not finite.

    Raises:
        MapError: K is 0 or above 4, there are fewer wavelengths than absorbers, or the spectra cannot be told apart.

    Source:
        Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23.

    Example:
        >>> amounts, residual = nonnegative_least_squares(torch.tensor([[3.0], [-1.0]]), torch.eye(2))
        >>> amounts[:, 0].tolist(), round(residual.item(), 4)
        ([3.0, 0.0], 0.7071)
    """
    _check_spectra(signal, spectra)
    length = torch.linalg.vector_norm(spectra.double(), dim=0)
    flat = signal.reshape(len(signal), -1)
    basis, mixing = (part.to(flat.device) for part in torch.linalg.qr(spectra.double() / length))
    # In the space of the spectra a subset costs sweeps over K rows, whatever the number of wavelengths.
    inside = basis.to(flat).T @ flat
    outside = ((flat - basis.to(flat) @ inside) ** 2).sum(0)
    lowest = (inside**2).sum(0)
    best = torch.zeros_like(inside)
    for active in _subsets(len(length)):
        columns = mixing[:, active]
        amounts = torch.linalg.pinv(columns).to(flat) @ inside
        cost = ((inside - columns.to(flat) @ amounts) ** 2).sum(0)
        better = (amounts >= 0).all(0) & (cost < lowest)
        placed = torch.zeros_like(best)
        placed[active] = amounts
        best, lowest = torch.where(better, placed, best), torch.where(better, cost, lowest)
    best /= length.to(flat)[:, None]
    residual = torch.sqrt((outside + lowest) / len(flat))
    finite = torch.isfinite(flat).all(0)
    best, residual = (torch.where(finite, part, float("nan")) for part in (best, residual))
    return best.reshape(-1, *signal.shape[1:]), residual.reshape(signal.shape[1:])


def _subsets(count: int) -> Iterator[list[int]]:
    for size in range(1, count + 1):
        yield from map(list, combinations(range(count), size))


def _check_spectra(signal: Tensor, spectra: Tensor) -> None:
    if spectra.ndim != 2 or len(spectra) != len(signal):
        raise MapError(
            f"the spectra are {tuple(spectra.shape)}, the signal has {len(signal)} wavelengths; give wavelengths x "
            "absorbers"
        )
    count = spectra.shape[1]
    if not 1 <= count <= MOST_CHROMOPHORES:
        raise MapError(f"{count} absorbers are to be told apart; name 1 to {MOST_CHROMOPHORES}")
    if len(spectra) < count:
        raise MapError(f"{count} absorbers cannot be told apart at {len(spectra)} wavelengths; measure {count} or more")
    length = torch.linalg.vector_norm(spectra.double(), dim=0)
    usable = bool((torch.isfinite(length) & (length > 0)).all())
    rank = int(torch.linalg.matrix_rank(spectra.double() / length, rtol=LEAST_DIFFERENCE)) if usable else 0
    if rank < count:
        raise MapError(
            f"{len(spectra)} wavelengths tell only {rank} of {count} absorbers apart; choose other wavelengths"
        )


def photoacoustic_absorption(pressure: Tensor, *, gruneisen: float, fluence: Tensor) -> Tensor:
    """Absorption coefficient from the initial pressure of a light pulse: p0 / (Grueneisen parameter x fluence).

    Args:
        pressure: L x voxels, MPa when the fluence is in J/cm2, kPa when it is in mJ/cm2 (1 J/cm3 is 1 MPa).
        gruneisen: Dimensionless; about 0.2 in soft tissue at 37 degrees C.
        fluence: Light that reaches the voxel, of a shape that broadcasts against `pressure`. Light of one wavelength is
            lost faster than that of another: an uncorrected fluence gives a wrong saturation at depth.

    Returns:
        L x voxels, 1/cm; nan where no light arrives.

    Raises:
        MapError: The Grueneisen parameter is not positive.

    Source:
        Cox et al. 2012, J Biomed Opt 17:061202.

    Example:
        >>> photoacoustic_absorption(torch.tensor([[1.0]]), gruneisen=0.2, fluence=torch.tensor(10.0)).item()
        0.5
    """
    if not gruneisen > 0:
        raise MapError(f"the Grueneisen parameter is {gruneisen:g}; it must be positive")
    absorption = pressure / (gruneisen * fluence)
    return torch.where((fluence > 0) & torch.isfinite(absorption), absorption, float("nan"))


def cherenkov_source(wavelengths_nm: Tensor) -> Tensor:
    """Photons of Cherenkov light per wavelength, as 1/wavelength^2; 1 at 800 nm.

    Args:
        wavelengths_nm: L.

    Returns:
        L, dimensionless. For an index of refraction that does not change over these wavelengths.

    Source:
        Frank and Tamm 1937, Dokl Akad Nauk SSSR 14:109.

    Example:
        >>> cherenkov_source(torch.tensor([400.0, 800.0])).tolist()
        [4.0, 1.0]
    """
    return (CHERENKOV_UNIT_NM / wavelengths_nm) ** 2


def cherenkov_absorption(signal: Tensor, source: Tensor, *, path_length_cm: Tensor | float) -> Tensor:
    """Absorption coefficient that turned the source spectrum into the measured one: -ln(signal / source) / path.

    Args:
        signal: L x voxels, in the unit of `source`.
        source: L, light before it was absorbed, for example `cherenkov_source` times a calibration.
        path_length_cm: Mean path of diffuse light, cm; one value, or one per wavelength.

    Returns:
        L x voxels, 1/cm; negative where more light came than the source gives, nan where none came. A source taken
        too bright adds the same value at all wavelengths: a column of ones among the `others` of `unmix` takes it up.

    Raises:
        MapError: The number of wavelengths differs, or a path is not positive.

    Source:
        Modified Beer-Lambert law: Delpy et al. 1988, Phys Med Biol 33:1433.

    Example:
        >>> light = torch.exp(torch.tensor([[-1.0]]))
        >>> cherenkov_absorption(light, torch.ones(1), path_length_cm=2.0).item()
        0.5
    """
    if source.shape != signal.shape[:1]:
        raise MapError(
            f"the source has {source.numel()} wavelengths, the signal {len(signal)}; give one per wavelength"
        )
    path = torch.as_tensor(path_length_cm, dtype=signal.dtype, device=signal.device)
    if not bool((path > 0).all()) or (path.ndim > 0 and path.shape != source.shape):
        raise MapError(f"the path is {path.tolist()} cm; give one positive length, or one per wavelength")
    column = (-1,) + (1,) * (signal.ndim - 1)
    share = signal / source.to(signal).reshape(column)
    absorption = -torch.log(share) / (path.reshape(column) if path.ndim else path)
    return torch.where((share > 0) & torch.isfinite(absorption), absorption, float("nan"))


def severinghaus_saturation(po2_mmhg: Tensor) -> Tensor:
    """Oxygen saturation of human blood at pH 7.4 and 37 degrees C: 1 / (23400 / (p^3 + 150 p) + 1).

    Args:
        po2_mmhg: Any shape, mmHg.

    Returns:
        Same shape, 0 to 1; nan where the pressure is negative or not finite.

    Source:
        Severinghaus 1979, J Appl Physiol 46:599.

    Example:
        >>> round(severinghaus_saturation(torch.tensor(40.0)).item(), 4)
        0.7495
    """
    scale, linear = SEVERINGHAUS
    content = po2_mmhg**3 + linear * po2_mmhg
    # Not 23400 / content, which is infinite at zero pressure.
    return torch.where((po2_mmhg >= 0) & torch.isfinite(po2_mmhg), content / (content + scale), float("nan"))


def severinghaus_po2_mmhg(saturation: Tensor) -> Tensor:
    """Oxygen partial pressure of human blood at this saturation: the inverse of `severinghaus_saturation`.

    The only real root of p^3 + 150 p = 23400 s / (1 - s), in hyperbolic form, where nothing cancels.

    Args:
        saturation: Any shape, 0 to 1.

    Returns:
        Same shape, mmHg; nan outside 0 to 1, and at 1, which any high pressure gives.

    Source:
        Severinghaus 1979, J Appl Physiol 46:599.

    Example:
        >>> round(severinghaus_po2_mmhg(torch.tensor(0.5, dtype=torch.float64)).item(), 2)
        26.86
    """
    scale, linear = SEVERINGHAUS
    content = scale * saturation / (1 - saturation)
    root = math.sqrt(linear / 3)
    po2 = 2 * root * torch.sinh(torch.asinh(content / (2 * root**3)) / 3)
    return torch.where((saturation >= 0) & (saturation < 1), po2, float("nan"))
