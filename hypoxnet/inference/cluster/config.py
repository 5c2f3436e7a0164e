"""Settings of inference by several workers. Values only: importing this loads neither torch nor Dask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypoxnet.errors import ConfigError

Item = TypeVar("Item")


@dataclass
class ClusterConfig:
    """Who predicts, when it is not this process.

    Args:
        workers: Worker processes that are started here and end with the run; 0 for none.
        scheduler: Address of a Dask scheduler whose workers predict, `tcp://host:8786`, or the file that it wrote with
            `--scheduler-file`.
        threads: Threads of each worker; null takes as many as this process would use, since results of large windows
            differ in their last digits with another number. Several workers on one machine are faster with its cores
            divided among them.
        case_limit_s: Time in s after which a case is taken from its worker, which is restarted, and given to another.
        attempts: Workers that a case may cost, killed or out of time, before it is a failed line of the table.
        wait_s: Time in s that a run waits for a worker when there is none.
    """

    workers: int = 0
    scheduler: str = ""
    threads: int | None = None
    case_limit_s: float = 3600.0
    attempts: int = 3
    wait_s: float = 120.0

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("attempts", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"cluster.{name} is {value}, it must be at least {least}")
        for name in ("case_limit_s", "wait_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"cluster.{name} is {getattr(self, name)}, it must be above 0 s")
        if self.workers and self.scheduler:
            raise ConfigError(
                f"cluster.workers={self.workers} starts workers here, cluster.scheduler={self.scheduler} takes those "
                "of a scheduler; give one of the two"
            )

    @property
    def wanted(self) -> bool:
        """Somebody else than this process predicts."""
        return bool(self.workers or self.scheduler)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a cohort.

    Args:
        number: From 1.
        of: Parts.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`.

        Raises:
            ConfigError: It says something else.

        Example:
            >>> Shard.parse("2/4")
            Shard(number=2, of=4)
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ConfigError(f"shard is {text!r}, it must be a part and the number of parts, for example 2/4")
        return cls(int(number), int(of))

    def part(self, cohort: Sequence[Item]) -> Sequence[Item]:
        """Its cases: every so many, since neighbours in a manifest are often alike in size.

        Example:
            >>> Shard(2, 3).part("abcdefg")
            'be'
        """
        return cohort[self.number - 1 :: self.of]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number}-of-{self.of}"
