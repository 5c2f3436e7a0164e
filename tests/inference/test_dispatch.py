"""Who has which case, with workers that are acted: no process is started and no second is waited."""

from collections import Counter

import numpy as np
import pytest

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import ConfigError
from hypoxnet.files import DiskError
from hypoxnet.inference.cluster import dispatch
from hypoxnet.inference.cluster.dispatch import Answer, Dispatcher, Done, Limits

LIMITS = Limits(case_s=60.0, wait_s=30.0, attempts=3)


class Echo:
    """Work whose row is the key, and whether it was told what all agreed on."""

    def begin(self):
        pass

    def agree(self):
        return "agreed"

    def run_case(self, record, agreed):
        assert agreed == "agreed"
        return Done({"key": record.key})


class ActedCrew:
    """Workers whose every task takes a second, and ends as the script says.

    Args:
        fate: Key and attempt to `ok`, `dies`, `hangs` or `raises`.
        workers: How many there are; one that dies or is let go is replaced by another.
    """

    def __init__(self, fate, *, workers=2, replaced=True, start="ok"):
        self.fate, self.replaced, self.start_fate = fate, replaced, start
        self.now = 0.0
        self.made = workers
        self.alive = [f"w{number}" for number in range(workers)]
        self.attempts = Counter()
        self.begun = []
        self.let_gone = []

    def members(self):
        return list(self.alive)

    def start(self, member, function, *arguments):
        fate = self.start_fate
        if arguments:
            key = arguments[0].key
            fate = self.fate(key, self.attempts[key])
            self.attempts[key] += 1
        elif function.__name__ == "begin":
            self.begun.append(member)
        return {"member": member, "call": lambda: function(*arguments), "at": self.now + 1.0, "fate": fate}

    def answer(self, task):
        if self.now < task["at"] or task["fate"] == "hangs":
            return None
        if task["fate"] == "dies":
            self._gone(task["member"])
            return None
        return Answer(error=RuntimeError("out of luck")) if task["fate"] == "raises" else Answer(task["call"]())

    def forget(self, task):
        task["fate"] = "hangs"

    def wait(self, seconds):
        self.now += seconds

    def let_go(self, member):
        self.let_gone.append(member)
        self._gone(member)

    def _gone(self, member):
        if member in self.alive:
            self.alive.remove(member)
            if self.replaced:
                self.alive.append(f"w{self.made}")
                self.made += 1


def run(crew, keys, monkeypatch, limits=LIMITS, work=None):
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: crew.now)
    told = list(Dispatcher(crew, work or Echo(), limits)([CaseRecord(key) for key in keys]))
    assert len(told) == len({record.key for record, _ in told})
    return {record.key: answer for record, answer in told}


def always(fate):
    return lambda key, attempt: fate


def test_every_case_is_told_once_and_each_worker_begins_once(monkeypatch):
    crew = ActedCrew(always("ok"), workers=3)
    told = run(crew, "abcdefgh", monkeypatch)
    assert {key: done.row for key, done in told.items()} == {key: {"key": key} for key in "abcdefgh"}
    assert sorted(crew.begun) == ["w0", "w1", "w2"]
    assert set(crew.attempts.values()) == {1}


@pytest.mark.parametrize("fate", ["dies", "hangs", "raises"])
def test_a_case_that_loses_its_worker_once_is_done_by_another(fate, monkeypatch):
    crew = ActedCrew(lambda key, attempt: fate if (key, attempt) == ("b", 0) else "ok")
    told = run(crew, "abcd", monkeypatch)
    assert all(isinstance(done, Done) for done in told.values())
    assert crew.attempts == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert len(crew.let_gone) == (1 if fate == "hangs" else 0)


@pytest.mark.parametrize(
    ("fate", "how"),
    [("dies", "died"), ("hangs", "did not answer within 60 s"), ("raises", "ended with RuntimeError: out of luck")],
)
def test_a_case_that_costs_every_worker_is_given_up_with_the_reason_and_the_others_are_done(fate, how, monkeypatch):
    told = run(ActedCrew(lambda key, _: fate if key == "c" else "ok"), "abcdef", monkeypatch)
    assert told.pop("c") == (
        f"each of 3 workers in turn was lost with this case, the last one {how}; try it alone, without cluster settings"
    )
    assert {key for key, done in told.items() if isinstance(done, Done)} == set("abdef")


def test_a_disk_that_takes_no_case_ends_the_run(monkeypatch):
    class OnFullDisk(ActedCrew):
        def answer(self, task):
            answer = super().answer(task)
            full = answer and isinstance(answer.value, Done) and answer.value.row["key"] == "P001"
            return Answer(error=DiskError("p: the disk is full")) if full else answer

    crew = OnFullDisk(lambda key, attempt: "ok")
    with pytest.raises(DiskError, match="p: the disk is full"):
        run(crew, [f"P{number:03d}" for number in range(8)], monkeypatch)
    assert sum(crew.attempts.values()) < 8


def test_a_slow_case_within_its_limit_is_left_alone(monkeypatch):
    crew = ActedCrew(always("ok"))
    run(crew, "abc", monkeypatch, Limits(case_s=1.6, wait_s=30.0, attempts=1))
    assert set(crew.attempts.values()) == {1}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_becomes_of_the_workers_no_case_is_lost_and_none_is_blamed_for_another(seed, monkeypatch):
    keys = [f"P{number:02d}" for number in range(30)]
    drawn = np.random.default_rng(seed).choice(["ok", "ok", "dies", "hangs", "raises"], (len(keys), LIMITS.attempts))

    def fate(key, attempt):
        return drawn[keys.index(key), attempt]

    crew = ActedCrew(fate, workers=3)
    told = run(crew, keys, monkeypatch)
    assert sorted(told) == keys
    for key in keys:
        first_ok = next((n for n in range(LIMITS.attempts) if fate(key, n) == "ok"), None)
        assert isinstance(told[key], Done) == (first_ok is not None)
        assert crew.attempts[key] == (LIMITS.attempts if first_ok is None else first_ok + 1)


def test_without_any_worker_left_the_run_ends_with_a_sentence(monkeypatch):
    crew = ActedCrew(lambda key, _: "dies" if key == "b" else "ok", workers=1, replaced=False)
    with pytest.raises(ConfigError, match=r"no worker could be used for 30 s; finished cases are kept"):
        run(crew, "abc", monkeypatch)
    assert crew.attempts == {"a": 1, "b": 1}


def test_workers_that_refuse_to_begin_say_why(monkeypatch):
    class Refusing(Echo):
        def begin(self):
            raise AssertionError

    class Crew(ActedCrew):
        def answer(self, task):
            return Answer(error=ConfigError("the worker does not see the bundle /b")) if self.now > 0 else None

    with pytest.raises(ConfigError, match="for 30 s: the worker does not see the bundle /b"):
        run(Crew(always("ok")), "ab", monkeypatch, work=Refusing())


def test_workers_that_die_before_their_first_case_end_the_run(monkeypatch):
    with pytest.raises(ConfigError, match="6 workers in turn were lost before their first case, the last one died"):
        run(ActedCrew(always("ok"), start="dies"), "ab", monkeypatch)
