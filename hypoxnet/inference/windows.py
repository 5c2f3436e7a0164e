"""One pass of sliding windows over a patient: the whole segmentation and the outcome's features together.

Axis legend: C channels, K regions, F features, D H W voxels of the working grid; the leading 1 is the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import sliding_window_inference
from monai.utils.enums import BlendMode, PytorchPadMode
from torch import Tensor

from hypoxnet.models.joint import HypoxNet

# Voxels of context kept around a tumour when only its surroundings are predicted, as a share of the window.
CONTEXT = 0.125


@dataclass(frozen=True, slots=True)
class Sliding:
    """How windows are laid.

    Args:
        window: Voxels along D, H, W.
        overlap: Share of the window that neighbours have in common.
        windows_per_batch: Windows that go through the network at once.
    """

    window: tuple[int, int, int]
    overlap: float
    windows_per_batch: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the windows of a patient add up to.

    Args:
        segmentation: 1 K D H W logits, windows blended with Gaussian weights.
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
    blend = _blend(images.shape[2:], sliding, like=images)
    share = tumour if blend is None else tumour / blend.coverage
    sums: list[Tensor] = []
    weights: list[Tensor] = []

    def one_batch(windows: Tensor) -> Tensor:
        count = len(windows)
        inside = windows[:, -1:] if blend is None else windows[:, -1:] * blend.importance
        encoded = model.encode(windows[:, :-1], presence.expand(count, -1), inside, tumour_known.expand(count))
        sums.append(encoded.pooled_sum.sum(dim=0, keepdim=True))
        weights.append(encoded.pooled_weight.sum(dim=0, keepdim=True))
        return encoded.segmentation.to(windows.dtype)

    segmentation = sliding_window_inference(
        torch.cat([images, share], dim=1),
        sliding.window,
        sliding.windows_per_batch,
        one_batch,
        overlap=sliding.overlap,
        mode=BlendMode.GAUSSIAN,
        padding_mode=PytorchPadMode.CONSTANT,
        cval=0.0,
    )
    assert isinstance(segmentation, Tensor)
    return Encoding(segmentation, torch.stack(sums).sum(dim=0), torch.stack(weights).sum(dim=0))


@dataclass(frozen=True, slots=True)
class _Blend:
    """Weight of each voxel of a window, and the sum of these weights over all windows, on the patient."""

    importance: Tensor
    coverage: Tensor


def _blend(shape: Sequence[int], sliding: Sliding, *, like: Tensor) -> _Blend | None:
    """None when one window holds the patient: then every voxel counts once by itself."""
    window = sliding.window
    padded = [max(n, w) for n, w in zip(shape, window, strict=True)]
    slices = window_slices(padded, sliding)
    if len(slices) == 1:
        return None
    importance = compute_importance_map(window, mode=BlendMode.GAUSSIAN, device=like.device, dtype=like.dtype)
    coverage = like.new_zeros(padded)
    for place in slices:
        coverage[place] += importance
    begins = [(n - m) // 2 for n, m in zip(padded, shape, strict=True)]
    inner = tuple(slice(b, b + m) for b, m in zip(begins, shape, strict=True))
    return _Blend(importance, coverage[inner])


def window_slices(shape: Sequence[int], sliding: Sliding) -> list[tuple[slice, ...]]:
    """Where MONAI lays its windows on a volume that is at least as large as one.

    Example:
        >>> len(window_slices((32, 32, 48), Sliding((32, 32, 32), overlap=0.5, windows_per_batch=4)))
        2
    """
    steps = [
        w if w == n else max(1, int(w * (1 - sliding.overlap))) for n, w in zip(shape, sliding.window, strict=True)
    ]
    slices: list[tuple[slice, ...]] = dense_patch_slices(tuple(shape), sliding.window, tuple(steps))
    return slices


def surroundings(tumour: Tensor, window: Sequence[int]) -> tuple[slice, slice, slice]:
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
