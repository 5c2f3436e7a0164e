"""Windows at once on the CPU: seconds and memory of a window by the size of the batch, and whether results agree.

    python benchmarks/inference_batch.py                 four minutes on one core
    python benchmarks/inference_batch.py --threads 2     and batches side by side beside all threads on one

The default network over noise. Seconds are processor time, which a busy machine changes least, the best of several
rounds in turns. `bits_of_two` says which batches give the same segmentation, bit for bit, as two windows at once.
`wall_per_window` needs a quiet machine: `together` is all threads of torch on one batch after another, `side_by_side`
as many batches at once as threads, each by one. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from inference import make_predictor

BATCHES = (1, 2, 4, 8, 16)


def main() -> None:
    """Measure every window size and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", default="16,32,48,64,96", help="voxels along each side, with commas")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    sizes = [int(size) for size in arguments.windows.split(",")]
    report = {
        "by_window": {size: measure(size, arguments) for size in sizes},
        "settings": vars(arguments),
        "versions": {name: version(name) for name in ("torch", "monai")},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()},
    }
    print(json.dumps(report, indent=2))


def measure(size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak MiB per batch of one window size."""
    import torch

    from hypoxnet.inference.batching import HostMemory

    predictor = make_predictor(argparse.Namespace(window=size, overlap=0.5, batch=2), inside=False)
    model, memory = predictor.models[0], HostMemory()
    count = max(4, min(16, 2**19 // size**3))
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(count, 2, size, size, size, generator=draw)
    tumour = (torch.randn(count, 1, size, size, size, generator=draw) > 1).float()
    seconds: dict[int, float] = {}
    peak_mib: dict[int, int] = {}
    found: dict[int, torch.Tensor] = {}

    def encode_one(batch: int) -> object:
        return model.encode(images[:batch], torch.ones(batch, 2), tumour[:batch], torch.ones(batch))

    def encode(batch: int) -> None:
        begin = time.process_time()
        parts = [
            model.encode(images[i : i + batch], torch.ones(batch, 2), tumour[i : i + batch], torch.ones(batch))
            for i in range(0, count, batch)
        ]
        spent = (time.process_time() - begin) / count
        seconds[batch] = min(spent, seconds.get(batch, spent))
        found[batch] = torch.cat([part.segmentation for part in parts])

    with torch.inference_mode():
        for _ in range(arguments.rounds):
            for batch in (b for b in BATCHES if b <= count):
                peak_mib[batch] = memory.peak_of(lambda batch=batch: encode(batch)) // 2**20  # type: ignore[misc]
    return {
        "seconds_per_window": {batch: round(spent, 4) for batch, spent in seconds.items()},
        "peak_mib": peak_mib,
        "bits_of_two": [batch for batch in found if torch.equal(found[batch], found[2])],
        **({} if arguments.threads == 1 else {"wall_per_window": walls(encode_one, arguments, len(images))}),
    }


def walls(encode: Callable[[int], object], arguments: argparse.Namespace, windows: int) -> dict[str, dict[int, float]]:
    """Median seconds per window of both ways, in turns, by the size of the batch."""
    import torch

    from hypoxnet.threads import side_by_side

    def together(batch: int, count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                encode(batch)

    def apart(batch: int, count: int) -> None:
        with torch.inference_mode(), side_by_side(arguments.threads) as submit:
            for done in [submit(lambda: encode(batch)) for _ in range(count)]:
                done.result()

    ways = {"together": together, "side_by_side": apart}
    found: dict[str, dict[int, float]] = {name: {} for name in ways}
    for batch in (b for b in BATCHES if b <= windows):
        count = arguments.threads * max(1, windows // batch)
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds + 1):
            for name, way in ways.items():
                begin = time.perf_counter()
                way(batch, count)
                rounds[name].append((time.perf_counter() - begin) / (count * batch))
        for name, spent in rounds.items():
            found[name][batch] = round(statistics.median(spent[1:]), 4)
    return found


if __name__ == "__main__":
    main()
