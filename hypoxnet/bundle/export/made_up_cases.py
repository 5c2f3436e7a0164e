"""Made-up cases on which the graphs round the network are compared with our own code: every way that a case can lie.

Grids are turned, mirrored and of other spacings, so that no voxel falls half way between two others, where rounding
would decide.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.bundle.export.prepare_graph import looks_of
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.geometry import Affine
from hypoxnet.maps.reference_region import ratio_files, ratio_made_of
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.quantities import quantity
from hypoxnet.transforms.settings import ChannelNorm

# Of the working spacing, along i, j, k.
COARSER = (1.31, 0.83, 1.13)
OTHER = (0.71, 1.17, 0.93)
ABSENT = np.zeros((0, 0, 0), np.float32)


def prepare_trials(spec: BundleSpec) -> list[dict[str, Tensor]]:
    """Inputs of `prepare.onnx`: everything measured on an oblique grid with one contour; half of it, and ratios to be
    made, without a contour; the last channel alone with contours on two grids.
    """
    generator = np.random.default_rng(1)
    settings = spec.settings
    channels = () if spec.model.backbone.backbone == NO_BACKBONE else settings.channels
    ratios = {place for place, name in enumerate(channels) if ratio_made_of(name)}
    uptakes, regions = ratio_files(channels)
    made_of = {parts[0] for name in channels if (parts := ratio_made_of(name))}
    half = {place for place, name in enumerate(channels) if place % 2 == 0 or name in made_of} - ratios
    trials = []
    for trial, present in enumerate((set(range(len(channels))), half, {len(channels) - 1})):
        inputs: dict[str, NDArray[np.generic]] = {"given": _given(spec, trial, generator)}
        grids = [_grid(spec, trial, other=False), _grid(spec, trial, other=True)]
        for place, name in enumerate(channels):
            shape, affine = grids[place % 2]
            there = _values(name, settings.norms[place], shape, generator) if place in present else ABSENT
            inputs |= {name: there, f"{name}_affine": affine}
        for name in uptakes:
            shape, affine = grids[0]
            there = generator.uniform(0.5, 6.0, shape).astype(np.float32) if trial == 1 else ABSENT
            inputs |= {name: there, f"{name}_affine": affine}
        for place, name in enumerate(settings.tumour if channels else ()):
            shape, affine = grids[place % 2]
            there = _contour(shape, place) if place < (1, 0, 2)[trial] else ABSENT
            inputs |= {name: there, f"{name}_affine": affine}
        for name in regions:
            shape, affine = grids[1]
            there = _contour(shape, 0) if trial == 1 else ABSENT
            inputs |= {name: there, f"{name}_affine": affine}
        trials.append({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()})
    return trials


def finish_trials(spec: BundleSpec) -> list[dict[str, Tensor]]:
    """Inputs of `finish.onnx`: a box with margins inside a working grid, with and without a contour."""
    generator = torch.Generator().manual_seed(1)
    looks, shape, begin, extent, margin = len(looks_of(spec)), (9, 8, 7), (2, 0, 1), (6, 8, 5), (1, 0, 2)
    sides = [n + 2 * m for n, m in zip(extent, margin, strict=True)]
    into = np.diag([0.77, -1.21, 0.59, 1.0])
    into[:3, 3] = (-0.9, 7.3, 0.4)
    regions = len(spec.settings.region_names)
    trials = []
    for known in (1.0, 0.0):
        tumour = (torch.rand((1, 1, *sides), generator=generator) > 0.5).float() * known
        trials.append(
            {
                "logits_sum": torch.randn((looks, spec.members, regions, *sides), generator=generator),
                "coverage": torch.rand((looks, *sides), generator=generator) + 0.5,
                "layout": torch.tensor([shape, begin, extent, margin]),
                "inside": (torch.rand((11, 7, 12), generator=generator) > 0.2).to(torch.uint8),
                "into_working": torch.from_numpy(into),
                "tumour": tumour,
                "tumour_known": torch.tensor([known]),
            }
        )
    return trials


def _given(spec: BundleSpec, trial: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Covariates in their own units; of the second patient every second one is known, of the third none."""
    values = [
        generator.choice(term.levels) if term.levels else generator.uniform(term.low, term.high)
        for term in spec.settings.terms
    ]
    known = [(trial == 0) or (trial == 1 and place % 2 == 0) for place in range(len(values))]
    return np.where(known, np.array(values, dtype=np.float64), np.nan)


def _grid(spec: BundleSpec, trial: int, *, other: bool) -> tuple[tuple[int, int, int], Affine]:
    """Shape and affine: turned by a trial's angle; voxels run along i k j and backwards in the second."""
    settings = spec.settings
    spacing = [side * factor for side, factor in zip(settings.spacing_mm, OTHER if other else COARSER, strict=True)]
    # In the second more than one window, elsewhere less.
    voxels = [17, 15, 16] if trial != 1 else [int(1.4 * settings.window[0]) + 3, 13, 14]
    one, two = math.radians(11.0 * trial + 7.0), math.radians(5.0 - 9.0 * trial)
    about_z = np.array([[math.cos(one), -math.sin(one), 0], [math.sin(one), math.cos(one), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(two), -math.sin(two)], [0, math.sin(two), math.cos(two)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = [-31.7 + 2.9 * other, 12.3, -8.1 - 3.7 * other]
    if trial == 1:
        affine = affine @ np.array([[-1.0, 0, 0, voxels[0] - 1], [0, 0, 1, 0], [0, -1, 0, voxels[1] - 1], [0, 0, 0, 1]])
    i, j, k = voxels
    # As a header keeps it.
    return (i, j, k), affine.astype(np.float32).astype(np.float64)


def _values(
    name: str, norm: ChannelNorm, shape: tuple[int, int, int], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Noise that the quantity can have."""
    noise = generator.normal(size=shape)
    if norm.kind == "image":
        return np.asarray(300.0 + 60.0 * noise, dtype=np.float32)
    values = norm.centre + norm.scale * noise
    what = quantity(name)
    return np.clip(np.expm1(values) if norm.log else values, what.low, what.high).astype(np.float32)


def _contour(shape: tuple[int, int, int], place: int) -> NDArray[np.float32]:
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(n // 4 + 2 * place, n // 2 + 3 * place) for n in shape)] = 1.0
    return mask
