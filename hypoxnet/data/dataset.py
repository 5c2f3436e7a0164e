"""Windows of prepared cases, drawn anew in each epoch and the same again for the same seed.

Axis legend: B patients, C channels, K regions, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hypoxnet.cases import Batch, CaseRecord, Sample

# The outcome is judged from a window only if it holds at least this share of the tumour.
TUMOUR_SEEN = 0.5


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Which window: of which case, in which epoch, and which draw of that epoch."""

    case: int
    epoch: int
    position: int


class WindowDataset(Dataset[Sample]):
    """One window of one case per request.

    Args:
        records: The cases.
        load: Gives a prepared sample, from memory or from the cache.
        window: D H W voxels; cases smaller than that are padded with 0.
        focus: Share of windows centred on a voxel of the label.
        anywhere: Share of windows centred on any voxel; the others are centred on the tumour.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        records: Sequence[CaseRecord],
        load: Callable[[CaseRecord], Sample],
        *,
        window: Sequence[int],
        focus: float,
        anywhere: float,
        seed: int,
    ) -> None:
        self.records = tuple(records)
        self.load = load
        self.window = tuple(window)
        self.focus = focus
        self.anywhere = anywhere
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, request: WindowRequest) -> Sample:
        sample = self.load(self.records[request.case])
        generator = np.random.default_rng([self.seed, request.epoch, request.position, request.case])
        return cut_window(sample, self._centre(sample, generator), self.window)

    def _centre(self, sample: Sample, generator: np.random.Generator) -> NDArray[np.int64]:
        kind = generator.random()
        shape = np.array(sample.images.shape[1:])
        if kind < self.anywhere:
            return generator.integers(0, shape)
        if kind < self.anywhere + self.focus:
            labelled = torch.nonzero(sample.label.any(dim=0).flatten())[:, 0]
            if len(labelled):
                chosen = int(labelled[generator.integers(len(labelled))])
                return np.array(np.unravel_index(chosen, tuple(shape)))
        return tumour_centre(sample)


def tumour_centre(sample: Sample) -> NDArray[np.int64]:
    """Voxel at the tumour's centre of mass; of the image where there is no contour."""
    where = torch.nonzero(sample.tumour[0])
    if len(where) == 0:
        return np.array([n // 2 for n in sample.images.shape[1:]])
    return np.asarray(where.double().mean(dim=0).round().long().numpy())


def cut_window(sample: Sample, centre: NDArray[np.int64], window: Sequence[int]) -> Sample:
    """The window about a voxel, moved to lie inside the image where the image is large enough.

    Outside the image everything is 0, as in sliding-window inference.
    """
    shape = np.array(sample.images.shape[1:])
    size = np.array(window)
    start = np.where(shape > size, np.clip(centre - size // 2, 0, np.maximum(shape - size, 0)), (shape - size) // 2)
    tumour = _cut(sample.tumour, start, size)
    seen = float(_share_seen(sample, tumour, start, size) >= TUMOUR_SEEN)
    return replace(
        sample,
        images=_cut(sample.images, start, size),
        label=_cut(sample.label, start, size),
        tumour=tumour,
        outcome_known=sample.outcome_known * seen,
    )


def _cut(volume: Tensor, start: NDArray[np.int64], size: NDArray[np.int64]) -> Tensor:
    shape = np.array(volume.shape[1:])
    low, high = np.maximum(start, 0), np.minimum(start + size, shape)
    inner = volume[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    before, after = low - start, start + size - high
    if not (before.any() or after.any()):
        return inner.contiguous()
    padding = [int(n) for axis in (2, 1, 0) for n in (before[axis], after[axis])]
    return torch.nn.functional.pad(inner, padding)


def _share_seen(sample: Sample, tumour: Tensor, start: NDArray[np.int64], size: NDArray[np.int64]) -> float:
    """Share of the tumour inside the window; of the image where there is no contour."""
    whole = int(sample.tumour.sum())
    if whole:
        return int(tumour.sum()) / whole
    shape = np.array(sample.images.shape[1:])
    inside = np.minimum(start + size, shape) - np.maximum(start, 0)
    return float(np.prod(inside) / np.prod(shape))


def collate(windows: Sequence[Sample]) -> Batch:
    """Stack windows into a batch."""
    names = [name for name in Batch.__dataclass_fields__ if name != "keys"]
    stacked = {name: torch.stack([getattr(window, name) for window in windows]) for name in names}
    return Batch(keys=tuple(window.key for window in windows), **stacked)


class WindowSampler(Sampler[list[WindowRequest]]):
    """Batches of requests: each case once before any comes again, in an order drawn from (seed, epoch).

    Sharding over processes is by position, so that a run on two devices sees what one device would.

    Args:
        cases: Number of cases.
        batch_size: Windows per batch (and device).
        steps: Batches per epoch (and device).
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        cases: int,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.cases = cases
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    @property
    def sampler(self) -> WindowSampler:
        """Where Lightning looks for `set_epoch` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch, a resumed one included."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[WindowRequest]]:
        wanted = self.steps * self.batch_size * self.world_size
        generator = np.random.default_rng([self.seed, self.epoch])
        rounds = [generator.permutation(self.cases) for _ in range(-(-wanted // self.cases))]
        order = np.concatenate(rounds)[:wanted]
        mine = range(self.rank, wanted, self.world_size)
        requests = [WindowRequest(int(order[position]), self.epoch, position) for position in mine]
        for step in range(self.steps):
            yield requests[step * self.batch_size : (step + 1) * self.batch_size]
