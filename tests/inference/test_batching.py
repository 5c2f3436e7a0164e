import pytest
import torch

from hypoxnet.inference.batching import HostMemory, measured_batch, memory_of, most_on, threads_on


class Fake:
    """A device on which a window takes so many bytes."""

    def __init__(self, *, window, free, holds=1000):
        self.window, self.bytes, self.holds, self.tried = window, free, holds, []

    def peak_of(self, work):
        count = work()
        self.tried.append(count)
        if count > self.holds:
            raise torch.OutOfMemoryError
        return count * self.window

    def free(self):
        return self.bytes


def measured(memory, *, most=32, at_once=1):
    return measured_batch(lambda windows: windows, memory, most=most, at_once=at_once)


@pytest.mark.parametrize(("free", "batch"), [(10, 1), (34, 2), (67, 4), (1000, 32), (10**6, 32)])
def test_the_batch_is_the_largest_power_of_two_that_fits_into_the_share(free, batch):
    assert measured(Fake(window=10, free=free)) == batch


def test_a_trial_that_overflows_goes_on_with_half_and_says_so(caplog):
    memory = Fake(window=1, free=10**6, holds=6)
    with caplog.at_level("WARNING", logger="hypoxnet"):
        assert measured(memory) == 4
    assert memory.tried == [1, 2, 4, 8]
    assert caplog.messages == ["8 windows at once are more than the memory holds, going on with 4"]


def test_no_window_at_all_is_left_to_the_case_to_say():
    with pytest.raises(torch.OutOfMemoryError):
        measured(Fake(window=1, free=10**6, holds=0))


def test_no_more_than_the_most_is_tried():
    memory = Fake(window=1, free=10**6)
    assert measured(memory, most=2) == 2
    assert max(memory.tried) == 2


def test_the_machines_own_memory_sees_what_work_takes_and_gives_back():
    memory = HostMemory()
    assert isinstance(memory_of(torch.device("cpu")), HostMemory)
    small, large = (memory.peak_of(lambda n=n: torch.ones(n, 2**18)) for n in (8, 128))
    assert large == 0 or 100 * 2**20 < large - small < 140 * 2**20
    assert memory.free() > 0


def test_batches_that_run_side_by_side_share_the_memory():
    assert measured(Fake(window=10, free=67)) == 4
    assert measured(Fake(window=10, free=67), at_once=4) == 1


@pytest.mark.parametrize(("side", "most"), [(8, 8), (16, 8), (32, 4), (40, 2), (48, 2), (96, 2)])
def test_a_cpu_takes_more_windows_at_once_the_smaller_they_are(side, most):
    assert most_on(torch.device("cpu"), (side, side, side)) == most


def test_in_bfloat16_twice_as_many_windows_go_at_once():
    assert most_on(torch.device("cpu"), (32, 32, 32), bfloat16=True) == 8


def test_small_windows_get_a_thread_for_each_batch_and_large_ones_all_threads_together(set_threads):
    set_threads(3)
    assert threads_on(torch.device("cpu"), (48, 48, 48)) == 3
    assert threads_on(torch.device("cpu"), (64, 64, 64)) == 1
    assert threads_on(torch.device("meta"), (32, 32, 32)) == 1
