"""Parameters of a PET scanner and its reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number


@dataclass(frozen=True, slots=True)
class PetScanner:
    """Resolution, voxels and noise of one scanner with its reconstruction and filter.

    The noise is told for a reference frame, `frame_min` long with its middle `middle_min` after injection; other frames
    follow from their counts.

    Args:
        name: Of the scanner.
    """

    name: str = "standard"
    psf_mm: float = number(
        6.0, "mm", "point spread function, FWHM, filter included", "chosen: 5 to 7 mm clinically", low=0, high=30
    )
    voxel_mm: float = number(3.0, "mm", "voxel", "chosen: 2 to 4 mm clinically", above=0, high=20)
    noise_suv: float = number(
        0.06,
        "g/ml",
        "SD of a voxel in uniform tissue of SUV 1, reference frame and activity",
        "calibrated with the change between days: voxels of two HX4 scans correlate by .65 (Zegers 2015)",
        low=0,
    )
    floor_suv: float = number(
        0.10, "g/ml", "uptake whose counts are everywhere (scatter, randoms)", "chosen: a tenth of tissue", low=0
    )
    neighbourhood_mm: float = number(
        20.0, "mm", "FWHM of the surroundings whose activity gives a voxel its variance", "chosen", low=0
    )
    correlation_mm: float = number(
        7.0,
        "mm",
        "FWHM of the autocorrelation of the noise",
        "chosen: white noise after a filter of 5 mm FWHM has 7 mm",
        low=0,
    )
    frame_min: float = number(20.0, "min", "duration of the reference frame", "chosen: static hypoxia PET", above=0)
    middle_min: float = number(
        130.0, "min", "middle of the reference frame after injection", "chosen: 20 min from 120 min on", low=0
    )
    activity_mbq: float = number(300.0, "MBq", "injected activity that noise_suv holds for", "chosen", above=0)
    half_life_min: float = number(109.77, "min", "half-life of F-18", "6586.2 s, as in DICOM headers", above=0)
    offset_mm: float = number(
        1.0, "mm", "SD of the voxel lattice's place between scans, each axis", "chosen: left by registration", low=0
    )

    def __post_init__(self) -> None:
        check(self)
        if 0 < self.neighbourhood_mm < self.psf_mm:
            raise ConfigError(
                f"neighbourhood_mm={self.neighbourhood_mm:g} of PET scanner {self.name} is below psf_mm="
                f"{self.psf_mm:g}; noise comes from a wider region than signal, give at least psf_mm"
            )
