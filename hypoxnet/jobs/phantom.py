"""`hypoxnet phantom`: a cohort of the digital reference object as asked for, and as DICOM beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hypoxnet.errors import ConfigError
from hypoxnet.jobs.phantom_dicom import write_cohort_as_dicom
from hypoxnet.phantom.cohort import make_cohort
from hypoxnet.phantom.parameters.cohort import Preset
from hypoxnet.phantom.presets import preset


@dataclass(frozen=True, slots=True)
class PhantomRequest:
    """What to make.

    Args:
        preset: Name.
        output: Folder.
        seed: Another seed than the preset's.
        cases: Another number of patients.
        workers: Processes; 0 is one per core.
        raw: Write the raw MR series as well.
        truth_maps: Write maps of everything behind the images.
        noise: False for scanners without noise.
        open_kbp: Folders of real planning CTs.
        dicom: Write each visit as a DICOM study as well.
    """

    preset: str
    output: Path
    seed: int | None = None
    cases: int | None = None
    workers: int = 0
    raw: bool = False
    truth_maps: bool = False
    noise: bool = True
    open_kbp: tuple[Path, ...] = ()
    dicom: bool = False


def make_phantoms(request: PhantomRequest, *, progress: bool = False) -> Path:
    """Make the cohort.

    Returns:
        The manifest.

    Raises:
        ConfigError: The preset is unknown, a number is impossible, or the folder holds another cohort.
    """
    if request.output.exists() and not request.output.is_dir():
        raise ConfigError(f"{request.output} is a file; give a folder with --output")
    manifest = make_cohort(_chosen(request), request.output, workers=request.workers, progress=progress)
    if request.dicom:
        write_cohort_as_dicom(manifest, request.output / "dicom", progress=progress)
    return manifest


def _chosen(request: PhantomRequest) -> Preset:
    chosen = preset(request.preset)
    folders = tuple(str(folder.absolute()) for folder in request.open_kbp)
    return replace(
        chosen,
        seed=chosen.seed if request.seed is None else request.seed,
        cases=chosen.cases if request.cases is None else request.cases,
        raw=chosen.raw or request.raw,
        truth_maps=chosen.truth_maps or request.truth_maps,
        noise=chosen.noise and request.noise,
        open_kbp=folders,
    )
