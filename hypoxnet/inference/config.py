"""Settings of inference. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class InferenceConfig:
    """How a bundle is applied to a case.

    Args:
        overlap: Overlap of neighbouring windows, as a share of the window.
        windows_per_batch: Windows that go through the network at once.
        mirror: Average over mirrored images (all flips).
        threshold: Probability at and above which a voxel belongs to a region.
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        recompute: Predict finished cases again.
    """

    overlap: float = 0.5
    windows_per_batch: int = 4
    mirror: bool = False
    threshold: float = 0.5
    device: str = "auto"
    recompute: bool = False
