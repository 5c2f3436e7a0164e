"""Numbers of a case near its contour."""

import numpy as np
import pytest
import torch

from hypoxnet.cases import Sample
from hypoxnet.geometry import Grid
from hypoxnet.transforms.appearance import FURTHEST_MM, NEAREST_MM, medians_around

CHANNELS = ("FMISO_SUV", "T1W", "ADC")
SHAPE, SPACING_MM = (40, 30, 20), (2.0, 3.0, 4.0)


@pytest.fixture
def away_mm() -> np.ndarray:
    """Distance from the one voxel of the tumour, which lies at a face of the image."""
    axes = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    squared = sum(((a - t) * mm) ** 2 for a, t, mm in zip(axes, (20, 0, 10), SPACING_MM, strict=True))
    return np.sqrt(squared)


def sample_of(images: list[np.ndarray], away_mm: np.ndarray) -> Sample:
    nothing = torch.zeros(0)
    return Sample(
        key="P",
        images=torch.from_numpy(np.stack(images)).float(),
        presence=torch.tensor([1.0, 1.0, 0.0]),
        label=nothing,
        label_known=nothing,
        tumour=torch.from_numpy((away_mm == 0).astype(np.uint8))[None],
        tumour_known=torch.tensor(1.0),
        months=nothing,
        event=nothing,
        outcome_known=nothing,
        covariates=nothing,
        covariates_known=nothing,
        grid=Grid.from_affine(SHAPE, np.diag([*SPACING_MM, 1.0])),
    )


def test_medians_are_of_the_tissue_between_two_distances_in_mm(away_mm):
    near = (away_mm > NEAREST_MM) & (away_mm <= FURTHEST_MM)
    texture = np.random.default_rng(0).normal(5.0, 1.0, SHAPE)
    found = medians_around(sample_of([np.where(near, texture, 100.0), texture, texture], away_mm), CHANNELS)
    assert found["FMISO_SUV"] == found["T1W"] == pytest.approx(np.median(texture[near]), rel=1e-6)
    assert "ADC" not in found, "it is absent"


def test_voxels_that_a_channel_does_not_cover_do_not_count(away_mm):
    near = (away_mm > NEAREST_MM) & (away_mm <= FURTHEST_MM)
    half = near & (np.arange(SHAPE[0])[:, None, None] < 20)
    few = near & (np.cumsum(near).reshape(SHAPE) <= 20)
    found = medians_around(sample_of([3.0 * half, 3.0 * few, 3.0 * half], away_mm), CHANNELS)
    assert found == {"FMISO_SUV": 3.0}
