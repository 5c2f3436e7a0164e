"""Workers of Dask: processes started here, or those of a scheduler that is there already. Dask is loaded here alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypoxnet.errors import ConfigError
from hypoxnet.inference.cluster.config import ClusterConfig
from hypoxnet.inference.cluster.dispatch import Answer

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

CONNECT_S = 30.0
RESTART_S = 60.0


def refuse_without_dask() -> None:
    """Refuse before anything is loaded.

    Raises:
        ConfigError: Dask is not installed.
    """
    try:
        import distributed  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise ConfigError(
            "cluster settings need Dask, which is not installed; install it with: pip install 'hypoxnet[cluster]'"
        ) from error


@contextmanager
def open_crew(config: ClusterConfig) -> Iterator[DaskCrew]:
    """The workers that the settings name; those that were started here end with the block.

    Raises:
        ConfigError: Dask is not installed, or nobody answers at the scheduler's address.
    """
    refuse_without_dask()
    from distributed import Client

    if config.workers:
        with _local(config) as cluster, Client(cluster, set_as_default=False) as client:
            yield from _crew(client)
        return
    file = Path(config.scheduler).expanduser()
    place: dict[str, Any] = {"scheduler_file": str(file)} if file.is_file() else {"address": config.scheduler}
    try:
        client = Client(**place, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at cluster.scheduler={config.scheduler} ({_line(error)}); start one with "
            "`dask scheduler`, or let cluster.workers=N start processes here"
        ) from error
    with client:
        yield from _crew(client)


def _crew(client: Client) -> Iterator[DaskCrew]:
    crew = DaskCrew(client)
    try:
        yield crew
    finally:
        crew.over = True


@contextmanager
def _local(config: ClusterConfig) -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    threads = str(config.threads or 1)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # Set before a worker loads anything; Dask would set 1. What it says of workers that die, the run says itself.
    environment = {**dict.fromkeys(names, threads), "DASK_LOGGING__DISTRIBUTED": "critical"}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        _quiet("distributed"),
        LocalCluster(
            n_workers=config.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            # A case takes what it takes: Dask would stop a worker at its share of the machine's memory.
            memory_limit=0,
            env=dict.fromkeys(names, threads),
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class DaskCrew:
    """The workers of one scheduler, each with one task of ours at a time.

    Args:
        client: Connected to it.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.over = False
        self._some_done = threading.Event()

    def members(self) -> Collection[str]:
        """Addresses of the workers that the scheduler knows now."""
        try:
            found: dict[str, int] = self.client.nthreads()
        except (OSError, TimeoutError) as error:
            raise ConfigError(
                f"the Dask scheduler does not answer any more ({_line(error)}); finished cases are kept, the same "
                "command goes on"
            ) from error
        return list(found)

    def start(self, member: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Submit to one worker alone; the same call twice is two tasks."""
        task = self.client.submit(function, *arguments, workers=[member], allow_other_workers=False, pure=False)
        task.add_done_callback(lambda _: self._some_done.set())
        return task

    def answer(self, task: Future[Any]) -> Answer | None:
        """The result, if there is one."""
        from distributed.scheduler import KilledWorker, NoValidWorkerError

        if not task.done():
            return None
        if task.status == "finished":
            return Answer(value=task.result())
        error = task.exception() if task.status == "error" else None
        if error is None or isinstance(error, KilledWorker | NoValidWorkerError):
            return Answer(lost=True)
        return Answer(error=error if isinstance(error, Exception) else RuntimeError(str(error)))

    def forget(self, task: Future[Any]) -> None:
        """The scheduler forgets it; a worker that hangs in it does not notice."""
        task.release()

    def wait(self, seconds: float) -> None:
        """Until a task is done; one that was forgotten counts, too."""
        self._some_done.wait(seconds)
        self._some_done.clear()

    def let_go(self, member: str) -> None:
        """Have its nanny kill it and start another; beside the run, since a whole machine may be silent."""
        threading.Thread(target=self._restart, args=(member,), daemon=True).start()

    def _restart(self, member: str) -> None:
        try:
            self.client.restart_workers([member], timeout=RESTART_S, raise_for_error=False)
        except Exception as error:  # noqa: BLE001 (whatever a machine that is gone makes of it, the run goes on)
            if not self.over:
                log.warning("%s could not be restarted: %s", member, _line(error))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
