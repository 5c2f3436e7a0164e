"""A cohort of phantoms on disk: NIfTI, a manifest, and a datasheet of every parameter."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from hypoxnet.cases import Outcome
from hypoxnet.errors import ConfigError
from hypoxnet.files import replacing_folder, write_json, write_text
from hypoxnet.geometry import Grid
from hypoxnet.phantom.anatomy import make_anatomy
from hypoxnet.phantom.mri import ktrans_per_min, r2star_per_s, t1_weighted
from hypoxnet.phantom.outcome import Covariates, draw_covariates, draw_outcome, reoxygenated, surviving_clonogens
from hypoxnet.phantom.oxygen import mean_po2, necrosis, vessel_distance
from hypoxnet.phantom.presets import HYPOXIC_MMHG, VERSION, Preset, preset
from hypoxnet.phantom.scanner import fine_grid, mr_grid, mr_map, mr_weighted, pet_grid, pet_image, sample
from hypoxnet.phantom.tracer import effective_share, uptake_ratio

MANIFEST = "manifest.csv"
DATASHEET = "datasheet.json"
IMAGES = ("FMISO_SUV", "T1W", "R2STAR", "KTRANS")
MASKS = ("GTVP", "MUSCLE", "HYPOXIA")
# Below this number of patients starting processes costs more than it saves.
ENOUGH_FOR_PROCESSES = 32
COVARIATES = ("age", "hpv", "t_stage", "smoking_pack_years")


@dataclass(frozen=True, slots=True)
class Phantom:
    """One patient: what was measured, and the truth.

    Args:
        case_id: Name.
        site: Hospital.
        images: Quantity to voxels and grid; channels that were not measured are left out.
        masks: Mask to voxels on the PET grid.
        outcome: What was observed.
        covariates: As drawn.
        known: Covariates that are not missing.
        po2: True pO2 on the fine grid, mmHg.
        control: True tumour control probability.
    """

    case_id: str
    site: str
    images: dict[str, tuple[NDArray[np.float64], Grid]]
    masks: dict[str, tuple[NDArray[np.bool_], Grid]]
    outcome: Outcome
    covariates: Covariates
    known: tuple[str, ...]
    po2: NDArray[np.float64]
    control: float


def make_phantom(preset: Preset, number: int) -> Phantom:
    """Patient `number` of a cohort; depends on nothing but the preset, its seed and the number."""
    generator = np.random.default_rng([preset.seed, number])
    hospital = preset.hospitals[int(generator.integers(len(preset.hospitals)))]
    anatomy = make_anatomy(preset, generator)
    radius = vessel_distance(anatomy, preset, generator)
    po2 = mean_po2(radius, preset.oxygen)
    dead = necrosis(radius, anatomy, preset.oxygen)

    tracer = preset.tracer
    free = tracer.free_ratio + tracer.free_spread * generator.standard_normal()
    muscle = max(0.5, tracer.muscle_suv + tracer.muscle_spread * generator.standard_normal())
    tissue = uptake_ratio(po2, radius, tracer=tracer, oxygen=preset.oxygen, free=free)
    ratio = np.where(anatomy.tumour, np.where(dead, 0.45 * free, tissue), 1.0 + 0.05 * generator.standard_normal())
    ratio = np.where(anatomy.vessels, 1.05, np.where(anatomy.bone, 0.8, ratio)) * (anatomy.body & ~anatomy.air)
    images = {"FMISO_SUV": (pet_image(ratio * muscle, preset, hospital, generator), pet_grid(preset))}

    grid = mr_grid(preset, generator)
    permeability = 0.30 * float(np.exp(0.3 * generator.standard_normal()))
    mr = {
        "T1W": mr_weighted(t1_weighted(dead, anatomy), grid, preset, scanner=hospital, generator=generator),
        "R2STAR": mr_map(
            r2star_per_s(po2, radius, anatomy, preset.oxygen),
            grid,
            preset,
            relative_noise=3 * hospital.mr_noise,
            generator=generator,
        ),
        "KTRANS": mr_map(
            ktrans_per_min(radius, dead, anatomy, permeability=permeability),
            grid,
            preset,
            relative_noise=4 * hospital.mr_noise,
            generator=generator,
        ),
    }
    has_mr, has_ktrans = generator.random() >= preset.without_mr, generator.random() >= preset.without_ktrans
    if has_mr:
        images |= {name: (values, grid) for name, values in mr.items() if name != "KTRANS" or has_ktrans}

    fine, coarse = fine_grid(preset), pet_grid(preset)
    true_masks = {"GTVP": anatomy.tumour, "MUSCLE": anatomy.muscle, "HYPOXIA": anatomy.tumour & (po2 < HYPOXIC_MMHG)}
    masks = {name: (sample(mask.astype(float), fine, coarse) >= 0.5, coarse) for name, mask in true_masks.items()}
    gtv_ml = float(anatomy.tumour.sum()) * fine.voxel_ml
    covariates = draw_covariates(gtv_ml, generator)
    control = _control(preset, po2[anatomy.tumour], covariates, generator)
    return Phantom(
        case_id=f"P{number:04d}",
        site=hospital.name,
        images=images,
        masks=masks,
        outcome=draw_outcome(control, covariates, preset.treatment, generator),
        covariates=covariates,
        known=tuple(name for name in COVARIATES if generator.random() >= preset.missing_covariate),
        po2=po2,
        control=control,
    )


def _control(preset: Preset, po2: NDArray[np.float64], covariates: Covariates, generator: np.random.Generator) -> float:
    treatment = preset.treatment
    alpha = treatment.alpha_per_gy * (treatment.hpv_alpha if covariates.hpv else 1.0)
    alpha = max(0.1, alpha + treatment.alpha_spread * generator.standard_normal())
    share = float(
        np.clip(treatment.reoxygenation + treatment.reoxygenation_spread * generator.standard_normal(), 0.0, 1.0)
    )
    survivors = surviving_clonogens(
        reoxygenated(po2, share, preset.oxygen.vessel_mmhg),
        effective_share(po2, preset.tracer),
        alpha_per_gy=alpha,
        voxel_ml=fine_grid(preset).voxel_ml,
        treatment=treatment,
    )
    return float(np.exp(-survivors))


def make_cohort(
    name: str, folder: Path, *, seed: int | None = None, cases: int | None = None, progress: bool = False
) -> Path:
    """Make a cohort, or finish one that was begun.

    Args:
        name: Preset.
        folder: Where it goes; the manifest is written last, so a cohort without one is not whole.
        seed: Another seed than the preset's.
        cases: Another number of patients.
        progress: Show a bar.

    Returns:
        The manifest.

    Raises:
        ConfigError: The preset is unknown, its parameters impossible, or the folder holds another cohort.

    Example:
        make_cohort("test", Path("phantoms"))
    """
    chosen = preset(name)
    chosen = replace(chosen, seed=chosen.seed if seed is None else seed, cases=cases or chosen.cases)
    _claim(folder, chosen)
    made = _each(partial(_written, chosen, folder=folder), range(1, chosen.cases + 1))
    rows = list(track(made, description=f"phantom {name}", total=chosen.cases, disable=not progress))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / MANIFEST, text.getvalue())
    return folder / MANIFEST


def _each(make: Callable[[int], dict[str, str]], numbers: Sequence[int]) -> Iterator[dict[str, str]]:
    """The rows in order; on every core where there is enough to do."""
    if len(numbers) < ENOUGH_FOR_PROCESSES:
        yield from map(make, numbers)
        return
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(make, numbers, chunksize=4)


def _claim(folder: Path, chosen: Preset) -> None:
    """Write the datasheet, or see that the one that is there is of the same cohort."""
    sheet = {
        "object": "HypoxNet digital reference object",
        "version": VERSION,
        "digest": chosen.digest(),
        "hypoxic_below_mmhg": HYPOXIC_MMHG,
        "label": "HYPOXIA: mean pO2 of the object below this, inside the tumour; no image enters it",
        "sources": "docs/explanation/phantom.md",
        "parameters": asdict(chosen),
    }
    path = folder / DATASHEET
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["digest"]
        if before != chosen.digest():
            raise ConfigError(
                f"{folder} holds a cohort with parameters {before}, asked for is {chosen.digest()}; "
                "choose another folder"
            )
        return
    write_json(path, sheet)


def _written(chosen: Preset, number: int, folder: Path) -> dict[str, str]:
    """The manifest row of a case, made now unless its folder is there."""
    case = folder / f"P{number:04d}"
    if not (case / "row.csv").exists():
        phantom = make_phantom(chosen, number)
        with replacing_folder(case) as temporary:
            for name, (values, grid) in phantom.images.items():
                _write_image(temporary / f"{name}.nii.gz", values, grid)
            for name, (mask, grid) in phantom.masks.items():
                _write_mask(temporary / f"{name}.nii.gz", mask, grid)
            write_text(temporary / "row.csv", _row_text(phantom))
    with (case / "row.csv").open(encoding="utf-8", newline="") as stream:
        return next(iter(csv.DictReader(stream)))


def _row_text(phantom: Phantom) -> str:
    row: dict[str, str] = {"case_id": phantom.case_id, "site": phantom.site}
    for name in (*IMAGES, *MASKS):
        there = name in phantom.images or name in phantom.masks
        row[name] = f"{phantom.case_id}/{name}.nii.gz" if there else ""
    row |= {"lrc_months": f"{phantom.outcome.months:g}", "lrc_event": str(phantom.outcome.event)}
    row |= {n: f"{getattr(phantom.covariates, n):g}" if n in phantom.known else "" for n in COVARIATES}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


def _write_image(path: Path, values: NDArray[np.float64], grid: Grid) -> None:
    image = nib.Nifti1Image(values.astype(np.float32), grid.matrix)
    # 16 bits hold 65,000 steps of a range of 0 to 50; the files are half as large.
    image.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _write_mask(path: Path, mask: NDArray[np.bool_], grid: Grid) -> None:
    image = nib.Nifti1Image(mask.astype(np.uint8), grid.matrix)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
