"""Series that written objects refer to, settings that make files reproducible, and the outside checkers."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from synthetic import ORIENTATIONS, write_series

from hypoxnet.dicom.output import Algorithm, OutputSeries
from hypoxnet.dicom.source import SourceSeries, read_source


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., SourceSeries]:
    """Writes a series into the folder `source` and reads its headers."""

    def make(orientation: str = "axial", **settings: object) -> SourceSeries:
        return read_source(write_series(tmp_path / "source", directions=ORIENTATIONS[orientation], **settings))

    return make


@pytest.fixture
def make_output() -> Callable[[], OutputSeries]:
    """A series whose UIDs are counted and whose time stands still."""

    def make() -> OutputSeries:
        count = itertools.count(1)
        return OutputSeries(
            Algorithm("head-neck", "1.2"),
            uids=lambda: f"1.2.826.0.1.3680043.8.498.9.{next(count)}",
            written=datetime(2024, 3, 4, 5, 6, 7),
        )

    return make


@pytest.fixture
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs an outside tool; without it the test is skipped, or fails where the tools are required."""

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        if shutil.which(str(command[0])) is None:
            if os.environ.get("HYPOXNET_DICOM_TOOLS_REQUIRED"):
                pytest.fail(f"{command[0]} is not installed, and HYPOXNET_DICOM_TOOLS_REQUIRED is set")
            pytest.skip(f"{command[0]} is not installed")
        words = [str(word) for word in command]
        return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=120, check=False)

    return run


@pytest.fixture
def assert_valid(tool: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[Path], None]:
    """Holds a file against the standard with dciodvfy."""

    def check(path: Path) -> None:
        done = tool("dciodvfy", "-new", path)
        said = (done.stdout + done.stderr).splitlines()
        errors = [line for line in said if line.startswith("Error")]
        assert done.returncode == 0, said
        assert not errors, errors

    return check
