"""Uptake over that of a reference region, as a channel: what hypoxia thresholds are stated in.

What muscle takes up follows the tracer in plasma, which differs between patients by a sixth and more. The ratio takes
that away; a network that sees a window round the tumour cannot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hypoxnet.cases import CaseRecord
from hypoxnet.errors import CaseError
from hypoxnet.files import sha256_of
from hypoxnet.images import read_channel, read_mask, write_image
from hypoxnet.maps.reference_region import RATIO_REGIONS, ratio_map, reference_value
from hypoxnet.quantities import HYPOXIA_TRACERS, TRACERS
from hypoxnet.transforms.prepare import onto

# Raise it when the same files would give another ratio.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio that a case's files allow: `FMISO_TMR` of `FMISO_SUV` and `MUSCLE`."""

    name: str
    channel: str
    mask: str
    statistic: str


def ratios_of(record: CaseRecord, wanted: Sequence[str]) -> Iterator[Ratio]:
    """The ratios to make for a case.

    Args:
        record: The case; a ratio that has a file is not made.
        wanted: Channels that were asked for by name. When empty, each hypoxia tracer gets its ratio to muscle where
            muscle is contoured, else to blood where that is.
    """
    for tracer in TRACERS:
        possible = [
            Ratio(f"{tracer}_{ending}", f"{tracer}_SUV", mask, statistic)
            for ending, (mask, statistic) in RATIO_REGIONS.items()
            if f"{tracer}_SUV" in record.channels and mask in record.masks
        ]
        if wanted:
            possible = [ratio for ratio in possible if ratio.name in wanted]
        else:
            possible = possible[:1] if tracer in HYPOXIA_TRACERS else []
        yield from (ratio for ratio in possible if ratio.name not in record.channels)


def make_ratio(record: CaseRecord, ratio: Ratio, folder: Path) -> Path:
    """Write a ratio once; the file's name changes with the content of image and mask.

    Args:
        record: The case.
        ratio: Which.
        folder: Where ratios lie.

    Raises:
        CaseError: A file cannot be read, or the reference region is empty or without uptake.
        GeometryError: An affine is unusable.
    """
    image, mask = record.channels[ratio.channel], record.masks[ratio.mask]
    for path in (image, mask):
        if not path.is_file():
            raise CaseError(f"{record.key}: {ratio.name}: {path} does not exist; mend the path in the manifest")
    content = [VERSION, ratio.name, ratio.statistic, sha256_of(image), sha256_of(mask)]
    path = folder / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}_{ratio.name}.nii.gz"
    if path.is_file():
        return path
    volume = read_channel(image, ratio.channel, case=f"{record.key}: {ratio.channel}")
    region = read_mask(mask, case=f"{record.key}: {ratio.mask}")
    try:
        reference = reference_value(
            volume.array, onto(region.array, region.grid, volume.grid), statistic=ratio.statistic
        )
    except CaseError as error:
        raise CaseError(f"{record.key}: {ratio.name}: {mask}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    write_image(path, ratio_map(volume.array, reference).astype(np.float32), volume.grid)
    return path
