import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference():
    """The folder of reference data; a skip where it is absent, a failure where it must not be."""
    folder = Path(os.environ.get("HYPOXNET_REFERENCE") or Path(__file__).parents[3] / "shared" / "reference")
    if not folder.is_dir():
        reason = f"no reference data in {folder}; name its folder by HYPOXNET_REFERENCE"
        if os.environ.get("HYPOXNET_REFERENCE_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
