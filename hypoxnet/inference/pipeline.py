"""Stages of several cases at once: one is on the device while the next is prepared and the last is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from hypoxnet.inference.one_case import OneCase


def run_cases(cases: Iterable[OneCase], told: Callable[[OneCase], None], *, ahead: int) -> None:
    """Bring every case through its stages.

    The device works in the calling thread alone, so that results are those of one case after another, bit for bit. At
    most `2 * ahead + 2` cases are in memory. An interrupt, or a disk that takes no more, ends what is being prepared
    and waits for what is being written; of that, too, is told.

    Args:
        cases: In their order; each is made when its turn comes.
        told: Called for each case in this order, in the calling thread, when it is written or has failed.
        ahead: Cases that are prepared while another is on the device, and threads for that; as many threads write. With
            0 one case is finished before the next begins.
    """
    if ahead == 0:
        for case in cases:
            told(case.prepare().predict().write())
        return
    preparing: deque[Future[OneCase]] = deque()
    writing: deque[Future[OneCase]] = deque()
    preparers, writers = ThreadPoolExecutor(ahead, "prepare"), ThreadPoolExecutor(ahead, "write")

    def predict_oldest() -> None:
        case = preparing.popleft().result().predict()
        writing.append(writers.submit(case.write))
        while writing and (len(writing) > ahead or writing[0].done()):
            told(writing.popleft().result())

    try:
        for case in cases:
            preparing.append(preparers.submit(case.prepare))
            if len(preparing) > ahead:
                predict_oldest()
        while preparing:
            predict_oldest()
        while writing:
            told(writing.popleft().result())
    finally:
        preparers.shutdown(wait=False, cancel_futures=True)
        while writing:
            with suppress(OSError):  # of the disk, on which another case ended the run already
                told(writing.popleft().result())
        writers.shutdown()
        preparers.shutdown()
