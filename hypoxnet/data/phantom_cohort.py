"""The embedded cohort, made on first use and kept in the user's cache folder."""

from __future__ import annotations

from pathlib import Path

from hypoxnet.data.cache import default_cache_folder
from hypoxnet.phantom.cohort import make_cohort
from hypoxnet.phantom.parameters.cohort import VERSION
from hypoxnet.phantom.presets import preset
from hypoxnet.phantom.writing import MANIFEST


def phantom_manifest(name: str, cache: Path | None = None) -> Path:
    """Manifest of an embedded cohort; it is made when it is not there.

    Args:
        name: Preset.
        cache: Cache folder, the user's by default. The cohort's folder is named by its parameters, so a cohort of
            other parameters is never taken for it; two processes may make it at once.

    Raises:
        ConfigError: The preset is unknown.
    """
    chosen = preset(name)
    folder = (cache or default_cache_folder()) / "phantom" / f"{name}-v{VERSION}-{chosen.digest()}"
    manifest = folder / MANIFEST
    return manifest if manifest.exists() else make_cohort(chosen, folder, progress=True)
