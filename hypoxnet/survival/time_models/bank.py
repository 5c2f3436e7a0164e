"""The patients outside the batch, as they were seen last: what a comparison needs at any batch size.

Axis legend: B patients, N places, J causes, K outputs per cause.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypoxnet.survival.discrete import at_least_float32
from hypoxnet.survival.time_models.base import Others


def patient_numbers(keys: Sequence[str]) -> Tensor:
    """A number for each name, the same in every process and on every machine; B, int64."""
    digests = [hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


class RiskSetBank(nn.Module):
    """Latest outputs of up to `places` patients, without gradient; part of a checkpoint, never of a bundle.

    A patient who comes again replaces their own entry; when no place is free, the one seen longest ago is given up.
    With fewer places than patients the risk sets are a recent sample of the cohort. On several devices each keeps the
    entries of the first, which sees its share of the patients.

    Args:
        places: Number of patients that are kept.
        causes: Number of causes J.
        columns: Outputs per cause K.
    """

    numbers: Tensor
    outputs: Tensor
    months: Tensor
    event: Tensor
    seen: Tensor

    def __init__(self, places: int, *, causes: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.zeros(places, dtype=torch.int64))
        self.register_buffer("outputs", torch.zeros(places, causes, columns))
        self.register_buffer("months", torch.zeros(places))
        self.register_buffer("event", torch.zeros(places, dtype=torch.int64))
        # 0 is an empty place; later visits have higher numbers
        self.register_buffer("seen", torch.zeros(places, dtype=torch.int64))

    def others(self, numbers: Tensor) -> Others:
        """Everybody in the bank but the patients of these numbers."""
        keep = (self.seen > 0) & ~torch.isin(self.numbers, numbers.to(self.numbers.device))
        return Others(self.outputs[keep], self.months[keep], self.event[keep])

    @torch.no_grad()
    def remember(self, numbers: Tensor, outputs: Tensor, months: Tensor, event: Tensor) -> None:
        """Keep patients whose outcome is known.

        Args:
            numbers: B, by `patient_numbers`.
            outputs: B J K.
            months: B.
            event: B.
        """
        numbers = numbers.to(self.numbers.device)
        # A patient who is twice in a batch is kept once, as last seen; of more patients than places, the last are.
        last = ~(numbers[:, None] == numbers[None]).triu(diagonal=1).any(dim=1)
        chosen = last.nonzero()[-len(self.numbers) :, 0]
        places = self._places(numbers[chosen])
        self.numbers[places] = numbers[chosen]
        self.outputs[places] = at_least_float32(outputs.detach())[chosen].to(self.outputs)
        self.months[places] = months[chosen].to(self.months)
        self.event[places] = event[chosen].to(self.event)
        self.seen[places] = self.seen.max() + 1

    def _places(self, numbers: Tensor) -> Tensor:
        """Own places of those who have one; for the others the places that were used longest ago."""
        same = (numbers[:, None] == self.numbers[None]) & (self.seen > 0)[None]
        places, has_place = same.int().argmax(dim=1), same.any(dim=1)
        age = torch.where(same.any(dim=0), self.seen.max() + 1, self.seen)
        oldest = age.argsort(stable=True)
        rank = (~has_place).long().cumsum(dim=0) - 1
        return torch.where(has_place, places, oldest[rank.clamp(min=0)])
