"""A cohort of phantoms on disk: made in parallel, streamed, resumed, and the same for the same seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import track

from hypoxnet.errors import ConfigError
from hypoxnet.files import write_json, write_text
from hypoxnet.phantom.assemble import make_phantom, manifest_columns
from hypoxnet.phantom.datasheet import datasheet_page, datasheet_rows
from hypoxnet.phantom.oxygen.closure import Closure, closure_for
from hypoxnet.phantom.parameters.cohort import VERSION, Preset
from hypoxnet.phantom.parameters.oxygen import HYPOXIC_MMHG
from hypoxnet.phantom.writing import (
    MANIFEST,
    OUTCOME_ROW,
    OUTCOMES,
    ROWS,
    case_name,
    read_rows,
    table_text,
    write_phantom,
)
from hypoxnet.threads import one_thread

DATASHEET, DATASHEET_PAGE = "datasheet.json", "datasheet.md"
# Where the closure of oxygen is kept, when the parameters are not those that it comes along for.
CLOSURES = "closure"
# Below this number of patients starting processes costs more than it saves.
ENOUGH_FOR_PROCESSES = 16


def make_cohort(chosen: Preset, folder: Path, *, workers: int = 0, progress: bool = False) -> Path:
    """Make a cohort, or finish one that was begun.

    Patients are written one by one, each folder whole or not at all; the manifest is written last, so a cohort without
    one is not whole.

    Args:
        chosen: What to make.
        folder: Where it goes.
        workers: Processes; 0 is one per core. The files do not depend on it.
        progress: Show a bar on stderr.

    Returns:
        The manifest.

    Raises:
        ConfigError: The folder holds another cohort, or cannot be written.

    Example:
        make_cohort(preset("test"), Path("phantoms"))
    """
    if workers < 0:
        raise ConfigError(f"workers={workers} must be 0 (one per core) or a number of processes")
    _claim(folder, chosen)
    missing = [n for n in range(1, chosen.cases + 1) if not (folder / case_name(n) / ROWS).exists()]
    closure = closure_for(chosen.oxygen, chosen.vessels, folder=folder / CLOSURES, progress=progress)
    made = _each(partial(_write_one, chosen, folder, closure), missing, workers)
    bar = track(
        made,
        description=f"phantom {chosen.name}",
        total=len(missing),
        disable=not progress,
        console=Console(stderr=True),
    )
    for _ in bar:
        pass
    cases = [folder / case_name(n) for n in range(1, chosen.cases + 1)]
    write_text(folder / OUTCOMES, table_text(row for case in cases for row in read_rows(case / OUTCOME_ROW)))
    write_text(folder / MANIFEST, table_text(row for case in cases for row in read_rows(case / ROWS)))
    return folder / MANIFEST


def _write_one(chosen: Preset, folder: Path, closure: Closure, number: int) -> None:
    with one_thread():
        write_phantom(folder, make_phantom(chosen, number, closure), manifest_columns(chosen))


def _each(make: Callable[[int], None], numbers: Sequence[int], workers: int) -> Iterator[None]:
    """Run for every number, on several processes where there is enough to do."""
    if workers == 1 or (workers == 0 and len(numbers) < ENOUGH_FOR_PROCESSES):
        yield from map(make, numbers)
        return
    count = workers or os.cpu_count() or 1
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        waiting = iter(numbers)
        # Twice as many orders as processes: nobody waits, and an interrupt is answered at once.
        running: list[Future[None]] = [pool.submit(make, n) for n in islice(waiting, 2 * count)]
        try:
            while running:
                running.pop(0).result()
                running += [pool.submit(make, n) for n in islice(waiting, 1)]
                yield
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _claim(folder: Path, chosen: Preset) -> None:
    """Write the datasheet, or see that the one that is there is of the same cohort."""
    path = folder / DATASHEET
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))["digest"]
            if before != chosen.digest():
                raise ConfigError(
                    f"{folder} holds a cohort with parameters {before}, asked for is {chosen.digest()}; "
                    "choose another folder"
                )
            return
        rows = datasheet_rows(chosen)
        write_text(folder / DATASHEET_PAGE, datasheet_page(chosen, rows))
        write_json(path, _sheet(chosen, rows))
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ConfigError(f"{folder} cannot take a cohort ({error}); choose another folder") from error


def _sheet(chosen: Preset, rows: Sequence[dict[str, object]]) -> dict[str, object]:
    return {
        "object": "HypoxNet digital reference object",
        "version": VERSION,
        "preset": chosen.name,
        "cases": chosen.cases,
        "seed": chosen.seed,
        "digest": chosen.digest(),
        "hypoxic_below_mmhg": HYPOXIC_MMHG,
        "label": "HYPOXIA: living tumour whose mean pO2 is below this; no image enters it",
        "explained_in": "docs/explanation/phantom.md",
        "parameters": list(rows),
    }
