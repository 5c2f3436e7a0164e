"""The folder of a training run: what lies where, and whether an interrupted run may be continued in it."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.logging import RichHandler

from hypoxnet.errors import ConfigError
from hypoxnet.files import sha256_of, write_json, write_text
from hypoxnet.jobs.config import TrainJobConfig

# Settings that may differ when a run is continued: they change no number that was already written.
FREE_TO_CHANGE = ("output", "data.cache", "data.workers", "data.in_memory", "tracking.", "inference.device")

CASES, FOLD = "cases", "fold_"

PACKAGES = ("hypoxnet", "torch", "monai", "lightning", "numpy", "nibabel", "lifelines")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run.

    Args:
        path: The folder itself.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, machine, manifest digest, times."""
        return self.path / "provenance.json"

    @property
    def manifest(self) -> Path:
        """The withheld patients, with absolute paths: what inference can be tried on."""
        return self.path / "manifest.csv"

    @property
    def bundle(self) -> Path:
        """The trained model."""
        return self.path / "bundle"

    @property
    def cases(self) -> Path:
        """Predictions for the withheld patients, one folder each."""
        return self.path / CASES

    @property
    def predictions(self) -> Path:
        """One line per withheld patient: predicted, true, scored."""
        return self.path / "predictions.csv"

    @property
    def metrics(self) -> Path:
        """Figures with their intervals and baselines."""
        return self.path / "metrics.json"

    def part(self, fold: int | None) -> RunFolder:
        """The folder of one fold in cross-validation; the run folder itself for a single split."""
        return self if fold is None else RunFolder(self.path / f"{FOLD}{fold}")


def run_of(folder: Path) -> RunFolder | None:
    """The training run that a folder is, or whose `cases` it is, of the whole run or of a fold; None for any other."""
    folder = folder.resolve()
    possible = [folder]
    if folder.name == CASES:
        above = folder.parent
        possible = [folder, above, *([above.parent] if above.name.startswith(FOLD) else [])]
    runs = map(RunFolder, possible)
    return next((run for run in runs if run.config.is_file() and run.provenance.is_file()), None)


def open_run(config: TrainJobConfig, manifest: Path) -> RunFolder:
    """Create the run folder, or go on in it.

    Raises:
        ConfigError: The folder holds a run with other settings or of another manifest.
    """
    run = RunFolder(Path(config.output or f"runs/{config.name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}").absolute())
    settings = asdict(config)
    digest = sha256_of(manifest)
    if run.config.exists():
        _refuse_other_settings(run, settings)
        _refuse_other_manifest(run, manifest, digest)
    elif run.path.exists() and any(run.path.iterdir()):
        raise ConfigError(f"{run.path} is not empty and holds no run (no config.yaml); choose another output folder")
    else:
        write_json(run.provenance, provenance(manifest, digest))
        write_text(run.config, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return run


def _refuse_other_settings(run: RunFolder, settings: Mapping[str, Any]) -> None:
    there = dict(_flat(yaml.safe_load(run.config.read_text(encoding="utf-8"))))
    now = dict(_flat(settings))
    changed = [k for k in {**there, **now} if there.get(k) != now.get(k) and not k.startswith(FREE_TO_CHANGE)]
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ConfigError(
            f"{run.path} holds a run with {key}={there.get(key)}, asked for now is {now.get(key)}{more}; "
            "choose another output folder, or give the settings of that run to go on with it"
        )


def _refuse_other_manifest(run: RunFolder, manifest: Path, digest: str) -> None:
    before = json.loads(run.provenance.read_text(encoding="utf-8"))["manifest_sha256"]
    if before != digest:
        raise ConfigError(
            f"{manifest} has changed since {run.path} was begun (sha256 {before[:12]} then, {digest[:12]} now); "
            "choose another output folder"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def provenance(manifest: Path, digest: str) -> dict[str, Any]:
    """What made a run: versions, machine, command, manifest."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "manifest": str(manifest.absolute()),
        "manifest_sha256": digest,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
    }


def processor_name() -> str:
    """The processor's model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _RunLog(logging.FileHandler):
    """A log that goes on as soon as its disk takes lines again; until then they stand on the terminal alone."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        with suppress(OSError):
            self.close()  # the next line opens it again


def log_to(path: Path) -> None:
    """Send the log to a file and, without the times, to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger("hypoxnet")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    file_handler = _RunLog(path, encoding="utf-8")
    file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(file_handler)
    # Into a file or a pipe rich would wrap lines at 80 columns.
    shown = RichHandler(show_path=False, show_level=False, show_time=False, markup=False)
    root.addHandler(shown if sys.stdout.isatty() else logging.StreamHandler(sys.stdout))
    root.setLevel(logging.INFO)
    root.propagate = False
