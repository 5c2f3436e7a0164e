"""Randomness: one stream per patient and link, so that a change of one link leaves what the others draw as it was.

The same patient can then be imaged by another scanner, or treated with another dose, with everything else equal.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Streams:
    """The random streams of one patient.

    Args:
        seed: Of the cohort.
        number: Of the patient.

    Example:
        >>> one, other = Streams(1, 7)("anatomy"), Streams(1, 7)("anatomy")
        >>> one.standard_normal() == other.standard_normal()
        True
    """

    seed: int
    number: int

    def __call__(self, link: str) -> np.random.Generator:
        """The stream of a link, from its beginning."""
        return np.random.default_rng([self.seed, self.number, zlib.crc32(link.encode())])


def normal(generator: np.random.Generator, *shape: int, device: torch.device | None = None) -> Tensor:
    """Standard normal numbers, float32; drawn on the CPU, so that they are the same whatever the device."""
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).to(device)
