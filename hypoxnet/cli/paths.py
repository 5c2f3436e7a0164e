"""Folders that a command line names, looked at before any library is loaded."""

from __future__ import annotations

from pathlib import Path

from hypoxnet.errors import ConfigError

BUNDLE = "give the folder that holds checksums.json"


def existing_folder(path: Path, remedy: str) -> Path:
    """The folder, with `~` replaced by the home.

    Args:
        path: As given.
        remedy: What to give instead.

    Raises:
        ConfigError: There is no such folder.

    Example:
        >>> existing_folder(Path("/no/such"), "give a bundle")
        Traceback (most recent call last):
        hypoxnet.errors.ConfigError: /no/such is not a folder; give a bundle
    """
    folder = path.expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; {remedy}")
    return folder
