"""The inference job: bundle and cohort in; probabilities, masks, read-outs and a table out."""

from __future__ import annotations

import logging
from pathlib import Path

from hypoxnet.data.cache import default_cache_folder
from hypoxnet.data.manifest import read_manifest
from hypoxnet.errors import ConfigError
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import TABLE, run_inference
from hypoxnet.jobs.config import InferJobConfig
from hypoxnet.jobs.derive import MapCache
from hypoxnet.jobs.run_folder import log_to
from hypoxnet.maps.config import MapsConfig

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
    bundle, manifest, output = _paths(config)
    records = read_manifest(manifest)
    predictor = load_predictor(bundle, config.inference)
    log_to(output / "run.log")
    log.info("%s (%s) on %d cases of %s", predictor.spec.name, predictor.spec.digest[:12], len(records), manifest)
    spec = predictor.spec
    maps = MapCache(default_cache_folder() / "maps", MapsConfig.from_json(spec.maps), spec.settings.channels)
    run = run_inference(predictor, records, output, recompute=config.inference.recompute, complete=maps.complete)
    if run.failed:
        log.error("%d of %d cases failed; column reason of %s says why", len(run.failed), len(records), run.predictions)
    return SOME_FAILED if run.failed else 0


def _paths(config: InferJobConfig) -> tuple[Path, Path, Path]:
    for name in ("bundle", "manifest", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is missing; python infer.py bundle=DIR manifest=cohort.csv output=DIR")
    bundle, manifest, output = (Path(p).expanduser() for p in (config.bundle, config.manifest, config.output))
    if not bundle.is_dir():
        raise ConfigError(f"bundle={bundle} is not a folder; give the folder that holds checksums.json")
    if not manifest.is_file():
        raise ConfigError(f"manifest={manifest} does not exist; give the CSV of the cohort")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not ((output / TABLE).is_file() or (output / "run.log").is_file()):
        raise ConfigError(f"output={output} is not empty and holds no predictions (no {TABLE}); choose another folder")
    if output.resolve() == bundle.resolve() or bundle.resolve() in output.resolve().parents:
        raise ConfigError(f"output={output} lies inside the bundle, whose files are checked; give another folder")
    return bundle, manifest, output
