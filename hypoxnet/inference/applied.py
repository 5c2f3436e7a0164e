"""What the networks of a bundle say about one sample, member by member and together.

Axis legend: K regions, F features, J causes, T intervals, D H W voxels of the working grid, d h w of the box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.inference.spread import Passes
from hypoxnet.inference.windows import Box, Encoding, Mean


@dataclass(frozen=True, slots=True)
class Applied:
    """What the networks say about one sample, averaged over the ensemble.

    Args:
        inside: K d h w, probability inside `box`, on the device.
        box: What was looked at; outside it every probability is 0.
        shape: D H W of the working grid.
        incidence: J (T + 1), at the interval edges and at the horizon; None without an outcome head.
        by_member: The incidence of each member; empty without an outcome head.
        pooled: Per member, features summed over the tumour and the weight of that sum, 1 F each.
        deviation: K d h w, standard deviation over members and mirror images; None unless asked for, or of one pass.
    """

    inside: Tensor
    box: Box
    shape: tuple[int, int, int]
    incidence: Tensor | None
    by_member: tuple[Tensor, ...] = ()
    pooled: tuple[tuple[Tensor, Tensor], ...] = ()
    deviation: Tensor | None = None

    @property
    def probability(self) -> Tensor:
        """K D H W, of the whole working grid."""
        return whole(self.inside, self.box, self.shape)


@dataclass(frozen=True, slots=True)
class Said:
    """What one member says, averaged over mirror images.

    Args:
        encoding: Its `segmentation` is the probability that the outcome head was trained on, 1 K d h w.
        probability: The same after calibration; of a member without temperature the same tensor.
    """

    encoding: Encoding
    probability: Tensor


def said_by(passes: Iterable[Encoding], temperature: Tensor | None, deviation: Passes | None) -> Said:
    """A member's answer from the logits of its passes.

    Args:
        passes: Logits of the case, and of its mirror images upright again.
        temperature: K 1 1 1, what logits are divided by; None leaves them.
        deviation: Is told of every pass.
    """
    plain = Mean()
    calibrated = plain if temperature is None else Mean()
    for logits in passes:
        if temperature is not None:
            probability = (logits.segmentation / temperature).sigmoid_()
            calibrated.add(replace(logits, segmentation=probability))
        encoding = replace(logits, segmentation=logits.segmentation.sigmoid_())
        plain.add(encoding)
        if deviation is not None:
            deviation.add((encoding.segmentation if temperature is None else probability)[0])
    return Said(plain.encoding, calibrated.encoding.segmentation)


@dataclass(slots=True)
class Together:
    """The members of an ensemble as they are heard."""

    members: int
    inside: Tensor | None = None
    incidence: Tensor | None = None
    by_member: list[Tensor] = field(default_factory=list)
    pooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, said: Said, incidence: Tensor | None) -> None:
        """Add a member with its incidence, J (T + 1)."""
        part = said.probability / self.members
        self.inside = part if self.inside is None else self.inside.add_(part)
        self.pooled.append((said.encoding.pooled_sum, said.encoding.pooled_weight))
        if incidence is not None:
            self.by_member.append(incidence)
            self.incidence = incidence / self.members + (0.0 if self.incidence is None else self.incidence)

    def applied(self, box: Box, shape: tuple[int, int, int], deviation: Passes | None) -> Applied:
        """The mean of all."""
        assert self.inside is not None
        apart = None if deviation is None else deviation.deviation
        return Applied(
            self.inside[0], box, shape, self.incidence, tuple(self.by_member), tuple(self.pooled), deviation=apart
        )


def temperatures_of(spec: BundleSpec, device: torch.device) -> Sequence[Tensor | None]:
    """Per member, K 1 1 1; None where every temperature is 1."""
    return [
        torch.tensor(row, dtype=torch.float32, device=device)[:, None, None, None] if set(row) != {1.0} else None
        for row in spec.every_temperature
    ]


def whole(inside: Tensor, box: Box, shape: tuple[int, int, int]) -> Tensor:
    """What lies in a box, in zeros of the whole shape; ... D H W."""
    if inside.shape[-3:] == shape:
        return inside
    everywhere = inside.new_zeros((*inside.shape[:-3], *shape))
    everywhere[(..., *box)] = inside
    return everywhere
