"""How many windows go through the network at once: as many as the device's memory is seen to hold, and no more."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import psutil
import torch

log = logging.getLogger(__name__)

# Share of the free memory that windows may take: the patient, its sums and the resampled maps need the rest.
SHARE = 0.6
# On a GPU more windows at once are not faster, and few patients have more.
MOST_ON_GPU = 32
# Measured on two cores, windows of 16 to 96 voxels (benchmarks/inference_batch.py): one window alone takes up to four
# times as long (torch then leaves oneDNN); several small ones share what a layer costs to begin; beyond these limits a
# window takes as long and the memory of all. In bfloat16 that is at twice as many voxels.
FEWEST_ON_CPU, MOST_ON_CPU = 2, 8
VOXELS_ON_CPU = 2**17

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory(Protocol):
    """The memory of a device."""

    def peak_of(self, work: Callable[[], object]) -> int:
        """Bytes that some work takes at its worst."""

    def free(self) -> int:
        """Bytes that work may take now."""


class CudaMemory:
    """A GPU's, as its driver and torch's allocator tell it.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def peak_of(self, work: Callable[[], object]) -> int:
        """Bytes that torch hands out at the worst moment."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def free(self) -> int:
        """What the driver can still give, and what torch holds without using it."""
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + held


class HostMemory:
    """The machine's own."""

    def peak_of(self, work: Callable[[], object]) -> int:
        """Rise of this process above what it holds now; 0 where the system does not tell (only Linux does)."""
        if not CLEAR.exists():
            work()
            return 0
        CLEAR.write_text("5", encoding="ascii")  # 5: the highest value so far is forgotten
        before = _kibibytes("VmRSS")
        work()
        return max(0, _kibibytes("VmHWM") - before) * 1024

    def free(self) -> int:
        """What the system can give without swapping."""
        return int(psutil.virtual_memory().available)


def memory_of(device: torch.device) -> Memory:
    """The memory of a device; a device of another kind is judged by the machine's own."""
    return CudaMemory(device) if device.type == "cuda" else HostMemory()


def most_on(device: torch.device, window: Sequence[int], *, bfloat16: bool = False) -> int:
    """Windows beyond which more at once are not faster.

    Args:
        device: Where the network is.
        window: Voxels along D, H, W.
        bfloat16: The network computes in it.

    Example:
        >>> most_on(torch.device("cpu"), (32, 32, 32)), most_on(torch.device("cpu"), (96, 96, 96))
        (4, 2)
    """
    if device.type != "cpu":
        return MOST_ON_GPU
    voxels = VOXELS_ON_CPU * (2 if bfloat16 else 1)
    return max(FEWEST_ON_CPU, min(MOST_ON_CPU, voxels // math.prod(window)))


def threads_on(device: torch.device, window: Sequence[int]) -> int:
    """Threads that take batches of windows side by side, each with one thread of torch.

    On the CPU as many as torch may have: threads that share a layer wait for each other at its end, and for whoever
    else needs their core. Large windows are worth that wait, and too many in memory at once; a GPU is given its work by
    one thread.

    Args:
        device: Where the network is.
        window: Voxels along D, H, W.

    Example:
        >>> threads_on(torch.device("cpu"), (96, 96, 96))
        1
    """
    return torch.get_num_threads() if device.type == "cpu" and math.prod(window) <= VOXELS_ON_CPU else 1


def measured_batch(work: Callable[[int], object], memory: Memory, *, most: int, at_once: int = 1) -> int:
    """The largest power of two of windows that the memory holds, by trial.

    The batch is doubled as long as twice the measured peak fits into `SHARE` of what is free. Time is not measured: it
    would choose differently on a busy machine, and with another batch results differ in their last digits.

    Args:
        work: Puts so many windows through the network.
        memory: Of the device.
        most: Windows that are never exceeded.
        at_once: Batches that are in memory together.

    Example:
        >>> class Tenth:
        ...     def peak_of(self, work):
        ...         return 10 * work()
        ...     def free(self):
        ...         return 100
        >>> measured_batch(lambda windows: windows, Tenth(), most=32)
        4
    """
    count = 1
    while True:
        try:
            peak = memory.peak_of(lambda windows=count: work(windows))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            log.warning("%d windows at once are more than the memory holds, going on with %d", count, count // 2)
            return count // 2
        if 2 * count > most or 2 * peak * at_once > SHARE * memory.free():
            return count
        count *= 2


def _kibibytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) if found else 0
