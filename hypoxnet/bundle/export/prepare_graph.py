"""`prepare.onnx`: a case's voxels, affines and covariates to what the network reads, as `transforms.prepare` does.

Axis legend: C channels, P columns of covariates, i j k voxels of a file's own grid, D H W voxels of the working grid,
W windows, L looks (the case and its mirror images).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from monai.data.utils import compute_importance_map
from monai.utils.enums import BlendMode

from hypoxnet.bundle.export.onnx_grid import TapeGrid, bounds, filled, onto, sampled, working_grid
from hypoxnet.bundle.export.onnx_tape import Tape, Value
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.maps.reference_region import RATIO_REGIONS, ratio_files, ratio_made_of
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.transforms.covariates import SMALLEST, CovariateTerm
from hypoxnet.transforms.prepare import HALF
from hypoxnet.transforms.settings import ChannelNorm, PrepareSettings

# As `inference.windows`: context round a tumour, as a share of the window.
CONTEXT = 0.125


@dataclass(frozen=True, slots=True)
class TapeVolume:
    """A file inside a graph.

    Args:
        voxels: 1 i j k, float64; one voxel of 0 where there is no file.
        grid: Its grid.
        present: Whether there is a file, bool.
    """

    voxels: Value
    grid: TapeGrid
    present: Value


def prepare_tape(spec: BundleSpec) -> Tape:
    """What `prepare.onnx` does, of a bundle."""
    tape = Tape()
    settings = spec.settings
    if spec.model.backbone.backbone != NO_BACKBONE:
        files = {name: _volume(tape, name) for name in files_of_case(spec)}
        channels = [_made(files, name) if ratio_made_of(name) else files[name] for name in settings.channels]
        _images(tape, spec, channels, [files[name] for name in settings.tumour])
    if spec.causes and settings.terms:
        _covariates(tape, settings)
    return tape


def files_of_case(spec: BundleSpec) -> tuple[str, ...]:
    """Files that a case may have: channels, what ratios among them are made of, contours."""
    if not spec.model.channels:
        return ()
    channels, tumour = spec.settings.channels, spec.settings.tumour
    uptakes, regions = ratio_files(channels)
    return tuple(dict.fromkeys((*channels, *uptakes, *tumour, *regions)))


def looks_of(spec: BundleSpec) -> list[tuple[int, int, int]]:
    """How the case is turned each time that the network looks at it: -1 along axes that are mirrored."""
    if not spec.inference.mirror:
        return [(1, 1, 1)]
    return list(itertools.product((1, -1), (1, -1), (1, -1)))


def crops(spec: BundleSpec) -> bool:
    """Whether nothing but a tumour's surroundings is looked at, where there is a contour."""
    return spec.settings.inside_tumour and (not spec.causes or spec.model.outcome.pool == "contour")


def _volume(tape: Tape, name: str) -> TapeVolume:
    # Axes of one name would have to be equal.
    raw = tape.input(name, "float32", tuple(f"{name}_{axis}" for axis in "ijk"))
    affine = tape.input(f"{name}_affine", "float64", (4, 4))
    present = tape.Greater(tape.Size(raw), 0)
    one_voxel = tape.Where(present, [0] * 6, [0, 0, 0, 1, 1, 1])
    padded = tape.Pad(tape.Where(tape.IsNaN(raw), np.float32(0), raw), one_voxel)
    grid = TapeGrid.of_affine(tape, affine, tape.Shape(padded))
    return TapeVolume(tape.Unsqueeze(padded, [0]).cast("float64"), grid, present)


def _made(files: Mapping[str, TapeVolume], name: str) -> TapeVolume:
    """A ratio: its own file, else uptake over that of a reference region, as `transforms.ratios` makes it."""
    own = files[name]
    tape, parts = own.present.tape, ratio_made_of(name)
    assert parts is not None
    uptake, region = (files[part] for part in parts)
    # Values inside, and one of 0 where there are none: the graph has no branches to go round them.
    inside = _onto(region, uptake.grid).reshaped(-1)
    count = tape.total(inside.cast("int64"), (0,), keep=True)
    values = tape.Pad(
        tape.Compress(uptake.voxels.reshaped(-1), inside),
        tape.Concat([0], tape.Where(tape.Equal(count, 0), 1, 0), axis=0),
    )
    count = tape.Max(count, 1)
    if RATIO_REGIONS[name.rpartition("_")[2]][1] == "median":
        ordered = tape.TopK(values, count, axis=0, largest=0)
        middle = tape.Gather(ordered, tape.Concat((count - 1) / 2, count / 2, axis=0), axis=0)
        value = tape.total(middle, (0,)) / 2.0
    else:
        value = tape.total(values, (0,)) / count.at(0).cast("float64")
    made = tape.Not(own.present) & uptake.present & region.present & tape.Greater(value, 0.0)
    ratio = (uptake.voxels / value).cast("float32").cast("float64")
    shape = tape.Where(made, uptake.grid.shape, own.grid.shape)
    voxels = filled(_all_if(tape.Not(made), own.voxels), shape) + filled(_all_if(made, ratio), shape)
    grid = TapeGrid.chosen(tape, [own.grid, uptake.grid], tape.Where(made, 1, 0))
    return TapeVolume(voxels, grid, own.present | made)


def _all_if(condition: Value, voxels: Value) -> Value:
    """1 i j k as they are, or none of them."""
    return voxels.part([0, 0, 0], condition.tape.Where(condition, voxels.tape.Shape(voxels, start=1), 0), (1, 2, 3))


def _images(tape: Tape, spec: BundleSpec, channels: Sequence[TapeVolume], masks: Sequence[TapeVolume]) -> None:
    settings = spec.settings
    present = tape.stacked([channel.present for channel in channels])
    first = _reference(tape, settings, present)
    reference = TapeGrid.chosen(tape, [channel.grid for channel in channels], first)
    working = working_grid(reference, settings.spacing_mm)
    image = tape.Concat(
        *(
            _channel(channel, working, settings.norms[place], tape.Equal(first, place))
            for place, channel in enumerate(channels)
        ),
        axis=0,
    )
    tumour, inside, known = _tumour(tape, masks, reference, working)
    if not settings.inside_tumour:
        inside = inside | True
    begin, extent = _box(tape, tumour, known, working.shape, spec)
    window = list(settings.window)
    margin = (tape.Max(window - extent, 0) + 1) / 2
    pads = tape.Concat([0], margin, [0], margin, axis=0)
    box = [tape.Pad(volume.part(begin, begin + extent, (1, 2, 3)), pads) for volume in (image, tumour)]
    axes = ("x", "y", "z")
    tape.output("image", tape.Unsqueeze(box[0], [0]), "float32", (1, len(channels), *axes))
    tape.output("presence", tape.Unsqueeze(present, [0]), "float32", (1, len(channels)))
    tape.output("tumour", tape.Unsqueeze(box[1], [0]), "float32", (1, 1, *axes))
    tape.output("tumour_known", known.reshaped(1), "float32", (1,))
    looks = looks_of(spec)
    tape.output("looks", tape.Identity(looks), "int64", (len(looks), 3))
    tape.output("begins", _begins(tape, extent, spec), "int64", (len(looks), "window", 3))
    tape.output("importance", tape.Identity(importance_of(spec)), "float32", tuple(window))
    tape.output("layout", tape.stacked([working.shape, begin, extent, margin]), "int64", (4, 3))
    tape.output("into_working", _unless_same(reference, working), "float64", (4, 4))
    tape.output("affine", reference.affine, "float64", (4, 4))
    tape.output("inside", inside.at(0), "uint8", ("i", "j", "k"))


def importance_of(spec: BundleSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Weight of each voxel of a window, as MONAI makes it."""
    return np.asarray(compute_importance_map(spec.settings.window, mode=BlendMode.GAUSSIAN).numpy(), dtype=np.float32)


def _reference(tape: Tape, settings: PrepareSettings, present: Value) -> Value:
    """Place of the channel whose grid is the reference grid: the one that is meant to be, else the first there is."""
    meant = settings.channels.index(settings.reference)
    order = [meant, *(place for place in range(len(settings.channels)) if place != meant)]
    first = tape.ArgMax(tape.Gather(present, order, axis=0).cast("int64"), axis=0, keepdims=0)
    return tape.Gather(order, first, axis=0)


def _unless_same(target: TapeGrid, source: TapeGrid) -> Value:
    """`into`, and nothing where MONAI leaves voxels as they are."""
    return target.axes.tape.Where(target.same_voxels(source), np.eye(4), target.into(source))


def _channel(volume: TapeVolume, working: TapeGrid, norm: ChannelNorm, first: Value) -> Value:
    """1 D H W, normalised; 0 where it was not measured."""
    tape = first.tape
    step, absent = _unless_same(working, volume.grid), tape.Not(volume.present)
    found = sampled(volume.voxels, step, working.shape, repeat_edge=first, unless=absent)
    found = found.cast("float32").cast("float64")
    ones = tape.Expand(1.0, tape.Shape(volume.voxels))
    covered = sampled(ones, step, working.shape, nearest=True, unless=absent | first) >= HALF
    return tape.Where((covered | first) & volume.present, _normalised(found, norm), 0.0)


def _normalised(image: Value, norm: ChannelNorm) -> Value:
    tape = image.tape
    if norm.kind == "image":
        there = tape.Not(tape.Equal(image, 0.0)).cast("float64")
        count = tape.Max(tape.total(there, (0, 1, 2, 3)), 1.0)
        centred = (image - tape.total(image, (0, 1, 2, 3)) / count) * there
        spread = tape.Sqrt(tape.total(centred * centred, (0, 1, 2, 3)) / count)
        return centred / tape.Where(tape.Equal(spread, 0.0), 1.0, spread)
    clipped = tape.Min(tape.Max(image, float(norm.low)), float(norm.high))
    return ((tape.Log(clipped + 1.0) if norm.log else clipped) - float(norm.centre)) / float(norm.scale)


def _tumour(
    tape: Tape, masks: Sequence[TapeVolume], reference: TapeGrid, working: TapeGrid
) -> tuple[Value, Value, Value]:
    """Union of the contours, 1 D H W float64 and 1 i j k bool (everything without any), and whether there is one."""
    if not masks:
        nothing = tape.Expand(0.0, tape.Concat([1], working.shape, axis=0))
        return nothing, tape.Expand(True, tape.Concat([1], reference.shape, axis=0)), tape.Identity(False)
    present = tape.stacked([mask.present for mask in masks])
    known = tape.ReduceMax(present.cast("int64"), [0], keepdims=0).cast("bool")
    own = TapeGrid.chosen(tape, [mask.grid for mask in masks], tape.ArgMax(present.cast("int64"), axis=0, keepdims=0))
    # On their own grid where they share it, else on the reference grid.
    apart = [tape.Not(mask.grid.same_as(own)) & mask.present for mask in masks]
    several = tape.ReduceMax(tape.stacked(apart).cast("int64"), [0], keepdims=0).cast("bool")
    place = tape.Where(several, 1, 0)
    grid = TapeGrid.chosen(tape, [own, reference], place)
    union = _onto(masks[0], grid)
    for mask in masks[1:]:
        union = union | _onto(mask, grid)
    contour = TapeVolume(union.cast("float64"), grid, known)
    share = onto(contour.voxels, working.into(grid), working.shape, same=working.same_voxels(grid))
    return _half(share).cast("float64"), _onto(contour, reference) | tape.Not(known), known


def _onto(mask: TapeVolume, target: TapeGrid) -> Value:
    """As `transforms.prepare.onto`: voxels of which at least half is inside, bool."""
    absent = mask.present.tape.Not(mask.present)
    same = (target.same_as(mask.grid) | target.same_voxels(mask.grid)) & mask.present
    return _half(onto(mask.voxels, target.into(mask.grid), target.shape, same=same, unless=absent))


def _half(share: Value) -> Value:
    return share.cast("float32") >= np.float32(HALF)


def _box(tape: Tape, tumour: Value, known: Value, shape: Value, spec: BundleSpec) -> tuple[Value, Value]:
    """Begin and extent of what is looked at, 3 each: a tumour with its surroundings, or everything."""
    if not crops(spec):
        return tape.Identity([0, 0, 0]), shape
    first, last = bounds(tumour.at(0))
    window = list(spec.settings.window)
    context = [2 * int(CONTEXT * size) for size in window]
    extent = tape.Min(shape, tape.Max(last - first + context, window))
    begin = tape.Min(tape.Max((first + last - extent) / 2, 0), shape - extent)
    somewhere = tape.ReduceMax(tumour, keepdims=0) >= HALF
    there = somewhere & known
    return tape.Where(there, begin, 0), tape.Where(there, extent, shape)


def _begins(tape: Tape, extent: Value, spec: BundleSpec) -> Value:
    """L W 3: where windows of each look begin in the box with its margins, upright."""
    upright, mirrored = zip(
        *(_begins_along(tape, extent.at(axis), size, spec) for axis, size in enumerate(spec.settings.window)),
        strict=True,
    )
    return tape.stacked(
        [
            _every_combination(tape, [(upright if turn > 0 else mirrored)[axis] for axis, turn in enumerate(look)])
            for look in looks_of(spec)
        ]
    )


def _begins_along(tape: Tape, extent: Value, size: int, spec: BundleSpec) -> tuple[Value, Value]:
    """Of one axis, of the case and of its mirror image, whose odd voxel of padding MONAI puts on the same side."""
    step = max(1, int(size * (1 - spec.inference.overlap)))
    missing = tape.Max(size - extent, 0)
    free = extent + missing - size
    count = (free + (step - 1)) / step + 1
    begins = tape.Min(tape.Range(0, count, 1) * step, free)
    odd = missing - missing / 2 * 2
    return begins + odd, free - begins


def _every_combination(tape: Tape, begins: Sequence[Value]) -> Value:
    sides = tape.Concat(*(tape.Shape(part) for part in begins), axis=0)
    spread = [
        tape.Expand(part.reshaped(*(-1 if other == axis else 1 for other in range(3))), sides)
        for axis, part in enumerate(begins)
    ]
    return tape.stacked(spread, axis=3).reshaped(-1, 3)


def _covariates(tape: Tape, settings: PrepareSettings) -> None:
    given = tape.input("given", "float64", (len(settings.terms),))
    parts = [_columns(given.part([place], [place + 1], (0,)), term) for place, term in enumerate(settings.terms)]
    values, known = (tape.Concat(*side, axis=0) for side in zip(*parts, strict=True))
    if settings.missing != "indicator":
        if settings.joint is not None:
            values = _completed(values, known, np.array(settings.joint.mean), np.array(settings.joint.covariance))
        known = known | True
    columns = len(settings.covariate_columns)
    tape.output("covariates", tape.Unsqueeze(values, [0]), "float32", (1, columns))
    tape.output("covariates_known", tape.Unsqueeze(known, [0]), "float32", (1, columns))


def _columns(value: Value, term: CovariateTerm) -> tuple[Value, Value]:
    """Columns of one covariate, standardised, 0 where not known, and which are known, bool."""
    tape = value.tape
    if term.kind == "category":
        raw = tape.Equal(value, list(term.levels[1:])).cast("float64")
        known = tape.ReduceMax(tape.Equal(value, list(term.levels)).cast("int64"), [0], keepdims=1).cast("bool")
    else:
        raw = tape.Log(tape.Max(value + term.offset, SMALLEST)) if term.kind == "log" else value
        known = tape.Not(tape.IsNaN(value))
    columns = len(term.means)
    scaled = (raw - list(term.means)) / list(term.sds)
    return tape.Where(known, scaled, [0.0] * columns), tape.Expand(known, [columns])


def _completed(values: Value, known: Value, mean: np.ndarray, covariance: np.ndarray) -> Value:
    """Conditional means of a joint normal, by conditioning on the known columns one after another."""
    tape = values.tape
    expected, spread = tape.Identity(mean), tape.Identity(covariance)
    for place in range(len(mean)):
        row = spread.at(place)
        gain = tape.Where(known.at(place), row / row.at(place), 0.0)
        expected = expected + gain * (values.at(place) - expected.at(place))
        spread = spread - gain.reshaped(-1, 1) * row.reshaped(1, -1)
    return tape.Where(known, values, expected)
