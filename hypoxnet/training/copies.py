"""Several copies of one job, started by torchrun on one machine or on many, that train one network together.

The first copy does everything that one process alone does. The others wait until it has prepared the cohort, train
along with it, and write nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from hypoxnet.errors import ConfigError
from hypoxnet.training.config import TrainingConfig

# Others wait while the first prepares a cohort, or predicts the withheld patients of a fold.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Copies:
    """This process among the copies.

    Args:
        rank: From 0, the first.
        count: Copies, on all machines.
        group: By which they tell each other; None for one alone.
    """

    rank: int = 0
    count: int = 1
    group: distributed.ProcessGroup | None = None

    def told(self, content: Any = None) -> Any:
        """What the first one says, in each of them; waits for it, and for all others."""
        if self.group is None:
            return content
        said = [content]
        distributed.broadcast_object_list(said, src=0, group=self.group)
        return said[0]


def by_torchrun() -> bool:
    """Torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def machines() -> tuple[int, int]:
    """Number of machines, and copies on each.

    Raises:
        ConfigError: Machines have different numbers of copies.
    """
    copies, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if copies % here:
        raise ConfigError(
            f"torchrun has started {here} copies here and {copies} in all; give --nproc-per-node the same number on "
            "each machine"
        )
    return copies // here, here


@contextmanager
def joined(training: TrainingConfig, *, output: str) -> Iterator[Copies]:
    """This process among the copies that torchrun has started; itself alone when it was started otherwise.

    Args:
        training: Which devices are wanted.
        output: Run folder as it was given.

    Raises:
        ConfigError: No run folder was given, each copy would make its own; or `training.devices` says another number.
    """
    if not by_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Copies()
        return
    _, here = machines()
    if not output:
        raise ConfigError("torchrun starts copies that need one run folder: say output=FOLDER, on a disk they share")
    if training.devices not in {"auto", str(here)}:
        raise ConfigError(
            f"training.devices is {training.devices}, torchrun has started {here} copies here; leave training.devices "
            "out"
        )
    uses_cuda = training.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    distributed.init_process_group("nccl" if uses_cuda else "gloo", timeout=PATIENCE)
    try:
        # Of its own: objects are sent on the CPU, whatever the network is trained on.
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        yield Copies(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        distributed.destroy_process_group()
