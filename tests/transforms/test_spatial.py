import numpy as np
import pytest

from hypoxnet.errors import CaseError
from hypoxnet.geometry import Grid
from hypoxnet.images import Volume
from hypoxnet.transforms.spatial import WorkingGrid


def test_a_working_grid_of_billions_of_voxels_is_refused_before_it_is_made():
    volume = Volume(np.zeros((40, 40, 40), np.float32), Grid.from_affine((40, 40, 40), np.diag([4.0, 4.0, 4.0, 1.0])))
    with pytest.raises(CaseError, match=r"40 x 40 x 40 at 4\.00 mm at the working spacing of 0\.05 x 0\.05 x 0\.05 mm"):
        WorkingGrid(volume, spacing_mm=(0.05, 0.05, 0.05))
    assert WorkingGrid(volume, spacing_mm=(2.0, 4.0, 4.0)).grid.shape == (79, 40, 40)
