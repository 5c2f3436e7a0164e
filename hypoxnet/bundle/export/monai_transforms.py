"""`prepare` and its way back as a MONAI configuration: stock transforms, and short expressions between them.

What `transforms.prepare` does in Python, a MONAI bundle says in JSON. `tests/bundle/export` runs both and compares.
A case is a dictionary of paths: each channel and mask by its column name, those that are absent left out; `case` is
its name, by default that of the file of the reference channel; `image` is another name for the reference channel, which
is how MONAI Label gives its one image, as a path, and MONAI Deploy, as an image in memory.

Keys of the dictionary on the way: `reference` the reference channel on its own grid, `working` the same on the working
grid, `covers_<channel>` where a channel was measured, `tumour` the contour, `image` the network's input, whose metadata
holds the grids of the way back (MONAI Deploy gives every other tensor to the network), `pred` its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypoxnet.bundle.export.description import BLENDING_SIGMA
from hypoxnet.bundle.export.prepare_graph import files_of_case
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.geometry import SAME_GRID_VOXELS
from hypoxnet.maps.reference_region import RATIO_REGIONS, ratio_made_of
from hypoxnet.quantities import Modality, quantity
from hypoxnet.transforms.settings import ChannelNorm

Step = dict[str, Any]

# A voxel belongs to a resampled mask when at least half of it does.
HALF = 0.5
# Voxels of context round a tumour, as a share of the window; as in `inference.windows`.
CONTEXT = 0.125


def constants(spec: BundleSpec) -> dict[str, Any]:
    """Entries of the configuration that transforms refer to by `@name`."""
    settings = spec.settings
    return {
        "channels": list(settings.channels),
        "reference_channel": settings.reference,
        "tumour_masks": list(settings.tumour),
        "spacing_mm": list(settings.spacing_mm),
        "window": list(settings.window),
        "regions": list(settings.region_names),
        "files": ["reference", *files_of_case(spec)],
        "load": {
            "_target_": "LoadImage",
            "reader": "NibabelReader",
            "ensure_channel_first": True,
            "image_only": True,
        },
        # As `geometry.without_shear`. A header's float32 is off right angles by some 1e-8: enough for `Spacingd` to lay
        # its grid round the middle of the image and not from its first voxel.
        "orthogonal": "$lambda axes: (lambda left, _, right: np.matmul(left, right))(*np.linalg.svd(axes))",
        "right_angles": "$lambda affine: (lambda axes, mm: np.hstack("
        "[np.pad(@orthogonal(axes / mm) * mm, ((0, 1), (0, 0))), affine[:, 3:]]))"
        "(affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0))",
        "without_shear": "$lambda x: monai.data.MetaTensor("
        "x, meta={**x.meta, 'affine': @right_angles(x.affine.numpy())})",
        "take": "$lambda x: @without_shear(@load(x) if isinstance(x, str) else x[None] if x.ndim == 3 else x)",
        "name_of": "$lambda x: x if isinstance(x, str) else str(x.meta.get('filename_or_obj', 'case'))",
        "grid": "$lambda image, name: monai.data.MetaTensor("
        "torch.zeros(1, *[int(n) for n in image.meta[name + '_shape']]), "
        "affine=torch.as_tensor(image.meta[name + '_affine']).reshape(4, 4))",
        "members": spec.members,
        "threshold": spec.inference.threshold,
        "match": {
            "_target_": "ResampleToMatch",
            "mode": "bilinear",
            "padding_mode": "zeros",
            "align_corners": False,
        },
        # As `Grid.same_as`.
        "corners": "$lambda x: np.matmul(x.affine.numpy()[:3], "
        "np.array([*itertools.product(*([0, n - 1] for n in x.shape[1:]), [1])]).T)",
        "same_grid": "$lambda a, b: a.shape == b.shape and bool(np.abs(@corners(a) - @corners(b)).max() "
        f"<= {SAME_GRID_VOXELS} * np.linalg.norm(a.affine.numpy()[:3, :3], axis=0).min())",
        "masks_of": "$lambda d: [d[name] for name in @tumour_masks if name in d]",
        "span": "$lambda first, last, n, size: (lambda extent: (lambda begin: slice(begin, begin + extent))"
        "(min(max(0, (first + last - extent) // 2), n - extent)))"
        f"(min(n, max(size, last - first + 2 * int({CONTEXT} * size))))",
        "inside": "$lambda mask, axis: torch.nonzero(mask[0].amax([a for a in range(3) if a != axis]) > 0).flatten()",
    }


def preprocessing(spec: BundleSpec) -> dict[str, Any]:
    """From a dictionary of paths to `image`: channels, then a plane per channel that says whether it was measured."""
    settings = spec.settings
    steps = [
        # MONAI Deploy takes a sequence for one of dictionaries by its first step.
        {"_target_": "Identityd", "keys": "image", "allow_missing_keys": True},
        _each("names of MONAI Label and MONAI Deploy", "{**d, @reference_channel: d['image']} if 'image' in d else d"),
        _each(
            "the reference grid is that of the reference channel, or of the first that is there",
            "{**d, 'chosen': next(k for k in [@reference_channel, *@channels] if k in d)}",
        ),
        _each(
            "its file is read once more, and names the case where nothing else does",
            "{**d, 'reference': d[d['chosen']], 'case': d.get('case', @name_of(d[d['chosen']]))}",
        ),
        _loading(),
        *_maps_without_value(settings.channels),
        *_ratios(settings.channels),
        _each(
            "",
            "{**d, 'working': d['reference'], **{'covers_' + k: torch.ones_like(d[k]) for k in @channels if k in d}}",
        ),
        {
            "_target_": "Orientationd",
            "keys": "working",
            "axcodes": "RAS",
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
        {
            "_target_": "Spacingd",
            "keys": "working",
            "pixdim": "@spacing_mm",
            "mode": "bilinear",
            "padding_mode": "border",
        },
        *_masks(spec),
        _resampled(settings.channels, mode="bilinear"),
        _resampled(["covers_" + name for name in settings.channels], mode="nearest"),
        _each(
            "the reference channel is on the working grid already",
            "{**d, d['chosen']: d['working'], 'covers_' + d['chosen']: torch.ones_like(d['working'])}",
        ),
        *(
            step
            for name, norm in zip(settings.channels, settings.norms, strict=True)
            for step in _normalised(name, norm)
        ),
        _each(
            "nothing where nothing was measured",
            "{**d, **{k: d[k] * (d['covers_' + k] > 0.5) if k in d else d['working'] * 0 for k in @channels}}",
        ),
        _each(
            "planes that say which channels were measured",
            "{**d, **{'measured_' + k: d['working'] * 0 + float('covers_' + k in d) for k in @channels}}",
        ),
        {
            "_target_": "ConcatItemsd",
            "keys": [*settings.channels, *("measured_" + name for name in settings.channels)],
            "name": "image",
        },
        *_cropped(spec),
        _each(
            "the grids of the way back",
            "{**d, 'image': monai.data.MetaTensor(d['image'], meta={**d['image'].meta, **{n + '_' + w: v for n in "
            "('reference', 'working') for w, v in (('shape', list(d[n].shape[1:])), ('affine', d[n].affine))}})}",
        ),
        {
            "_target_": "SelectItemsd",
            "keys": ["image", "tumour", "case"],
            "allow_missing_keys": True,
        },
        {"_target_": "CastToTyped", "keys": "image", "dtype": "$torch.float32"},
    ]
    return {"_target_": "Compose", "transforms": steps}


def postprocessing(spec: BundleSpec) -> dict[str, Any]:
    """From the blended logits of the members to probabilities and masks on the reference grid, written as NIfTI."""
    steps: list[Step] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        _each(
            "mean of the members",
            "{**d, 'pred': torch.stack(torch.chunk(d['pred'], @members)).mean(0) if @members > 1 else d['pred']}",
        ),
        _each(
            "in the place of the image, under the name of the case",
            "{**d, 'pred': monai.data.MetaTensor(d['pred'], meta={**d['image'].meta, 'filename_or_obj': d['case']})}",
        ),
        _each(
            "the whole working grid", "{**d, 'pred': @match(d['pred'], @grid(d['image'], 'working'), mode='nearest')}"
        ),
        _each(
            "the grid of the reference channel, whose outer voxels reach beyond their centres",
            "{**d, 'pred': @match(d['pred'], @grid(d['image'], 'reference'), padding_mode='border')}",
        ),
        _each("", "{**d, 'pred': d['pred'].clip(0, 1)}"),
    ]
    if spec.settings.inside_tumour:
        steps.append(
            _each(
                "nothing outside the contour: the model was trained inside contours",
                "{**d, 'pred': d['pred'] * (@match(d['tumour'], @grid(d['image'], 'reference')) >= 0.5)} "
                "if 'tumour' in d else d",
            )
        )
    steps += [
        {"_target_": "CopyItemsd", "keys": "pred", "names": "probability"},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": "@threshold"},
        _saved("probability", "probseg", "float32"),
        _saved("pred", "mask", "uint8"),
    ]
    return {"_target_": "Compose", "transforms": steps}


def sliding(spec: BundleSpec) -> dict[str, Any]:
    """The windows, as `inference.windows` lays them."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@window",
        "sw_batch_size": 4,
        "overlap": spec.inference.overlap,
        "mode": "gaussian",
        "sigma_scale": BLENDING_SIGMA,
        "padding_mode": "constant",
        "cval": 0.0,
    }


def _each(why: str, expression: str) -> Step:
    """A step on the whole dictionary `d`."""
    step: Step = {"_target_": "Lambda", "func": f"$lambda d: {expression}", "track_meta": False}
    return {**step, "_desc_": why} if why else step


def _loading() -> Step:
    # Not LoadImaged: MONAI Label replaces it by a reader of its own that wants every key.
    return _each("every file that is there", "{**d, **{k: @take(d[k]) for k in @files if k in d}}")


def _maps_without_value(channels: Sequence[str]) -> list[Step]:
    maps = [name for name in channels if quantity(name).modality is Modality.MAP]
    if not maps:
        return []
    return [
        {
            "_target_": "Lambdad",
            "keys": maps,
            "func": "$lambda x: torch.nan_to_num(x, nan=0.0)",
            "allow_missing_keys": True,
        }
    ]


def _ratios(channels: Sequence[str]) -> list[Step]:
    """A ratio without a file is made of uptake and reference region, where both are there."""
    steps = []
    for name in channels:
        parts = ratio_made_of(name)
        if parts:
            suv, mask = parts
            statistic = RATIO_REGIONS[name.rpartition("_")[2]][1]
            inside = f"d['{suv}'].numpy()[@match(d['{mask}'], d['{suv}']).numpy() >= {HALF}]"
            # Of a region that is empty or without uptake no ratio is made.
            over = f"(lambda v: {{**d, '{name}': d['{suv}'] / v}} if v > 0 else d)(float(np.{statistic}({inside})))"
            wanted = f"'{name}' not in d and '{suv}' in d and '{mask}' in d"
            steps.append(_each(f"{name}: uptake over that of {mask}", f"{over} if {wanted} else d"))
    return steps


def _masks(spec: BundleSpec) -> list[Step]:
    """The union of the contours: on their own grid where they share one, else on the reference grid."""
    shared = "all(@same_grid(m, @masks_of(d)[0]) for m in @masks_of(d))"
    moved = f"@masks_of(d) if {shared} else [(@match(m, d['reference']) >= {HALF}).float() for m in @masks_of(d)]"
    return [
        _each(
            "union of the tumour's contours",
            f"{{**d, 'tumour': functools.reduce(torch.maximum, {moved})}} if @masks_of(d) else d",
        )
    ]


def _resampled(keys: Sequence[str], *, mode: str) -> Step:
    return {
        "_target_": "ResampleToMatchd",
        "keys": list(keys),
        "key_dst": "working",
        "mode": mode,
        "padding_mode": "zeros",
        "align_corners": False,
        "allow_missing_keys": True,
    }


def _normalised(name: str, norm: ChannelNorm) -> list[Step]:
    """The steps of `transforms.normalise.intensity_transform` for one channel."""
    common = {"keys": name, "allow_missing_keys": True}
    if norm.kind == "image":
        return [{"_target_": "NormalizeIntensityd", **common, "nonzero": True}]
    clip = {"a_min": norm.low, "a_max": norm.high, "b_min": norm.low, "b_max": norm.high, "clip": True}
    steps: list[Step] = [{"_target_": "ScaleIntensityRanged", **common, **clip}]
    if norm.log:
        steps.append({"_target_": "Lambdad", **common, "func": "$torch.log1p"})
    return [*steps, {"_target_": "NormalizeIntensityd", **common, "subtrahend": norm.centre, "divisor": norm.scale}]


def _cropped(spec: BundleSpec) -> list[Step]:
    """The box round the tumour, where nothing outside it is looked at; `inference.windows.surroundings`."""
    pools_inside = not spec.model.outcome.enabled or spec.model.outcome.pool == "contour"
    if not (spec.settings.inside_tumour and pools_inside):
        return []
    slices = (
        "[@span(int(@inside(mask, a)[0]), int(@inside(mask, a)[-1]) + 1, mask.shape[a + 1], @window[a])"
        " for a in range(3)]"
    )
    crop = f"lambda mask, image: monai.transforms.SpatialCrop(roi_slices={slices})(image) if mask.any() else image"
    on_grid = f"(@match(d['tumour'], d['working']) >= {HALF})"
    return [
        _each(
            "the tumour and its surroundings",
            f"{{**d, 'image': ({crop})({on_grid}, d['image'])}} if 'tumour' in d else d",
        )
    ]


def _saved(key: str, postfix: str, dtype: str) -> Step:
    return {
        "_target_": "SaveImaged",
        "keys": key,
        "output_dir": "@output_dir",
        "output_postfix": postfix,
        "output_dtype": f"$np.{dtype}",
        "resample": False,
        "separate_folder": True,
        "print_log": False,
    }


def imports() -> Mapping[str, Any]:
    """Modules that the expressions use."""
    return {
        "imports": [
            "$import functools",
            "$import itertools",
            "$import json",
            "$import numpy as np",
            "$import torch",
            "$import monai",
        ]
    }
