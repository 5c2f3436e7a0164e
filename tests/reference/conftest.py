import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference():
    """The folder of reference data; a skip where it is absent, a failure where it must not be."""
    name = os.environ.get("HYPOXNET_REFERENCE", "")
    folder = Path(name)
    if not name or not folder.is_dir():
        reason = f"no reference data in {name!r}; name its folder by HYPOXNET_REFERENCE"
        if os.environ.get("HYPOXNET_REFERENCE_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
