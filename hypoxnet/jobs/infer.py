"""The inference job: bundle and cohort in; probabilities, masks, read-outs and a table out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import CaseRecord
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.measured import then
from hypoxnet.dicom.errors import DicomError
from hypoxnet.errors import ConfigError, HypoxNetError
from hypoxnet.inference.cluster.config import Shard
from hypoxnet.inference.cluster.dask_crew import refuse_without_dask
from hypoxnet.inference.cluster.run import run_on_cluster
from hypoxnet.inference.cluster.shards import SHARDS, run_shard, shard_folder
from hypoxnet.inference.one_case import Complete, as_it_is
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.inference.tally import TABLE, InferenceRun
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.infer_worker import BundleWork, completion
from hypoxnet.jobs.results_folder import ITEM
from hypoxnet.jobs.run_folder import log_to, run_of

log = logging.getLogger(__name__)

SOME_FAILED = 2


def run_inference_job(config: InferJobConfig) -> int:
    """Apply a bundle to every case of a manifest.

    Args:
        config: Bundle, manifest, output and how the bundle is applied.

    Returns:
        Exit status: 0, or 2 when a case failed; the others are done then, and the table has the reason.

    Raises:
        HypoxNetError: The bundle, the manifest or the output folder cannot be used.
    """
    bundle, _ = job_paths(config)
    if config.cluster.wanted:
        refuse_without_dask()
    cohort = listed_cohort(config)
    # Who only hands out cases needs the description, and may have no GPU.
    predictor = load_predictor(
        bundle, replace(config.inference, device="cpu") if config.cluster.wanted else config.inference
    )
    return SOME_FAILED if predict_cohort(config, predictor, cohort).failed else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cohort.

    Args:
        done: Cases that have a prediction, made now or before.
        failed: Case, or visit that could not be imported, to the reason.
    """

    done: int
    failed: Mapping[str, str]


def predict_cohort(
    config: InferJobConfig, predictor: Predictor, cohort: Cohort | None, *, before_each: Complete = as_it_is
) -> Outcome:
    """Apply a bundle that is loaded already; the log goes to `run.log` of the output.

    Args:
        config: As for `run_inference_job`, checked by `job_paths`.
        predictor: The loaded bundle.
        cohort: As `listed_cohort` gives it.
        before_each: Called with the record of each case when its turn comes.

    Raises:
        HypoxNetError: The cohort or the output folder cannot be used.
    """
    output = Path(config.output).expanduser()
    log_to((shard_folder(output, Shard.parse(config.shard)) if config.shard else output) / "run.log")
    cohort = cohort or _imported(config, output)
    spec, records = predictor.spec, cohort.records
    log.info("%s (%s) on %d cases of %s", spec.name, spec.digest[:12], len(records), cohort.manifest)
    run = _run(config, predictor, records, then(before_each, completion(predictor)))
    formats = [name for name in config.output_format if name != "nifti"]
    not_written = _write_dicom(run, spec, cohort.sources, output, formats) if formats else {}
    if run.failed:
        log.error("%d of %d cases failed; column reason of %s says why", len(run.failed), len(records), run.predictions)
    return Outcome(len(run.predicted) + len(run.kept), {**cohort.failed, **not_written, **run.failed})


def _run(
    config: InferJobConfig, predictor: Predictor, records: Sequence[CaseRecord], complete: Complete
) -> InferenceRun:
    """Here, or a part of it here, or by workers."""
    output = Path(config.output).expanduser()
    recompute = config.inference.recompute
    if config.cluster.wanted:
        cluster = replace(config.cluster, threads=config.cluster.threads or torch.get_num_threads())
        work = BundleWork(
            Path(config.bundle).expanduser().absolute(),
            predictor.spec.digest,
            config.inference,
            output.absolute(),
            cluster.threads,
            Path.cwd() if any(map(_has_relative_paths, records)) else None,
        )
        return run_on_cluster(predictor, records, output, work=work, config=cluster, recompute=recompute)
    if config.shard:
        shard = Shard.parse(config.shard)
        return run_shard(predictor, records, output, shard=shard, recompute=recompute, complete=complete)
    return run_inference(predictor, records, output, recompute=recompute, complete=complete)


def _has_relative_paths(record: CaseRecord) -> bool:
    files = (*record.channels.values(), *record.masks.values(), *(path for raw in record.raw.values() for path in raw))
    return not all(path.is_absolute() for path in files)


@dataclass(frozen=True, slots=True)
class Cohort:
    """What a bundle is applied to.

    Args:
        manifest: The table.
        records: Its cases.
        sources: Of DICOM, the files of each case's reference series.
        failed: Of DICOM, what could not be imported, with the reason.
    """

    manifest: Path
    records: tuple[CaseRecord, ...]
    sources: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


def listed_cohort(config: InferJobConfig) -> Cohort | None:
    """The cases of the manifest; None for DICOM, which is imported when it is predicted.

    Raises:
        ManifestError: The manifest has faults.
    """
    if config.input == "dicom":
        return None
    manifest = Path(config.manifest).expanduser()
    return Cohort(manifest, read_manifest(manifest))


def _imported(config: InferJobConfig, output: Path) -> Cohort:
    """The cohort of a tree of DICOM, imported below the output."""
    from hypoxnet.dicom.pseudonyms import default_key_path, read_or_make_key
    from hypoxnet.dicom.rules import default_rules, read_rules
    from hypoxnet.jobs.import_dicom import ImportRequest, import_folder

    rules = read_rules(Path(config.rules)) if config.rules else default_rules()
    key = read_or_make_key(default_key_path(), cohort=output)
    run = import_folder(ImportRequest(Path(config.folder).expanduser(), output / "imported", rules, key))
    for text in (*run.index.faults, *run.notes):
        log.warning("%s", text)
    if run.manifest is None:
        raise DicomError(f"{config.folder}: no visit could be imported: {'; '.join(run.failed.values())}")
    return Cohort(run.manifest, read_manifest(run.manifest), run.sources, run.failed)


def _write_dicom(
    run: InferenceRun,
    spec: BundleSpec,
    sources: Mapping[str, tuple[Path, ...]],
    output: Path,
    formats: Sequence[str],
) -> dict[str, str]:
    """Write every predicted case as DICOM; returns the reason by case where that failed."""
    from hypoxnet.dicom.output import Algorithm
    from hypoxnet.dicom.source import read_source
    from hypoxnet.jobs.export_dicom import read_regions, write_regions

    failed: dict[str, str] = {}
    for key in (*run.kept, *run.predicted):
        folder = output / key
        names = {r.name: r.masks[0] if len(r.masks) == 1 else r.name for r in spec.settings.regions}
        try:
            if key not in sources:
                raise DicomError("the files of its original series are not in the folder; give the one that has them")
            regions = read_regions(
                {shown: folder / f"{key}_{name}_mask.nii.gz" for name, shown in names.items()},
                {shown: folder / f"{key}_{name}_probseg.nii.gz" for name, shown in names.items()},
                case=key,
            )
            written, notes = write_regions(
                regions,
                output / "dicom",
                prefix=key,
                source=read_source(sources[key]),
                formats=formats,
                algorithm=Algorithm(spec.name, spec.version),
            )
        except HypoxNetError as error:
            failed[key] = str(error)
            log.error("%s: not written as DICOM: %s", key, error)
            continue
        for text in notes:
            log.warning("%s: %s", key, text)
        log.info("%s: %s", key, ", ".join(path.name for path in written) or "nothing to write")
    return failed


def job_paths(config: InferJobConfig) -> tuple[Path, Path]:
    """Bundle and output.

    Raises:
        ConfigError: A path is missing, or is not what it should be.
    """
    wanted = "manifest" if config.input == "manifest" else "folder"
    for name in ("bundle", wanted, "output"):
        if not getattr(config, name):
            example = "manifest=cohort.csv" if wanted == "manifest" else "input=dicom folder=DIR"
            raise ConfigError(f"{name} is missing; python infer.py bundle=DIR {example} output=DIR")
    bundle, cohort, output = (Path(p).expanduser() for p in (config.bundle, getattr(config, wanted), config.output))
    if not bundle.is_dir():
        raise ConfigError(f"bundle={bundle} is not a folder; give the folder that holds checksums.json")
    if wanted == "manifest" and not cohort.is_file():
        raise ConfigError(f"manifest={cohort} does not exist; give the CSV of the cohort")
    if wanted == "folder" and not cohort.exists():
        raise ConfigError(f"folder={cohort} does not exist; give the folder of the DICOM files")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; give a folder")
    run = run_of(output)
    if run is not None:
        raise ConfigError(
            f"output={output} belongs to the training run {run.path}, whose predictions and logs would be overwritten; "
            "give another folder, for example output=predictions"
        )
    ours = (output / TABLE, output / "run.log", output / SHARDS, output / ITEM)
    if output.is_dir() and any(output.iterdir()) and not any(path.exists() for path in ours):
        raise ConfigError(f"output={output} is not empty and holds no predictions (no {TABLE}); choose another folder")
    if output.resolve() == bundle.resolve() or bundle.resolve() in output.resolve().parents:
        raise ConfigError(f"output={output} lies inside the bundle, whose files are checked; give another folder")
    return bundle, output
