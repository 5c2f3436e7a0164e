"""The cohorts that come by name."""

from __future__ import annotations

from dataclasses import replace

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.cohort import PET_CHANNEL, Hospital, Preset, Visit
from hypoxnet.phantom.parameters.mri import MrScanner
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.quantities import suggestion

_NORTH = Hospital("north", share=1.0, pet=PetScanner("north", psf_mm=6.0))
_SOUTH = Hospital(
    "south",
    share=0.8,
    pet=PetScanner("south", psf_mm=5.0, noise_suv=0.08),
    mr=MrScanner(receive_spread=0.25, misregistration_mm=0.8),
)
_COAST = Hospital(
    "coast",
    share=0.7,
    pet=PetScanner("coast", psf_mm=7.0, noise_suv=0.05),
    mr=MrScanner(snr_weighted=30.0, snr_echoes=45.0, snr_contrast=30.0, snr_diffusion=30.0, snr_oxygen=45.0),
)
_HILLS = Hospital(
    "hills",
    tracer="FAZA",
    share=0.5,
    pet=PetScanner("hills", psf_mm=6.0, voxel_mm=4.0, noise_suv=0.06),
    mr=MrScanner(field_t=1.5, snr_weighted=30.0, snr_echoes=40.0, snr_contrast=30.0, snr_oxygen=40.0),
)
_MARSH = Hospital("marsh", tracer="HX4", pet=PetScanner("marsh", psf_mm=6.0))


def _small(hospital: Hospital) -> Hospital:
    """The same hospital with MR voxels as large as the object's, for cohorts that are made in seconds."""
    return replace(hospital, mr=replace(hospital.mr, voxel_mm=(3.0, 3.0, 3.0)))


_ALL = (PET_CHANNEL, "FDG_SUV", "T1W", "T2W", "R2STAR", "DR1", "KTRANS", "VE", "ADC")
_FMISO_HOSPITALS = (_NORTH, _SOUTH, _COAST)
_SMALL = tuple(_small(hospital) for hospital in _FMISO_HOSPITALS)

PRESETS: dict[str, Preset] = {
    "demo": Preset("demo", cases=360, hospitals=_SMALL, images=(PET_CHANNEL, "T1W", "R2STAR", "DR1", "ADC")),
    "standard": Preset(
        "standard", cases=600, hospitals=(*_FMISO_HOSPITALS, _HILLS), images=_ALL, extent_mm=144.0, fine_mm=2.0
    ),
    "longitudinal": Preset(
        "longitudinal",
        cases=120,
        hospitals=_FMISO_HOSPITALS,
        visits=(Visit("baseline"), Visit("week2", week=2.0), Visit("week5", week=5.0)),
        images=(PET_CHANNEL, "T1W", "R2STAR", "DR1", "ADC"),
        without_mr=0.0,
        without_map=0.0,
        extent_mm=144.0,
        fine_mm=2.0,
    ),
    "test_retest": Preset(
        "test_retest",
        cases=80,
        hospitals=(_NORTH, _MARSH),
        visits=(Visit("baseline"), Visit("retest", another_day=True)),
        images=(PET_CHANNEL, "R2STAR", "DR1", "ADC"),
        without_mr=0.0,
        without_map=0.0,
        extent_mm=144.0,
        fine_mm=2.0,
    ),
    "dose_escalation": Preset(
        "dose_escalation", cases=400, hospitals=_SMALL, images=(PET_CHANNEL, "T1W", "ADC"), randomised=True
    ),
    "test": Preset("test", cases=12, extent_mm=72.0, hospitals=_SMALL, images=(PET_CHANNEL, "T1W", "R2STAR", "KTRANS")),
}


def preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        ConfigError: There is none of that name.

    Example:
        >>> preset("standard").cases
        600
    """
    if name not in PRESETS:
        raise ConfigError(
            f"phantom preset {name!r} is not known{suggestion(name, PRESETS)}; choose one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]
