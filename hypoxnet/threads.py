"""Threads of torch: how many a piece of work takes, and work side by side in threads of one each.

torch counts its threads per calling thread; what is set here is set back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Submit = Callable[[Callable[[], Any]], Future[Any]]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch for what the calling thread does inside.

    Sums are added up in one order: with several threads the last digit depends on the machine. And a second thread that
    computes with several makes OpenMP count more threads than there are cores; from then on those of the first no
    longer wait for each other on the core, but sleep, and a network of many small layers takes twice as long.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def side_by_side(threads: int) -> Iterator[Submit]:
    """Threads that each infer with one thread of torch.

    Work that is divided among threads by whole pieces has nothing to wait for, and each piece gives the same bits
    however many threads there are. With 1 the calling thread does the work at once, with the threads, gradients and
    precision that it has.

    Args:
        threads: How many.

    Returns:
        Takes a piece of work, gives a future of its result. Leaving waits for what has begun.

    Example:
        >>> with side_by_side(2) as submit:
        ...     [submit(lambda n=n: n * n).result() for n in range(3)]
        [0, 1, 4]
    """
    if threads == 1:
        yield _at_once
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "window", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield lambda work: pool.submit(_inferring, work)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # new threads begin with what was set last anywhere


def _inferring(work: Callable[[], Result]) -> Result:
    with torch.inference_mode():
        return work()


def _at_once(work: Callable[[], Result]) -> Future[Result]:
    done: Future[Result] = Future()
    done.set_result(work())
    return done
