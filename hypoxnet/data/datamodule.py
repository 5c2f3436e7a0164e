"""Loaders of a split for Lightning: cases prepared once, windows drawn from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import lightning.pytorch as pl
import torch
from monai.data import DataLoader
from rich.progress import track

from hypoxnet.cases import Batch, CaseRecord, Sample
from hypoxnet.data.cache import PreparedCache, default_cache_folder
from hypoxnet.data.config import DataConfig
from hypoxnet.data.dataset import WindowDataset, WindowRequest, WindowSampler, collate, cut_window, tumour_centre
from hypoxnet.data.splits import Split
from hypoxnet.errors import CaseError, HypoxNetError
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)


def cache_folder(config: DataConfig) -> Path:
    """Where prepared cases lie."""
    return (Path(config.cache) if config.cache else default_cache_folder()) / "prepared"


def maps_folder(config: DataConfig) -> Path:
    """Where maps of raw series lie."""
    return (Path(config.cache) if config.cache else default_cache_folder()) / "maps"


def prepare_cohort(
    records: Sequence[CaseRecord], cache: PreparedCache, *, workers: int
) -> tuple[tuple[CaseRecord, ...], dict[str, str]]:
    """Fill the cache; cases that cannot be prepared are logged and left out.

    Args:
        records: The cases.
        cache: Where they go; an interrupt loses nothing that was finished.
        workers: Processes; 0 prepares in this one.

    Returns:
        The records that could be prepared, in their order, and for the others the reason by key.

    Raises:
        CaseError: None could.
    """
    reasons: dict[str, str] = {}
    if workers == 0:
        for record in track(records, description="preparing", transient=True):
            reasons |= _try(record, cache)
    else:
        # Spawned: a forked copy of a process with torch's threads can hang.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_try, record, cache) for record in records]
            for done in track(as_completed(waiting), description="preparing", total=len(waiting), transient=True):
                reasons |= done.result()
    for reason in reasons.values():
        log.warning("left out: %s", reason)
    usable = tuple(record for record in records if record.key not in reasons)
    if not usable:
        raise CaseError(f"none of {len(records)} cases could be prepared; the first: {next(iter(reasons.values()))}")
    return usable, reasons


def _try(record: CaseRecord, cache: PreparedCache) -> dict[str, str]:
    try:
        cache.get(record)
    except HypoxNetError as error:
        return {record.key: str(error)}
    return {}


class SampleStore:
    """Samples by record, from memory where they fit, else from the cache.

    Args:
        cache: The cache.
        in_memory: Keep samples in memory once loaded.
    """

    def __init__(self, cache: PreparedCache, *, in_memory: bool) -> None:
        self.cache = cache
        self.in_memory = in_memory
        self._samples: dict[str, Sample] = {}

    def __call__(self, record: CaseRecord) -> Sample:
        """The sample of a record."""
        if record.key in self._samples:
            return self._samples[record.key]
        sample = self.cache.get(record).sample
        if self.in_memory:
            self._samples[record.key] = sample
        return sample


class HypoxiaDataModule(pl.LightningDataModule):
    """Training and validation loaders of a split; what `prepare_cohort` has not prepared is prepared on first use.

    Args:
        split: Who trains and who validates.
        settings: How cases are prepared.
        config: Windows, cache, workers.
        batch_size: Windows per step.
        steps_per_epoch: Batches per epoch; 0 shows each case once.
        seed: Seed of order and windows.
    """

    def __init__(
        self,
        split: Split,
        settings: PrepareSettings,
        config: DataConfig,
        *,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.split = split
        self.config = config
        self.batch_size = batch_size
        self.seed = seed
        self._steps = steps_per_epoch
        self.store = SampleStore(PreparedCache(cache_folder(config), settings), in_memory=config.in_memory)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch on one device."""
        return self._steps or max(1, len(self.split.train) // self.batch_size)

    def train_dataloader(self) -> DataLoader:
        """Windows by `focus` and `anywhere`, in an order drawn for each epoch."""
        dataset = WindowDataset(
            self.split.train,
            self.store,
            window=self.config.window,
            focus=self.config.focus,
            anywhere=self.config.anywhere,
            seed=self.seed,
        )
        rank, world = self._place()
        sampler = WindowSampler(
            len(dataset),
            batch_size=self.batch_size,
            steps=self.steps_per_epoch,
            seed=self.seed,
            rank=rank,
            world_size=world,
        )
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader:
        """One window per validation case, centred on its tumour."""
        dataset = _CentredWindows(self.split.validation, self.store, self.config.window)
        batches = [
            [WindowRequest(case, 0, case) for case in range(first, min(first + self.batch_size, len(dataset)))]
            for first in range(0, len(dataset), self.batch_size)
        ]
        return self._loader(dataset, batches)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A `Batch` is a dataclass of tensors; Lightning would not know to move it."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def _loader(self, dataset: object, batches: object) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0,
            multiprocessing_context="spawn" if self.config.workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)


class _CentredWindows(WindowDataset):
    """The window about the tumour of each case."""

    def __init__(self, records: Sequence[CaseRecord], load: SampleStore, window: Sequence[int]) -> None:
        super().__init__(records, load, window=window, focus=0.0, anywhere=0.0, seed=0)

    def __getitem__(self, request: WindowRequest) -> Sample:
        sample = self.load(self.records[request.case])
        return cut_window(sample, tumour_centre(sample), self.window)
