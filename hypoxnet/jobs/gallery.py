"""Which withheld cases the report shows, and their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from hypoxnet.cases import CaseRecord
from hypoxnet.images import read_channel, read_grid, read_mask
from hypoxnet.inference.read_outs import tumour_on
from hypoxnet.metrics.baselines import true_region
from hypoxnet.metrics.scores import CaseScore
from hypoxnet.report.gallery import gallery_case, write_gallery_case
from hypoxnet.transforms.settings import PrepareSettings
from hypoxnet.transforms.spatial import to_grid

SHOWN = 6
CHANNELS_SHOWN = 3


def chosen_for_gallery(scores: Sequence[CaseScore], region: str) -> list[tuple[CaseScore, str]]:
    """Cases from worst to best in even steps of rank, so that no one can pick the pretty ones; with a title.

    Cases without a true region are passed over while there are others: an empty picture shows nothing.
    """
    scored = sorted((s for s in scores if region in s.regions), key=lambda s: (s.regions[region].dice, s.key))
    with_truth = [s for s in scored if s.regions[region].true_ml > 0] or scored
    if not with_truth:
        return []
    ranks = np.unique(np.linspace(0, len(with_truth) - 1, min(SHOWN, len(with_truth))).round().astype(int))
    return [
        (
            with_truth[rank],
            f"{with_truth[rank].key}: Dice {with_truth[rank].regions[region].dice:.2f} "
            f"(rank {rank + 1} of {len(with_truth)} from below)",
        )
        for rank in ranks
    ]


def save_for_gallery(path: Path, record: CaseRecord, folder: Path, settings: PrepareSettings, *, title: str) -> None:
    """Cut the planes of one case on its reference grid.

    Args:
        path: Archive to write.
        record: The case with its truth.
        folder: Its prediction.
        settings: Channels and regions.
        title: What stands above it.
    """
    region = settings.region_names[0]
    mask_path = folder / f"{record.key}_{region}_mask.nii.gz"
    grid, _ = read_grid(mask_path, case=record.key)
    predicted = read_mask(mask_path, case=record.key).array
    truth = true_region(record, settings, region, grid)
    tumour = tumour_on(record, settings, grid)
    masks: Mapping[str, np.ndarray] = {
        "truth": np.zeros_like(predicted) if truth is None else truth,
        "prediction": predicted,
        **({"tumour": tumour} if tumour is not None and settings.inside_tumour else {}),
    }
    images = {}
    for name in [name for name in settings.channels if name in record.channels][:CHANNELS_SHOWN]:
        volume = read_channel(record.channels[name], name, case=record.key)
        images[name] = to_grid(torch.from_numpy(volume.array)[None], volume.grid, grid, beyond="zeros")[0]
    write_gallery_case(path, gallery_case(record.key, title, images=images, masks=masks, grid=grid))
