"""One pass of sliding windows over a patient: the whole segmentation and the outcome's features together.

Axis legend: C channels, K regions, F features, D H W voxels of the working grid; the leading 1 is the patient.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.utils.enums import BlendMode
from torch import Tensor, nn

from hypoxnet.models.joint import Encoded, HypoxNet
from hypoxnet.threads import side_by_side

# Voxels of context kept around a tumour when only its surroundings are predicted, as a share of the window.
CONTEXT = 0.125
# What windows add up in, on their device, whatever the network computes in: a sum of 16-bit logits over 27 windows and
# their weights down to 1e-3 loses the third digit.
ACCUMULATE = torch.float32

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Sliding:
    """How windows are laid.

    Args:
        window: Voxels along D, H, W.
        overlap: Share of the window that neighbours have in common.
        windows_per_batch: Windows that go through the network at once.
        mirror: Average over the eight mirror images.
        bfloat16: The network computes in bfloat16; what windows add up to is float32 all the same.
        threads: Batches that are computed side by side in inference mode; with gradients it is one after another.
    """

    window: tuple[int, int, int]
    overlap: float
    windows_per_batch: int
    mirror: bool = False
    bfloat16: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the windows of a patient add up to.

    Args:
        segmentation: 1 K D H W logits or probabilities, windows blended with Gaussian weights.
        pooled_sum: 1 F, features summed over the tumour.
        pooled_weight: 1 F, weight of that sum.
    """

    segmentation: Tensor
    pooled_sum: Tensor
    pooled_weight: Tensor


def encode_by_windows(
    model: HypoxNet, images: Tensor, *, presence: Tensor, tumour: Tensor, tumour_known: Tensor, sliding: Sliding
) -> Encoding:
    """Slide the network over a patient with MONAI's windows, padding with zeros where the volume is smaller.

    The tumour goes along as one more channel, divided by how often windows cover each voxel, and each window weighs it
    as its logits are weighed: every voxel of a contour counts once in the pooled features, however windows overlap.
    Where there is no contour, features are pooled inside each window's own prediction, and voxels seen by several
    windows count several times.

    Args:
        model: In evaluation mode, on the device of `images`.
        images: 1 C D H W.
        presence: 1 C.
        tumour: 1 1 D H W, float.
        tumour_known: 1.
        sliding: The windows.
    """
    encode = partial(_encode, model, presence, tumour_known, sliding)
    return next(_orientations(encode, images, tumour, sliding=sliding, flips=((),)))


def probability_by_windows(
    model: HypoxNet, images: Tensor, *, presence: Tensor, tumour: Tensor, tumour_known: Tensor, sliding: Sliding
) -> Encoding:
    """As `encode_by_windows`, with probabilities in place of logits, averaged over mirror images if `sliding.mirror`.

    Windows of several mirror images share a batch: a tumour that fits into one window is one batch of eight.
    """
    given = {"presence": presence, "tumour": tumour, "tumour_known": tumour_known}
    mean = Mean()
    for part in passes_by_windows(model, images, **given, sliding=sliding):
        mean.add(replace(part, segmentation=part.segmentation.sigmoid_()))
    return mean.encoding


def passes_by_windows(
    model: HypoxNet, images: Tensor, *, presence: Tensor, tumour: Tensor, tumour_known: Tensor, sliding: Sliding
) -> Iterator[Encoding]:
    """As `encode_by_windows`, of the case and, if `sliding.mirror`, of its seven mirror images, each upright again."""
    encode = partial(_encode, model, presence, tumour_known, sliding)
    yield from _orientations(encode, images, tumour, sliding=sliding, flips=passes(sliding))


def passes(sliding: Sliding) -> tuple[tuple[int, ...], ...]:
    """The mirror images that are looked at; the case itself is the first."""
    return all_flips() if sliding.mirror else ((),)


@dataclass(slots=True)
class Mean:
    """Mean of what the passes of one network say."""

    total: Encoding | None = None
    count: int = 0

    def add(self, part: Encoding) -> None:
        """Add a pass; not in place, since an explanation needs the gradient of each."""
        self.count += 1
        so_far = self.total
        self.total = (
            part
            if so_far is None
            else Encoding(
                so_far.segmentation + part.segmentation,
                so_far.pooled_sum + part.pooled_sum,
                so_far.pooled_weight + part.pooled_weight,
            )
        )

    @property
    def encoding(self) -> Encoding:
        """The mean of one pass at least."""
        assert self.total is not None
        total, n = self.total, self.count
        return total if n == 1 else Encoding(total.segmentation / n, total.pooled_sum / n, total.pooled_weight / n)


def all_flips() -> tuple[tuple[int, ...], ...]:
    """The eight mirror images of a 1 C D H W volume, as the axes that are flipped.

    Example:
        >>> all_flips()[:3]
        ((), (2,), (3,))
    """
    return tuple(axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count))


def _encode(model: HypoxNet, presence: Tensor, tumour_known: Tensor, sliding: Sliding, windows: Tensor) -> Encoded:
    """A batch of windows whose last channel is the tumour."""
    count = len(windows)
    # What was chosen around it stays when nothing is chosen here.
    computing: AbstractContextManager[object] = nullcontext()
    if sliding.bfloat16:
        computing = torch.autocast(windows.device.type, torch.bfloat16)
    with computing:
        return model.encode(windows[:, :-1], presence.expand(count, -1), windows[:, -1:], tumour_known.expand(count))


def _orientations(
    encode: Callable[[Tensor], Encoded],
    images: Tensor,
    tumour: Tensor,
    *,
    sliding: Sliding,
    flips: Sequence[tuple[int, ...]],
) -> Iterator[Encoding]:
    """The encoding of each mirror image, turned upright again, as soon as its last window is done."""
    blend = _blend(images.shape[2:], sliding, like=images)
    threads = sliding.threads if torch.is_inference_mode_enabled() else 1
    running: deque[tuple[_Batch, Future[Encoded]]] = deque()
    begun: deque[_Orientation] = deque()

    def finished() -> Iterator[Encoding]:
        _add(*running.popleft())
        while begun and begun[0].done:
            yield begun.popleft().finished(images.shape[2:], blend)

    turned = (_Orientation.begin(images, tumour, axes, blend, sliding) for axes in flips)
    with side_by_side(threads) as submit:
        for batch in _batches(turned, begun, sliding.windows_per_batch):
            running.append((batch, submit(partial(_run, encode, batch, blend))))
            # One batch more than threads, so that none of them waits for the adding up.
            if len(running) > threads or threads == 1:
                yield from finished()
        while running:
            yield from finished()


def _batches(turned: Iterator[_Orientation], begun: deque[_Orientation], size: int) -> Iterator[_Batch]:
    """Windows of one mirror image after the other, so many at a time; an image is in `begun` before its windows."""
    batch: _Batch = []
    for orientation in turned:
        begun.append(orientation)
        for place in orientation.places:
            batch.append((orientation, place))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _run(encode: Callable[[Tensor], Encoded], batch: _Batch, blend: _Blend | None) -> Encoded:
    """What the network says about a batch, its logits weighed."""
    windows = torch.cat([turned.volume[(..., *place)] for turned, place in batch])
    if blend is not None:
        windows[:, -1:] *= blend.importance
    encoded = encode(windows)
    logits = encoded.segmentation.to(ACCUMULATE)
    return replace(encoded, segmentation=logits if blend is None else logits * blend.importance)


def _add(batch: _Batch, running: Future[Encoded]) -> None:
    encoded = running.result()
    for index, (turned, place) in enumerate(batch):
        here = slice(index, index + 1)
        turned.add(place, encoded.segmentation[here], encoded.pooled_sum[here], encoded.pooled_weight[here])


@dataclass(slots=True)
class _Orientation:
    """One mirror image on its way through the network.

    Args:
        axes: Axes that are flipped.
        volume: 1 (C + 1) D H W, padded to at least a window; the last channel is each window's share of the tumour.
        places: Where its windows lie.
        segmentation: 1 K D H W, sum of weighted logits so far.
        sums: Pooled features of each window.
        weights: Their weights.
    """

    axes: tuple[int, ...]
    volume: Tensor
    places: list[Box]
    segmentation: Tensor | None = None
    sums: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(
        cls, images: Tensor, tumour: Tensor, axes: tuple[int, ...], blend: _Blend | None, sliding: Sliding
    ) -> _Orientation:
        """Flip, pad as MONAI does, and share the tumour among the windows that see it."""
        upright = torch.cat([images, tumour], dim=1)
        volume = nn.functional.pad(upright.flip(axes) if axes else upright, _padding(images.shape[2:], sliding.window))
        if blend is not None:
            volume[:, -1:] /= blend.coverage
        return cls(axes, volume, window_slices(volume.shape[2:], sliding))

    @property
    def done(self) -> bool:
        """Every window has been added."""
        return len(self.sums) == len(self.places)

    def add(self, place: Box, logits: Tensor, pooled_sum: Tensor, pooled_weight: Tensor) -> None:
        """Add what one window says."""
        if self.segmentation is None:
            self.segmentation = logits.new_zeros((1, logits.shape[1], *self.volume.shape[2:]))
        self.segmentation[(..., *place)] += logits
        self.sums.append(pooled_sum)
        self.weights.append(pooled_weight)

    def finished(self, shape: Sequence[int], blend: _Blend | None) -> Encoding:
        """The whole patient of a shape without its padding, upright."""
        assert self.segmentation is not None
        blended = self.segmentation if blend is None else self.segmentation.div_(blend.coverage)
        inner = _inner(shape, blended.shape[2:])
        upright = blended[(..., *inner)].flip(self.axes) if self.axes else blended[(..., *inner)]
        # In the order of the windows, whatever the batch.
        pooled_sum, pooled_weight = (torch.cat(parts).sum(dim=0, keepdim=True) for parts in (self.sums, self.weights))
        return Encoding(upright, pooled_sum, pooled_weight)


_Batch = list[tuple[_Orientation, Box]]


@dataclass(frozen=True, slots=True)
class _Blend:
    """Weight of each voxel of a window, and the sum of these weights over all windows, on the padded patient."""

    importance: Tensor
    coverage: Tensor


def _blend(shape: Sequence[int], sliding: Sliding, *, like: Tensor) -> _Blend | None:
    """None when one window holds the patient: then every voxel counts once by itself."""
    window = sliding.window
    padded = [max(n, w) for n, w in zip(shape, window, strict=True)]
    slices = window_slices(padded, sliding)
    if len(slices) == 1:
        return None
    importance = compute_importance_map(window, mode=BlendMode.GAUSSIAN, device=like.device, dtype=ACCUMULATE)
    coverage = torch.zeros(padded, device=like.device, dtype=ACCUMULATE)
    for place in slices:
        coverage[place] += importance
    return _Blend(importance, coverage)


def _padding(shape: Sequence[int], window: Sequence[int]) -> list[int]:
    """Voxels before and after each axis, last axis first, as MONAI pads."""
    missing = [max(w - n, 0) for n, w in zip(shape, window, strict=True)]
    return [side for m in reversed(missing) for side in (m // 2, m - m // 2)]


def _inner(shape: Sequence[int], padded: Sequence[int]) -> Box:
    d, h, w = (slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(padded, shape, strict=True))
    return d, h, w


def window_slices(shape: Sequence[int], sliding: Sliding) -> list[Box]:
    """Where MONAI lays its windows on a volume that is at least as large as one.

    Example:
        >>> len(window_slices((32, 32, 48), Sliding((32, 32, 32), overlap=0.5, windows_per_batch=4)))
        2
    """
    steps = [
        w if w == n else max(1, int(w * (1 - sliding.overlap))) for n, w in zip(shape, sliding.window, strict=True)
    ]
    slices: list[Box] = dense_patch_slices(tuple(shape), sliding.window, tuple(steps))
    return slices


def surroundings(tumour: Tensor, window: Sequence[int]) -> Box:
    """The box to predict when only the tumour matters: the tumour with some context, at least one window large.

    A tumour that fits into one window with its context costs one forward pass with the tumour at its centre.

    Args:
        tumour: D H W.
        window: Voxels along D, H, W.

    Returns:
        Slices along D, H, W; the whole volume when the tumour is empty.
    """
    slices = []
    for axis, (length, size) in enumerate(zip(tumour.shape, window, strict=True)):
        others = [other for other in range(3) if other != axis]
        inside = torch.nonzero(tumour.amax(dim=others) > 0).flatten()
        if not len(inside):
            return slice(0, tumour.shape[0]), slice(0, tumour.shape[1]), slice(0, tumour.shape[2])
        first, last = int(inside[0]), int(inside[-1]) + 1
        extent = min(length, max(size, last - first + 2 * int(CONTEXT * size)))
        begin = min(max(0, (first + last - extent) // 2), length - extent)
        slices.append(slice(begin, begin + extent))
    return slices[0], slices[1], slices[2]
